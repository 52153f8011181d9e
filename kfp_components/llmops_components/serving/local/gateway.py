"""The stable address of a service: forwards each request to one of its revisions, by weight.

``routes.json`` in the service's directory says where to; it is looked at for every request, so that a switch takes
effect with the next one. A request with the header ``x-llmops-revision`` goes to the revision that it names, which has to have some
of the requests, and to no other: so two are compared. ``GET /gateway/status`` tells how many requests are under way at each revision: once that reads
0 for a revision without weight, it can be stopped without losing a request. It tells also what each has answered
(:mod:`~llmops_components.serving.local.tally`).

What a service takes is the predictor's own rule (``door``), checked here first. Requests are held until they are whole; answers
pass through piece by piece and are never held.

    python -m llmops_components.serving.local.gateway --routes routes.json --fd 3
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
)
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from yarl import URL

from llmops_components.headers import REVISION_HEADER
from llmops_components.serving.access.admission import (
    REQUEST_ID_HEADER,
    Admission,
    Visit,
    only_the_controller,
)
from llmops_components.serving.access.asgi import USAGE_PATH, VISIT, AccessControl, AuditTrail
from llmops_components.serving.access.renewal import renewed_context
from llmops_components.serving.access.secret import GATEWAY_HEADER, is_gateway, read_secret
from llmops_components.serving.access.settings import Access, Tls
from llmops_components.serving.detached import logs
from llmops_components.serving.http.bodies import Bodies
from llmops_components.serving.http.connections import LimitedProtocol, raise_file_limit
from llmops_components.serving.http.door import ROUTES, Door
from llmops_components.serving.http.refusals import RequestError, refuse
from llmops_components.serving.local.connector import ProcessConnector, ProcessGoneError, destination
from llmops_components.serving.local.routing import Routes
from llmops_components.serving.local.tally import Tally

STATUS_PATH = "/gateway/status"
# Shorter than the 65 s of KServe's server, so that it is never the revision that drops a connection that is in use.
IDLE_CONNECTION_SECONDS = 30
SHUTDOWN_SECONDS = 10
DEFAULT_TIMEOUT_SECONDS = 300.0  # the predictor's
LATE_SECONDS = (
    2.0  # the predictor keeps to its time itself and says more; longer than that it does not answer at all
)
READ_SECONDS = 10.0  # for what needs no model: health, metadata
_CONNECT_SECONDS = 5
_TOO_MANY = 429  # what a revision says that takes no more; quotas are refused before
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
# A revision is asked by its own name, and whether a web page may ask has been decided here.
_NOT_PASSED_ON = _HOP_BY_HOP | {
    "authorization",
    "content-length",
    "expect",
    "host",
    "origin",
    GATEWAY_HEADER,
    REQUEST_ID_HEADER,
    REVISION_HEADER,
}
_NOT_PASSED_BACK = _HOP_BY_HOP | {"date", "server"}
logger = logging.getLogger(__name__)


class Gateway:
    """Forwards requests: an ASGI application, to be used within :meth:`connected`.

    Args:
        routes: Where to.
        secret: By which revisions know their gateway, and it its controller.
    """

    def __init__(self, routes: Routes, secret: str | None = None) -> None:
        self.routes = routes
        self.secret = secret
        self.in_flight: Counter[str] = Counter()
        self.answered: defaultdict[str, Tally] = defaultdict(partial(Tally, time.time()))
        self._session: ClientSession | None = None

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Have connections to the revisions."""
        connector = ProcessConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_SECONDS)
        timeout = ClientTimeout(
            total=None, sock_connect=_CONNECT_SECONDS
        )  # the rest is limited for each request
        async with ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        ) as self._session:
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, unless its client goes away first."""
        if scope["path"] == STATUS_PATH:
            given = Headers(scope=scope).get(GATEWAY_HEADER)
            if self.secret is not None and not is_gateway(given, self.secret):
                await refuse(only_the_controller(), scope, receive, send)
            else:
                await self._status()(scope, receive, send)
            return
        body = await Request(scope, receive).body()
        answered = asyncio.ensure_future(self._forward(scope, body, receive, send))
        gone = asyncio.ensure_future(receive())  # after the body only http.disconnect can come
        try:
            await asyncio.wait([answered, gone], return_when=asyncio.FIRST_COMPLETED)
            if answered.done():
                await answered
        finally:
            for task in (answered, gone):
                task.cancel()
            await asyncio.gather(answered, gone, return_exceptions=True)

    def _status(self) -> JSONResponse:
        """Routes and requests under way, for the controller."""
        self.routes.reload()
        return JSONResponse(
            {
                "routes": self.routes.routes,
                "in_flight": {k: v for k, v in self.in_flight.items() if v},
                "answered": {revision: tally.to_json() for revision, tally in self.answered.items()},
            }
        )

    async def _forward(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Pass a request on and its answer back, piece by piece."""
        why = "no revision of this service has traffic; route some to a ready revision"
        wanted = Headers(scope=scope).get(REVISION_HEADER)
        routes = self.routes.ordered() if wanted is None else self.routes.named(wanted)
        if wanted is not None and not routes:
            await refuse(_no_such_revision(wanted), scope, receive, send)
            return
        # Nothing is awaited between the choice and the count: see the module's text.
        for number, route in enumerate(routes):
            if number:
                logger.warning("%s; another one is asked", why)
            revision = route["revision"]
            self.in_flight[revision] += 1
            try:
                await self._ask_and_count(route, scope, body, send)
                return
            except (
                ClientConnectorError,
                ConnectionTimeoutError,
                ProcessGoneError,
            ) as error:  # nothing was sent: another may answer
                why = f"revision {revision} cannot be reached ({getattr(error, 'strerror', None) or error})"
            except RequestError as error:
                await refuse(error, scope, receive, send)
                return
            finally:
                self.in_flight[revision] -= 1
        refusal = RequestError(
            503, f"Service unavailable: {why}.", code="service_unavailable", retry_after_seconds=1
        )
        await refuse(refusal, scope, receive, send)

    async def _ask_and_count(self, route: dict[str, Any], scope: Scope, body: bytes, send: Send) -> None:
        """Ask one revision; what it is asked to do is counted, not whether it is well."""
        if scope["method"] != "POST":
            await self._ask(route, scope, body, send)
            return
        started = time.monotonic()
        try:
            status = await self._ask(route, scope, body, send)
        except asyncio.CancelledError:  # its client went away, which says nothing of the revision
            raise
        except Exception:
            self.answered[route["revision"]].add(time.monotonic() - started, is_error=True)
            raise
        is_error = status is None or status >= 500 or status == _TOO_MANY
        if is_error or (status or 0) < 400:  # the others are wrong requests, whoever answers them
            self.answered[route["revision"]].add(time.monotonic() - started, is_error=is_error)

    async def _ask(self, route: dict[str, Any], scope: Scope, body: bytes, send: Send) -> int | None:
        """Answer with what one revision answers; where that breaks off, so does the answer.

        Returns:
            The status of an answer that is whole; None where it broke off.
        """
        assert self._session is not None
        seconds = READ_SECONDS
        if scope["method"] != "GET":
            seconds = (route.get("timeout_seconds") or DEFAULT_TIMEOUT_SECONDS) + LATE_SECONDS
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        address = URL(route["url"] + (scope["raw_path"] + query).decode("ascii"), encoded=True)
        begun = False
        headers = _passed_on(scope, self.secret)
        if (visit := scope.get(VISIT)) is not None:
            visit.route = route
            headers.append((REQUEST_ID_HEADER, visit.id))
        destination.set(self.routes.directory(route))
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.request(
                    scope["method"],
                    address,
                    data=body or None,
                    headers=headers,
                    allow_redirects=False,
                ) as got,
            ):
                answered = [
                    (name.lower().encode("latin-1"), value.encode("utf-8", "surrogateescape"))
                    for name, value in got.headers.items()
                    if name.lower() not in _NOT_PASSED_BACK
                ]
                answered.append((REVISION_HEADER.encode(), route["revision"].encode()))
                begun = True
                await send({"type": "http.response.start", "status": got.status, "headers": answered})
                async for piece in got.content.iter_any():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (ClientConnectorError, ConnectionTimeoutError):
            raise
        except TimeoutError:
            refusal = RequestError(
                504,
                f"Revision {route['revision']} did not answer within {seconds:g} s.",
                code="timeout",
            )
        except ClientError as error:
            refusal = RequestError(
                502,
                f"Revision {route['revision']} ended the connection without an answer: {error}",
                code="bad_gateway",
                retry_after_seconds=1,
            )
        else:
            return got.status
        if not begun:
            raise refusal
        # The server ends the connection of an answer that is not complete: the client sees it cut off, which is what it is.
        logger.warning("An answer was cut off: %s", refusal.message)
        return None

    async def find_usage(self, visit: Visit) -> None:
        """Ask the revision what a request took whose answer was left before its end; where it does not say, nothing changes.

        Args:
            visit: The request.
        """
        if self._session is None or self.secret is None or visit.route is None:
            return
        address, headers = f"{visit.route['url']}{USAGE_PATH}{visit.id}", {GATEWAY_HEADER: self.secret}
        destination.set(self.routes.directory(visit.route))
        with contextlib.suppress(ClientError, TimeoutError, ProcessGoneError):
            async with asyncio.timeout(READ_SECONDS), self._session.get(address, headers=headers) as got:
                visit.usage.read_headers(got.headers)


def _no_such_revision(name: str) -> RequestError:
    return RequestError(
        404,
        f"Revision {name!a:.100} of this service has no requests, and is not asked. Ask without {REVISION_HEADER}, or name one that has some.",
        code="revision_not_found",
    )


def _passed_on(scope: Scope, secret: str | None) -> list[tuple[str, str]]:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    named = {
        item.strip().lower() for name, value in headers if name == "connection" for item in value.split(",")
    }
    kept = [(name, value) for name, value in headers if name not in _NOT_PASSED_ON | named]
    return kept if secret is None else [*kept, (GATEWAY_HEADER, secret)]


def guarded(gateway: Gateway, admission: Admission | None = None) -> ASGIApp:
    """The gateway behind its door.

    Args:
        gateway: The gateway.
        admission: Who may ask, and where that is counted and noted.
    """
    app: ASGIApp = Bodies(gateway)
    if admission is not None:
        app = AccessControl(app, admission, usage_of=gateway.find_usage)
    app = Door(app, policy=gateway.routes.policy, routes=(*ROUTES, ("GET", STATUS_PATH)))
    return app if admission is None else AuditTrail(app, admission, secret=gateway.secret)


def server(
    app: ASGIApp, *, protocol: Callable[..., LimitedProtocol] = LimitedProtocol, tls: Tls | None = None
) -> uvicorn.Server:
    """A server for an application, which listens where it is told to.

    Args:
        app: The application.
        protocol: Limits of its connections.
        tls: Certificate to offer.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # whoever asks is on this machine, and could say that it is somebody else
            server_header=False,
            timeout_keep_alive=IDLE_CONNECTION_SECONDS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            backlog=512,
            ssl_context_factory=None if tls is None else lambda *_: renewed_context(tls),
        )
    )


async def serve(gateway: Gateway, sock: socket.socket, access: Access, service: str) -> None:
    """Answer until SIGTERM.

    Args:
        gateway: The gateway.
        sock: Bound socket.
        access: Who may ask.
        service: Name of the service, for its audit log.
    """
    admission = Admission(access, directory=Path.cwd(), service=service)
    protocol = partial(LimitedProtocol, refused=admission.note_refused)
    serving = server(guarded(gateway, admission), protocol=protocol, tls=access.settings().tls)
    async with gateway.connected():
        await serving.serve(sockets=[sock])


def main() -> None:
    """Run the gateway."""
    parser = argparse.ArgumentParser(
        "llmops_components.serving.local.gateway", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--routes", required=True, type=Path, help="routes.json of the service")
    parser.add_argument("--service", default="gateway", help="name of the service, for its audit log")
    parser.add_argument("--secret-file", type=Path, help="by which revisions know their gateway")
    parser.add_argument(
        "--access-file",
        type=Path,
        help="who may ask; see llmops_components.serving.access. Without one everybody",
    )
    parser.add_argument("--fd", required=True, type=int, help="inherited socket to listen on")
    parser.add_argument("--log_file", type=Path, help="the file that output goes to, to be rotated")
    args = parser.parse_args()
    logs.configure(args.log_file)
    raise_file_limit()
    sock = socket.socket(fileno=args.fd)
    sock.set_inheritable(False)
    secret = None if args.secret_file is None else read_secret(args.secret_file)
    # The environment is that of whoever started it, another one at each restart: it must not decide who may ask.
    access = Access(args.access_file, environment={})
    asyncio.run(serve(Gateway(Routes(args.routes), secret), sock, access, args.service))


if __name__ == "__main__":
    main()
