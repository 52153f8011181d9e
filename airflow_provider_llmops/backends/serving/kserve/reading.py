"""What becomes of a revision of an ``InferenceService`` in standard mode, read from what carries it out.

``Ready=True`` of the object is no evidence: it stays true while a new version crashes and the old one serves. The evidence is the
Deployment whose template carries the revision's label, and the pods that carry it:
https://github.com/kserve/kserve/tree/master/pkg/controller/v1beta1/inferenceservice/reconcilers/raw.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_provider_llmops.backends.kubernetes.messages import reason_of, sentence
from airflow_provider_llmops.backends.kubernetes.pods import (
    PodProblem,
    is_about_scheduling,
    is_live,
    problems_in_events,
    problems_of_pod,
)
from airflow_provider_llmops.backends.serving.base import Revision
from airflow_provider_llmops.backends.serving.kserve.gateway import Routes
from airflow_provider_llmops.states import ServiceState

FIELD_MANAGER = "llmops-airflow"
REVISION_LABEL = "llmops/revision"
STOP_ANNOTATION = "serving.kserve.io/stop"
# How long a pod may be in problem before its revision is given up: a registry or a scheduler may need a second try.
PATIENCE_SECONDS = 25.0
_MANY_STARTS = 2
_TOO_LATE = "ProgressDeadlineExceeded"
# What KServe says where it carries nothing out: an event alone tells of a wrong address or mode.
_REFUSALS = ("InternalError", "ServerlessModeRejected")
_CONFLICT = "has been modified"  # two writers at once; the controller tries again
CONTAINER = "kserve-container"
DEFAULT_PORT = 8080
_STORAGE_INITIALIZER = "storage-initializer"
_STORAGE_ERROR = re.compile(r"ERROR \[[^\]]*\] (.*?)(?= \d{4}-\d\d-\d\d[T ]| \(exit code|$)")


@dataclass(frozen=True)
class ServiceObjects:
    """An ``InferenceService`` and what carries it out, as the API server has them.

    :param service: the ``InferenceService``
    :param deployment: its predictor's Deployment; ``None`` before it is made, or where it may not be read
    :param replica_sets: of the Deployment
    :param pods: of the predictor
    :param warnings: events about the service
    :param refused: what the connection's user may not read, in words
    :param scaling_up: names of pods for which the cluster is adding a node
    :param canary: the same of the predictor that runs beside it; its service has that predictor as its own
    :param routes: how the requests are shared out, where there is a canary and they may be read
    """

    service: Mapping[str, Any]
    deployment: Mapping[str, Any] | None = None
    replica_sets: Sequence[Mapping[str, Any]] = ()
    pods: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[Mapping[str, Any]] = ()
    refused: Sequence[str] = ()
    scaling_up: frozenset[str] = frozenset()
    canary: ServiceObjects | None = None
    routes: Routes | None = None

    @property
    def predictor(self) -> Mapping[str, Any]:
        """The predictor's specification."""
        found: Mapping[str, Any] = self.service["spec"]["predictor"]
        return found

    @property
    def deployed_as(self) -> str:
        """Name of the predictor's Deployment and Service."""
        own = self.predictor.get("name")
        name = self.service["metadata"]["name"]
        return f"{name}-{own}-predictor" if own else f"{name}-predictor"

    @property
    def all_pods(self) -> list[Mapping[str, Any]]:
        """The pods of the predictor and of the canary."""
        return [*self.pods, *(self.canary.pods if self.canary is not None else ())]

    @property
    def canaries(self) -> Sequence[Mapping[str, Any]]:
        """The entries of ``spec.canary``, whoever has made them."""
        return canaries_of(self.service)

    @property
    def current(self) -> str | None:
        """The revision that the service was asked to run last; ``None`` if it was not asked by us."""
        return revision_of_predictor(self.predictor)

    def may_not_read(self, what: str) -> bool:
        """Whether the connection's user may not read objects of a kind.

        :param what: the kind, in the plural
        """
        return any(what in refused for refused in self.refused)

    @property
    def is_carried_out(self) -> bool:
        """Whether the Deployment is of the revision that is wanted, and its status of that Deployment."""
        if self.deployment is None:
            return False
        labels = self.deployment["spec"]["template"]["metadata"].get("labels") or {}
        seen = (self.deployment.get("status") or {}).get("observedGeneration", 0)
        is_current: bool = labels.get(REVISION_LABEL) == self.current
        return is_current and bool(seen >= self.deployment["metadata"]["generation"])

    @property
    def is_managed(self) -> bool:
        """Whether we have applied it."""
        fields = self.service["metadata"].get("managedFields") or []
        return any(item.get("manager") == FIELD_MANAGER for item in fields)

    @property
    def is_stopped(self) -> bool:
        """Whether somebody has stopped the service."""
        return (self.service["metadata"].get("annotations") or {}).get(STOP_ANNOTATION) == "true"

    @property
    def status(self) -> Mapping[str, Any]:
        """The service's status."""
        status: Mapping[str, Any] = self.service.get("status") or {}
        return status


def canaries_of(service: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The canaries of a service, whoever has made them.

    :param service: the ``InferenceService``
    """
    found: Sequence[Mapping[str, Any]] = service["spec"].get("canary") or ()
    return found


def revision_of_predictor(predictor: Mapping[str, Any]) -> str | None:
    """The revision that a predictor is of; ``None`` if it has none of our labels.

    :param predictor: its specification
    """
    labels: Mapping[str, str] = predictor.get("labels") or {}
    return labels.get(REVISION_LABEL)


def as_its_own(service: Mapping[str, Any], canary: Mapping[str, Any]) -> dict[str, Any]:
    """A service as if its canary were its predictor. Its status is about the stable one, but for the address.

    :param service: the ``InferenceService``
    :param canary: the entry in ``spec.canary``
    """
    status = {
        name: value for name, value in (service.get("status") or {}).items() if name in ("url", "address")
    }
    return {**service, "spec": {"predictor": canary["predictor"]}, "status": status}


def revisions_of(objects: ServiceObjects, *, now: float) -> dict[str, Revision]:
    """The revisions of a service that is carried out, by name: the one that is wanted, and those whose pods still serve.

    :param objects: the service
    :param now: Unix time
    """
    ready = {name: count for name, count in _ready_pods(objects) if count}
    if not ready and not objects.replica_sets and _is_rolled_out_as_the_service_says(objects, now):
        ready = {objects.current or "": 1}  # nothing but the service may be read
    total = sum(ready.values())
    shares = {name: round(100 * count / total) for name, count in ready.items()}
    found = {
        name: Revision(name, ServiceState.READY, traffic=share, url=_url(objects))
        for name, share in shares.items()
    }
    if objects.current is not None:
        state, reason = _state(objects, now)
        found[objects.current] = Revision(
            objects.current, state, traffic=shares.get(objects.current, 0), url=_url(objects), error=reason
        )
    return found


def _state(objects: ServiceObjects, now: float) -> tuple[ServiceState, str | None]:
    """State of the revision that is wanted, and what it waits for or has failed with."""
    if objects.is_stopped:
        return ServiceState.STOPPED, "The service is stopped."
    if refusal := _refusal(objects, now):
        return ServiceState.FAILED, refusal
    if objects.deployment is None:
        return _state_without_deployment(objects, now)
    if not objects.is_carried_out:
        return ServiceState.STARTING, _waits_for_kserve(objects)
    if _is_rolled_out(objects.deployment):
        return ServiceState.READY, None
    problem, is_over = next(_problems(objects, now), (None, False))
    if _conditions(objects.deployment).get("Progressing", {}).get("reason") == _TOO_LATE:
        return ServiceState.FAILED, problem or "No pod of it became ready within Kubernetes' limit of 600 s."
    return (ServiceState.FAILED if is_over else ServiceState.STARTING), problem


def _refusal(objects: ServiceObjects, now: float) -> str | None:
    """Why KServe does not carry out what it was asked for last: not said before what it said of the former specification is gone."""
    if now - asked_at(objects.service) < PATIENCE_SECONDS:
        return None
    condition = _conditions(objects.service).get("PredictorReady", {})
    if condition.get("status") == "False" and condition.get("reason") == "ReconcileFailed":
        message = condition.get("message", "")
        is_over = _age(condition.get("lastTransitionTime"), now) >= PATIENCE_SECONDS
        return sentence(reason_of(message)) if is_over and _CONFLICT not in message else None
    if objects.is_carried_out or objects.may_not_read("deployments"):
        return None
    for kind in _REFUSALS:
        for problem in problems_in_events(objects.warnings):
            if problem.kind == kind and _CONFLICT not in problem.message:
                return sentence(problem.message)
    failure = (objects.status.get("modelStatus") or {}).get("lastFailureInfo") or {}
    if failure.get("reason") in ("NoSupportingRuntime", "RuntimeNotRecognized"):
        return sentence(failure.get("message") or failure["reason"])
    return None


def _state_without_deployment(objects: ServiceObjects, now: float) -> tuple[ServiceState, str | None]:
    """What can be said where there is no Deployment, or where it may not be read."""
    if not objects.may_not_read("deployments"):
        return ServiceState.STARTING, _waits_for_kserve(objects)
    condition = _conditions(objects.service).get("PredictorReady", {})
    if condition.get("status") == "False" and condition.get("reason") in ("FailedCreate", _TOO_LATE):
        return ServiceState.FAILED, sentence(reason_of(condition.get("message", "")))
    if _is_rolled_out_as_the_service_says(objects, now):
        return ServiceState.READY, None
    return ServiceState.STARTING, f"More cannot be seen: {'; '.join(objects.refused)}."


def asked_at(service: Mapping[str, Any]) -> float:
    """Unix time at which somebody last changed what the service should be; 0 if that is not known.

    :param service: the ``InferenceService``
    """
    fields = [
        item
        for item in service["metadata"].get("managedFields") or []
        if item.get("time") and item.get("subresource") != "status"
    ]
    ours = [
        item for item in fields if item.get("manager") == FIELD_MANAGER
    ]  # KServe's controller changes it, too
    return max((datetime.fromisoformat(item["time"]).timestamp() for item in ours or fields), default=0.0)


def _is_rolled_out_as_the_service_says(objects: ServiceObjects, now: float) -> bool:
    """Whether KServe's condition says so, and had the time to be about what was asked for last."""
    condition = _conditions(objects.service).get("PredictorReady", {})
    if now - asked_at(objects.service) < PATIENCE_SECONDS:
        return False
    return condition.get("status") == "True" and condition.get("reason") == "NewReplicaSetAvailable"


def _waits_for_kserve(objects: ServiceObjects) -> str | None:
    return None if objects.status else "KServe's controller has not looked at it yet."


def _is_rolled_out(deployment: Mapping[str, Any]) -> bool:
    """Whether all pods are of its template, and have been ready once; an autoscaler may have asked for more since."""
    status = deployment.get("status") or {}
    return (
        _conditions(deployment).get("Progressing", {}).get("reason") == "NewReplicaSetAvailable"
        and status.get("availableReplicas", 0) > 0
        and status.get("replicas", 0) == status.get("updatedReplicas", 0)
    )


def _problems(objects: ServiceObjects, now: float) -> Iterator[tuple[str, bool]]:
    """What keeps the revision's pods from being ready, and whether it was waited for long enough."""
    failed = _conditions(objects.deployment or {}).get("ReplicaFailure", {})
    if failed.get("status") == "True":
        over = _age(failed.get("lastTransitionTime"), now) >= PATIENCE_SECONDS
        yield sentence(reason_of(failed.get("message", ""))), over
    for pod in objects.pods:
        if revision_in(pod) != objects.current or is_ready(pod) or not is_live(pod):
            continue
        for problem in problems_of_pod(pod):
            if not problem.was_told_to_end:
                yield _said(problem), _is_over(objects, pod, problem, now)
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            if container.get("restartCount", 0) >= _MANY_STARTS:
                yield (
                    f"Its container ends by itself, without an error, and was started {container['restartCount']} times.",
                    True,
                )


def _said(problem: PodProblem) -> str:
    """The problem's reason; of what KServe's storage initialiser logs, its last error."""
    errors = _STORAGE_ERROR.findall(problem.message) if problem.container == _STORAGE_INITIALIZER else ()
    return sentence(f"The model cannot be fetched: {errors[-1]}" if errors else problem.message)


def _is_over(objects: ServiceObjects, pod: Mapping[str, Any], problem: PodProblem, now: float) -> bool:
    if is_about_scheduling(problem):
        if problem.pod in objects.scaling_up:
            return False
        since = _conditions(pod).get("PodScheduled", {}).get("lastTransitionTime")
        return _age(since, now) >= PATIENCE_SECONDS
    status = pod.get("status") or {}
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    container: Mapping[str, Any] = next(
        (each for each in containers if each["name"] == problem.container), {}
    )
    if container.get("restartCount", 0) >= _MANY_STARTS or problem.is_final:
        return True
    if "running" in (container.get("state") or {}):  # it tries again
        return False
    since_then = (
        now - problem.at if problem.at is not None else _age(pod["metadata"].get("creationTimestamp"), now)
    )
    return since_then >= PATIENCE_SECONDS


def _ready_pods(objects: ServiceObjects) -> Iterator[tuple[str, int]]:
    for replica_set in objects.replica_sets:
        name = revision_in(replica_set) or replica_set["metadata"]["name"]
        yield name, (replica_set.get("status") or {}).get("readyReplicas", 0)


def revision_in(document: Mapping[str, Any]) -> str | None:
    """The revision that a pod or a ReplicaSet is of; ``None`` if it has none of our labels.

    :param document: as the API server has it
    """
    labels: Mapping[str, str] = document["metadata"].get("labels") or {}
    return labels.get(REVISION_LABEL)


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether requests are sent to a pod.

    :param pod: as the API server has it
    """
    return _conditions(pod).get("Ready", {}).get("status") == "True"


def port_of(pod: Mapping[str, Any]) -> int:
    """The port at which a pod's model server listens.

    :param pod: as the API server has it
    """
    container = next(
        (each for each in pod["spec"]["containers"] if each["name"] == CONTAINER),
        pod["spec"]["containers"][0],
    )
    ports = container.get("ports") or []
    return int(ports[0]["containerPort"]) if ports else DEFAULT_PORT


def container_to_read(status: Mapping[str, Any]) -> tuple[str, bool]:
    """The container whose log says most, and whether that is of its former start.

    :param status: of a pod
    """
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(key) or []:
            now, before = container.get("state") or {}, container.get("lastState") or {}
            ended = now.get("terminated") or before.get("terminated") or {}
            if ended.get("exitCode") and not container.get("ready"):
                return container["name"], "terminated" not in now
    return CONTAINER, False


def _conditions(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {item["type"]: item for item in (document.get("status") or {}).get("conditions") or []}


def _url(objects: ServiceObjects) -> str | None:
    address = objects.status.get("address") or {}
    url: str | None = objects.status.get("url") or address.get("url")
    return url


def _age(time: str | None, now: float) -> float:
    return now - datetime.fromisoformat(time).timestamp() if time else 0.0
