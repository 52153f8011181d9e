"""A service on disk.

Under ``DIR/services/<namespace>/<name>/``::

    service.json         name, stable URL and port, and the revision that had all of the requests last
    secret               by which a revision knows its gateway and the controller, and answers nobody else
    manifest.json        manifest of the revision with the most traffic
    routes.json          where the gateway sends requests
    gateway/             lock, log.txt, process.json, NAME.audit.jsonl
    revisions/00001/     manifest.json, state.json, facts.json, history.json, lock, log.txt, process.json

Everything that a service is, is read from these files and the locks beside them, so a crash of anything at any time leaves
nothing to repair. What cannot be read is a failed revision, which says so; the others, and other services, go on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from llmops_components.errors import InputError
from llmops_components.serving.detached import processes
from llmops_components.serving.local.files import read_or_empty, write_private
from llmops_components.serving.local.revisions import Revision
from llmops_components.serving.local.routes import read_routes
from llmops_components.state_files import StateFileError, private_directory, read_json

FINISHED_REVISIONS_KEPT = 10
GOOD_REVISIONS_KEPT = 3  # to go back to, however many have failed since
SERVICE_SHAPE = {
    "name": str,
    "namespace": str,
    "url": str,
    "port": int,
    "as_of": str,
    "next_revision": int,
    "access_file": str,
    "knows_secret": bool,
    "counts_answers": bool,
    "stable": str,
}


class ServiceNotFoundError(InputError):
    """There is no such service or revision."""


class ServiceHome:
    """The directory of a service.

    Args:
        path: Where it is, or will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.namespace = path.parent.name

    @property
    def is_service(self) -> bool:
        """Whether there is one."""
        return os.path.lexists(self.path / "service.json") or bool(self.numbered())

    def locked(self) -> AbstractContextManager[None]:
        """Let one process at a time change the service."""
        return processes.exclusive(self.path / "lock")

    def numbered(self) -> list[Revision]:
        """The revisions, those included that were never complete."""
        found = sorted(path for path in (self.path / "revisions").glob("[0-9]" * 5) if path.is_dir())
        return [Revision(path) for path in found]

    def revisions(self) -> list[Revision]:
        """The revisions, the oldest first."""
        return [each for each in self.numbered() if os.path.lexists(each.directory / "facts.json")]

    def revision(self, name: str) -> Revision:
        """One of the revisions.

        Args:
            name: Its name.
        """
        found = next((each for each in self.revisions() if each.name == name), None)
        if found is None:
            names = ", ".join(each.name for each in self.revisions()) or "none"
            raise ServiceNotFoundError(f"Service {self.name!r} has no revision {name!r}. It has: {names}.")
        return found

    def without_traffic(self, name: str) -> Revision:
        """One of the revisions, which has no traffic.

        Args:
            name: Its name.
        """
        found = self.revision(name)
        if name in {route["revision"] for route in self.routes()}:
            raise InputError(
                f"Revision {name} of {self.name} has traffic. Send it to another revision first, or delete the service."
            )
        return found

    def new_revision(self) -> Revision:
        """Make the directory of a revision, whose number no other one has had."""
        known = self.readable_service()  # what cannot be read is written anew
        number = 1 + max((int(each.name) for each in self.numbered()), default=0)
        number = max(number, known.get("next_revision") or 1)
        directory = private_directory(self.path / "revisions") / f"{number:05d}"
        directory.mkdir()
        service = {"name": self.name, "namespace": self.namespace, "url": None, "port": None} | known
        self.write_service(service | {"next_revision": number + 1})
        return Revision(directory)

    def remove_old_revisions(self) -> None:
        """Remove the directories of revisions that ended long ago."""
        try:
            # Not all of them run after a restart of the machine.
            routed = {route["revision"] for route in self.routes()}
        except StateFileError:
            return  # any of them may have traffic
        finished = [each for each in self.revisions() if each.name not in routed and not each.is_running]
        good = sorted(
            (each for each in finished if each.is_good), key=lambda each: each.history()["served_at"]
        )
        for each in finished[:-FINISHED_REVISIONS_KEPT]:
            if each not in good[-GOOD_REVISIONS_KEPT:]:
                shutil.rmtree(each.directory)

    def readable_service(self) -> dict[str, Any]:
        """What ``service.json`` says, as far as it can be read."""
        return read_or_empty(self.path / "service.json", SERVICE_SHAPE)

    def write_service(self, service: dict[str, Any]) -> None:
        """Write ``service.json``.

        Args:
            service: What it is to say.
        """
        write_private(self.path / "service.json", service)

    def routes(self) -> list[dict[str, Any]]:
        """Where the gateway sends requests.

        Raises:
            StateFileError: That cannot be read.
        """
        return read_routes(self.path / "routes.json")

    def readable_routes(self) -> list[dict[str, Any]]:
        """The same, for who can do without routes that cannot be read."""
        with contextlib.suppress(StateFileError):
            return self.routes()
        return []

    def write_routes(self, routes: list[dict[str, Any]]) -> None:
        """Write ``routes.json``; the gateway takes it over with the next request.

        Args:
            routes: Routes of revisions, see :meth:`~llmops_components.serving.local.revisions.Revision.route`.
        """
        write_private(self.path / "routes.json", {"routes": routes})

    def routed(self, route: dict[str, Any]) -> Revision:
        """The revision that a route leads to.

        Args:
            route: The route.
        """
        return Revision(self.path / "revisions" / str(route["revision"]))

    def secret_file(self) -> Path:
        """The file with the service's secret, which is made when it is first needed."""
        file = self.path / "secret"
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as handle:
                handle.write(secrets.token_urlsafe(32) + "\n")
        return file

    def problems(self) -> list[str]:
        """Which files of the service itself cannot be read."""
        found = []
        for read in (lambda: read_json(self.path / "service.json", SERVICE_SHAPE), self.routes):
            try:
                read()
            except StateFileError as error:
                found.append(str(error))
        return found

    def describe(self, revision: Revision) -> dict[str, Any]:
        """What callers are told of a revision.

        Args:
            revision: The revision.
        """
        facts, history = revision.readable_facts(), revision.history()
        weights = {route["revision"]: route["weight"] for route in self.readable_routes()}
        return {
            "name": self.name,
            "namespace": self.namespace,
            "revision": revision.name,
            **revision.state(),
            "traffic": weights.get(revision.name, 0),
            "url": facts.get("url"),
            "openai_url": f"{facts.get('url')}/openai/v1",
            "model_name": facts.get("model_name"),
            "digest": facts.get("digest"),
            "as_of": history.get("as_of"),
            "served_at": history.get("served_at"),
            "is_given_up": revision.is_given_up,
            "ignored": facts.get("ignored") or [],
            "directory": str(revision.directory),
        }
