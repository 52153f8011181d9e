"""Connection to an MLflow tracking server and model registry."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
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
REQUEST_TIMEOUT_SECONDS = 30.0
MODELS_PER_PAGE = 100
MAX_EXPERIMENTS = 1000  # that runs are looked for in
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

    def registered_models(
        self,
        *,
        name_contains: str | None = None,
        page_token: str | None = None,
        max_results: int = MODELS_PER_PAGE,
        timeout: float = REQUEST_TIMEOUT_SECONDS,
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Registered models as MLflow describes them, with their aliases and newest versions; those changed last come first.

        :param name_contains: a part of their names, in any case of letters, without quotes; all of them when ``None``
        :param page_token: what a former call has returned for the next page
        :param max_results: most of a page
        :param timeout: seconds to wait for each part of the answer
        :returns: the models, and the token of the next page, ``None`` where there is none
        :raises ConfigurationError: MLflow refuses the request, or the connection is none
        :raises ApiUnavailableError: the server cannot be reached, or failed
        """
        query = {"max_results": str(max_results), "order_by": "last_updated_timestamp DESC"}
        if name_contains is not None:
            query["filter"] = f"name ILIKE '%{name_contains}%'"
        if page_token is not None:
            query["page_token"] = page_token
        found = self._get("registered-models/search", query, timeout)
        return found.get("registered_models", []), found.get("next_page_token") or None

    def model_versions_of(
        self, names: Sequence[str], version: str, *, timeout: float = REQUEST_TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        """The versions of one number of several registered models, with their tags; those that there are.

        :param names: names in the registry, without quotes
        :param version: their number
        :param timeout: seconds to wait for each part of the answer
        :raises ConfigurationError: MLflow refuses the request, or the connection is none
        :raises ApiUnavailableError: the server cannot be reached, or failed
        """
        listed = ", ".join(f"'{name}'" for name in names)
        query = {
            "filter": f"name IN ({listed}) AND version_number = {int(version)}",
            "max_results": str(len(names)),
        }
        found: list[dict[str, Any]] = self._get("model-versions/search", query, timeout).get(
            "model_versions", []
        )
        return found

    def runs(
        self, run_ids: Sequence[str], *, timeout: float = REQUEST_TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        """Runs as MLflow describes them, found in two requests: in the experiments that changed last, :data:`MAX_EXPERIMENTS` of them.

        :param run_ids: the runs
        :param timeout: seconds to wait for each part of the answer
        :raises ConfigurationError: MLflow refuses the request, or the connection is none
        :raises ApiUnavailableError: the server cannot be reached, or failed
        """
        newest = {"max_results": MAX_EXPERIMENTS, "order_by": ["last_update_time DESC"]}
        experiments = self._post("experiments/search", newest, timeout).get("experiments", [])
        listed = ", ".join(f"'{run_id}'" for run_id in run_ids)
        asked = {
            "experiment_ids": [each["experiment_id"] for each in experiments],
            "filter": f"attributes.run_id IN ({listed})",
            "max_results": len(run_ids),
        }
        found: list[dict[str, Any]] = self._post("runs/search", asked, timeout).get("runs", [])
        return found

    def _get(
        self, path: str, query: Mapping[str, str], timeout: float = REQUEST_TIMEOUT_SECONDS
    ) -> dict[str, Any]:
        return self._ask(f"{path}?{urlencode(query)}", None, timeout)

    def _post(self, path: str, body: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        return self._ask(path, body, timeout)

    def _ask(self, path: str, body: Mapping[str, Any] | None, timeout: float) -> dict[str, Any]:
        address = f"{self.tracking_uri()}/api/2.0/mlflow/{path}"
        answer = request(address, body=body, timeout=timeout, **self._credentials())
        try:
            found = parse_json(answer)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ConfigurationError(
                "The answer is no JSON. Is this the address of an MLflow server?", f"Address: {address}"
            )
        return found

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

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Log metrics of a run, as of now.

        :param run_id: the run
        :param metrics: numbers by name
        :raises ConfigurationError: the connection is none, or the server refuses it
        :raises ApiUnavailableError: the server cannot be reached, or failed
        """
        now = int(time.time() * 1000)
        request(
            f"{self.tracking_uri()}/api/2.0/mlflow/runs/log-batch",
            body={
                "run_id": run_id,
                "metrics": [
                    {"key": name, "value": value, "timestamp": now, "step": 0}
                    for name, value in metrics.items()
                ],
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
