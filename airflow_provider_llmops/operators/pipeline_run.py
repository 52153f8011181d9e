"""The operator behind every pipeline run: what is special about one, beside the guarantee of all that runs elsewhere."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, BaseOperatorLink

from airflow_provider_llmops.backends.pipelines.base import (
    PipelineBackend,
    PipelineServer,
    Run,
    RunRequest,
    pass_log_on,
)
from airflow_provider_llmops.backends.pipelines.ending import failure_of
from airflow_provider_llmops.backends.pipelines.reuse import Reuse, check_reuse, fingerprint_of
from airflow_provider_llmops.delivery.as_of import is_backfill
from airflow_provider_llmops.exceptions import (
    ResultError,
    RunCanceledError,
    RunFailedError,
    RunNotFoundError,
)
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.links import PipelineRunLink
from airflow_provider_llmops.redaction import Redactor
from airflow_provider_llmops.remote.ending import describe_limits
from airflow_provider_llmops.remote.intent import Intent, attempts_key, origin_of
from airflow_provider_llmops.remote.operator import RemoteRunOperator
from airflow_provider_llmops.specs.pipeline import BoundPipeline
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.triggers.pipeline_run import PipelineRunTrigger

__all__ = ["PipelineRunOperator"]

MAX_NAME_LENGTH = 150  # of 191 that Kubeflow Pipelines stores; the token needs 33


class PipelineRunOperator(RemoteRunOperator[Run]):
    """Base of the operators that submit a pipeline run and wait for it.

    Exactly one run is made for each scheduled run of the task, whatever dies in between: before submitting, a token is
    stored in Airflow's task state store, and the run carries it in its name. An automatic retry finds the run again, or
    starts a new one if it has failed; clearing the task makes a new one.

    XCom gets the address of the run's page as ``run_url`` before the task waits.

    Further arguments are those of :class:`~airflow_provider_llmops.remote.operator.RemoteRunOperator`; ``poll_interval`` is 1
    on the local backend and 5 on Kubeflow unless given.

    :param kubeflow_conn_id: connection of type ``kubeflow``
    :param stream_logs: pass the run's log on to the task's log while it runs; only the local backend has one
    :param reuse: take the result of an earlier successful run of the same specification, image, arguments and input
        digests instead of starting one: ``never``, ``identical``, or ``backfill`` (in backfills only)
    :param step_settings: Kubernetes settings of the steps: a :class:`~airflow_provider_llmops.settings.kubernetes.StepSettings`,
        its fields as a dict, or one of either for each step's name. Without effect on the local backend.
    """

    template_fields: Sequence[str] = ("kubeflow_conn_id", "step_settings")
    template_fields_renderers = {"step_settings": "json"}
    operator_extra_links: Collection[BaseOperatorLink] = (PipelineRunLink(),)
    ui_color = "#e8f0fe"
    addresses: ClassVar[Mapping[str, Address]] = {}
    """Inputs that name places, with what each may be where there is no object storage."""

    def __init__(
        self,
        *,
        kubeflow_conn_id: str = KubeflowPipelinesHook.default_conn_name,
        stream_logs: bool = True,
        reuse: Reuse = "never",
        step_settings: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kubeflow_conn_id = kubeflow_conn_id
        self.stream_logs = stream_logs
        self.reuse = reuse
        self.step_settings = step_settings
        self._planned: tuple[BoundPipeline, str] | None = None

    @abstractmethod
    def bind(self) -> BoundPipeline:
        """The pipeline with its parameters, checked."""

    @property
    def what(self) -> str:
        """What is run, for messages."""
        return self.task_id

    def labels(self) -> dict[str, str]:
        """What the run's labels say besides where it comes from."""
        return {}

    def version(self) -> Mapping[str, str] | None:
        """Ids of a version on the server that is run instead of uploading the specification."""
        return None

    def environment(self) -> dict[str, str]:
        """Environment variables for the steps; the place for secrets, which are neither stored nor shown."""
        return {}

    def deciding(self, pipeline: BoundPipeline) -> BoundPipeline:
        """What of the pipeline decides its result, by which an earlier run is found whose result is taken."""
        return pipeline

    def fingerprint(self, pipeline: BoundPipeline) -> str:
        """Short digest of everything that decides a run's result; empty if it cannot be told, or nobody asks."""
        if self.reuse == "never":
            return ""
        return fingerprint_of(self.backend, self.deciding(pipeline), self.version(), self.log)

    def check_result(self, run: Run) -> None:
        """Raise :class:`ResultError` if the result of an earlier run cannot be taken."""

    @cached_property
    def hook(self) -> KubeflowPipelinesHook:
        """The hook of the connection."""
        return KubeflowPipelinesHook(self.kubeflow_conn_id)

    @property
    def backend(self) -> PipelineBackend:
        """What carries out pipeline runs."""
        return self.hook.backend

    def execute(self, context: Context) -> dict[str, Any]:
        """Find or make the run, then wait for it."""
        check_reuse(self.reuse)
        return super().execute(context)

    def make(self, context: Context) -> str:
        """An earlier run whose result can be taken, or a new one."""
        pipeline = self.backend.place(self._with_settings(self.bind()), self.addresses)
        self._planned = pipeline, self.fingerprint(pipeline)
        return self._reusable(context, self._planned[1]) or super().make(context)

    def new_name(self, context: Context) -> str:
        """The run's display name."""
        ti = context["ti"]
        mapped = f"[{ti.map_index}]" if ti.map_index is not None and ti.map_index >= 0 else ""
        return f"{ti.dag_id}.{ti.task_id}{mapped}"[:MAX_NAME_LENGTH] + f" {uuid.uuid4().hex}"

    def prepare(self, context: Context, intent: Intent) -> Callable[[], str]:
        """Check what is asked for, and give what submits it."""
        assert self._planned is not None  # by make
        pipeline, fingerprint = self._planned
        request = RunRequest(
            display_name=intent.name,
            pipeline=pipeline,
            version=self.version(),
            labels={**origin_of(context), **self.labels(), "fingerprint": fingerprint},
            environment=self.environment(),
            attempts_key=attempts_key(context, intent.began),
        )

        def submit() -> str:
            run_id = self.hook.submit(request)
            self.log.info("Submitted run %s (%s)", run_id, intent.name)
            return run_id

        return submit

    def find(self, intent: Intent) -> Run | None:
        """The run by its id, or by its name while the id is not known."""
        try:
            return self.hook.get_run(intent.run_id) if intent.run_id else self.backend.find(intent.name)
        except RunNotFoundError as error:
            self.log.warning("The run of the previous attempt is gone: %s", error)
            return None

    def key_of(self, seen: Run) -> str:
        """The run's id."""
        return seen.run_id

    def key_in(self, event: dict[str, Any]) -> str:
        """The id of the run that was waited for."""
        return str(event["run_id"])

    def read(self, key: str, event: dict[str, Any]) -> Run:
        """The run, after the rest of its log."""
        run = self.hook.get_run(key)
        if run.state.is_terminal and self.stream_logs:
            pass_log_on(self.backend, key, event["log_offset"], self.log, Redactor())
        return run

    def cancel(self, key: str, *, patience: float | None = None) -> None:
        """Cancel the run."""
        self.backend.cancel(key, patience)

    def failure(self, key: str, seen: Run | None, event: dict[str, Any]) -> Exception:
        """Why the run brings no result."""
        if event["timed_out"]:
            self.cancel(key)
            return self._timeout(key, event.get("waits_for"))
        assert seen is not None  # reading a run that is gone raises
        if seen.state.is_canceled:
            return RunCanceledError(
                "The run was cancelled by somebody else. Clear the task to run it again.",
                *seen.places(self.what),
            )
        return failure_of(self.backend, seen, self.log, self.what)

    def go_on(self, intent: Intent, seen: Run | None) -> str | None:
        """A new run is made for one that has failed."""
        if seen is not None:
            self.log.info("Run %s of the previous attempt is %s: starting a new one", seen.run_id, seen.state)
        return None

    def stop_former(self, intent: Intent, seen: Run | None) -> None:
        """Cancel it, unless it belongs to another task, whose result was taken."""
        if not intent.reused:
            super().stop_former(intent, seen)

    def trigger(self, key: str, deadline: float | None) -> PipelineRunTrigger:
        """What waits for the run."""
        from airflow_provider_llmops.triggers.pipeline_run import PipelineRunTrigger

        return PipelineRunTrigger(
            kubeflow_conn_id=self.kubeflow_conn_id,
            run_id=key,
            poll_interval=self.interval,
            in_one_stream=isinstance(self.backend, PipelineServer),
            deadline=deadline,
            stream_logs=self.stream_logs,
            cancel_on_kill=self.cancel_on_kill,
        )

    def announce(self, context: Context, key: str) -> None:
        """Push the address of the run's page."""
        if url := self.backend.run_url(key):
            PipelineRunLink().push(context["ti"], url)
            self.log.info("Run page: %s", url)

    def has_ended(self, key: str) -> bool:
        """Whether the run has ended already; not where it is asked for together with others."""
        is_asked_alone = not isinstance(self.backend, PipelineServer)
        return is_asked_alone and self.hook.get_run(key).state.is_terminal

    def _reusable(self, context: Context, fingerprint: str) -> str | None:
        """An earlier run with the same inputs and a result that can be read."""
        if not fingerprint or (self.reuse == "backfill" and not is_backfill(context)):
            return None
        run = self.backend.find_reusable(fingerprint)
        if run is None:
            return None
        try:
            self.check_result(run)
        except ResultError as error:
            self.log.info("Run %s had the same inputs, but its result is gone: %s", run.run_id, error)
            return None
        self.log.info("Run %s (%s) had the same inputs: taking its result", run.run_id, run.display_name)
        former = Intent.load(context)  # of this cycle: that of another one has been dropped
        Intent.of(context, run.display_name, former=former, run_id=run.run_id, reused=True).store(context)
        return run.run_id

    def _with_settings(self, pipeline: BoundPipeline) -> BoundPipeline:
        if not self.step_settings:
            return pipeline
        from airflow_provider_llmops.settings.steps import apply_settings

        return apply_settings(pipeline, self.step_settings)

    def _timeout(self, run_id: str, waits_for: str | None) -> RunFailedError:
        took = f"The run took longer than {describe_limits(self)} and was cancelled."
        return RunFailedError(
            f"{waits_for}. {took}" if waits_for else f"{took} Raise that, or give it less to do.",
            f"Run: {run_id} ({self.what})",
        )


def task_label(operator: BaseOperator, context: Context, step: str | None = None) -> str:
    """The task's name; of a mapped one with what its ``map_index_template`` says of it, or its index.

    :param operator: the task
    :param context: of its execution
    :param step: a step of it, named behind the task
    """
    ti = context["ti"]
    name = f"{ti.task_id}.{step}" if step else str(ti.task_id)
    if ti.map_index is None or ti.map_index < 0:
        return name
    template = getattr(operator, "map_index_template", None)
    label = operator.render_template(template, context) if template else ti.map_index
    return f"{name}[{label}]"
