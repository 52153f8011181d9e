"""When a run ends on account of its task: nobody wants it any more, or its time is up."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_provider_llmops.exceptions import RunCanceledError
from airflow_provider_llmops.remote.intent import is_given_up

if TYPE_CHECKING:
    from airflow.sdk import Context


class RunningTask(Protocol):
    """What decides when the run of an operator ends.

    :param run_timeout_argument: what its author calls ``run_timeout``
    :param was_told_to_end: whether ``on_kill`` was called. Airflow's signal handler only calls it and returns, so that a
        request for a run may be sent after it.
    """

    task_id: str
    run_timeout: timedelta | None
    run_timeout_argument: str
    execution_timeout: timedelta | None
    cancel_on_kill: bool
    cancel_on_eviction: bool
    was_told_to_end: bool


def at_the_start(name: str) -> str:
    """A name such as ``run 4f1c``, with a capital, for the beginning of a sentence or a line.

    :param name: the name
    """
    return f"{name[:1].upper()}{name[1:]}"


def is_timed_out() -> bool:
    """Whether Airflow is ending the task because of its ``execution_timeout``."""
    return isinstance(sys.exception(), AirflowTaskTimeout)


def is_unwanted(context: Context, *, cancel_on_eviction: bool = False) -> bool:
    """Whether what a task has started will not be taken over, now that its worker is told to end.

    :param context: of the task
    :param cancel_on_eviction: whether nothing outlives the worker
    """
    return is_timed_out() or cancel_on_eviction or is_given_up(context)


def has_retry(context: Context) -> bool:
    """Whether Airflow tries a task again that fails now: ``_is_eligible_to_retry`` of its execution API.

    :param context: of the task
    """
    ti = context["ti"]
    return bool(ti.max_tries and ti.try_number <= ti.max_tries)


def end_if_unwanted(task: RunningTask, context: Context, cancel: Callable[[], None] | None = None) -> None:
    """End a task here that was given up while its run was being looked for or made.

    :param task: the operator
    :param context: of the task
    :param cancel: cancels the run; ``None`` if there is none yet
    :raises RunCanceledError: it was given up; there is no run, or it is cancelled
    """
    if not task.was_told_to_end or not is_unwanted(context, cancel_on_eviction=task.cancel_on_eviction):
        return
    if cancel is not None:
        if not task.cancel_on_kill:
            return
        cancel()
    raise RunCanceledError(
        f"The task was ended while it submitted its run, which was {'cancelled' if cancel else 'not made'}. Clear it to run it."
    )


def attempt_deadline(task: RunningTask) -> float | None:
    """Unix time at which an attempt that begins now has used up its ``execution_timeout``.

    Airflow does not apply that to a deferred task.

    :param task: the operator
    """
    return None if task.execution_timeout is None else time.time() + task.execution_timeout.total_seconds()


def deadline(task: RunningTask, run_started_at: float) -> float | None:
    """Unix time at which a run is cancelled; never when ``None``.

    :param task: the operator
    :param run_started_at: Unix time; an attempt that takes the run over does not give it more
    """
    limit = task.run_timeout
    ends = [attempt_deadline(task), None if limit is None else run_started_at + limit.total_seconds()]
    return min((end for end in ends if end is not None), default=None)


def seconds_to_wait(interval: float, deadline: float | None) -> float:
    """How long to wait before the next look: no longer than until the deadline, which would be noticed late.

    :param interval: seconds between two looks
    :param deadline: Unix time; ``None`` if there is none
    """
    return interval if deadline is None else max(0.0, min(interval, deadline - time.time()))


def describe_limits(task: RunningTask) -> str:
    """The limits of a task, of which its run has reached one, for messages.

    :param task: the operator
    """
    limits = {task.run_timeout_argument: task.run_timeout, "execution_timeout": task.execution_timeout}
    given = [f"its {name} of {limit}" for name, limit in limits.items() if limit is not None]
    return " or ".join(given) or "its time"  # the DAG may have changed since
