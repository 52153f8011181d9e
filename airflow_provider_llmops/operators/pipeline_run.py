"""The operator behind every pipeline run: what is special about one, beside the guarantee of all that runs elsewhere."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_provider_llmops.backends.pipelines.base import PipelineBackend, Run, RunRequest
from airflow_provider_llmops.backends.pipelines.reuse import Reuse, check_reuse, fingerprint_of
from airflow_provider_llmops.delivery.as_of import is_backfill
from airflow_provider_llmops.exceptions import LLMOpsError
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.hooks.mlflow import MlflowHook
from airflow_provider_llmops.kinds.pipeline_run import PipelineRuns
from airflow_provider_llmops.links import PipelineRunLink
from airflow_provider_llmops.remote.ending import describe_limits
from airflow_provider_llmops.remote.intent import Intent, attempts_key, dag_run_key, origin_of
from airflow_provider_llmops.remote.operator import RemoteRunOperator
from airflow_provider_llmops.remote.origin import tags_of
from airflow_provider_llmops.specs.pipeline import BoundPipeline
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["PipelineRunOperator"]


class PipelineRunOperator(RemoteRunOperator[Run]):
    """Base of the operators that submit a pipeline run and wait for it.

    Exactly one run is made for each scheduled run of the task, whatever dies in between. An automatic retry finds the run
    again, or starts a new one if it has failed; clearing the task makes a new one.

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
        return fingerprint_of(self.reuse, self.backend, self.deciding(pipeline), self.version(), self.log)

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

    @cached_property
    def kind(self) -> PipelineRuns:
        """Pipeline runs of the connection."""
        return PipelineRuns(
            self.hook, self.log, stream_logs=self.stream_logs, cancel_on_kill=self.cancel_on_kill
        )

    def make(self, context: Context) -> str:
        """An earlier run whose result can be taken, or a new one."""
        check_reuse(self.reuse)
        pipeline = self.backend.place(with_settings(self.bind(), self.step_settings), self.addresses)
        fingerprint = self.fingerprint(pipeline)
        self._planned = pipeline, fingerprint
        if fingerprint and (self.reuse == "identical" or is_backfill(context)):
            return self.kind.take_result(context, fingerprint, self.check_result) or super().make(context)
        return super().make(context)

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
        return lambda: self.kind.submit(request)

    def _digest_at(self, address: str) -> str | None:
        """Digest of what lies at an address; ``None`` if it cannot be told."""
        try:
            return self.backend.input_digest(address)
        except (AirflowNotFoundException, LLMOpsError) as error:
            self.log.debug("The digest of %s is not known: %s", address, error)
            return None

    def failure(self, key: str, seen: Run | None, event: dict[str, Any]) -> Exception:
        """Why the run brings no result."""
        return self.kind.failure(seen, event, what=self.what, limits=describe_limits(self))


def with_settings(pipeline: BoundPipeline, settings: Any) -> BoundPipeline:
    """A pipeline with Kubernetes settings of its steps.

    :param pipeline: the pipeline
    :param settings: as ``step_settings`` of :class:`PipelineRunOperator`
    """
    if not settings:
        return pipeline
    from airflow_provider_llmops.settings.steps import apply_settings

    return apply_settings(pipeline, settings)


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


def tracking_of(
    task: RemoteRunOperator[Any],
    mlflow_conn_id: str,
    given: Mapping[str, Any] | None,
    step: str | None = None,
) -> dict[str, Any]:
    """Where a training is tracked: at the connection's address, under the DAG's run and the task's name, with the tags of its code.

    :param task: the operator
    :param mlflow_conn_id: connection of type ``mlflow``
    :param given: what its author says of it, which counts
    :param step: a step of the task, named behind it
    """
    found: dict[str, Any] = {"tracking_uri": MlflowHook(mlflow_conn_id).tracking_uri()}
    if task._context is not None:
        found |= names_of_run(task, task._context, step)
    own: Mapping[str, Any] = given or {}
    tags = {**found.get("tags", {}), **(own.get("tags") or {})}
    return {**found, **own, **({"tags": tags} if tags else {})}


def names_of_run(task: BaseOperator, context: Context, step: str | None = None) -> dict[str, Any]:
    """What the MLflow run of a task is found by: the DAG's run, the task's name, and tags that say of which code it is.

    :param task: the operator
    :param context: of its execution
    :param step: a step of the task, named behind it
    """
    return {
        "parent": dag_run_key(context),
        "run_name": task_label(task, context, step),
        "tags": tags_of(context),
    }
