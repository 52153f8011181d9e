"""The operator behind everything that runs elsewhere: make it once, wait, bring its outcome home."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic

from airflow.sdk import Asset

from airflow_provider_llmops.assets import is_of_the_kind_of, only_of
from airflow_provider_llmops.exceptions import ConfigurationError, RunCanceledError
from airflow_provider_llmops.remote.attempt import Attempt
from airflow_provider_llmops.remote.ending import at_the_start, deadline
from airflow_provider_llmops.remote.intent import Intent, concluding
from airflow_provider_llmops.remote.kind import RemoteKind, Seen
from airflow_provider_llmops.remote.origin import code_of
from airflow_provider_llmops.remote.traced import TracedOperator
from airflow_provider_llmops.remote.watch import watch_here

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import OutletEventAccessorProtocol

__all__ = ["RemoteRunOperator"]


class RemoteRunOperator(TracedOperator, Generic[Seen]):
    """Base of the operators that have something run elsewhere.

    One thing is made for each scheduled run of the task, whatever dies in between: before it is asked for, a name that
    contains a token is stored in Airflow's task state store. A retry takes over what an earlier attempt has made, or was
    making; clearing the task makes a new one, and stops the old. See :class:`~airflow_provider_llmops.remote.attempt.Attempt`.

    XCom gets as ``code`` the version of the DAG, its bundle and the version of that, and the release of this provider, as far as
    the worker knows them; events of assets among ``outlets`` have the same as ``code`` of their extra.

    :param deferrable: wait in the triggerer instead of in a worker
    :param poll_interval: seconds between two looks; what suits the backend unless given
    :param run_timeout: how long it may take before it is cancelled, however many attempts wait for it;
        ``execution_timeout``, of each attempt, counts as well, since Airflow does not apply that to a deferred task
    :param cancel_on_kill: cancel it when the task is marked, cleared or timed out
    :param cancel_on_eviction: cancel it when the worker is told to end while the task goes on, as when its pod is evicted;
        otherwise the retry takes it over
    """

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
        self._attempt: Attempt[Seen] | None = None
        self._key: str | None = None

    @property
    @abstractmethod
    def kind(self) -> RemoteKind[Seen]:
        """What is made: how it is named, found, read, waited for and cancelled."""

    @property
    def backend(self) -> Any:
        """Where it runs."""
        return self.kind.backend

    @abstractmethod
    def prepare(self, context: Context, intent: Intent) -> Callable[[], str]:
        """Check everything, and give what makes it: a function that returns its key."""

    @abstractmethod
    def outcome(self, context: Context, seen: Seen) -> dict[str, Any]:
        """What goes to XCom of what ended well."""

    @abstractmethod
    def failure(self, key: str, seen: Seen | None, event: dict[str, Any]) -> Exception:
        """Why there is no outcome. Nothing of it goes on afterwards."""

    def deadline(self, context: Context) -> float | None:
        """Unix time at which its time is up; an attempt that takes it over does not give it more."""
        intent = Intent.load(context) if self.run_timeout is not None else None
        return deadline(self, run_started_at=intent.at if intent else time.time())

    def execute(self, context: Context) -> dict[str, Any]:
        """Find or make it, then wait for it."""
        attempt = self._begin(context)
        key = attempt.key = self._key = attempt.reconnect() or self.make(context)
        self._note_code(context)
        attempt.end_if_unwanted()
        with attempt.while_it_goes_on(key):
            return self._await(context, key)

    def make(self, context: Context) -> str:
        """Make it, and return its key."""
        return self._begin(context).make(lambda intent: self.prepare(context, intent))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Take the outcome of what was waited for."""
        attempt = self._begin(context)
        key = self._key = self.kind.key_in(event)
        with attempt.while_it_goes_on(key):
            seen = self.kind.read(key, event)
        with concluding(context), attempt.while_it_goes_on(key):
            if seen is not None and seen.state.is_successful:
                attempt.key = None  # there is nothing left to cancel
                self.tell_assets(context, {"code": {**code_of(context)}})
                return self.outcome(context, seen)
            is_over = seen is None or seen.state.is_terminal
            if is_over and attempt.was_cancelled:  # Airflow's signal handler goes back to the waiting
                raise RunCanceledError(
                    f"The task was ended while it waited, and its {self.kind.noun} was cancelled. Clear it to run it.",
                    at_the_start(self.kind.named(key)),
                )
            if is_over or event["timed_out"] or event.get("final_error"):
                raise self.failure(key, seen, event)
            if event["error"]:
                raise ConfigurationError(event["error"])
            attempt.key = key
            return self._await(context, key)  # somebody has made it go on

    def tell_assets(
        self, context: Context, told: Mapping[str, Any], of: Asset | None = None
    ) -> list[OutletEventAccessorProtocol]:
        """Say something in the events of assets, and give them.

        :param context: of the task
        :param told: goes to their extra
        :param of: what the task has made, where it knows that: it takes the place of assets of the same kind among the outlets, which are told
            nothing. Airflow reads the outlets of a task when that has ended; of a mapped one it reads those of the DAG
        """
        if of is not None:
            for each in self.outlets:
                if is_of_the_kind_of(of, each) and each.uri != of.uri:
                    context["outlet_events"][of].extra.update(context["outlet_events"][each].extra)
            self.outlets = only_of(of, self.outlets)
        found = self.asset_events(context)
        for event in found:
            event.extra.update(told)
        return found

    def asset_events(self, context: Context) -> list[OutletEventAccessorProtocol]:
        """The events that the assets among the outlets get where the task succeeds."""
        return [context["outlet_events"][asset] for asset in self.outlets if isinstance(asset, Asset)]

    def _note_code(self, context: Context) -> None:
        """Say on XCom, whatever comes of it, of which code it is."""
        context["ti"].xcom_push(key="code", value=code_of(context))

    def on_kill(self) -> None:
        """Cancel what this worker makes or waits for, unless the task goes on elsewhere."""
        if self._attempt is not None:
            self.was_told_to_end = True
            self._attempt.kill()

    def _begin(self, context: Context) -> Attempt[Seen]:
        self._context = context
        if self._attempt is None or self._attempt.context is not context:
            self._attempt = Attempt(self, context, self.kind, self.log)
        return self._attempt

    def _await(self, context: Context, key: str) -> dict[str, Any]:
        """Wait where it was asked for."""
        kind = self.kind
        kind.announce(context, key)
        interval = float(kind.backend.poll_interval if self.poll_interval is None else self.poll_interval)
        trigger = kind.trigger(key, poll_interval=interval, deadline=self.deadline(context))
        if self.deferrable and not kind.has_ended(key):
            self.defer(trigger=trigger, method_name="execute_complete")
        return self.execute_complete(context, watch_here(trigger.watch(kind.backend, self.log), interval))
