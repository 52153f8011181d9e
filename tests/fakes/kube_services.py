"""As much of a Kubernetes API server with KServe in standard mode as services need, over HTTP and with state.

Server-side apply, ``ControllerRevision`` objects, pods with logs and the way to them through the API server. What becomes of a service is
what KServe's real controllers made of one, as recorded: a test names the case (``update_crash_t45``, ...) and the fake has its status,
Deployment, ReplicaSets, pods and events from then on, with the labels of the revisions that the service has had. Refusals are recorded, too.
"""

from __future__ import annotations

import copy
import json
import threading
import uuid
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import cluster_rights
from kube_connection import kubernetes_connection
from kube_lists import is_of_all, items_of
from kube_watch import WatchedLists

REVISION_LABEL = "llmops/revision"
_RECORDED = Path(__file__).resolve().parents[1] / "recorded" / "kserve.json"
_THEN = "2026-01-01T00:00:00Z"


@cache
def _cases() -> dict[str, dict[str, Any]]:
    return {case["name"]: case for case in json.loads(_RECORDED.read_text(encoding="utf-8"))}


def recorded(name: str) -> dict[str, Any]:
    """A recorded case, to change as one likes.

    :param name: its name
    """
    return copy.deepcopy(_cases()[name])


def recorded_names() -> list[str]:
    """Of all cases in which a service was carried out, or was not."""
    return [name for name, case in _cases().items() if case.get("isvc_spec")]


def carried_out(name: str, current: str, former: str = "former", which: str = "predictor") -> dict[str, Any]:
    """What carries a service out in a recorded case, as an API server has it.

    :param name: of the case
    :param current: revision that the service was asked for; the newest ReplicaSet's
    :param former: revision of the ReplicaSet before it
    :param which: ``predictor``, or ``canary`` for what carries that out
    :return: status, deployment, replica_sets, pods and events
    """
    case = _of_one(recorded(name), which)
    sets = sorted(case.get("replica_sets") or [], key=lambda item: int(item["revision"]))
    names = {item["name"].rsplit("-", 1)[-1]: former for item in sets}
    if sets:
        names[sets[-1]["name"].rsplit("-", 1)[-1]] = current
    app = {"app": f"isvc.{case['deployments'][0]['name']}"} if case.get("deployments") else {}

    def labels(of: str) -> dict[str, str]:
        return {**app, REVISION_LABEL: names.get(of, former)}

    deployment = None
    if case.get("deployments"):
        (first, *_) = case["deployments"]
        deployment = {
            "metadata": {"name": first["name"], "generation": first["generation"]},
            "spec": {"template": {"metadata": {"labels": {REVISION_LABEL: current}}}},
            "status": case["deployment_status"] or {},
        }
    pods = [
        {
            "metadata": {
                "name": pod["name"],
                "labels": labels(pod["labels"].get("pod-template-hash", "")),
                "creationTimestamp": _THEN,
                **({"deletionTimestamp": _THEN} if pod["deleting"] else {}),
            },
            "spec": {"containers": pod["containers"]},
            "status": pod["status"],
        }
        for pod in case["pods"] or []
    ]
    return {
        "status": case["isvc_status"] or {},
        "deployment": deployment,
        "replica_sets": [
            {
                "metadata": {"name": item["name"], "labels": labels(item["name"].rsplit("-", 1)[-1])},
                "status": {"readyReplicas": item["readyReplicas"]},
            }
            for item in sets
        ],
        "pods": pods,
        "events": case.get("events") or [],
    }


def _of_one(case: dict[str, Any], which: str) -> dict[str, Any]:
    """A recorded case as if it had no other predictor than one."""
    spec = case["isvc_spec"]
    if not spec.get("canary"):
        return case
    name = case["deployments"][0]["name"].removesuffix("-predictor")
    own = spec["predictor"].get("name")
    base = name.removesuffix(f"-{own}") if own else name
    if which == "canary":
        own = spec["canary"][0]["predictor"]["name"]
    wanted = f"{base}-{own}-predictor" if own else f"{base}-predictor"
    return {
        **case,
        "deployments": [each for each in case["deployments"] if each["name"] == wanted],
        "deployment_status": case["deployment_status"][wanted],
        "replica_sets": [each for each in case["replica_sets"] if each["name"].rsplit("-", 1)[0] == wanted],
        "pods": [each for each in case["pods"] if each["labels"]["app"] == f"isvc.{wanted}"],
    }


class FakeKServe:
    """A cluster with KServe.

    ``requests`` has method and path of every request; ``refusals`` answers instead, by the part of a path: the name of a recorded case.
    ``applied`` has the specifications that changed something, ``proxied`` what was sent to pods, ``answers`` what they answer (with
    ``answer_codes`` before 200), ``events`` further ones by what they are about. ``plan`` has the cases that come of the next specifications, each
    as soon as the service has been read twice. ``ingress`` and ``service_settings`` are of KServe's configuration, ``gateways`` has those that there are, ``routes``
    the backends of each ``HTTPRoute`` with their weights, of which the Gateway says ``taken``. ``finalizers`` keep a deleted service until a test calls :meth:`forget`.
    Whoever has none of the ``tokens`` is unknown, where there are any. ``lists`` are watched.
    """

    def __init__(self) -> None:
        self.services: dict[str, dict[str, Any]] = {}
        self.world: dict[str, dict[str, Any]] = {}
        self.revisions: dict[str, dict[str, Any]] = {}
        self.history: dict[str, list[str]] = {}
        self.applied: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.refusals: dict[str, str] = {}
        self.logs: dict[str, str] = {}
        self.proxied: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {"choices": [{"message": {"content": "An answer."}}]}
        self.plan: list[str] = []
        self.collects_garbage = True
        self.finalizers: list[str] = []
        self._coming: dict[str, tuple[str, int]] = {}
        self.answer_codes: list[int] = []
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.annotations_of_others: dict[str, dict[str, str]] = {}
        self.missing_rights: set[tuple[str, str]] = set()
        self.ingress: dict[str, Any] | None = {}
        self.service_settings: dict[str, Any] = {}
        self.gateways: dict[str, dict[str, Any]] = {}
        self.routes: dict[str, list[list[Any]]] = {}
        self.tokens: set[str] | None = None
        self.taken = {"type": "Accepted", "status": "True", "reason": "Accepted"}
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = (
                True  # or each answer waits 40 ms for the client's delayed acknowledgement
            )

            def do_GET(self) -> None:
                fake._serve(self, "GET")

            def do_POST(self) -> None:
                fake._serve(self, "POST")

            def do_PATCH(self) -> None:
                fake._serve(self, "PATCH")

            def do_DELETE(self) -> None:
                fake._serve(self, "DELETE")

            def log_message(self, *args: Any) -> None:
                """Be quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._lock = threading.RLock()
        self.lists = WatchedLists(lambda path, selector: items_of(self, path, selector), self._lock)

    def __enter__(self) -> FakeKServe:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Address of the API server."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def connection(self, **extra: Any) -> str:
        """An Airflow connection to it, as JSON."""
        return kubernetes_connection(self.url, **extra)

    def becomes(self, name: str, case: str) -> None:
        """KServe has carried the service out, or has not, as in a recorded case.

        :param name: name of the service
        :param case: name of the case
        """
        with self._lock:
            past = self.history[name]
            former = next((each for each in reversed(past) if each != past[-1]), "former")
            world = carried_out(case, past[-1], former)
            self.services[name]["status"] = world.pop("status")
            self.world[name] = world

    def forget(self, name: str) -> None:
        """Somebody has deleted the service; the garbage collector deletes what belongs to it."""
        with self._lock:
            self.services.pop(name, None)
            self.world.pop(name, None)
            self.history.pop(name, None)
            if not self.collects_garbage:
                return
            self.revisions = {
                key: item
                for key, item in self.revisions.items()
                if item["metadata"]["ownerReferences"][0]["name"] != name
            }

    def _serve(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        url = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        is_watch = query.get("watch") == "true"
        with self._lock:
            self.requests.append(("WATCH" if is_watch else method, url.path))
            # Kubernetes lets everybody ask what they may do.
            asks = url.path.startswith("/apis/authorization.k8s.io/")
            token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ")
            if self.tokens is not None and token not in self.tokens:
                status, answer = 401, recorded("api: bad token")["refusal"]
            elif not asks and (forbidden := cluster_rights.refusal(method, url.path, is_watch=is_watch)):
                status, answer = 403, forbidden
            else:
                status, answer = self._answer(method, url.path, query, body)
        if status == 200 and is_watch:
            self.lists.watch(handler, url.path, query, query.get("fieldSelector", ""))
            return
        content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, Any]:
        asked = [f"{method} {path}", *([f"WATCH {path}"] if "watch" in query else [])]
        for part, case in self.refusals.items():
            if any(part in each for each in asked):
                refusal = recorded(case)["refusal"]
                return refusal["code"], {"kind": "Status", "status": "Failure", **refusal}
        if method == "GET" and is_of_all(path, query):
            return 200, self.lists.list(path, query.get("fieldSelector", ""))
        match path.strip("/").split("/"):
            case ["apis", "serving.kserve.io", "v1beta1", "namespaces", namespace, "inferenceservices", name]:
                return self._service(method, namespace, name, body)
            case ["apis", "apps", "v1", "namespaces", _, "deployments", name]:
                deployment = self._world(name.removesuffix("-predictor"))["deployment"]
                return (200, deployment) if deployment else _not_found("deployments.apps", name)
            case ["apis", "apps", "v1", "namespaces", _, "replicasets"]:
                return 200, {"items": self._world(_name_in(query))["replica_sets"]}
            case ["apis", "autoscaling", "v2", "namespaces", _, "horizontalpodautoscalers"]:
                return 200, {"items": self._world(_name_in(query)).get("autoscalers", [])}
            case ["apis", "apps", "v1", "namespaces", _, "controllerrevisions", *rest]:
                return self._revision(method, rest, query, body)
            case ["api", "v1", "namespaces", _, "pods"]:
                return 200, {"items": self._world(_name_in(query))["pods"]}
            case ["api", "v1", "namespaces", _, "events"]:
                fields = dict(part.split("=") for part in query["fieldSelector"].split(","))
                about = fields["involvedObject.name"]
                events = self._world(about)["events"] + self.events.get(about, [])
                kinds = (fields["type"],) if "type" in fields else ("Normal", "Warning")
                return 200, {"items": [event for event in events if event["type"] in kinds]}
            case ["api", "v1", "namespaces", _, "pods", name, "log"]:
                key = f"{name}/{query['container']}/{query.get('previous', 'False')}"
                if key in self.logs:
                    return 200, self.logs[key]
                # A kubelet has nothing to read where a container has never run.
                text = f'container "{query["container"]}" in pod "{name}" is waiting to start: trying and failing to pull image'
                return 400, _status(400, "BadRequest", text)
            case ["api", "v1", "namespaces", "kserve", "configmaps", "inferenceservice-config"]:
                if self.ingress is None:
                    return _not_found("configmaps", "inferenceservice-config")
                data = {"ingress": json.dumps(self.ingress), "service": json.dumps(self.service_settings)}
                return 200, {"data": data}
            case ["apis", "gateway.networking.k8s.io", "v1", "namespaces", namespace, "gateways", name]:
                found = self.gateways.get(f"{namespace}/{name}")
                return (200, found) if found else _not_found("gateways.gateway.networking.k8s.io", name)
            case ["apis", "gateway.networking.k8s.io", "v1", "namespaces", _, "httproutes", name]:
                if name not in self.routes:
                    return _not_found("httproutes.gateway.networking.k8s.io", name)
                return 200, self.route(name)
            case ["api", "v1", "namespaces", _, "pods", name, "proxy", "metrics"]:
                return 200, self.exported(name.partition(":")[0])
            case ["api", "v1", "namespaces", _, "pods", name, "proxy", *rest]:
                self.proxied.append((f"{name}/{'/'.join(rest)}", json.loads(body)))
                return self.answer_codes.pop(0) if self.answer_codes else 200, self.answers
            case ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"]:
                wanted = json.loads(body)["spec"]["resourceAttributes"]
                resource = "/".join(filter(None, (wanted["resource"], wanted.get("subresource"))))
                allowed = (wanted["verb"], resource) not in self.missing_rights
                return 201, {"spec": {}, "status": {"allowed": allowed}}
        return 404, "404 page not found\n"

    def route(self, name: str) -> dict[str, Any]:
        """An ``HTTPRoute`` that a Gateway has seen."""
        backend_refs = [{"name": each, "weight": weight} for each, weight in self.routes[name]]
        return {
            "metadata": {"generation": 1},
            "spec": {"rules": [{"backendRefs": backend_refs}]},
            "status": {"parents": [{"conditions": [{"observedGeneration": 1, **self.taken}]}]},
        }

    def exported(self, pod: str) -> str:
        """What a pod exports of itself.

        :param pod: its name
        """
        return ""

    def _service(self, method: str, namespace: str, name: str, body: bytes) -> tuple[int, Any]:
        found = self.services.get(name)
        if method == "PATCH":
            sent = json.loads(body)
            if found is None:
                found = {
                    "apiVersion": sent["apiVersion"],
                    "kind": sent["kind"],
                    "metadata": {"uid": str(uuid.uuid4()), "generation": 0},
                }
            metadata = {**found["metadata"], **sent["metadata"]}
            metadata["generation"] += sent["spec"] != found.get("spec")
            metadata["managedFields"] = [{"manager": "llmops-airflow", "operation": "Apply", "time": _THEN}]
            metadata["annotations"] = {
                **sent["metadata"].get("annotations", {}),
                **self.annotations_of_others.get(name, {}),
            }
            if (metadata["annotations"], sent["spec"]) == (
                found["metadata"].get("annotations"),
                found.get("spec"),
            ):
                return 200, found
            self.applied.append(sent)
            # What is answered has the status of before.
            self.services[name] = found = {**found, "metadata": metadata, "spec": sent["spec"]}
            past = self.history.setdefault(name, [])
            past.append(sent["spec"]["predictor"]["labels"][REVISION_LABEL])
            if self.plan:
                self._coming[name] = (self.plan.pop(0), 2)
            return 200, found
        if found is None or found["metadata"]["namespace"] != namespace:
            return _not_found("inferenceservices.serving.kserve.io", name)
        if method == "DELETE":
            if self.finalizers:  # somebody has yet to agree
                found["metadata"] |= {"deletionTimestamp": _THEN, "finalizers": self.finalizers}
                return 200, found
            self.forget(name)
        elif name in self._coming:
            case, reads = self._coming[name]
            self._coming[name] = (case, reads - 1)
            if reads == 0:
                del self._coming[name]
                self.becomes(name, case)
        return 200, found

    def _revision(self, method: str, rest: list[str], query: dict[str, str], body: bytes) -> tuple[int, Any]:
        if method == "POST":
            sent = json.loads(body)
            name = sent["metadata"]["name"]
            if name in self.revisions:
                return 409, _status(409, "AlreadyExists", f'controllerrevisions.apps "{name}" already exists')
            self.revisions[name] = sent
            return 201, sent
        if method == "DELETE":
            return 200, self.revisions.pop(rest[0])
        if method == "GET":
            label, _, value = query["labelSelector"].partition("=")
            items = [
                item for item in self.revisions.values() if item["metadata"]["labels"].get(label) == value
            ]
            return 200, {"items": items}
        (name,) = rest
        if name not in self.revisions:
            return _not_found("controllerrevisions.apps", name)
        annotations = self.revisions[name]["metadata"].setdefault("annotations", {})
        annotations |= json.loads(body)["metadata"]["annotations"]
        for key in [key for key, value in annotations.items() if value is None]:
            del annotations[key]
        return 200, self.revisions[name]

    def _world(self, name: str) -> dict[str, Any]:
        return self.world.get(name) or {"deployment": None, "replica_sets": [], "pods": [], "events": []}


def _name_in(query: dict[str, str]) -> str:
    value = query["labelSelector"].partition("=")[2]
    return value.removeprefix("isvc.").removesuffix("-predictor")


def _not_found(kind: str, name: str) -> tuple[int, dict[str, Any]]:
    return 404, _status(404, "NotFound", f'{kind} "{name}" not found')


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
