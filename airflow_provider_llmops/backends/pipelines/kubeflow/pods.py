"""What the pods of a pipeline run say about why a step has failed, or why it waits."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from airflow_provider_llmops.backends.kubernetes.cluster import Cluster, connect
from airflow_provider_llmops.backends.kubernetes.messages import message_of, reason_of
from airflow_provider_llmops.backends.kubernetes.pods import (
    PodProblem,
    is_about_scheduling,
    is_scheduled,
    problems_in_events,
    problems_of_pod,
)
from airflow_provider_llmops.backends.kubernetes.requests import (
    document_of,
    list_pods,
    list_warnings,
    log_end,
)
from airflow_provider_llmops.backends.last_words import clean, read_last_words
from airflow_provider_llmops.backends.pipelines.base import Wait
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, LLMOpsError

log = logging.getLogger(__name__)

# Kubeflow Pipelines puts it on every pod of a run, and on its workflow: backend/src/common/util/consts.go.
RUN_LABEL = "pipeline/runid"
# Argo puts the path of the node there that a pod belongs to.
NODE_ANNOTATION = "workflows.argoproj.io/node-name"
STEP_CONTAINER = "main"
DEFAULT_NAMESPACE = "kubeflow"
ANSWER_SECONDS = 10.0
QUESTION_SECONDS = 30.0
LOG_LINES = 200
LOG_BYTES = 64 * 1024
MAX_LOG_BYTES_READ = 4 * 1024 * 1024
MAX_PODS_READ = 500
MAX_PODS_WITH_EVENTS = 5  # each is a request, and a loop of hundreds waits for the same thing
_SIGNALS_FROM = 128  # an exit code above is the number of the signal that ended the process, plus this
_ATTEMPT = re.compile(r"\((\d+)(?::\d+)?\)$")
# Of an image from a registry. Without a repository it is the digest of the image's configuration, which nobody can pull by.
_REPOSITORY_DIGEST = re.compile(r"@(sha256:[0-9a-f]{64})$")
# Nodes that Kubeflow Pipelines puts around a step, and around each item of a loop.
_ARGOS_OWN = ("executor", "iteration", "iteration-item", "iteration-iterations")


@dataclass(frozen=True)
class PodFailure:
    """Why a pod has failed.

    :param step: the step that it belongs to, as the specification names it; empty if nothing says so
    :param pod: its name
    :param reason: why, the most telling line first
    :param is_final: whether the step said that the same input will fail again
    :param lines: the last lines of its log
    """

    step: str
    pod: str
    reason: str
    is_final: bool = False
    lines: tuple[str, ...] = ()


class RunPods:
    """The pods of the runs of a namespace.

    :param cluster: where they are
    :param namespace: of the runs; the connection's, or else Kubeflow's own, when ``None``
    :param seconds: how long the answers to everything that is asked of this object may take, from now on
    """

    def __init__(self, cluster: Cluster, namespace: str | None, *, seconds: float = QUESTION_SECONDS) -> None:
        from kubernetes.client import CoreV1Api, CustomObjectsApi  # type: ignore[import-untyped]

        self.namespace = namespace or cluster.namespace or DEFAULT_NAMESPACE
        self._conn_id = cluster.conn_id
        self._core = CoreV1Api(cluster.client)
        self._objects = CustomObjectsApi(cluster.client)
        self._seconds = seconds
        self._ends_at = time.monotonic() + seconds

    @classmethod
    def of(cls, settings: KfpSettings, *, seconds: float = QUESTION_SECONDS) -> RunPods:
        """The pods of a connection's runs, through the Kubernetes connection that it must name.

        :param settings: the connection's settings
        :param seconds: how long all answers may take
        :raises ConfigurationError: the Kubernetes connection cannot be used
        """
        return cls(connect(str(settings.kubernetes_conn_id)), settings.namespace, seconds=seconds)

    def why_failed(self, run_id: str, steps: Sequence[str]) -> PodFailure | None:
        """Why a run has failed, from the pod that failed last of the first failed step that has any.

        A pod of another step is no reason: it may have been retried, or its failure ignored.

        :param run_id: id of the run
        :param steps: the steps that failed, as far as they are known
        :raises LLMOpsError: the pods cannot be read
        """
        by_step: dict[str, list[dict[str, Any]]] = {}
        for pod in sorted(self._pods(run_id, "status.phase!=Succeeded"), key=_ended_at):
            if problems_of_pod(pod) or _phase(pod) == "Failed":
                by_step.setdefault(step_of(pod), []).append(pod)
        wanted = _first(steps, by_step)
        if wanted is not None:
            return self._failure_of(by_step[wanted][-1])
        if failure := self._workflows_failure(run_id, steps):
            return failure
        unnamed = by_step.get("")  # of which nothing says that it is another step's
        return self._failure_of(unnamed[-1]) if unnamed else None

    def why_waiting(self, run_id: str) -> list[Wait]:
        """Why pods of a run do not begin, one reason for each step.

        :param run_id: id of the run
        :raises LLMOpsError: the pods cannot be read
        """
        waits: dict[str, Wait] = {}
        asked = 0
        for pod in self._pods(run_id, "status.phase=Pending"):
            step = step_of(pod)
            if step in waits:
                continue
            problem = next(iter(problems_of_pod(pod)), None)
            if problem is None and asked < MAX_PODS_WITH_EVENTS:
                asked += 1
                problem = self._warning_of(pod)
            kind, reason = (problem.kind, problem.message) if problem else _being_made(pod)
            made_at = pod["metadata"].get("creationTimestamp")
            since = datetime.fromisoformat(made_at).timestamp() if made_at else None
            waits[step] = Wait(step, kind, reason, since)
        return list(waits.values()) or [
            Wait(step, message, message)
            for step, phase, message in self._workflow_nodes(run_id)
            if phase == "Pending"
        ]

    def image_digest(self, run_id: str, task: str) -> str | None:
        """Digest of the image that a step ran in, by the pod that succeeded; ``None`` where its pod is gone, or several say different ones.

        :param run_id: id of the run
        :param task: the step's name in the specification
        :raises LLMOpsError: the pods cannot be read
        """
        found = {
            match[1] if (match := _REPOSITORY_DIGEST.search(str(status.get("imageID")))) else None
            for pod in self._pods(run_id, "status.phase=Succeeded")
            if _is_of(pod, task)
            for status in pod.get("status", {}).get("containerStatuses") or ()
            if status.get("name") == STEP_CONTAINER
        }
        return found.pop() if len(found) == 1 else None

    def read_config_map(self, name: str) -> dict[str, str] | None:
        """What a config map of the namespace holds; ``None`` if there is none.

        :raises LLMOpsError: it cannot be read
        """
        from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]

        def read(**options: Any) -> dict[str, str] | None:
            try:
                answer = self._core.read_namespaced_config_map(
                    name, self.namespace, _preload_content=False, **options
                )
                return dict(document_of(answer).get("data") or {})
            except ApiException as error:
                if error.status == 404:
                    return None
                raise

        found: dict[str, str] | None = self._ask(f"get config map {name}", read)
        return found

    def _pods(self, run_id: str, field_selector: str) -> list[dict[str, Any]]:
        call = partial(
            list_pods,
            self._core,
            self.namespace,
            f"{RUN_LABEL}={run_id}",
            field_selector=field_selector,
            limit=MAX_PODS_READ,
        )
        pods: list[dict[str, Any]] = self._ask(f"list pods of run {run_id}", call)
        return pods

    def _failure_of(self, pod: Mapping[str, Any]) -> PodFailure:
        step, name = step_of(pod), pod["metadata"]["name"]
        problem = min(problems_of_pod(pod), key=_precedence, default=None)
        if problem is not None and problem.kind == "OOMKilled":
            return PodFailure(step, name, _out_of_memory(pod, problem.container))
        if problem is not None and not (problem.has_ended and problem.container == STEP_CONTAINER):
            what = f"Container {problem.container!r} " if problem.has_ended and problem.container else ""
            return PodFailure(step, name, f"{what}{problem.message}")
        words = read_last_words(self._log(name))
        reason = words.reason
        if reason is None or (_was_killed(pod) and not words.on_purpose):
            how = f"Its container {problem.message}" if problem else "Its pod failed"
            reason = "; it last said: ".join(filter(None, (how, words.reason or words.last)))
        return PodFailure(step, name, reason, words.is_final, () if words.on_purpose else words.lines)

    def _log(self, pod: str) -> str:
        """The end of the log of a step's container; empty if it cannot be read, which must not hide what is known."""

        call = partial(
            log_end,
            self._core,
            self.namespace,
            pod,
            container=STEP_CONTAINER,
            lines=LOG_LINES,
            kept_bytes=LOG_BYTES,
            read_bytes=MAX_LOG_BYTES_READ,
        )
        try:
            lines: list[str] = self._ask(f"read the log of pod {pod}", call)
        except LLMOpsError as error:
            log.warning("%s", error)
            return ""
        return "\n".join(lines)

    def _warning_of(self, pod: Mapping[str, Any]) -> PodProblem | None:
        """The last warning about a pod, of a volume that cannot be mounted for example, where events may be read."""
        call = partial(
            list_warnings, self._core, self.namespace, pod["metadata"]["name"], limit=MAX_PODS_READ
        )
        try:
            events = self._ask("list events", call)
        except LLMOpsError:
            return None
        found = problems_in_events(events, of="Pod")
        return next((each for each in found if not (is_scheduled(pod) and is_about_scheduling(each))), None)

    def _workflow_nodes(self, run_id: str) -> Iterator[tuple[str, str, str]]:
        """Step, phase and message of each node of the run's workflow that has a message, where workflows may be read."""

        def read(**options: Any) -> Any:
            answer = self._objects.list_namespaced_custom_object(
                "argoproj.io",
                "v1alpha1",
                self.namespace,
                "workflows",
                label_selector=f"{RUN_LABEL}={run_id}",
                _preload_content=False,
                **options,
            )
            return document_of(answer).get("items") or []

        try:
            workflows = self._ask("list workflows", read)
        except LLMOpsError:
            return
        for workflow in workflows:
            nodes = workflow.get("status", {}).get("nodes") or {}
            for node in sorted(nodes.values(), key=lambda node: str(node.get("startedAt"))):
                if node.get("type") == "Pod" and node.get("message"):
                    text = " ".join(clean(str(node["message"])).split())
                    yield step_of_node(str(node.get("name"))), str(node.get("phase")), text

    def _workflows_failure(self, run_id: str, steps: Sequence[str]) -> PodFailure | None:
        """The pods are gone: what Argo noted of them."""
        found = {
            step: message
            for step, phase, message in self._workflow_nodes(run_id)
            if phase in ("Failed", "Error")
        }
        wanted = _first(steps, found)
        return None if wanted is None else PodFailure(wanted, "", found[wanted])

    def _ask(self, what: str, call: Callable[..., Any]) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        where = f"in namespace {self.namespace} (connection {self._conn_id!r})"
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise ApiUnavailableError(
                f"The cluster did not answer within {self._seconds:g} s. Meant to {what} {where}."
            )
        try:
            return call(_request_timeout=min(ANSWER_SECONDS, left))
        except ApiException as error:
            kind = ConfigurationError if error.status in (401, 403, 404) else ApiUnavailableError
            reason = reason_of(message_of(error)[0])
            raise kind(f"The cluster answered {error.status}: {reason}. Asked to {what} {where}.") from error
        except (HTTPError, OSError) as error:
            raise ApiUnavailableError(
                f"The cluster did not answer: {error}. Asked to {what} {where}."
            ) from error
        except ValueError as error:
            raise ApiUnavailableError(
                f"The cluster's answer is no document of Kubernetes ({error}): a proxy's own page? Asked to {what} {where}."
            ) from error


def _first(steps: Sequence[str], found: Mapping[str, Any]) -> str | None:
    """The first of the steps of which something was found; the first that was found if no step is known."""
    return next((step for step in steps or found if step in found), None)


def step_of(pod: Mapping[str, Any]) -> str:
    """The step that a pod belongs to; empty if nothing says so.

    :param pod: the pod as the API server has it
    """
    annotations = pod["metadata"].get("annotations") or {}
    return step_of_node(annotations.get(NODE_ANNOTATION, ""))


def _is_of(pod: Mapping[str, Any], task: str) -> bool:
    """Whether a pod has run a step itself, not its driver; what is around the step in the run is left out."""
    path = str((pod["metadata"].get("annotations") or {}).get(NODE_ANNOTATION, ""))
    return _ATTEMPT.sub("", path).endswith(".executor") and step_of(pod).rpartition("/")[2] == task


def step_of_node(path: str) -> str:
    """The step that a node of Argo belongs to, as the specification names it: ``for-loop-2/1/print-op``.

    :param path: the node's name, which is its path: ``name-x1y2z(0).root(0).print-op(0).executor(0)``
    """
    parts: list[str] = []
    for part in path.split(".")[1:]:
        name = part
        while match := _ATTEMPT.search(name):
            name, number = name[: match.start()], match[1]
            if name == "iteration-iterations":
                parts.append(number)
        parts.append(name)
    if parts and parts[0].startswith("root"):
        parts = parts[1:] if parts[0] == "root" else ["the run's driver"]
    shown = [part for part in parts if part.removesuffix("-driver") not in _ARGOS_OWN]
    # An exit task is below the hook of the group that it follows, and beside that group in the specification.
    while "onExit" in shown:
        at = shown.index("onExit")
        shown = shown[: max(at - 1, 0)] + shown[at + 1 :]
    if not shown:
        return ""
    return "/".join([*shown[:-1], shown[-1].removesuffix("-driver")])


def _precedence(problem: PodProblem) -> int:
    """What says most about why a pod failed comes first; a container that was told to end says nothing."""
    if problem.kind == "OOMKilled":
        return 0
    if not problem.container:
        return 1
    return 2 if problem.container == STEP_CONTAINER else 3


def _out_of_memory(pod: Mapping[str, Any], container: str) -> str:
    spec = pod.get("spec") or {}
    containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    limits = [
        (each.get("resources") or {}).get("limits") or {}
        for each in containers
        if each.get("name") == container
    ]
    limit = next((each["memory"] for each in limits if each.get("memory")), None)
    at = f" at its limit of {limit}" if limit else ""
    return f"Out of memory: its container was killed{at} (OOMKilled). Raise memory_limit in step_settings, or give it less to do."


def _being_made(pod: Mapping[str, Any]) -> tuple[str, str]:
    """Kind and reason of a wait that nothing complains about."""
    if is_scheduled(pod) or (pod.get("status") or {}).get("containerStatuses"):
        what = "its image is being pulled, its volumes are being mounted, or what prepares it is at work"
        return "ContainerCreating", f"ContainerCreating: {what}"
    return "Unscheduled", "no scheduler has looked at its pod yet"


def _was_killed(pod: Mapping[str, Any]) -> bool:
    return any(ended.get("exitCode", 0) > _SIGNALS_FROM for ended in _ended(pod, STEP_CONTAINER))


def _ended_at(pod: Mapping[str, Any]) -> str:
    ends = [str(ended.get("finishedAt") or "") for ended in _ended(pod)]
    return max(ends, default="") or str(pod["metadata"].get("creationTimestamp") or "")


def _ended(pod: Mapping[str, Any], container: str | None = None) -> list[Mapping[str, Any]]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    states = [item.get("state") or {} for item in statuses if container in (None, item.get("name"))]
    return [state["terminated"] for state in states if state.get("terminated")]


def _phase(pod: Mapping[str, Any]) -> str | None:
    return (pod.get("status") or {}).get("phase")
