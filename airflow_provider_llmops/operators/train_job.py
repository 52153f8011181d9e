"""Train on several nodes: one TrainJob of Kubeflow Trainer for each scheduled run of the task."""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.backends.kubernetes.messages import sentence
from airflow_provider_llmops.backends.serving.manifest import MAX_TRAIN_JOB_NAME, train_job
from airflow_provider_llmops.backends.trainjobs.job import TrainJob, TrainJobs, why_failed
from airflow_provider_llmops.backends.trainjobs.runtime import check_runtime
from airflow_provider_llmops.exceptions import (
    ConfigurationError,
    InvalidInputError,
    LLMOpsError,
    ResultError,
    RunCanceledError,
    RunFailedError,
    RunNotFoundError,
    describe_unknown,
    shown_value,
)
from airflow_provider_llmops.hooks.trainer import KubeflowTrainerHook
from airflow_provider_llmops.remote.ending import attempt_deadline, describe_limits
from airflow_provider_llmops.remote.intent import Intent, lineage_of, origin_of, outlasting
from airflow_provider_llmops.remote.operator import RemoteRunOperator
from airflow_provider_llmops.results import MAX_XCOM_BYTES
from airflow_provider_llmops.settings.kubernetes import StepSettings
from airflow_provider_llmops.specs.declared import converted
from airflow_provider_llmops.specs.passing_on import checked, is_same_release
from airflow_provider_llmops.specs.pipeline import PipelineSpec
from airflow_provider_llmops.states import RunState
from airflow_provider_llmops.uris import file_path, scheme_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.triggers.train_job import TrainJobTrigger

# As the entry point in the components' image has them: llmops_components.training.launch.
LAUNCH_MODULE = "llmops_components.training.launch"
COMPONENTS = ("distill", "train_dpo", "train_grpo", "train_kto", "train_reward", "train_rloo", "train_sft")
PRESETS = ("ddp", "fsdp2", "zero1", "zero2", "zero3", "cpu")
OUTPUTS = ("model", "adapter")
REQUEST_VARIABLE = "LLMOPS_REQUEST"
# The container's last words, which Kubernetes keeps in the pod's status.
TERMINATION_LOG = "/dev/termination-log"
MAX_REQUEST_BYTES = 96 * 1024  # Linux allows a variable 128 KiB
POLL_INTERVAL_SECONDS = 10.0
GONE_SECONDS = 180.0  # the pods' grace and a little
_TOKEN_CHARACTERS = 12


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
    is_made_once = True

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
        for what, value, known in (
            ("component", self.component, COMPONENTS),
            ("preset", self.preset, PRESETS),
        ):
            if unknown := describe_unknown([value], known):
                raise ConfigurationError(f"There is no {what} {unknown}. There are: {', '.join(known)}.")
        if not isinstance(self.arguments, Mapping):
            raise ConfigurationError(f"arguments must be a dict, got {shown_value(self.arguments)}.")
        if started_here := sorted({"processes", "preset"} & set(self.arguments)):
            raise ConfigurationError(
                f"arguments: {', '.join(started_here)} is for a step that starts its own processes. Here the TrainJob does: set "
                "num_nodes, processes_per_node and preset of the operator."
            )
        spec = PipelineSpec.packaged(self.component)
        same_release = is_same_release(self._settings.image, spec.image)
        given = checked(self.component, self.arguments, same_release=same_release)
        read = spec.bind(given).parameters
        output = self._path("output_path", self.output_path)
        arguments = {
            name: read.get(name, value)
            for name, value in given.items()
            if name in read or (value is not None and "artifactType" in spec.inputs[name])
        }
        for name, value in arguments.items():
            is_place = name == "checkpoints" or "artifactType" in spec.inputs[name]
            if is_place and not str(value).startswith("hf://"):
                arguments[name] = self._path(name, value)
        arguments.setdefault("checkpoints", f"{output}/checkpoints/{lineage_of(context, began)}")
        outputs = {name: f"{output}/{job_name}/{name}" for name in self._outputs()}
        return {
            "component": self.component,
            "arguments": {**arguments, **outputs},
            "result": f"{output}/{job_name}/result.json",
            "preset": self.preset,
        }

    def manifest(self, context: Context, token: str, *, began: int | None = None) -> dict[str, Any]:
        """The TrainJob.

        :param context: of the task; its ids go to labels and annotations
        :param token: what tells it from every other TrainJob
        :param began: as of :meth:`request`
        """
        name = _name(context, token)
        # JSON knows the dollar sign by another name, and Kubernetes would expand $(NAME) in a variable.
        text = json.dumps(self.request(context, name, began=began)).replace("$", "\\u0024")
        if len(text) > MAX_REQUEST_BYTES:
            raise ConfigurationError(
                f"The arguments take {len(text)} bytes as JSON, at most {MAX_REQUEST_BYTES} fit. Put data into files on the "
                "volume."
            )
        origin = {f"llmops/{key.replace('_', '-')}": value for key, value in origin_of(context).items()}
        return train_job(
            name,
            namespace=self.namespace or self.hook.backend.namespace,
            token=token,
            image=PipelineSpec.packaged(self.component).image,
            command=["python", "-m", LAUNCH_MODULE],
            args=[f"env:{REQUEST_VARIABLE}"],
            env={REQUEST_VARIABLE: text, "LLMOPS_ERROR_FILE": TERMINATION_LOG},
            settings=self._settings,
            runtime=self.runtime,
            runtime_kind=self.runtime_kind,
            num_nodes=converted(self.num_nodes, ["int"], "num_nodes", {}, strict=False),
            processes_per_node=converted(
                self.processes_per_node, ["int", "null"], "processes_per_node", {}, strict=False
            ),
            active_deadline_seconds=None if (limit := self._run_seconds) is None else max(1, round(limit)),
            labels={"app.kubernetes.io/managed-by": "airflow", **_labels(origin)},
            annotations={"llmops/component": self.component, **origin},
        )

    @property
    def _run_seconds(self) -> float | None:
        return None if self.run_timeout is None else self.run_timeout.total_seconds()

    @property
    def _settings(self) -> StepSettings:
        return StepSettings.of(self.step_settings)

    def _outputs(self) -> list[str]:
        """The component's outputs that are models."""
        ir = PipelineSpec.packaged(self.component).ir
        (component,) = ir["components"].values()
        return [name for name in OUTPUTS if name in component["outputDefinitions"]["artifacts"]]

    def _path(self, name: str, value: Any) -> str:
        """A place on a volume that the nodes mount."""
        claims = self._settings.persistent_volume_claims
        mounts = [posixpath.normpath(path) for path in claims.values()]
        if not mounts:
            raise ConfigurationError(
                "A TrainJob has its data, models and outputs on a volume: mount one with step_settings={'persistent_volume_claims': "
                "{'CLAIM': '/mnt/shared'}}."
            )
        path = str(value)
        if scheme_of(path) == "file":
            path = file_path(path, name)
        if scheme_of(path):
            raise ConfigurationError(
                f"The nodes cannot read {name}. Copy it to a volume and give its path below {' or '.join(mounts)}.",
                f"{name}: {shown_value(value, 200)}",
            )
        normal = posixpath.normpath(path)
        if not any(normal.startswith(f"{mount.rstrip('/')}/") for mount in mounts) or "\0" in path:
            raise ConfigurationError(
                f"{name} must be a path below {' or '.join(mounts)}, where the nodes have a volume.",
                f"{name}: {shown_value(value, 200)}",
            )
        return normal

    def new_name(self, context: Context) -> str:
        """The token in the TrainJob's name."""
        return uuid.uuid4().hex

    def prepare(self, context: Context, intent: Intent) -> Callable[[], str]:
        """Check what is asked for, and give what makes the TrainJob."""
        manifest = self.manifest(context, intent.name, began=intent.began)
        self._check_runtime(manifest)

        def create() -> str:
            job = self.backend.create(manifest)
            self.log.info("TrainJob %s/%s: %s node(s)", job.namespace, job.name, self.num_nodes)
            return self.key_of(job)

        return create

    def find(self, intent: Intent) -> TrainJob | None:
        """The TrainJob whose name has the token."""
        assert self._context is not None  # by execute
        return self.backend.find(self._namespace, _name(self._context, intent.name))

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
    def interval(self) -> float:
        """Seconds between two looks."""
        return POLL_INTERVAL_SECONDS if self.poll_interval is None else self.poll_interval

    @property
    def _namespace(self) -> str:
        return self.namespace or self.backend.namespace

    def _check_runtime(self, manifest: Mapping[str, Any]) -> None:
        """Refuse a runtime that is not there, or cannot run our command; Kubeflow Trainer accepts the latter."""
        backend, spec = self.hook.backend, manifest["spec"]
        kind, name = spec["runtimeRef"]["kind"], spec["runtimeRef"]["name"]
        namespace = manifest["metadata"]["namespace"]
        try:
            runtime = backend.runtime(kind, namespace, name)
        except RunNotFoundError as error:
            names = backend.runtime_names(kind, namespace)
            known = f" There are: {', '.join(names)}." if names else ""
            described = describe_unknown([name], names)
            raise ConfigurationError(
                f"There is no {kind} {described}.{known}", *str(error).split("\n")[1:]
            ) from error
        except ConfigurationError as error:
            self.log.info("Whether runtime %r can run the training is not checked: %s", name, error)
            return
        check_runtime(
            runtime,
            num_nodes=spec["trainer"]["numNodes"],
            processes_per_node=spec["trainer"].get("numProcPerNode"),
        )

    def is_useless(self, intent: Intent, seen: TrainJob | None) -> bool:
        """Not one that has failed: it has checkpoints."""
        return seen.state.is_canceled if seen else intent.run_id is not None

    def go_on(self, intent: Intent, seen: TrainJob | None) -> str | None:
        """Clear away what an earlier attempt has made, so that a new one can go on from its checkpoints."""
        assert self._context is not None  # by execute
        place = (self._namespace, _name(self._context, intent.name))
        with outlasting(f"TrainJob {'/'.join(place)}"):
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
        """What has become of a TrainJob that brings no result."""
        final_error, trouble = event.get("final_error"), event.get("trouble")
        if seen is not None and seen.state is RunState.FAILED and trouble is None:
            final_error, trouble = self._explain(seen)
        return self._failure(
            *_place(key), seen, timed_out=event["timed_out"], final_error=final_error, trouble=trouble
        )

    def _explain(self, job: TrainJob) -> tuple[str | None, str | None]:
        """Why a TrainJob has failed, if nobody has seen it while it did: final error, and any."""
        from airflow_provider_llmops.backends.trainjobs.watch import NO_POD_LEFT, TrainJobWatch

        watch = TrainJobWatch(self.hook.backend, job.namespace, job.name, self.log)
        with contextlib.suppress(LLMOpsError):  # that it has failed is known; why is not worth another error
            watch.look()
        if watch.trouble is None and not job.timed_out:
            self.log.error("%s", NO_POD_LEFT)
        return watch.final_error, watch.trouble

    def _failure(
        self,
        namespace: str,
        name: str,
        job: TrainJob | None,
        *,
        timed_out: bool,
        final_error: str | None,
        trouble: str | None,
    ) -> Exception:
        """What has become of a TrainJob that brings no result; it does not go on after that."""
        backend = self.hook.backend
        where = f"TrainJob: {namespace}/{name} ({self.component})"
        if timed_out or (job is not None and job.timed_out):
            backend.delete(namespace, name)
            if trouble:
                return RunFailedError(
                    f"{sentence(trouble)} So the training was not done within {describe_limits(self)}, and was stopped. Put "
                    "that right and retry; what it has saved it goes on from.",
                    where,
                )
            return RunFailedError(
                f"The training took longer than {describe_limits(self)} and was stopped. A retry goes on from its checkpoints; "
                "raise that, or give it less to do.",
                where,
            )
        if job is None or job.state.is_canceled:
            return RunCanceledError(
                "The TrainJob was deleted by somebody else. Clear the task to train again; a retry goes on from its checkpoints.",
                where,
                trouble and f"Before that: {trouble}",
            )
        if final_error and not job.state.is_terminal:
            backend.delete(namespace, name)  # its restarts would end alike
        if final_error:
            return InvalidInputError(f"{sentence(final_error)} Correct the task's arguments or data.", where)
        return RunFailedError(f"{why_failed(job, trouble)} A retry goes on from its checkpoints.", where)

    def outcome(self, context: Context, seen: TrainJob) -> dict[str, Any]:
        """Where the outputs are, and the last metrics: of what was submitted, whatever the task's templates have become since."""
        job = seen
        if REQUEST_VARIABLE not in job.environment:
            raise ResultError(
                f"The training is complete, but its TrainJob has no variable {REQUEST_VARIABLE} (any more), which says where its "
                "outputs are.",
                f"TrainJob: {job.namespace}/{job.name}",
                f"Look below: {self.output_path}",
            )
        request = json.loads(job.environment[REQUEST_VARIABLE])
        arguments = request["arguments"]
        paths = {name: arguments[name] for name in OUTPUTS if name in arguments}
        metrics = dict(job.metrics)
        value = {
            "component": request["component"],
            "namespace": job.namespace,
            "name": job.name,
            "state": str(job.state),
            "artifacts": paths,
            "result": request["result"],
            "checkpoints": arguments["checkpoints"],
            "metrics": metrics,
        }
        while metrics and len(json.dumps(value)) > MAX_XCOM_BYTES:
            metrics.popitem()
        for name, path in paths.items():
            context["ti"].xcom_push(key=name, value=path)
        context["ti"].xcom_push(key="metrics", value=metrics)
        return value


def _place(key: str) -> tuple[str, str]:
    namespace, _, name = key.partition("/")
    return namespace, name


def _name(context: Context, token: str) -> str:
    """Name of the TrainJob: what a person recognises, as far as it fits, and the token."""
    ti = context["ti"]
    readable = re.sub(r"[^a-z0-9]+", "-", f"{ti.dag_id}-{ti.task_id}".lower()).strip("-")
    if not readable[:1].isalpha():
        readable = f"t-{readable}"
    room = MAX_TRAIN_JOB_NAME - _TOKEN_CHARACTERS - 1
    return f"{readable[:room].rstrip('-')}-{token[:_TOKEN_CHARACTERS]}"


def _labels(origin: Mapping[str, str]) -> dict[str, str]:
    """Where the TrainJob comes from, without the index of a task that is not mapped: a label cannot begin with a dash."""
    return {
        key: _label_value(value)
        for key, value in origin.items()
        if not (key == "llmops/map-index" and value.startswith("-"))
    }


def _label_value(value: str) -> str:
    """The value as far as a label may hold it; annotations have the whole."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", value)[:63].strip("-_.")
