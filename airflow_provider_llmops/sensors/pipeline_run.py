"""Wait for a pipeline run that something else started."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.backends.pipelines.base import PipelineServer
from airflow_provider_llmops.backends.pipelines.ending import failure_of
from airflow_provider_llmops.exceptions import ConfigurationError, RunCanceledError
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.links import PipelineRunLink
from airflow_provider_llmops.remote.intent import while_it_goes_on
from airflow_provider_llmops.remote.sensor import RemoteSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.backends.pipelines.base import Run
    from airflow_provider_llmops.triggers.pipeline_run import PipelineRunTrigger

__all__ = ["PipelineRunSensor"]


class PipelineRunSensor(RemoteSensor):
    """Succeeds when the run has succeeded, fails when it has failed or was cancelled.

    The run is only watched: whatever happens to this task, it is never cancelled.

    :param run_id: id of the pipeline run
    :param kubeflow_conn_id: connection of type ``kubeflow``
    :param deferrable: wait in the triggerer instead of in a worker
    :param stream_logs: pass the run's log on to the task's log; only while deferred
    """

    template_fields: Sequence[str] = ("run_id", "kubeflow_conn_id")
    operator_extra_links = (PipelineRunLink(),)
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        run_id: str,
        kubeflow_conn_id: str = KubeflowPipelinesHook.default_conn_name,
        deferrable: bool = True,
        stream_logs: bool = False,
        poke_interval: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(deferrable=deferrable, poke_interval=poke_interval, **kwargs)
        self.run_id = run_id
        self.kubeflow_conn_id = kubeflow_conn_id
        self.stream_logs = stream_logs

    @cached_property
    def hook(self) -> KubeflowPipelinesHook:
        """The hook of the connection."""
        return KubeflowPipelinesHook(self.kubeflow_conn_id)

    def execute(self, context: Context) -> Any:
        """Link the run, then wait for it."""
        if url := self.hook.backend.run_url(self.run_id):
            PipelineRunLink().push(context["ti"], url)
        return super().execute(context)

    def poke(self, context: Context) -> bool:
        """Whether the run has succeeded; raises when it can no longer."""
        return self._has_succeeded(self.hook.get_run(self.run_id))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        """Look at the run that has ended."""
        with while_it_goes_on(f"Run {self.run_id}"):
            has_succeeded = self.poke(context)
            if event["error"] and not has_succeeded:
                raise ConfigurationError(event["error"])
        if not has_succeeded:
            self._wait()  # somebody has made it go on

    def _trigger(self) -> PipelineRunTrigger:
        """What waits in the triggerer."""
        from airflow_provider_llmops.triggers.pipeline_run import PipelineRunTrigger

        return PipelineRunTrigger(
            kubeflow_conn_id=self.kubeflow_conn_id,
            run_id=self.run_id,
            poll_interval=self.poke_interval,
            in_one_stream=isinstance(self.hook.backend, PipelineServer),
            stream_logs=self.stream_logs,
            cancel_on_kill=False,
        )

    def _has_succeeded(self, run: Run) -> bool:
        if run.state.is_canceled:
            raise RunCanceledError("The run was cancelled.", *run.places())
        if run.state.is_terminal and not run.state.is_successful:
            raise failure_of(self.hook.backend, run, self.log)
        return run.state.is_successful
