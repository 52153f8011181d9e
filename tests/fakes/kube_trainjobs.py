"""As much of a Kubernetes API server as TrainJobs, their pods and logs need, over HTTP and with state.

It has no controllers: a test says what becomes of a TrainJob with ``update``, ``fail`` and so on. What it answers follows
the API server: ``Status`` objects, 409 for a name that is taken, 404 in plain text for a resource that it does not know.
Deleted in the background a TrainJob is gone before its pods are; in the foreground it stays, and Kubeflow Trainer makes its
JobSet again, as recorded on 2.3.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/{}/trainjobs"
_NOW = "2026-01-01T00:00:00Z"


class FakeTrainJobs:
    """A cluster with Kubeflow Trainer.

    ``requests`` has method and path of every request; ``faults`` answers in its place: a function that is given both and
    returns status and body, or ``None`` to let the request through. ``lose_answers`` is how many requests are carried out
    without an answer.
    """

    def __init__(self) -> None:
        self.jobs: dict[tuple[str, str], dict[str, Any]] = {}
        self.created: list[dict[str, Any]] = []
        self.deleted: list[tuple[str, str, str]] = []
        self.pods: dict[str, dict[str, Any]] = {}
        self.logs: dict[tuple[str, bool], str] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: Callable[[str, str], tuple[int, Any] | None] = lambda method, path: None
        self.lose_answers = 0
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
        server = f"http://127.0.0.1:{self._server.server_address[1]}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        return json.dumps({"conn_type": "kubernetes", "extra": {"kube_config": json.dumps(config), **extra}})

    @property
    def only(self) -> dict[str, Any]:
        """The one TrainJob there is."""
        (job,) = self.jobs.values()
        return job

    def add(self, name: str, namespace: str = "team") -> dict[str, Any]:
        """A TrainJob that somebody else has made."""
        return self._store({"metadata": {"name": name, "namespace": namespace}, "spec": {}})

    def update(self, job: dict[str, Any], **status: Any) -> None:
        """Set fields of a TrainJob's status, as the controller does."""
        with self._lock:
            job.setdefault("status", {}).update(status)
            self._touch(job)

    def run(self, job: dict[str, Any], progress: int | None = None, **metrics: str) -> None:
        """Its nodes train and have reported progress."""
        self.update(job, jobsStatus=[_counts(active=1, ready=1)])
        if progress is not None:
            reported = [{"name": name, "value": value} for name, value in metrics.items()]
            status = {"progressPercentage": progress, "estimatedRemainingSeconds": 60, "metrics": reported}
            self.update(job, trainerStatus={**status, "lastUpdatedTime": _NOW})

    def complete(self, job: dict[str, Any]) -> None:
        """It has succeeded."""
        self.update(job, jobsStatus=[_counts(succeeded=1)])
        self._condition(job, "Complete", "AllJobsCompleted", "jobset completed successfully")

    def fail(self, job: dict[str, Any], reason: str = "FailedJobs", message: str = "jobset failed") -> None:
        """It has failed."""
        self.update(job, jobsStatus=[_counts(failed=1)])
        self._condition(job, "Failed", reason, message)

    def suspend(self, job: dict[str, Any]) -> None:
        """It waits in a queue."""
        self._condition(job, "Suspended", "Suspended", "TrainJob is suspended")

    def resume(self, job: dict[str, Any]) -> None:
        """It has left the queue."""
        job["status"]["conditions"] = []
        self._condition(job, "Suspended", "Resumed", "TrainJob is resumed", status="False")

    def created_at(self, job: dict[str, Any], moment: float) -> None:
        """Say that it was made then."""
        job["metadata"]["creationTimestamp"] = _time(moment)

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
    ) -> None:
        """A node's container has ended, and was perhaps started again."""
        ended = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
        waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
        status = {"state": waiting, "lastState": ended} if restarted else {"state": ended, "lastState": {}}
        self._pod(job, pod, {"phase": "Running" if restarted else "Failed", "containerStatuses": [status]})
        if log is not None:
            self.logs[pod, restarted] = log

    def start_pod(self, job: dict[str, Any], pod: str) -> None:
        """A node trains."""
        running = {"state": {"running": {"startedAt": _NOW}}, "lastState": {}}
        self._pod(job, pod, {"phase": "Running", "containerStatuses": [running]})

    def end_pods(self) -> None:
        """All pods that were told to end have done so."""
        with self._lock:
            self.pods = {
                name: pod
                for name, pod in self.pods.items()
                if "deletionTimestamp" not in pod["document"]["metadata"]
            }

    def hold_pod(self, job: dict[str, Any], pod: str, message: str) -> None:
        """A node finds no place in the cluster."""
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
        }
        self._pod(job, pod, {"phase": "Pending", "conditions": [condition]})

    def remove(self, job: dict[str, Any]) -> None:
        """It and its pods are gone."""
        with self._lock:
            metadata = job["metadata"]
            self.jobs.pop((metadata["namespace"], metadata["name"]), None)
            self.pods = {name: pod for name, pod in self.pods.items() if pod["job"] != metadata["name"]}

    def _pod(self, job: dict[str, Any], name: str, status: dict[str, Any]) -> None:
        for container in status.get("containerStatuses", []):
            container |= {"name": "node", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
        self.pods[name] = {
            "job": job["metadata"]["name"],
            "namespace": job["metadata"]["namespace"],
            "document": {
                "metadata": {
                    "name": name,
                    "labels": {"jobset.sigs.k8s.io/jobset-name": job["metadata"]["name"]},
                },
                "spec": {"containers": [{"name": "node"}]},
                "status": status,
            },
        }

    def _condition(
        self, job: dict[str, Any], kind: str, reason: str, message: str, status: str = "True"
    ) -> None:
        condition = {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": _time(),
        }
        self.update(job, conditions=[*job.get("status", {}).get("conditions", []), condition])

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
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        if parts[:2] == ["apis", "trainer.kubeflow.org"] and "namespaces" in parts:
            namespace, rest = parts[4], parts[6:]
            if method == "POST" and not rest:
                return self._create(namespace, body)
            if rest:
                return self._one(method, namespace, rest[0], query)
        if method == "GET" and parts[:2] == ["api", "v1"] and "pods" in parts:
            return self._read_pods(parts[3], parts[5:], query)
        return 404, "404 page not found\n"

    def _create(self, namespace: str, job: dict[str, Any]) -> tuple[int, Any]:
        name = job["metadata"]["name"]
        if (namespace, name) in self.jobs:
            return status(409, "AlreadyExists", f'trainjobs.trainer.kubeflow.org "{name}" already exists')
        if refused := self.admits(job):
            webhook = 'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: '
            return status(403, "Forbidden", webhook + refused)
        self.created.append(json.loads(json.dumps(job)))
        return 201, self._store(job)

    def _one(self, method: str, namespace: str, name: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        job = self.jobs.get((namespace, name))
        if job is None:
            return status(404, "NotFound", f'trainjobs.trainer.kubeflow.org "{name}" not found')
        if method == "DELETE":
            policy = query.get("propagationPolicy", ["Background"])[0]
            self.deleted.append((namespace, name, policy))
            if policy == "Foreground":
                job["metadata"] |= {"deletionTimestamp": _NOW, "finalizers": ["foregroundDeletion"]}
                self.start_pod(job, f"{name}-again")
                return 200, job
            self.jobs.pop((namespace, name))
            for pod in self.pods.values():
                if pod["job"] == name:
                    pod["document"]["metadata"]["deletionTimestamp"] = _NOW
            if self.pods_end_at_once:
                self.end_pods()
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


def _counts(**counts: int) -> dict[str, Any]:
    names = ("active", "failed", "ready", "succeeded", "suspended")
    return {"name": "node", **{name: counts.get(name, 0) for name in names}}
