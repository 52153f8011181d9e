"""Object stores as Airflow reads them: the place behind an address, and what the errors of their libraries mean."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_provider_llmops import uris
from airflow_provider_llmops.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import Connection, ObjectStoragePath

STORE_SECONDS = (
    60.0  # a store that does not answer is asked several times by its library, for minutes each time
)
HINT = "Check the address, and region_name, endpoint_url and aws_session_token in the extra of the connection"
_NO_BUCKET = "bucket does not exist|NoSuchBucket"
# S3 answers with no more than this where a region, an address or a session token is not the right one.
_ELSEWHERE = f"{_NO_BUCKET}|Moved Permanently|Redirect|Bad Request|AuthorizationHeaderMalformed|ExpiredToken"

Meaning = Literal["setup", "rights", "elsewhere", "outage"]


def storage_path(uri: str, conn_id: str | None) -> ObjectStoragePath:
    """The place that an address names, as it is now: what an earlier look at it has listed is forgotten.

    :param uri: address, or an absolute path
    :param conn_id: Airflow connection for the storage
    :raises ConfigurationError: the connection is none to that storage
    """
    from airflow.sdk import ObjectStoragePath

    if not (scheme := uris.scheme_of(uri)):
        return ObjectStoragePath(uri)
    if scheme == "file":
        return ObjectStoragePath(f"file://{uris.file_path(uri, 'The address')}")
    address = uris.storage_address(uri)
    options: dict[str, Any] = {"conn_id": conn_id} if conn_id else {}
    path = ObjectStoragePath(address, **options)
    if uris.scheme_of(address) == "s3" and path.conn_id:
        _check_type(path.conn_id)
    path.fs.invalidate_cache()
    return path


def _check_type(conn_id: str) -> None:
    """Refuse what Airflow would ask Amazon's store for without credentials: a connection that is missing, or is one to something else."""
    connection = BaseHook.get_connection(conn_id)
    if connection.conn_type != "aws":
        raise ConfigurationError(
            f"Connection {conn_id!r} is of the type {connection.conn_type!r}, and s3:// needs one of the type 'aws'."
        )
    check_aws(connection)


def check_aws(connection: Connection) -> None:
    """Refuse an ``aws`` connection whose store is given where no client looks, or in a way that none takes.

    :param connection: the connection
    :raises ConfigurationError: it has a host, or an ``endpoint_url`` that is none
    """
    where = f"Connection {connection.conn_id!r}"
    if connection.host:
        raise ConfigurationError(
            f"{where} has a host, which clients of S3 do not look at: give the address of the store as endpoint_url in extra."
        )
    given = connection.extra_dejson.get("endpoint_url")
    if given and uris.server_address(str(given), None, "") is None:
        raise ConfigurationError(
            f"{where} has an endpoint_url in extra that is no http:// or https:// address, or has a login in it. Access key and "
            "secret are its login and password."
        )


def check_bucket(path: ObjectStoragePath) -> None:
    """Raise the storage library's error where nothing is found because there is no such bucket.

    :param path: a place where nothing was found
    """
    try:
        path.fs.ls(path.path)
    except FileNotFoundError as error:
        if re.search(_NO_BUCKET, str(error)):
            raise


def meaning_of(error: Exception) -> Meaning:
    """What the error of a storage library says. They have errors of their own, that are no ``OSError``, for a lost connection.

    :param error: what was raised
    :return: ``setup`` where library or connection is missing, ``rights`` where an account is missing or may not, ``elsewhere`` where
        the store has no such bucket, or wants to be asked in another way, ``outage`` for all else
    """
    if isinstance(error, LookupError | ImportError | ValueError | AirflowNotFoundException):
        return "setup"
    # Libraries call a missing account NoCredentialsError and the like.
    if isinstance(error, PermissionError) or "credentials" in type(error).__name__.lower():
        return "rights"
    return "elsewhere" if re.search(_ELSEWHERE, str(error)) else "outage"


def words_of(error: Exception) -> str:
    """What an error says, on one line and without a stop.

    :param error: what was raised
    """
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
