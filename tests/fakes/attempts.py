"""What Airflow changes in a task's context from one attempt to the next."""

from __future__ import annotations

from typing import Any


def retry(context: dict[str, Any]) -> dict[str, Any]:
    """Context of the automatic retry after an attempt."""
    context["ti"].try_number += 1
    return context


def clear(context: dict[str, Any]) -> dict[str, Any]:
    """Context of the attempt after a person cleared the task; Airflow raises max_tries then."""
    context["ti"].try_number += 1
    context["ti"].max_tries = context["ti"].try_number
    return context
