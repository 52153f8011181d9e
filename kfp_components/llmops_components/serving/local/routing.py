"""Which revision answers a request, and who may ask: as the file of routes says at that moment."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops_components.serving.http.door import Policy
from llmops_components.serving.local.routes import read_routes
from llmops_components.state_files import StateFileError

logger = logging.getLogger(__name__)


class Routes:
    """The revisions that get traffic, as the file says now.

    Args:
        path: ``routes.json`` in the service's directory: ``{"routes": [{"revision", "url", "weight", "timeout_seconds", "allowed_hosts",
            "allowed_origins"}, ...]}``, the last three where they are not the default; replaced by renaming.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.routes: list[dict[str, Any]] = []
        self._version: tuple[int, int] | None = None
        self._credit: Counter[str] = Counter()
        self._policy = Policy()

    def reload(self) -> None:
        """Read the file again if it is another one than before; one that cannot be read changes nothing."""
        try:
            found = os.stat(self.path)  # noqa: PTH116  half the cost of Path.stat(), and on every request
        except FileNotFoundError:
            self.routes, self._version, self._policy = [], None, Policy()
            return
        version = (found.st_ino, found.st_mtime_ns)
        if version == self._version:
            return
        self._version = version
        try:
            self.routes = [route for route in read_routes(self.path) if route["weight"] > 0]
        except StateFileError as error:  # said once for each such file
            logger.error("The routes stay as they were: %s", error)
            return
        self._policy = Policy(
            hosts=frozenset(name.lower() for name in self._names("allowed_hosts")),
            origins=tuple(self._names("allowed_origins")),
        )
        self._credit.clear()

    def _names(self, rule: str) -> list[str]:
        return [name for route in self.routes for name in route.get(rule) or ()]

    def directory(self, route: Mapping[str, Any]) -> Path:
        """The directory of a revision, with the lock that its process holds.

        Args:
            route: One of the routes.
        """
        return self.path.parent / "revisions" / route["revision"]

    def policy(self) -> Policy:
        """Who may ask: what any revision with traffic allows."""
        self.reload()
        return self._policy

    def named(self, revision: str) -> list[dict[str, Any]]:
        """The route to one revision, if it has any of the requests.

        Args:
            revision: Its name.
        """
        self.reload()
        return [route for route in self.routes if route["revision"] == revision]

    def ordered(self) -> list[dict[str, Any]]:
        """Whom to ask, and whom next if that one cannot be reached.

        Smooth weighted round-robin: of 100 requests exactly the weights' shares, evenly mixed.
        """
        self.reload()
        if not self.routes:
            return []
        for route in self.routes:
            self._credit[route["revision"]] += route["weight"]
        chosen = max(self.routes, key=lambda route: self._credit[route["revision"]])
        self._credit[chosen["revision"]] -= sum(route["weight"] for route in self.routes)
        return [chosen, *(route for route in self.routes if route is not chosen)]
