"""The one place where the manifest of a training on several nodes is built: a plain dict, valid against Kubeflow Trainer's schema."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_llmops.backends.kubernetes.manifests import DNS_LABEL, variables_from
from airflow_provider_llmops.exceptions import ConfigurationError, shown_value
from airflow_provider_llmops.settings.kubernetes import SHARED_MEMORY_PATH, StepSettings, Toleration

TOKEN_LABEL = "llmops/token"  # noqa: S105 - tells runs apart, no secret
# JobSet makes pods called NAME-JOB-0-INDEX-xxxxx, which have 63 characters at most; the longest job of the runtimes that
# Kubeflow Trainer ships is dataset-initializer.
MAX_TRAIN_JOB_NAME = 63 - len("-dataset-initializer-0-0-xxxxx")
# The trainer's job and its container are both called so in every runtime: the webhook wants it.
_TRAINER = "node"
_TRAIN_JOB_NAME = re.compile(rf"[a-z]([-a-z0-9]{{0,{MAX_TRAIN_JOB_NAME - 2}}}[a-z0-9])?")
# Kubeflow Trainer tells torchrun through these.
_RESERVED_VARIABLES = {
    "PET_NNODES",
    "PET_NPROC_PER_NODE",
    "PET_NODE_RANK",
    "PET_MASTER_ADDR",
    "PET_MASTER_PORT",
}
# A training that is told to stop finishes its step and saves: torchrun waits 120 s for its processes.
GRACE_SECONDS = 150


def train_job(
    name: str,
    *,
    namespace: str,
    token: str,
    image: str,
    command: Sequence[str],
    args: Sequence[str],
    env: Mapping[str, str],
    settings: StepSettings,
    runtime: str = "torch-distributed",
    runtime_kind: str = "ClusterTrainingRuntime",
    num_nodes: int = 1,
    processes_per_node: int | None = None,
    active_deadline_seconds: int | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Build a ``TrainJob`` that runs one command on every node.

    Reference: ``trainjob_types.go`` of Kubeflow Trainer 2.2 or later, the first with ``runtimePatches``.

    :param name: RFC 1035 label of at most 33 characters
    :param namespace: Kubernetes namespace
    :param token: what tells it from any other of the name
    :param image: image of the nodes, unless the settings name one
    :param command: what to start on each node
    :param args: its arguments
    :param env: environment variables besides those of the settings
    :param settings: resources of a node, secrets, volumes, where it may run
    :param runtime: name of the runtime to start from
    :param runtime_kind: ``ClusterTrainingRuntime``, or ``TrainingRuntime`` for one of the namespace
    :param num_nodes: number of nodes
    :param processes_per_node: number of processes on each; the number of its GPUs, or 1, if the settings name resources;
        else Kubeflow Trainer decides by what the runtime says
    :param active_deadline_seconds: how long it may run; counted from its start, not while it waits in a queue
    :param labels: labels of the TrainJob and its pods
    :param annotations: annotations of the TrainJob
    :raises ConfigurationError: a value that Kubernetes or Kubeflow Trainer would refuse
    """
    if not _TRAIN_JOB_NAME.fullmatch(name):
        raise ConfigurationError(
            f"Invalid name of a TrainJob {name!r}: it has 1 to {MAX_TRAIN_JOB_NAME} lower-case letters, digits and '-', begins "
            "with a letter and ends with a letter or digit."
        )
    if not DNS_LABEL.fullmatch(namespace):
        raise ConfigurationError(
            f"Invalid namespace {namespace!r}: 1 to 63 lower-case letters, digits and '-'."
        )
    if runtime_kind not in ("ClusterTrainingRuntime", "TrainingRuntime"):
        raise ConfigurationError(
            f"runtime_kind must be ClusterTrainingRuntime or TrainingRuntime, got {shown_value(runtime_kind)}."
        )
    if not isinstance(runtime, str) or not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", runtime):
        raise ConfigurationError(f"runtime must be the name of a {runtime_kind}, got {shown_value(runtime)}.")
    if settings.image_pull_policy is not None:
        raise ConfigurationError(
            "A TrainJob cannot set image_pull_policy: set imagePullPolicy in the template of its runtime."
        )
    resources = _resources(settings)
    if processes_per_node is None and resources:
        processes_per_node = settings.accelerator_count or 1
    for what, value in (("num_nodes", num_nodes), ("processes_per_node", processes_per_node)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigurationError(
                f"{what} must be a whole number from 1 on, got {shown_value(value, 60)}."
            )
    labels = {**settings.labels, **(labels or {}), TOKEN_LABEL: token}
    trainer: dict[str, Any] = {
        "image": settings.image or image,
        "command": list(command),
        "args": list(args),
        "env": _environment(settings, env),
        "numNodes": num_nodes,
    }
    if processes_per_node is not None:
        trainer["numProcPerNode"] = processes_per_node
    if resources:
        trainer["resourcesPerNode"] = resources
    pod_template: dict[str, Any] = {"metadata": {"labels": labels}, "spec": _pod_patch(settings)}
    if settings.annotations:
        pod_template["metadata"]["annotations"] = dict(settings.annotations)
    job = {"name": _TRAINER, "template": {"spec": {"template": pod_template}}}
    spec: dict[str, Any] = {
        "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": runtime_kind, "name": runtime},
        "trainer": trainer,
        "runtimePatches": [
            {
                "manager": "llmops/airflow",
                "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}},
            }
        ],
    }
    if active_deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = active_deadline_seconds
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "labels": labels}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": spec,
    }


def _resources(settings: StepSettings) -> dict[str, dict[str, str]]:
    accelerator = settings.accelerator_type
    if accelerator is None and settings.accelerator_count:
        raise ConfigurationError("accelerator_count needs an accelerator_type, such as nvidia.com/gpu.")
    limits = {"cpu": settings.cpu_limit, "memory": settings.memory_limit}
    if accelerator is not None:
        limits[accelerator] = 1 if settings.accelerator_count is None else settings.accelerator_count
    requests = {"cpu": settings.cpu_request, "memory": settings.memory_request}
    named = {"requests": requests, "limits": limits}
    written = {
        kind: {name: str(amount) for name, amount in amounts.items() if amount is not None}
        for kind, amounts in named.items()
    }
    return {kind: amounts for kind, amounts in written.items() if amounts}


def _environment(settings: StepSettings, env: Mapping[str, str]) -> list[dict[str, Any]]:
    variables: list[dict[str, Any]] = [
        {"name": name, "value": value} for name, value in {**settings.env, **env}.items()
    ]
    for kind, sources in (
        ("secretKeyRef", settings.secrets_as_env),
        ("configMapKeyRef", settings.config_maps_as_env),
    ):
        variables += variables_from(kind, sources)
    names = [variable["name"] for variable in variables]
    if taken := sorted(set(names) & _RESERVED_VARIABLES):
        raise ConfigurationError(
            f"{', '.join(taken)} cannot be set: Kubeflow Trainer tells torchrun about nodes and processes through it. Use "
            "num_nodes and processes_per_node."
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"The same environment variable is set twice: {', '.join(twice)}.")
    return variables


def _pod_patch(settings: StepSettings) -> dict[str, Any]:
    """What the runtime's pod template does not have yet."""
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for kind, field, by_name in (
        ("persistentVolumeClaim", "claimName", settings.persistent_volume_claims),
        ("secret", "secretName", settings.secrets_as_volumes),
        ("configMap", "name", settings.config_maps_as_volumes),
    ):
        for name, path in by_name.items():
            volumes.append({"name": name, kind: {field: name}})
            mounts.append({"name": name, "mountPath": path})
    if settings.shared_memory is not None:
        volumes.append(
            {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": str(settings.shared_memory)}}
        )
        mounts.append({"name": "dshm", "mountPath": SHARED_MEMORY_PATH})
    patch: dict[str, Any] = {"terminationGracePeriodSeconds": GRACE_SECONDS}
    if volumes:
        patch |= {"volumes": volumes, "containers": [{"name": _TRAINER, "volumeMounts": mounts}]}
    if settings.node_selector:
        patch["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        patch["tolerations"] = [_toleration(toleration) for toleration in settings.tolerations]
    if settings.image_pull_secrets:
        patch["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return patch


def _toleration(toleration: Toleration) -> dict[str, Any]:
    fields = {
        "key": toleration.key,
        "operator": toleration.operator,
        "value": toleration.value,
        "effect": toleration.effect,
        "tolerationSeconds": toleration.toleration_seconds,
    }
    return {name: value for name, value in fields.items() if value is not None}
