"""The stream that all waiting tasks of a connection share, against the fake API server over HTTP."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from urllib.parse import unquote

import pytest
from airflow.triggers.base import TriggerEvent
from airflow.triggers.shared_stream import SharedStreamManager
from kfp_api import FakeKfpApi, Reset, Status, Timeout, Truncated
from pipelines import two_steps

from airflow_provider_llmops.backends import retrying
from airflow_provider_llmops.backends.pipelines.kubeflow.backend import KubeflowPipelineBackend
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.exceptions import ApiUnavailableError, RunNotFoundError
from airflow_provider_llmops.remote import settle
from airflow_provider_llmops.triggers import run_stream
from airflow_provider_llmops.triggers.pipeline_run import PipelineRunTrigger
from airflow_provider_llmops.triggers.run_stream import RunStream

INTERVAL = 0.05
NEVER = 3600.0
RUNS = "/apis/v2beta1/runs$"
TOKEN = "not-a-real-one"  # noqa: S105


@pytest.fixture(autouse=True)
def short_delays(monkeypatch):
    monkeypatch.setattr(retrying, "FIRST_DELAY_SECONDS", 0.002)
    monkeypatch.setattr(retrying, "MAX_DELAY_SECONDS", 0.02)
    monkeypatch.setattr(run_stream, "GATHER_SECONDS", 0.02)
    monkeypatch.setattr(settle, "MARGIN_SECONDS", 0.0)


def new_runs(api: FakeKfpApi, count: int) -> list[str]:
    with api.state.lock:
        first = api.state.create_run({"display_name": "run", "pipeline_spec": two_steps()})
        return [run.run_id for run in (first, *api.state.copies(first, count - 1))]


def backend_of(api: FakeKfpApi, **settings) -> KubeflowPipelineBackend:
    settings = {"timeout": 5.0, **settings}
    return KubeflowPipelineBackend(KfpSettings(conn_id="kfp", endpoint=api.url, **settings)).impatient()


@asynccontextmanager
async def polled(stream: RunStream, api: FakeKfpApi, **settings):
    """The stream's poll goes on inside."""

    async def connect():
        return backend_of(api, **settings)

    task = asyncio.create_task(stream.poll(connect))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def states_of(stream: RunStream, run_id: str) -> list[str]:
    """States that a watcher is told, up to the last."""
    states: list[str] = []
    async with stream.watch(run_id) as queue:
        ended = False
        while not ended:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            states.append(str(item.state))
            ended = item.state.is_terminal
    return states


async def until(condition, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other threads
            await asyncio.sleep(0.005)


def listings(api: FakeKfpApi) -> int:
    return sum("finished_at" in request.query.get("filter", "") for request in list(api.requests))


def reads(api: FakeKfpApi) -> int:
    return sum("run_id" in request.query.get("filter", "") for request in list(api.requests))


def run(scenario, seconds: float = 20.0):
    return asyncio.run(asyncio.wait_for(scenario, seconds))


# When a run ends


def test_run_that_ended_before_anybody_watched_is_told_at_once(api):
    async def scenario():
        [run_id] = new_runs(api, 1)
        api.finish(run_id)
        stream = RunStream(NEVER)
        async with polled(stream, api):
            return await states_of(stream, run_id)

    assert run(scenario()) == ["SUCCEEDED"]


def test_first_run_of_a_server_is_told_although_none_has_ended_before(api):
    async def scenario():
        watched, _ = new_runs(api, 2)
        stream = RunStream(INTERVAL, reread_seconds=NEVER)
        async with polled(stream, api) as poll:
            telling = asyncio.create_task(states_of(stream, watched))
            await until(lambda: listings(api) >= 2)
            assert not poll.done()
            api.finish(watched)
            return await telling

    assert run(scenario()) == ["PENDING", "SUCCEEDED"]


@pytest.mark.parametrize("skew", [-3 * 86_400, 0, 3 * 86_400])
def test_run_that_ends_between_two_polls_is_told_by_the_next_whatever_the_servers_clock_says(skew):
    async def scenario(api):
        before, *watched = new_runs(api, 4)
        api.finish(before)
        stream = RunStream(INTERVAL, reread_seconds=NEVER)
        async with polled(stream, api):
            telling = asyncio.gather(*(states_of(stream, run_id) for run_id in watched))
            for run_id in watched:
                seen = listings(api)
                await until(lambda seen=seen: listings(api) > seen)
                api.finish(run_id, "FAILED")
            return await telling

    with FakeKfpApi(clock_skew=skew) as api:
        assert run(scenario(api)) == [["PENDING", "FAILED"]] * 3


def test_all_that_end_in_one_second_are_told_over_several_pages(api):
    async def scenario():
        watched = new_runs(api, 250)
        stream = RunStream(INTERVAL, reread_seconds=NEVER)
        async with polled(stream, api):
            telling = asyncio.gather(*(states_of(stream, run_id) for run_id in watched))
            await until(lambda: reads(api) >= 3 and listings(api) >= 1)
            end = datetime.now(UTC)
            with api.state.lock:
                for run_id in watched:
                    api.finish(run_id, finished_at=end)
            return await telling

    assert run(scenario()) == [["PENDING", "SUCCEEDED"]] * 250


def test_end_that_is_recorded_late_is_found_when_the_run_is_read_again(api):
    async def scenario():
        late, other = new_runs(api, 2)
        api.finish(other)
        stream = RunStream(INTERVAL, reread_seconds=2 * INTERVAL)
        async with polled(stream, api):
            telling = asyncio.create_task(states_of(stream, late))
            await until(lambda: listings(api) >= 1)
            api.finish(late, finished_at=datetime.now(UTC) - timedelta(minutes=10))
            return await telling

    assert run(scenario()) == ["PENDING", "SUCCEEDED"]


@pytest.mark.parametrize("what", ["the clock was set back", "a run ends in the future"])
def test_listing_steps_back_to_ends_that_it_would_not_show(api, what, monkeypatch):
    monkeypatch.setattr(run_stream, "LONGEST_STEP_BACK", timedelta(days=365 * 100))

    async def scenario():
        *before, last = new_runs(api, 5)
        for minutes, run_id in enumerate(before):
            api.finish(run_id, finished_at=datetime.now(UTC) - timedelta(minutes=5 * minutes))
        watched = [last, *new_runs(api, 2)]
        if what == "the clock was set back":
            api.clock_skew = -1800
        else:
            api.finish(before[0], finished_at=datetime(2099, 1, 1, tzinfo=UTC))
        stream = RunStream(INTERVAL, reread_seconds=INTERVAL)
        async with polled(stream, api):
            told = [asyncio.create_task(states_of(stream, run_id)) for run_id in watched]
            await until(lambda: listings(api) >= 2)
            api.finish(watched[0])
            ends = [await told[0]]
            stream.reread_seconds = NEVER
            for run_id, telling in zip(watched[1:], told[1:], strict=True):
                seen = listings(api)
                await until(lambda seen=seen: listings(api) >= seen + 3)
                api.finish(run_id)
                ends.append(await telling)
            return ends

    assert run(scenario()) == [["PENDING", "SUCCEEDED"]] * 3


def test_retried_run_is_told_to_go_on_and_then_its_new_end(api):
    async def scenario():
        [run_id] = new_runs(api, 1)
        stream = RunStream(INTERVAL, reread_seconds=NEVER)
        backend = backend_of(api)
        async with polled(stream, api):
            first = asyncio.create_task(states_of(stream, run_id))
            await until(lambda: listings(api) >= 1)
            api.finish(run_id, "FAILED")
            told = await first
            backend.retry(run_id)
            second = asyncio.create_task(states_of(stream, run_id))
            seen = listings(api)
            await until(lambda: listings(api) >= seen + 2)
            api.finish(run_id)  # in the same second, perhaps, as the first end
            return told, await second

    assert run(scenario()) == (["PENDING", "FAILED"], ["RUNNING", "SUCCEEDED"])


@pytest.mark.parametrize("answer", ["a listing", "a read"])
def test_answer_that_was_on_its_way_before_a_run_was_retried_does_not_end_the_wait(api, answer):
    async def scenario():
        run_id, other = new_runs(api, 2)
        stream = RunStream(INTERVAL, reread_seconds=INTERVAL if answer == "a read" else NEVER)
        async with polled(stream, api), stream.watch(other), stream.watch(run_id):
            await until(lambda: listings(api) >= 1)
            api.finish(run_id, "FAILED")
            field = "finished_at" if answer == "a listing" else "run_id"
            answer_now, on_its_way = api.answer, threading.Event()

            def answer_later(request):
                made = answer_now(request)
                if field in request.query.get("filter", "") and not on_its_way.is_set():
                    on_its_way.set()
                    time.sleep(0.3)
                return made

            api.answer = answer_later
            await until(on_its_way.is_set)
            api.advance(run_id, "RUNNING")
            late = asyncio.create_task(states_of(stream, run_id))
            seen = listings(api)
            await until(lambda: listings(api) >= seen + 3)
            api.finish(run_id)
            return await late

    assert run(scenario()) == ["RUNNING", "SUCCEEDED"]


# Watchers


def test_late_subscribers_are_told_between_polls_and_while_one_is_in_flight(api):
    async def scenario():
        first, between, during = new_runs(api, 3)
        api.finish(between)
        stream = RunStream(0.5, reread_seconds=NEVER)
        async with polled(stream, api):
            waiting = asyncio.create_task(states_of(stream, first))
            await until(lambda: reads(api) == 1)
            told = [await states_of(stream, between)]
            assert listings(api) == 0
            api.faults.add(Timeout(0.3), method="GET", path=RUNS, after_effect=True)
            await until(lambda: not api.faults._planned[0].times)
            api.finish(during)
            told.append(await states_of(stream, during))
            api.finish(first, "FAILED")
            return [*told, await waiting]

    assert run(scenario()) == [["SUCCEEDED"], ["SUCCEEDED"], ["PENDING", "FAILED"]]


def test_a_deleted_run_is_told_to_its_watcher_alone(api):
    async def scenario():
        deleted, kept = new_runs(api, 2)
        stream = RunStream(INTERVAL, reread_seconds=INTERVAL)
        async with polled(stream, api) as poll:
            telling = [asyncio.create_task(states_of(stream, run_id)) for run_id in (deleted, kept)]
            await until(lambda: listings(api) >= 1)
            api.delete(deleted)
            with pytest.raises(
                RunNotFoundError, match=f"^Refused with 404: .*Run {deleted[:8]} not found"
            ) as gone:
                await telling[0]
            assert deleted in str(gone.value)
            assert not poll.done()
            api.finish(kept)
            return await telling[1]

    assert run(scenario()) == ["PENDING", "SUCCEEDED"]


def test_one_run_watched_twice_is_told_to_both_and_one_may_leave(api):
    async def scenario():
        [run_id] = new_runs(api, 1)
        stream = RunStream(INTERVAL, reread_seconds=NEVER)
        async with polled(stream, api):
            both = [asyncio.create_task(states_of(stream, run_id)) for _ in range(2)]
            await until(lambda: listings(api) >= 1)
            async with stream.watch(run_id) as queue:
                assert str((await asyncio.wait_for(queue.get(), 5)).state) == "PENDING"
            api.finish(run_id)
            return await asyncio.gather(*both)

    told = run(scenario())
    assert [states[-1] for states in told] == ["SUCCEEDED", "SUCCEEDED"]
    assert {*told[0][:-1], *told[1][:-1]} == {"PENDING"}


def test_steps_are_told_as_they_change(api):
    async def scenario():
        [run_id] = new_runs(api, 1)
        stream = RunStream(INTERVAL, reread_seconds=INTERVAL)
        told = []
        async with polled(stream, api), stream.watch(run_id) as queue:
            for state, tasks in (
                ("RUNNING", {"train": "RUNNING"}),
                ("RUNNING", {"train": "SUCCEEDED", "report": "RUNNING"}),
                ("FAILED", {"train": "SUCCEEDED", "report": "FAILED"}),
            ):
                told.append(await asyncio.wait_for(queue.get(), 5))
                api.advance(run_id, state, tasks=tasks)
            told.append(await asyncio.wait_for(queue.get(), 5))
            await asyncio.sleep(4 * INTERVAL)
            assert queue.empty()
        return [(str(item.state), dict(item.tasks)) for item in told]

    assert run(scenario()) == [
        ("PENDING", {}),
        ("RUNNING", {"train": "RUNNING"}),
        ("RUNNING", {"train": "SUCCEEDED", "report": "RUNNING"}),
        ("FAILED", {"train": "SUCCEEDED", "report": "FAILED"}),
    ]


# Faults


def test_runs_that_end_during_an_outage_are_told_after_it(api):
    async def scenario():
        watched = new_runs(api, 120)
        stream = RunStream(INTERVAL, reread_seconds=NEVER)
        async with polled(stream, api) as poll:
            telling = asyncio.gather(*(states_of(stream, run_id) for run_id in watched))
            await until(lambda: reads(api) == 2 and listings(api) >= 1)
            with api.pause():
                for run_id in watched:
                    api.finish(run_id)
                late = asyncio.create_task(states_of(stream, watched[0]))
                await asyncio.sleep(0.3)
                assert not poll.done()
            return await telling, await late

    states, late = run(scenario())
    assert [told[-1] for told in states] == ["SUCCEEDED"] * 120
    assert late == ["SUCCEEDED"]


@pytest.mark.parametrize("status", [401, 403])
def test_lost_rights_are_told_to_every_watcher_and_end_the_poll(api, status):
    api.token = TOKEN

    async def scenario():
        watched = new_runs(api, 120)
        stream = RunStream(INTERVAL)
        async with polled(stream, api, auth="token", secret=TOKEN) as poll:
            telling = [asyncio.create_task(states_of(stream, run_id)) for run_id in watched]
            await until(lambda: reads(api) == 2 and listings(api) >= 1)
            if status == 401:
                api.token = "another"  # noqa: S105
            else:
                api.faults.always(Status(403))
            errors = await asyncio.gather(*telling, return_exceptions=True)
            await until(poll.done)
        # The rights are back, and so is the stream.
        api.faults.clear()
        api.token = TOKEN
        api.finish(watched[0])
        async with polled(stream, api, auth="token", secret=TOKEN):
            return errors, await states_of(stream, watched[0])

    errors, afterwards = run(scenario())
    assert [getattr(error, "status", error) for error in errors] == [status] * 120
    assert not any(TOKEN in str(error) for error in errors)
    assert afterwards == ["SUCCEEDED"]


def test_restarted_stream_tells_what_ended_while_nobody_polled(api):
    async def scenario():
        watched = new_runs(api, 3)
        stream = RunStream(INTERVAL, reread_seconds=NEVER)
        async with polled(stream, api):
            waiting = [asyncio.create_task(states_of(stream, run_id)) for run_id in watched]
            await until(lambda: listings(api) >= 1)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        api.finish(watched[0])
        api.finish(watched[1], finished_at=datetime.now(UTC) - timedelta(hours=2))
        async with polled(stream, api):
            telling = asyncio.gather(*(states_of(stream, run_id) for run_id in watched))
            await until(lambda: listings(api) >= 2)
            api.finish(watched[2])
            return await telling

    assert run(scenario()) == [["SUCCEEDED"], ["SUCCEEDED"], ["PENDING", "SUCCEEDED"]]


def test_no_end_is_lost_among_random_faults(api):
    """Hundreds of runs, watched and ending at random times, some before and some long after their end is recorded."""
    chance = random.Random(7)  # noqa: S311
    watched = new_runs(api, 400)
    ends = {run_id: chance.choice(["SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"]) for run_id in watched}
    fast = [Reset(), Status(429), Status(503), Truncated(), Truncated(length_matches=True)]
    api.faults.random(0.2, fast, seed=3)
    api.faults.random(0.02, [Timeout(0.1)], seed=4, after_effect=True)

    async def finish(run_id):
        await asyncio.sleep(chance.uniform(0, 3))
        api.advance(run_id, "RUNNING")
        await asyncio.sleep(chance.uniform(0, 0.3))
        late = timedelta(seconds=chance.choice([0, 0, 0, 5, 120]))
        api.finish(run_id, ends[run_id], finished_at=datetime.now(UTC) - late)

    async def wait(stream, run_id):
        await asyncio.sleep(chance.uniform(0, 4))
        return await states_of(stream, run_id)

    async def scenario():
        stream = RunStream(INTERVAL, reread_seconds=0.2)
        async with polled(stream, api):
            finishing = asyncio.gather(*(finish(run_id) for run_id in watched))
            told = await asyncio.gather(*(wait(stream, run_id) for run_id in watched))
            await finishing
            return told

    told = run(scenario(), 40)
    assert {run_id: states[-1] for run_id, states in zip(watched, told, strict=True)} == ends
    assert all(not {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"} & set(states[:-1]) for states in told)
    assert any(request.status in (0, 429, 503) for request in api.requests)


# Requests


def test_requests_do_not_grow_with_the_runs_that_are_watched(api):
    async def scenario():
        watched = new_runs(api, 950)
        stream = RunStream(INTERVAL, reread_seconds=NEVER)
        async with polled(stream, api):
            waiting = [asyncio.create_task(states_of(stream, run_id)) for run_id in watched]
            await until(lambda: reads(api) == 10)
            api.clear_requests()
            intervals = 20
            await until(lambda: listings(api) == intervals)
            assert reads(api) == 0
            for task in waiting:
                task.cancel()

    run(scenario())
    assert {request.path for request in api.requests} == {"/apis/v2beta1/runs"}
    assert api.count() == listings(api)


def test_runs_are_read_a_hundred_at_a_time_and_again_with_one_request_per_listing(api):
    async def scenario():
        watched = new_runs(api, 250)
        stream = RunStream(10 * INTERVAL, reread_seconds=0.0)
        async with polled(stream, api):
            waiting = [asyncio.create_task(states_of(stream, run_id)) for run_id in watched]
            await until(lambda: reads(api) >= 8)
            for task in waiting:
                task.cancel()

    run(scenario())
    filters = [
        json.loads(unquote(request.query["filter"])) for request in api.requests if "filter" in request.query
    ]
    asked = [
        (only["key"], len(only.get("string_values", {}).get("values", ())))
        for [only] in (f["predicates"] for f in filters)
    ]
    assert {size for key, size in asked if key == "run_id"} == {100}
    third_read = [index for index, (key, _) in enumerate(asked) if key == "run_id"][2]
    after = [key for key, _ in asked[third_read + 1 :]]
    assert ("run_id", "run_id") not in pairwise(after)  # a listing is due before each further read


def test_those_who_arrive_without_end_keep_nobody_from_being_listed_or_read_again(api):
    async def scenario():
        late, listed, *arriving = new_runs(api, 500)
        stream = RunStream(INTERVAL, reread_seconds=2 * INTERVAL)
        async with polled(stream, api):
            telling = [asyncio.create_task(states_of(stream, run_id)) for run_id in (late, listed)]
            await until(lambda: reads(api) >= 1)
            api.finish(late, finished_at=datetime.now(UTC) - timedelta(minutes=10))
            api.finish(listed)
            waiting = []
            for run_id in arriving:
                if all(task.done() for task in telling):
                    break
                waiting.append(asyncio.create_task(states_of(stream, run_id)))
                await asyncio.sleep(0.005)
            done = [task.done() for task in telling]
            for task in (*waiting, *telling):
                task.cancel()
            return done

    assert run(scenario()) == [True, True]


# Through Airflow


@pytest.fixture
def conn_id(api, monkeypatch):
    connection = {"conn_type": "kubeflow", "host": api.url, "extra": {"timeout": 5}}
    monkeypatch.setenv("AIRFLOW_CONN_KFP", json.dumps(connection))
    return "kfp"


def trigger(conn_id: str, run_id: str, **arguments) -> PipelineRunTrigger:
    return PipelineRunTrigger(
        kubeflow_conn_id=conn_id, run_id=run_id, poll_interval=INTERVAL, in_one_stream=True, **arguments
    )


async def events_of(
    manager: SharedStreamManager, trigger_id: int, waiting: PipelineRunTrigger
) -> list[TriggerEvent]:
    """What Airflow's triggerer does with a trigger that shares a stream."""
    key = waiting.shared_stream_key()
    stream = manager.subscribe(trigger_id=trigger_id, trigger=waiting, key=key)
    try:
        return [event async for event in waiting.filter_shared_stream(stream)]
    finally:
        await manager.unsubscribe(trigger_id, key)


def event(run_id: str, *, timed_out: bool = False, error: str | None = None) -> TriggerEvent:
    return TriggerEvent({"run_id": run_id, "timed_out": timed_out, "error": error, "log_offset": 0})


def test_triggers_of_a_connection_share_one_poll_that_ends_with_the_last(api, conn_id):
    async def scenario():
        watched = new_runs(api, 150)
        manager = SharedStreamManager()
        waiting = [
            asyncio.create_task(events_of(manager, number, trigger(conn_id, run_id)))
            for number, run_id in enumerate(watched)
        ]
        await until(lambda: listings(api) >= 2)
        assert reads(api) == 2
        for run_id in watched:
            api.finish(run_id, "FAILED")
        events = await asyncio.gather(*waiting)
        assert manager._groups == {}
        before = api.count()
        await asyncio.sleep(4 * INTERVAL)
        assert api.count() == before
        # Somebody waits on the connection again.
        [again] = new_runs(api, 1)
        api.finish(again)
        return watched, events, again, await events_of(manager, 1, trigger(conn_id, again))

    watched, events, again, once_more = run(scenario())
    assert events == [[event(run_id)] for run_id in watched]
    assert once_more == [event(again)]


def test_every_trigger_fires_with_the_reason_when_the_server_refuses(api, conn_id):
    async def scenario():
        watched = new_runs(api, 3)
        manager = SharedStreamManager()
        waiting = [
            asyncio.create_task(events_of(manager, number, trigger(conn_id, run_id)))
            for number, run_id in enumerate(watched)
        ]
        await until(lambda: listings(api) >= 1)
        api.token = TOKEN
        return watched, await asyncio.gather(*waiting)

    watched, events = run(scenario())
    for run_id, [fired] in zip(watched, events, strict=True):
        assert fired.payload["error"].startswith("The run cannot be watched any more: Refused with 401: ")
        assert "The credentials of connection 'kfp' are missing, wrong or expired." in fired.payload["error"]
        assert f"Asked for: list_runs at {api.url}.\n" in fired.payload["error"]
        assert fired.payload["error"].endswith(f"\nRun: {run_id}")


def test_mistake_in_the_poll_fails_the_triggers_instead_of_passing_for_an_answer(api, conn_id, monkeypatch):
    async def scenario():
        watched = new_runs(api, 2)
        manager = SharedStreamManager()
        waiting = [
            asyncio.create_task(events_of(manager, number, trigger(conn_id, run_id)))
            for number, run_id in enumerate(watched)
        ]
        await until(lambda: listings(api) >= 1)
        monkeypatch.setattr(RunStream, "_list", None)
        outcome = await asyncio.gather(*waiting, return_exceptions=True)
        monkeypatch.undo()
        return watched, outcome

    watched, outcome = run(scenario())
    assert [(type(error), str(error)) for error in outcome] == [
        (
            ApiUnavailableError,
            f"The run was lost from sight: TypeError(\"'NoneType' object is not callable\")\nRun: {run_id}",
        )
        for run_id in watched
    ]


def test_deadline_passes_while_the_server_is_unreachable(api, conn_id, monkeypatch):
    monkeypatch.setattr("airflow_provider_llmops.triggers.pipeline_run.CANCEL_PATIENCE_SECONDS", 0.1)

    async def scenario():
        [run_id] = new_runs(api, 1)
        manager = SharedStreamManager()
        with api.pause():
            waiting = trigger(conn_id, run_id, deadline=time.time() + 0.3)
            return run_id, await events_of(manager, 1, waiting)

    run_id, events = run(scenario())
    assert events == [event(run_id, timed_out=True)]


def test_deadline_terminates_the_run(api, conn_id):
    async def scenario():
        [run_id] = new_runs(api, 1)
        events = await events_of(
            SharedStreamManager(), 1, trigger(conn_id, run_id, deadline=time.time() + 0.3)
        )
        await until(lambda: api.runs[run_id]["state"] == "FAILED")
        return run_id, events

    run_id, [ended] = run(scenario())
    why = ended.payload.pop("waits_for")
    assert ended == event(run_id, timed_out=True)
    assert why.startswith("The run still waits: name a Kubernetes connection")
