"""What a kind of thing that runs elsewhere has to say of itself, so that one of it is made and none is lost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.remote.intent import Intent
    from airflow_provider_llmops.remote.trigger import WatchTrigger

__all__ = ["RemoteKind", "SeenElsewhere", "State"]


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


class RemoteKind(ABC, Generic[Seen]):
    """One kind of thing that runs elsewhere, as one task deals with it.

    A thing has a *name*, which is stored before the thing is made, and a *key*, by which it is found once it is there.

    :param logger: of the task
    """

    noun: ClassVar[str]
    """What is made, for messages."""
    is_taken_over: ClassVar[bool] = True
    """Whether a retry takes what an earlier attempt has made; if not, it asks for the same again, which finds that."""

    def __init__(self, logger: Any) -> None:
        self.log = logger

    @property
    @abstractmethod
    def backend(self) -> Any:
        """Where it runs."""

    @abstractmethod
    def new_name(self, context: Context) -> str:
        """A name that nothing else will ever have; it is stored before anything is made."""

    @abstractmethod
    def key_of(self, seen: Seen) -> str:
        """What it is found by again."""

    @abstractmethod
    def key_in(self, event: dict[str, Any]) -> str:
        """The key of what a trigger has waited for."""

    @abstractmethod
    def find(self, intent: Intent) -> Seen | None:
        """Look once for what has become of an intent."""

    @abstractmethod
    def read(self, key: str, event: dict[str, Any]) -> Seen | None:
        """As it is when the waiting is over; ``None`` if it is gone."""

    @abstractmethod
    def cancel(self, key: str, *, patience: float | None = None) -> None:
        """Stop it; does nothing if it has ended.

        :param patience: seconds to try for; as long as the backend sees fit when ``None``
        """

    @abstractmethod
    def trigger(self, key: str, *, poll_interval: float, deadline: float | None) -> WatchTrigger[Any]:
        """What waits for it.

        :param poll_interval: seconds between two looks
        :param deadline: Unix time at which its time is up; never when ``None``
        """

    def named(self, key: str) -> str:
        """What it is called in messages."""
        return f"{self.noun} {key}"

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
