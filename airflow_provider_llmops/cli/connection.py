"""What a command on this machine takes from a local connection."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.cli import CommandError
from airflow_provider_llmops.json_text import parse_json

if TYPE_CHECKING:
    from airflow_provider_llmops.backends.data_plane import DataPlane

DEFAULT_CONN_ID = "kubeflow_default"
DEFAULT_MLFLOW_CONN_ID = "mlflow_default"
_TIMEOUT_SECONDS = 3600.0


def find_connections() -> None:
    """Let connections be found in Airflow's database, too: Airflow looks there for its own processes alone."""
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"


def settings_of_connection(conn_id: str, instead: str) -> dict[str, Any]:
    """Root, interpreter and retention of a local connection.

    :param conn_id: the connection
    :param instead: what to do where it cannot be used, for the message
    :raises CommandError: it does not exist, is not valid, or is one of a cluster
    """
    from airflow.sdk.exceptions import AirflowNotFoundException

    from airflow_provider_llmops.exceptions import LLMOpsError
    from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook, local_settings

    try:
        connection = KubeflowPipelinesHook.get_connection(conn_id)
        if connection.host:
            raise CommandError(
                f"connection {conn_id!r} names the host {connection.host!r}: its runs are not on this machine."
            )
        return local_settings(connection, "slots", "retention")
    except (LLMOpsError, AirflowNotFoundException) as error:
        raise CommandError(
            f"connection {conn_id!r} cannot be used: {str(error).rstrip('.')}. {instead}"
        ) from error


def ask_data_plane(
    data_plane: DataPlane, arguments: Sequence[str], to_do: str, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What a command of the data plane answers as JSON.

    :param data_plane: whose interpreter carries it out
    :param arguments: of the interpreter
    :param to_do: what it does, for the message that it could not
    :param environment: further variables
    :raises CommandError: it could not, or says why not
    """
    from airflow_provider_llmops.backends.data_plane import last_line

    answer = data_plane.run(arguments, timeout=_TIMEOUT_SECONDS, environment=environment)
    try:
        value: dict[str, Any] = parse_json(answer.stdout)
    except ValueError:
        raise CommandError(f"{data_plane.python} could not {to_do}: {last_line(answer.stderr)}") from None
    if error := value.get("error"):
        raise CommandError(error["message"])
    return value
