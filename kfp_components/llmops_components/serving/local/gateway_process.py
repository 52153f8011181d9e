"""The gateway of a service as the controller sees it: a process that is started, asked what it is doing, and replaced."""

from __future__ import annotations

import errno
import socket
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from llmops_components.errors import InputError, SettingError, UnavailableError
from llmops_components.json_text import parse_json
from llmops_components.serving.access.secret import GATEWAY_HEADER, read_secret
from llmops_components.serving.access.settings import read_access_file
from llmops_components.serving.detached import processes
from llmops_components.serving.http.asking import opener_to_process
from llmops_components.serving.local.home import ServiceHome
from llmops_components.serving.local.revisions import HOST, environment_of_service

START_SECONDS = 15
_MAX_STATUS_BYTES = 1 << 20


class PortTakenError(InputError):
    """Something else listens on the port that was asked for."""


class GatewayProcess:
    """The gateway of one service.

    Args:
        home: The service.
    """

    def __init__(self, home: ServiceHome) -> None:
        self._home = home
        self._directory = home.path / "gateway"

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return processes.is_running(self._directory)

    def stop(self) -> None:
        """Stop it: the service answers nobody."""
        processes.stop(self._directory)

    def ensure(self, port: int | None, access_file: str | None) -> dict[str, Any]:
        """Have one running at this port, and with this access file; what ``service.json`` says then.

        Args:
            port: Port of the stable address; the former one, or any free one, by default.
            access_file: Who may ask.
        """
        service = self._home.readable_service()
        scheme = "http" if access_file is None or read_access_file(Path(access_file)).tls is None else "https"
        if self.is_running:
            is_same = service.get("access_file") == access_file and service.get("knows_secret")
            is_same = is_same and service.get("counts_answers")
            has_scheme = (service.get("url") or "").startswith(f"{scheme}:")
            if is_same and has_scheme and port in (None, service.get("port")):
                return service
            # Another port was asked for, others may ask, or nobody knows which it has: begin anew.
            self.stop()
        with _listen(port or service.get("port") or 0, self._home.name) as sock:
            chosen = sock.getsockname()[1]
            service |= {"port": chosen, "url": f"{scheme}://{HOST}:{chosen}"}
            service |= {"access_file": access_file, "knows_secret": True, "counts_answers": True}
            self._home.write_service(service)
            self._start(sock, access_file)
        self._wait_until_it_answers()
        return service

    def _start(self, sock: socket.socket, access_file: str | None) -> None:
        home = self._home
        command = [sys.executable, "-m", "llmops_components.serving.local.gateway"]
        command += ["--routes", str(home.path / "routes.json"), "--fd", str(sock.fileno())]
        command += ["--log_file", str(self._directory / "log.txt")]
        command += ["--service", f"{home.namespace}.{home.name}", "--secret-file", str(home.secret_file())]
        command += [] if access_file is None else ["--access-file", access_file]
        processes.start(
            self._directory, command, environment=environment_of_service({}), inherited=[sock.fileno()]
        )

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._status() is None:
            if not self.is_running or time.monotonic() > deadline:
                tail = processes.log_tail(self._directory)
                processes.stop(self._directory, grace_seconds=1)
                raise UnavailableError(
                    f"The gateway of {self._home.name} did not start. The end of its log:\n{tail}"
                )
            time.sleep(0.05)

    def drain(self, revisions: set[str], seconds: float) -> None:
        """Wait until the gateway, which has seen the new routes when it answers, has no request at these revisions.

        Args:
            revisions: Names of revisions that get no more requests.
            seconds: Longest wait.
        """
        deadline = time.monotonic() + seconds
        while revisions and time.monotonic() < deadline:
            status = self._status()
            if status is None or not revisions & status["in_flight"].keys():
                return
            time.sleep(0.05)

    def answered(self) -> dict[str, dict[str, Any]] | None:
        """What each revision has answered since the gateway was started; None where that cannot be read."""
        found = (self._status() or {}).get("answered")
        return None if found is None else dict(found)

    def _status(self) -> dict[str, Any] | None:
        """Its routes and the requests under way, or None where it does not answer."""
        service = self._home.readable_service()
        handlers: list[urllib.request.BaseHandler] = []
        try:
            if (file := service.get("access_file")) and (tls := read_access_file(Path(file)).tls):
                handlers.append(urllib.request.HTTPSHandler(context=tls.own_client_context()))
            request = urllib.request.Request(  # noqa: S310  our own address
                f"{service.get('url')}/gateway/status",
                headers={GATEWAY_HEADER: read_secret(self._home.secret_file())},
            )
            opener = opener_to_process(lambda: self.is_running, *handlers)
            with opener.open(request, timeout=5) as answer:
                return dict(parse_json(answer.read(_MAX_STATUS_BYTES)))
        except (OSError, ValueError, SettingError):
            return None


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
