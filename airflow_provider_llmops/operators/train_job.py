"""Train on several nodes: one TrainJob of Kubeflow Trainer for each scheduled run of the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.arguments import names_of
from airflow_provider_llmops.backends.trainjobs.ending import result_of
from airflow_provider_llmops.backends.trainjobs.job import TrainJob
from airflow_provider_llmops.backends.trainjobs.request import job_name
from airflow_provider_llmops.backends.trainjobs.runtime import check_runtime_of
from airflow_provider_llmops.backends.trainjobs.training import Training
from airflow_provider_llmops.hooks.trainer import KubeflowTrainerHook
from airflow_provider_llmops.kinds.train_job import Trainings
from airflow_provider_llmops.openlineage.train_job import train_job_lineage
from airflow_provider_llmops.remote.ending import attempt_deadline, describe_limits
from airflow_provider_llmops.remote.intent import Intent, attempts_key, origin_of
from airflow_provider_llmops.remote.operator import RemoteRunOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.openlineage.lineage import TaskLineage

__all__ = ["TrainJobOperator"]


class TrainJobOperator(RemoteRunOperator[TrainJob]):
    """Train a component on one or more nodes of a cluster with Kubeflow Trainer, and wait for it.

    Every node runs ``python -m llmops_components.training.launch``, which becomes torchrun there: the same training as on
    one machine. Data, models and outputs lie on a volume that all nodes mount, so its claim has to be ReadWriteMany.

    Exactly one TrainJob is made for each scheduled run of the task, whatever dies in between. An automatic retry finds it
    again, or starts a new one if it has failed, which goes on from the last checkpoint; clearing starts a training of its own.

    XCom gets the result as ``return_value``, the path of each output under its name (``model``, ``adapter``), and the
    last metrics that the training reported as ``metrics``; there are none without Kubeflow Trainer's gate ``TrainJobStatus``.

    Further arguments are those of :class:`~airflow_provider_llmops.remote.operator.RemoteRunOperator`. ``poll_interval`` is 10
    unless given. ``run_timeout`` counts from the training's start on: time in a queue does not count, but for
    ``execution_timeout`` it does. To cancel is to delete the TrainJob.

    :param component: name of the training component: ``train_sft``, ``train_dpo``, ...
    :param arguments: its arguments by name; data sets and models as paths below a mounted claim, or ``hf://`` addresses
    :param output_path: directory below a mounted claim. ``model``, ``adapter`` and ``result.json`` go into one of its own for
        each TrainJob below it, and so do checkpoints, which retries share, unless ``checkpoints`` is among the arguments.
    :param step_settings: Kubernetes settings of one node: a :class:`~airflow_provider_llmops.settings.kubernetes.StepSettings` or
        its fields as a dict; ``persistent_volume_claims`` mounts the volume
    :param num_nodes: number of nodes
    :param processes_per_node: training processes on each node; left out, one for each of its accelerators, or 1
    :param preset: how the processes work together: ``ddp``, ``fsdp2``, ``zero1``, ``zero2``, ``zero3``, or ``cpu``
    :param runtime: name of the training runtime
    :param runtime_kind: ``ClusterTrainingRuntime``, or ``TrainingRuntime`` for one of the namespace
    :param namespace: Kubernetes namespace; that of the connection when left out, else ``default``
    :param kubernetes_conn_id: connection of type ``kubernetes``
    """

    def __init__(
        self,
        *,
        component: str,
        arguments: dict[str, Any],
        output_path: str,
        step_settings: Any,
        num_nodes: int = 1,
        processes_per_node: int | None = None,
        preset: str = "ddp",
        runtime: str = "torch-distributed",
        runtime_kind: str = "ClusterTrainingRuntime",
        namespace: str | None = None,
        kubernetes_conn_id: str = KubeflowTrainerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.component = component
        self.arguments = arguments
        self.output_path = output_path
        self.step_settings = step_settings
        self.num_nodes = num_nodes
        self.processes_per_node = processes_per_node
        self.preset = preset
        self.runtime = runtime
        self.runtime_kind = runtime_kind
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id
        self._ended_with: dict[str, Any] | None = None

    template_fields: Sequence[str] = names_of(__init__)
    template_fields_renderers = {"arguments": "json", "step_settings": "json"}
    ui_color = "#e8f0fe"

    @cached_property
    def hook(self) -> KubeflowTrainerHook:
        """The hook of the connection."""
        return KubeflowTrainerHook(self.kubernetes_conn_id)

    @cached_property
    def kind(self) -> Trainings:
        """TrainJobs of this task."""
        return Trainings(
            self.hook,
            self.log,
            self.training,
            namespace=self.namespace,
            name_of=lambda token: _name_of(self._context, token),
            cancel_on_kill=self.cancel_on_kill,
        )

    @property
    def training(self) -> Training:
        """What is asked for."""
        return Training(**{name: getattr(self, name) for name in Training.__annotations__})

    def lineage(self) -> TaskLineage:
        """The places among the arguments and the outputs, by the claims that they lie on, and the last metrics."""
        return train_job_lineage(
            self.component, self.arguments, self.step_settings, self._ended_with, self._key
        )

    def prepare(self, context: Context, intent: Intent) -> Callable[[], str]:
        """Check what is asked for, and give what makes the TrainJob."""
        manifest = self.manifest(context, intent.name, began=intent.began)
        check_runtime_of(self.backend, manifest, self.log)
        return lambda: self.kind.create(manifest)

    def manifest(self, context: Context, token: str, *, began: int | None = None) -> dict[str, Any]:
        """The TrainJob.

        :param context: of the task; its ids go to labels and annotations
        :param token: what tells it from every other TrainJob
        :param began: try number of the attempt from whose checkpoints on it goes on; this attempt's when left out
        """
        name, checkpoints = _name_of(context, token), attempts_key(context, began)
        return self.training.manifest(
            name, self.kind.namespace, token=token, checkpoints=checkpoints, origin=origin_of(context)
        )

    def deadline(self, context: Context) -> float | None:
        """When the attempt's time is up; that of the training counts from its start on."""
        return attempt_deadline(self)

    def failure(self, key: str, seen: TrainJob | None, event: dict[str, Any]) -> Exception:
        """What has become of a TrainJob that brings no result; it does not go on after that."""
        return self.kind.failure(key, seen, event, limits=describe_limits(self))

    def outcome(self, context: Context, seen: TrainJob) -> dict[str, Any]:
        """Where the outputs are, and the last metrics."""
        value = self._ended_with = result_of(seen, self.output_path)
        for name, path in value["artifacts"].items():
            context["ti"].xcom_push(key=name, value=path)
        context["ti"].xcom_push(key="metrics", value=value["metrics"])
        return value


def _name_of(context: Context | None, token: str) -> str:
    assert context is not None  # by execute
    return job_name(context["ti"].dag_id, context["ti"].task_id, token)
