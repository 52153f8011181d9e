"""A DAG run, and what Airflow changes in a task's context from one attempt to the next."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any


def dag_run(**facts: Any) -> SimpleNamespace:
    """As much of a DAG run as operators use: a manual one of 26 November 2026, unless told otherwise."""
    now = datetime(2026, 11, 26, 10, tzinfo=UTC)
    manual = {"run_type": "manual", "run_after": now, "logical_date": now, "clear_number": 0}
    nothing = dict.fromkeys(
        ("data_interval_start", "data_interval_end", "partition_key", "partition_date"), None
    )
    return SimpleNamespace(**{**nothing, **manual, **facts})


def retry(context: dict[str, Any]) -> dict[str, Any]:
    """Context of the automatic retry after an attempt."""
    context["ti"].try_number += 1
    return context


def clear(context: dict[str, Any], retries: int = 1) -> dict[str, Any]:
    """Context of the attempt after a person cleared the task: ``clear_task_instances`` of ``models/taskinstance.py``.

    :param retries: of the task, as the DAG is by now; with fewer than before ``max_tries`` need not rise
    """
    context["ti"].max_tries = context["ti"].try_number + retries
    return retry(clear_other(context))


def clear_running(context: dict[str, Any]) -> dict[str, Any]:
    """Context of the attempt after a person cleared the task while its worker was at work.

    ``max_tries`` rises only when the executor reports a success, in ``scheduler_job_runner.py``; this is the other case.
    """
    return retry(clear_other(context))


def clear_other(context: dict[str, Any]) -> dict[str, Any]:
    """The context after a person cleared another task of the DAG run."""
    context.setdefault("dag_run", SimpleNamespace(clear_number=0)).clear_number += 1
    return context
