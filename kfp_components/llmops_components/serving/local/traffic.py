"""Which revisions of a service get its requests, and which of the others have to go then."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from llmops_components.errors import InputError, SettingError
from llmops_components.serving.local.gateway_process import GatewayProcess
from llmops_components.serving.local.home import ServiceHome
from llmops_components.serving.local.revisions import Revision


def routes_for(home: ServiceHome, shares: Mapping[str, int]) -> list[dict[str, Any]]:
    """The routes that share a service's requests out.

    Args:
        home: The service.
        shares: Percent of the requests by revision; the sum is 100.
    """
    routes = [_checked_route(home, revision, share) for revision, share in shares.items()]
    if sum(route["weight"] for route in routes) != 100 or min(shares.values()) < 0:
        raise SettingError(
            f"Traffic of {home.name} must be percentages that add up to 100, not {dict(shares)}."
        )
    return [route for route in routes if route["weight"]]


def _checked_route(home: ServiceHome, name: str, share: int) -> dict[str, Any]:
    revision = home.revision(name)
    state = revision.state()
    if share and state["state"] != "READY":
        raise InputError(
            f"Cannot send traffic to revision {name} of {home.name}: it is {state['state']}, not READY. "
            f"{state.get('error', '')}".strip()
        )
    return revision.route(share)


def main_revision(home: ServiceHome, routes: list[dict[str, Any]]) -> Revision:
    """The revision that gets most of the requests.

    Args:
        home: The service.
        routes: Its routes, one at least.
    """
    return home.routed(max(routes, key=lambda route: route["weight"]))


def stable_revision(home: ServiceHome) -> str | None:
    """The revision that had all of the requests last: what a canary's share goes back to. None before any had some.

    Where it has none of them any more, somebody has shared them out otherwise, and it is the one with the most.

    Args:
        home: The service.
    """
    weights = {str(route["revision"]): route["weight"] for route in home.readable_routes()}
    stable = home.readable_service().get("stable")
    if stable in weights or not weights:
        return stable
    return max(weights, key=lambda revision: weights[revision])


def serves_newer(home: ServiceHome, former: Mapping[str, int], as_of: str) -> bool:
    """Whether requests are answered by a model of a newer date.

    Args:
        home: The service.
        former: Percent of the requests by revision, as it is.
        as_of: Date of another model.
    """
    if not GatewayProcess(home).is_running:
        return False  # nobody is answered, whatever runs behind it
    serving = [each for each in home.revisions() if each.name in former]
    newest = home.readable_service().get("as_of") or ""
    return newest > as_of and any(each.state()["state"] == "READY" for each in serving)


def note_former(home: ServiceHome, former: Mapping[str, int]) -> None:
    """Note of the revision that has all of the requests since when, where that was not noted: by a release that kept no history.

    Args:
        home: The service.
        former: Percent of the requests by revision, as it is.
    """
    unnoted = [each for each in home.revisions() if former == {each.name: 100} and not each.history()]
    if unnoted:
        since = datetime.fromtimestamp((home.path / "routes.json").stat().st_mtime, UTC).isoformat()
        for each in unnoted:
            each.note(served_at=since, as_of=home.readable_service().get("as_of"))


def note_served(
    home: ServiceHome, routes: list[dict[str, Any]], former: Mapping[str, int], as_of: str | None
) -> None:
    """Note of a revision that has got all of the requests, when, and of which date its model is; of a canary the date alone.

    Args:
        home: The service.
        routes: Its routes.
        former: Percent of the requests by revision, as it was.
        as_of: Date of the model.
    """
    if len(routes) > 1:
        stable = stable_revision(home)
        for canary in (route for route in routes if route["revision"] != stable and as_of is not None):
            home.routed(canary).note(as_of=as_of)
        return
    (route,) = routes
    since = {} if former == {route["revision"]: 100} else {"served_at": now()}
    dated = {} if as_of is None else {"as_of": as_of}
    if since or dated:
        home.routed(route).note(**since, **dated)


def now() -> str:
    """The time, in ISO 8601 and UTC."""
    return datetime.now(UTC).isoformat()


def without_requests(
    home: ServiceHome, former: Mapping[str, int], routed: set[str], *, keep_previous: bool
) -> list[Revision]:
    """Running revisions that get no requests any more; those newer than all that get some are on their way in.

    Args:
        home: The service.
        former: Percent of the requests by revision, as it was.
        routed: Names of the revisions that get requests now.
        keep_previous: Whether the one that had most of them is left out.
    """
    kept = {max(former, key=lambda revision: former[revision])} if keep_previous and former else set()
    newest = max(routed)
    return [
        each
        for each in home.revisions()
        if each.name not in routed | kept and (each.name in former or each.name < newest) and each.is_running
    ]
