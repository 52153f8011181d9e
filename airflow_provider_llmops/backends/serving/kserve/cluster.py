"""What the API server of a cluster with KServe is asked: services, what carries them out, what they were before, their pods."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from airflow_provider_llmops.backends.kubernetes.asking import (
    PATIENCE_SECONDS,
    AlreadyThereError,
    ForbiddenError,
)
from airflow_provider_llmops.backends.kubernetes.messages import message_of
from airflow_provider_llmops.backends.kubernetes.requests import (
    asking_for,
    asking_for_items,
    document_of,
    list_pods,
    log_end,
)
from airflow_provider_llmops.backends.serving.kserve import history
from airflow_provider_llmops.backends.serving.kserve.answered import METRICS_PATH
from airflow_provider_llmops.backends.serving.kserve.gateway import KSERVE_NAMESPACE
from airflow_provider_llmops.backends.serving.kserve.reader import ServiceReader, kind_in
from airflow_provider_llmops.backends.serving.kserve.reading import FIELD_MANAGER, port_of
from airflow_provider_llmops.backends.serving.kserve.rights import (
    ADVICE,
    RIGHTS,
    WATCH_RIGHTS,
    missing_rights,
)
from airflow_provider_llmops.backends.serving.kserve.rules import GROUP, PLURAL, SERVICE_LABEL, VERSION
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    RunNotFoundError,
    shown_value,
)

SMOKE_SECONDS = 120.0
_APPLY = "application/apply-patch+yaml"


class KServeCluster(ServiceReader):
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
        from kubernetes.client import AutoscalingV2Api  # type: ignore[import-untyped]

        super().__init__(client, conn_id=conn_id, kserve_namespace=kserve_namespace)
        self.namespace = namespace
        self._scalers = AutoscalingV2Api(client)

    def delete(self, namespace: str, name: str) -> None:
        """Delete a service, and with it what belongs to it; nothing if it is gone."""
        call = partial(self._objects.delete_namespaced_custom_object, *kind_in(namespace), name)
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

    def check(self) -> str:
        """Say in one line what was reached.

        :raises ConfigurationError: KServe is not installed, or the user lacks a right, which is named
        """
        call = asking_for(self._objects.list_namespaced_custom_object, *kind_in(self.namespace))
        with contextlib.suppress(ForbiddenError):  # KServe is there; which right is missing is said below
            self._ask("list services", call, 0.0)
        if missing := self.missing(RIGHTS, self.namespace):
            raise ConfigurationError(
                f"KServe is there, but the connection's user may not {', '.join(missing)} in namespace {self.namespace!r}. "
                f"{ADVICE.rights}"
            )
        reached = f"KServe answers through connection {self.conn_id!r}, with every right in namespace {self.namespace!r}"
        if missing := self.missing(WATCH_RIGHTS, self.namespace):
            reached += f". Each task that waits asks for itself, since the user may not {', '.join(missing)}"
        return reached

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


def _through_api_server(namespace: str, pod: Mapping[str, Any], path: str) -> str:
    """Where the API server hands a request on to a pod."""
    return f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}:{port_of(pod)}/proxy{path}"
