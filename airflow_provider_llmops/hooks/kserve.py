"""Connection to whatever runs services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_provider_llmops.backends.kubernetes.cluster import Cluster, aconnect, connect
from airflow_provider_llmops.backends.serving.access import ACCESS_FILE, ServiceAccess, path_of_access_file
from airflow_provider_llmops.backends.serving.question import ask_model
from airflow_provider_llmops.connections import LOCAL_FIELDS, SERVICES_FIELDS
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, shown_value
from airflow_provider_llmops.hooks.kubeflow import local_settings
from airflow_provider_llmops.http import request
from airflow_provider_llmops.json_text import parse_json
from airflow_provider_llmops.redaction import redact

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_provider_llmops.backends.serving.base import Service, ServingBackend
    from airflow_provider_llmops.backends.serving.kserve.reader import ServiceReader

__all__ = ["KServeHook"]

ANSWER_TIMEOUT_SECONDS = 120.0
_OF_CLUSTER = ("kserve_namespace", "predictor_resources", "service_account")


class KServeHook(BaseHook):
    """Deploy services and ask them.

    A connection that names a ``kubernetes_conn_id`` in extra runs services on that cluster, as KServe's ``InferenceService`` in standard
    mode. One that does not runs them on this machine, as detached predictors. Its password is the API key that services are asked with.

    :param kserve_conn_id: connection of type ``kserve``
    """

    conn_name_attr = "kserve_conn_id"
    default_conn_name = "kserve_default"
    conn_type = "kserve"
    hook_name = "KServe"

    def __init__(self, kserve_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.kserve_conn_id = kserve_conn_id

    @cached_property
    def _connection(self) -> Connection:
        """The connection, which a worker asks the API server for."""
        return self.get_connection(self.kserve_conn_id)

    @cached_property
    def backend(self) -> ServingBackend:
        """The backend that the connection chooses."""
        connection = self._connection
        kubernetes_conn_id = self._cluster_of(connection)
        if kubernetes_conn_id is None:
            return self._local(connection)
        return self._on(connect(kubernetes_conn_id), connection)

    async def aget_backend(self) -> ServingBackend:
        """The same from the triggerer, where connections are read asynchronously."""
        connection = await self.aget_connection(self.kserve_conn_id)
        kubernetes_conn_id = self._cluster_of(connection)
        if kubernetes_conn_id is None:
            return self._local(connection)
        return self._on(await aconnect(kubernetes_conn_id), connection)

    @asynccontextmanager
    async def ashared_backend(self, namespace: str) -> AsyncIterator[ServingBackend]:
        """The same, where all who wait in a namespace of a cluster share what they look at.

        :param namespace: the namespace
        """
        connection = await self.aget_connection(self.kserve_conn_id)
        kubernetes_conn_id = self._cluster_of(connection)
        if kubernetes_conn_id is None:
            yield self._local(connection)
            return
        from airflow_provider_llmops.backends.serving.kserve.shared import SharedReader, shared_objects

        cluster = await aconnect(kubernetes_conn_id)
        async with shared_objects(cluster, namespace) as shared:
            looks = SharedReader(shared, cluster.client, conn_id=cluster.conn_id)
            yield self._on(cluster, connection, looks)

    def _cluster_of(self, connection: Connection) -> str | None:
        """The Kubernetes connection of the cluster; ``None`` for this machine."""
        if connection.host:
            raise ConfigurationError(
                f"Connection {self.kserve_conn_id!r} names the host {connection.host!r}, which services are not reached by. Leave it empty, "
                "and set 'kubernetes_conn_id' in extra for a cluster, or 'python' for this machine."
            )
        extra = {name: value for name, value in connection.extra_dejson.items() if value not in (None, "")}
        found = extra.get("kubernetes_conn_id")
        if found is None:
            if of_cluster := [name for name in _OF_CLUSTER if name in extra]:
                raise ConfigurationError(
                    f"Connection {self.kserve_conn_id!r} has {of_cluster[0]!r} in extra, which is of a cluster, and no cluster. Add "
                    "'kubernetes_conn_id', or leave it out."
                )
            return None
        if not isinstance(found, str):
            raise ConfigurationError(
                f"Connection {self.kserve_conn_id!r}: 'kubernetes_conn_id' in extra must be the id of a connection, got "
                f"{shown_value(found, 60)}."
            )
        if local := sorted({*LOCAL_FIELDS, ACCESS_FILE} & set(extra)):
            raise ConfigurationError(
                f"Connection {self.kserve_conn_id!r} has a cluster, and {', '.join(local)} of services on this machine. Leave one out: a "
                "cluster's services take their API key from a secret."
            )
        return found

    def _local(self, connection: Connection) -> ServingBackend:
        from airflow_provider_llmops.backends.serving.local import LocalServingBackend

        settings = local_settings(connection, *SERVICES_FIELDS)
        return LocalServingBackend(python=settings["python"], root=settings["root"])

    def _on(
        self, cluster: Cluster, connection: Connection, looks: ServiceReader | None = None
    ) -> ServingBackend:
        from airflow_provider_llmops.backends.serving.kserve.cluster import KServeCluster
        from airflow_provider_llmops.backends.serving.kserve.gateway import KSERVE_NAMESPACE
        from airflow_provider_llmops.backends.serving.kserve.standard import StandardServingBackend

        has_key = ServiceAccess.of(connection).api_key is not None
        services = KServeCluster(
            cluster.client,
            conn_id=cluster.conn_id,
            namespace=cluster.namespace or "default",
            kserve_namespace=connection.extra_dejson.get("kserve_namespace") or KSERVE_NAMESPACE,
        )
        ask_service = self._ask_with_key if has_key else None
        return StandardServingBackend(services, ask_service=ask_service, looks=looks)

    def _ask_with_key(self, url: str, model: str, prompt: str, max_tokens: int) -> str:
        return self.ask(url, model, prompt, max_tokens=max_tokens)

    @cached_property
    def access(self) -> ServiceAccess:
        """What services are asked with. Whoever only asks needs no connection, unless it is named."""
        try:
            return ServiceAccess.of(self._connection)
        except AirflowNotFoundException:
            if self.kserve_conn_id != self.default_conn_name:
                raise
            return ServiceAccess()

    @property
    def access_file(self) -> str | None:
        """Who may ask the services that are deployed through this connection; everybody on this machine when ``None``."""
        return path_of_access_file(self._connection)

    def with_access_file(self, args: Mapping[str, Any] | None) -> dict[str, Any]:
        """Arguments of a model's server, with the connection's access file unless they name one.

        :param args: the arguments; none when ``None``
        """
        found = dict(args or {})
        given = found.get(ACCESS_FILE)
        access_file = self.access_file if given is None else str(given)
        return found if access_file is None else {**found, ACCESS_FILE: access_file}

    @cached_property
    def usual_resources(self) -> Mapping[str, Any] | None:
        """Requests and limits of services whose task gives none.

        :raises ConfigurationError: they are no object
        """
        found = self._connection.extra_dejson.get("predictor_resources") or None
        if isinstance(found, str):  # as a form or an environment variable may have it
            with suppress(ValueError):
                found = parse_json(found)
        if found is not None and not isinstance(found, dict):
            raise ConfigurationError(
                f"Connection {self.kserve_conn_id!r}: 'predictor_resources' in extra must be an object such as "
                f'{{"limits": {{"cpu": "4", "memory": "24Gi"}}}}, got {shown_value(found, 100)}.'
            )
        return found

    @property
    def usual_service_account(self) -> str | None:
        """Account of the pods of services whose task names none."""
        return self._connection.extra_dejson.get("service_account") or None

    def get_conn(self) -> ServingBackend:
        """The backend."""
        return self.backend

    def apply(self, manifest: Mapping[str, Any]) -> str:
        """Start a revision and return its name at once; traffic stays where it is.

        :param manifest: an ``InferenceService``
        """
        return self.backend.apply(manifest)[0].revision

    def get_service(self, name: str, namespace: str = "default") -> Service:
        """Read a service.

        :param name: name of the service
        :param namespace: its namespace
        """
        return self.backend.get(namespace, name)

    def ask(self, url: str, model: str, prompt: str, **settings: Any) -> str:
        """Ask a model one question through the OpenAI API, with the connection's API key, and return its answer.

        A model without a chat template, as base models are, gets the question as a text to complete.

        :param url: address of a service, without the API's path
        :param model: name of the model
        :param prompt: the question
        :param settings: further fields of the request, for example ``max_tokens``
        :raises ConfigurationError: the server refuses the question or the key
        :raises ApiUnavailableError: the server cannot be reached, or does not answer as a language model does
        """
        base = url.rstrip("/")

        def post(path: str, body: dict[str, Any]) -> Any:
            address = f"{base}/{path}"
            content = request(
                address,
                body=body,
                timeout=ANSWER_TIMEOUT_SECONDS,
                api_key=self.access.api_key,
                context=self.access.context,
            )
            try:
                return parse_json(content)
            except ValueError as error:
                raise ApiUnavailableError(
                    f"The service did not answer as a language model does: {shown_value(content, 200)}",
                    f"Address: {address}",
                ) from error

        return ask_model(post, model, prompt, settings, address=base)

    def test_connection(self) -> tuple[bool, str]:
        """Whether the backend can be used, and why not."""
        try:
            return True, self.backend.check()
        except Exception as error:
            return False, redact(str(error))
