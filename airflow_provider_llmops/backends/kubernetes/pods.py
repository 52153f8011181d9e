"""Why a pod does not run or has failed: its status, and the events about it and about what should make it.

Pods and events are read as the documents that the API server sends, so that a recording of one says what a real one would.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_provider_llmops.backends.kubernetes.messages import reason_of, with_note
from airflow_provider_llmops.json_text import parse_json

MAX_PODS = 3
# Longer than for one line of a log: what the pod security of a namespace wants takes some 500 characters.
MAX_MESSAGE_CHARACTERS = 700
# That a container is being made, or waits for the one before it or for its next start, is nothing to tell.
_USUAL_WAITS = ("ContainerCreating", "PodInitializing", "CrashLoopBackOff")
# The two that a kubelet says in turn, the first with the reason.
_IMAGE_WAITS = ("ErrImagePull", "ImagePullBackOff")
# What a container ends with that was told to end: SIGTERM, and SIGKILL after its grace.
_TOLD_TO_END = (143, 137)
# What the controllers say when they cannot make what they should: kube-controller-manager of pods, JobSet, Kubeflow Trainer.
_CREATION_EVENTS = (
    "FailedCreate",
    "JobCreationFailed",
    "HeadlessServiceCreationFailed",
    "PVCCreationFailed",
    "TrainJobResourcesCreationFailed",
)
# Of a pod that has found no place on a node: as its status has it, and as the scheduler's event has it.
_SCHEDULING = ("Unschedulable", "SchedulingGated", "SchedulerError", "FailedScheduling")
# What the same controllers write before the reason. The event names the object, and so does the reason.
_NOISE_BEFORE = re.compile(
    r'Error creating: |TrainJob resources reconciliation failed: |job "[^"]+" creation failed with error: '
)


@dataclass(frozen=True)
class PodProblem:
    """Why a pod does not run, has failed, or is not made.

    :param pod: name of the pod, or of what should have made it
    :param message: why, in one line that begins with the reason
    :param kind: what it is a case of, in Kubernetes' words: ``OOMKilled``, ``ImagePullBackOff``, ``Unschedulable``,
        ``FailedCreate``, ...; what only alternates is one kind
    :param is_final: whether the program itself said that the same input will fail again
    :param has_ended: whether a container or the whole pod has ended, so that there may be a log, and nothing is waited for
    :param was_restarted: whether Kubernetes started it again since, so that the log is the previous one
    :param was_told_to_end: whether it ended because its pod was deleted or evicted, so that it is a consequence and no reason
    :param is_unexplained: whether a container ended by itself and left no last words, so that only its log may say why
    :param container: the container that it is about; empty if it is none
    :param at: Unix time at which the container ended, or of the event; ``None`` if it is not known
    """

    pod: str
    message: str
    kind: str = ""
    is_final: bool = False
    has_ended: bool = False
    was_restarted: bool = False
    was_told_to_end: bool = False
    is_unexplained: bool = False
    container: str = ""
    at: float | None = None


def problems_of_pod(pod: Mapping[str, Any]) -> list[PodProblem]:
    """What the status of a pod says about why it does not run, or has failed.

    :param pod: the pod as the API server has it
    """
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    has_failed = status.get("phase") == "Failed"
    is_told_to_end = bool(pod["metadata"].get("deletionTimestamp")) or bool(
        has_failed and status.get("reason")
    )
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    of_containers = [_problem_of_container(name, container, is_told_to_end) for container in containers]
    found = []
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            kind = condition.get("reason") or "Unschedulable"
            found.append(PodProblem(name, _said(kind, condition.get("message")), kind))
    if status.get("reason"):  # Evicted, DeadlineExceeded, NodeLost, Preempting: no container says so
        ends = [problem.at for problem in of_containers if problem and problem.at is not None]
        said = _said(status["reason"], status.get("message"))
        at = min(ends, default=_failed_at(status)) if has_failed else None
        found.append(PodProblem(name, said, status["reason"], has_ended=has_failed, at=at))
    return [*found, *filter(None, of_containers)]


def is_live(pod: Mapping[str, Any]) -> bool:
    """Whether the pod runs, will run or has succeeded; one that failed or is being deleted is left behind.

    :param pod: the pod as the API server has it
    """
    return not pod["metadata"].get("deletionTimestamp") and (pod.get("status") or {}).get("phase") != "Failed"


def is_scheduled(pod: Mapping[str, Any]) -> bool:
    """Whether the pod has its place on a node.

    :param pod: the pod as the API server has it
    """
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(item["type"] == "PodScheduled" and item["status"] == "True" for item in conditions)


def has_run(pod: Mapping[str, Any]) -> bool:
    """Whether a container of the pod runs, or has run; one that only prepares it does not count.

    :param pod: the pod as the API server has it
    """
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return any(
        {"running", "terminated"} & {*(item.get("state") or {}), *(item.get("lastState") or {})}
        for item in containers
    )


def is_running(pod: Mapping[str, Any]) -> bool:
    """Whether the pod's containers run now, or have all done what they should.

    :param pod: the pod as the API server has it
    """
    status = pod.get("status") or {}
    containers = status.get("containerStatuses") or []
    runs = bool(containers) and all("running" in (item.get("state") or {}) for item in containers)
    return runs or status.get("phase") == "Succeeded"


def problems_in_events(events: Iterable[Mapping[str, Any]], *, of: str = "") -> list[PodProblem]:
    """What events say about why a pod is not made, or cannot start; each thing that was said once, the last first.

    :param events: warnings about one or more objects, as the API server has them
    :param of: kind of the objects, where the events do not say it
    """
    latest: dict[tuple[str, str, str], PodProblem] = {}
    for event in events:
        if event.get("type") == "Normal":
            continue
        about = event.get("involvedObject") or event.get("regarding") or {}
        kind = str(event.get("reason") or "")
        text = str(event.get("message") or event.get("note") or "")
        reason = reason_of(_NOISE_BEFORE.sub("", text), limit=MAX_MESSAGE_CHARACTERS)
        what = " ".join(str(part) for part in (about.get("kind") or of, about.get("name")) if part)
        message = with_note(reason, f"{what}: {kind}" if what else kind)
        problem = PodProblem(str(about.get("name", "")), message, kind, at=_event_time(event))
        key = (problem.pod, kind, reason)
        if key not in latest or (latest[key].at or 0.0) <= (problem.at or 0.0):
            latest[key] = problem
    return sorted(latest.values(), key=lambda problem: -(problem.at or 0.0))


def is_creation_failure(problem: PodProblem) -> bool:
    """Whether it is about something that a controller could not make: a pod, a Job, what a TrainJob consists of.

    :param problem: what an event says
    """
    return problem.kind in _CREATION_EVENTS


def is_about_scheduling(problem: PodProblem) -> bool:
    """Whether it is about a pod that finds no node: once the pod has one, the scheduler's event stays, and says nothing any more.

    :param problem: what a pod's status or an event says
    """
    return problem.kind in _SCHEDULING


def _failed_at(status: Mapping[str, Any]) -> float | None:
    """When a pod without containers failed: what its conditions say last."""
    times = (_time(condition.get("lastTransitionTime")) for condition in status.get("conditions") or [])
    return max((time for time in times if time is not None), default=None)


def _problem_of_container(pod: str, container: Mapping[str, Any], is_told_to_end: bool) -> PodProblem | None:
    now, before = container.get("state") or {}, container.get("lastState") or {}
    name = str(container.get("name", ""))
    ended = now.get("terminated") or before.get("terminated")
    waiting = now.get("waiting")
    if ended and ended.get("exitCode"):
        message, is_final = _last_words(ended)
        return PodProblem(
            pod,
            message,
            str(ended.get("reason") or "Error"),
            is_final,
            has_ended=True,
            was_restarted="terminated" not in now,
            was_told_to_end=is_told_to_end
            and ended["exitCode"] in _TOLD_TO_END
            and ended.get("reason") != "OOMKilled",
            is_unexplained=not str(ended.get("message") or "").strip()
            and ended.get("reason") in (None, "Error")
            and ended["exitCode"] not in _TOLD_TO_END,
            container=name,
            at=_time(ended.get("finishedAt")),
        )
    if waiting and waiting.get("reason") not in _USUAL_WAITS:
        kind = str(waiting.get("reason") or "Waiting")
        message = _said(kind, waiting.get("message"))
        return PodProblem(pod, message, "ImagePullBackOff" if kind in _IMAGE_WAITS else kind, container=name)
    return None


def _last_words(ended: Mapping[str, Any]) -> tuple[str, bool]:
    """What a container ended with. Our components write their error, as JSON, to its termination log."""
    text = str(ended.get("message") or "").strip()
    is_final = False
    try:
        said = parse_json(text)
        text, is_final = f"{said['type']}: {said['message']}", said["retryable"] is False
    except (ValueError, TypeError, KeyError):
        pass
    how = f"exit code {ended['exitCode']}"
    if ended.get("reason") not in (None, "Error"):
        how += f", {ended['reason']}"
    return (with_note(" ".join(text.split()), how) if text else f"ended with {how}"), is_final


def _said(kind: str, message: Any) -> str:
    text = reason_of(str(message or ""), limit=MAX_MESSAGE_CHARACTERS)
    return f"{kind}: {text}" if text else kind


def _event_time(event: Mapping[str, Any]) -> float | None:
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return next((_time(time) for time in times if time), None)


def _time(text: Any) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None
