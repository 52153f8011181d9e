"""The operator behind everything that runs elsewhere: make it once, wait, bring its outcome home."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from airflow.sdk import BaseOperator

from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError
from airflow_provider_llmops.remote.ending import (
    at_the_start,
    deadline,
    describe_limits,
    end_if_unwanted,
    is_timed_out,
    is_unwanted,
)
from airflow_provider_llmops.remote.intent import Intent, concluding, find_in_flight, while_it_goes_on
from airflow_provider_llmops.remote.watch import watch_here

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.remote.trigger import WatchTrigger

__all__ = ["RemoteRunOperator"]

KILL_PATIENCE_SECONDS = 3.0  # Airflow kills a process soon after it has told it to end
FIND_SECONDS = 2.0
FIND_SECONDS_WHEN_TIMED_OUT = 20.0  # Airflow kills nothing then, and waits for ``on_kill`` to return


class State(Protocol):
    """What has become of something that runs elsewhere."""

    @property
    def is_terminal(self) -> bool: ...
    @property
    def is_successful(self) -> bool: ...
    @property
    def is_lost(self) -> bool: ...


class SeenElsewhere(Protocol):
    """Something that runs elsewhere, as it was seen: a pipeline run, a TrainJob, a revision of a service."""

    @property
    def state(self) -> State: ...


Seen = TypeVar("Seen", bound=SeenElsewhere)


class RemoteRunOperator(BaseOperator, Generic[Seen]):
    """Base of the operators that have something run elsewhere.

    One thing is made for each scheduled run of the task, whatever dies in between: before it is asked for, a name that
    contains a token is stored in Airflow's task state store. A retry takes over what an earlier attempt has made, or was
    making; clearing the task makes a new one, and stops the old.

    :param deferrable: wait in the triggerer instead of in a worker
    :param poll_interval: seconds between two looks; what suits the backend unless given
    :param run_timeout: how long it may take before it is cancelled, however many attempts wait for it;
        ``execution_timeout``, of each attempt, counts as well, since Airflow does not apply that to a deferred task
    :param cancel_on_kill: cancel it when the task is marked, cleared or timed out
    :param cancel_on_eviction: cancel it when the worker is told to end while the task goes on, as when its pod is evicted;
        otherwise the retry takes it over
    """

    kind: ClassVar[str] = "run"
    """What is made, for messages."""
    run_timeout_argument = "run_timeout"
    """What a DAG's author calls ``run_timeout``, for messages."""

    def __init__(
        self,
        *,
        deferrable: bool = True,
        poll_interval: float | None = None,
        run_timeout: timedelta | None = None,
        cancel_on_kill: bool = True,
        cancel_on_eviction: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.run_timeout = run_timeout
        self.cancel_on_kill = cancel_on_kill
        self.cancel_on_eviction = cancel_on_eviction
        self.was_told_to_end = False
        self._context: Context | None = None
        self._key: str | None = None
        self._making: Intent | None = None

    # What a subclass says.

    @abstractmethod
    def new_name(self, context: Context) -> str:
        """A name that nothing else will ever have; it is stored before anything is made."""

    @abstractmethod
    def prepare(self, context: Context, intent: Intent) -> Callable[[], str]:
        """Check everything, and give what makes it: a function that returns its key."""

    @abstractmethod
    def find(self, intent: Intent) -> Seen | None:
        """Look once for what has become of an intent."""

    @abstractmethod
    def key_of(self, seen: Seen) -> str:
        """What it is found by again."""

    @abstractmethod
    def key_in(self, event: dict[str, Any]) -> str:
        """The key of what a trigger has waited for."""

    @abstractmethod
    def read(self, key: str, event: dict[str, Any]) -> Seen | None:
        """As it is when the waiting is over; ``None`` if it is gone."""

    @abstractmethod
    def cancel(self, key: str, *, patience: float | None = None) -> None:
        """Stop it; does nothing if it has ended.

        :param patience: seconds to try for; as long as the backend sees fit when ``None``
        """

    @abstractmethod
    def outcome(self, context: Context, seen: Seen) -> dict[str, Any]:
        """What goes to XCom of what ended well."""

    @abstractmethod
    def failure(self, key: str, seen: Seen | None, event: dict[str, Any]) -> Exception:
        """Why there is no outcome. Nothing of it goes on afterwards."""

    @abstractmethod
    def trigger(self, key: str, deadline: float | None) -> WatchTrigger[Any]:
        """What waits for it."""

    @property
    @abstractmethod
    def backend(self) -> Any:
        """Where it runs."""

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        return float(self.backend.poll_interval if self.poll_interval is None else self.poll_interval)

    def deadline(self, context: Context) -> float | None:
        """Unix time at which its time is up; an attempt that takes it over does not give it more."""
        intent = Intent.load(context) if self.run_timeout is not None else None
        return deadline(self, run_started_at=intent.at if intent else time.time())

    def announce(self, context: Context, key: str) -> None:
        """Say where a person can look at it, before the task waits."""

    def has_ended(self, key: str) -> bool:
        """Whether it has ended already, where that is cheaper to ask than to defer."""
        return False

    def is_useless(self, intent: Intent, seen: Seen | None) -> bool:
        """Whether nothing can be had of it, so that a clear of the task can look like a retry.

        See :meth:`~airflow_provider_llmops.remote.intent.Intent.is_of_this_cycle`.
        """
        return seen is not None and seen.state.is_lost

    def may_be_on_its_way(self, *, is_retry: bool) -> bool:
        """Whether a request of an earlier attempt, that died before its answer, may still make something.

        :param is_retry: whether this attempt asks for the same again, under the same name
        """
        return True

    def key_before(self, intent: Intent) -> str | None:
        """Its key before it is made, where that can be told from the intent."""
        return None

    def made(self, intent: Intent, former: Intent | None, key: str) -> Intent:
        """The intent with what is known now that the thing is there.

        :param intent: this attempt's
        :param former: an earlier attempt's of the same cycle
        :param key: of what was made
        """
        return intent

    def go_on(self, intent: Intent, seen: Seen | None) -> str | None:
        """On a retry, when it has failed or is gone: its key if it goes on after all, ``None`` to make a new one."""
        return None

    def stop_former(self, intent: Intent, seen: Seen | None) -> None:
        """After the task was cleared: stop what it had made before."""
        if seen is not None and not seen.state.is_terminal:
            self.log.info("Task was cleared: cancelling its former %s", self.named(self.key_of(seen)))
            self.cancel(self.key_of(seen))

    # What is the same for all.

    def named(self, key: str) -> str:
        """What it is called in messages."""
        return f"{self.kind} {key}"

    def execute(self, context: Context) -> dict[str, Any]:
        """Find or make it, then wait for it."""
        self._context = context
        key = self._key = self._reconnect(context) or self.make(context)
        end_if_unwanted(self, context, self._cancel)
        with while_it_goes_on(self._at_the_start(key)):
            return self._await(context, key)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Take the outcome of what was waited for."""
        self._context = context
        key = self.key_in(event)
        with while_it_goes_on(self._at_the_start(key)):
            seen = self.read(key, event)
        with concluding(context), while_it_goes_on(self._at_the_start(key)):
            if seen is not None and seen.state.is_successful:
                self._key = None  # there is nothing left to cancel
                return self.outcome(context, seen)
            is_over = seen is None or seen.state.is_terminal
            if is_over or event["timed_out"] or event.get("final_error"):
                raise self.failure(key, seen, event)
            if event["error"]:
                raise ConfigurationError(event["error"])
            self._key = key
            return self._await(context, key)  # somebody has made it go on

    def on_kill(self) -> None:
        """Cancel what this worker makes or waits for, unless the task goes on elsewhere."""
        if self._context is None:
            return
        self.was_told_to_end = True
        if self.cancel_on_kill and is_unwanted(self._context, cancel_on_eviction=self.cancel_on_eviction):
            try:
                self._cancel()
            except (ApiUnavailableError, ConfigurationError) as error:
                self.log.warning("It was not cancelled: %s", error)
        elif key := self._key or (self._making and (self.key_before(self._making) or self._making.name)):
            name = self._at_the_start(key)
            self.log.info("%s goes on; the next attempt will find it", name)

    def make(self, context: Context) -> str:
        """Make it, and return its key."""
        former = Intent.load(context)  # of this cycle: that of another one has been dropped
        unfinished = former if former and former.is_unfinished else None
        intent = Intent.of(context, unfinished.name if unfinished else self.new_name(context), former=former)
        create = self.prepare(context, intent)
        # The intent is stored first: if this worker dies at any later instant, the name leads to what came of it.
        intent.store(context)
        self._making = intent
        end_if_unwanted(self, context)
        key = self._key = create()
        self._making = None
        # Before anything is stored: Airflow refuses that to an attempt that was cleared.
        end_if_unwanted(self, context, self._cancel)
        with while_it_goes_on(self._at_the_start(key)):
            # Whichever attempt's request came first.
            is_doubtful = unfinished and self.may_be_on_its_way(is_retry=True)
            if is_doubtful and (seen := self.find(intent)):
                key = self._key = self.key_of(seen)
        self.made(intent, former, key).note(context, key)
        return key

    def _reconnect(self, context: Context) -> str | None:
        """The key of what an earlier attempt has made, if it still can bring a result."""
        intent = Intent.load(context)
        if intent is None:
            return None
        with while_it_goes_on(self._at_the_start(self.key_before(intent) or intent.run_id or intent.name)):
            seen = self.find(intent)
            is_retry = intent.is_of_this_cycle(context, is_useless=self.is_useless(intent, seen))
            if seen is None and intent.run_id is None and self.may_be_on_its_way(is_retry=is_retry):
                seen = find_in_flight(lambda: self.find(intent), intent.at)
                is_retry = intent.is_of_this_cycle(context, is_useless=self.is_useless(intent, seen))
            if not is_retry:
                self.stop_former(intent, seen)
        if is_retry:
            return self.take_over(context, intent, seen)
        Intent.drop(context)
        return None

    def take_over(self, context: Context, intent: Intent, seen: Seen | None) -> str | None:
        """On a retry: the key of what an earlier attempt has made, if it goes on."""
        if seen is not None:
            key = self.key_of(seen)
            if not seen.state.is_lost:
                intent.note(context, key)
                self.log.info("Reconnected to %s, which is %s", self.named(key), seen.state)
                return key
            intent.note(context, key, at=time.time())  # its time begins anew if it is told to go on
        return self.go_on(intent, seen)

    def _await(self, context: Context, key: str) -> dict[str, Any]:
        """Wait where it was asked for."""
        self.announce(context, key)
        trigger = self.trigger(key, self.deadline(context))
        if self.deferrable and not self.has_ended(key):
            self.defer(trigger=trigger, method_name="execute_complete")
        watch = trigger.watch(self.backend, self.log)
        return self.execute_complete(context, watch_here(watch, self.interval))

    def _cancel(self) -> None:
        """Cancel it in the time that Airflow leaves before it kills the process."""
        key = self._key or (self._making and self.key_before(self._making)) or self._made_meanwhile()
        if key is None:
            return
        self.log.info("Cancelling %s", self.named(key))
        self.cancel(key, patience=KILL_PATIENCE_SECONDS)
        if is_timed_out() and self.execution_timeout:
            kind, _, name = self._at_the_start(key).partition(" ")
            took = f"The {self.kind} took longer than {describe_limits(self)} and was cancelled."
            self.log.error("%s\n%s: %s", took, kind, name)

    def _made_meanwhile(self) -> str | None:
        """The key of what is just being made, if it is there.

        Asked from a thread, for a short time: the interrupted request may hold what another one waits for.
        """
        if (intent := self._making) is None:
            return None
        found: list[Seen | None] = []
        thread = threading.Thread(target=lambda: found.append(self.find(intent)), daemon=True)
        thread.start()
        thread.join(timeout=FIND_SECONDS_WHEN_TIMED_OUT if is_timed_out() else FIND_SECONDS)
        return next((self.key_of(seen) for seen in found if seen), None)

    def _at_the_start(self, key: str) -> str:
        return at_the_start(self.named(key))
