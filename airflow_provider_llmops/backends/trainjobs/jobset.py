"""Which pods a TrainJob's JobSet makes, and which of them are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_llmops.backends.trainjobs.job import LAUNCHER, NODE, TrainJob

# JobSet puts it on every pod: the name of one of the jobs in a TrainJob's status.
REPLICATED_JOB_LABEL = "jobset.sigs.k8s.io/replicatedjob-name"
# How many of that name there are, and which of them it belongs to.
REPLICAS_LABEL = "jobset.sigs.k8s.io/replicatedjob-replicas"
JOB_INDEX_LABEL = "jobset.sigs.k8s.io/job-index"


def replicated_job(pod: Mapping[str, Any]) -> str | None:
    """The job of a TrainJob that a pod belongs to.

    :param pod: the pod as the API server has it
    """
    name: str | None = (pod["metadata"].get("labels") or {}).get(REPLICATED_JOB_LABEL)
    return name


def missing_jobs(job: TrainJob, live: Sequence[Mapping[str, Any]]) -> list[str]:
    """The Jobs that have fewer pods than they need. Those of an initializer, or a launcher, have one.

    :param job: the TrainJob
    :param live: its pods that run, will run or have succeeded
    """
    names = [*job.jobs] or [NODE]
    # An MPI runtime may run one of the nodes in its launcher.
    nodes = max(job.nodes - 1, 1) if LAUNCHER in names else job.nodes
    made = Counter((replicated_job(pod), _label(pod, JOB_INDEX_LABEL, 0)) for pod in live)
    return [
        f"{job.name}-{name}-{index}"
        for name in names
        if name not in job.done_jobs
        for index in range(_replicas(name, live))
        if made[name, index] < (nodes if name == NODE else 1)
    ]


def _replicas(name: str, live: Sequence[Mapping[str, Any]]) -> int:
    """How many Jobs there are of a name, as their pods say. Kubeflow Trainer lets only jobs that are not its own have several."""
    return max((_label(pod, REPLICAS_LABEL, 1) for pod in live if replicated_job(pod) == name), default=1)


def _label(pod: Mapping[str, Any], label: str, default: int) -> int:
    return int((pod["metadata"].get("labels") or {}).get(label, default))
