"""Wait for a TrainJob that something else made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.backends.trainjobs.job import why_failed
from airflow_provider_llmops.exceptions import ConfigurationError, RunCanceledError, RunFailedError
from airflow_provider_llmops.hooks.trainer import KubeflowTrainerHook
from airflow_provider_llmops.remote.intent import while_it_goes_on
from airflow_provider_llmops.remote.sensor import RemoteSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.backends.trainjobs.api import TrainJobs
    from airflow_provider_llmops.backends.trainjobs.job import TrainJob
    from airflow_provider_llmops.backends.trainjobs.watch import TrainJobWatch
    from airflow_provider_llmops.triggers.train_job import TrainJobTrigger

__all__ = ["TrainJobSensor"]


class TrainJobSensor(RemoteSensor):
    """Succeeds when the TrainJob is complete, fails when it has failed or was deleted.

    It is only watched: whatever happens to this task, the TrainJob stays. Progress and metrics go to the task's log.

    :param name: name of the TrainJob
    :param namespace: its namespace; that of the connection when left out, else ``default``
    :param kubernetes_conn_id: connection of type ``kubernetes``
    :param deferrable: wait in the triggerer instead of in a worker
    """

    template_fields: Sequence[str] = ("name", "namespace", "kubernetes_conn_id")
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        name: str,
        namespace: str | None = None,
        kubernetes_conn_id: str = KubeflowTrainerHook.default_conn_name,
        deferrable: bool = True,
        poke_interval: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(deferrable=deferrable, poke_interval=poke_interval, **kwargs)
        self.name = name
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id

    @cached_property
    def _backend(self) -> TrainJobs:
        return KubeflowTrainerHook(self.kubernetes_conn_id).backend

    @property
    def _namespace(self) -> str:
        return self.namespace or self._backend.namespace

    @cached_property
    def _watch(self) -> TrainJobWatch:
        from airflow_provider_llmops.backends.trainjobs.watch import TrainJobWatch

        return TrainJobWatch(self._backend, self._namespace, self.name, self.log)

    def poke(self, context: Context) -> bool:
        """Whether the TrainJob is complete; raises when it no longer can be."""
        job = self._watch.look()
        return job is not None and self._is_complete(job, self._watch.trouble)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        """Look at the TrainJob that has ended."""
        with while_it_goes_on(f"TrainJob {self._namespace}/{self.name}"):
            # With patience, unlike a poke: that there is no answer does not mean that it is complete.
            job = self._backend.get(self._namespace, self.name)
            is_complete = self._is_complete(job, event.get("trouble"))
            if event["error"] and not is_complete:
                raise ConfigurationError(event["error"])
        if not is_complete:
            self._wait()  # another one of that name

    def _trigger(self) -> TrainJobTrigger:
        """What waits in the triggerer."""
        from airflow_provider_llmops.triggers.train_job import TrainJobTrigger

        return TrainJobTrigger(
            kubernetes_conn_id=self.kubernetes_conn_id,
            namespace=self._namespace,
            name=self.name,
            poll_interval=self.poke_interval,
            stops_at_final_error=False,
            delete_on_kill=False,
        )

    def _is_complete(self, job: TrainJob, trouble: str | None) -> bool:
        where = f"TrainJob: {job.namespace}/{job.name}"
        if job.state.is_canceled:
            raise RunCanceledError("The TrainJob was deleted.", where)
        if job.state.is_terminal and not job.state.is_successful:
            if trouble is None and not job.timed_out:
                from airflow_provider_llmops.backends.trainjobs.watch import NO_POD_LEFT

                self.log.error("%s", NO_POD_LEFT)
            raise RunFailedError(why_failed(job, trouble), where)
        return job.state.is_successful
