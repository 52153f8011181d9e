"""The stable address of a service: forwards each request to one of its revisions, by weight.

``routes.json`` in the service's directory says where to; it is looked at for every request, so that a switch takes
effect with the next one. ``GET /gateway/status`` tells how many requests are under way at each revision: once that reads
0 for a revision without weight, it can be stopped without losing a request.

    python -m llmops_components.serving.gateway --routes routes.json --fd 3
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import (
    ClientConnectionError,
    ClientConnectorError,
    ClientSession,
    ClientTimeout,
    TCPConnector,
    web,
)
from yarl import URL

from llmops_components.serving.routes import read_routes
from llmops_components.state_files import StateFileError

REVISION_HEADER = "x-llmops-revision"
MAX_BODY_BYTES = 8 << 20  # the predictor's own limit is lower and its answer says more
# Shorter than the 65 s of KServe's server, so that it is never the revision that drops a connection that is in use.
IDLE_CONNECTION_SECONDS = 30
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
logger = logging.getLogger(__name__)


class Routes:
    """The revisions that get traffic, as the file says now.

    Args:
        path: ``routes.json``: ``{"routes": [{"revision", "url", "weight"}, ...]}``, replaced by renaming.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.routes: list[dict[str, Any]] = []
        self._version: tuple[int, int] | None = None
        self._credit: Counter[str] = Counter()

    def reload(self) -> None:
        """Read the file again if it is another one than before."""
        try:
            found = os.stat(self.path)  # noqa: PTH116  half the cost of Path.stat(), and on every request
        except FileNotFoundError:
            self.routes, self._version = [], None
            return
        if (found.st_ino, found.st_mtime_ns) == self._version:
            return
        self._version = (found.st_ino, found.st_mtime_ns)
        try:
            self.routes = [route for route in read_routes(self.path) if route["weight"] > 0]
        except StateFileError as error:  # said once for each such file
            logger.error("The routes stay as they were: %s", error)
            return
        self._credit.clear()

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


class Gateway:
    """Forwards requests.

    Args:
        routes: Where to.
    """

    def __init__(self, routes: Routes) -> None:
        self.routes = routes
        self.in_flight: Counter[str] = Counter()
        self._session: ClientSession | None = None

    def application(self) -> web.Application:
        """The server's application."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/gateway/status", self.status)
        app.router.add_route("*", "/{path:.*}", self.forward)
        app.cleanup_ctx.append(self._connections)
        return app

    async def _connections(self, app: web.Application) -> Any:
        connector = TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_SECONDS)
        # The revision limits the time of a request; only connecting is limited here.
        timeout = ClientTimeout(total=None, sock_connect=5)
        async with ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        ) as self._session:
            yield

    async def status(self, request: web.Request) -> web.Response:
        """Routes and requests under way, for the controller."""
        self.routes.reload()
        return web.json_response(
            {"routes": self.routes.routes, "in_flight": {k: v for k, v in self.in_flight.items() if v}}
        )

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on and its answer back, piece by piece."""
        body = await request.read()
        why = "no revision of this service has traffic; route some to a ready revision"
        for route in (
            self.routes.ordered()
        ):  # nothing is awaited between the choice and the count: see the module's text
            revision = route["revision"]
            self.in_flight[revision] += 1
            try:
                return await self._ask(route, request, body)
            except ClientConnectorError as error:  # nothing was sent: another revision may answer
                why = f"revision {revision} cannot be reached ({error.strerror or error})"
                logger.warning(why)
            finally:
                self.in_flight[revision] -= 1
        return _error(503, f"Service unavailable: {why}.")

    async def _ask(self, route: dict[str, Any], request: web.Request, body: bytes) -> web.StreamResponse:
        assert self._session is not None
        named = {item.strip().lower() for item in request.headers.get("connection", "").split(",")}
        headers = [
            (k, v)
            for k, v in request.headers.items()
            if k.lower() not in _HOP_BY_HOP | named | {"content-length"}
        ]
        answer: web.StreamResponse | None = None
        try:
            async with self._session.request(
                request.method,
                URL(route["url"] + request.raw_path, encoded=True),
                data=body or None,
                headers=headers,
                allow_redirects=False,
            ) as got:
                kept = [(k, v) for k, v in got.headers.items() if k.lower() not in _HOP_BY_HOP]
                if got.content_length is not None and request.method != "HEAD":
                    whole = web.Response(status=got.status, body=await got.read(), headers=kept)
                    whole.headers[REVISION_HEADER] = route["revision"]
                    return whole
                answer = web.StreamResponse(status=got.status, headers=kept)
                answer.headers[REVISION_HEADER] = route["revision"]
                await answer.prepare(request)
                async for piece in got.content.iter_any():
                    await answer.write(piece)
                await answer.write_eof()
                return answer
        except ClientConnectorError:
            raise
        except ClientConnectionError as error:
            if answer is not None and answer.prepared:
                raise  # the client sees a cut-off answer, which is what it is
            return _error(
                502, f"Revision {route['revision']} ended the connection without an answer: {error}"
            )


def _error(status: int, message: str) -> web.Response:
    body = {
        "error": {"message": message, "type": "server_error", "param": None, "code": "service_unavailable"}
    }
    return web.json_response(body, status=status, headers={"Retry-After": "1"})


def main() -> None:
    """Run the gateway."""
    parser = argparse.ArgumentParser(
        "llmops_components.serving.gateway", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--routes", required=True, type=Path, help="routes.json of the service")
    parser.add_argument("--fd", required=True, type=int, help="inherited socket to listen on")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    sock = socket.socket(fileno=args.fd)
    sock.set_inheritable(False)
    runner = web.AppRunner(
        Gateway(Routes(args.routes)).application(),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=10,
    )
    asyncio.run(_serve(runner, sock))


async def _serve(runner: web.AppRunner, sock: socket.socket) -> None:
    import signal

    stop = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sig, stop.set)
    await runner.setup()
    await web.SockSite(runner, sock, backlog=512).start()
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    main()
