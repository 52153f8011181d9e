"""Which of two DAG runs is of the newer data: not the one that finishes later.

What one run after the other sets, such as an alias or the model that a service serves, belongs to the run of the newest
date or partition. Backfills, catch-up and cleared runs finish in any order.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import Context

# Of the runs that `llmops backfill` starts, which are manual ones for Airflow.
BACKFILL_RUN_PREFIX = "llmops_backfill_"
_BACKFILLS = ("backfill__", BACKFILL_RUN_PREFIX)
_DATE_IN_KEY = re.compile(r"\d{4}-\d{2}(-\d{2}([T ]\d{2}(:\d{2}){0,2})?)?")


def as_of(context: Context, given: str | None = None) -> str | None:
    """The date or partition that a task's run is of, as text that sorts.

    Of a partitioned run it is the partition's date, of one with a schedule the end of its data interval, of a manual one its
    logical date; else the time after which it was to run. Between runs of the same date that time decides, and between
    mapped tasks of the same run their index.

    :param context: of the task
    :param given: date or partition that the caller knows better
    :return: ``2026-11-25T00:00:00Z, run after 2026-11-25T00:10:00.000000Z``, for example; ``None`` without a DAG run
    """
    run: Any = context.get("dag_run")
    if run is None:
        return given
    index = context["ti"].map_index
    mapped = f" [{index:06d}]" if index is not None and index >= 0 else ""
    return f"{given or _date_of(run)}, run after {utc(run.run_after, 'microseconds')}{mapped}"


def is_of_run(noted: str | None, context: Context) -> bool:
    """Whether what was noted by :func:`as_of` is of the DAG run of a task, whichever of its tasks noted it.

    :param noted: what was noted; ``None`` if nothing was
    :param context: of the task
    """
    run: Any = context.get("dag_run")
    if noted is None or run is None:
        return False
    return noted.partition(" [")[0] == f"{_date_of(run)}, run after {utc(run.run_after, 'microseconds')}"


def origin_in_time(context: Context) -> dict[str, str]:
    """What a run says of its place in time, as tags: logical date, data interval and partition, as far as it has them."""
    run: Any = context.get("dag_run")
    names = ("logical_date", "data_interval_start", "data_interval_end", "partition_key", "run_type")
    found = {name: getattr(run, name, None) for name in names}
    return {
        f"airflow.{name}": utc(value) if isinstance(value, datetime) else f"{getattr(value, 'value', value)}"
        for name, value in found.items()
        if value is not None
    }


def is_backfill(context: Context) -> bool:
    """Whether the task belongs to a backfill: Airflow's, one of ``llmops backfill``, or a run that nothing but events of such runs has started.

    :param context: of the task
    """
    run: Any = context.get("dag_run")
    if getattr(run, "run_type", None) == "backfill" or _is_of_backfill(getattr(run, "run_id", None)):
        return True
    events = [event for each in (context.get("triggering_asset_events") or {}).values() for event in each]
    return bool(events) and all(_is_of_backfill(getattr(event, "source_run_id", None)) for event in events)


def _is_of_backfill(run_id: str | None) -> bool:
    return run_id is not None and run_id.startswith(_BACKFILLS)


def _date_of(run: Any) -> str:
    if date := getattr(run, "partition_date", None):
        return utc(date)
    if match := _DATE_IN_KEY.search(getattr(run, "partition_key", None) or ""):
        return match[0]
    is_manual = run.run_type in ("manual", "operator_triggered")
    return utc((None if is_manual else run.data_interval_end) or run.logical_date or run.run_after)


def utc(time: datetime, precision: str = "seconds") -> str:
    """A time as ISO 8601 has it, in UTC, with a Z.

    :param time: with a time zone
    :param precision: as :meth:`datetime.isoformat` names it
    """
    return time.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")
