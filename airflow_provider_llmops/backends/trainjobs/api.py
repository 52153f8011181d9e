"""The TrainJobs of a cluster, through its API server: made, read, deleted; their pods, events and logs; their runtimes."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from airflow_provider_llmops.backends.kubernetes.asking import (
    PATIENCE_SECONDS,
    Advice,
    AlreadyThereError,
    CredentialsRefusedError,
    ask,
)
from airflow_provider_llmops.backends.kubernetes.pods import PodProblem
from airflow_provider_llmops.backends.kubernetes.requests import list_pods, list_warnings, log_end
from airflow_provider_llmops.backends.trainjobs.job import NODE, TrainJob
from airflow_provider_llmops.backends.trainjobs.manifest import GRACE_SECONDS, TOKEN_LABEL
from airflow_provider_llmops.exceptions import (
    ConfigurationError,
    LLMOpsError,
    RunNotFoundError,
)

log = logging.getLogger(__name__)

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
# JobSet, which carries a TrainJob out, puts it on every pod.
JOB_LABEL = "jobset.sigs.k8s.io/jobset-name"
_ENDED_PHASES = ("Succeeded", "Failed")
_RUNTIMES = {"ClusterTrainingRuntime": "clustertrainingruntimes", "TrainingRuntime": "trainingruntimes"}
_ADVICE = Advice(
    kind=f"{PLURAL}.{GROUP}",
    install="Install Kubeflow Trainer 2.2 or later.",
    rights=(
        f"Let the connection's user create, get and delete {PLURAL}.{GROUP}, list pods and events and get pods/log in that "
        f"namespace, and get {' and '.join(_RUNTIMES.values())}."
    ),
    correct="Kubeflow Trainer refuses it: correct the task's settings or the runtime.",
)


class TrainJobs:
    """The TrainJobs of a cluster.

    :param client: the ``kubernetes`` client's ``ApiClient``
    :param namespace: where to make them unless something else is said
    :param conn_id: Airflow connection of the client, for messages
    """

    poll_interval = 10.0

    def __init__(self, client: Any, *, namespace: str, conn_id: str) -> None:
        from kubernetes.client import CoreV1Api, CustomObjectsApi  # type: ignore[import-untyped]

        self.namespace = namespace
        self.conn_id = conn_id
        self._objects = CustomObjectsApi(client)
        self._core = CoreV1Api(client)

    def create(self, manifest: Mapping[str, Any]) -> TrainJob:
        """Make a TrainJob; if it is there already, with the same token, that one is returned.

        :param manifest: of :func:`~airflow_provider_llmops.backends.trainjobs.manifest.train_job`
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
        except AlreadyThereError:
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

    def delete(self, namespace: str, name: str, *, patience: float | None = None) -> None:
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
            seconds = PATIENCE_SECONDS if patience is None else patience
            self._ask(f"delete TrainJob {namespace}/{name}", call, seconds)

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
                except CredentialsRefusedError:  # they are renewed, and no right is missing
                    at_work = True
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
            pod.get("status", {}).get("phase")
            for pod in self.pods(namespace, name, patience=PATIENCE_SECONDS)
        ]
        return any(phase not in _ENDED_PHASES for phase in phases)

    def pods(self, namespace: str, name: str, *, patience: float = 0.0) -> list[dict[str, Any]]:
        """The pods of a TrainJob, as the API server has them.

        :param patience: seconds to go on trying while there is no answer
        """
        what = f"list the pods of TrainJob {namespace}/{name}"
        call = partial(list_pods, self._core, namespace, f"{JOB_LABEL}={name}")
        pods: list[dict[str, Any]] = self._ask(what, call, patience)
        return pods

    def warnings(self, namespace: str, name: str) -> list[dict[str, Any]]:
        """The warnings about all objects of a name: a TrainJob and its JobSet, a Job, or a pod."""
        call = partial(list_warnings, self._core, namespace, name)
        events: list[dict[str, Any]] = self._ask(f"list the events about {namespace}/{name}", call, 0.0)
        return events

    def runtime(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """A training runtime.

        :param kind: ``ClusterTrainingRuntime`` or ``TrainingRuntime``
        :param namespace: where to look for the latter
        :param name: its name
        :raises RunNotFoundError: there is none of that name
        """
        found: dict[str, Any] = self._ask(f"get {kind} {name}", self._of_kind("get", kind, namespace, name))
        return found

    def runtime_names(self, kind: str, namespace: str) -> list[str]:
        """The names of the runtimes of a kind, as far as they may be listed."""
        try:
            found = self._ask(f"list every {kind}", self._of_kind("list", kind, namespace), 0.0)
        except LLMOpsError:
            return []
        return sorted(item["metadata"]["name"] for item in found.get("items") or [])

    def _of_kind(self, verb: str, kind: str, namespace: str, *name: str) -> Callable[..., Any]:
        place = [] if kind == "ClusterTrainingRuntime" else [namespace]
        method = f"{verb}_{'namespaced' if place else 'cluster'}_custom_object"
        return partial(getattr(self._objects, method), GROUP, VERSION, *place, _RUNTIMES[kind], *name)

    def log_of(self, namespace: str, failure: PodProblem, *, lines: int) -> list[str]:
        """The last lines that a container wrote before it ended.

        The container may have been started again since its pod was read, so that its log is the previous one by now.

        :param namespace: where its pod is
        :param failure: what it ended with
        :param lines: number of lines
        """
        found: list[str] = []
        refusal: LLMOpsError | None = None
        for previous in (True,) if failure.was_restarted else (False, True):
            call = partial(
                log_end,
                self._core,
                namespace,
                failure.pod,
                container=failure.container or NODE,
                previous=previous,
                lines=lines,
            )
            try:
                found = self._ask(f"read the log of pod {namespace}/{failure.pod}", call, 0.0)
            except LLMOpsError as error:
                refusal = refusal or error
                continue
            refusal = None
            if any(line.strip() for line in found):
                break
        if refusal:
            raise refusal
        return found

    def _ask(self, what: str, call: Callable[..., Any], patience: float = PATIENCE_SECONDS) -> Any:
        """Ask the API server, again while it does not answer. A repeated request is harmless: names are unique."""
        return ask(what, call, _ADVICE, conn_id=self.conn_id, patience=patience)


def _kind(namespace: str) -> tuple[str, str, str, str]:
    return GROUP, VERSION, namespace, PLURAL
