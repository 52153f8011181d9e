"""Services on this machine: what KServe's controller does on a cluster, with detached processes.

As a library :class:`LocalServing`, and as a command that prints one JSON object:

    python -m llmops_components.serving.local apply manifest.json --root DIR
    python -m llmops_components.serving.local status my-model --root DIR
    python -m llmops_components.serving.local traffic my-model 00002=100 --root DIR
    python -m llmops_components.serving.local logs|delete my-model --root DIR
    python -m llmops_components.serving.local ask my-model --root DIR < question.json
    python -m llmops_components.serving.local resume --root DIR

On disk, under ``DIR/services/<namespace>/<name>/``::

    service.json         name, stable URL and port
    secret               by which a revision knows its gateway and this controller, and answers nobody else
    manifest.json        manifest of the revision with the most traffic
    routes.json          where the gateway sends requests
    gateway/             lock, log.txt, process.json, NAME.audit.jsonl
    revisions/00001/     manifest.json, state.json, facts.json, lock, log.txt, process.json

A revision is one predictor process. Applying a manifest starts one and touches no traffic; ``traffic`` switches over.
Everything that a revision is, is read from its directory and its lock, so a crash of anything at any time leaves
nothing to repair. What cannot be read is a failed revision, which says so; the others, and other services, go on. Imports little,
because callers run this as a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import secrets
import shutil
import socket
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops_components.errors import InputError, SettingError, UnavailableError
from llmops_components.json_text import parse_json
from llmops_components.reporting import words_of
from llmops_components.serving.access.secret import GATEWAY_HEADER, read_secret
from llmops_components.serving.access.settings import read_access_file
from llmops_components.serving.detached import processes
from llmops_components.serving.http.asking import SMOKE_MAX_TOKENS, ask, opener_to_process
from llmops_components.serving.local.manifest import (
    NAMES_READ,
    ServiceSpec,
    check_name,
    manifest_digest,
    read_manifest,
)
from llmops_components.serving.local.routes import RULES_SHAPE, read_routes
from llmops_components.serving.local.uses import note_use
from llmops_components.state_files import (
    StateFileError,
    private_directory,
    read_json,
    unreadable,
    write_json,
)
from llmops_components.uris import local_path

HOST = "127.0.0.1"
DRAIN_SECONDS = 60
GATEWAY_START_SECONDS = 15
FINISHED_REVISIONS_KEPT = 10
STATES = ("STARTING", "READY", "FAILED", "STOPPED")
SERVICE_SHAPE = {
    "name": str,
    "namespace": str,
    "url": str,
    "port": int,
    "as_of": str,
    "next_revision": int,
    "access_file": str,
    "knows_secret": bool,
}
FACTS_SHAPE = {
    "digest": str,
    "url": str,
    "model_name": str,
    "ignored": [str],
    "access_file": str,
    **RULES_SHAPE,
}
STATE_SHAPE = {"state": str, "error": str}
_MAX_STATUS_BYTES = 1 << 20
# Set for the processes of a pipeline run; a service is not part of the run that started it.
_OF_A_RUN = {"LLMOPS_RUN_DIR", "TMPDIR"}


class ServiceNotFoundError(InputError):
    """There is no such service or revision."""


class PortTakenError(InputError):
    """Something else listens on the port that was asked for."""


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
        with processes.exclusive(home / "lock"):
            for directory in reversed(_revisions(home)):
                known = _readable(directory / "facts.json", FACTS_SHAPE)
                if known.get("digest") == digest and _state(directory)["state"] in ("STARTING", "READY"):
                    return self._describe(home, directory) | {"created": False}
            _prune(home)
            known = _readable(home / "service.json", SERVICE_SHAPE)  # what cannot be read is written anew
            number = 1 + max((int(path.name) for path in _numbered(home)), default=0)
            number = max(number, known.get("next_revision") or 1)
            directory = private_directory(home / "revisions") / f"{number:05d}"
            directory.mkdir()
            service = {"name": spec.name, "namespace": spec.namespace, "url": None, "port": None} | known
            _write(home / "service.json", service | {"next_revision": number + 1})
            self._start_predictor(directory, manifest, digest)
            return self._describe(home, directory) | {"created": True}

    def _start_predictor(self, directory: Path, manifest: dict[str, Any], digest: str) -> None:
        spec = read_manifest(manifest)
        with socket.socket() as sock:
            sock.bind((HOST, 0))  # bound here and used by the predictor: nobody can take the port in between
            facts = {
                "digest": digest,
                "url": f"http://{HOST}:{sock.getsockname()[1]}",
                "model_name": spec.arguments["model_name"],
                "ignored": list(spec.ignored),
                "access_file": str(spec.access_file) if spec.access_file else None,
            } | _rules(spec)
            _write(directory / "manifest.json", manifest)
            _write(directory / "facts.json", facts)
            _write(directory / "state.json", {"state": "STARTING"})
            note_use(spec.model_dir, directory)
            command = [sys.executable, "-m", "llmops_components.serving.predictor"]
            command += ["--model_dir", str(spec.model_dir), "--fd", str(sock.fileno())]
            command += ["--state_file", str(directory / "state.json")]
            command += ["--log_file", str(directory / "log.txt")]
            command += ["--gateway_secret_file", str(_secret_file(directory.parent.parent))]
            command += [f"--{key}={value}" for key, value in spec.arguments.items()]
            processes.start(directory, command, environment=_environment(spec.env), inherited=[sock.fileno()])

    def status(self, name: str, namespace: str = "default") -> dict[str, Any]:
        """The service and its revisions.

        Args:
            name: Service.
            namespace: Its namespace.
        """
        home = self._existing(name, namespace)
        service = _readable(home / "service.json", SERVICE_SHAPE)
        running = processes.is_running(home / "gateway")
        return {
            "name": name,
            "namespace": namespace,
            "url": service.get("url"),
            "openai_url": f"{service['url']}/openai/v1" if service.get("url") else None,
            "gateway": "RUNNING" if running else "STOPPED",
            "as_of": service.get("as_of"),
            "revisions": [self._describe(home, directory) for directory in _revisions(home)],
            **_problems(home),
        }

    def _describe(self, home: Path, directory: Path) -> dict[str, Any]:
        facts = _readable(directory / "facts.json", FACTS_SHAPE)
        weights = {route["revision"]: route["weight"] for route in _known_routes(home)}
        return {
            "name": home.name,
            "namespace": home.parent.name,
            "revision": directory.name,
            **_state(directory),
            "traffic": weights.get(directory.name, 0),
            "url": facts.get("url"),
            "openai_url": f"{facts.get('url')}/openai/v1",
            "model_name": facts.get("model_name"),
            "digest": facts.get("digest"),
            "ignored": facts.get("ignored") or [],
            "directory": str(directory),
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
            as_of: Date or partition that their model is of, as text that sorts; the service has it from then on.
            only_if_newer: Leave a model of a newer date in its place.
        """
        home = self._existing(name, namespace)
        with processes.exclusive(home / "lock"):
            routes = [self._route(home, revision, share) for revision, share in shares.items()]
            if sum(route["weight"] for route in routes) != 100 or min(shares.values()) < 0:
                raise SettingError(
                    f"Traffic of {name} must be percentages that add up to 100, not {dict(shares)}."
                )
            routes = [route for route in routes if route["weight"]]
            former = {route["revision"]: route["weight"] for route in _known_routes(home)}
            if only_if_newer and as_of is not None and _serves_newer(home, former, as_of):
                return self.status(name, namespace)
            main = max(routes, key=lambda route: route["weight"])["revision"]
            service = self._ensure_gateway(home, port, _facts(home / "revisions" / main).get("access_file"))
            _write(home / "routes.json", {"routes": routes})
            if as_of is not None:
                _write(home / "service.json", service | {"as_of": as_of})
            _write(home / "manifest.json", _readable(home / "revisions" / main / "manifest.json", {}))

            routed = {route["revision"] for route in routes}
            kept = {max(former, key=lambda revision: former[revision])} if keep_previous and former else set()
            newest = max(routed)
            leaving = [
                directory
                for directory in _revisions(home)
                if directory.name not in routed | kept
                and (directory.name in former or directory.name < newest)
                and processes.is_running(directory)
            ]
            _drain(home, {directory.name for directory in leaving}, drain_seconds)
            for directory in leaving:
                _stop(directory)
            return self.status(name, namespace)

    def _route(self, home: Path, revision: str, share: int) -> dict[str, Any]:
        directory = self._revision(home, revision)
        state = _state(directory)
        if share and state["state"] != "READY":
            raise InputError(
                f"Cannot send traffic to revision {revision} of {home.name}: it is {state['state']}, not READY. "
                f"{state.get('error', '')}".strip()
            )
        return _entry(directory, share)

    def _ensure_gateway(self, home: Path, port: int | None, access_file: str | None) -> dict[str, Any]:
        service, directory = _readable(home / "service.json", SERVICE_SHAPE), home / "gateway"
        scheme = "http" if access_file is None or read_access_file(Path(access_file)).tls is None else "https"
        if processes.is_running(directory):
            is_same = service.get("access_file") == access_file and service.get("knows_secret")
            has_scheme = (service.get("url") or "").startswith(f"{scheme}:")
            if is_same and has_scheme and port in (None, service.get("port")):
                return service
            # Another port was asked for, others may ask, or nobody knows which it has: begin anew.
            processes.stop(directory)
        wanted = port or service.get("port") or 0
        sock = _listen(wanted, home.name)
        with sock:
            chosen = sock.getsockname()[1]
            service |= {"port": chosen, "url": f"{scheme}://{HOST}:{chosen}"}
            service |= {"access_file": access_file, "knows_secret": True}
            _write(home / "service.json", service)
            command = [sys.executable, "-m", "llmops_components.serving.local.gateway"]
            command += ["--routes", str(home / "routes.json"), "--fd", str(sock.fileno())]
            command += ["--log_file", str(directory / "log.txt")]
            command += [
                "--service",
                f"{home.parent.name}.{home.name}",
                "--secret-file",
                str(_secret_file(home)),
            ]
            command += [] if access_file is None else ["--access-file", access_file]
            processes.start(directory, command, environment=_environment({}), inherited=[sock.fileno()])
        deadline = time.monotonic() + GATEWAY_START_SECONDS
        while _gateway_status(home) is None:
            if not processes.is_running(directory) or time.monotonic() > deadline:
                tail = processes.log_tail(directory)
                processes.stop(directory, grace_seconds=1)
                raise UnavailableError(
                    f"The gateway of {home.name} did not start. The end of its log:\n{tail}"
                )
            time.sleep(0.05)
        return service

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
        directory = self._revision(home, revision)
        facts = _facts(directory)
        return ask(
            f"{facts['url']}/openai/v1",
            facts["model_name"],
            prompt,
            max_tokens=max_tokens,
            headers={GATEWAY_HEADER: read_secret(_secret_file(home))},
            lives=lambda: processes.is_running(directory),
        )

    def resume(self) -> list[dict[str, Any]]:
        """Start what is gone of the services that have traffic again, as after a restart of the machine.

        Returns at once; a revision takes requests again when it has loaded its model. The stable address stays.

        Returns:
            Each service that was started: name, namespace, url, or the error.
        """
        resumed = []
        for home in sorted(self.root.glob("services/*/*")):
            if not _is_service(home):
                continue
            service = {"name": home.name, "namespace": home.parent.name}
            try:
                is_started = self._resume(home, service)
            except Exception as error:  # whatever it is, the other services come back
                is_started = True
                service["error"] = words_of(error)
            if is_started:
                resumed.append(service)
        return resumed

    def _resume(self, home: Path, service: dict[str, Any]) -> bool:
        """Start what is gone of one service; returns whether anything was."""
        with processes.exclusive(home / "lock"):
            routes = _routes(home)
            if routes and not (home / "service.json").exists():
                raise unreadable(
                    home / "service.json",
                    "it is missing, or a link to nothing. It says who may ask the service and at which address, so nothing of "
                    "the service was started. Put it back, or deploy the model again, which writes it anew",
                )
            gone = [route for route in routes if not processes.is_running(_revision_of(home, route))]
            if not routes or not (gone or not processes.is_running(home / "gateway")):
                return False
            try:
                service["url"] = self._ensure_gateway(home, None, _access_file(home, routes))["url"]
                for route in gone:
                    self._restart(_revision_of(home, route))
                    route |= _entry(_revision_of(home, route), route["weight"])
            finally:
                _write(home / "routes.json", {"routes": routes})
        return True

    def _restart(self, directory: Path) -> None:
        manifest = read_json(directory / "manifest.json")
        self._start_predictor(directory, manifest, _facts(directory)["digest"])

    def stop_revision(self, name: str, revision: str, *, namespace: str = "default") -> dict[str, Any]:
        """Stop one revision that has no traffic; its directory and log stay.

        Args:
            name: Service.
            revision: Revision.
            namespace: The service's namespace.
        """
        home = self._existing(name, namespace)
        with processes.exclusive(home / "lock"):
            directory = self._without_traffic(home, revision)
            _stop(directory)
            return self._describe(home, directory)

    def delete(self, name: str, *, namespace: str = "default", revision: str | None = None) -> dict[str, Any]:
        """Stop a service, or one revision that has no traffic, and remove its directory.

        Args:
            name: Service.
            namespace: Its namespace.
            revision: Only this revision.
        """
        home = self._existing(name, namespace)
        with processes.exclusive(home / "lock"):
            if revision is not None:
                directory = self._without_traffic(home, revision)
                processes.stop(directory)
                shutil.rmtree(directory)
                return {"name": name, "namespace": namespace, "revision": revision, "deleted": True}
            processes.stop(home / "gateway")
            for directory in _numbered(home):
                processes.stop(directory)
            shutil.rmtree(home)
        with contextlib.suppress(OSError):  # other services may be there
            home.parent.rmdir()
        return {"name": name, "namespace": namespace, "deleted": True}

    def _without_traffic(self, home: Path, revision: str) -> Path:
        directory = self._revision(home, revision)
        if revision in {route["revision"] for route in _routes(home)}:
            raise InputError(
                f"Revision {revision} of {home.name} has traffic. Send it to another revision first, or delete the service."
            )
        return directory

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
        newest = next((directory.name for directory in reversed(_revisions(home))), "")
        directory = self._revision(home, revision or newest)
        return {
            "name": name,
            "namespace": namespace,
            "revision": directory.name,
            "path": str(directory / "log.txt"),
            "log": processes.log_tail(directory, lines),
        }

    def _home(self, name: str, namespace: str) -> Path:
        return self.root / "services" / check_name(namespace, "namespace") / check_name(name)

    def _existing(self, name: str, namespace: str) -> Path:
        home = self._home(name, namespace)
        if not _is_service(home):
            raise ServiceNotFoundError(
                f"There is no service {name!r} in namespace {namespace!r} under {self.root}."
            )
        return home

    def _revision(self, home: Path, revision: str) -> Path:
        directory = next((directory for directory in _revisions(home) if directory.name == revision), None)
        if directory is None:
            names = ", ".join(directory.name for directory in _revisions(home)) or "none"
            raise ServiceNotFoundError(
                f"Service {home.name!r} has no revision {revision!r}. It has: {names}."
            )
        return directory


def _is_service(home: Path) -> bool:
    return os.path.lexists(home / "service.json") or bool(_numbered(home))


def _revisions(home: Path) -> list[Path]:
    return [path for path in _numbered(home) if os.path.lexists(path / "facts.json")]


def _numbered(home: Path) -> list[Path]:
    """Directories of revisions, those included that were never complete."""
    return sorted(path for path in (home / "revisions").glob("[0-9]" * 5) if path.is_dir())


def _write(path: Path, value: Any) -> None:
    write_json(path, value, private=True)


def _readable(path: Path, shape: Any) -> dict[str, Any]:
    """What a state file holds, or nothing where it cannot be read."""
    with contextlib.suppress(StateFileError):
        return read_json(path, shape)
    return {}


def _problems(home: Path) -> dict[str, list[str]]:
    """Which files of the service itself cannot be read."""
    found = []
    for read in (lambda: read_json(home / "service.json", SERVICE_SHAPE), lambda: _routes(home)):
        try:
            read()
        except StateFileError as error:
            found.append(str(error))
    return {"problems": found} if found else {}


def _facts(directory: Path) -> dict[str, Any]:
    facts = read_json(directory / "facts.json", FACTS_SHAPE)
    if not facts.get("url") or not facts.get("digest"):
        raise unreadable(directory / "facts.json", "it lacks the revision's address")
    return facts


def _access_file(home: Path, routes: list[dict[str, Any]]) -> str | None:
    """Who may ask a service that had traffic; where that cannot be told, an error, and not everybody."""
    noted = _readable(home / "service.json", SERVICE_SHAPE).get("access_file")
    main = max(routes, key=lambda route: route["weight"])
    return noted if noted is not None else _facts(_revision_of(home, main)).get("access_file")


def _serves_newer(home: Path, routed: Mapping[str, int], as_of: str) -> bool:
    if not processes.is_running(home / "gateway"):
        return False  # nobody is answered, whatever runs behind it
    serving = [directory for directory in _revisions(home) if directory.name in routed]
    newest = _readable(home / "service.json", SERVICE_SHAPE).get("as_of") or ""
    return newest > as_of and any(_state(directory)["state"] == "READY" for directory in serving)


def _revision_of(home: Path, route: Mapping[str, Any]) -> Path:
    return home / "revisions" / str(route["revision"])


def _rules(spec: ServiceSpec) -> dict[str, Any]:
    """What the gateway must know of a revision: how long it may take, and who may ask."""
    given = spec.arguments
    rules: dict[str, Any] = {key: read(given[key]) for key, read in NAMES_READ.items() if key in given}
    if "request_timeout_seconds" in given:
        rules["timeout_seconds"] = float(given["request_timeout_seconds"])
    return rules


def _entry(directory: Path, weight: int) -> dict[str, Any]:
    """A revision in ``routes.json``."""
    facts = _facts(directory)
    rules = {key: facts[key] for key in RULES_SHAPE if key in facts}
    return {"revision": directory.name, "url": facts["url"], "weight": weight, **rules}


def _routes(home: Path) -> list[dict[str, Any]]:
    return read_routes(home / "routes.json")


def _known_routes(home: Path) -> list[dict[str, Any]]:
    """The routes, for who can do without those that cannot be read."""
    with contextlib.suppress(StateFileError):
        return _routes(home)
    return []


def _state(directory: Path) -> dict[str, Any]:
    """What the predictor says of itself, unless it died without saying so."""
    running = processes.is_running(
        directory
    )  # before reading: it may write its last word and exit in between
    try:
        state = read_json(directory / "state.json", STATE_SHAPE)
        _facts(directory)
        if state.get("state") not in STATES:
            raise unreadable(directory / "state.json", "it names no state")
    except StateFileError as error:
        return {"state": "FAILED", "error": str(error)}
    if state.get("state") in ("STARTING", "READY") and not running:
        tail = processes.log_tail(directory)
        why = "the process is gone without a last word (killed, perhaps for memory; or the machine restarted)"
        return {"state": "FAILED", "error": f"{why}. The end of {directory / 'log.txt'}:\n{tail}"}
    return {"state": state["state"]} | ({"error": state["error"]} if state.get("error") else {})


def _stop(directory: Path) -> None:
    state = _state(directory)["state"]
    processes.stop(directory)
    if state in ("STARTING", "READY"):
        _write(directory / "state.json", {"state": "STOPPED"})


def _prune(home: Path) -> None:
    try:
        # Not all of them run after a restart of the machine.
        routed = {route["revision"] for route in _routes(home)}
    except StateFileError:
        return  # any of them may have traffic
    finished = [
        directory
        for directory in _revisions(home)
        if directory.name not in routed and not processes.is_running(directory)
    ]
    for directory in finished[:-FINISHED_REVISIONS_KEPT]:
        shutil.rmtree(directory)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    dropped = _OF_A_RUN if "LLMOPS_RUN_DIR" in os.environ else ()
    return {key: value for key, value in os.environ.items() if key not in dropped} | dict(extra)


def _listen(port: int, name: str) -> socket.socket:
    try:
        return socket.create_server((HOST, port), backlog=512)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise PortTakenError(
                f"Cannot give service {name} port {port}: {error.strerror} on {HOST}. Choose another port, or stop what "
                "listens there."
            ) from None
        raise


def _secret_file(home: Path) -> Path:
    """The file with the service's secret, which is made when it is first needed."""
    file = home / "secret"
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as handle:
            handle.write(secrets.token_urlsafe(32) + "\n")
    return file


def _gateway_status(home: Path) -> dict[str, Any] | None:
    service = _readable(home / "service.json", SERVICE_SHAPE)
    handlers: list[urllib.request.BaseHandler] = []
    try:
        if (file := service.get("access_file")) and (tls := read_access_file(Path(file)).tls):
            handlers.append(urllib.request.HTTPSHandler(context=tls.own_client_context()))
        request = urllib.request.Request(  # noqa: S310  our own address
            f"{service.get('url')}/gateway/status", headers={GATEWAY_HEADER: read_secret(_secret_file(home))}
        )
        opener = opener_to_process(lambda: processes.is_running(home / "gateway"), *handlers)
        with opener.open(request, timeout=5) as answer:
            return dict(parse_json(answer.read(_MAX_STATUS_BYTES)))
    except (OSError, ValueError, SettingError):
        return None


def _drain(home: Path, revisions: set[str], seconds: float) -> None:
    """Wait until the gateway, which has seen the new routes when it answers, has no request at these revisions."""
    deadline = time.monotonic() + seconds
    while revisions and time.monotonic() < deadline:
        status = _gateway_status(home)
        if status is None or not revisions & status["in_flight"].keys():
            return
        time.sleep(0.05)


def main(argv: list[str] | None = None) -> int:
    """Run one command and print one JSON object; an error is ``{"error": {"type", "message", "retryable"}}``.

    Args:
        argv: Command line.

    Returns:
        Exit status: 0, or 1 with an error.
    """
    parser = argparse.ArgumentParser(
        "llmops_components.serving.local", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text)
        sub.add_argument("--root", required=True, help="directory that holds services/")
        if name == "apply":
            sub.add_argument("manifest", help="file with an InferenceService as JSON; - for standard input")
        elif name != "resume":
            sub.add_argument("name", help="service")
            sub.add_argument("--namespace", default="default")
        return sub

    command("apply", "start a revision; touches no traffic")
    command("resume", "start what is gone of the services that have traffic again")
    command("status", "the service and its revisions")
    sub = command("traffic", "send requests to revisions, stop the ones that lost theirs")
    sub.add_argument("shares", nargs="+", metavar="REVISION=PERCENT")
    sub.add_argument("--port", type=int, help="port of the stable address")
    sub.add_argument("--keep-previous", action="store_true", help="leave the former revision running")
    sub.add_argument("--drain-seconds", type=float, default=DRAIN_SECONDS)
    sub.add_argument("--as-of", help="date of their model; a model of a newer date keeps the traffic")
    sub.add_argument("--in-any-case", action="store_true", help="also where a model of a newer date serves")
    sub = command("ask", 'ask one revision: {"prompt": ..., "max_tokens": ...} on standard input')
    sub.add_argument("--revision", required=True)
    command("stop", "stop one revision").add_argument("--revision", required=True)
    command("delete", "stop and remove a service or one revision").add_argument("--revision")
    sub = command("logs", "the end of a revision's log")
    sub.add_argument("--revision")
    sub.add_argument("--lines", type=int, default=100)
    args = parser.parse_args(argv)
    try:
        result = _run(args)
    except Exception as error:
        retryable = getattr(error, "retryable", True)
        result = {"error": {"type": type(error).__name__, "message": words_of(error), "retryable": retryable}}
    print(json.dumps(result, indent=2))
    return 1 if "error" in result and isinstance(result["error"], dict) else 0


def _run(args: argparse.Namespace) -> dict[str, Any]:
    serving = LocalServing(args.root)
    if args.command == "apply":
        return serving.apply(_read_object(args.manifest, "manifest"))
    if args.command == "resume":
        return {"services": serving.resume()}
    if args.command == "status":
        return serving.status(args.name, args.namespace)
    if args.command == "traffic":
        return serving.traffic(
            args.name,
            _shares(args.shares),
            namespace=args.namespace,
            port=args.port,
            keep_previous=args.keep_previous,
            drain_seconds=args.drain_seconds,
            as_of=args.as_of,
            only_if_newer=not args.in_any_case,
        )
    if args.command == "ask":
        question = _read_object("-", "question")
        limit = int(question.get("max_tokens", SMOKE_MAX_TOKENS))
        prompt = str(question.get("prompt", ""))
        return {
            "answer": serving.ask(
                args.name, args.revision, prompt, namespace=args.namespace, max_tokens=limit
            )
        }
    if args.command == "stop":
        return serving.stop_revision(args.name, args.revision, namespace=args.namespace)
    if args.command == "delete":
        return serving.delete(args.name, namespace=args.namespace, revision=args.revision)
    return serving.logs(args.name, namespace=args.namespace, revision=args.revision, lines=args.lines)


def _read_object(path: str, what: str) -> dict[str, Any]:
    try:
        value = parse_json(sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"Cannot read the {what} {path}: {error}") from None
    if not isinstance(value, dict):
        raise SettingError(f"The {what} {path} is not a JSON object.")
    return value


def _shares(given: list[str]) -> dict[str, int]:
    shares = {}
    for item in given:
        revision, _, percent = item.partition("=")
        if not percent.isdigit():
            raise SettingError(
                f"Cannot read traffic {item!r}: write REVISION=PERCENT, for example 00002=100."
            )
        shares[revision] = int(percent)
    return shares
