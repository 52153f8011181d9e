"""The tasks of a run as they go on, for somebody at a terminal or for a log."""

from __future__ import annotations

import graphlib
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from _airflow_api import AirflowApi
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Without a terminal, how often a task that is still at work says how far it is.
PROGRESS_LINE_SECONDS = 20.0
WORKING_STATES = ("running", "deferred")
MARKS = {
    "skipped": "[dim]-[/]",
    "success": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "running": "[cyan]▶[/]",
    "deferred": "[cyan]▶[/]",
}
# What a task says when it is over; one that has failed keeps its last line.
FINAL_LINES = {"success": "", "skipped": "not needed here"}
console = Console(highlight=False)


@dataclass
class Task:
    """What the display knows of a task."""

    task_id: str
    state: str | None = None
    seconds: float = 0.0
    line: str = ""
    try_number: int = 1
    said_at: float = 0.0


class Progress:
    """The tasks of one DAG run: a redrawn table on a terminal, else a line for each change."""

    def __init__(self, api: AirflowApi, dag_id: str, run_id: str) -> None:
        self.api, self.dag_id, self.run_id = api, dag_id, run_id
        followers = api.tasks(dag_id)
        order = graphlib.TopologicalSorter({task_id: [] for task_id in followers})
        for task_id, downstream in followers.items():
            for follower in downstream:
                order.add(follower, task_id)
        self.tasks = {task_id: Task(task_id) for task_id in order.static_order()}
        self.started = time.monotonic()

    def update(self) -> None:
        """Read all states, and the latest log line of the tasks at work."""
        for instance in self.api.task_instances(self.dag_id, self.run_id):
            task = self.tasks[instance["task_id"]]
            changed = task.state != instance["state"]
            task.state, task.try_number = instance["state"], instance["try_number"]
            task.seconds = _seconds(instance)
            if task.state in WORKING_STATES:
                entries = self.api.log_entries(self.dag_id, self.run_id, task.task_id, task.try_number)
                task.line = _latest(entries) or task.line
            elif task.state in FINAL_LINES:
                task.line = FINAL_LINES[task.state]
            if not console.is_terminal:
                self._say(task, changed)

    def has_failed(self) -> bool:
        """Whether a task has failed for good."""
        return any(task.state == "failed" for task in self.tasks.values())

    def _say(self, task: Task, changed: bool) -> None:
        now = time.monotonic() - self.started
        # A deferred task runs again for a moment at its end: that is no news.
        changed = changed and task.state not in (None, "scheduled", "queued", "deferred", "upstream_failed")
        changed = changed and not (task.state == "running" and task.said_at)
        if changed or (task.state in WORKING_STATES and now - task.said_at > PROGRESS_LINE_SECONDS):
            state = "running" if task.state == "deferred" else task.state
            took = f"{task.seconds:6.1f} s" if task.seconds else ""
            line = "" if changed and task.state == "running" else task.line
            print(f"{now:7.1f} s  {task.task_id:20} {state or '':12} {took:9} {line}".rstrip(), flush=True)
            task.said_at = now

    def table(self) -> Table:
        """The state of all tasks."""
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column()
        table.add_column(min_width=max(map(len, self.tasks)))
        table.add_column(min_width=8, justify="right")
        table.add_column(style="dim", no_wrap=True, overflow="ellipsis")
        for task in self.tasks.values():
            mark = MARKS.get(task.state or "", "[dim]·[/]")
            table.add_row(
                mark, task.task_id, f"{task.seconds:.1f} s" if task.seconds else "", Text(task.line)
            )
        table.add_row("", "[bold]total[/]", f"[bold]{time.monotonic() - self.started:.0f} s[/]", "")
        return table


def _seconds(instance: dict[str, Any]) -> float:
    if not instance["start_date"]:
        return 0.0
    start = datetime.fromisoformat(instance["start_date"])
    end = datetime.fromisoformat(instance["end_date"]) if instance["end_date"] else datetime.now(UTC)
    return max((end - start).total_seconds(), 0.0)


def _latest(entries: list[dict[str, Any]]) -> str:
    """The last line that says how far a task is, else the last one that is not Airflow's own."""
    own = [
        str(entry["event"]).strip()
        for entry in entries
        if entry.get("logger", "task") != "task"
        and not str(entry["logger"]).startswith("airflow.")
        and not str(entry.get("event") or "::").startswith("::")
    ]
    counting = [line for line in own if re.search(r"(^| )\d+/\d+\b", line)]
    return (counting or own or [""])[-1].partition("\n")[0]
