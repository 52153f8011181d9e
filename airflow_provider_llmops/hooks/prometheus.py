"""Connection to a Prometheus server."""

from __future__ import annotations

import base64
from functools import cached_property
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook

from airflow_provider_llmops.backends.serving.access import tls_context
from airflow_provider_llmops.backends.serving.prometheus import PrometheusServer
from airflow_provider_llmops.exceptions import ConfigurationError, LLMOpsError
from airflow_provider_llmops.http import header_fault
from airflow_provider_llmops.uris import server_address

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["PrometheusHook"]


class PrometheusHook(BaseHook):
    """Ask a Prometheus server, or another one that speaks its API, such as Thanos or Mimir.

    A login beside the password is sent by HTTP's basic scheme, a password alone as a bearer token.

    :param prometheus_conn_id: connection of type ``prometheus``
    """

    conn_name_attr = "prometheus_conn_id"
    default_conn_name = "prometheus_default"
    conn_type = "prometheus"
    hook_name = "Prometheus"

    def __init__(self, prometheus_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.prometheus_conn_id = prometheus_conn_id

    @cached_property
    def server(self) -> PrometheusServer:
        """The server that the connection names."""
        return self._of(self.get_connection(self.prometheus_conn_id))

    async def aget_server(self) -> PrometheusServer:
        """The same from the triggerer, where connections are read asynchronously."""
        return self._of(await self.aget_connection(self.prometheus_conn_id))

    def get_conn(self) -> PrometheusServer:
        """The server."""
        return self.server

    def test_connection(self) -> tuple[bool, str]:
        """Whether the server answers a query."""
        try:
            return True, self.server.check()
        except LLMOpsError as error:
            return False, str(error)

    def _of(self, connection: Connection) -> PrometheusServer:
        where = f"Connection {self.prometheus_conn_id!r}"
        address = server_address(connection.host or "", connection.port, connection.schema or "http")
        if address is None:
            raise ConfigurationError(
                f"{where}: the host must be an http or https address without credentials, like http://prometheus.monitoring:9090; user "
                "and password have fields of their own."
            )
        extra = {name: value for name, value in connection.extra_dejson.items() if value not in (None, "")}
        context = tls_context(extra, where)
        if connection.login and ":" in connection.login:
            raise ConfigurationError(
                f"{where}: the login has a colon, which HTTP's basic scheme cannot send."
            )
        if connection.login:
            login = (connection.login, connection.password or "")
            _mask(base64.b64encode(":".join(login).encode()).decode())
            return PrometheusServer(address, login=login, context=context)
        if connection.password and (fault := header_fault(connection.password)):
            raise ConfigurationError(
                f"{where}: the password is sent as a token in a header, which cannot hold it: {fault}. Give the token alone, or a login "
                "beside the password."
            )
        return PrometheusServer(address, token=connection.password or None, context=context)


def _mask(secret: str) -> None:
    from airflow.sdk.log import mask_secret

    mask_secret(secret)
