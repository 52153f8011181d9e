"""The gateway over real HTTP, in front of small servers that stand for revisions."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, web
from llmops_components.serving.http.bodies import Bodies
from llmops_components.serving.http.connections import LimitedProtocol
from llmops_components.serving.http.door import Door, Policy, policy_of
from llmops_components.serving.local import gateway as gateways
from llmops_components.serving.local.gateway import Gateway, guarded
from llmops_components.serving.local.routing import Routes
from llmops_components.state_files import write_json
from starlette.types import ASGIApp
from yarl import URL

PREDICT = "/v1/models/m:predict"
READY = "/v2/health/ready"
CHAT = "/openai/v1/chat/completions"


class Revision:
    """Answers with its own name; remembers what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.disconnected = asyncio.Event()
        self.reached = asyncio.Event()
        self.read = asyncio.Semaphore(0)
        self.seen: list[tuple[str, str, bytes]] = []
        self.headers: list[dict[str, str]] = []

    async def echo(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, request.raw_path, await request.read()))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        await asyncio.sleep(0.002)
        return web.json_response({"from": self.name}, status=201, headers={"x-own": "kept"})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        for number in range(3):
            await answer.write(f"data: {number}\n\n".encode())
            await self.read.acquire()
        await answer.write_eof()
        return answer

    async def slow(self, request: web.Request) -> web.Response:
        self.reached.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.disconnected.set()
            raise
        return web.Response()

    async def large(self, request: web.Request) -> web.StreamResponse:
        """More than sockets and buffers take, for a client that does not read."""
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b"x" * (1 << 16))
        except (ConnectionError, asyncio.CancelledError):
            self.disconnected.set()
            raise

    async def fail(self, request: web.Request) -> web.Response:
        return web.json_response({"error": "out of memory"}, status=500)

    async def refuse(self, request: web.Request) -> web.Response:
        return web.json_response({"error": "no such model"}, status=404)

    async def take_no_more(self, request: web.Request) -> web.Response:
        return web.json_response({"error": "the queue is full"}, status=429)

    async def break_off(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"half of")
        assert request.transport is not None
        request.transport.close()
        return answer

    def application(self) -> web.Application:
        app = web.Application(client_max_size=4 << 20)
        app.router.add_post("/v1/models/failing:predict", self.fail)
        app.router.add_post("/v1/models/breaking:predict", self.break_off)
        app.router.add_post("/v1/models/missing:predict", self.refuse)
        app.router.add_post("/v1/models/busy:predict", self.take_no_more)
        app.router.add_post(CHAT, self.stream)
        app.router.add_post("/v1/models/slow:predict", self.slow)
        app.router.add_post("/v1/models/large:predict", self.large)
        app.router.add_route("*", "/{path:.*}", self.echo)
        return app


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def listening(app: ASGIApp, protocol: type[LimitedProtocol] = LimitedProtocol) -> AsyncIterator[str]:
    """An application on the gateway's own server."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = gateways.server(app, protocol=protocol)
        running = asyncio.create_task(server.serve(sockets=[sock]))
        while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            await running


@asynccontextmanager
async def living(directory: Path) -> AsyncIterator[None]:
    """Holds a revision's lock, as its process does."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@asynccontextmanager
async def setup(
    path: Path, protocol: type[LimitedProtocol] = LimitedProtocol
) -> AsyncIterator[tuple[str, ClientSession, dict[str, str], dict[str, Revision]]]:
    """Two revisions, a gateway without routes, a client."""
    revisions = {name: Revision(name) for name in ("00001", "00002")}
    urls = {}
    gateway = Gateway(Routes(path / "routes.json"))
    async with (
        living(path / "revisions/00001"),
        living(path / "revisions/00002"),
        serving(revisions["00001"].application()) as urls["00001"],
        serving(revisions["00002"].application()) as urls["00002"],
        gateway.connected(),
        listening(guarded(gateway), protocol) as url,
        ClientSession(headers={"content-type": "application/json"}) as client,
    ):
        yield url, client, urls, revisions


def route(path: Path, urls: dict[str, str], *, rules: dict[str, Any] | None = None, **weights: int) -> None:
    routes = [
        {"revision": name[1:], "url": urls[name[1:]], "weight": weight, **(rules or {})}
        for name, weight in weights.items()
    ]
    write_json(path / "routes.json", {"routes": routes})


async def raw(url: str, *pieces: bytes, seconds: float = 10) -> bytes:
    """What a server answers to bytes, until it ends the connection."""
    parts = URL(url)
    reader, writer = await asyncio.open_connection(parts.host, parts.port)
    with closing(writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(seconds):
            try:
                return await reader.read()
            except ConnectionError:
                return b""


def test_passes_method_path_body_status_and_headers_and_names_the_revision(tmp_path: Path) -> None:
    async def run() -> None:
        async with setup(tmp_path) as (gateway, client, urls, revisions):
            route(tmp_path, urls, r00001=100)
            async with client.post(
                URL(f"{gateway}/v1/models/a%2Fb:predict?a=%2F&b=1", encoded=True), data=b"\x00body"
            ) as got:
                assert (got.status, await got.json()) == (201, {"from": "00001"})
                assert (got.headers["x-own"], got.headers["x-llmops-revision"]) == ("kept", "00001")
            assert revisions["00001"].seen == [("POST", "/v1/models/a%2Fb:predict?a=%2F&b=1", b"\x00body")]

    asyncio.run(run())


def test_says_503_while_no_revision_has_traffic(tmp_path: Path) -> None:
    async def run() -> tuple[int, Any]:
        async with setup(tmp_path) as (gateway, client, _, _), client.get(f"{gateway}{READY}") as got:
            return got.status, await got.json()

    assert asyncio.run(run()) == (
        503,
        {
            "error": "Service unavailable: no revision of this service has traffic; route some to a ready revision."
        },
    )


def test_splits_requests_exactly_by_weight(tmp_path: Path) -> None:
    async def run() -> Counter[str]:
        async with setup(tmp_path) as (gateway, client, urls, _):
            route(tmp_path, urls, r00001=90, r00002=10)
            answered: Counter[str] = Counter()
            for _ in range(50):
                async with client.get(f"{gateway}{READY}") as got:
                    answered[got.headers["x-llmops-revision"]] += 1
            return answered

    assert asyncio.run(run()) == {"00001": 45, "00002": 5}


def test_a_request_that_names_a_revision_is_answered_by_that_one_or_by_none(tmp_path: Path) -> None:
    async def run() -> tuple[list[str], list[tuple[int, str]], list[str | None]]:
        async with setup(tmp_path) as (gateway, client, urls, revisions):
            route(tmp_path, urls, r00001=99, r00002=1)

            async def ask(revision: str) -> tuple[int, Any]:
                headers = {"X-LLMOps-Revision": revision}
                async with client.post(f"{gateway}{PREDICT}", data=b"{}", headers=headers) as got:
                    return got.status, await got.json()

            answered = [(await ask("00002"))[1]["from"] for _ in range(5)]
            route(tmp_path, urls | {"00002": "http://127.0.0.1:9"}, r00001=99, r00002=1)
            refused = [await ask("00002"), await ask("00003")]
            seen = [headers.get("x-llmops-revision") for headers in revisions["00002"].headers]
            return answered, [(status, str(body)) for status, body in refused], seen

    answered, (unreachable, unknown), seen = asyncio.run(run())
    assert answered == ["00002"] * 5 and seen == [None] * 5
    assert unreachable[0] == 503 and "revision 00002 cannot be reached" in unreachable[1]
    assert unknown[0] == 404 and "of this service has no requests" in unknown[1]


def test_passes_a_piece_of_a_stream_on_before_the_next_one_is_there(tmp_path: Path) -> None:
    async def run() -> list[bytes]:
        async with setup(tmp_path) as (gateway, client, urls, revisions):
            route(tmp_path, urls, r00001=100)
            found = []
            async with client.post(f"{gateway}{CHAT}") as got, asyncio.timeout(30):
                async for piece in got.content.iter_any():
                    found.append(piece)
                    revisions["00001"].read.release()
            return found

    assert asyncio.run(run()) == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]


def test_no_request_is_lost_or_late_when_traffic_is_switched_and_the_old_revision_stopped(
    tmp_path: Path,
) -> None:
    async def run() -> tuple[Counter[tuple[int, str]], dict[str, int]]:
        async with setup(tmp_path) as (gateway, client, urls, _):
            route(tmp_path, urls, r00001=100)
            answered: Counter[tuple[int, str]] = Counter()
            switched = False

            async def hammer() -> None:
                for _ in range(60):
                    after = switched
                    async with client.post(f"{gateway}{PREDICT}", data=b"x") as got:
                        answered[got.status, (await got.json())["from"]] += 1
                        assert not after or got.headers["x-llmops-revision"] == "00002"

            async def switch() -> dict[str, int]:
                nonlocal switched
                while answered.total() < 40:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                route(tmp_path, urls, r00002=100)
                switched = True
                while True:
                    async with client.get(f"{gateway}/gateway/status") as got:
                        in_flight = (await got.json())["in_flight"]
                    if "00001" not in in_flight:
                        return in_flight

            *_, in_flight = await asyncio.gather(*(hammer() for _ in range(8)), switch())
            return answered, in_flight

    answered, in_flight = asyncio.run(run())
    assert set(answered) == {(201, "00001"), (201, "00002")}
    assert sum(answered.values()) == 480
    assert "00001" not in in_flight


def test_another_revision_answers_when_one_cannot_be_reached(tmp_path: Path) -> None:
    async def run() -> tuple[int, str]:
        async with setup(tmp_path) as (gateway, client, urls, _):
            route(tmp_path, urls | {"00001": "http://127.0.0.1:9"}, r00001=99, r00002=1)
            async with client.post(f"{gateway}{PREDICT}", data=b"x") as got:
                return got.status, got.headers["x-llmops-revision"]

    assert asyncio.run(run()) == (201, "00002")


def test_a_dead_only_revision_is_named(tmp_path: Path) -> None:
    async def run() -> tuple[int, str]:
        async with setup(tmp_path) as (gateway, client, _, _):
            route(tmp_path, {"00001": "http://127.0.0.1:9"}, r00001=100)
            async with client.post(f"{gateway}{PREDICT}", data=b"x") as got:
                return got.status, json.loads(await got.read())["error"]

    status, message = asyncio.run(run())
    assert status == 503
    assert message.startswith("Service unavailable: revision 00001 cannot be reached")


def test_nothing_is_sent_to_who_listens_at_the_port_of_a_revision_that_is_gone(tmp_path: Path) -> None:
    async def run() -> tuple[list[tuple[int, Any]], list[bytes]]:
        got, asked = [], []

        async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with closing(writer):
                asked.append(await reader.read())

        async with setup(tmp_path) as (gateway, client, urls, _):
            server = await asyncio.start_server(other, "127.0.0.1", 0)
            taken = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            for weights in ({"r00003": 100}, {"r00003": 99, "r00001": 1}):
                route(tmp_path, urls | {"00003": taken}, **weights)
                async with client.post(gateway + PREDICT, data=b"secret") as answer:
                    got.append((answer.status, await answer.json()))
            server.close()
            return got, asked

    got, asked = asyncio.run(run())
    gone = "Service unavailable: revision 00003 cannot be reached (its process is gone)."
    assert got == [(503, {"error": gone}), (201, {"from": "00001"})]
    assert asked == [b"", b""]


def test_a_client_that_goes_away_is_passed_on(tmp_path: Path) -> None:
    async def run() -> None:
        async with setup(tmp_path) as (gateway, client, urls, revisions):
            route(tmp_path, urls, r00001=100)
            asked = asyncio.create_task(client.post(f"{gateway}/v1/models/slow:predict"))
            await asyncio.wait_for(revisions["00001"].reached.wait(), 5)
            asked.cancel()
            await asyncio.wait_for(revisions["00001"].disconnected.wait(), 5)

    asyncio.run(run())


# What is let in.


def test_pages_may_send_the_headers_of_openais_own_client() -> None:
    async def run() -> tuple[int, str | None]:
        app = Door(_answer, policy=lambda: Policy(origins=("https://chat.example.org",)))
        headers = {
            "Origin": "https://chat.example.org",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang,x-stainless-os",
        }
        async with (
            listening(app) as url,
            ClientSession() as client,
            client.options(url + CHAT, headers=headers) as got,
        ):
            return got.status, got.headers.get("access-control-allow-headers")

    status, allowed = asyncio.run(run())
    assert status == 200
    assert "x-stainless-lang" in (allowed or "")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/repository/models/m/unload", 404),
        ("POST", "/v2/repository/models/m/load", 404),
        ("POST", "/v2%2Frepository/models/m/unload", 404),
        ("POST", "/v2/models/../repository/models/m/unload", 404),
        ("POST", "/v2/models/%2e%2e/infer", 404),
        ("POST", "//v1/models/m:predict", 404),
        ("GET", "/docs", 404),
        ("GET", "/metrics", 404),  # of one predictor alone
        ("GET", "/openapi.json", 404),
        ("GET", "/v1/models/m%0a", 404),
        ("POST", "/openai/v1/embeddings", 404),
        ("DELETE", "/v1/models/m", 405),
        ("PUT", PREDICT, 405),
        ("POST", "/v1/models/m:explain", 405),
        ("OPTIONS", PREDICT, 405),
        ("TRACE", "/", 405),
    ],
)
def test_what_no_user_of_a_model_asks_for_reaches_no_revision(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async def run() -> tuple[int, list[Any]]:
        async with setup(tmp_path) as (gateway, client, urls, revisions):
            route(tmp_path, urls, r00001=100)
            async with client.request(method, URL(gateway + path, encoded=True)) as got:
                await got.read()
                return got.status, revisions["00001"].seen

    assert asyncio.run(run()) == (status, [])


@pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/models/org/m", "/v2", READY, "/v2/models/m/ready"])
def test_what_users_of_a_model_ask_for_is_passed_on(tmp_path: Path, path: str) -> None:
    async def run() -> tuple[int, list[Any]]:
        async with setup(tmp_path) as (gateway, client, urls, revisions):
            route(tmp_path, urls, r00001=100)
            async with client.get(gateway + path) as got:
                return got.status, revisions["00001"].seen

    assert asyncio.run(run()) == (201, [("GET", path, b"")])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "attacker.example"}, 421),
        ({"host": "localhost.attacker.example"}, 421),
        ({"host": "10.0.0.7:80"}, 421),
        ({"host": "127.0.0.1@attacker.example"}, 421),
        ({"host": ""}, 421),
        ({"origin": "https://attacker.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "text/plain; application/json"}, 415),
        ({"content-type": "application/json; charset=utf-16"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"host": "localhost:1"}, 201),
        ({"host": "LOCALHOST."}, 201),
        ({"host": "[::1]:80"}, 201),
        ({"host": "127.0.0.2"}, 201),
        ({"content-type": "Application/JSON; charset=UTF-8"}, 201),
    ],
)
def test_only_programs_that_name_the_service_and_send_json_are_let_in(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async def run() -> tuple[int, list[Any]]:
        async with setup(tmp_path) as (gateway, client, urls, revisions):
            route(tmp_path, urls, r00001=100)
            async with client.post(gateway + PREDICT, data=b"{}", headers=headers) as got:
                return got.status, revisions["00001"].headers

    found, seen = asyncio.run(run())
    assert found == status
    assert [each["content-type"] for each in seen] == ["application/json"] * (status == 201)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /v1/models/m:predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}", 415),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n", 400),
        (b"GET http://localhost/ HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
        (b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\norigin: null\r\norigin: null\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 10_000, 431),
    ],
)
def test_a_request_that_is_none_is_refused_with_one_line(
    tmp_path: Path, head: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> bytes:
        async with setup(tmp_path) as (gateway, _, urls, revisions):
            route(tmp_path, urls, r00001=100)
            answer = await raw(gateway, head.replace(b"1.1\r\n", b"1.1\r\nconnection: close\r\n", 1))
            assert revisions["00001"].seen == []
            return answer

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(run()).split()[1] == str(status).encode()
    assert len(caplog.text.splitlines()) == 1


def test_pages_and_names_that_a_revision_allows_may_ask_and_no_others(tmp_path: Path) -> None:
    page, name = "https://chat.example", "models.example"

    async def run() -> list[Any]:
        async with setup(tmp_path) as (gateway, client, urls, revisions):
            route(tmp_path, urls, rules={"allowed_origins": [page], "allowed_hosts": [name]}, r00001=100)
            found: list[Any] = []
            asks = {"origin": page, "access-control-request-method": "POST", "host": name}
            async with client.options(gateway + PREDICT, headers=asks) as got:
                found.append((got.status, got.headers["access-control-allow-origin"]))
            for origin in (page, "https://attacker.example"):
                async with client.post(gateway + PREDICT, headers={"origin": origin, "host": name}) as got:
                    found.append((got.status, got.headers.get("access-control-allow-origin")))
            sent = revisions["00001"].headers
            found.append((len(sent), "origin" in sent[0], sent[0]["host"] == URL(urls["00001"]).authority))
            async with client.options(
                gateway + "/v2/repository/models/m/unload", headers={"origin": page}
            ) as got:
                found.append(got.status)
            return found

    assert asyncio.run(run()) == [(200, page), (201, page), (403, None), (1, False, True), 404]


def test_on_more_than_loopback_any_name_is_taken_unless_some_are_configured() -> None:
    def taken(policy: Policy) -> list[str]:
        hosts = ("localhost", "127.0.0.1:80", "10.1.2.3:8080", "m.ns.svc", "m.example", "bad host", "")
        return [host for host in hosts if policy.is_ours(host)]

    everywhere = ["localhost", "127.0.0.1:80", "10.1.2.3:8080", "m.ns.svc", "m.example"]
    assert taken(policy_of("", "", "127.0.0.1")) == ["localhost", "127.0.0.1:80"]
    assert taken(policy_of("M.example", "", "127.0.0.1")) == ["localhost", "127.0.0.1:80", "m.example"]
    assert taken(policy_of("", "", "0.0.0.0")) == everywhere  # noqa: S104  nothing listens
    assert taken(policy_of("*", "", "::1")) == everywhere
    assert taken(policy_of('["m.ns.svc"]', "", "::")) == [
        "localhost",
        "127.0.0.1:80",
        "10.1.2.3:8080",
        "m.ns.svc",
    ]


# How much, and how long.


class Hasty(LimitedProtocol):
    """Limits that a test can wait for."""

    head_seconds = 0.3
    stall_seconds = 0.3
    rest_seconds = 0.2
    max_connections = 4


HEAD = b"POST /v1/models/m:predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


def test_a_head_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    async def run() -> bytes:
        async with setup(tmp_path, Hasty) as (gateway, *_):
            return await raw(gateway, HEAD[:40])

    assert asyncio.run(run()).startswith(b"HTTP/1.1 408 ")


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def test_a_body_that_does_not_come_is_not_waited_for_and_an_endless_one_not_read() -> None:
    async def run() -> list[bytes]:
        app = Door(Bodies(_answer, max_bytes=100, seconds=0.3), policy=Policy)
        async with listening(app, Hasty) as url:
            return [
                await raw(url, HEAD + b"content-length: 90\r\n\r\n{"),
                await raw(url, HEAD + b"content-length: 900000\r\n\r\n{"),
                await raw(url, HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"8\r\n12345678\r\n" * 100),
            ]

    late, large, endless = asyncio.run(run())
    assert (late.split()[1], large.split()[1], endless.split()[1]) == (b"408", b"413", b"413")


def test_the_largest_unfinished_body_gives_way_when_all_together_are_too_large() -> None:
    async def run() -> tuple[bytes, bytes, int]:
        bodies = Bodies(_answer, max_bytes=1000, max_held=1500, seconds=20)
        async with listening(Door(bodies, policy=Policy), Hasty) as url:
            hostile = asyncio.create_task(raw(url, HEAD + b"content-length: 1000\r\n\r\n" + b"x" * 999))
            while bodies.held != 999:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            good = HEAD + b"connection: close\r\ncontent-length: 600\r\n\r\n" + b"x" * 600
            return await raw(url, good), await hostile, bodies.held

    good, hostile, held = asyncio.run(run())
    assert good.startswith(b"HTTP/1.1 200 ")
    assert hostile.startswith(b"HTTP/1.1 503 ")
    assert held == 0


class Sending:
    """Bodies that come piece by piece, and the status that each of their requests is answered with."""

    def __init__(self, **limits: Any) -> None:
        self.bodies = Bodies(_answer, **limits)
        self._pieces: dict[str, asyncio.Queue[Any]] = {}
        self._answers: dict[str, asyncio.Task[int]] = {}

    def send(self, name: str, size: int, *, last: bool = False) -> None:
        if name not in self._pieces:
            self._pieces[name] = asyncio.Queue()
            self._answers[name] = asyncio.create_task(self._ask(self._pieces[name]))
        self._pieces[name].put_nowait({"type": "http.request", "body": b"x" * size, "more_body": not last})

    async def _ask(self, pieces: asyncio.Queue[Any]) -> int:
        found: list[Any] = []

        async def sent(message: Any) -> None:
            found.append(message)

        scope = {"type": "http", "method": "POST", "path": PREDICT, "headers": []}
        await self.bodies(scope, pieces.get, sent)
        return int(found[0]["status"])

    async def statuses(self) -> dict[str, int]:
        async with asyncio.timeout(5):
            return {name: await answer for name, answer in self._answers.items()}


def test_one_body_gives_way_where_one_is_enough_however_many_pieces_come_at_once() -> None:
    async def run() -> tuple[dict[str, int], int]:
        sending = Sending(max_bytes=1000, max_held=1000, seconds=20)
        for name, size in (("large", 900), ("second", 40), ("third", 40)):
            sending.send(name, size)
        await asyncio.sleep(0.01)
        for last in (False, True):
            sending.send("second", 30, last=last)
            sending.send("third", 30, last=last)
            await asyncio.sleep(0.01)
        return await sending.statuses(), sending.bodies.held

    assert asyncio.run(run()) == ({"large": 503, "second": 200, "third": 200}, 0)


def test_a_body_whose_time_is_just_up_is_no_error_of_the_one_that_needs_its_room() -> None:
    async def run() -> tuple[dict[str, int], int]:
        sending = Sending(max_bytes=1000, max_held=1000, seconds=0.3)
        sending.send("late", 900)
        await asyncio.sleep(0.2)
        sending.send("good", 50)
        await asyncio.sleep(0.01)
        time.sleep(0.12)  # noqa: ASYNC251  the late one's time is up in the turn in which the other's piece comes
        asyncio.get_running_loop().call_soon(partial(sending.send, "good", 100, last=True))
        return await sending.statuses(), sending.bodies.held

    assert asyncio.run(run()) == ({"late": 408, "good": 200}, 0)


def test_the_connection_that_asked_for_nothing_for_longest_makes_room(tmp_path: Path) -> None:
    async def run() -> list[int]:
        async with setup(tmp_path, Hasty) as (gateway, client, urls, _):
            route(tmp_path, urls, r00001=100)
            address = URL(gateway).host, URL(gateway).port
            waiting = [await asyncio.open_connection(*address) for _ in range(10)]
            found = []
            for _ in range(3):
                async with client.get(gateway + READY) as got:
                    found.append(got.status)
            assert await waiting[0][0].read() == b""
            for _, writer in waiting:
                writer.close()
            return found

    assert asyncio.run(run()) == [201] * 3


def test_a_client_that_does_not_read_its_answer_is_left(tmp_path: Path) -> None:
    async def run() -> None:
        async with setup(tmp_path, Hasty) as (gateway, _, urls, revisions):
            route(tmp_path, urls, r00001=100)
            _, writer = await asyncio.open_connection(URL(gateway).host, URL(gateway).port, limit=1)
            writer.write(HEAD.replace(b"/m:", b"/large:") + b"content-length: 0\r\n\r\n")
            await asyncio.wait_for(revisions["00001"].disconnected.wait(), 20)
            writer.close()

    asyncio.run(run())


def test_a_revision_that_does_not_answer_is_answered_for_in_time(tmp_path: Path) -> None:
    async def run() -> tuple[int, Any, float]:
        async with setup(tmp_path) as (gateway, client, urls, revisions):
            route(tmp_path, urls, rules={"timeout_seconds": 0.2}, r00001=100)
            clock = asyncio.get_running_loop().time
            started = clock()
            async with client.post(f"{gateway}/v1/models/slow:predict") as got:
                found = got.status, await got.json(), clock() - started
            await asyncio.wait_for(revisions["00001"].disconnected.wait(), 5)
            return found

    status, body, seconds = asyncio.run(run())
    assert (status, body) == (504, {"error": "Revision 00001 did not answer within 2.2 s."})
    assert seconds < 5.2


def test_a_file_of_routes_that_cannot_be_read_leaves_the_traffic_where_it_is(tmp_path: Path) -> None:
    async def run() -> list[int]:
        async with setup(tmp_path) as (gateway, client, urls, _):
            route(tmp_path, urls, r00001=100)
            found = []
            for broken in (None, "{", "[]", '{"routes": [{}]}', '{"routes": 5}'):
                if broken is not None:
                    (tmp_path / "routes.json").write_text(broken)
                async with client.get(gateway + READY) as got:
                    found.append(got.status)
            return found

    assert asyncio.run(run()) == [201] * 5


def test_a_connection_that_sends_many_requests_at_once_is_ended(tmp_path: Path) -> None:
    async def run() -> tuple[bytes, bytes]:
        async with setup(tmp_path) as (gateway, _, urls, _):
            route(tmp_path, urls, r00001=100)
            ask, last = (
                f"GET {READY} HTTP/1.1\r\nHost: localhost\r\n{close}\r\n".encode()
                for close in ("", "Connection: close\r\n")
            )
            return await raw(gateway, ask * 2 + last), await raw(gateway, ask * 200)

    few, many = asyncio.run(run())
    assert few.count(b"HTTP/1.1 201") == 3
    assert many.count(b"HTTP/1.1 201") <= 5


def test_what_each_revision_has_answered_is_counted_and_what_a_client_leaves_is_not(tmp_path: Path) -> None:
    async def run() -> None:
        async with setup(tmp_path) as (gateway, client, urls, revisions):

            async def post(model: str) -> int | None:
                try:
                    async with client.post(f"{gateway}/v1/models/{model}:predict", json={}) as got:
                        await got.read()
                        return got.status
                except ClientError:
                    return None

            route(tmp_path, urls, r00001=75, r00002=25)
            assert [await post("m") for _ in range(8)] == [201] * 8
            async with client.get(f"{gateway}{READY}") as got:  # no request of the model's
                assert got.status == 201
            route(tmp_path, urls, r00002=100)
            assert [await post("failing"), await post("breaking"), await post("busy")] == [500, None, 429]
            assert await post("missing") == 404  # a wrong request, whoever answers it
            leaving = asyncio.create_task(post("slow"))
            await revisions["00002"].reached.wait()
            leaving.cancel()
            await revisions["00002"].disconnected.wait()
            async with client.get(f"{gateway}/gateway/status") as got:
                answered = (await got.json())["answered"]
            assert {name: (each["requests"], each["errors"]) for name, each in answered.items()} == {
                "00001": (6, 0),
                "00002": (5, 3),
            }
            assert {name: sum(each["seconds"].values()) for name, each in answered.items()} == {
                "00001": 6,
                "00002": 2,
            }

    asyncio.run(run())
