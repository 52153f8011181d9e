"""Whether a training runtime starts our command on each node, which a TrainJob that names it is not told.

What a runtime says: ``trainingruntime_types.go`` in https://github.com/kubeflow/trainer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_llmops.backends.trainjobs.api import TrainJobs
from airflow_provider_llmops.backends.trainjobs.job import INITIALIZERS, NODE
from airflow_provider_llmops.exceptions import ConfigurationError, RunNotFoundError, describe_unknown

# Kubeflow Trainer gives command, arguments and image to the job with this label, and starts as many nodes of it.
STEP_LABEL = "trainer.kubeflow.org/trainjob-ancestor-step"
FRAMEWORK_LABEL = "trainer.kubeflow.org/framework"
_TRAINER = "trainer"
_ADVICE = "Name one that starts torchrun's nodes, as torch-distributed does, or make one after its pattern."


def check_runtime_of(backend: TrainJobs, manifest: Mapping[str, Any], logger: Any) -> None:
    """Refuse a runtime that is not there, or cannot run our command; Kubeflow Trainer accepts the latter.

    :param backend: where it would run
    :param manifest: the TrainJob
    :param logger: of the task
    """
    spec = manifest["spec"]
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
        logger.info("Whether runtime %r can run the training is not checked: %s", name, error)
        return
    check_runtime(
        runtime,
        num_nodes=spec["trainer"]["numNodes"],
        processes_per_node=spec["trainer"].get("numProcPerNode"),
    )


def check_runtime(runtime: Mapping[str, Any], *, num_nodes: int, processes_per_node: int | None) -> None:
    """Refuse a runtime on which our command does not run, or not as the nodes of one training.

    :param runtime: the ClusterTrainingRuntime or TrainingRuntime, as the API server has it
    :param num_nodes: number of nodes
    :param processes_per_node: number of processes on each, if it is known
    :raises ConfigurationError: it cannot work; the message says why
    """
    problem = _problem(runtime, is_alone=num_nodes == 1 and (processes_per_node or 1) == 1)
    if problem:
        kind, name = runtime.get("kind", "runtime"), runtime["metadata"]["name"]
        raise ConfigurationError(f"Runtime {name!r} {problem}. {_ADVICE}", f"{kind}: {name}")


def _problem(runtime: Mapping[str, Any], *, is_alone: bool) -> str | None:
    spec = runtime.get("spec") or {}
    policy = {name for name, value in (spec.get("mlPolicy") or {}).items() if isinstance(value, Mapping)}
    jobs = {job["name"]: job for job in spec["template"]["spec"].get("replicatedJobs") or []}
    steps = {name: _step(job) for name, job in jobs.items()}
    framework = (runtime["metadata"].get("labels") or {}).get(FRAMEWORK_LABEL)
    launcher = next((name for name, step in steps.items() if step == _TRAINER and name != NODE), None)
    if launcher:
        return f"starts the training in its job {launcher!r} and not on its nodes, which only wait for it"
    if NODE not in jobs:
        return f"has no job {NODE!r}, which is what a TrainJob's nodes are"
    if steps[NODE] != _TRAINER:
        return (
            f"does not give the command to its job {NODE!r}, which lacks the label {STEP_LABEL}: {_TRAINER}"
        )
    containers = {item["name"]: item for item in _pod(jobs[NODE]).get("containers") or []}
    if NODE not in containers:
        return f"has no container {NODE!r} in its job {NODE!r}, which is where the command goes"
    if framework == "torchtune" or (containers[NODE].get("command") or [])[:1] == ["tune"]:
        return "is one of torchtune's: it prepares torchtune's own model and data first, and our command knows neither"
    if others := sorted(policy - {"torch"}):
        return f"is for {', '.join(others)} (mlPolicy), and does not tell torchrun about nodes and processes"
    if "torch" not in policy and not is_alone:
        return "has no mlPolicy.torch, so its nodes and processes would each train alone"
    return next((text for job in jobs.values() if (text := _initializer_problem(job))), None)


def _initializer_problem(job: Mapping[str, Any]) -> str | None:
    step = _step(job)
    if step not in INITIALIZERS:
        return None
    variables = [item.get("name") for of in _pod(job).get("containers") or [] for item in of.get("env") or []]
    if "STORAGE_URI" in variables:
        return None
    return f"wants to be told what its job {job['name']!r} fetches (STORAGE_URI), which is not ours to say"


def _step(job: Mapping[str, Any]) -> str | None:
    labels: Mapping[str, str] = (job["template"].get("metadata") or {}).get("labels") or {}
    return labels.get(STEP_LABEL)


def _pod(job: Mapping[str, Any]) -> Mapping[str, Any]:
    pod: Mapping[str, Any] = job["template"]["spec"]["template"].get("spec") or {}
    return pod
