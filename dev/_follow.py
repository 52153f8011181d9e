"""Start a run of a DAG and follow it to its end, as somebody at a terminal does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from _progress import Progress, Task, console
from _stack import Stack
from rich.live import Live

POLL_SECONDS = 1.0
# Unanswered requests in a row after which nobody waits any longer.
PATIENCE = 5


@dataclass
class Followed:
    """How a run went: ``tasks`` and ``errors`` are by task."""

    run_id: str
    succeeded: bool = False
    seconds: float = 0.0
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, dict[str, str]] = field(default_factory=dict)


def follow(
    stack: Stack,
    dag_id: str,
    conf: dict[str, Any],
    look: Callable[[str, dict[str, Task]], None] = lambda run_id, tasks: None,
) -> Followed:
    """Start a run, show how it goes on, and return when it has ended, or a task has failed for good.

    :param stack: a running Airflow
    :param dag_id: which DAG
    :param conf: parameters of the run
    :param look: is called with the run's id and its tasks each time that they were looked at
    :raises StackError: a process of the stack is gone
    """
    api = stack.api()
    api.wait_for_dag(dag_id)
    followed = Followed(api.trigger(dag_id, conf))
    progress = Progress(api, dag_id, followed.run_id)
    display: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if console.is_terminal:
        display = Live(get_renderable=progress.table, console=console, refresh_per_second=4)
    with display:
        state, missed = "queued", 0
        # A task that has failed for good decides the run; what is still at work beside it is not waited for.
        while state not in ("success", "failed") and not progress.has_failed():
            time.sleep(POLL_SECONDS)
            stack.check()
            try:
                state = api.dag_run(dag_id, followed.run_id)["state"]
                progress.update()
                look(followed.run_id, progress.tasks)
                missed = 0
            except httpx.TransportError:
                # On a busy machine an answer may come late; nothing is lost by asking again.
                missed += 1
                if missed == PATIENCE:
                    raise
    followed.succeeded = state == "success"
    followed.seconds = time.monotonic() - progress.started
    for task in progress.tasks.values():
        followed.tasks[task.task_id] = {"state": task.state, "seconds": round(task.seconds, 1)}
        if task.state == "failed":
            folder = f"logs/dag_id={dag_id}/run_id={followed.run_id}/task_id={task.task_id}"
            followed.errors[task.task_id] = {
                "message": api.error_of(dag_id, followed.run_id, task.task_id, task.try_number),
                "log": str(stack.airflow_home / folder / f"attempt={task.try_number}.log"),
            }
    return followed
