"""Connection to an object store, as the steps of a run have it: in their environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.object_store import check_aws

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["StorageHook"]

# Fields of Airflow's `aws` connection in its extra, and the variables by which every client of S3 knows them.
_VARIABLES = {
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "AWS_SESSION_TOKEN",
    "region_name": "AWS_DEFAULT_REGION",
    "endpoint_url": "AWS_ENDPOINT_URL",
}


class StorageHook(BaseHook):
    """The keys of an ``aws`` connection, for steps that read from S3 or a store that speaks its protocol.

    Login and password are the access key; ``region_name``, ``endpoint_url`` and ``aws_session_token`` stand in extra. What else such a connection
    may hold, as a role to take, is refused: a step has the service account or the role of its pod for that.

    :param storage_conn_id: connection of type ``aws``
    """

    conn_name_attr = "storage_conn_id"
    default_conn_name = "aws_default"

    def __init__(self, storage_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.storage_conn_id = storage_conn_id

    def get_conn(self) -> Connection:
        """The connection."""
        return self.get_connection(self.storage_conn_id)

    def environment(self) -> dict[str, str]:
        """Keys, region and address of the store for a step.

        :raises ConfigurationError: the connection is of another type, or holds what a step could not honour
        """
        connection = self.get_conn()
        where = f"Connection {self.storage_conn_id!r}"
        if connection.conn_type != "aws":
            raise ConfigurationError(
                f"{where} is of the type {connection.conn_type!r}. A step is given the keys of one of type 'aws'; for another store, give the step's "
                "pod or worker what its clients look for."
            )
        check_aws(connection)
        extra: dict[str, Any] = {name: value for name, value in connection.extra_dejson.items() if value}
        if unknown := sorted(set(extra) - set(_VARIABLES)):
            raise ConfigurationError(
                f"{where} has {', '.join(unknown)} in extra, which a step would not honour. Leave it out, or leave storage_conn_id out, and give the "
                "step's pod or worker a role."
            )
        given = {
            "aws_access_key_id": connection.login,
            "aws_secret_access_key": connection.password,
        }
        found = {**extra, **{name: value for name, value in given.items() if value}}
        if not {"aws_access_key_id", "aws_secret_access_key"} <= found.keys():
            raise ConfigurationError(f"{where} has no access key: give it as login and password.")
        return {_VARIABLES[name]: str(value) for name, value in found.items()}
