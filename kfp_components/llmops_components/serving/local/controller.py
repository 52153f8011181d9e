"""Services on this machine: what KServe's controller does on a cluster, with detached processes.

As a library :class:`LocalServing`; as a command ``python -m llmops_components.serving.local``, see
:mod:`~llmops_components.serving.local.command`. What a service is on disk says :mod:`~llmops_components.serving.local.home`.

A revision is one predictor process. Applying a manifest starts one and touches no traffic; ``traffic`` switches over.
Imports little, because callers run this as a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from typing import Any

from llmops_components.reporting import words_of
from llmops_components.serving.access.secret import GATEWAY_HEADER, read_secret
from llmops_components.serving.detached import processes
from llmops_components.serving.http.asking import SMOKE_MAX_TOKENS, ask
from llmops_components.serving.local.files import read_or_empty, write_private
from llmops_components.serving.local.gateway_process import GatewayProcess
from llmops_components.serving.local.home import ServiceHome, ServiceNotFoundError
from llmops_components.serving.local.manifest import check_name, manifest_digest, read_manifest
from llmops_components.serving.local.resuming import resume_service
from llmops_components.serving.local.revisions import LIVING_STATES, Revision
from llmops_components.serving.local.tally import NO_ANSWERS
from llmops_components.serving.local.traffic import (
    main_revision,
    note_former,
    note_served,
    now,
    routes_for,
    serves_newer,
    stable_revision,
    without_requests,
)
from llmops_components.uris import local_path

DRAIN_SECONDS = 60


class LocalServing:
    """Services below one directory.

    Args:
        root: Directory; made when needed.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = local_path(root, "root").expanduser().absolute()

    def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Start a revision and return at once; the same manifest again returns the revision that it has.

        Args:
            manifest: An ``InferenceService``.

        Returns:
            The revision's facts: state, url, ignored fields of the manifest.
        """
        spec = read_manifest(manifest)
        home = self._home(spec.name, spec.namespace)
        digest = manifest_digest(manifest)
        with home.locked():
            for revision in reversed(home.revisions()):
                is_same = revision.readable_facts().get("digest") == digest
                if is_same and revision.state()["state"] in LIVING_STATES:
                    return home.describe(revision) | {"created": False}
            home.remove_old_revisions()
            revision = home.new_revision()
            revision.start(manifest, digest, home.secret_file())
            return home.describe(revision) | {"created": True}

    def names(self, namespace: str = "default") -> list[str]:
        """Names of all services of a namespace.

        Args:
            namespace: The namespace.
        """
        homes = map(ServiceHome, (self.root / "services" / check_name(namespace, "namespace")).glob("*"))
        return sorted(home.name for home in homes if home.is_service)

    def status(self, name: str, namespace: str = "default") -> dict[str, Any]:
        """The service and its revisions.

        Args:
            name: Service.
            namespace: Its namespace.
        """
        home = self._existing(name, namespace)
        service = home.readable_service()
        gateway = GatewayProcess(home)
        is_running = gateway.is_running
        answered = gateway.answered() if is_running else None
        problems = home.problems()
        return {
            "name": name,
            "namespace": namespace,
            "url": service.get("url"),
            "openai_url": f"{service['url']}/openai/v1" if service.get("url") else None,
            "gateway": "RUNNING" if is_running else "STOPPED",
            "as_of": service.get("as_of"),
            "stable": stable_revision(home),
            "revisions": [
                home.describe(revision)
                | {"answered": None if answered is None else answered.get(revision.name, NO_ANSWERS)}
                for revision in home.revisions()
            ],
            **({"problems": problems} if problems else {}),
        }

    def traffic(
        self,
        name: str,
        shares: Mapping[str, int],
        *,
        namespace: str = "default",
        port: int | None = None,
        keep_previous: bool = False,
        drain_seconds: float = DRAIN_SECONDS,
        as_of: str | None = None,
        only_if_newer: bool = True,
    ) -> dict[str, Any]:
        """Send requests to these revisions, then stop the ones that lost theirs, once they have answered what they had.

        Revisions newer than all of these are left alone: they are on their way in. With ``as_of`` nothing changes where a
        model of a newer date serves, unless ``only_if_newer`` is off.

        Args:
            name: Service.
            shares: Percent of the requests by revision; the sum is 100.
            namespace: The service's namespace.
            port: Port of the stable address; any free one by default, and the same one ever after.
            keep_previous: Leave the revision running that had the most traffic, for a quick way back.
            drain_seconds: Longest wait for answers under way.
            as_of: Date or partition that their model is of, as text that sorts; the service has it from then on. Where they share
                the requests with the stable revision, it is noted of the others alone.
            only_if_newer: Leave a model of a newer date in its place.
        """
        home = self._existing(name, namespace)
        with home.locked():
            routes = routes_for(home, shares)
            former = {route["revision"]: route["weight"] for route in home.readable_routes()}
            if only_if_newer and as_of is not None and serves_newer(home, former, as_of):
                return self.status(name, namespace)
            self._route(home, routes, former, port=port, as_of=as_of)
            routed = {route["revision"] for route in routes}
            leaving = without_requests(home, former, routed, keep_previous=keep_previous)
            self._stop_without_loss(home, leaving, drain_seconds)
            return self.status(name, namespace)

    def withdraw(
        self,
        name: str,
        revision: str,
        *,
        namespace: str = "default",
        drain_seconds: float = DRAIN_SECONDS,
        is_bad: bool = True,
    ) -> dict[str, Any]:
        """Give up a revision on its way in: what share it has goes back to the stable one, and it is stopped.

        Nothing changes for the stable revision itself. Where that cannot take the requests this is refused.

        Args:
            name: Service.
            revision: Revision.
            namespace: The service's namespace.
            drain_seconds: Longest wait for answers under way.
            is_bad: Note that it is nothing to go back to.

        Returns:
            The service.
        """
        home = self._existing(name, namespace)
        with home.locked():
            given_up = home.revision(revision)
            stable = stable_revision(home)
            former = {route["revision"]: route["weight"] for route in home.readable_routes()}
            if revision == stable:
                return self.status(name, namespace)
            if revision in former:
                if stable is None:  # it serves, and there is nothing that could instead
                    return self.status(name, namespace)
                self._route(home, routes_for(home, {stable: 100}), former)
            self._stop_without_loss(home, [given_up], drain_seconds)
            if is_bad:
                given_up.note(given_up_at=now())
            return self.status(name, namespace)

    def _route(
        self,
        home: ServiceHome,
        routes: list[dict[str, Any]],
        former: Mapping[str, int],
        *,
        port: int | None = None,
        as_of: str | None = None,
    ) -> None:
        """Share the requests out from now on."""
        main = main_revision(home, routes)
        service = GatewayProcess(home).ensure(port, main.facts().get("access_file"))
        stable = stable_revision(home) if former else None
        if len(routes) == 1:
            stable = routes[0]["revision"]
        noted = {"as_of": as_of if len(routes) == 1 else None, "stable": stable}
        home.write_service(service | {key: value for key, value in noted.items() if value is not None})
        note_former(home, former)
        home.write_routes(routes)
        note_served(home, routes, former, as_of)
        write_private(home.path / "manifest.json", read_or_empty(main.directory / "manifest.json", {}))

    @staticmethod
    def _stop_without_loss(home: ServiceHome, leaving: list[Revision], drain_seconds: float) -> None:
        """Stop revisions without a route once they have answered what they had."""
        GatewayProcess(home).drain({revision.name for revision in leaving}, drain_seconds)
        for revision in leaving:
            revision.stop()

    def ask(
        self,
        name: str,
        revision: str,
        prompt: str,
        *,
        namespace: str = "default",
        max_tokens: int = SMOKE_MAX_TOKENS,
    ) -> str:
        """Ask one revision a question, with traffic or without; it is neither counted nor noted.

        Args:
            name: Service.
            revision: Revision.
            prompt: The question.
            namespace: The service's namespace.
            max_tokens: Longest answer.
        """
        home = self._existing(name, namespace)
        asked = home.revision(revision)
        facts = asked.facts()
        return ask(
            f"{facts['url']}/openai/v1",
            facts["model_name"],
            prompt,
            max_tokens=max_tokens,
            headers={GATEWAY_HEADER: read_secret(home.secret_file())},
            lives=lambda: asked.is_running,
        )

    def resume(self) -> list[dict[str, Any]]:
        """Start what is gone of the services that have traffic again, as after a restart of the machine.

        Returns at once; a revision takes requests again when it has loaded its model. The stable address stays.

        Returns:
            Each service that was started: name, namespace, url, or the error.
        """
        resumed = []
        for home in map(ServiceHome, sorted(self.root.glob("services/*/*"))):
            if not home.is_service:
                continue
            service = {"name": home.name, "namespace": home.namespace}
            try:
                if not resume_service(home, service):
                    continue
            except Exception as error:  # whatever it is, the other services come back
                service["error"] = words_of(error)
            resumed.append(service)
        return resumed

    def start_revision(self, name: str, revision: str, *, namespace: str = "default") -> dict[str, Any]:
        """Start a former revision again and return at once; touches no traffic. One that runs is left alone.

        Args:
            name: Service.
            revision: Revision.
            namespace: The service's namespace.
        """
        home = self._existing(name, namespace)
        with home.locked():
            found = home.revision(revision)
            is_new = found.start_again(home.secret_file())
            return home.describe(found) | {"created": is_new}

    def stop_revision(self, name: str, revision: str, *, namespace: str = "default") -> dict[str, Any]:
        """Stop one revision that has no traffic; its directory and log stay.

        Args:
            name: Service.
            revision: Revision.
            namespace: The service's namespace.
        """
        home = self._existing(name, namespace)
        with home.locked():
            stopped = home.without_traffic(revision)
            stopped.stop()
            return home.describe(stopped)

    def delete(self, name: str, *, namespace: str = "default", revision: str | None = None) -> dict[str, Any]:
        """Stop a service, or one revision that has no traffic, and remove its directory.

        Args:
            name: Service.
            namespace: Its namespace.
            revision: Only this revision.
        """
        home = self._home(name, namespace)
        if not home.is_service and home.path.is_dir():
            shutil.rmtree(home.path)  # what is left of a deletion that was interrupted
        home = self._existing(name, namespace)
        with home.locked():
            if revision is not None:
                directory = home.without_traffic(revision).directory
                processes.stop(directory)
                shutil.rmtree(directory)
                return {"name": name, "namespace": namespace, "revision": revision, "deleted": True}
            GatewayProcess(home).stop()
            for each in home.numbered():
                processes.stop(each.directory)
            shutil.rmtree(home.path)
        with contextlib.suppress(OSError):  # other services may be there
            home.path.parent.rmdir()
        return {"name": name, "namespace": namespace, "deleted": True}

    def logs(
        self, name: str, *, namespace: str = "default", revision: str | None = None, lines: int = 100
    ) -> dict[str, Any]:
        """The end of a revision's log.

        Args:
            name: Service.
            namespace: Its namespace.
            revision: Revision; the newest by default.
            lines: How many lines at most.
        """
        home = self._existing(name, namespace)
        newest = next((each.name for each in reversed(home.revisions())), "")
        found = home.revision(revision or newest)
        return {
            "name": name,
            "namespace": namespace,
            "revision": found.name,
            "path": str(found.directory / "log.txt"),
            "log": processes.log_tail(found.directory, lines),
        }

    def _home(self, name: str, namespace: str) -> ServiceHome:
        return ServiceHome(self.root / "services" / check_name(namespace, "namespace") / check_name(name))

    def _existing(self, name: str, namespace: str) -> ServiceHome:
        home = self._home(name, namespace)
        if not home.is_service:
            raise ServiceNotFoundError(
                f"There is no service {name!r} in namespace {namespace!r} under {self.root}."
            )
        return home
