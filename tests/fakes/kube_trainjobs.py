"""As much of a Kubernetes API server as TrainJobs, their pods, logs and events need, over HTTP and with state.

It has no controllers: a test says what becomes of a TrainJob with ``accept``, ``begin``, ``run``, ``fail`` and so on, and the
status goes the way that was recorded on Kubeflow Trainer 2.3: nothing, zeros, ``active``, ``ready``; conditions stay. What
it answers follows the API server: ``Status`` objects, 409 for a name that is taken, 404 in plain text for a resource that it
does not know, 403 for whatever the roles in the documentation do not cover. Deleted in the background a TrainJob is gone before its pods are; in the foreground it stays, and Kubeflow
Trainer makes its JobSet again each time that the garbage collector has removed it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import cluster_rights
from kube_connection import kubernetes_connection

_JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/{}/trainjobs"
_NOW = "2026-01-01T00:00:00Z"
_RUNTIMES = Path(__file__).resolve().parents[1] / "recorded" / "training-runtimes.json"
# The labels of an event that can be selected by: SelectableFields in pkg/registry/core/event of Kubernetes.
_EVENT_FIELDS = ("involvedObject.kind", "involvedObject.name", "involvedObject.namespace", "reason", "type")


class FakeTrainJobs:
    """A cluster with Kubeflow Trainer.

    ``requests`` has method and path of every request; ``faults`` answers in its place: a function that is given both and
    returns status and body, or ``None`` to let the request through. ``lose_answers`` is how many requests are carried out
    without an answer; ``breaks_off`` says of which paths an answer ends before it is whole. ``runtimes`` are
    those that Kubeflow Trainer ships, ``job_sets`` how often each TrainJob's JobSet was made.
    """

    def __init__(self) -> None:
        self.jobs: dict[tuple[str, str], dict[str, Any]] = {}
        self.created: list[dict[str, Any]] = []
        self.deleted: list[tuple[str, str, str]] = []
        self.pods: dict[str, dict[str, Any]] = {}
        self.logs: dict[tuple[str, bool], str] = {}
        self.events: list[dict[str, Any]] = []
        self.runtimes: list[dict[str, Any]] = json.loads(_RUNTIMES.read_text(encoding="utf-8"))
        self.job_sets: dict[str, int] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: Callable[[str, str], tuple[int, Any] | None] = lambda method, path: None
        self.lose_answers = 0
        self.breaks_off: Callable[[str], bool] = lambda path: False
        self.pods_end_at_once = True
        self.admits: Callable[[dict[str, Any]], str | None] = lambda manifest: None
        self._version = 0
        self._lock = threading.RLock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake._serve(self, "GET")

            def do_POST(self) -> None:
                fake._serve(self, "POST")

            def do_DELETE(self) -> None:
                fake._serve(self, "DELETE")

            def log_message(self, *args: Any) -> None:
                """Be quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> FakeTrainJobs:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def connection(self, **extra: Any) -> str:
        """An Airflow connection to it, as JSON."""
        return kubernetes_connection(f"http://127.0.0.1:{self._server.server_address[1]}", **extra)

    @property
    def only(self) -> dict[str, Any]:
        """The one TrainJob there is."""
        (job,) = self.jobs.values()
        return job

    def add(self, name: str, namespace: str = "team", nodes: int = 1) -> dict[str, Any]:
        """A TrainJob that somebody else has made. It has no status before its controller has seen it."""
        spec = {"trainer": {"numNodes": nodes}}
        return self._store({"metadata": {"name": name, "namespace": namespace}, "spec": spec})

    def update(self, job: dict[str, Any], **status: Any) -> None:
        """Set fields of a TrainJob's status, as the controller does."""
        with self._lock:
            job.setdefault("status", {}).update(status)
            self._touch(job)

    def accept(self, job: dict[str, Any]) -> None:
        """Its JobSet is made, and is suspended as it is."""
        name = job["metadata"]["name"]
        self.job_sets[name] = self.job_sets.get(name, 0) + 1
        self.update(job, jobsStatus=[_counts(suspended=int(bool(job["spec"].get("suspend"))))])

    def begin(self, job: dict[str, Any]) -> None:
        """Its Job is at work, whether there are pods or not."""
        self.update(job, jobsStatus=[_counts(active=1)])

    def run(self, job: dict[str, Any], progress: int | None = None, **metrics: str) -> None:
        """All nodes train and have reported progress."""
        self.update(job, jobsStatus=[_counts(active=1, ready=1)])
        if progress is not None:
            reported = [{"name": name, "value": value} for name, value in metrics.items()]
            status = {"progressPercentage": progress, "estimatedRemainingSeconds": 60, "metrics": reported}
            self.update(job, trainerStatus={**status, "lastUpdatedTime": _NOW})

    def complete(self, job: dict[str, Any]) -> None:
        """It has succeeded."""
        self.update(job, jobsStatus=[_counts(succeeded=1)])
        self._condition(job, "Complete", "AllJobsCompleted", "jobset completed successfully")

    def fail(self, job: dict[str, Any], reason: str = "FailedJobs", message: str | None = None) -> None:
        """It has failed: by itself, its Jobs as well."""
        first = f"{job['metadata']['name']}-node-0"
        named = f"jobset failed due to one or more job failures (first failed job: {first})"
        self.update(job, jobsStatus=[_counts()])
        self.update(job, jobsStatus=[_counts(failed=1)])
        self._condition(job, "Failed", reason, message or named)

    def exceed_deadline(self, job: dict[str, Any]) -> None:
        """The controller deletes the JobSet, and leaves what the status said of its Jobs."""
        self._condition(job, "Failed", "DeadlineExceeded", "TrainJob exceeded its active deadline")
        self.delete_pods(job)

    def suspend(self, job: dict[str, Any]) -> None:
        """It waits in a queue."""
        job["spec"]["suspend"] = True
        self._condition(job, "Suspended", "Suspended", "TrainJob is suspended")
        for counts in job["status"].get("jobsStatus", []):
            self.update(job, jobsStatus=[{**counts, "suspended": 1}])
            self.update(job, jobsStatus=[_counts(suspended=1)])
        self.delete_pods(job)

    def resume(self, job: dict[str, Any]) -> None:
        """It has left the queue. The condition stays, and becomes false."""
        job["spec"]["suspend"] = False
        self._condition(job, "Suspended", "Resumed", "TrainJob is resumed", status="False")

    def collect_garbage(self, job: dict[str, Any]) -> None:
        """What was deleted in the foreground goes, and Kubeflow Trainer makes the JobSet again, with pods that train."""
        name = job["metadata"]["name"]
        self.end_pods()
        if job["spec"].get("suspend"):
            job["status"].pop("jobsStatus", None)
            self.update(job)
            self.accept(job)
            return
        self.accept(job)
        self.begin(job)
        pod = f"{name}-node-0-0-again{self.job_sets[name]}"
        self.make_pod(job, pod)
        self.start_pod(job, pod)

    def created_at(self, job: dict[str, Any], moment: float) -> None:
        """Say that it was made then."""
        job["metadata"]["creationTimestamp"] = _time(moment)

    def warn(
        self,
        job: dict[str, Any],
        message: str,
        *,
        reason: str = "FailedCreate",
        kind: str = "Job",
        name: str | None = None,
        at: float | None = None,
    ) -> None:
        """A controller could not make what it should; it says so of its own object, the Job unless another is named."""
        metadata = job["metadata"]
        about = metadata["name"] if kind in ("TrainJob", "JobSet") else f"{metadata['name']}-node-0"
        self.events.append(
            {
                "metadata": {"name": f"e{len(self.events)}", "namespace": metadata["namespace"]},
                "type": "Warning",
                "reason": reason,
                "message": message,
                "involvedObject": {"kind": kind, "name": name or about, "namespace": metadata["namespace"]},
                "lastTimestamp": _time(at),
            }
        )

    def make_pod(self, job: dict[str, Any], pod: str) -> None:
        """A node waits for its place."""
        self._pod(job, pod, "Pending", None)

    def end_pod(
        self,
        job: dict[str, Any],
        pod: str,
        *,
        code: int,
        message: str = "",
        restarted: bool = False,
        log: str | None = None,
        reason: str = "Error",
        at: str = _NOW,
    ) -> None:
        """A node's container has ended, and waits for its next start if its pod is kept."""
        ended = {"terminated": {"exitCode": code, "reason": reason, "message": message, "finishedAt": at}}
        message = f"back-off restarting failed container=node pod={pod}"
        waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
        self._pod(job, pod, "Running", ended)
        if restarted:
            self._pod(job, pod, "Running", waiting, ended)
        else:
            self._pod(job, pod, "Failed" if code else "Succeeded", ended)
        if log is not None:
            self.logs[pod, restarted] = log

    def start_pod(self, job: dict[str, Any], pod: str) -> None:
        """A node trains, perhaps again."""
        last = self._container(pod).get("lastState", {})
        self._pod(job, pod, "Running", {"running": {"startedAt": _NOW}}, last)

    def block_pod(self, job: dict[str, Any], pod: str, reason: str, message: str) -> None:
        """A node's container cannot be made."""
        self._pod(job, pod, "Pending", {"waiting": {"reason": reason, "message": message}})

    def hold_pod(self, job: dict[str, Any], pod: str, message: str) -> None:
        """A node finds no place in the cluster."""
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
        }
        self._pod(job, pod, "Pending", None)
        self.pods[pod]["document"]["status"]["conditions"] = [condition]

    def stop_pods(self) -> None:
        """All pods that were told to end have stopped their containers."""
        stopped = {"terminated": {"exitCode": 143, "reason": "Error", "finishedAt": _NOW}}
        with self._lock:
            for pod in self.pods.values():
                status = pod["document"]["status"]
                if "deletionTimestamp" in pod["document"]["metadata"]:
                    status["phase"] = "Failed"
                    for container in status.get("containerStatuses", []):
                        if "running" in container["state"]:
                            container |= {"state": stopped, "ready": False}

    def end_pods(self) -> None:
        """All pods that were told to end are gone."""
        with self._lock:
            self.pods = {
                name: pod
                for name, pod in self.pods.items()
                if "deletionTimestamp" not in pod["document"]["metadata"]
            }

    def remove(self, job: dict[str, Any]) -> None:
        """It and its pods are gone."""
        with self._lock:
            metadata = job["metadata"]
            self.jobs.pop((metadata["namespace"], metadata["name"]), None)
            self.pods = {name: pod for name, pod in self.pods.items() if pod["job"] != metadata["name"]}

    def put_pod(self, job: dict[str, Any], document: dict[str, Any]) -> None:
        """A pod that is just so, but for the label that JobSet gives it: it is a node's if nothing else is said."""
        with self._lock:
            labels = document["metadata"].setdefault("labels", {})
            labels.setdefault("jobset.sigs.k8s.io/replicatedjob-name", "node")
            self.pods[document["metadata"]["name"]] = {
                "job": job["metadata"]["name"],
                "namespace": job["metadata"]["namespace"],
                "document": document,
            }

    def _pod(
        self,
        job: dict[str, Any],
        name: str,
        phase: str,
        state: dict[str, Any] | None,
        last: dict[str, Any] | None = None,
    ) -> None:
        former = self._container(name)
        is_restart = "running" in (state or {}) and "waiting" in former.get("state", {}) and bool(last)
        container = {
            "name": "node",
            "ready": "running" in (state or {}),
            "restartCount": former.get("restartCount", 0) + is_restart,
            "state": state,
            "lastState": former.get("lastState", {}) if last is None else last,
        }
        status = {"phase": phase, **({} if state is None else {"containerStatuses": [container]})}
        labels = {"jobset.sigs.k8s.io/jobset-name": job["metadata"]["name"]}
        self.put_pod(
            job,
            {
                "metadata": {"name": name, "labels": labels},
                "spec": {"containers": [{"name": "node"}]},
                "status": status,
            },
        )

    def _container(self, pod: str) -> dict[str, Any]:
        """The state of a pod's container, if there is one."""
        status = self.pods.get(pod, {}).get("document", {}).get("status", {})
        return (status.get("containerStatuses") or [{}])[0]

    def delete_pods(self, job: dict[str, Any]) -> None:
        """Its pods are told to end, as a Job does that gives up; they are gone at once unless a test wants to see them."""
        for pod in self.pods.values():
            if pod["job"] == job["metadata"]["name"]:
                pod["document"]["metadata"]["deletionTimestamp"] = _NOW
        if self.pods_end_at_once:
            self.end_pods()

    def _condition(
        self, job: dict[str, Any], kind: str, reason: str, message: str, status: str = "True"
    ) -> None:
        """A condition takes the place of the former one of its type; the others stay."""
        condition = {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": _time(),
        }
        known = {item["type"]: item for item in job.get("status", {}).get("conditions", [])}
        self.update(job, conditions=list({**known, kind: condition}.values()))

    def _touch(self, job: dict[str, Any]) -> None:
        self._version += 1
        job["metadata"]["resourceVersion"] = str(self._version)

    def _store(self, job: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            metadata = job["metadata"]
            metadata |= {"uid": f"uid-{len(self.created) + len(self.jobs)}", "creationTimestamp": _time()}
            self._touch(job)
            self.jobs[metadata["namespace"], metadata["name"]] = job
            return job

    def _serve(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        url = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self._lock:
            self.requests.append((method, url.path))
            if forbidden := cluster_rights.refusal(method, url.path):
                answer: tuple[int, Any] = 403, forbidden
            else:
                answer = self.faults(method, url.path) or self._answer(
                    method, url.path, parse_qs(url.query), json.loads(body) if body else None
                )
            if self.lose_answers:
                self.lose_answers -= 1
                handler.close_connection = True
                handler.connection.close()
                return
        status, content = answer
        text = content if isinstance(content, str) else json.dumps(content)
        kind = "text/plain; charset=utf-8" if isinstance(content, str) else "application/json"
        data = text.encode()
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(data) + 1000 * self.breaks_off(url.path)))
        handler.end_headers()
        handler.wfile.write(data)

    def _answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        if parts[:2] == ["apis", "trainer.kubeflow.org"] and parts[3] == "clustertrainingruntimes":
            return self._read_runtimes("ClusterTrainingRuntime", None, parts[4:])
        if parts[:2] == ["apis", "trainer.kubeflow.org"] and parts[5:6] == ["trainingruntimes"]:
            return self._read_runtimes("TrainingRuntime", parts[4], parts[6:])
        if parts[:2] == ["apis", "trainer.kubeflow.org"] and parts[5:6] == ["trainjobs"]:
            namespace, rest = parts[4], parts[6:]
            if method == "POST" and not rest:
                return self._create(namespace, body)
            if rest:
                return self._one(method, namespace, rest[0], query)
        if method == "GET" and parts[:2] == ["api", "v1"] and "pods" in parts:
            return self._read_pods(parts[3], parts[5:], query)
        if method == "GET" and parts[:2] == ["api", "v1"] and parts[4:] == ["events"]:
            return self._read_events(parts[3], query)
        return 404, "404 page not found\n"

    def _create(self, namespace: str, job: dict[str, Any]) -> tuple[int, Any]:
        name = job["metadata"]["name"]
        if (namespace, name) in self.jobs:
            return status(409, "AlreadyExists", f'trainjobs.trainer.kubeflow.org "{name}" already exists')
        if refused := self._invalid(job):
            return status(422, "Invalid", f'TrainJob.trainer.kubeflow.org "{name}" is invalid: {refused}')
        if refused := self.admits(job) or self._refused(job):
            webhook = 'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: '
            return status(403, "Forbidden", webhook + refused)
        self.created.append(json.loads(json.dumps(job)))
        return 201, self._store(job)

    @staticmethod
    def _invalid(job: dict[str, Any]) -> str | None:
        """What the schema of a TrainJob refuses."""
        if len(job["metadata"]["name"]) > 63:
            return "<nil>: Invalid value: metadata.name must be no more than 63 characters"
        seconds = job["spec"].get("activeDeadlineSeconds", 1)
        if seconds < 1:
            field = "spec.activeDeadlineSeconds"
            return f"{field}: Invalid value: {seconds}: {field} in body should be greater than or equal to 1"
        return None

    def _refused(self, job: dict[str, Any]) -> str | None:
        """What Kubeflow Trainer's webhook refuses; it looks at no more than this of what a manifest of ours has."""
        reference = job["spec"].get("runtimeRef", {})
        kind, name = reference.get("kind"), reference.get("name")
        if kind not in ("ClusterTrainingRuntime", "TrainingRuntime"):
            return f"unsupported runtime: {kind}.trainer.kubeflow.org"
        place = None if kind == "ClusterTrainingRuntime" else job["metadata"]["namespace"]
        known = {
            (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"])
            for item in self.runtimes
        }
        if (kind, place, name) not in known:
            own = kind[0].lower() + kind[1:]
            value = json.dumps(
                {"name": name, "apiGroup": "trainer.kubeflow.org", "kind": kind}, separators=(",", ":")
            )
            return (
                f'spec.RuntimeRef: Invalid value: {value}: {kind}.trainer.kubeflow.org "{name}" not found: specified {own} '
                "must be created before the TrainJob is created"
            )
        variables = job["spec"].get("trainer", {}).get("env", [])
        if taken := [item["name"] for item in variables if item["name"].startswith("PET_")]:
            value = json.dumps(variables, separators=(",", ":"), ensure_ascii=False)
            listed = " ".join(taken)
            return f"spec.trainer.env: Invalid value: {value}: must not have reserved envs, invalid envs configured: [{listed}]"
        return None

    def _one(self, method: str, namespace: str, name: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        job = self.jobs.get((namespace, name))
        if job is None:
            return status(404, "NotFound", f'trainjobs.trainer.kubeflow.org "{name}" not found')
        if method == "DELETE":
            policy = query.get("propagationPolicy", ["Background"])[0]
            self.deleted.append((namespace, name, policy))
            if policy == "Foreground":
                job["metadata"] |= {"deletionTimestamp": _NOW, "finalizers": ["foregroundDeletion"]}
                self.delete_pods(job)
                if not _has_ended(job):
                    self.collect_garbage(job)
                return 200, job
            self.jobs.pop((namespace, name))
            self.delete_pods(job)
        return 200, job

    def _read_pods(self, namespace: str, rest: list[str], query: dict[str, list[str]]) -> tuple[int, Any]:
        if not rest:
            wanted = query["labelSelector"][0].removeprefix("jobset.sigs.k8s.io/jobset-name=")
            items = [
                pod["document"]
                for pod in self.pods.values()
                if pod["job"] == wanted and pod["namespace"] == namespace
            ]
            return 200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}
        previous = query.get("previous", ["false"])[0].lower() == "true"
        if (text := self.logs.get((rest[0], previous))) is None:
            return status(404, "NotFound", f'pods "{rest[0]}" not found')
        return 200, "\n".join(text.splitlines()[-int(query["tailLines"][0]) :]) + "\n"

    def _read_events(self, namespace: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        wanted = dict(part.split("=") for part in query.get("fieldSelector", [""])[0].split(",") if part)
        if unknown := sorted(set(wanted) - set(_EVENT_FIELDS)):
            return status(400, "BadRequest", f"field label not supported: {unknown[0]}")

        def field(event: dict[str, Any], path: str) -> Any:
            for key in path.split("."):
                event = event[key]
            return event

        items = [
            event
            for event in self.events
            if event["metadata"]["namespace"] == namespace
            and all(field(event, path) == value for path, value in wanted.items())
        ]
        return 200, {"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": items}

    def _read_runtimes(self, kind: str, namespace: str | None, rest: list[str]) -> tuple[int, Any]:
        found = [
            item
            for item in self.runtimes
            if (item["kind"], item["metadata"].get("namespace")) == (kind, namespace)
        ]
        if not rest:
            return 200, {"kind": f"{kind}List", "metadata": {}, "items": found}
        for item in found:
            if item["metadata"]["name"] == rest[0]:
                return 200, item
        plural = f"{kind.lower()}s.trainer.kubeflow.org"
        return status(404, "NotFound", f'{plural} "{rest[0]}" not found')


def status(code: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
    """An error as the API server tells it."""
    return code, {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }


def _time(moment: float | None = None) -> str:
    """A time as Kubernetes writes it, now unless another is given."""
    when = datetime.now(UTC) if moment is None else datetime.fromtimestamp(moment, UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _has_ended(job: dict[str, Any]) -> bool:
    conditions = job.get("status", {}).get("conditions", [])
    return any(item["type"] in ("Complete", "Failed") and item["status"] == "True" for item in conditions)


def _counts(**counts: int) -> dict[str, Any]:
    names = ("active", "failed", "ready", "succeeded", "suspended")
    return {"name": "node", **{name: counts.get(name, 0) for name in names}}
