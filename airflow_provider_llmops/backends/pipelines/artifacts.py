"""Read what steps wrote below the pipeline root: object storage through Airflow's own connections, or a shared disk.

A step writes each output to ``<step's root>/<attempt>/<output>``, where the attempt is a random name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_provider_llmops import uris
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    LLMOpsError,
    ResultError,
    ResultTooLargeError,
)
from airflow_provider_llmops.results import MAX_RESULT_BYTES, artifacts_in

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

RESULT = "result"


def read_result(roots: Sequence[str], run_id: str, task: str, conn_id: str | None) -> tuple[str, str]:
    """Text and address of a step's ``result``.

    :param roots: places where the step may have written
    :param run_id: the run, for messages
    :param task: the step, for messages
    :param conn_id: Airflow connection for the storage
    :raises ResultError: there is none
    """
    with _reading(roots[0], conn_id):
        for attempt in _attempts(roots, conn_id):
            path = attempt / RESULT
            if path.exists():
                content = _beginning(path)
                if len(content) > MAX_RESULT_BYTES:
                    raise ResultTooLargeError(
                        f"The result of step {task} is larger than {MAX_RESULT_BYTES >> 20} MiB. Hand on what is large as an artifact.",
                        f"Run: {run_id}",
                        f"Result: {path}",
                    )
                return content.decode("utf-8", errors="replace"), str(path)
    raise ResultError(
        f"Step {task} succeeded and left no result. The component's image does not belong to this provider, the pipeline "
        "root is another than the connection's, or artifacts were cleaned up. Clear the task to run it again.",
        f"Run: {run_id}",
        f"Looked below: {roots[0]}",
    )


def list_outputs(roots: Sequence[str], conn_id: str | None) -> dict[str, str]:
    """Address of each output of a step's last attempt, by its name.

    :param roots: places where the step may have written
    :param conn_id: Airflow connection for the storage
    """
    with _reading(roots[0], conn_id):
        for attempt in _attempts(roots, conn_id):
            if outputs := {
                path.name: f"{_original(roots, attempt)}/{path.name}" for path in attempt.iterdir()
            }:
                return outputs
    return {}


def input_digest(uri: str, conn_id: str | None) -> str | None:
    """Something that changes when the content at an address does; ``None`` if it cannot be told.

    The output of a component of this provider has its content digest in the ``result`` beside it. Of another file or
    object, it is what its storage tells apart versions by: an ETag, or time and size.

    :param uri: address of an artifact, or an absolute path
    :param conn_id: Airflow connection for the storage
    """
    try:
        path = storage_path(uri.rstrip("/"), conn_id)
        beside = path.parent / RESULT
        if beside.is_file():
            if beside.stat().st_size > MAX_RESULT_BYTES:
                return None
            for artifact in artifacts_in(beside.read_text(encoding="utf-8")).values():
                if artifact.uri.rstrip("/") == uri.rstrip("/"):
                    return artifact.digest
        return f"{uri} {path.checksum()}" if path.is_file() else None
    except Exception:  # whatever a storage library or a foreign file raises, it cannot be told
        return None


def _beginning(path: ObjectStoragePath) -> bytes:
    """A result, or a byte more of it than there may be: whatever its storage says of its size."""
    with path.open("rb") as stream:  # type: ignore[no-untyped-call]
        content: bytes = stream.read(MAX_RESULT_BYTES + 1)
    return content


def _attempts(roots: Iterable[str], conn_id: str | None) -> Iterable[ObjectStoragePath]:
    """The attempts of a step, the newest first."""
    for root in roots:
        path = storage_path(root, conn_id)
        if path.exists():
            found = [entry for entry in path.iterdir() if entry.is_dir()]
            yield from sorted(found, key=_changed_at, reverse=True)
            return


@contextmanager
def _reading(root: str, conn_id: str | None) -> Iterator[None]:
    """Say what a storage library's error means. They have errors of their own, that are no ``OSError``, for a lost connection.

    :param root: where is read, for messages
    :param conn_id: Airflow connection for the storage
    """
    where = f"Looked below: {root}"
    try:
        yield
    except LLMOpsError:
        raise
    except (LookupError, ImportError, ValueError, AirflowNotFoundException) as error:
        raise ConfigurationError(
            f"Artifacts cannot be read: {_words_of(error)}. Install the Airflow provider of that storage (pip install "
            "'airflow-provider-llmops[s3]', [gs] for gs://), and name its connection in 'storage_conn_id'.",
            where,
        ) from error
    except Exception as error:
        words = _words_of(error)
        if not _is_about_rights(error):
            raise ApiUnavailableError(f"The artifact store did not answer: {words}.", where) from error
        raise ConfigurationError(
            f"Artifacts may not be read: {words}. Name a connection whose account may in 'storage_conn_id', which is {conn_id!r}.",
            where,
        ) from error


def _is_about_rights(error: Exception) -> bool:
    """Whether an account is missing or has no rights. Libraries for storage call the former NoCredentialsError and the like."""
    return isinstance(error, PermissionError) or "credentials" in type(error).__name__.lower()


def _words_of(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _changed_at(attempt: ObjectStoragePath) -> float:
    try:
        return float((attempt / RESULT).stat().st_mtime or 0)
    except (OSError, TypeError, ValueError):
        return 0.0


def storage_path(uri: str, conn_id: str | None) -> ObjectStoragePath:
    """The place that an address names, as Airflow reads it.

    :param uri: address, or an absolute path
    :param conn_id: Airflow connection for the storage
    """
    from airflow.sdk import ObjectStoragePath

    if not (scheme := uris.scheme_of(uri)):
        return ObjectStoragePath(uri)
    if scheme == "file":
        return ObjectStoragePath(f"file://{uris.file_path(uri, 'The address')}")
    options: dict[str, Any] = {"conn_id": conn_id} if conn_id else {}
    return ObjectStoragePath(uris.storage_address(uri), **options)


def _original(roots: Sequence[str], attempt: ObjectStoragePath) -> str:
    """The attempt's address with the scheme that the steps know it by."""
    for root in roots:
        if attempt.parent.path.rstrip("/").endswith(uris.place_of(root).rstrip("/")):
            return f"{root}/{attempt.name}"
    return str(attempt)
