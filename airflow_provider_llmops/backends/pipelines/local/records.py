"""What the files of a run on this machine declare, as its process writes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow_provider_llmops.state_files import Record
from airflow_provider_llmops.states import RunState


class StepError(Record):
    """Why a run failed.

    :param type: kind of the error
    :param message: why
    :param retryable: whether another attempt may go well
    :param task: the step
    :param traceback: where it was raised; null if it was raised on purpose
    """

    type: str = "Error"
    message: str = "no reason was given"
    retryable: bool = True
    task: str | None = None
    traceback: str | None = None


class StateRecord(Record):
    """``state.json``.

    :param state: the run's
    :param pid: of its process
    :param started_at: when that began
    :param finished_at: when it ended
    :param tasks: state of each step
    :param outputs: output parameters of the pipeline
    :param error: why it failed
    """

    state: RunState = RunState.PENDING
    pid: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    tasks: dict[str, str] = {}
    outputs: dict[str, Any] = {}
    error: StepError | None = None


class RequestRecord(Record):
    """``request.json``.

    :param display_name: name of the run
    :param created_at: when it was submitted
    :param labels: where it comes from
    """

    display_name: str | None = None
    created_at: datetime | None = None
    labels: dict[str, str] = {}
