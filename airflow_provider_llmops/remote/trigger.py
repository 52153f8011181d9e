"""The trigger behind everything that is waited for without occupying a worker."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Generic, TypeVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError
from airflow_provider_llmops.remote.ending import at_the_start
from airflow_provider_llmops.remote.settle import settle
from airflow_provider_llmops.remote.watch import Watch

__all__ = ["WatchTrigger"]

CANCEL_PATIENCE_SECONDS = 25.0  # Airflow gives on_kill 30 seconds

Backend = TypeVar("Backend")


class WatchTrigger(BaseTrigger, Generic[Backend]):
    """Fires once: there is nothing more to wait for, its time is up, or it cannot be watched any more.

    A subclass stores its arguments under their names, and says how the thing is reached, looked at and cancelled.
    """

    arguments: ClassVar[tuple[str, ...]]
    """Names of the constructor's arguments. Deferred tasks hold them while the provider is upgraded."""
    poll_interval: float

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments to build this trigger again."""
        kind = type(self)
        return (
            f"{kind.__module__}.{kind.__qualname__}",
            {name: getattr(self, name) for name in self.arguments},
        )

    @property
    @abstractmethod
    def named(self) -> str:
        """What is waited for, such as ``run 4f1c``."""

    @property
    @abstractmethod
    def cancels_on_kill(self) -> bool:
        """Whether it is cancelled when a person marks or clears the waiting task."""

    @abstractmethod
    async def connect(self) -> Backend:
        """Where it runs."""

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[Backend]:
        """Where it runs, for the looks, from the first to the last: what they share with others is given back then."""
        yield await self.connect()

    @abstractmethod
    def watch(self, backend: Backend, logger: Any) -> Watch:
        """What looks at it.

        :param backend: where it runs
        :param logger: of the task
        """

    @abstractmethod
    def cancel(self, backend: Backend) -> None:
        """Stop it.

        :param backend: where it runs
        """

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until there is nothing more to wait for."""
        started = time.monotonic()
        async with self.looking() as backend:
            event = await self._watched(self.watch(backend, self.log))
        await settle(started)
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _watched(self, watch: Watch) -> dict[str, Any]:
        timed_out = False
        error = None
        while True:
            try:
                if await asyncio.to_thread(watch.look):
                    break
            except ConfigurationError as reason:
                error = watch.cannot_go_on(reason)
                break
            if timed_out := watch.is_over_time:
                await asyncio.to_thread(watch.look_before_the_end)
                await self.cancel_now()
                break
            await asyncio.sleep(watch.seconds_to_wait(self.poll_interval))
        return watch.event(timed_out=timed_out, error=error)

    async def on_kill(self) -> None:
        """Cancel it: a person marked or cleared the task. A restart of the triggerer does not come here."""
        if self.cancels_on_kill:
            self.log.info("Cancelling %s", self.named)
            await self.cancel_now()

    async def cancel_now(self) -> None:
        """Cancel it, or say that it could not be; the worker tries again when a deadline has passed."""
        try:
            await asyncio.to_thread(self.cancel, await self.connect())
        except (ApiUnavailableError, ConfigurationError) as error:
            self.log.warning("%s was not cancelled: %s", at_the_start(self.named), error)
