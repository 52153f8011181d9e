"""One run outside for each scheduled run of a task, whatever dies in between.

Before an operator makes anything, it stores in the task's state store what that will be called. An attempt that follows
finds the entry: in the same cycle it is a retry, which takes the run over; in another the task was cleared.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, RunNotFoundError
from airflow_provider_llmops.remote.origin import code_of

if TYPE_CHECKING:
    from airflow.sdk import Context

T = TypeVar("T")

log = logging.getLogger(__name__)

INTENT_KEY = "llmops_run"
ATTEMPTS_KEY_CHARACTERS = 12
# How long a request may still be on its way after the worker that sent it has died.
IN_FLIGHT_SECONDS = 10.0
# States in which nobody will ask for the run any more. A task that another attempt has taken over is not among them.
_GIVEN_UP = {"failed", "success", "skipped", "upstream_failed", "removed", "restarting"}


@dataclass(frozen=True)
class Intent:
    """What is about to be made, or has been.

    :param name: unique name; contains a token
    :param cycle: in which cycle of the task, see :func:`cycle_of`
    :param at: Unix time at which the run was asked for, or was last told to go on
    :param run_id: the id that the run was given; ``None`` while it is not known to exist
    :param reused: whether it is a run of another task, whose result is taken
    :param began: try number of the first attempt of the cycle that made something
    :param clears: how often tasks of the DAG run had been cleared when the last attempt dealt with it
    :param finished: whether the task has its outcome from it
    """

    name: str
    cycle: int
    at: float = field(default_factory=time.time)
    run_id: str | None = None
    reused: bool = False
    began: int = 1
    clears: int = 0
    finished: bool = False

    @classmethod
    def load(cls, context: Context) -> Intent | None:
        """The intent of the former attempt, if there was one."""
        stored: Any = context["task_state_store"].get(INTENT_KEY)
        return cls(**stored) if stored else None

    @classmethod
    def drop(cls, context: Context) -> None:
        """Forget the intent of another cycle, after what became of it has been dealt with."""
        context["task_state_store"].delete(INTENT_KEY)

    @classmethod
    def of(
        cls,
        context: Context,
        name: str,
        *,
        former: Intent | None,
        run_id: str | None = None,
        reused: bool = False,
    ) -> Intent:
        """The intent of the attempt at hand.

        :param context: of the task
        :param name: unique name
        :param former: intent of an earlier attempt of the same cycle
        :param run_id: id of a run that exists already
        :param reused: whether that is a run of another task
        """
        return cls(
            name=name,
            cycle=cycle_of(context),
            run_id=run_id,
            reused=reused,
            began=former.began if former else context["ti"].try_number,
            clears=clears_of(context),
        )

    @property
    def is_unfinished(self) -> bool:
        """Whether the attempt died before it knew what came of it.

        Its name is used again: under one name there is one run, whichever attempt's request comes first.
        """
        return self.run_id is None

    def store(self, context: Context) -> None:
        """Write it down, where the next attempt finds it."""
        context["task_state_store"].set(INTENT_KEY, asdict(self))

    def note(self, context: Context, run_id: str, *, at: float | None = None) -> None:
        """Write down what came of it: whatever takes the place of that run gets a name of its own.

        :param run_id: the id that the run was given
        :param at: Unix time at which it is told to go on, if it is
        """
        replace(self, run_id=run_id, at=self.at if at is None else at, clears=clears_of(context)).store(
            context
        )

    def is_of_this_cycle(self, context: Context, *, is_useless: bool = False) -> bool:
        """Whether the attempt at hand is a retry, not one after the task was cleared.

        ``max_tries`` tells, where Airflow changes it: it becomes the number of tries plus ``retries``, which need not be
        more than before when the DAG has changed, and of a task that was running it may stay. Then the DAG run's number of
        clears tells, which rises with every task that is cleared. It is asked only where a retry would not have taken a
        run over, so that a clear of some other task costs no healthy run.

        :param is_useless: whether the run has no result to wait for: it was cancelled, for example
        """
        if self.cycle != cycle_of(context):
            return False
        return not (self.finished or is_useless) or self.clears == clears_of(context)


def cycle_of(context: Context) -> int:
    """The number that a retry of a task shares with its earlier attempts, and a clear changes as a rule.

    See :meth:`Intent.is_of_this_cycle` for where it does not.

    :param context: of the task
    """
    return context["ti"].max_tries


def clears_of(context: Context) -> int:
    """How often tasks of the DAG run have been cleared.

    :param context: of the task
    """
    return getattr(context.get("dag_run"), "clear_number", None) or 0


@contextmanager
def concluding(context: Context) -> Iterator[None]:
    """Mark the run as finished when what is done here gives the task its outcome: a result, or an error that is final.

    The mark is made last, and alone it keeps no attempt from taking the run up: Airflow pushes the result to XCom and
    reports the success only after the task has returned. If that fails, or the worker dies, a retry follows, and has to
    get the result again. Only if a clear came after the mark, see :meth:`Intent.is_of_this_cycle`, is there nothing to
    take up. An attempt that fails with what a retry may mend has ended as well, so the clears until then are noted.

    :param context: of the task
    """
    try:
        yield
    except (AirflowFailException, AirflowSkipException):
        _conclude(context, is_finished=True)
        raise
    except Exception:
        _conclude(context, is_finished=False)
        raise
    _conclude(context, is_finished=True)


def _conclude(context: Context, *, is_finished: bool) -> None:
    try:
        if intent := Intent.load(context):
            replace(intent, clears=clears_of(context), finished=is_finished).store(context)
    except Exception as error:  # whatever a state store raises: the outcome is worth more than the note
        log.warning("That the run is finished could not be noted: %s", error)


@contextmanager
def while_it_goes_on(what: str) -> Iterator[None]:
    """Let what is refused while there is a run fail the attempt, not the task: a retry has to look after the run.

    :param what: the run, for the message
    """
    try:
        yield
    except RunNotFoundError:
        raise
    except ConfigurationError as error:
        raise ApiUnavailableError(str(error), f"{what} goes on; a retry reconnects to it.") from error


def origin_of(context: Context) -> dict[str, str]:
    """Where a run comes from, and of which code, for its labels.

    :param context: of the task
    """
    ti = context["ti"]
    return {
        "dag_id": ti.dag_id,
        "dag_run_id": ti.run_id,
        "task_id": ti.task_id,
        "map_index": str(ti.map_index),
        "try_number": str(ti.try_number),
        "dag_version": "",
        **code_of(context),
    }


def dag_run_key(context: Context) -> str:
    """``dag_id/run_id``: what the MLflow runs of a DAG run are found by.

    :param context: of the task
    """
    ti = context["ti"]
    return f"{ti.dag_id}/{ti.run_id}"


def attempts_key(context: Context, began: int | None = None) -> str:
    """Whose checkpoints may be gone on from: those of the same task in the same DAG run, until it is cleared.

    :param context: of the task
    :param began: try number of the first attempt, see :class:`Intent`; this attempt's when left out
    """
    ti = context["ti"]
    of = [ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.try_number if began is None else began]
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()[:ATTEMPTS_KEY_CHARACTERS]


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

    A thread asks: this may be a signal handler that has interrupted a conversation with the supervisor.

    :param context: of the task
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
