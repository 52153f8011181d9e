"""What the predictor counts of its answers, as Prometheus' own parser reads it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from llmops_components.serving.http.bodies import Bodies
from llmops_components.serving.predictor.counting import BOUNDS_SECONDS, Counted
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY = {"type": "http.request", "body": b"{}", "more_body": False}
GONE = {"type": "http.disconnect"}
Answer = Callable[[Receive, Send], Awaitable[None]]


def counted() -> dict[str, float]:
    """What was counted so far: by code of the answer, and the number and the seconds of those without an error."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(REGISTRY).decode()):
        for sample in family.samples:
            if sample.name == "llmops_requests_total":
                found[sample.labels["code"]] = sample.value
            elif sample.name.startswith("llmops_request_duration_seconds_") and "le" not in sample.labels:
                found[sample.name.rpartition("_")[2]] = sample.value
    return found


def added_by(app: ASGIApp, *messages: Message, method: str = "POST") -> dict[str, float]:
    """What the answer to one request adds to what is counted, besides the seconds that it took."""
    before, coming = counted(), list(messages)

    async def receive() -> Message:
        message = coming.pop(0)
        await asyncio.sleep(message.get("after", 0.0))
        return message

    async def send(message: Message) -> None:
        pass

    async def run() -> None:
        scope: Scope = {"type": "http", "method": method, "path": "/v1/models/m:predict", "headers": []}
        with contextlib.suppress(ArithmeticError, ClientDisconnect):
            await app(scope, receive, send)

    asyncio.run(run())
    return {key: value - before.get(key, 0.0) for key, value in counted().items() if value != before.get(key)}


def application(answer: Answer) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await answer(receive, send)

    return app


def answering(status: int, *, whole: bool = True) -> Answer:
    async def answer(receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        if whole:
            await send({"type": "http.response.body", "body": b""})

    return answer


async def fails_first(receive: Receive, send: Send) -> None:
    raise ArithmeticError


async def fails_after_its_answer_has_begun(receive: Receive, send: Send) -> None:
    await answering(200, whole=False)(receive, send)
    raise ArithmeticError


async def answers_and_listens(receive: Receive, send: Send) -> None:
    await answering(200)(receive, send)
    await receive()


async def is_left(receive: Receive, send: Send) -> None:
    await answering(200, whole=False)(receive, send)
    await receive()


async def is_left_and_answers_499(receive: Receive, send: Send) -> None:
    await receive()
    await answering(499)(receive, send)


async def cannot_send(receive: Receive, send: Send) -> None:
    raise ClientDisconnect


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (answering(200), {"200": 1, "count": 1}),
        (answering(201), {"201": 1, "count": 1}),
        (answering(399), {"399": 1, "count": 1}),
        (answering(400), {}),
        (answering(428), {}),
        (answering(429), {"429": 1}),
        (answering(430), {}),
        (answering(499), {}),
        (answering(500), {"500": 1}),
        (answering(504), {"504": 1}),
        (answering(200, whole=False), {"cut_off": 1}),
        (fails_first, {"500": 1}),
        (fails_after_its_answer_has_begun, {"cut_off": 1}),
        (answers_and_listens, {"200": 1, "count": 1}),
        (is_left, {}),
        (is_left_and_answers_499, {}),
        (cannot_send, {}),
    ],
)
def test_answers_and_errors_are_counted_as_the_gateway_counts_them(
    answer: Answer, expected: dict[str, float]
) -> None:
    added = added_by(Counted(application(answer)), BODY, GONE)
    assert added.pop("sum", 0.0) >= 0.0
    assert added == expected


def test_health_and_metadata_are_not_counted() -> None:
    assert added_by(Counted(application(answering(200))), BODY, method="GET") == {}
    assert added_by(Counted(application(answering(503))), BODY, method="GET") == {}


def test_the_time_begins_when_the_request_is_whole() -> None:
    first: dict[str, Any] = {"type": "http.request", "body": b"{", "more_body": True}
    slow = {"type": "http.request", "body": b"}", "more_body": False, "after": 0.3}
    added = added_by(Counted(Bodies(application(answering(200)))), first, slow)
    assert added.pop("sum") < 0.2
    assert added == {"200": 1, "count": 1}


def test_a_client_that_goes_away_while_it_sends_is_not_counted_and_a_full_server_is() -> None:
    first: dict[str, Any] = {"type": "http.request", "body": b"{", "more_body": True}
    assert added_by(Counted(Bodies(application(answering(200)))), first, GONE) == {}
    assert added_by(Counted(Bodies(application(answering(200)), max_held=0)), BODY) == {"503": 1}


def test_a_percentile_is_at_most_a_fifth_too_high() -> None:
    assert all(high / low < 1.2 for low, high in pairwise(BOUNDS_SECONDS))
    assert (BOUNDS_SECONDS[0], BOUNDS_SECONDS[-1] > 1000) == (0.001, True)
