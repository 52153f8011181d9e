"""The comparison of a canary's answers, watched beside the canary until it has ended."""

from __future__ import annotations

import json
import logging

import pytest

from airflow_provider_llmops.backends.pipelines.base import Run
from airflow_provider_llmops.delivery.probes_watch import ProbesWatch
from airflow_provider_llmops.exceptions import ApiUnavailableError, ResultError, RunNotFoundError
from airflow_provider_llmops.states import RunState
from airflow_provider_llmops.triggers.canary import CanaryStepTrigger

PROBE = {
    "kubeflow_conn_id": "kubeflow_default",
    "run_id": "r",
    "probes": {"dataset": "/d", "min_difference": -0.1},
}
METRIC = {"candidate": 0.7, "baseline": 0.7, "rows_scored": 4, "rows_unscored": 0}
RESULT = {
    "schema_version": 1,
    "component": "compare_revisions",
    "passed": True,
    "findings": [],
    "artifacts": {},
    "metrics": {"rows": 4, "candidate_unanswered": 0},
    "details": {},
    "resources": {},
    "comparison": {
        "schema_version": 1,
        "confidence": 0.95,
        "metrics": {"rougeL": {**METRIC, "difference": {"value": 0.0, "low": 0.0, "high": 0.0}}},
    },
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
