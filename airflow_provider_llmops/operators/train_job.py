"""Train on several nodes: one TrainJob of Kubeflow Trainer for each scheduled run of the task."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.backends.trainjobs.api import TrainJobs
from airflow_provider_llmops.backends.trainjobs.ending import error_of, explain, result_of
from airflow_provider_llmops.backends.trainjobs.job import TrainJob
from airflow_provider_llmops.backends.trainjobs.manifest import train_job
from airflow_provider_llmops.backends.trainjobs.request import (
    REQUEST_VARIABLE,
    TrainingRequest,
    job_name,
    labels_of,
)
from airflow_provider_llmops.backends.trainjobs.runtime import check_runtime_of
from airflow_provider_llmops.exceptions import RunFailedError
from airflow_provider_llmops.hooks.trainer import KubeflowTrainerHook
from airflow_provider_llmops.remote.ending import attempt_deadline, describe_limits
from airflow_provider_llmops.remote.intent import Intent, attempts_key, origin_of, while_it_goes_on
from airflow_provider_llmops.remote.operator import RemoteRunOperator
from airflow_provider_llmops.settings.kubernetes import StepSettings
from airflow_provider_llmops.specs.declared import converted
from airflow_provider_llmops.specs.pipeline import PipelineSpec
from airflow_provider_llmops.states import RunState

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.triggers.train_job import TrainJobTrigger

__all__ = ["TrainJobOperator"]

# As the entry point in the components' image has them: llmops_components.training.launch.
LAUNCH_MODULE = "llmops_components.training.launch"
# The container's last words, which Kubernetes keeps in the pod's status.
TERMINATION_LOG = "/dev/termination-log"
GONE_SECONDS = 180.0  # the pods' grace and a little


class TrainJobOperator(RemoteRunOperator[TrainJob]):
    """Train a component on one or more nodes of a cluster with Kubeflow Trainer, and wait for it.

    Every node runs ``python -m llmops_components.training.launch``, which becomes torchrun there: the same training as on
    one machine. Data, models and outputs lie on a volume that all nodes mount, so its claim has to be ReadWriteMany.

    Exactly one TrainJob is made for each scheduled run of the task, whatever dies in between: its name contains a token
    that is stored before it is made. An automatic retry finds it again, or starts a new one if it has failed, which goes
    on from the last checkpoint; clearing the task starts a training of its own.

    XCom gets the result as ``return_value``, the path of each output under its name (``model``, ``adapter``), and the
    last metrics that the training reported as ``metrics``. Progress needs the feature gate ``TrainJobStatus`` of Kubeflow
    Trainer; without it there is none, and no metrics.

    Further arguments are those of :class:`~airflow_provider_llmops.remote.operator.RemoteRunOperator`. ``poll_interval`` is 10
    unless given. ``run_timeout`` counts from the training's start on, by the cluster too: time in a queue does not count, but
    for ``execution_timeout`` it does. To cancel is to delete the TrainJob.

    :param component: name of the training component: ``train_sft``, ``train_dpo``, ...
    :param arguments: its arguments by name; data sets and models as paths below a mounted claim, or ``hf://`` addresses
    :param output_path: directory below a mounted claim. ``model``, ``adapter`` and ``result.json`` go into one of its own for
        each TrainJob below it, and so do checkpoints, which retries share, unless ``checkpoints`` is among the arguments.
    :param step_settings: Kubernetes settings of each node: a :class:`~airflow_provider_llmops.settings.kubernetes.StepSettings` or
        its fields as a dict; ``persistent_volume_claims`` mounts the volume, and CPUs, memory and accelerators are those of
        one node
    :param num_nodes: number of nodes
    :param processes_per_node: training processes on each node; left out, one for each of its accelerators, or 1
    :param preset: how the processes work together: ``ddp``, ``fsdp2``, ``zero1``, ``zero2``, ``zero3``, or ``cpu``
    :param runtime: name of the training runtime
    :param runtime_kind: ``ClusterTrainingRuntime``, or ``TrainingRuntime`` for one of the namespace
    :param namespace: Kubernetes namespace; that of the connection when left out, else ``default``
    :param kubernetes_conn_id: connection of type ``kubernetes``
    """

    template_fields: Sequence[str] = (
        "component",
        "arguments",
        "output_path",
        "step_settings",
        "num_nodes",
        "processes_per_node",
        "preset",
        "runtime",
        "runtime_kind",
        "namespace",
        "kubernetes_conn_id",
    )
    template_fields_renderers = {"arguments": "json", "step_settings": "json"}
    ui_color = "#e8f0fe"
    kind = "TrainJob"

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

    @cached_property
    def hook(self) -> KubeflowTrainerHook:
        """The hook of the connection."""
        return KubeflowTrainerHook(self.kubernetes_conn_id)

    @property
    def backend(self) -> TrainJobs:
        """The TrainJobs of the cluster."""
        return self.hook.backend

    def request(self, context: Context, job_name: str, *, began: int | None = None) -> dict[str, Any]:
        """What the entry point is asked to do, checked.

        :param context: of the task
        :param job_name: name of the TrainJob
        :param began: try number of the attempt from whose checkpoints on it goes on; this attempt's when left out
        :raises ConfigurationError: an argument is unknown, missing or of the wrong type, or a path is not on a volume
        """
        return self._request.document(job_name, attempts_key(context, began))

    def manifest(self, context: Context, token: str, *, began: int | None = None) -> dict[str, Any]:
        """The TrainJob.

        :param context: of the task; its ids go to labels and annotations
        :param token: what tells it from every other TrainJob
        :param began: as of :meth:`request`
        """
        name = self._name(token, context)
        origin = {f"llmops/{key.replace('_', '-')}": value for key, value in origin_of(context).items()}
        request = self._request
        text = request.variable(name, attempts_key(context, began))
        return train_job(
            name,
            namespace=self._namespace,
            token=token,
            image=PipelineSpec.packaged(self.component).image,
            command=["python", "-m", LAUNCH_MODULE],
            args=[f"env:{REQUEST_VARIABLE}"],
            env={
                REQUEST_VARIABLE: text,
                "LLMOPS_ERROR_FILE": TERMINATION_LOG,
            },
            settings=request.settings,
            runtime=self.runtime,
            runtime_kind=self.runtime_kind,
            num_nodes=converted(self.num_nodes, ["int"], "num_nodes", {}, strict=False),
            processes_per_node=converted(
                self.processes_per_node, ["int", "null"], "processes_per_node", {}, strict=False
            ),
            active_deadline_seconds=None if (limit := self._run_seconds) is None else max(1, round(limit)),
            labels={"app.kubernetes.io/managed-by": "airflow", **labels_of(origin)},
            annotations={"llmops/component": self.component, **origin},
        )

    @property
    def _run_seconds(self) -> float | None:
        return None if self.run_timeout is None else self.run_timeout.total_seconds()

    @property
    def _request(self) -> TrainingRequest:
        return TrainingRequest(
            self.component,
            self.arguments,
            self.output_path,
            self.preset,
            StepSettings.of(self.step_settings),
        )

    def _name(self, token: str, context: Context | None = None) -> str:
        context = context or self._context
        assert context is not None  # by execute
        return job_name(context["ti"].dag_id, context["ti"].task_id, token)

    def new_name(self, context: Context) -> str:
        """The token in the TrainJob's name."""
        return uuid.uuid4().hex

    def prepare(self, context: Context, intent: Intent) -> Callable[[], str]:
        """Check what is asked for, and give what makes the TrainJob."""
        manifest = self.manifest(context, intent.name, began=intent.began)
        check_runtime_of(self.backend, manifest, self.log)

        def create() -> str:
            job = self.backend.create(manifest)
            self.log.info("TrainJob %s/%s: %s node(s)", job.namespace, job.name, self.num_nodes)
            return self.key_of(job)

        return create

    def find(self, intent: Intent) -> TrainJob | None:
        """The TrainJob whose name has the token."""
        return self.backend.find(self._namespace, self._name(intent.name))

    def key_of(self, seen: TrainJob) -> str:
        """Its namespace and name."""
        return f"{seen.namespace}/{seen.name}"

    def key_in(self, event: dict[str, Any]) -> str:
        """Namespace and name of the TrainJob that was waited for."""
        return f"{event['namespace']}/{event['name']}"

    def read(self, key: str, event: dict[str, Any]) -> TrainJob | None:
        """The TrainJob, if it is still there."""
        return self.backend.find(*_place(key))

    def cancel(self, key: str, *, patience: float | None = None) -> None:
        """Delete the TrainJob."""
        self.backend.delete(*_place(key), patience=patience)

    def deadline(self, context: Context) -> float | None:
        """When the attempt's time is up; that of the training counts from its start on."""
        return attempt_deadline(self)

    def trigger(self, key: str, deadline: float | None) -> TrainJobTrigger:
        """What waits for the TrainJob."""
        from airflow_provider_llmops.triggers.train_job import TrainJobTrigger

        namespace, name = _place(key)
        return TrainJobTrigger(
            kubernetes_conn_id=self.kubernetes_conn_id,
            namespace=namespace,
            name=name,
            poll_interval=self.interval,
            deadline=deadline,
            run_timeout=self._run_seconds,
            delete_on_kill=self.cancel_on_kill,
        )

    @property
    def _namespace(self) -> str:
        return self.namespace or self.backend.namespace

    def may_be_on_its_way(self, *, is_retry: bool) -> bool:
        """Not on a retry: its request has the same name, and one of the two is refused."""
        return not is_retry

    def key_before(self, intent: Intent) -> str | None:
        """Namespace and name, which has the token."""
        return f"{self._namespace}/{self._name(intent.name)}"

    def is_useless(self, intent: Intent, seen: TrainJob | None) -> bool:
        """Not one that has failed: it has checkpoints."""
        return seen.state.is_canceled if seen else intent.run_id is not None

    def go_on(self, intent: Intent, seen: TrainJob | None) -> str | None:
        """Clear away what an earlier attempt has made, so that a new one can go on from its checkpoints."""
        place = (self._namespace, self._name(intent.name))
        with while_it_goes_on(f"TrainJob {'/'.join(place)}"):
            if seen is None:
                self.log.info("TrainJob %s/%s of the previous attempt is gone, or was never made", *place)
            elif not seen.state.is_successful:
                # A failed one too: it may have pods that have not ended.
                self.log.info(
                    "Deleting TrainJob %s/%s of the previous attempt: %s (%s)",
                    *place,
                    seen.state,
                    seen.reason,
                )
                self.backend.delete(*place)
            # Whoever deleted it, this task or somebody else: its pods go on for a while.
            if (seen is None and intent.run_id is not None) or (seen and not seen.state.is_successful):
                self._wait_until_gone(*place)
        return None

    def stop_former(self, intent: Intent, seen: TrainJob | None) -> None:
        """Delete it if it has not ended well: two trainings must not write to the same place."""
        self.go_on(intent, seen)

    def _wait_until_gone(self, namespace: str, name: str) -> None:
        """Two trainings must not write to the same place."""
        if not self.hook.backend.wait_until_gone(namespace, name, seconds=GONE_SECONDS):
            raise RunFailedError(
                f"Pods of a former TrainJob still write to the same place, and it was deleted more than {GONE_SECONDS:.0f} s "
                f"ago. See why they do not end (kubectl get pods -n {namespace} -l jobset.sigs.k8s.io/jobset-name={name}), then "
                "retry.",
                f"TrainJob: {namespace}/{name}",
                f"They write to: {self.output_path}",
            )

    def failure(self, key: str, seen: TrainJob | None, event: dict[str, Any]) -> Exception:
        """What has become of a TrainJob that brings no result; it does not go on after that."""
        final_error, trouble = event.get("final_error"), event.get("trouble")
        if seen is not None and seen.state is RunState.FAILED and trouble is None:
            final_error, trouble = explain(self.backend, seen, self.log)
        is_late = event["timed_out"] or (seen is not None and seen.timed_out)
        # Its restarts would end alike.
        is_hopeless = seen is not None and bool(final_error) and not seen.state.is_terminal
        if is_late or is_hopeless:
            self.cancel(key)
        return error_of(
            seen,
            f"TrainJob: {key} ({self.component})",
            limits=describe_limits(self) if is_late else None,
            final_error=final_error,
            trouble=trouble,
        )

    def outcome(self, context: Context, seen: TrainJob) -> dict[str, Any]:
        """Where the outputs are, and the last metrics."""
        value = result_of(seen, self.output_path)
        for name, path in value["artifacts"].items():
            context["ti"].xcom_push(key=name, value=path)
        context["ti"].xcom_push(key="metrics", value=value["metrics"])
        return value


def _place(key: str) -> tuple[str, str]:
    namespace, _, name = key.partition("/")
    return namespace, name
