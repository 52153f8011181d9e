"""TrainJobs of Kubeflow Trainer, through the API server of their cluster.

https://www.kubeflow.org/docs/components/trainer/ and ``trainjob_types.go`` in https://github.com/kubeflow/trainer.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from airflow_provider_llmops.backends.kfp_api import retrying
from airflow_provider_llmops.backends.pods import MAX_PODS, last_lines
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    LLMOpsError,
    RunNotFoundError,
)
from airflow_provider_llmops.manifests import GRACE_SECONDS, TOKEN_LABEL
from airflow_provider_llmops.states import RunState

log = logging.getLogger(__name__)

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
# JobSet, which carries a TrainJob out, puts it on every pod.
JOB_LABEL = "jobset.sigs.k8s.io/jobset-name"
CONTAINER = "node"  # the webhook of Kubeflow Trainer wants the trainer's container to be called so
PATIENCE_SECONDS = 300.0
ANSWER_SECONDS = 30.0
MAX_SHOWN_CHARACTERS = 300
_DEADLINE_REASON = "DeadlineExceeded"
_ENDED_PHASES = ("Succeeded", "Failed")
_WAITING = (RunState.PENDING, RunState.PAUSED)
# Why a container does not start; that it is being made, or waits before its next start, is nothing to tell.
_USUAL_WAITS = ("ContainerCreating", "PodInitializing", "CrashLoopBackOff")


@dataclass(frozen=True)
class TrainJob:
    """A TrainJob as the API server has it now.

    :param namespace: its namespace
    :param name: its name
    :param uid: the id that Kubernetes gave it
    :param token: the token of the task that made it; empty if none did
    :param state: what its conditions come down to
    :param reason: reason and message of the condition that decides the state
    :param timed_out: whether it reached its own ``activeDeadlineSeconds``
    :param started_at: Unix time from which on those count; ``None`` while it has not started, or waits in a queue again
    :param environment: environment variables that its nodes were given
    :param jobs: what each of its jobs does, by name
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
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    jobs: Mapping[str, str] = field(default_factory=dict)
    all_ready: bool = False
    progress: int | None = None
    remaining_seconds: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> TrainJob:
        """Read what the API server answers."""
        metadata, status = document["metadata"], document.get("status", {})
        conditions = {item["type"]: item for item in status.get("conditions", [])}
        true = {kind: item for kind, item in conditions.items() if item["status"] == "True"}
        jobs = status.get("jobsStatus", [])
        if "Complete" in true:
            state, decides = RunState.SUCCEEDED, true["Complete"]
        elif "Failed" in true:
            state, decides = RunState.FAILED, true["Failed"]
        elif metadata.get("deletionTimestamp"):
            state, decides = RunState.CANCELING, {}
        elif "Suspended" in true:
            state, decides = RunState.PAUSED, true["Suspended"]
        else:
            started = any(job.get("active") or job.get("ready") for job in jobs)
            state, decides = (RunState.RUNNING if started else RunState.PENDING), {}
        reported = status.get("trainerStatus", {})
        variables = document.get("spec", {}).get("trainer", {}).get("env", [])
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            token=metadata.get("labels", {}).get(TOKEN_LABEL, ""),
            state=state,
            reason=": ".join(text for text in (decides.get("reason"), decides.get("message")) if text),
            timed_out=state is RunState.FAILED and decides.get("reason") == _DEADLINE_REASON,
            started_at=None if state in _WAITING else _started_at(metadata, conditions),
            environment={item["name"]: item["value"] for item in variables if "value" in item},
            jobs={job["name"]: _counts(job) for job in jobs},
            all_ready=bool(jobs) and all(job.get("ready") or job.get("succeeded") for job in jobs),
            progress=reported.get("progressPercentage"),
            remaining_seconds=reported.get("estimatedRemainingSeconds"),
            metrics=_numbers(reported.get("metrics", [])),
        )


@dataclass(frozen=True)
class PodTrouble:
    """Why the container of a node has ended, or does not start.

    :param pod: name of the pod
    :param message: why, in one line
    :param is_final: whether the training itself said that the same input will fail again
    :param has_ended: whether the container ran, so that there is a log
    :param was_restarted: whether Kubernetes started it again since, so that the log is the previous one
    """

    pod: str
    message: str
    is_final: bool = False
    has_ended: bool = False
    was_restarted: bool = False


class TrainJobs:
    """The TrainJobs of a cluster.

    :param client: the ``kubernetes`` client's ``ApiClient``
    :param namespace: where to make them unless something else is said
    :param conn_id: Airflow connection of the client, for messages
    """

    def __init__(self, client: Any, *, namespace: str, conn_id: str) -> None:
        from kubernetes.client import CoreV1Api, CustomObjectsApi  # type: ignore[import-untyped]

        self.namespace = namespace
        self.conn_id = conn_id
        self._objects = CustomObjectsApi(client)
        self._pods = CoreV1Api(client)

    def create(self, manifest: Mapping[str, Any]) -> TrainJob:
        """Make a TrainJob; if it is there already, with the same token, that one is returned.

        :param manifest: of :func:`~airflow_provider_llmops.manifests.train_job`
        :raises ConfigurationError: the cluster refuses it, or another one has its name
        """
        metadata = manifest["metadata"]
        namespace, name, token = metadata["namespace"], metadata["name"], metadata["labels"][TOKEN_LABEL]
        try:
            return TrainJob.read(
                self._ask(
                    f"create TrainJob {namespace}/{name}",
                    partial(self._objects.create_namespaced_custom_object, *_kind(namespace), manifest),
                )
            )
        except _AlreadyThereError:
            job = self.get(namespace, name)
        if job.token != token:
            raise ConfigurationError(
                "There is a TrainJob of this name that this task has not made. Delete it, or rename the task.",
                f"TrainJob: {namespace}/{name}",
            )
        return job

    def get(self, namespace: str, name: str, *, patience: float = PATIENCE_SECONDS) -> TrainJob:
        """Read one TrainJob.

        :param patience: seconds to go on trying while there is no answer
        :raises RunNotFoundError: there is none of that name
        """
        call = partial(self._objects.get_namespaced_custom_object, *_kind(namespace), name)
        return TrainJob.read(self._ask(f"get TrainJob {namespace}/{name}", call, patience))

    def find(self, namespace: str, name: str) -> TrainJob | None:
        """The same; ``None`` if there is none of that name."""
        try:
            return self.get(namespace, name)
        except RunNotFoundError:
            return None

    def delete(self, namespace: str, name: str, *, patience: float = PATIENCE_SECONDS) -> None:
        """Stop a TrainJob by deleting it; nothing if it is gone already.

        Suspending would keep its status, but ``spec.suspend`` is Kueue's wherever that manages TrainJobs, and it would
        start the training again: https://kueue.sigs.k8s.io/docs/tasks/run/trainjobs/. Checkpoints lie on the volume and
        stay. In the background: Kubeflow Trainer does not look at ``deletionTimestamp`` and makes the JobSet of a TrainJob
        that is deleted in the foreground again, each time that the garbage collector has removed it. So the TrainJob is
        gone at once and its pods are not: see :meth:`wait_until_gone`.
        """
        call = partial(
            self._objects.delete_namespaced_custom_object,
            *_kind(namespace),
            name,
            propagation_policy="Background",
        )
        with contextlib.suppress(RunNotFoundError):
            self._ask(f"delete TrainJob {namespace}/{name}", call, patience)

    def wait_until_gone(self, namespace: str, name: str, *, seconds: float) -> bool:
        """Wait until a TrainJob that was deleted is gone and none of its pods is at work; ``False`` if that takes longer.

        The pods outlive it by the grace in which they save a checkpoint. Where they cannot be listed, that grace is waited.
        """
        started = time.monotonic()
        pods_refused = False
        while True:
            waited = time.monotonic() - started
            if self.find(namespace, name) is None:
                try:
                    at_work = waited < GRACE_SECONDS if pods_refused else self._are_at_work(namespace, name)
                except ConfigurationError as error:
                    pods_refused = at_work = True
                    log.warning(
                        "Waiting %.0f s for the pods of TrainJob %s/%s to end, which cannot be seen: %s",
                        GRACE_SECONDS,
                        namespace,
                        name,
                        error,
                    )
                if not at_work:
                    return True
            if waited >= seconds:
                return False
            time.sleep(1.0)

    def _are_at_work(self, namespace: str, name: str) -> bool:
        phases = [
            pod.get("status", {}).get("phase") for pod in self._list_pods(namespace, name, PATIENCE_SECONDS)
        ]
        return any(phase not in _ENDED_PHASES for phase in phases)

    def troubles(self, namespace: str, name: str) -> list[PodTrouble]:
        """What the pods of a TrainJob say about why they do not train.

        :raises LLMOpsError: pods cannot be read; the message says why
        """
        return [trouble for pod in self._list_pods(namespace, name, 0.0) for trouble in _troubles(pod)]

    def last_lines(self, namespace: str, trouble: PodTrouble, *, lines: int) -> list[str]:
        """End of the log of a container that has ended.

        A log that cannot be read is told instead of raised: it must not hide the failure that it would explain.
        """
        call = partial(
            self._pods.read_namespaced_pod_log,
            trouble.pod,
            namespace,
            container=CONTAINER,
            previous=trouble.was_restarted,
            tail_lines=lines,
            _preload_content=False,
        )
        try:
            answer = self._ask(f"read the log of pod {namespace}/{trouble.pod}", call, patience=0.0)
        except LLMOpsError as error:
            return [f"({error})"]
        return last_lines(trouble.pod, answer)

    def _list_pods(self, namespace: str, name: str, patience: float) -> list[dict[str, Any]]:
        call = partial(self._pods.list_namespaced_pod, namespace, label_selector=f"{JOB_LABEL}={name}")
        found = self._ask(f"list the pods of TrainJob {namespace}/{name}", call, patience)
        pods: list[dict[str, Any]] = (
            self._pods.api_client.sanitize_for_serialization(found).get("items") or []
        )
        return pods

    def _ask(self, what: str, call: Callable[..., Any], patience: float = PATIENCE_SECONDS) -> Any:
        """Ask the API server, again while it does not answer. A repeated request is harmless: names are unique."""
        from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]
        from urllib3.exceptions import HTTPError

        what = f"{what} (connection {self.conn_id!r})"
        for attempt in retrying(patience):
            with attempt:
                try:
                    return call(_request_timeout=min(ANSWER_SECONDS, patience or ANSWER_SECONDS))
                except ApiException as error:
                    raise _sorted_error(error, what) from error
                except (HTTPError, OSError) as error:
                    raise ApiUnavailableError(
                        f"The API server did not answer: {error}", f"Wanted: {what}"
                    ) from error
        raise AssertionError("the last attempt returns or raises")


class TrainJobWatch:
    """Looks at a TrainJob and logs what has changed since the last look.

    Pods are asked for only while not all of them train, so a job that runs costs one request a look.

    :param backend: where the TrainJob is
    :param namespace: its namespace
    :param name: its name
    :param logger: where the lines go
    :param deadline: Unix time at which its time is up in any case; never when ``None``
    :param run_timeout: seconds that it may take from its start on; any number when ``None``
    """

    def __init__(
        self,
        backend: TrainJobs,
        namespace: str,
        name: str,
        logger: Any,
        *,
        deadline: float | None = None,
        run_timeout: float | None = None,
    ) -> None:
        self.final_error: str | None = None
        self._deadline = deadline
        self._run_timeout = run_timeout
        self._backend = backend
        self._place = (namespace, name)
        self._log = logger
        self._before: TrainJob | None = None
        self._told: dict[str, str] = {}
        self._unanswered = self._pods_refused = False

    @property
    def is_over_time(self) -> bool:
        """Whether its time is up, as far as it was seen to have started."""
        ends = [self._deadline]
        if self._run_timeout is not None and self._before is not None and self._before.started_at is not None:
            ends.append(self._before.started_at + self._run_timeout)
        return any(end is not None and time.time() >= end for end in ends)

    def look(self) -> TrainJob | None:
        """Look once; ``None`` when the API server did not answer.

        ``final_error`` is set from then on when the training itself has said that it will fail again: a runtime restarts
        its pods several times all the same, and each start would end alike.

        :raises RunNotFoundError: somebody has deleted it
        """
        try:
            job = self._backend.get(*self._place, patience=0.0)
        except ApiUnavailableError as error:
            if not self._unanswered:
                self._log.warning("Waiting on: %s", str(error).partition("\n")[0])
            self._unanswered = True
            return None
        self._unanswered = False
        for line in changes(self._before, job):
            self._log.info("%s", line)
        self._before = job
        if not job.all_ready and job.state not in (RunState.SUCCEEDED, RunState.PAUSED):
            self._look_at_pods()
        return job

    def _look_at_pods(self) -> None:
        if self._pods_refused:
            return
        try:
            troubles = self._backend.troubles(*self._place)
        except ApiUnavailableError:
            return
        except LLMOpsError as error:
            self._pods_refused = True
            self._log.warning("Why pods do not run cannot be told: %s", error)
            return
        for trouble in troubles:
            if self._told.get(trouble.pod) != trouble.message:
                self._log.warning("Pod %s: %s", trouble.pod, trouble.message)
            self._told[trouble.pod] = trouble.message
            if trouble.is_final and self.final_error is None:
                self.final_error = trouble.message


def changes(before: TrainJob | None, job: TrainJob) -> list[str]:
    """What to tell of a TrainJob that is not what it was.

    :param before: at the last look; ``None`` at the first
    :param job: now
    """
    lines = []
    if before is None or (before.state, before.reason) != (job.state, job.reason):
        lines.append(
            f"TrainJob {job.namespace}/{job.name} is {job.state}" + (f" ({job.reason})" if job.reason else "")
        )
    known = before.jobs if before else {}
    lines += [f"Job {name}: {counts}" for name, counts in job.jobs.items() if known.get(name) != counts]
    has_news = before is None or (before.progress, before.metrics) != (job.progress, job.metrics)
    if has_news and (progress := describe_progress(job)):
        lines.append(progress)
    return lines


def describe_progress(job: TrainJob) -> str:
    """How far the training is, in a line; empty if it has not said."""
    parts = []
    if job.progress is not None:
        left = job.remaining_seconds
        parts.append(f"{job.progress} %" + (f", {_duration(left)} left" if left else ""))
    parts += [f"{name} = {value:g}" for name, value in job.metrics.items()]
    return f"Progress: {'; '.join(parts)}" if parts else ""


def explain(backend: TrainJobs, job: TrainJob, *, lines: int) -> tuple[list[str], bool]:
    """Why a TrainJob has failed: lines for the log, and whether the training says that it will fail again.

    :param backend: where it is
    :param job: the TrainJob
    :param lines: how many lines of each pod's log
    """
    try:
        ended = [trouble for trouble in backend.troubles(job.namespace, job.name) if trouble.has_ended]
    except LLMOpsError as error:
        return [f"(The pods cannot be read: {error})"], False
    told = []
    for trouble in sorted(ended, key=lambda trouble: not trouble.is_final)[:MAX_PODS]:
        told.append(f"Pod {trouble.pod}: {trouble.message}")
        told += backend.last_lines(job.namespace, trouble, lines=lines)
    nothing = (
        "(No failed pod is left to read. A Job whose restartPolicy is OnFailure, as JobSet sets it, deletes its pods when it "
        "gives up; a runtime with restartPolicy: Never keeps them.)"
    )
    return told or [nothing], any(trouble.is_final for trouble in ended)


def _started_at(metadata: Mapping[str, Any], conditions: Mapping[str, Any]) -> float:
    """Where the controller begins to count: https://github.com/kubeflow/trainer, ``reconcileDeadline``."""
    resumed = conditions.get("Suspended")
    return datetime.fromisoformat(
        resumed["lastTransitionTime"] if resumed else metadata["creationTimestamp"]
    ).timestamp()


def _kind(namespace: str) -> tuple[str, str, str, str]:
    return GROUP, VERSION, namespace, PLURAL


class _AlreadyThereError(LLMOpsError):
    """409: there is one of that name."""


def _sorted_error(error: Any, what: str) -> LLMOpsError:
    """The error that says who must act."""
    try:
        status = json.loads(error.body)
        message, reason = str(status["message"]), status.get("reason")
    except (ValueError, TypeError, KeyError):
        message, reason = str(error.body or error.reason or ""), None
    said = " ".join(message.split())[:MAX_SHOWN_CHARACTERS]
    code = error.status
    if not code or code >= 500 or code in (408, 429):
        return ApiUnavailableError(f"The API server answered {code}: {said}", f"Wanted: {what}")
    if code == 409 and reason == "AlreadyExists":
        return _AlreadyThereError(said, f"Wanted: {what}")
    if code == 404 and reason == "NotFound" and "namespaces" not in said:
        return RunNotFoundError(f"{said}. It was deleted, or is in another namespace.", f"Wanted: {what}")
    if code == 404 and reason is None:
        advice = f"The cluster does not know {PLURAL}.{GROUP}: install Kubeflow Trainer 2.2 or later."
    elif code == 403 and "admission webhook" in said:
        advice = "Kubeflow Trainer refuses it: correct the task's settings or the runtime."
    elif code == 403:
        advice = f"Let the connection's user create, get and delete {PLURAL}.{GROUP}, list pods and get pods/log in that namespace."
    elif code == 401:
        advice = "Renew the connection's credentials."
    else:
        advice = "Correct the task's settings."
    return ConfigurationError(f"The API server answered {code}: {said}. {advice}", f"Wanted: {what}")


def _troubles(pod: Mapping[str, Any]) -> list[PodTrouble]:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    found = [
        PodTrouble(name, f"{item.get('reason')}: {item.get('message', '')}")
        for item in status.get("conditions", [])
        if item["type"] == "PodScheduled" and item["status"] == "False"
    ]
    for container in status.get("containerStatuses", []):
        now, before = container.get("state", {}), container.get("lastState", {})
        ended = now.get("terminated") or before.get("terminated")
        waiting = now.get("waiting")
        if ended and ended.get("exitCode"):
            message, is_final = _last_words(ended)
            found.append(
                PodTrouble(name, message, is_final, has_ended=True, was_restarted="terminated" not in now)
            )
        elif waiting and waiting.get("reason") not in _USUAL_WAITS:
            found.append(PodTrouble(name, f"{waiting.get('reason')}: {waiting.get('message', '')}"))
    return found


def _last_words(ended: Mapping[str, Any]) -> tuple[str, bool]:
    """What a container ended with. The training writes its error, as JSON, to its termination log."""
    text = str(ended.get("message") or "").strip()
    is_final = False
    try:
        said = json.loads(text)
        text, is_final = f"{said['type']}: {said['message']}", said["retryable"] is False
    except (ValueError, TypeError, KeyError):
        pass
    how = f"ended with exit code {ended['exitCode']}"
    if ended.get("reason") not in (None, "Error"):
        how += f", {ended['reason']}"
    return (f"{how}: {' '.join(text.split())}" if text else how), is_final


def _counts(job: Mapping[str, Any]) -> str:
    names = ("active", "ready", "succeeded", "failed", "suspended")
    return ", ".join(f"{job[name]} {name}" for name in names if job.get(name)) or "nothing started"


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


def _duration(seconds: int) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds} s"
