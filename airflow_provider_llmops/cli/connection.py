"""What a command on this machine takes from a local connection."""

from __future__ import annotations

import os
from typing import Any

from airflow_provider_llmops.cli import CommandError

DEFAULT_CONN_ID = "kubeflow_default"


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
