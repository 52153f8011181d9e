"""What the API server of a cluster with KServe is asked: services, what carries them out, what they were before, their pods."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from airflow_provider_llmops.backends.kubernetes.asking import (
    PATIENCE_SECONDS,
    Advice,
    AlreadyThereError,
    ForbiddenError,
    ask,
)
from airflow_provider_llmops.backends.kubernetes.requests import (
    document_of,
    list_pods,
    list_warnings,
    log_end,
)
from airflow_provider_llmops.backends.serving.kserve import history
from airflow_provider_llmops.backends.serving.kserve.reading import ServiceObjects
from airflow_provider_llmops.backends.serving.kserve.rules import CONTAINER, revision_of
from airflow_provider_llmops.exceptions import ConfigurationError, RunNotFoundError

GROUP, VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
FIELD_MANAGER = "llmops-airflow"
_APPLY = "application/apply-patch+yaml"
RIGHTS = (
    *((verb, f"{PLURAL}.{GROUP}") for verb in ("get", "create", "patch", "delete")),
    ("get", "deployments.apps"),
    ("list", "replicasets.apps"),
    *((verb, "controllerrevisions.apps") for verb in ("list", "create", "patch")),
    *(("list", what) for what in ("pods", "events")),
    ("get", "pods/log"),
    ("create", "pods/proxy"),
)
_ADVICE = Advice(
    kind=f"{PLURAL}.{GROUP}",
    install="Install KServe 0.16 or later.",
    rights=(
        f"Let the connection's user get, create, patch and delete {PLURAL}.{GROUP}, get deployments.apps, list replicasets.apps, pods "
        "and events, get pods/log, create pods/proxy, and list, create and patch controllerrevisions.apps in that namespace."
    ),
    correct="KServe refuses it: correct the service's settings.",
)


class KServeCluster:
    """A cluster with KServe.

    :param client: the ``kubernetes`` client's ``ApiClient``
    :param conn_id: Airflow connection of the client, for messages
    :param namespace: that rights are asked for by :meth:`check`
    """

    def __init__(self, client: Any, *, conn_id: str, namespace: str = "default") -> None:
        from kubernetes.client import AppsV1Api, CoreV1Api, CustomObjectsApi  # type: ignore[import-untyped]

        self.conn_id = conn_id
        self._namespace = namespace
        self._client = client
        self._objects = CustomObjectsApi(client)
        self._core = CoreV1Api(client)
        self._apps = AppsV1Api(client)

    def find(self, namespace: str, name: str) -> dict[str, Any] | None:
        """The ``InferenceService``; ``None`` if there is none of that name."""
        call = partial(self._objects.get_namespaced_custom_object, *_kind(namespace), name)
        try:
            found: dict[str, Any] = self._ask(f"get service {namespace}/{name}", call)
        except RunNotFoundError:
            return None
        return found

    def read(self, namespace: str, name: str) -> ServiceObjects:
        """The service, and as much of what carries it out as may be read."""
        service = self.find(namespace, name)
        if service is None:
            raise RunNotFoundError("There is no service of this name.", f"Service: {namespace}/{name}")
        refused: list[str] = []

        def read(what: str, call: Callable[..., Any], otherwise: Any) -> Any:
            try:
                return self._ask(f"read the {what} of service {namespace}/{name}", call)
            except RunNotFoundError:
                return otherwise
            except ForbiddenError:
                refused.append(f"the connection's user may not read {what}")
                return otherwise

        deployment = read(
            "deployments",
            _document(self._apps.read_namespaced_deployment, f"{name}-predictor", namespace),
            None,
        )
        selector = f"app=isvc.{name}-predictor"
        replica_sets = read(
            "replicasets",
            _items(self._apps.list_namespaced_replica_set, namespace, label_selector=selector),
            [],
        )
        pods = read("pods", partial(list_pods, self._core, namespace, selector), [])
        warnings = []
        if deployment is None:
            warnings = read("events", partial(list_warnings, self._core, namespace, name), [])
        return ServiceObjects(service, deployment, replica_sets, pods, warnings, refused)

    def delete(self, namespace: str, name: str) -> None:
        """Delete a service, and with it what belongs to it; nothing if it is gone."""
        call = partial(self._objects.delete_namespaced_custom_object, *_kind(namespace), name)
        with contextlib.suppress(RunNotFoundError):
            self._ask(f"delete service {namespace}/{name}", call)

    def log(self, namespace: str, pod: str, container: str, *, previous: bool, lines: int) -> list[str]:
        """The last lines of a container's log.

        :param previous: whether of its former start
        """
        call = partial(
            log_end, self._core, namespace, pod, container=container, previous=previous, lines=lines
        )
        found: list[str] = self._ask(f"read the log of pod {namespace}/{pod}", call, 0.0)
        return found

    def apply(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Apply a service on the server's side, so that fields of others survive; its status is still the old one.

        :param sent: the ``InferenceService``
        :raises FieldConflictError: somebody else sets a field of it otherwise
        """
        namespace, name = sent["metadata"]["namespace"], sent["metadata"]["name"]

        call = partial(
            self._send,
            "PATCH",
            f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}/{name}",
            dict(sent),
            _APPLY,
            fieldManager=FIELD_MANAGER,
        )
        found: dict[str, Any] = self._ask(f"apply service {namespace}/{name}", call)
        return found

    def keep(self, service: Mapping[str, Any], sent: Mapping[str, Any], *, digest: str, is_new: bool) -> None:
        """Keep a specification, once. One that is asked for again has not served yet, whatever it did before.

        :param service: the service that has it
        :param sent: the specification
        :param digest: of the manifest that it was made from
        :param is_new: whether it is asked for now
        """
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        revision = revision_of(sent)
        records = self.records(namespace, name)
        if revision in records:
            notes: dict[str, str | None] = {}
            if is_new and records[revision].served_at:
                notes[history.SERVED_ANNOTATION] = None
            if records[revision].digest != digest:
                notes[history.DIGEST_ANNOTATION] = digest
            if notes:
                self.annotate(namespace, name, revision, notes)
            return
        number = 1 + max((record.number for record in records.values()), default=0)
        document = history.document_of(service, history.Record(revision, number, sent, digest))
        # As YAML, which the API server turns into its own form of JSON: it compares the data byte for byte when an annotation changes.
        call = partial(
            self._send,
            "POST",
            f"/apis/apps/v1/namespaces/{namespace}/controllerrevisions",
            json.dumps(document),
            "application/yaml",
        )
        try:
            self._ask(f"keep revision {revision} of service {name}", call)
        except AlreadyThereError:
            return

    def records(self, namespace: str, name: str) -> dict[str, history.Record]:
        """The specifications that a service was given, by revision."""
        call = _items(
            self._apps.list_namespaced_controller_revision,
            namespace,
            label_selector=f"{history.SERVICE_LABEL}={name}",
        )
        found = self._ask(f"list the revisions of service {namespace}/{name}", call)
        return {record.revision: record for record in map(history.Record.read, found)}

    def annotate(self, namespace: str, name: str, revision: str, values: Mapping[str, str | None]) -> None:
        """Set annotations of a kept specification; ``None`` takes one away."""
        call = partial(
            self._apps.patch_namespaced_controller_revision,
            history.name_of(name, revision),
            namespace,
            {"metadata": {"annotations": dict(values)}},
            _preload_content=False,
        )
        self._ask(f"note what revision {revision} of service {name} does", call)

    def post(
        self, namespace: str, pod: Mapping[str, Any], path: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Send something to a pod through the API server, and return its answer.

        :param pod: the pod
        :param path: of the request
        :param body: sent as JSON
        """
        name, port = pod["metadata"]["name"], _port(pod)
        path = f"/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy/{path}"
        call = partial(self._send, "POST", path, dict(body), "application/json")
        found: dict[str, Any] = self._ask(f"ask pod {namespace}/{name}", call, 0.0)
        return found

    def _send(
        self, method: str, path: str, body: Any, content_type: str, *, _request_timeout: float, **query: str
    ) -> dict[str, Any]:
        """Send what the client has no method for."""
        answer = self._client.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params={"Content-Type": content_type, "Accept": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=_request_timeout,
        )
        return document_of(answer)

    def _ask(self, what: str, call: Callable[..., Any], patience: float = PATIENCE_SECONDS) -> Any:
        return ask(what, call, _ADVICE, conn_id=self.conn_id, patience=patience)

    def check(self) -> str:
        """Say in one line what was reached.

        :raises ConfigurationError: KServe is not installed, or the user lacks a right, which is named
        """
        from kubernetes.client import AuthorizationV1Api

        call = _document(self._objects.list_namespaced_custom_object, *_kind(self._namespace))
        with contextlib.suppress(ForbiddenError):  # KServe is there; which right is missing is said below
            self._ask("list services", call, 0.0)
        reviews = AuthorizationV1Api(self._client)
        missing = [f"{verb} {right}" for verb, right in RIGHTS if not self._is_allowed(reviews, verb, right)]
        if missing:
            raise ConfigurationError(
                f"KServe is there, but the connection's user may not {', '.join(missing)} in namespace {self._namespace!r}. "
                f"{_ADVICE.rights}"
            )
        return f"KServe answers through connection {self.conn_id!r}, with every right in namespace {self._namespace!r}"

    def _is_allowed(self, reviews: Any, verb: str, right: str) -> bool:
        resource, _, group = right.partition(".")
        resource, _, part = resource.partition("/")
        wanted = {
            "verb": verb,
            "resource": resource,
            "group": group,
            "subresource": part,
            "namespace": self._namespace,
        }
        call = _document(reviews.create_self_subject_access_review, {"spec": {"resourceAttributes": wanted}})
        answer: dict[str, Any] = self._ask(f"ask for the right to {verb} {right}", call, 0.0)
        return bool(answer["status"]["allowed"])


def _kind(namespace: str) -> tuple[str, str, str, str]:
    return GROUP, VERSION, namespace, PLURAL


def _document(method: Callable[..., Any], *arguments: Any) -> Callable[..., dict[str, Any]]:
    def call(**request: Any) -> dict[str, Any]:
        return document_of(method(*arguments, _preload_content=False, **request))

    return call


def _items(
    method: Callable[..., Any], *arguments: Any, **options: Any
) -> Callable[..., list[dict[str, Any]]]:
    def call(**request: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (
            document_of(method(*arguments, _preload_content=False, **options, **request)).get("items") or []
        )
        return found

    return call


def _port(pod: Mapping[str, Any]) -> int:
    container = next(
        (each for each in pod["spec"]["containers"] if each["name"] == CONTAINER),
        pod["spec"]["containers"][0],
    )
    ports = container.get("ports") or []
    return int(ports[0]["containerPort"]) if ports else 8080
