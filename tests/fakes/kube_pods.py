"""As much of a Kubernetes API server as looking at the pods of pipeline runs needs, over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import cluster_rights
from kube_connection import kubernetes_connection

RUN_LABEL = "pipeline/runid"


class FakePods:
    """Pods with logs, and what else tells of them.

    :param pods: as :func:`pod` makes them
    :param logs: log of the main container by the pod's name
    :param events: events by the name of what they are about
    :param workflows: Argo's workflows
    :param config_maps: data of the config maps by name
    :param forbidden: kinds that may not be read: ``pods``, ``log``, ``events``, ``workflows``, ``configmaps``
    """

    def __init__(
        self,
        pods: Sequence[Mapping[str, Any]] = (),
        logs: Mapping[str, str] | None = None,
        *,
        events: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        workflows: Sequence[Mapping[str, Any]] = (),
        config_maps: Mapping[str, Mapping[str, str]] | None = None,
        forbidden: Sequence[str] = (),
    ) -> None:
        self.pods = list(pods)
        self.logs = dict(logs or {})
        self.events = dict(events or {})
        self.workflows = list(workflows)
        self.config_maps = dict(config_maps or {})
        self.forbidden = set(forbidden)
        self.requests: list[str] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                fake.requests.append(url.path)
                if forbidden := cluster_rights.refusal("GET", url.path):
                    status, kind, text = _refusal(403, "Forbidden", forbidden["message"])
                else:
                    status, kind, text = fake._answer(url.path.strip("/").split("/"), query)
                content = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                """Be quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> FakePods:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def connection(self, namespace: str | None = None) -> str:
        """An Airflow connection to it, as JSON."""
        return kubernetes_connection(self.url, **({"namespace": namespace} if namespace else {}))

    def _answer(self, parts: list[str], query: Mapping[str, str]) -> tuple[int, str, str]:
        # api/v1/namespaces/NAMESPACE/KIND/NAME/log, apis/argoproj.io/v1alpha1/namespaces/NAMESPACE/workflows
        at = parts.index("namespaces") if "namespaces" in parts else len(parts)
        namespace, kind, *rest = [*parts[at + 1 : at + 2], *parts[at + 2 :], "", ""]
        subject = "log" if "log" in rest else kind
        if subject in self.forbidden:
            return _refusal(
                403, "Forbidden", f"cannot list resource {subject!r} in the namespace {namespace!r}"
            )
        if subject == "log" and rest[0] in self.logs and query.get("container") == "main":
            lines = self.logs[rest[0]].splitlines(keepends=True)
            return 200, "text/plain", "".join(lines[-int(query["tailLines"]) :])
        if kind == "configmaps" and rest[0] in self.config_maps:
            return _json({"metadata": {"name": rest[0]}, "data": self.config_maps[rest[0]]})
        listed: dict[str, Sequence[Mapping[str, Any]]] = {
            "pods": self.pods,
            "workflows": self.workflows,
            "events": [
                {"involvedObject": {"name": name}, "metadata": {}, **event}
                for name, events in self.events.items()
                for event in events
            ],
        }
        if kind in listed and not rest[0]:
            items = [
                item
                for item in listed[kind]
                if item["metadata"].get("namespace", namespace) == namespace and _is_selected(item, query)
            ]
            return _json({"kind": "List", "items": items})
        return _refusal(404, "NotFound", f"{kind} not found")


def pod(
    name: str,
    run_id: str,
    step: str,
    *,
    phase: str = "Failed",
    exit_code: int | None = 1,
    minute: int = 0,
    namespace: str = "kubeflow",
    memory_limit: str | None = None,
    **status: Any,
) -> dict[str, Any]:
    """A pod as Argo makes it for a step.

    :param step: path of the step below the workflow's root, as Argo names nodes: ``train.executor``
    :param exit_code: of its main container, which ended in ``minute``; ``None`` if it never began
    :param status: more of its status; ``reason`` and ``message`` of the main container are in ``ended``
    """
    ended = status.pop("ended", {})
    containers = status.pop("containers", None)
    if containers is None:
        state = {"exitCode": exit_code, "finishedAt": f"2026-01-01T00:{minute:02}:30Z", **ended}
        containers = [
            {"name": "wait", "image": "argoexec", "state": {"terminated": {"exitCode": 0}}},
            {"name": "main", "image": "train:1", "state": {"terminated": state}},
        ]
    limits = {"limits": {"memory": memory_limit}} if memory_limit else {}
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {RUN_LABEL: run_id},
            "annotations": {"workflows.argoproj.io/node-name": f"two-steps-x1y2z.root.{step}"},
            "creationTimestamp": f"2026-01-01T00:{minute:02}:00Z",
        },
        "spec": {"containers": [{"name": "main", "resources": limits}]},
        "status": {
            "phase": phase,
            "containerStatuses": [] if exit_code is None and phase == "Failed" else containers,
            **status,
        },
    }


def waiting(
    name: str, run_id: str, step: str, reason: str | None, message: str = "", **status: Any
) -> dict[str, Any]:
    """A pod whose main container waits."""
    state = {"waiting": {"reason": reason, "message": message}}
    containers = [{"name": "main", "image": "nosuch:1", "state": state}] if reason else []
    return pod(name, run_id, step, phase="Pending", containers=containers, **status)


def _is_selected(item: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    name, _, value = query.get("labelSelector", "").partition("=")
    if name and (item["metadata"].get("labels") or {}).get(name) != value:
        return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        field, is_equal, wanted = (*term.partition("!="),) if "!=" in term else (*term.partition("="),)
        found: Any = item
        for part in field.split("."):
            found = found.get(part, {})
        if (found == wanted) == (is_equal == "!="):
            return False
    return True


def _json(document: Mapping[str, Any]) -> tuple[int, str, str]:
    return 200, "application/json", json.dumps(document)


def _refusal(code: int, reason: str, message: str) -> tuple[int, str, str]:
    status = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
    return code, "application/json", json.dumps(status)
