"""Why a run of a DAG has failed, from its tasks and their logs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from airflow_provider_llmops.backfill.api import AirflowApi
from airflow_provider_llmops.exceptions import LLMOpsError, shortened
from airflow_provider_llmops.redaction import redact

_MAX_CHARACTERS = 400
_SHOWN_TASKS = 3
_ERROR = re.compile(r"[\w.]*(?:Error|Exception|Failed|Canceled|Exit|Timeout)\w*: ")


def why_failed(api: AirflowApi, dag_id: str, run_id: str) -> str:
    """The tasks that have failed, and the reason of the first.

    :param api: Airflow
    :param dag_id: DAG of the run
    :param run_id: the run
    """
    try:
        tasks = sorted(api.failed_tasks(dag_id, run_id), key=lambda task: task["end_date"] or "")
    except LLMOpsError as error:
        return f"its tasks cannot be read: {str(error).splitlines()[0]}"
    if not tasks:
        return "no task of it has failed by itself: somebody has marked it, or its dagrun_timeout is over"
    names = list(dict.fromkeys(task["task_id"] for task in tasks))
    others = names[1:_SHOWN_TASKS]
    more = f", and {len(names) - _SHOWN_TASKS} more" if len(names) > _SHOWN_TASKS else ""
    also = f" (so has {', '.join(others)}{more})" if others else ""
    return f"task {names[0]}{also}: {_reason(api, dag_id, run_id, tasks[0])}"


def _reason(api: AirflowApi, dag_id: str, run_id: str, task: dict[str, Any]) -> str:
    try:
        lines = list(_lines(api.log_of(dag_id, run_id, task)))
    except LLMOpsError as error:
        return f"its log cannot be read: {str(error).splitlines()[0]}"
    telling = next((line for line in reversed(lines) if _ERROR.match(line)), None)
    if telling is None:
        end = f", and ends: {lines[-1]}" if lines else ""
        telling = f"its log has no error, as where its process was killed{end}"
    return shortened(redact(telling.splitlines()[0]), _MAX_CHARACTERS)


def _lines(log: Iterable[Any]) -> Iterable[str]:
    for entry in log:
        if not isinstance(entry, dict):
            yield from filter(str.strip, str(entry).splitlines())
            continue
        event = str(entry.get("event") or "").strip()
        if event and not event.startswith(("::group::", "::endgroup::")):
            yield event
        for error in entry.get("error_detail") or []:
            yield f"{error.get('exc_type')}: {error.get('exc_value')}"
