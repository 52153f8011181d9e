"""Steps that wait for long: why is said once for each reason, and again when the time is up."""

from __future__ import annotations

import pytest

from airflow_provider_llmops.backends.pipelines import waiting
from airflow_provider_llmops.backends.pipelines.base import Run, Wait
from airflow_provider_llmops.backends.pipelines.waiting import WaitWatch
from airflow_provider_llmops.states import RunState

UNSCHEDULABLE = Wait("train", "Unschedulable", "Unschedulable: 0/1 nodes are available.")


@pytest.fixture
def clock(monkeypatch):
    """Seconds that have passed; may be set."""
    seconds = [1000.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: seconds[0])
    return seconds


def run(state=RunState.RUNNING, **tasks) -> Run:
    return Run("r", "name", state, tasks=tasks)


def test_why_is_asked_after_a_minute_and_then_once_a_minute_until_nothing_waits(clock):
    watch = WaitWatch()
    assert watch.due_in is None
    watch.see(run(prepare="SUCCEEDED", train="PENDING"))
    assert watch.due_in == 60
    clock[0] += 59
    watch.see(run(prepare="SUCCEEDED", train="PENDING"))
    assert watch.due_in == 1
    clock[0] += 2
    assert watch.due_in == 0
    watch.ask()
    assert watch.learn([UNSCHEDULABLE]) == [
        "Step 'train' has waited for 61 s: Unschedulable: 0/1 nodes are available."
    ]
    assert watch.due_in == 60
    assert watch.reason == "Step 'train' still waits: Unschedulable: 0/1 nodes are available"
    watch.see(run(prepare="SUCCEEDED", train="RUNNING"))
    assert (watch.due_in, watch.reason) == (None, None)


def test_each_reason_is_told_once(clock):
    watch = WaitWatch()
    watch.see(run(train="PENDING", report="PENDING"))
    pulling = Wait("train", "ImagePullBackOff", "ErrImagePull: not found")
    backing_off = Wait("train", "ImagePullBackOff", "ImagePullBackOff: Back-off pulling image")
    clock[0] += 60
    assert len(watch.learn([pulling])) == 1
    clock[0] += 60
    assert watch.learn([backing_off]) == []
    assert watch.reason == "Step 'train' still waits: ErrImagePull: not found"
    clock[0] += 60
    assert watch.learn([UNSCHEDULABLE]) == [
        "Step 'train' has waited for 180 s: Unschedulable: 0/1 nodes are available."
    ]
    assert watch.learn([]) == []


def test_reason_without_a_step_is_that_of_all_and_a_run_without_steps_waits_itself(clock):
    unknown = Wait("", "NoConnection", "name a connection")
    watch = WaitWatch()
    watch.see(run(train="PENDING", report="PENDING"))
    clock[0] += 60
    assert watch.learn([unknown]) == [
        f"Step {step!r} has waited for 60 s: name a connection" for step in ("train", "report")
    ]
    watch = WaitWatch()
    watch.see(run(RunState.PENDING))
    clock[0] += 60
    assert watch.learn([unknown]) == ["The run has waited for 60 s: name a connection"]
    watch.see(run(RunState.FAILED))
    assert watch.due_in is None


def test_nobody_who_can_be_asked_is_not_asked_again(clock):
    watch = WaitWatch()
    watch.see(run(train="PENDING"))
    clock[0] += 60
    watch.ask()
    assert watch.due_in == 60
    assert len(watch.learn([Wait("", "NoConnection", "name a connection")])) == 1
    assert watch.due_in is None
    assert watch.reason == "Step 'train' still waits: name a connection"


def test_answer_that_comes_when_nothing_waits_any_more_is_not_told(clock):
    watch = WaitWatch()
    watch.see(run(train="PENDING"))
    clock[0] += 60
    watch.ask()
    watch.see(run(train="RUNNING"))
    assert (watch.learn([UNSCHEDULABLE]), watch.reason) == ([], None)


def test_step_is_named_by_its_pod_where_the_server_does_not_tell_which_one_waits(clock, monkeypatch):
    monkeypatch.setattr(waiting.time, "time", lambda: 10_000.0)
    watch = WaitWatch()
    going = Run("r", "name", RunState.RUNNING, tasks={"a": "RUNNING", "b": "RUNNING"}, waits=True)
    watch.see(going)
    clock[0] += 60
    young, old = (
        Wait("a", "Unschedulable", "no node", 9_999.0),
        Wait("b", "Unschedulable", "no node", 9_900.0),
    )
    assert watch.learn([young, old]) == ["Step 'b' has waited for 100 s: no node"]
    assert watch.reason == "Step 'b' still waits: no node"
    assert watch.learn([young]) == []
    assert watch.reason == "Step 'a' still waits: no node"


def test_reason_of_a_pod_that_was_made_late_is_known_before_it_is_told(clock, monkeypatch):
    """A driver's pod runs before a step's own, so that the step waits longer than its pod: the time may be up between."""
    monkeypatch.setattr(waiting.time, "time", lambda: clock[0])
    watch = WaitWatch()
    watch.see(run(train="PENDING"))
    clock[0] += 60
    late = Wait("train", "Unschedulable", "Unschedulable: 0/1 nodes are available.", since=clock[0] - 45)
    assert watch.learn([late]) == []
    assert watch.reason == "Step 'train' still waits: Unschedulable: 0/1 nodes are available"
    clock[0] += 60
    assert watch.learn([late]) == [
        "Step 'train' has waited for 105 s: Unschedulable: 0/1 nodes are available."
    ]
