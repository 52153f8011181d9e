"""Look at what runs elsewhere until there is nothing more to wait for: the same in a worker and in the triggerer."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, RunNotFoundError, reason_first
from airflow_provider_llmops.remote.ending import at_the_start, seconds_to_wait

__all__ = ["SharedWatch", "Watch", "watch_here"]


class Watch(ABC):
    """Looks at one thing that runs elsewhere.

    :param named: what it is, such as ``run 4f1c``, for messages
    :param deadline: Unix time at which its time is up; never when ``None``
    """

    def __init__(self, named: str, deadline: float | None) -> None:
        self.named = named
        self.deadline = deadline

    @abstractmethod
    def look(self) -> bool:
        """Look once and log what has changed; whether there is nothing more to wait for.

        :raises ConfigurationError: it cannot be watched any more
        """

    @abstractmethod
    def event(self, *, timed_out: bool = False, error: str | None = None) -> dict[str, Any]:
        """What the waiting task is told.

        :param timed_out: whether its time was up before there was nothing to wait for
        :param error: why it cannot be watched any more
        """

    def look_before_the_end(self) -> None:  # noqa: B027  (most have nothing to ask)
        """Ask once more, while it is there, what nobody can tell after it was cancelled because its time is up."""

    def cannot_go_on(self, reason: ConfigurationError) -> str:
        """Why it cannot be watched any more, as an event says it."""
        kind, _, name = self.named.partition(" ")
        return reason_first(
            f"The {kind} cannot be watched any more: {reason}", f"{at_the_start(kind)}: {name}"
        )

    @property
    def is_over_time(self) -> bool:
        """Whether its time is up."""
        return self.deadline is not None and time.time() >= self.deadline

    def seconds_to_wait(self, interval: float) -> float:
        """How long to wait before the next look.

        :param interval: seconds between two looks, as somebody asked for
        """
        return seconds_to_wait(interval, self.deadline)


class SharedWatch(Watch):
    """Looks at what others look at, too, which lags behind: what would end the waiting is looked at where it runs.

    So what is shared can delay the end, and never be the reason for it. The last look before the deadline is no shared one.
    """

    @property
    @abstractmethod
    def lags(self) -> bool:
        """Whether there is anything that is shared."""

    @abstractmethod
    def look_at(self, *, may_lag: bool) -> bool:
        """Look once; whether there is nothing more to wait for. Where that may lag behind nothing is done about it.

        :param may_lag: whether what is shared is good enough
        """

    def look(self) -> bool:
        """Look once; whether there is nothing more to wait for. What does not answer is asked again."""
        if self.lags and not self.is_over_time:
            with suppress(RunNotFoundError):
                if not self.look_at(may_lag=True) and not self.is_over_time:  # by now
                    return False
        return self.look_at(may_lag=False)


def watch_here(watch: Watch, interval: float) -> dict[str, Any]:
    """Wait in this thread; returns the event.

    :param watch: looks
    :param interval: seconds between two looks
    """
    while True:
        try:
            if watch.look():
                return watch.event()
        except ConfigurationError as reason:
            return watch.event(error=watch.cannot_go_on(reason))
        if watch.is_over_time:
            watch.look_before_the_end()
            return watch.event(timed_out=True)
        time.sleep(watch.seconds_to_wait(interval))
