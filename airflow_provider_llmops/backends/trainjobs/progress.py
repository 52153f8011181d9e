"""What a task's log gets of how a TrainJob goes on: its state, its jobs, and how far the training is."""

from __future__ import annotations

from typing import Any

from airflow_provider_llmops.backends.trainjobs.job import TrainJob

# A line for each report of a training would be a line for each of its steps.
PROGRESS_POINTS = 5
PROGRESS_SECONDS = 300.0


class ProgressLog:
    """Logs how far a training is, in steps of some per cent, and now and then in between.

    :param logger: of the task
    """

    def __init__(self, logger: Any) -> None:
        self._log = logger
        self._logged: int | None = None
        self._logged_at = float("-inf")

    def note(self, job: TrainJob, before: TrainJob | None, *, now: float) -> None:
        """Log what is new.

        :param job: the TrainJob now
        :param before: at the last look
        :param now: seconds of a clock that runs evenly
        """
        if before is not None and (before.progress, before.metrics) == (job.progress, job.metrics):
            return
        known = self._logged
        is_step = known is None or job.progress is None or abs(job.progress - known) >= PROGRESS_POINTS
        is_due = now - self._logged_at >= PROGRESS_SECONDS
        if (line := describe_progress(job)) and (
            (is_step and job.progress != known) or is_due or job.state.is_terminal
        ):
            self._log.info("%s", line)
            self._logged, self._logged_at = job.progress, now


def state_changes(before: TrainJob | None, job: TrainJob) -> list[str]:
    """A line if the state of a TrainJob, or its reason, is not what it was.

    :param before: at the last look; ``None`` at the first
    :param job: now
    """
    if before is not None and (before.state, before.reason) == (job.state, job.reason):
        return []
    return [
        f"TrainJob {job.namespace}/{job.name} is {job.state}" + (f" ({job.reason})" if job.reason else "")
    ]


def job_changes(before: TrainJob | None, job: TrainJob) -> list[str]:
    """A line for each job of a TrainJob whose counts are not what they were.

    :param before: at the last look; ``None`` at the first
    :param job: now
    """
    known = before.jobs if before else {}
    return [f"Job {name}: {counts}" for name, counts in job.jobs.items() if known.get(name) != counts]


def describe_progress(job: TrainJob) -> str:
    """How far the training is, in a line; empty if it has not said.

    :param job: the TrainJob
    """
    parts = []
    if job.progress is not None:
        left = job.remaining_seconds
        parts.append(f"{job.progress} %" + (f", {_duration(left)} left" if left else ""))
    parts += [f"{name} = {value:g}" for name, value in job.metrics.items()]
    return f"Progress: {'; '.join(parts)}" if parts else ""


def _duration(seconds: int) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds} s"
