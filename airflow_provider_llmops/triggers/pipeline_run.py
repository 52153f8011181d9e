"""Wait for a pipeline run without occupying a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Hashable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_provider_llmops.backends.pipelines.base import step_changes
from airflow_provider_llmops.backends.pipelines.waiting import WaitWatch
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, reason_first
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.redaction import Redactor, hide_in, redact
from airflow_provider_llmops.remote.ending import seconds_to_wait
from airflow_provider_llmops.remote.settle import settle

if TYPE_CHECKING:
    from airflow_provider_llmops.backends.pipelines.base import PipelineBackend, Run
    from airflow_provider_llmops.backends.pipelines.kubeflow.run import KubeflowPipelineBackend

CANCEL_PATIENCE_SECONDS = 25.0  # Airflow gives on_kill 30 seconds
LONGEST_WAIT_IN_LOOKS = 120
LAST_QUESTION_SECONDS = 10.0  # a run whose time is up is not left running for an explanation


class PipelineRunTrigger(BaseEventTrigger):
    """Fires once, when a run has ended or its deadline has passed.

    While it waits, the states of the run's steps go to the task's log as they change, on Kubeflow also why a step waits for
    long, and on the local backend the run's log. The event's payload is ``{"run_id": str, "timed_out": bool, "error": str |
    None, "log_offset": int}``; ``error`` says why the run cannot be watched any more. ``waits_for`` is added when its time was
    up and a step was still waiting: why.

    On Kubeflow, all triggers of a connection share one poll: see :mod:`airflow_provider_llmops.triggers.run_stream`.

    :param kubeflow_conn_id: connection of type ``kubeflow``
    :param run_id: run to wait for
    :param poll_interval: seconds between two looks
    :param in_one_stream: whether to share the look with others that wait on the connection
    :param deadline: Unix time at which the run is cancelled; never when ``None``
    :param stream_logs: whether to pass the run's log on
    :param log_offset: byte in the log to begin with
    :param cancel_on_kill: whether the run is cancelled when a person marks or clears the waiting task
    """

    # Airflow says no for triggers that wait for assets; this one belongs to a task, which may choose its triggerer.
    supports_triggerer_queue = True

    def __init__(
        self,
        *,
        kubeflow_conn_id: str,
        run_id: str,
        poll_interval: float,
        in_one_stream: bool = False,
        deadline: float | None = None,
        stream_logs: bool = True,
        log_offset: int = 0,
        cancel_on_kill: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kubeflow_conn_id = kubeflow_conn_id
        self.run_id = run_id
        self.poll_interval = poll_interval
        self.in_one_stream = in_one_stream
        self.deadline = deadline
        self.stream_logs = stream_logs
        self.log_offset = log_offset
        self.cancel_on_kill = cancel_on_kill
        self._steps: dict[str, str] = {}
        self._waits = WaitWatch()
        self._redactor = Redactor()
        self._question: asyncio.Task[None] | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments to build this trigger again."""
        return (
            "airflow_provider_llmops.triggers.pipeline_run.PipelineRunTrigger",
            {
                "kubeflow_conn_id": self.kubeflow_conn_id,
                "run_id": self.run_id,
                "poll_interval": self.poll_interval,
                "in_one_stream": self.in_one_stream,
                "deadline": self.deadline,
                "stream_logs": self.stream_logs,
                "log_offset": self.log_offset,
                "cancel_on_kill": self.cancel_on_kill,
            },
        )

    def shared_stream_key(self) -> Hashable | None:
        """The key of the poll that this trigger shares; ``None`` if it looks by itself."""
        if not self.in_one_stream:
            return None
        return _stream_key(self.kubeflow_conn_id, self.poll_interval)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Any]:
        """Poll for all triggers of a connection.

        It yields nothing. Airflow would hand whatever it yields to every waiting trigger: ten thousand wake-ups for each
        run that ends. The stream's own queues reach those that wait for that run.
        """
        from airflow_provider_llmops.triggers.run_stream import stream_of

        conn_id, interval = kwargs["kubeflow_conn_id"], kwargs["poll_interval"]

        async def connect() -> Any:
            backend = await KubeflowPipelinesHook(conn_id).aget_backend()
            return backend.impatient()  # type: ignore[attr-defined]

        await stream_of(_stream_key(conn_id, interval), interval).poll(connect)
        yield

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """Wait for this trigger's run among those of the stream."""
        from airflow_provider_llmops.triggers.run_stream import stream_of

        started = time.monotonic()
        key = self.shared_stream_key()
        error: str | None = None
        timed_out = False
        remaining = None if self.deadline is None else max(0.0, self.deadline - time.time())
        stream = stream_of(key, self.poll_interval)
        try:
            async with asyncio.timeout(remaining), stream.watch(self.run_id) as queue:
                while True:
                    item = await self._next(queue)
                    if item is None:
                        self._ask_why_it_waits(stream.backend)
                        continue
                    if isinstance(item, ConfigurationError):
                        error = reason_first(
                            f"The run cannot be watched any more: {item}", f"Run: {self.run_id}"
                        )
                        break
                    if isinstance(item, Exception):
                        raise ApiUnavailableError(
                            f"The run was lost from sight: {item!r}", f"Run: {self.run_id}"
                        ) from item
                    self._log_steps(item)
                    if item.state.is_terminal:
                        break
        except TimeoutError:
            timed_out = True
            await self._ask_before_the_end(stream.backend)
            await self._cancel()
        finally:
            self._ask_no_more()
        await settle(started)
        yield self._event(timed_out=timed_out, error=error)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the run until it has ended, where no poll is shared: on this machine, and in ``dag.test()``."""
        started = time.monotonic()
        backend = await KubeflowPipelinesHook(self.kubeflow_conn_id).aget_backend()
        asked = cast("KubeflowPipelineBackend", backend) if self.in_one_stream else None
        timed_out = False
        error: str | None = None
        while True:
            try:
                run = await asyncio.to_thread(backend.get, self.run_id)
                self._log_steps(run)
                if run.ahead is None or not self.log_offset:  # that it waits is said once
                    await self._pass_log_on(backend)
            except ConfigurationError as reason:
                error = reason_first(f"The run cannot be watched any more: {reason}", f"Run: {self.run_id}")
                break
            if run.state.is_terminal:
                break
            if timed_out := self.deadline is not None and time.time() >= self.deadline:
                await self._ask_before_the_end(asked)
                await self._cancel()
                break
            if self._waits.due_in == 0:
                self._ask_why_it_waits(asked)
            await asyncio.sleep(seconds_to_wait(self.poll_interval * _looks_skipped(run), self.deadline))
        self._ask_no_more()
        await settle(started)
        yield self._event(timed_out=timed_out, error=error)

    async def on_kill(self) -> None:
        """Cancel the run: a person marked or cleared the task. A restart of the triggerer does not come here."""
        if self.cancel_on_kill:
            self.log.info("Cancelling run %s", self.run_id)
            await self._cancel()

    async def _cancel(self) -> None:
        """Cancel the run, or say that it could not be; the worker tries again when a deadline has passed."""
        try:
            backend = await KubeflowPipelinesHook(self.kubeflow_conn_id).aget_backend()
            await asyncio.to_thread(backend.cancel, self.run_id, CANCEL_PATIENCE_SECONDS)
        except (ApiUnavailableError, ConfigurationError) as error:
            self.log.warning("Run %s was not cancelled: %s", self.run_id, error)

    async def _next(self, queue: asyncio.Queue[Run | Exception]) -> Run | Exception | None:
        """The next news of the run; ``None`` when a step has waited for long enough to ask why."""
        try:
            async with asyncio.timeout(self._waits.due_in):
                return await queue.get()
        except TimeoutError:
            return None

    def _ask_why_it_waits(self, backend: KubeflowPipelineBackend | None) -> None:
        """Ask, beside the wait for news of the run, which may come first.

        :param backend: the stream's, which has told of the run
        """
        self._waits.ask()
        if backend is not None and (self._question is None or self._question.done()):
            self._question = asyncio.create_task(self._say_why_it_waits(backend))

    async def _ask_before_the_end(self, backend: KubeflowPipelineBackend | None) -> None:
        """Ask once more while the run is there, if something waits and nobody has said why."""
        if self._waits.due_in is None or self._waits.reason:
            return
        self._ask_why_it_waits(backend)
        if self._question is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_QUESTION_SECONDS):
                    await self._question

    def _ask_no_more(self) -> None:
        if self._question is not None:
            self._question.cancel()

    async def _say_why_it_waits(self, backend: KubeflowPipelineBackend) -> None:
        try:
            for line in self._waits.learn(await backend.awhy_waiting(self.run_id)):
                self.log.warning("%s", line)
        except Exception as error:  # whatever it is: the run goes on
            hide_in(error)
            self.log.warning("Why run %s waits cannot be asked", self.run_id, exc_info=True)

    async def _pass_log_on(self, backend: PipelineBackend) -> None:
        while self.stream_logs:
            lines, offset = await asyncio.to_thread(backend.read_log, self.run_id, self.log_offset)
            for line in self._redactor.lines(lines):
                self.log.info("%s", line)
            if offset == self.log_offset:
                break
            self.log_offset = offset

    def _log_steps(self, run: Run) -> None:
        for line in step_changes(self._steps, run):
            self.log.info("%s", redact(line))
        self._steps = dict(run.tasks)
        self._waits.see(run)

    def _event(self, *, timed_out: bool, error: str | None) -> TriggerEvent:
        payload = {
            "run_id": self.run_id,
            "timed_out": timed_out,
            "error": error,
            "log_offset": self.log_offset,
        }
        if timed_out and self._waits.reason:
            payload["waits_for"] = self._waits.reason
        return TriggerEvent(payload)  # type: ignore[no-untyped-call]


def _looks_skipped(run: Run) -> float:
    """How much longer than usual to wait for the next look: who is far back in a queue need not look at it each second."""
    return min(max(2 * (run.ahead or 0), 1), LONGEST_WAIT_IN_LOOKS)


def _stream_key(kubeflow_conn_id: str, poll_interval: float) -> tuple[str, str, float]:
    """What triggers that share one poll have in common."""
    return ("kubeflow", kubeflow_conn_id, poll_interval)
