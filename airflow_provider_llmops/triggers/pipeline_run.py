"""Wait for a pipeline run without occupying a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Hashable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_provider_llmops.backends.pipelines.base import (
    PipelineServer,
    pass_log_on,
    server_of,
    step_changes,
)
from airflow_provider_llmops.backends.pipelines.waiting import WaitWatch
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.redaction import Redactor, hide_in, redact
from airflow_provider_llmops.remote.settle import settle
from airflow_provider_llmops.remote.trigger import CANCEL_PATIENCE_SECONDS, WatchTrigger
from airflow_provider_llmops.remote.watch import Watch

if TYPE_CHECKING:
    from airflow_provider_llmops.backends.pipelines.base import PipelineBackend, Run, Wait

__all__ = ["PipelineRunTrigger"]

LONGEST_WAIT_IN_LOOKS = 120
LAST_QUESTION_SECONDS = 10.0  # a run whose time is up is not left running for an explanation


class PipelineRunWatch(Watch):
    """Looks at a run: the states of its steps, why one waits for long, and its log on the local backend.

    :param backend: where the run is
    :param run_id: the run
    :param logger: of the task
    :param deadline: Unix time at which its time is up; never when ``None``
    :param stream_logs: whether to pass the run's log on
    :param log_offset: byte in the log to begin with
    """

    def __init__(
        self,
        backend: PipelineBackend,
        run_id: str,
        logger: Any,
        *,
        deadline: float | None = None,
        stream_logs: bool = True,
        log_offset: int = 0,
    ) -> None:
        super().__init__(f"run {run_id}", deadline)
        self.waits = WaitWatch()
        self._backend = backend
        self._run_id = run_id
        self._log = logger
        self._stream_logs = stream_logs
        self._offset = log_offset
        self._redactor = Redactor()
        self._steps: dict[str, str] = {}
        self._ahead = 0

    def look(self) -> bool:
        """Look once; whether the run has ended."""
        run = self._backend.get(self._run_id)
        self.see(run)
        if self.waits.due_in == 0:
            self._ask_why_it_waits()
        if self._stream_logs and (run.ahead is None or not self._offset):  # that it waits is said once
            self._offset = pass_log_on(self._backend, self._run_id, self._offset, self._log, self._redactor)
        self._ahead = run.ahead or 0
        return run.state.is_terminal

    def see(self, run: Run) -> None:
        """Log which steps have changed.

        :param run: the run, as it was just read
        """
        for line in step_changes(self._steps, run):
            self._log.info("%s", redact(line))
        self._steps = dict(run.tasks)
        self.waits.see(run)

    def learn(self, waits: list[Wait]) -> None:
        """Log why steps wait.

        :param waits: the answer of a backend that was asked
        """
        for line in self.waits.learn(waits):
            self._log.warning("%s", line)

    def cannot_be_asked(self, error: Exception) -> None:
        """Log that nobody can tell why a step waits: whatever it is, the run goes on.

        :param error: the reason
        """
        hide_in(error)
        self._log.warning("Why run %s waits cannot be asked", self._run_id, exc_info=error)

    @property
    def is_unexplained(self) -> bool:
        """Whether something waits, and nobody has said why."""
        return self.waits.due_in is not None and not self.waits.reason

    def look_before_the_end(self) -> None:
        """Ask why it waits, if nobody has said so."""
        if self.is_unexplained:
            self._ask_why_it_waits()

    def seconds_to_wait(self, interval: float) -> float:
        """Longer than the interval for who is far back in a queue, who need not look at it each second."""
        return super().seconds_to_wait(interval * min(max(2 * self._ahead, 1), LONGEST_WAIT_IN_LOOKS))

    def event(self, *, timed_out: bool = False, error: str | None = None) -> dict[str, Any]:
        """See :class:`PipelineRunTrigger`."""
        payload = {
            "run_id": self._run_id,
            "timed_out": timed_out,
            "error": error,
            "log_offset": self._offset,
        }
        if timed_out and self.waits.reason:
            payload["waits_for"] = self.waits.reason
        return payload

    def _ask_why_it_waits(self) -> None:
        self.waits.ask()
        if not isinstance(self._backend, PipelineServer):
            return  # the run's log says when it waits for others
        try:
            self.learn(self._backend.why_waiting(self._run_id))
        except Exception as error:
            self.cannot_be_asked(error)


class PipelineRunTrigger(WatchTrigger["PipelineBackend"], BaseEventTrigger):
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
    arguments = (
        "kubeflow_conn_id",
        "run_id",
        "poll_interval",
        "in_one_stream",
        "deadline",
        "stream_logs",
        "log_offset",
        "cancel_on_kill",
    )

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
        self._question: asyncio.Task[None] | None = None

    @property
    def named(self) -> str:
        """What is waited for."""
        return f"run {self.run_id}"

    @property
    def cancels_on_kill(self) -> bool:
        """Whether it is cancelled when a person marks or clears the waiting task."""
        return self.cancel_on_kill

    async def connect(self) -> PipelineBackend:
        """The backend of the connection."""
        return await KubeflowPipelinesHook(self.kubeflow_conn_id).aget_backend()

    def watch(self, backend: PipelineBackend, logger: Any) -> PipelineRunWatch:
        """What looks at the run, where no poll is shared: on this machine, in a worker, and in ``dag.test()``."""
        return PipelineRunWatch(
            backend,
            self.run_id,
            logger,
            deadline=self.deadline,
            stream_logs=self.stream_logs,
            log_offset=self.log_offset,
        )

    def cancel(self, backend: PipelineBackend) -> None:
        """Cancel the run."""
        backend.cancel(self.run_id, CANCEL_PATIENCE_SECONDS)

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

        async def connect() -> PipelineServer:
            backend = await KubeflowPipelinesHook(conn_id).aget_backend()
            return server_of(backend, "To wait for runs together").impatient()

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
        backend: Any = stream.backend  # which is only told of the run
        watch = self.watch(backend, self.log)
        try:
            async with asyncio.timeout(remaining), stream.watch(self.run_id) as queue:
                while True:
                    item = await _next(queue, watch)
                    if item is None:
                        self._ask_why_it_waits(stream.backend, watch)
                        continue
                    if isinstance(item, ConfigurationError):
                        error = watch.cannot_go_on(item)
                        break
                    if isinstance(item, Exception):
                        raise ApiUnavailableError(
                            f"The run was lost from sight: {item!r}", f"Run: {self.run_id}"
                        ) from item
                    watch.see(item)
                    if item.state.is_terminal:
                        break
        except TimeoutError:
            timed_out = True
            await self._ask_before_the_end(stream.backend, watch)
            await self.cancel_now()
        finally:
            if self._question is not None:
                self._question.cancel()
        await settle(started)
        yield TriggerEvent(watch.event(timed_out=timed_out, error=error))  # type: ignore[no-untyped-call]

    def _ask_why_it_waits(self, backend: PipelineServer | None, watch: PipelineRunWatch) -> None:
        """Ask, beside the wait for news of the run, which may come first.

        :param backend: the stream's, which has told of the run
        :param watch: is told the answer
        """
        watch.waits.ask()
        if backend is not None and (self._question is None or self._question.done()):
            self._question = asyncio.create_task(self._say_why_it_waits(backend, watch))

    async def _ask_before_the_end(self, backend: PipelineServer | None, watch: PipelineRunWatch) -> None:
        """Ask once more while the run is there, if something waits and nobody has said why."""
        if not watch.is_unexplained:
            return
        self._ask_why_it_waits(backend, watch)
        if self._question is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_QUESTION_SECONDS):
                    await self._question

    async def _say_why_it_waits(self, backend: PipelineServer, watch: PipelineRunWatch) -> None:
        try:
            watch.learn(await backend.awhy_waiting(self.run_id))
        except Exception as error:
            watch.cannot_be_asked(error)


async def _next(queue: asyncio.Queue[Run | Exception], watch: PipelineRunWatch) -> Run | Exception | None:
    """The next news of the run; ``None`` when a step has waited for long enough to ask why."""
    try:
        async with asyncio.timeout(watch.waits.due_in):
            return await queue.get()
    except TimeoutError:
        return None


def _stream_key(kubeflow_conn_id: str, poll_interval: float) -> tuple[str, str, float]:
    """What triggers that share one poll have in common."""
    return ("kubeflow", kubeflow_conn_id, poll_interval)
