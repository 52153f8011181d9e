"""The comparison of a canary's answers, watched beside the canary until it has ended."""

from __future__ import annotations

import json
import logging

import pytest
from comparisons import comparison, metric

from airflow_provider_llmops.backends.pipelines.base import Run
from airflow_provider_llmops.backends.serving.base import Answers, Revision, Service
from airflow_provider_llmops.delivery.probes_watch import ProbesWatch
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    ResultError,
    RunNotFoundError,
)
from airflow_provider_llmops.states import RunState, ServiceState
from airflow_provider_llmops.triggers.canary import CanaryStepTrigger

PROBE = {
    "kubeflow_conn_id": "kubeflow_default",
    "run_id": "r",
    "probes": {"dataset": "/d", "min_difference": -0.1},
}
RESULT = {
    "schema_version": 1,
    "component": "compare_revisions",
    "passed": True,
    "findings": [],
    "artifacts": {},
    "metrics": {"rows": 4, "candidate_unanswered": 0},
    "details": {},
    "resources": {},
    "comparison": comparison(rougeL=metric(0.7, 0.7, rows=4)),
}


class Runs:
    """A backend on which one run takes its course."""

    def __init__(self, *course, result=RESULT):
        self.course = list(course)
        self.result = result
        self.cancelled = []

    def get(self, run_id):
        now = self.course.pop(0) if len(self.course) > 1 else self.course[0]
        if isinstance(now, Exception):
            raise now
        return Run(run_id, "comparison", now, error="the data is gone" if now.is_lost else None)

    def read_result(self, run_id, pipeline, task):
        if isinstance(self.result, Exception):
            raise self.result
        assert (pipeline, task) == ("compare-revisions-run", "compare-revisions")
        return json.dumps(self.result), "/result.json"

    def pinned(self, image, run_id, task):
        return image

    def image_of(self, compiled, own=None):
        return None

    def cancel(self, run_id, patience=None):
        self.cancelled.append(run_id)


def watch(backend):
    return ProbesWatch(backend, PROBE, logging.getLogger("test"))


def test_a_comparison_is_waited_for_and_read_once():
    away = ApiUnavailableError("The server is away.")
    backend = Runs(RunState.PENDING, away, RunState.RUNNING, RunState.SUCCEEDED)
    looks = watch(backend)
    seen = [looks.look() for _ in range(4)]
    assert [each.outcome for each in seen] == ["undecided", "undecided", "undecided", "pass"]
    assert "cannot be read: The server is away" in seen[1].findings[0]
    assert looks.is_over and not looks.cannot_decide
    backend.course = [away]
    assert looks.look() == seen[-1]
    looks.cancel()
    assert backend.cancelled == []


def test_a_result_whose_store_does_not_answer_is_asked_for_again():
    backend = Runs(RunState.SUCCEEDED, result=ApiUnavailableError("The store is away."))
    looks = watch(backend)
    decision = looks.look()
    assert (decision.outcome, looks.is_over, looks.cannot_decide) == ("undecided", False, False)
    assert "cannot be read: The store is away" in decision.findings[0]
    backend.result = RESULT
    assert (looks.look().outcome, looks.is_over) == ("pass", True)


@pytest.mark.parametrize(
    ("backend", "finding"),
    [
        (Runs(RunState.FAILED), "The answers could not be compared: the data is gone"),
        (Runs(RunNotFoundError("There is no run r.")), "cannot be read: There is no run r"),
        (Runs(RunState.SUCCEEDED, result=ResultError("It is cut off.")), "cannot be read: It is cut off"),
        (Runs(RunState.SUCCEEDED, result={"schema_version": 9}), "schema version 9"),
        (Runs(RunState.SUCCEEDED, result={**RESULT, "comparison": None}), "not compared by rougeL"),
    ],
)
def test_a_comparison_that_brings_nothing_decides_nothing_and_is_not_waited_for(backend, finding):
    looks = watch(backend)
    decision = looks.look()
    assert (decision.outcome, looks.cannot_decide) == ("undecided", True)
    assert finding in decision.findings[0]


def test_a_comparison_that_nobody_waits_for_is_stopped():
    backend = Runs(RunState.RUNNING)
    looks = watch(backend)
    looks.look()
    looks.cancel()
    assert backend.cancelled == ["r"]


STEP = {
    "kserve_conn_id": "kserve_default",
    "namespace": "default",
    "name": "tiny",
    "revision": "00002",
    "stable": "00001",
    "share": 5,
    "since": {each: Answers().to_json() for each in ("00001", "00002")},
    "limits": {"min_requests": 1},
    "until": 1.0,
    "patience": 2.0,
    "poll_interval": 0.5,
}


class Services:
    """A backend with a canary, which a person may take the requests from."""

    lags = False

    def __init__(self, *shares):
        self.shares = list(shares)
        self.trouble = None

    def get(self, namespace, name, *, patience=None, may_lag=False):
        if self.trouble:
            raise self.trouble
        share = self.shares.pop(0)
        parts = {"00001": 100 - share, "00002": share}
        answered = Answers(10, 0, {0.1: 10})
        revisions = {
            each: Revision(each, ServiceState.READY, traffic=part, answered=answered)
            for each, part in parts.items()
        }
        return Service(name=name, namespace=namespace, url=None, revisions=revisions, stable="00001")

    def withdraw(self, *_, **__):
        raise ConfigurationError("You may not.")


def test_a_comparison_ends_with_the_watch_of_its_canary_however_that_ends():
    services, runs, log = Services(), Runs(RunState.RUNNING), logging.getLogger("test")
    step = CanaryStepTrigger(**STEP, probe=PROBE)
    step._pipelines = runs
    services.trouble = ConfigurationError("The key is not accepted.")
    with pytest.raises(ConfigurationError):
        step.watch(services, log).look()
    assert runs.cancelled == ["r"]
    with pytest.raises(ConfigurationError, match="You may not"):
        step.cancel(services)
    assert runs.cancelled == ["r", "r"]


@pytest.mark.parametrize(
    ("shares", "looks", "error"),
    [
        ((5,), [True], None),
        ((0, 5), [False, True], None),
        ((0, 0), [False, True], "somebody else has shared"),
    ],
)
def test_a_canary_whose_requests_somebody_has_taken_does_not_go_on(shares, looks, error):
    watch = CanaryStepTrigger(**STEP).watch(Services(*shares), logging.getLogger("test"))
    assert [watch.look() for _ in shares] == looks
    event = watch.event()
    assert event["decision"]["outcome"] == ("undecided" if error else "pass")
    assert (event["error"] is None) if error is None else (error in event["error"])


def test_a_step_keeps_its_comparison_over_a_restart_and_one_of_a_former_release_has_none():
    arguments = {
        "kserve_conn_id": "kserve_default",
        "namespace": "default",
        "name": "tiny",
        "revision": "00002",
        "stable": "00001",
        "share": 5,
        "since": {},
        "limits": {},
        "until": 1.0,
        "patience": 2.0,
        "poll_interval": 0.5,
        "cancel_on_kill": True,
    }
    _, stored = CanaryStepTrigger(**arguments, probe=PROBE).serialize()
    assert stored == {**arguments, "probe": PROBE}
    assert CanaryStepTrigger(**arguments).probe is None
