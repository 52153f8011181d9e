"""Connection to an MLflow tracking server and model registry."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from airflow.sdk import BaseHook

from airflow_provider_llmops.exceptions import ConfigurationError, LLMOpsError
from airflow_provider_llmops.http import header_fault, request
from airflow_provider_llmops.json_text import parse_json
from airflow_provider_llmops.uris import server_address

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["MlflowHook"]

CHECK_TIMEOUT_SECONDS = 10
REQUEST_TIMEOUT_SECONDS = 30
MAX_TAG_CHARACTERS = 5000  # https://mlflow.org/docs/latest/rest-api.html#request-limits


class MlflowHook(BaseHook):
    """Address and credentials of an MLflow server.

    :param mlflow_conn_id: connection of type ``mlflow``
    """

    conn_name_attr = "mlflow_conn_id"
    default_conn_name = "mlflow_default"
    conn_type = "mlflow"
    hook_name = "MLflow"

    def __init__(self, mlflow_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.mlflow_conn_id = mlflow_conn_id

    def get_conn(self) -> Connection:
        """The connection."""
        return self.get_connection(self.mlflow_conn_id)

    @cached_property
    def _connection(self) -> Connection:
        """The connection, which a worker asks the API server for."""
        return self.get_conn()

    def tracking_uri(self) -> str:
        """The server's address, without credentials.

        :raises ConfigurationError: the connection's host is not an http or https address
        """
        connection = self._connection
        address = server_address(connection.host or "", connection.port, "http")
        if address is None:
            raise ConfigurationError(
                f"Connection {self.mlflow_conn_id!r}: the host must be an http or https address without credentials, like "
                "https://mlflow.example.com; user and password have fields of their own."
            )
        return address

    def environment(self) -> dict[str, str]:
        """Credentials as MLflow's own environment variables.

        :raises ConfigurationError: the token cannot be sent; MLflow would say so in words that repeat it
        """
        found = self._credentials()
        if "login" in found:
            user, password = found["login"]
            return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
        return {"MLFLOW_TRACKING_TOKEN": found["api_key"]} if found else {}

    def model_version(
        self, name: str, *, version: str | None = None, alias: str | None = None
    ) -> dict[str, Any]:
        """A registered model version, as MLflow describes it, with its tags.

        :param name: name in the registry
        :param version: its number; or
        :param alias: an alias, whose version is taken
        :raises ConfigurationError: there is no such version, or the connection is none
        :raises ApiUnavailableError: the server cannot be reached, or failed
        """
        which = f"version {version}" if version is not None else f"alias {alias!r}"
        if version is not None:
            query = ("model-versions/get", {"name": name, "version": version})
        else:
            query = ("registered-models/alias", {"name": name, "alias": alias or ""})
        try:
            found: dict[str, Any] = self._get(*query)["model_version"]
        except ConfigurationError as error:
            if "not found" not in str(error):
                raise
            raise ConfigurationError(
                f"There is no {which} of a registered model {name!r}. Look for its name and versions in MLflow: {self.tracking_uri()}"
            ) from error
        return found

    def run(self, run_id: str) -> dict[str, Any]:
        """A run, as MLflow describes it: ``info``, ``data`` and ``inputs``.

        :param run_id: the run
        :raises ConfigurationError: there is no such run, or the connection is none
        :raises ApiUnavailableError: the server cannot be reached, or failed
        """
        found: dict[str, Any] = self._get("runs/get", {"run_id": run_id})["run"]
        return found

    def _get(self, path: str, query: Mapping[str, str]) -> Any:
        address = f"{self.tracking_uri()}/api/2.0/mlflow/{path}?{urlencode(query)}"
        answer = request(address, timeout=REQUEST_TIMEOUT_SECONDS, **self._credentials())
        try:
            return parse_json(answer)
        except ValueError:
            raise ConfigurationError(
                "The answer is no JSON. Is this the address of an MLflow server?", f"Address: {address}"
            ) from None

    def tag_run(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run; values that are too long are cut.

        :param run_id: the run
        :param tags: values by name
        :raises ConfigurationError: the connection is none, or the server refuses it
        :raises ApiUnavailableError: the server cannot be reached, or failed
        """
        request(
            f"{self.tracking_uri()}/api/2.0/mlflow/runs/log-batch",
            body={
                "run_id": run_id,
                "tags": [{"key": name, "value": value[:MAX_TAG_CHARACTERS]} for name, value in tags.items()],
            },
            timeout=REQUEST_TIMEOUT_SECONDS,
            **self._credentials(),
        )

    def _credentials(self) -> dict[str, Any]:
        """As a request takes them: ``login`` or ``api_key``, or neither."""
        connection = self._connection
        if connection.password and connection.login:
            return {"login": (connection.login, connection.password)}
        if connection.password:
            if fault := header_fault(connection.password):
                raise ConfigurationError(
                    f"Connection {self.mlflow_conn_id!r}: the password is sent as a token in a header, which cannot hold it: {fault}. "
                    "Give the token alone, or a login beside the password."
                )
            return {"api_key": connection.password}
        return {}

    def test_connection(self) -> tuple[bool, str]:
        """Whether the server answers its health check."""
        try:
            address = self.tracking_uri()
            request(f"{address}/health", timeout=CHECK_TIMEOUT_SECONDS)
        except LLMOpsError as error:
            return False, str(error)
        return True, f"MLflow at {address} is healthy"


def version_of(given: Any) -> str | None:
    """A version's number as text: a template of native objects makes a number of it.

    :param given: the number, or nothing
    """
    return None if given in (None, "") else str(given)
