"""One run outside for each scheduled run of a task, whatever dies in between.

Before an operator makes anything, it stores in the task's state store what that will be called. An attempt that follows
finds the entry: in the same cycle it is a retry, which takes the run over; in another the task was cleared.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from airflow.sdk import Context

T = TypeVar("T")

INTENT_KEY = "llmops_run"
# How long a request may still be on its way after the worker that sent it has died.
IN_FLIGHT_SECONDS = 10.0
# States in which nobody will ask for the run any more. A task that another attempt has taken over is not among them.
_GIVEN_UP = {"failed", "success", "skipped", "upstream_failed", "removed", "restarting"}


@dataclass(frozen=True)
class Intent:
    """What is about to be made, or has been.

    :param name: unique name; contains a token
    :param cycle: in which cycle of the task, see :func:`cycle_of`
    :param at: Unix time of the intent
    :param run_id: the id that the run was given; ``None`` while it is not known to exist
    :param reused: whether it is a run of another task, whose result is taken
    """

    name: str
    cycle: int
    at: float = field(default_factory=time.time)
    run_id: str | None = None
    reused: bool = False

    @classmethod
    def load(cls, context: Context) -> Intent | None:
        """The intent of the former attempt, if there was one."""
        stored: Any = context["task_state_store"].get(INTENT_KEY)
        return cls(**stored) if stored else None

    @classmethod
    def unfinished(cls, context: Context) -> Intent | None:
        """The intent of the former attempt, if that died before it knew what came of it.

        Its name is used again: under one name there is one run, whichever attempt's request comes first.
        """
        former = cls.load(context)
        if former is None or former.run_id is not None or not former.is_of_this_cycle(context):
            return None
        return former

    def store(self, context: Context) -> None:
        """Write it down, where the next attempt finds it."""
        context["task_state_store"].set(INTENT_KEY, asdict(self))

    def fulfil(self, context: Context, run_id: str) -> None:
        """Write down what came of it: whatever takes the place of that run gets a name of its own.

        :param run_id: the id that the run was given
        """
        replace(self, run_id=run_id).store(context)

    def is_of_this_cycle(self, context: Context) -> bool:
        """Whether the attempt at hand is a retry, not one after the task was cleared."""
        return self.cycle == cycle_of(context)


def cycle_of(context: Context) -> int:
    """What tells clearing a task from retrying it: Airflow raises ``max_tries`` only when a task is cleared."""
    return context["ti"].max_tries


def origin_of(context: Context) -> dict[str, str]:
    """Where a run comes from, for its labels."""
    ti = context["ti"]
    return {
        "dag_id": ti.dag_id,
        "dag_run_id": ti.run_id,
        "task_id": ti.task_id,
        "map_index": str(ti.map_index),
        "try_number": str(ti.try_number),
        "dag_version": str(getattr(ti, "dag_version_id", "")),
    }


def find_in_flight(find: Callable[[], T | None], sent_at: float) -> T | None:
    """Look for something that may still be coming into being.

    :param find: looks once
    :param sent_at: Unix time at which it was asked for
    """
    while True:
        found = find()
        if found is not None or time.time() - sent_at >= IN_FLIGHT_SECONDS:
            return found
        time.sleep(1.0)


def is_given_up(context: Context) -> bool:
    """Whether Airflow has ended the task, as opposed to the machine having ended the worker.

    Asked from a thread: this may be a signal handler that has interrupted a conversation with the supervisor.
    """
    ti: Any = context["ti"]
    states: list[str] = []

    def ask() -> None:
        answer = ti.get_task_states(
            dag_id=ti.dag_id, map_index=ti.map_index, task_ids=[ti.task_id], run_ids=[ti.run_id]
        )
        states.extend(str(state) for run in answer.values() for state in run.values())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout=2.0)
    return any(state in _GIVEN_UP for state in states)
