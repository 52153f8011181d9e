"""Requests a minute, of questions to a service and to a judge."""

from __future__ import annotations

import asyncio
import time

import pytest
from hostile_service import Does, hostile_service
from llmops_components.errors import SettingError
from llmops_components.evaluation.judge.memory import Memory
from llmops_components.evaluation.judge.settings import JudgeSettings
from llmops_components.evaluation.metrics.plan import plan_metrics
from llmops_components.evaluation.scored import Given, score_rows
from llmops_components.inference import pool
from llmops_components.inference.client import Client
from llmops_components.inference.pace import Pace
from llmops_components.inference.pool import Limits, Outcome, ask_all
from llmops_components.inference.protocols import Question
from llmops_components.inference.service import Service
from scripted_judge import verdict

PER_MINUTE = 1200
INTERVAL = 60 / PER_MINUTE


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.delenv("LLMOPS_CHECKPOINTS", raising=False)


class Clocked:
    """What a server does, and when it was asked."""

    def __init__(self, busy: int = 0, retry_after: float = 0.0) -> None:
        self.times: list[float] = []
        self._busy, self._retry_after = busy, retry_after

    def __call__(self, prompt: str, nth: int) -> Does:
        self.times.append(time.monotonic())
        if len(self.times) <= self._busy:
            return Does(429, {}, {"Retry-After": str(self._retry_after)})
        return Does()

    @property
    def most_a_second(self) -> int:
        times = sorted(self.times)
        return max(sum(begin <= each < begin + 1 for each in times) for begin in times)


def ask(server: Clocked, count: int, **limits: float) -> list[Outcome]:
    found: list[Outcome] = []

    async def run(url: str) -> None:
        async with Client(Service(url, "m", "openai_chat", {})) as client:
            questions = ((number, Question(f"q{number}", {})) for number in range(count))
            await ask_all(client, questions, found.append, concurrency=8, limits=Limits(**limits))

    with hostile_service(server) as service:
        asyncio.run(run(service.url))
    return found


def test_requests_are_evenly_apart_however_many_are_waiting_and_all_have_their_turn():
    server = Clocked()
    found = ask(server, 30, requests_per_minute=PER_MINUTE)
    assert sorted(each.number for each in found) == list(range(30))
    assert all(each.reply for each in found)
    assert max(server.times) - min(server.times) > 29 * INTERVAL * 0.9
    assert server.most_a_second <= 1 / INTERVAL + 2  # a request takes a moment on its way
    # In the order in which they came, no more apart than questions are asked at a time.
    assert all(abs(place - each.number) <= 8 for place, each in enumerate(found))


def test_requests_that_are_sent_again_count_and_wait_for_the_time_that_the_server_names():
    server = Clocked(busy=8, retry_after=1)
    found = ask(server, 12, requests_per_minute=PER_MINUTE)
    assert all(each.reply for each in found) and len(server.times) > 12
    before = [each for each in server.times if each < server.times[0] + 0.5]
    assert len(before) <= 8
    again = sorted(set(server.times) - set(before))
    assert again[0] >= server.times[0] + 1
    assert again[-1] - again[0] > (len(again) - 1) * INTERVAL * 0.9


def test_waiting_for_a_turn_is_no_outage():
    """The last of these waits for longer than the service may be without an answer."""
    server = Clocked(busy=1, retry_after=0)
    found = ask(server, 24, requests_per_minute=600, outage_seconds=0.3, request_seconds=0.3)
    assert [each.failure for each in found] == [None] * 24


def test_who_is_cancelled_takes_no_turn():
    async def run() -> float:
        pace = Pace(60 / 0.2)
        await pace.wait()
        waiting = [asyncio.create_task(pace.wait()) for _ in range(50)]
        await asyncio.sleep(0)
        for each in waiting:
            each.cancel()
        return await pace.wait()

    assert asyncio.run(run()) < 5  # ten seconds, were it behind the others


def test_without_a_limit_nothing_waits():
    began = time.monotonic()
    assert asyncio.run(Pace(None).wait(began + 100)) == 0 and time.monotonic() - began < 50


def test_a_judge_is_asked_no_more_often(tmp_path):
    times: list[float] = []

    def judge(prompt: str, nth: int) -> Does:
        times.append(time.monotonic())
        return verdict(prompt, nth)

    with hostile_service(judge) as server:
        settings = JudgeSettings.of(
            {"url": f"{server.url}/v1", "model_name": "j", "limits": {"requests_per_minute": PER_MINUTE}}
        )
        plan = plan_metrics(["answer_accuracy"], judge=settings)
        rows = [{"prompt": f"q{i}", "reference": f"r{i}"} for i in range(8)]
        with Memory(tmp_path / "judge.jsonl", outlives=True) as memory:
            scored = score_rows(plan, rows, [Given(f"a{i}") for i in range(8)], judge=settings, memory=memory)
    assert scored.scores["answer_accuracy"].are_there.all()
    assert len(times) == 16 and max(times) - min(times) > 15 * INTERVAL * 0.9


@pytest.mark.parametrize("value", [0, -1, "60", True, float("inf")])
def test_a_limit_that_is_none_is_refused(value):
    with pytest.raises(SettingError, match=r"limits: requests_per_minute is .*Give a number above 0"):
        Limits.of({"requests_per_minute": value})
