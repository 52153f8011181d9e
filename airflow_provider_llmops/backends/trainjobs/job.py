"""A TrainJob as the API server has it, and what its status comes down to.

https://www.kubeflow.org/docs/components/trainer/ and ``trainjob_types.go`` in https://github.com/kubeflow/trainer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from airflow_provider_llmops.backends.kubernetes.messages import sentence
from airflow_provider_llmops.backends.trainjobs.manifest import TOKEN_LABEL
from airflow_provider_llmops.states import RunState

NODE = "node"  # the job that trains; the webhook of Kubeflow Trainer wants the trainer's container to be called so, too
LAUNCHER = "launcher"  # of an MPI runtime, whose nodes only wait for it
INITIALIZERS = ("dataset-initializer", "model-initializer")
_DEADLINE_REASON = "DeadlineExceeded"


@dataclass(frozen=True)
class TrainJob:
    """A TrainJob as the API server has it now.

    :param namespace: its namespace
    :param name: its name
    :param uid: the id that Kubernetes gave it
    :param token: the token of the task that made it; empty if none did
    :param state: what its status comes down to. It is RUNNING when it says that pods of the training are ready or done; that a pod runs
        before all of them do is not in a status, nor is why none does.
    :param reason: reason and message of the condition that decides the state
    :param timed_out: whether it reached its own ``activeDeadlineSeconds``
    :param started_at: Unix time from which on those count; ``None`` while it waits in a queue
    :param nodes: number of its nodes
    :param environment: environment variables that its nodes were given
    :param jobs: what each of its jobs does, by name
    :param done_jobs: names of those that have succeeded
    :param all_ready: whether every node of every job is ready or done
    :param progress: percentage of the training that is done
    :param remaining_seconds: estimate of what is left
    :param metrics: last metrics that the training reported
    """

    namespace: str
    name: str
    uid: str
    token: str
    state: RunState
    reason: str = ""
    timed_out: bool = False
    started_at: float | None = None
    nodes: int = 1
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    jobs: Mapping[str, str] = field(default_factory=dict)
    done_jobs: frozenset[str] = frozenset()
    all_ready: bool = False
    progress: int | None = None
    remaining_seconds: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> TrainJob:
        """Read what the API server answers."""
        metadata, spec, status = document["metadata"], document.get("spec", {}), document.get("status") or {}
        conditions = {item["type"]: item for item in status.get("conditions", [])}
        true = {kind: item for kind, item in conditions.items() if item["status"] == "True"}
        jobs = status.get("jobsStatus", [])
        if "Complete" in true:
            state, decides = RunState.SUCCEEDED, true["Complete"]
        elif "Failed" in true:
            state, decides = RunState.FAILED, true["Failed"]
        elif metadata.get("deletionTimestamp"):
            state, decides = RunState.CANCELING, {}
        elif "Suspended" in true or spec.get("suspend"):
            state, decides = RunState.PAUSED, true.get("Suspended", {})
        else:
            # `active` counts Jobs, also those of which no pod could be made.
            trains = training_jobs([job["name"] for job in jobs])
            started = any(job.get("ready") or job.get("succeeded") for job in jobs if job["name"] in trains)
            state, decides = (RunState.RUNNING if started else RunState.PENDING), {}
        reported = status.get("trainerStatus", {})
        trainer = spec.get("trainer") or {}
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            token=metadata.get("labels", {}).get(TOKEN_LABEL, ""),
            state=state,
            reason=": ".join(text for text in (decides.get("reason"), decides.get("message")) if text),
            timed_out=state is RunState.FAILED and decides.get("reason") == _DEADLINE_REASON,
            started_at=None if state is RunState.PAUSED else _started_at(metadata, conditions),
            nodes=trainer.get("numNodes") or 1,
            environment={item["name"]: item["value"] for item in trainer.get("env") or [] if "value" in item},
            jobs={job["name"]: _counts(job) for job in jobs},
            done_jobs=frozenset(job["name"] for job in jobs if job.get("succeeded")),
            all_ready=bool(jobs) and all(job.get("ready") or job.get("succeeded") for job in jobs),
            progress=reported.get("progressPercentage"),
            remaining_seconds=reported.get("estimatedRemainingSeconds"),
            metrics=_numbers(reported.get("metrics", [])),
        )


def training_jobs(names: Sequence[str]) -> list[str]:
    """Those of a TrainJob's jobs that train: initializers prepare, and an MPI runtime's nodes wait for its launcher.

    :param names: names of all its jobs
    """
    for name in (LAUNCHER, NODE):
        if name in names:
            return [name]
    return [name for name in names if name not in INITIALIZERS]


def why_failed(job: TrainJob, trouble: str | None) -> str:
    """What a TrainJob has failed with: what its pods said, then its own condition, which names none of it.

    :param job: as it is now
    :param trouble: why its pods did not run, or have failed, if it is known
    """
    said = " ".join(sentence(text) for text in (trouble, job.reason) if text)
    return said or "The TrainJob failed without a reason."


def _started_at(metadata: Mapping[str, Any], conditions: Mapping[str, Any]) -> float:
    """Where the controller begins to count: https://github.com/kubeflow/trainer, ``reconcileDeadline``."""
    resumed = conditions.get("Suspended")
    return datetime.fromisoformat(
        resumed["lastTransitionTime"] if resumed else metadata["creationTimestamp"]
    ).timestamp()


def _counts(job: Mapping[str, Any]) -> str:
    names = ("active", "ready", "succeeded", "failed", "suspended")
    return ", ".join(f"{job[name]} {name}" for name in names if job.get(name)) or "none active"


def _numbers(metrics: list[dict[str, str]]) -> dict[str, float]:
    numbers = {}
    for metric in metrics:
        try:
            number = float(metric["value"])
        except ValueError:
            continue
        if math.isfinite(number):  # Airflow's database keeps no others
            numbers[metric["name"]] = number
    return numbers
