"""The pieces that watch a TrainJob, each alone and without a cluster."""

from __future__ import annotations

import logging
from dataclasses import replace

from airflow_provider_llmops.backends.kubernetes.pods import PodProblem
from airflow_provider_llmops.backends.trainjobs.failures import FailureLog
from airflow_provider_llmops.backends.trainjobs.job import TrainJob
from airflow_provider_llmops.backends.trainjobs.jobset import (
    JOB_INDEX_LABEL,
    REPLICATED_JOB_LABEL,
    missing_jobs,
)
from airflow_provider_llmops.backends.trainjobs.progress import ProgressLog, job_changes, state_changes
from airflow_provider_llmops.exceptions import ApiUnavailableError
from airflow_provider_llmops.states import RunState

JOB = TrainJob("team", "j", "u", "t", RunState.RUNNING, nodes=2, jobs={"node": "2 active"})
log = logging.getLogger(__name__)


def pod(name: str, job: str = "node", index: int = 0) -> dict:
    return {"metadata": {"name": name, "labels": {REPLICATED_JOB_LABEL: job, JOB_INDEX_LABEL: str(index)}}}


class Logs:
    """Answers with the logs of pods."""

    def __init__(self, **lines: list[str]) -> None:
        self.lines = lines

    def log_of(self, namespace: str, failure: PodProblem, *, lines: int) -> list[str]:
        if failure.pod not in self.lines:
            raise ApiUnavailableError("It is gone.")
        return self.lines[failure.pod]


def failure(pod: str, at: float = 0.0) -> PodProblem:
    return PodProblem(pod, "ended with exit code 1", "Error", has_ended=True, is_unexplained=True, at=at)


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_job_lacks_pods_until_each_node_has_one():
    assert missing_jobs(JOB, []) == ["j-node-0"]
    assert missing_jobs(JOB, [pod("a")]) == ["j-node-0"]
    assert missing_jobs(JOB, [pod("a"), pod("b")]) == []


def test_launcher_has_one_pod_and_takes_the_place_of_a_node():
    job = replace(JOB, jobs={"launcher": "", "node": ""}, nodes=3)
    assert missing_jobs(job, [pod("a", "launcher"), pod("b")]) == ["j-node-0"]
    assert missing_jobs(job, [pod("a", "launcher"), pod("b"), pod("c")]) == []


def test_progress_is_logged_in_steps_at_times_and_at_the_end(caplog):
    caplog.set_level("INFO")
    progress, before = ProgressLog(log), None
    for percentage, now in ((1, 0.0), (3, 1.0), (6, 2.0), (7, 301.0), (8, 303.0)):
        job = replace(JOB, progress=percentage)
        progress.note(job, before, now=now)
        before = job
    progress.note(replace(JOB, progress=9, state=RunState.SUCCEEDED), before, now=304.0)
    assert messages(caplog) == [f"Progress: {each} %" for each in (1, 6, 8, 9)]
    progress.note(replace(JOB, progress=10, remaining_seconds=5400), before, now=700.0)
    assert messages(caplog)[-1] == "Progress: 10 %, 1 h 30 min left"


def test_only_what_has_changed_is_said_of_state_and_jobs():
    assert state_changes(None, JOB) == ["TrainJob team/j is RUNNING"]
    assert state_changes(JOB, JOB) == job_changes(JOB, JOB) == []
    failed = replace(JOB, state=RunState.FAILED, reason="BackoffLimitExceeded", jobs={"node": "1 failed"})
    assert state_changes(JOB, failed) == ["TrainJob team/j is FAILED (BackoffLimitExceeded)"]
    assert job_changes(JOB, failed) == ["Job node: 1 failed"]


def test_failed_pod_is_explained_by_its_log_which_is_shown_once_for_those_that_fail_alike(caplog):
    lines = ["Traceback (most recent call last):", '  File "t.py", line 1, in <module>', "ValueError: row 3"]
    explained = FailureLog(Logs(a=lines, b=lines), "team", log).explain([failure("a"), failure("b")])
    assert [each.message for each in explained] == ["ValueError: row 3 (exit code 1)"] * 2
    assert messages(caplog).count("  ValueError: row 3") == 1


def test_former_reason_holds_where_a_pod_ends_alike_and_its_log_is_gone(caplog):
    logs = Logs(a=["Traceback (most recent call last):", '  File "t.py", line 1', "ValueError: row 3"])
    failures = FailureLog(logs, "team", log)
    first = failures.explain([failure("a")])
    del logs.lines["a"]
    assert failures.explain([failure("a")]) == first
    assert "(could not be read: It is gone.)" in messages(caplog)
    failures.forget()
    assert failures.explain([failure("a")])[0].message == "ended with exit code 1"
