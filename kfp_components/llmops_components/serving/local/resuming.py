"""A service after a restart of its machine: what is gone of it is started again, at the same address."""

from __future__ import annotations

from typing import Any

from llmops_components.serving.local.gateway_process import GatewayProcess
from llmops_components.serving.local.home import ServiceHome
from llmops_components.serving.local.traffic import main_revision
from llmops_components.state_files import unreadable


def resume_service(home: ServiceHome, found: dict[str, Any]) -> bool:
    """Start what is gone of a service that has traffic.

    Args:
        home: The service.
        found: Gets its ``url``, as soon as its gateway runs.

    Returns:
        Whether anything was gone.
    """
    with home.locked():
        gateway, routes = GatewayProcess(home), home.routes()
        if routes and not (home.path / "service.json").exists():
            raise unreadable(
                home.path / "service.json",
                "it is missing, or a link to nothing. It says who may ask the service and at which address, so nothing of "
                "the service was started. Put it back, or deploy the model again, which writes it anew",
            )
        gone = [route for route in routes if not home.routed(route).is_running]
        if not routes or not (gone or not gateway.is_running):
            return False
        try:
            found["url"] = gateway.ensure(None, _access_file(home, routes))["url"]
            for route in gone:
                revision = home.routed(route)
                revision.restart(home.secret_file())
                route |= revision.route(route["weight"])
        finally:
            home.write_routes(routes)
    return True


def _access_file(home: ServiceHome, routes: list[dict[str, Any]]) -> str | None:
    """Who may ask a service that had traffic; where that cannot be told, an error, and not everybody."""
    noted = home.readable_service().get("access_file")
    return noted if noted is not None else main_revision(home, routes).facts().get("access_file")
