"""The operator behind every component: submit once, wait, bring the result home."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_provider_llmops.backends.base import Run, RunRequest
from airflow_provider_llmops.exceptions import (
    ConfigurationError,
    InvalidInputError,
    QualityGateFailed,
    RunCanceledError,
    RunFailedError,
)
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.results import StageResult
from airflow_provider_llmops.specs import PipelineSpec

if TYPE_CHECKING:
    from airflow.sdk import Context

POLL_INTERVAL_SECONDS = 1.0
INTENT_KEY = "llmops_run"
MAX_NAME_LENGTH = 150  # of 191 that Kubeflow Pipelines stores; the token needs 33


class ComponentOperator(BaseOperator):
    """Run one component as a pipeline run and push its result.

    Subclasses name the component and its inputs; each input is an attribute, templated, and checked against the
    component's declared types in ``execute``. Artifact inputs take URIs.

    Exactly one run is made for each scheduled run of the task, whatever dies in between: before submitting, a token is
    stored in Airflow's task state store, and the run carries it in its name. An automatic retry finds the run again;
    clearing the task makes a new one.

    XCom gets the :class:`~airflow_provider_llmops.results.StageResult` as ``return_value``, the URI of each artifact
    under the artifact's name, so that ``train.output["model"]`` is the next task's input, and the metrics as
    ``metrics``.

    :param kubeflow_conn_id: connection of type ``kubeflow``
    :param deferrable: wait in the triggerer instead of in a worker
    :param poll_interval: seconds between two looks at the run
    :param run_timeout: how long a run may take before it is cancelled; ``execution_timeout`` counts as well, since
        Airflow does not apply that to a deferred task
    :param stream_logs: pass the run's log on to the task's log while it runs
    :param cancel_on_kill: cancel the run when the task is marked, cleared or timed out while it waits
    """

    component: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ()
    template_fields: Sequence[str] = ("kubeflow_conn_id",)
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        kubeflow_conn_id: str = KubeflowPipelinesHook.default_conn_name,
        deferrable: bool = True,
        poll_interval: float = POLL_INTERVAL_SECONDS,
        run_timeout: timedelta | None = None,
        stream_logs: bool = True,
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kubeflow_conn_id = kubeflow_conn_id
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.run_timeout = run_timeout
        self.stream_logs = stream_logs
        self.cancel_on_kill = cancel_on_kill
        self._run_id: str | None = None

    @cached_property
    def hook(self) -> KubeflowPipelinesHook:
        """The hook of the connection."""
        return KubeflowPipelinesHook(self.kubeflow_conn_id)

    def spec(self) -> PipelineSpec:
        """The compiled component."""
        return PipelineSpec.packaged(self.component)

    def arguments(self) -> dict[str, Any]:
        """Value of each input of the component; ``None`` means not given."""
        return {name: getattr(self, name) for name in self.inputs}

    def environment(self) -> dict[str, str]:
        """Environment variables for the steps; the place for secrets, which are neither stored nor shown."""
        return {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Find or make the run, then wait for it."""
        run_id = self._run_id = self._reconnect(context) or self._submit(context)
        timeouts = [limit for limit in (self.run_timeout, self.execution_timeout) if limit is not None]
        deadline = time.time() + min(timeouts).total_seconds() if timeouts else None
        run = self.hook.get_run(run_id)
        if run.state.is_terminal:
            return self._finish(context, run, log_offset=0)
        if self.deferrable:
            from airflow_provider_llmops.triggers.pipeline_run import PipelineRunTrigger

            self.defer(
                trigger=PipelineRunTrigger(
                    kubeflow_conn_id=self.kubeflow_conn_id,
                    run_id=run_id,
                    poll_interval=self.poll_interval,
                    deadline=deadline,
                    stream_logs=self.stream_logs,
                    cancel_on_kill=self.cancel_on_kill,
                ),
                method_name="execute_complete",
            )
        return self._wait(context, run_id, deadline)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Take the outcome of the run that the trigger waited for."""
        if event["timed_out"]:
            raise RunFailedError(self._timeout_message(event["run_id"]))
        return self._finish(context, self.hook.get_run(event["run_id"]), log_offset=event["log_offset"])

    def on_kill(self) -> None:
        """Cancel the run that this worker was submitting or waiting for."""
        if self._run_id is not None and self.cancel_on_kill:
            self.log.info("Cancelling run %s", self._run_id)
            self.hook.cancel(self._run_id)

    def _submit(self, context: Context) -> str:
        spec = self.spec()
        ti = context["ti"]
        request = RunRequest(
            display_name=self._display_name(context, uuid.uuid4().hex),
            pipeline=spec.bind(self.arguments()),
            labels={
                "dag_id": ti.dag_id,
                "dag_run_id": ti.run_id,
                "task_id": ti.task_id,
                "map_index": str(ti.map_index),
                "try_number": str(ti.try_number),
                "component": self.component,
                "component_digest": spec.digest,
            },
            environment=self.environment(),
        )
        # The intent is stored first: if this worker dies at any later instant, the name leads to the run.
        intent: dict[str, Any] = {"display_name": request.display_name, "cycle": self._cycle(context)}
        context["task_state_store"].set(INTENT_KEY, intent)
        run_id = self.hook.submit(request)
        context["task_state_store"].set(INTENT_KEY, {**intent, "run_id": run_id})
        self.log.info("Submitted run %s (%s)", run_id, request.display_name)
        return run_id

    def _reconnect(self, context: Context) -> str | None:
        """The run of an earlier attempt, if it still can bring a result."""
        intent: Any = context["task_state_store"].get(INTENT_KEY)
        if not intent:
            return None
        if run_id := intent.get("run_id"):
            try:
                run: Run | None = self.hook.get_run(run_id)
            except ConfigurationError as error:
                self.log.warning("The run of the previous attempt is gone: %s", error)
                return None
        else:
            run = self.hook.backend.find(intent["display_name"])
        if run is None:
            return None
        if intent["cycle"] != self._cycle(context):
            if not run.state.is_terminal:
                self.log.info("Task was cleared: cancelling its former run %s", run.run_id)
                self.hook.cancel(run.run_id)
            return None
        if run.state.is_canceled or (run.state.is_terminal and not run.state.is_successful):
            self.log.info("Run %s of the previous attempt is %s: starting a new one", run.run_id, run.state)
            return None
        self.log.info("Reconnected to run %s (%s), which is %s", run.run_id, run.display_name, run.state)
        return run.run_id

    @staticmethod
    def _cycle(context: Context) -> int:
        """What tells clearing a task from retrying it: Airflow raises ``max_tries`` only when a task is cleared."""
        return context["ti"].max_tries

    def _display_name(self, context: Context, token: str) -> str:
        ti = context["ti"]
        mapped = f"[{ti.map_index}]" if ti.map_index is not None and ti.map_index >= 0 else ""
        return f"{ti.dag_id}.{ti.task_id}{mapped}"[:MAX_NAME_LENGTH] + f" {token}"

    def _wait(self, context: Context, run_id: str, deadline: float | None) -> dict[str, Any]:
        offset = 0
        while True:
            run = self.hook.get_run(run_id)
            offset = self._log_from(run_id, offset)
            if run.state.is_terminal:
                return self._finish(context, run, log_offset=offset)
            if deadline is not None and time.time() >= deadline:
                self.hook.cancel(run_id)
                raise RunFailedError(self._timeout_message(run_id))
            time.sleep(self.poll_interval)

    def _finish(self, context: Context, run: Run, *, log_offset: int) -> dict[str, Any]:
        self._run_id = None
        self._log_from(run.run_id, log_offset)
        where = f" Log: {run.log_hint}" if run.log_hint else ""
        if run.state.is_canceled:
            raise RunCanceledError(
                f"Run {run.run_id} ({self.component}) was cancelled by somebody else. Clear the task to run it again.{where}"
            )
        if not run.state.is_successful:
            message = (
                f"Run {run.run_id} ({self.component}) {run.state} at {run.error or 'an unknown step'}.{where}"
            )
            raise RunFailedError(message) if run.retryable else InvalidInputError(message)

        text, address = self.hook.backend.read_result(run.run_id, self.component.replace("_", "-"))
        result = StageResult.parse(
            text,
            run_id=run.run_id,
            component_digest=self.spec().digest,
            where=address,
        )
        value = result.to_xcom()
        ti = context["ti"]
        for name, uri in result.outputs().items():
            ti.xcom_push(key=name, value=uri)
        ti.xcom_push(key="metrics", value=value["metrics"])
        for name, number in result.metrics.items():
            self.log.info("%s = %s", name, number)
        if not result.passed:
            ti.xcom_push(key="return_value", value=value)
            raise QualityGateFailed(
                f"Run {run.run_id} ({self.component}) did not pass its gate: {' '.join(value['findings'])} Artifacts: "
                + ", ".join(f"{name}={uri}" for name, uri in result.outputs().items())
            )
        return value

    def _log_from(self, run_id: str, offset: int) -> int:
        while self.stream_logs:
            lines, end = self.hook.backend.read_log(run_id, offset)
            for line in lines:
                self.log.info("%s", line)
            if end == offset:
                break
            offset = end
        return offset

    def _timeout_message(self, run_id: str) -> str:
        limit = min(limit for limit in (self.run_timeout, self.execution_timeout) if limit is not None)
        return (
            f"Run {run_id} ({self.component}) took longer than {limit} and was cancelled. Raise run_timeout (or "
            "execution_timeout), or give the component less to do."
        )
