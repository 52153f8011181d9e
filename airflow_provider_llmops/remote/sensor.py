"""The sensor behind everything that is waited for and was made by something else."""

from __future__ import annotations

from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger

__all__ = ["RemoteSensor"]


class RemoteSensor(BaseSensorOperator):
    """Base of the sensors. What they wait for is only watched: whatever happens to the task, it stays.

    A subclass says in ``poke`` whether it is as it is waited for, and goes on in ``execute_complete`` when the trigger has fired.

    :param deferrable: wait in the triggerer instead of in a worker
    """

    def __init__(self, *, deferrable: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable

    @abstractmethod
    def _trigger(self) -> BaseTrigger:
        """What waits in the triggerer."""

    def execute(self, context: Context) -> Any:
        """Look once, then wait where it was asked for."""
        if not self.deferrable:
            return super().execute(context)
        if not self.poke(context):
            self._wait()
        return None

    def _wait(self) -> None:
        """Wait in the triggerer, for as long as a sensor may."""
        timeout = timedelta(seconds=self.timeout)
        self.defer(trigger=self._trigger(), method_name="execute_complete", timeout=timeout)
