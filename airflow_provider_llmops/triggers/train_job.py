"""Wait for a TrainJob without occupying a worker."""

from __future__ import annotations

from typing import Any

from airflow_provider_llmops.backends.trainjobs.api import TrainJobs
from airflow_provider_llmops.backends.trainjobs.watch import TrainJobWatch
from airflow_provider_llmops.exceptions import RunNotFoundError
from airflow_provider_llmops.hooks.trainer import KubeflowTrainerHook
from airflow_provider_llmops.remote.trigger import CANCEL_PATIENCE_SECONDS, WatchTrigger
from airflow_provider_llmops.remote.watch import Watch

__all__ = ["TrainJobTrigger"]


class TrainJobEndWatch(Watch):
    """Looks at a TrainJob until it has ended, is gone, or will certainly fail.

    :param watch: looks at it
    :param namespace: its namespace
    :param name: its name
    :param deadline: Unix time at which its time is up in any case; never when ``None``
    :param run_timeout: seconds that it may take from its start on; any number when ``None``
    :param stops_at_final_error: whether an error that will happen again ends the waiting
    """

    def __init__(
        self,
        watch: TrainJobWatch,
        namespace: str,
        name: str,
        *,
        deadline: float | None = None,
        run_timeout: float | None = None,
        stops_at_final_error: bool = True,
    ) -> None:
        super().__init__(f"TrainJob {namespace}/{name}", deadline)
        self._latest = deadline
        self._run_timeout = run_timeout
        self._watch = watch
        self._place = {"namespace": namespace, "name": name}
        self._stops_at_final_error = stops_at_final_error

    def look(self) -> bool:
        """Look once; an API server that does not answer is asked again."""
        try:
            job = self._watch.look()
        except RunNotFoundError:
            return True
        self.deadline = self._ends_at()
        return (job is not None and job.state.is_terminal) or self._final_error is not None

    @property
    def _final_error(self) -> str | None:
        return self._watch.final_error if self._stops_at_final_error else None

    def _ends_at(self) -> float | None:
        """Unix time at which its time is up: in any case, or what it may take from its start on."""
        started_at = self._watch.started_at
        ends = [self._latest]
        if self._run_timeout is not None and started_at is not None:
            ends.append(started_at + self._run_timeout)
        return min((end for end in ends if end is not None), default=None)

    def event(self, *, timed_out: bool = False, error: str | None = None) -> dict[str, Any]:
        """See :class:`TrainJobTrigger`."""
        return {
            **self._place,
            "timed_out": timed_out,
            "error": error,
            "final_error": self._final_error,
            "trouble": self._watch.trouble,
        }


class TrainJobTrigger(WatchTrigger[TrainJobs]):
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

    arguments = (
        "kubernetes_conn_id",
        "namespace",
        "name",
        "poll_interval",
        "deadline",
        "run_timeout",
        "stops_at_final_error",
        "delete_on_kill",
    )

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

    @property
    def named(self) -> str:
        """What is waited for."""
        return f"TrainJob {self.namespace}/{self.name}"

    @property
    def cancels_on_kill(self) -> bool:
        """Whether it is deleted when a person marks or clears the waiting task."""
        return self.delete_on_kill

    async def connect(self) -> TrainJobs:
        """The TrainJobs of the connection's cluster."""
        return await KubeflowTrainerHook(self.kubernetes_conn_id).aget_backend()

    def watch(self, backend: TrainJobs, logger: Any) -> TrainJobEndWatch:
        """What looks at the TrainJob."""
        return TrainJobEndWatch(
            TrainJobWatch(backend, self.namespace, self.name, logger),
            self.namespace,
            self.name,
            deadline=self.deadline,
            run_timeout=self.run_timeout,
            stops_at_final_error=self.stops_at_final_error,
        )

    def cancel(self, backend: TrainJobs) -> None:
        """Delete the TrainJob."""
        backend.delete(self.namespace, self.name, patience=CANCEL_PATIENCE_SECONDS)
