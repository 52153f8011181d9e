"""Wait for a pipeline run without occupying a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.triggers.settle import settle


class PipelineRunTrigger(BaseTrigger):
    """Fires once, when a run has ended or its deadline has passed.

    New lines of the run's log go to the task's log while it waits. The event's payload is
    ``{"run_id": str, "state": str, "timed_out": bool, "log_offset": int}``.

    :param kubeflow_conn_id: connection of type ``kubeflow``
    :param run_id: run to wait for
    :param poll_interval: seconds between two looks
    :param deadline: Unix time at which the run is cancelled; never when ``None``
    :param stream_logs: whether to pass the run's log on
    :param log_offset: byte in the log to begin with
    :param cancel_on_kill: whether the run is cancelled when a person marks or clears the waiting task
    """

    def __init__(
        self,
        *,
        kubeflow_conn_id: str,
        run_id: str,
        poll_interval: float,
        deadline: float | None = None,
        stream_logs: bool = True,
        log_offset: int = 0,
        cancel_on_kill: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kubeflow_conn_id = kubeflow_conn_id
        self.run_id = run_id
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.stream_logs = stream_logs
        self.log_offset = log_offset
        self.cancel_on_kill = cancel_on_kill

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments to build this trigger again."""
        return (
            "airflow_provider_llmops.triggers.pipeline_run.PipelineRunTrigger",
            {
                "kubeflow_conn_id": self.kubeflow_conn_id,
                "run_id": self.run_id,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
                "stream_logs": self.stream_logs,
                "log_offset": self.log_offset,
                "cancel_on_kill": self.cancel_on_kill,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the run until it has ended."""
        started = time.monotonic()
        backend = await KubeflowPipelinesHook(self.kubeflow_conn_id).aget_backend()
        while True:
            run = await asyncio.to_thread(backend.get, self.run_id)
            timed_out = (
                not run.state.is_terminal and self.deadline is not None and time.time() >= self.deadline
            )
            if timed_out:
                await asyncio.to_thread(backend.cancel, self.run_id)
            while self.stream_logs:
                lines, offset = await asyncio.to_thread(backend.read_log, self.run_id, self.log_offset)
                for line in lines:
                    self.log.info("%s", line)
                if offset == self.log_offset:
                    break
                self.log_offset = offset
            if timed_out or run.state.is_terminal:
                break
            await asyncio.sleep(self.poll_interval)
        await settle(started)
        yield TriggerEvent(  # type: ignore[no-untyped-call]
            {
                "run_id": self.run_id,
                "state": str(run.state),
                "timed_out": timed_out,
                "log_offset": self.log_offset,
            }
        )

    async def on_kill(self) -> None:
        """Cancel the run: a person marked or cleared the task. A restart of the triggerer does not come here."""
        if self.cancel_on_kill:
            backend = await KubeflowPipelinesHook(self.kubeflow_conn_id).aget_backend()
            await asyncio.to_thread(backend.cancel, self.run_id)
