"""What the API server of a cluster with KServe is asked: services, what carries them out, what they were before, their pods."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from airflow_provider_llmops.backends.kubernetes.asking import (
    ANSWER_SECONDS,
    PATIENCE_SECONDS,
    AlreadyThereError,
    ForbiddenError,
    ask,
)
from airflow_provider_llmops.backends.kubernetes.messages import message_of
from airflow_provider_llmops.backends.kubernetes.pods import MAX_PODS, is_scheduled
from airflow_provider_llmops.backends.kubernetes.requests import (
    asking_for,
    asking_for_items,
    document_of,
    list_pods,
    list_warnings,
    log_end,
)
from airflow_provider_llmops.backends.serving.kserve import history
from airflow_provider_llmops.backends.serving.kserve.answered import METRICS_PATH
from airflow_provider_llmops.backends.serving.kserve.gateway import KSERVE_NAMESPACE, GatewayReader
from airflow_provider_llmops.backends.serving.kserve.reading import (
    CONTAINER,
    FIELD_MANAGER,
    ServiceObjects,
    as_its_own,
    revision_of_predictor,
)
from airflow_provider_llmops.backends.serving.kserve.rights import ADVICE, RIGHTS, missing_rights
from airflow_provider_llmops.backends.serving.kserve.rules import GROUP, PLURAL, VERSION
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    RunNotFoundError,
    shown_value,
)

# As cluster-autoscaler and Karpenter say it.
_ADDS_A_NODE = ("TriggeredScaleUp", "Nominated")
SMOKE_SECONDS = 120.0
SERVICE_LABEL = "serving.kserve.io/inferenceservice"  # of all that KServe makes of a service
_APPLY = "application/apply-patch+yaml"


class KServeCluster:
    """A cluster with KServe.

    :param client: the ``kubernetes`` client's ``ApiClient``
    :param conn_id: Airflow connection of the client, for messages
    :param namespace: that rights are asked for by :meth:`check`
    :param kserve_namespace: namespace of KServe's controller and its configuration
    """

    def __init__(
        self,
        client: Any,
        *,
        conn_id: str,
        namespace: str = "default",
        kserve_namespace: str = KSERVE_NAMESPACE,
    ) -> None:
        from kubernetes.client import (  # type: ignore[import-untyped]
            AppsV1Api,
            AutoscalingV2Api,
            CoreV1Api,
            CustomObjectsApi,
        )

        self.conn_id = conn_id
        self.namespace = namespace
        self.gateway = GatewayReader(client, conn_id=conn_id, kserve_namespace=kserve_namespace)
        self._client = client
        self._objects = CustomObjectsApi(client)
        self._core = CoreV1Api(client)
        self._apps = AppsV1Api(client)
        self._scalers = AutoscalingV2Api(client)

    def find(self, namespace: str, name: str, *, patience: float = PATIENCE_SECONDS) -> dict[str, Any] | None:
        """The ``InferenceService``; ``None`` if there is none of that name."""
        call = partial(self._objects.get_namespaced_custom_object, *_kind(namespace), name)
        try:
            found: dict[str, Any] = self._ask(f"get service {namespace}/{name}", call, patience)
        except RunNotFoundError:
            return None
        return found

    def read(self, namespace: str, name: str, *, patience: float = PATIENCE_SECONDS) -> ServiceObjects:
        """The service, and as much of what carries it out as may be read."""
        service = self.find(namespace, name, patience=patience)
        if service is None:
            raise RunNotFoundError("There is no service of this name.", f"Service: {namespace}/{name}")
        found = self._behind(service, patience)
        ours = next((each for each in found.canaries if revision_of_predictor(each["predictor"])), None)
        if ours is None:
            return found
        canary = self._behind(as_its_own(service, ours), patience)
        try:
            routes = self.gateway.routes(namespace, name, patience=patience)
        except ForbiddenError:
            routes = None
        return replace(found, canary=canary, routes=routes)

    def _behind(self, service: Mapping[str, Any], patience: float) -> ServiceObjects:
        """As much of what carries a predictor out as may be read."""
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        deployed_as = ServiceObjects(service).deployed_as
        refused: list[str] = []

        def read(what: str, call: Callable[..., Any], otherwise: Any) -> Any:
            try:
                return self._ask(f"read the {what} of service {namespace}/{name}", call, patience)
            except RunNotFoundError:
                return otherwise
            except ForbiddenError:
                refused.append(f"the connection's user may not read {what}")
                return otherwise

        deployment = read(
            "deployments",
            asking_for(self._apps.read_namespaced_deployment, deployed_as, namespace),
            None,
        )
        selector = f"app=isvc.{deployed_as}"
        replica_sets = read(
            "replicasets",
            asking_for_items(self._apps.list_namespaced_replica_set, namespace, label_selector=selector),
            [],
        )
        pods = read("pods", partial(list_pods, self._core, namespace, selector), [])
        found = ServiceObjects(service, deployment, replica_sets, pods, (), refused)
        if found.is_carried_out:
            return replace(found, scaling_up=self._scaling_up(namespace, found, patience))
        return replace(
            found, warnings=read("events", partial(list_warnings, self._core, namespace, name), [])
        )

    def _scaling_up(self, namespace: str, objects: ServiceObjects, patience: float) -> frozenset[str]:
        """Those pods without a place for which the cluster is adding a node."""
        waiting = [pod["metadata"]["name"] for pod in objects.pods if not is_scheduled(pod)][:MAX_PODS]
        found = set()
        for name in waiting:
            fields = f"involvedObject.name={name}"
            call = asking_for_items(self._core.list_namespaced_event, namespace, field_selector=fields)
            with contextlib.suppress(ForbiddenError):
                events = self._ask(f"list the events about pod {namespace}/{name}", call, patience)
                if any(event.get("reason") in _ADDS_A_NODE for event in events):
                    found.add(name)
        return frozenset(found)

    def delete(self, namespace: str, name: str) -> None:
        """Delete a service, and with it what belongs to it; nothing if it is gone."""
        call = partial(self._objects.delete_namespaced_custom_object, *_kind(namespace), name)
        with contextlib.suppress(RunNotFoundError):
            self._ask(f"delete service {namespace}/{name}", call)

    def left_of(self, namespace: str, name: str) -> list[str]:
        """Objects of a deleted service that are still there, as far as they may be read; none where it was made anew since."""
        service = self.find(namespace, name)
        if service is not None and not service["metadata"].get("deletionTimestamp"):
            return []
        selector = f"{SERVICE_LABEL}={name}"
        pods = partial(list_pods, self._core, namespace, selector)
        scalers = asking_for_items(
            self._scalers.list_namespaced_horizontal_pod_autoscaler, namespace, label_selector=selector
        )
        records = asking_for_items(
            self._apps.list_namespaced_controller_revision,
            namespace,
            label_selector=f"{history.SERVICE_LABEL}={name}",
        )
        found = [] if service is None else [_waiting(service)]
        for what, call in (("pod", pods), ("autoscaler", scalers), ("kept specification", records)):
            with contextlib.suppress(ForbiddenError):
                items = self._ask(f"list what is left of service {namespace}/{name}", call)
                found += [f"{what} {item['metadata']['name']}" for item in items]
        return found

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

    def keep(self, service: Mapping[str, Any], record: history.Record) -> None:
        """Keep a specification with its notes; the oldest that nobody goes back to are dropped.

        :param service: the service that has it
        :param record: the specification
        """
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        # As YAML, which the API server turns into its own form of JSON: it compares the data byte for byte when an annotation changes.
        call = partial(
            self._send,
            "POST",
            f"/apis/apps/v1/namespaces/{namespace}/controllerrevisions",
            json.dumps(history.document_of(service, record)),
            "application/yaml",
        )
        try:
            self._ask(f"keep revision {record.revision} of service {namespace}/{name}", call)
        except AlreadyThereError:
            self.annotate(namespace, name, record.revision, record.notes)
        for old in history.superfluous(self.records(service), record.revision):
            self._drop(namespace, history.name_of(name, old.revision))

    def _drop(self, namespace: str, name: str) -> None:
        call = partial(self._apps.delete_namespaced_controller_revision, name, namespace)
        with contextlib.suppress(RunNotFoundError, ForbiddenError):
            self._ask(f"drop revision {namespace}/{name}", call)

    def records(
        self, service: Mapping[str, Any], *, patience: float = PATIENCE_SECONDS
    ) -> dict[str, history.Record]:
        """The specifications that a service was given, by revision; not those of a former one of its name.

        :param service: the ``InferenceService``
        """
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        call = asking_for_items(
            self._apps.list_namespaced_controller_revision,
            namespace,
            label_selector=f"{history.SERVICE_LABEL}={name}",
        )
        found = self._ask(f"list the revisions of service {namespace}/{name}", call, patience)
        own = [
            document
            for document in found
            if any(
                owner["uid"] == service["metadata"]["uid"]
                for owner in document["metadata"].get("ownerReferences") or []
            )
        ]
        return {record.revision: record for record in map(history.Record.read, own)}

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
        found: dict[str, Any] = self._ask(
            f"ask pod {namespace}/{pod['metadata']['name']}",
            partial(self._ask_pod, _through_api_server(namespace, pod, f"/{path}"), dict(body)),
            SMOKE_SECONDS,
            answer_within=SMOKE_SECONDS,
        )
        return found

    def scrape(self, namespace: str, pod: Mapping[str, Any], *, patience: float = PATIENCE_SECONDS) -> str:
        """What a pod exports of itself, in Prometheus' text format, read through the API server.

        :param pod: the pod
        """

        def call(**request: Any) -> list[str]:
            answer = self._client.call_api(
                _through_api_server(namespace, pod, METRICS_PATH),
                "GET",
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                **request,
            )
            return [answer.data.decode(errors="replace")]

        what = f"read what pod {namespace}/{pod['metadata']['name']} exports"
        (text,) = self._ask(what, call, patience)
        return str(text)

    def _ask_pod(self, path: str, body: Any, *, _request_timeout: float) -> dict[str, Any]:
        """What a pod answers, told from what the API server says on the way to it."""
        from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]

        try:
            return self._send("POST", path, body, "application/json", _request_timeout=_request_timeout)
        except ApiException as error:
            if message_of(error)[1] is not None or not error.body:
                raise
            said = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body)
            kind = (
                ApiUnavailableError
                if error.status in (408, 429) or error.status >= 500
                else ConfigurationError
            )
            raise kind(
                f"The pod answered {error.status}: {shown_value(said, 300)}", f"Wanted: {path}"
            ) from error

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

    def _ask(
        self,
        what: str,
        call: Callable[..., Any],
        patience: float = PATIENCE_SECONDS,
        *,
        answer_within: float = ANSWER_SECONDS,
    ) -> Any:
        return ask(what, call, ADVICE, conn_id=self.conn_id, patience=patience, answer_within=answer_within)

    def check(self) -> str:
        """Say in one line what was reached.

        :raises ConfigurationError: KServe is not installed, or the user lacks a right, which is named
        """
        call = asking_for(self._objects.list_namespaced_custom_object, *_kind(self.namespace))
        with contextlib.suppress(ForbiddenError):  # KServe is there; which right is missing is said below
            self._ask("list services", call, 0.0)
        if missing := self.missing(RIGHTS, self.namespace):
            raise ConfigurationError(
                f"KServe is there, but the connection's user may not {', '.join(missing)} in namespace {self.namespace!r}. "
                f"{ADVICE.rights}"
            )
        return f"KServe answers through connection {self.conn_id!r}, with every right in namespace {self.namespace!r}"

    def missing(self, rights: Iterable[tuple[str, str]], namespace: str) -> list[str]:
        """Those of some rights that the connection's user lacks, in words.

        :param rights: verb and resource of each
        :param namespace: where
        """
        return missing_rights(self._client, self._ask, rights, namespace)


def _waiting(service: Mapping[str, Any]) -> str:
    """A service that is being deleted, with who has yet to agree."""
    finalizers = service["metadata"].get("finalizers") or []
    return f"the InferenceService (finalizers: {', '.join(finalizers) or 'none'})"


def _kind(namespace: str) -> tuple[str, str, str, str]:
    return GROUP, VERSION, namespace, PLURAL


def _through_api_server(namespace: str, pod: Mapping[str, Any], path: str) -> str:
    """Where the API server hands a request on to a pod."""
    return f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}:{_port(pod)}/proxy{path}"


def _port(pod: Mapping[str, Any]) -> int:
    container = next(
        (each for each in pod["spec"]["containers"] if each["name"] == CONTAINER),
        pod["spec"]["containers"][0],
    )
    ports = container.get("ports") or []
    return int(ports[0]["containerPort"]) if ports else 8080
