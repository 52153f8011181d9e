"""Registered models, as OpenLineage is told of them."""

from __future__ import annotations

from typing import Any

from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_provider_llmops.exceptions import LLMOpsError
from airflow_provider_llmops.hooks.mlflow import MlflowHook
from airflow_provider_llmops.openlineage.lineage import Touched
from airflow_provider_llmops.uris import place_of

__all__ = ["registered_model"]


def registered_model(
    conn_id: str, name: str, *, digest: str | None = None, **known: Any
) -> tuple[Touched, ...]:
    """A model in the registry of a connection; nothing where there is no such connection.

    :param conn_id: connection of type ``mlflow``
    :param name: of the model
    :param digest: of the version's files
    :param known: its ``version`` and ``alias``, as far as they are known
    """
    try:
        server = MlflowHook(conn_id).tracking_uri()
    except (AirflowNotFoundException, LLMOpsError):
        return ()
    facts = {key: str(value) for key, value in known.items() if value not in (None, "")}
    return (
        Touched(
            f"mlflow://{place_of(server)}",
            name=name,
            kind="MODEL",
            digest=digest,
            known_as={"name": name, **facts},
        ),
    )
