"""The gateway over real HTTP, in front of small servers that stand for revisions."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, web
from llmops_components.serving.gateway import Gateway, Routes
from llmops_components.state_files import write_json
from yarl import URL


class Revision:
    """Answers with its own name; remembers what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.disconnected = asyncio.Event()
        self.reached = asyncio.Event()
        self.seen: list[tuple[str, str, bytes]] = []

    async def echo(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, request.raw_path, await request.read()))
        await asyncio.sleep(0.002)
        return web.json_response({"from": self.name}, status=201, headers={"x-own": "kept"})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        for number in range(3):
            await answer.write(f"data: {number}\n\n".encode())
            await asyncio.sleep(0.05)
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
async def setup(path: Path) -> AsyncIterator[tuple[str, ClientSession, dict[str, str], dict[str, Revision]]]:
    """Two revisions, a gateway without routes, a client."""
    revisions = {name: Revision(name) for name in ("00001", "00002")}
    urls = {}
    async with ClientSession() as client:
        apps = []
        for revision in revisions.values():
            app = web.Application()
            app.router.add_route("*", "/echo", revision.echo)
            app.router.add_get("/stream", revision.stream)
            app.router.add_post("/slow", revision.slow)
            apps.append(app)
        forwarding = Gateway(Routes(path / "routes.json")).application()
        async with (
            serving(apps[0]) as urls["00001"],
            serving(apps[1]) as urls["00002"],
            serving(forwarding) as gateway,
        ):
            yield gateway, client, urls, revisions


def route(path: Path, urls: dict[str, str], **weights: int) -> None:
    routes = [
        {"revision": name[1:], "url": urls[name[1:]], "weight": weight} for name, weight in weights.items()
    ]
    write_json(path / "routes.json", {"routes": routes})


def test_passes_method_path_body_status_and_headers_and_names_the_revision(tmp_path: Path) -> None:
    async def run() -> None:
        async with setup(tmp_path) as (gateway, client, urls, revisions):
            route(tmp_path, urls, r00001=100)
            async with client.put(URL(f"{gateway}/echo?a=%2F&b=1", encoded=True), data=b"\x00body") as got:
                assert (got.status, await got.json()) == (201, {"from": "00001"})
                assert (got.headers["x-own"], got.headers["x-llmops-revision"]) == ("kept", "00001")
            assert revisions["00001"].seen == [("PUT", "/echo?a=%2F&b=1", b"\x00body")]

    asyncio.run(run())


def test_says_503_while_no_revision_has_traffic(tmp_path: Path) -> None:
    async def run() -> tuple[int, Any]:
        async with setup(tmp_path) as (gateway, client, _, _), client.get(f"{gateway}/echo") as got:
            return got.status, await got.json()

    assert asyncio.run(run()) == (
        503,
        {
            "error": {
                "message": "Service unavailable: no revision of this service has traffic; route some to a ready revision.",
                "type": "server_error",
                "param": None,
                "code": "service_unavailable",
            }
        },
    )


def test_splits_requests_exactly_by_weight(tmp_path: Path) -> None:
    async def run() -> Counter[str]:
        async with setup(tmp_path) as (gateway, client, urls, _):
            route(tmp_path, urls, r00001=90, r00002=10)
            answered: Counter[str] = Counter()
            for _ in range(50):
                async with client.get(f"{gateway}/echo") as got:
                    answered[got.headers["x-llmops-revision"]] += 1
            return answered

    assert asyncio.run(run()) == {"00001": 45, "00002": 5}


def test_streams_pieces_as_they_come(tmp_path: Path) -> None:
    async def run() -> list[tuple[float, bytes]]:
        async with setup(tmp_path) as (gateway, client, urls, _):
            route(tmp_path, urls, r00001=100)
            clock = asyncio.get_running_loop().time
            started = clock()
            async with client.get(f"{gateway}/stream") as got:
                return [(clock() - started, piece) async for piece in got.content.iter_any()]

    got = asyncio.run(run())
    assert [piece for _, piece in got] == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]
    assert got[2][0] - got[0][0] > 0.08


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
                    async with client.post(f"{gateway}/echo", data=b"x") as got:
                        answered[got.status, (await got.json())["from"]] += 1
                        assert not after or got.headers["x-llmops-revision"] == "00002"

            async def switch() -> dict[str, int]:
                nonlocal switched
                await asyncio.sleep(0.05)
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
            async with client.post(f"{gateway}/echo", data=b"x") as got:
                return got.status, got.headers["x-llmops-revision"]

    assert asyncio.run(run()) == (201, "00002")


def test_a_dead_only_revision_is_named(tmp_path: Path) -> None:
    async def run() -> tuple[int, str]:
        async with setup(tmp_path) as (gateway, client, _, _):
            route(tmp_path, {"00001": "http://127.0.0.1:9"}, r00001=100)
            async with client.post(f"{gateway}/echo", data=b"x") as got:
                return got.status, json.loads(await got.read())["error"]["message"]

    status, message = asyncio.run(run())
    assert status == 503
    assert message.startswith("Service unavailable: revision 00001 cannot be reached")


def test_a_client_that_goes_away_is_passed_on(tmp_path: Path) -> None:
    async def run() -> None:
        async with setup(tmp_path) as (gateway, client, urls, revisions):
            route(tmp_path, urls, r00001=100)
            asked = asyncio.create_task(client.post(f"{gateway}/slow"))
            await asyncio.wait_for(revisions["00001"].reached.wait(), 5)
            asked.cancel()
            await asyncio.wait_for(revisions["00001"].disconnected.wait(), 5)

    asyncio.run(run())
