"""Tasks in a group of their own, or right in the DAG."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from airflow.sdk import TaskGroup


def grouped(group_id: str | None, make_tasks: Callable[[], None]) -> TaskGroup | None:
    """Make tasks in a group that leaves their ids as they are.

    :param group_id: name of the group; ``None`` puts the tasks into the DAG, or the group, that it is called in, and returns ``None``
    :param make_tasks: makes them
    """
    group = TaskGroup(group_id, prefix_group_id=False) if group_id else None
    with group or nullcontext():
        make_tasks()
    return group
