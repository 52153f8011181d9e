"""Where a service's gateway sends requests: the file ``routes.json``, which the controller writes and the gateway reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmops_components.state_files import read_json, unreadable

# Of a revision, where they are not the default.
RULES_SHAPE = {"timeout_seconds": (int, float), "allowed_hosts": [str], "allowed_origins": [str]}
ROUTES_SHAPE = {"routes": [{"revision": str, "url": str, "weight": int, **RULES_SHAPE}]}


def read_routes(path: Path) -> list[dict[str, Any]]:
    """Revision, url, weight and rules of each route; none without a file.

    Args:
        path: ``routes.json``.

    Raises:
        StateFileError: The file cannot be read, or lacks something.
    """
    routes: list[dict[str, Any]] = read_json(path, ROUTES_SHAPE).get("routes") or []
    if not all(route.get(name) is not None for route in routes for name in ("revision", "url", "weight")):
        raise unreadable(path, "a route lacks its revision, url or weight")
    return routes
