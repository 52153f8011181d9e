"""Wait for a TrainJob without occupying a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_llmops.backends.trainjobs.watch import TrainJobWatch
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, RunNotFoundError
from airflow_provider_llmops.hooks.trainer import KubeflowTrainerHook
from airflow_provider_llmops.remote.settle import settle

DELETE_PATIENCE_SECONDS = 25.0  # Airflow gives on_kill 30 seconds


class TrainJobTrigger(BaseTrigger):
    """Fires once, when a TrainJob has ended or is gone, will certainly fail, or its deadline has passed.

    While it waits, progress and metrics go to the task's log as the training reports them, and so do its conditions,
    jobs, pods that do not run, and the log of the first that failed. The event's payload is ``{"namespace": str, "name":
    str, "timed_out": bool, "error": str | None, "final_error": str | None, "trouble": str | None}``; ``error`` says why
    the TrainJob cannot be watched any more, ``final_error`` what the training itself said will happen again, ``trouble``
    why it does not run or has failed, as far as it was seen.

    :param kubernetes_conn_id: connection of type ``kubernetes``
    :param namespace: namespace of the TrainJob
    :param name: its name
    :param poll_interval: seconds between two looks
    :param deadline: Unix time at which the TrainJob is deleted; never when ``None``
    :param run_timeout: seconds from its start on after which it is deleted as well; time in a queue does not count
    :param stops_at_final_error: whether to fire at an error that will happen again, before the runtime's restarts are used up
    :param delete_on_kill: whether the TrainJob is deleted when a person marks or clears the waiting task
    """

    def __init__(
        self,
        *,
        kubernetes_conn_id: str,
        namespace: str,
        name: str,
        poll_interval: float,
        deadline: float | None = None,
        run_timeout: float | None = None,
        stops_at_final_error: bool = True,
        delete_on_kill: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kubernetes_conn_id = kubernetes_conn_id
        self.namespace = namespace
        self.name = name
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.run_timeout = run_timeout
        self.stops_at_final_error = stops_at_final_error
        self.delete_on_kill = delete_on_kill

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments to build this trigger again."""
        return (
            "airflow_provider_llmops.triggers.train_job.TrainJobTrigger",
            {
                "kubernetes_conn_id": self.kubernetes_conn_id,
                "namespace": self.namespace,
                "name": self.name,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
                "run_timeout": self.run_timeout,
                "stops_at_final_error": self.stops_at_final_error,
                "delete_on_kill": self.delete_on_kill,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the TrainJob until it has ended."""
        started = time.monotonic()
        backend = await KubeflowTrainerHook(self.kubernetes_conn_id).aget_backend()
        watch = TrainJobWatch(
            backend,
            self.namespace,
            self.name,
            self.log,
            deadline=self.deadline,
            run_timeout=self.run_timeout,
        )
        timed_out = False
        error = final_error = None
        while True:
            try:
                job = await asyncio.to_thread(watch.look)
            except RunNotFoundError:
                break
            except ConfigurationError as reason:
                error = f"The TrainJob cannot be watched any more: {reason}\nTrainJob: {self.namespace}/{self.name}"
                break
            if job is not None and job.state.is_terminal:
                break
            if self.stops_at_final_error and watch.final_error:
                final_error = watch.final_error
                break
            if timed_out := watch.is_over_time:
                await self._delete()
                break
            await asyncio.sleep(watch.seconds_to_wait(self.poll_interval))
        await settle(started)
        yield TriggerEvent(  # type: ignore[no-untyped-call]
            {
                "namespace": self.namespace,
                "name": self.name,
                "timed_out": timed_out,
                "error": error,
                "final_error": final_error,
                "trouble": watch.trouble,
            }
        )

    async def on_kill(self) -> None:
        """Delete the TrainJob: a person marked or cleared the task. A restart of the triggerer does not come here."""
        if self.delete_on_kill:
            self.log.info("Deleting TrainJob %s/%s", self.namespace, self.name)
            await self._delete()

    async def _delete(self) -> None:
        """Delete it, or say that it could not be; the worker tries again when a deadline has passed."""
        try:
            backend = await KubeflowTrainerHook(self.kubernetes_conn_id).aget_backend()
            await asyncio.to_thread(
                backend.delete, self.namespace, self.name, patience=DELETE_PATIENCE_SECONDS
            )
        except (ApiUnavailableError, ConfigurationError) as error:
            self.log.warning("TrainJob %s/%s was not deleted: %s", self.namespace, self.name, error)
