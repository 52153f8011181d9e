"""Connection to an endpoint that speaks OpenAI's API."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from airflow_provider_llmops.backends.serving.access import SERVICE_PREFIX, ServiceAccess
from airflow_provider_llmops.exceptions import ConfigurationError, LLMOpsError
from airflow_provider_llmops.http import request
from airflow_provider_llmops.json_text import parse_json
from airflow_provider_llmops.uris import server_address

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["OpenAIEndpointHook"]

TIMEOUT_SECONDS = 30.0
_MODELS_NAMED = 5


class OpenAIEndpointHook(BaseHook):
    """Where an OpenAI-compatible endpoint is, and with which key it is asked: vLLM, a service of KServe, Dify, or OpenAI itself.

    Host is the base URL, which ends in ``/v1``; password the API key.

    :param openai_endpoint_conn_id: connection of type ``openai_endpoint``
    """

    conn_name_attr = "openai_endpoint_conn_id"
    default_conn_name = "openai_endpoint_default"
    conn_type = "openai_endpoint"
    hook_name = "OpenAI-compatible endpoint"

    def __init__(self, openai_endpoint_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.openai_endpoint_conn_id = openai_endpoint_conn_id

    @cached_property
    def _connection(self) -> Connection:
        """The connection, which a worker asks the API server for."""
        return self.get_connection(self.openai_endpoint_conn_id)

    @property
    def url(self) -> str:
        """The base URL.

        :raises ConfigurationError: the host is none
        """
        found = self._connection
        address = server_address(found.host or "", found.port, found.schema or "https")
        if address is None:
            raise ConfigurationError(
                f"Connection {self.openai_endpoint_conn_id!r}: the host must be the base URL of an OpenAI API without credentials, like "
                "https://api.example.com/v1; the API key is the password."
            )
        return address

    @cached_property
    def access(self) -> ServiceAccess:
        """The API key, and how certificates are verified."""
        return ServiceAccess.of(self._connection)

    def get_conn(self) -> str:
        """The base URL."""
        return self.url

    def environment(self, prefix: str = SERVICE_PREFIX) -> dict[str, str]:
        """Key and authorities for a step of the data plane.

        :param prefix: what the variables begin with
        """
        return self.access.environment(prefix)

    def with_url(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings with the connection's address, unless they name one, which has to be the same: the key is meant for it.

        :param settings: settings of whom to ask
        :raises ConfigurationError: they name another address
        """
        embeddings = settings.get("embeddings")
        also = embeddings.get("url") if isinstance(embeddings, dict) else None
        for what, given in (("url", settings.get("url")), ("url of embeddings", also)):
            if (given or self.url).rstrip("/") != self.url.rstrip("/"):
                raise ConfigurationError(
                    f"The {what} is {given}, and connection {self.openai_endpoint_conn_id!r} has another one, which its key is meant for. "
                    f"Leave the {what} out."
                )
        return {**settings, "url": self.url}

    def test_connection(self) -> tuple[bool, str]:
        """Whether the endpoint lists its models."""
        try:
            content = request(
                f"{self.url}/models",
                timeout=TIMEOUT_SECONDS,
                api_key=self.access.api_key,
                context=self.access.context,
            )
            names = [str(each["id"]) for each in parse_json(content)["data"]]
        except LLMOpsError as error:
            return False, str(error)
        except (ValueError, LookupError, TypeError):
            return (
                False,
                f"{self.url}/models does not list models as OpenAI's API does. Is this the base URL?",
            )
        more = f" and {len(names) - _MODELS_NAMED} more" if len(names) > _MODELS_NAMED else ""
        return True, f"{self.url} serves {', '.join(names[:_MODELS_NAMED]) or 'no model'}{more}."
