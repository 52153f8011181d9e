"""Watch a TrainJob: what its status says about how it goes on, and its pods about why it does not."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from airflow_provider_llmops.backends.kubernetes.pods import PodProblem
from airflow_provider_llmops.backends.trainjobs.api import TrainJobs
from airflow_provider_llmops.backends.trainjobs.job import TrainJob
from airflow_provider_llmops.backends.trainjobs.pod_watch import Moment, PodWatch, describe_wait
from airflow_provider_llmops.backends.trainjobs.progress import ProgressLog, job_changes, state_changes
from airflow_provider_llmops.exceptions import ApiUnavailableError
from airflow_provider_llmops.states import RunState

# A status says that all are ready also while one is started again: it follows by a second or more.
PODS_SECONDS = 60.0
NO_POD_LEFT = (
    "(No failed pod is left to read. A Job whose restartPolicy is OnFailure, as JobSet sets it, deletes its pods when it "
    "gives up; a runtime with restartPolicy: Never and backoffLimit: 0 keeps them.)"
)


class TrainJobWatch:
    """Looks at a TrainJob and logs what has changed since the last look.

    Pods are asked for when the status says anything new, and once a minute while all of them train: then a look costs one
    request. Events are asked for only while a pod is missing, or waits without saying why. The log of a container that
    failed is read when that is first seen: a Job that gives up deletes its pods.

    :param backend: where the TrainJob is
    :param namespace: its namespace
    :param name: its name
    :param logger: where the lines go
    """

    def __init__(self, backend: TrainJobs, namespace: str, name: str, logger: Any) -> None:
        self._backend = backend
        self._place = (namespace, name)
        self._log = logger
        self._pods = PodWatch(backend, namespace, name, logger)
        self._progress = ProgressLog(logger)
        self._before: TrainJob | None = None
        self._is_unanswered = False
        self._logged_wait: PodProblem | None = None

    @property
    def trouble(self) -> str | None:
        """The last known reason why it does not train, or has failed; ``None`` while all is well."""
        return self._pods.reason

    @property
    def final_error(self) -> str | None:
        """What the training itself has said will happen again: a runtime restarts its pods several times all the same."""
        return self._pods.final_error

    @property
    def started_at(self) -> float | None:
        """Unix time at which it began, as it was seen last; ``None`` while it waits in a queue, or nobody has seen it."""
        return self._before.started_at if self._before else None

    def look(self) -> TrainJob | None:
        """Look once; ``None`` when the API server did not answer.

        :raises RunNotFoundError: somebody has deleted it
        """
        try:
            job = self._backend.get(*self._place, patience=0.0)
        except ApiUnavailableError as error:
            if not self._is_unanswered:
                self._log.warning("Waiting on: %s", str(error).partition("\n")[0])
            self._is_unanswered = True
            return None
        self._is_unanswered = False
        now = Moment(steady=time.monotonic(), unix=time.time())
        failures: list[PodProblem] = []
        if job.state is RunState.PAUSED:
            self._pods.stopped()
        elif job.state is RunState.SUCCEEDED:
            self._pods.succeeded()
        elif not self._is_settled(job, now):
            failures = self._pods.look(job, now)
        job = self._as_seen(job)
        self._log_changes(job)
        self._progress.note(job, self._before, now=now.steady)
        self._pods.explain(failures)
        self._before = job
        return job

    def _is_settled(self, job: TrainJob, now: Moment) -> bool:
        """Whether all pods ran when they were last looked at, and nothing says otherwise since."""
        is_recent = now.steady - self._pods.looked_at < PODS_SECONDS
        is_same = self._before is not None and self._before.jobs == job.jobs
        return job.all_ready and self._pods.all_run and is_same and is_recent

    def _as_seen(self, job: TrainJob) -> TrainJob:
        """The TrainJob with what its pods add to its status, which counts Jobs, whether they have pods or not."""
        if job.state is RunState.PENDING and self._pods.has_run:
            return replace(job, state=RunState.RUNNING)
        if job.state is RunState.PENDING and self._pods.wait:
            return replace(job, reason=describe_wait(self._pods.wait))
        return job

    def _log_changes(self, job: TrainJob) -> None:
        is_waiting = job.state is RunState.PENDING and bool(job.reason)
        for line in state_changes(self._before, job):
            (self._log.warning if is_waiting else self._log.info)("%s", line)
        for line in job_changes(self._before, job):
            self._log.info("%s", line)
        wait = self._pods.wait
        if wait and job.state is RunState.RUNNING and wait != self._logged_wait:
            self._log.warning("Not all nodes run: %s", describe_wait(wait))
        self._logged_wait = wait
