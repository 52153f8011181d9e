"""The guarantee: one thing is made elsewhere for each scheduled run of a task, wherever an attempt dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic

from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError
from airflow_provider_llmops.remote.ending import (
    RunningTask,
    at_the_start,
    describe_limits,
    end_if_unwanted,
    is_timed_out,
    is_unwanted,
)
from airflow_provider_llmops.remote.intent import Intent, find_in_flight, while_it_goes_on
from airflow_provider_llmops.remote.kind import RemoteKind, Seen

if TYPE_CHECKING:
    from airflow.sdk import Context

KILL_PATIENCE_SECONDS = 3.0  # Airflow kills a process soon after it has told it to end
FIND_SECONDS = 2.0
FIND_SECONDS_WHEN_TIMED_OUT = 20.0  # Airflow kills nothing then, and waits for ``on_kill`` to return


class Attempt(Generic[Seen]):
    """One attempt of a task to have one thing run elsewhere: it finds or makes it, and cancels it when nobody wants it.

    :param task: the operator
    :param context: of the attempt
    :param kind: what is made
    :param logger: of the task
    """

    def __init__(self, task: RunningTask, context: Context, kind: RemoteKind[Seen], logger: Any) -> None:
        self.task = task
        self.context = context
        self.kind = kind
        self.log = logger
        self.key: str | None = None
        """Of what there is to cancel."""
        self.was_cancelled = False
        """Whether that was cancelled because the task was ended."""
        self._making: Intent | None = None

    def reconnect(self) -> str | None:
        """The key of what an earlier attempt has made, if it still can bring a result."""
        intent = Intent.load(self.context)
        if intent is None:
            return None
        kind = self.kind
        with self.while_it_goes_on(kind.key_before(intent) or intent.run_id or intent.name):
            seen = kind.find(intent)
            is_retry = intent.is_of_this_cycle(self.context, is_useless=kind.is_useless(intent, seen))
            if seen is None and intent.run_id is None and kind.may_be_on_its_way(is_retry=is_retry):
                seen = find_in_flight(lambda: kind.find(intent), intent.at)
                is_retry = intent.is_of_this_cycle(self.context, is_useless=kind.is_useless(intent, seen))
            if not is_retry:
                kind.stop_former(intent, seen)
        if is_retry:
            return self._take_over(intent, seen) if kind.is_taken_over else None
        Intent.drop(self.context)
        return None

    def make(self, prepare: Callable[[Intent], Callable[[], str]]) -> str:
        """Make it, and return its key.

        :param prepare: checks everything, and gives what makes it: a function that returns its key
        """
        former = Intent.load(self.context)  # of this cycle: that of another one has been dropped
        unfinished = former if former and former.is_unfinished else None
        name = unfinished.name if unfinished else self.kind.new_name(self.context)
        intent = Intent.of(self.context, name, former=former)
        create = prepare(intent)
        # The intent is stored first: if this worker dies at any later instant, the name leads to what came of it.
        intent.store(self.context)
        self._making = intent
        end_if_unwanted(self.task, self.context)
        key = self.key = create()
        self._making = None
        # Before anything is stored: Airflow refuses that to an attempt that was cleared.
        self.end_if_unwanted()
        with self.while_it_goes_on(key):
            # Whichever attempt's request came first.
            is_doubtful = unfinished and self.kind.may_be_on_its_way(is_retry=True)
            if is_doubtful and (seen := self.kind.find(intent)):
                key = self.key = self.kind.key_of(seen)
        self.kind.made(intent, former, key).note(self.context, key)
        return key

    def end_if_unwanted(self) -> None:
        """End the attempt here if the task was given up while the thing was being looked for or made."""
        end_if_unwanted(self.task, self.context, self.cancel)

    def kill(self) -> None:
        """Cancel what this worker makes or waits for, now that it is told to end, unless the task goes on elsewhere."""
        task = self.task
        if task.cancel_on_kill and is_unwanted(self.context, cancel_on_eviction=task.cancel_on_eviction):
            try:
                self.cancel()
            except (ApiUnavailableError, ConfigurationError) as error:
                self.log.warning("It was not cancelled: %s", error)
        elif key := self.key or (self._making and (self.kind.key_before(self._making) or self._making.name)):
            self.log.info("%s goes on; the next attempt will find it", self._at_the_start(key))

    def cancel(self) -> None:
        """Cancel it in the time that Airflow leaves before it kills the process."""
        key = self.key or (self._making and self.kind.key_before(self._making)) or self._made_meanwhile()
        if key is None:
            return
        self.log.info("Cancelling %s", self.kind.named(key))
        self.kind.cancel(key, patience=KILL_PATIENCE_SECONDS)
        self.was_cancelled = True
        if is_timed_out() and self.task.execution_timeout:
            noun, _, name = self._at_the_start(key).partition(" ")
            took = f"The {self.kind.noun} took longer than {describe_limits(self.task)} and was cancelled."
            self.log.error("%s\n%s: %s", took, noun, name)

    def while_it_goes_on(self, key: str) -> AbstractContextManager[None]:
        """Let what is refused while it goes on fail the attempt, not the task."""
        return while_it_goes_on(self._at_the_start(key))

    def _take_over(self, intent: Intent, seen: Seen | None) -> str | None:
        """On a retry: the key of what an earlier attempt has made, if it goes on."""
        if seen is not None:
            key = self.kind.key_of(seen)
            if not seen.state.is_lost:
                intent.note(self.context, key)
                self.log.info("Reconnected to %s, which is %s", self.kind.named(key), seen.state)
                return key
            intent.note(self.context, key, at=time.time())  # its time begins anew if it is told to go on
        return self.kind.go_on(intent, seen)

    def _made_meanwhile(self) -> str | None:
        """The key of what is just being made, if it is there.

        Asked from a thread, for a short time: the interrupted request may hold what another one waits for.
        """
        if (intent := self._making) is None:
            return None
        found: list[Seen | None] = []
        thread = threading.Thread(target=lambda: found.append(self.kind.find(intent)), daemon=True)
        thread.start()
        thread.join(timeout=FIND_SECONDS_WHEN_TIMED_OUT if is_timed_out() else FIND_SECONDS)
        return next((self.kind.key_of(seen) for seen in found if seen), None)

    def _at_the_start(self, key: str) -> str:
        return at_the_start(self.kind.named(key))
