"""Read what steps wrote below the pipeline root: object storage through Airflow's own connections, or a shared disk.

A step writes each output to ``<step's root>/<attempt>/<output>``, where the attempt is a random name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_llmops import object_store, uris
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    LLMOpsError,
    ResultError,
    ResultTooLargeError,
)
from airflow_provider_llmops.in_time import in_time
from airflow_provider_llmops.object_store import check_bucket, meaning_of, storage_path, words_of
from airflow_provider_llmops.results import MAX_RESULT_BYTES, artifacts_in

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

RESULT = "result"

T = TypeVar("T")


def read_result(roots: Sequence[str], run_id: str, task: str, conn_id: str | None) -> tuple[str, str]:
    """Text and address of a step's ``result``.

    :param roots: places where the step may have written
    :param run_id: the run, for messages
    :param task: the step, for messages
    :param conn_id: Airflow connection for the storage
    :raises ResultError: there is none
    """
    if found := ask(lambda: _find_result(roots, conn_id), roots[0], conn_id):
        content, address = found
        if len(content) > MAX_RESULT_BYTES:
            raise ResultTooLargeError(
                f"The result of step {task} is larger than {MAX_RESULT_BYTES >> 20} MiB. Hand on what is large as an artifact.",
                f"Run: {run_id}",
                f"Result: {address}",
            )
        return content.decode("utf-8", errors="replace"), address
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
    return ask(lambda: _list_outputs(roots, conn_id), roots[0], conn_id)


def input_digest(uri: str, conn_id: str | None) -> str | None:
    """Something that changes when the content at an address does; ``None`` if it cannot be told.

    The output of a component of this provider has its content digest in the ``result`` beside it. Of another file or
    object, it is what its storage tells apart versions by: an ETag, or time and size.

    :param uri: address of an artifact, or an absolute path
    :param conn_id: Airflow connection for the storage
    """
    try:
        return in_time(lambda: _input_digest(uri, conn_id), object_store.STORE_SECONDS)
    except Exception:  # whatever a storage library or a foreign file raises, it cannot be told
        return None


def ask(work: Callable[[], T], root: str, conn_id: str | None) -> T:
    """What some work finds in the artifact store; what its library raises becomes an error of ours.

    :param work: the work
    :param root: where it looks, for messages
    :param conn_id: Airflow connection for the storage
    :raises ConfigurationError: library, connection, rights or address are not the right ones
    :raises ApiUnavailableError: the store did not answer, or not in time
    """
    try:
        return in_time(work, object_store.STORE_SECONDS)
    except LLMOpsError:
        raise
    except Exception as error:
        raise _told(error, root, conn_id) from error


def _told(error: Exception, root: str, conn_id: str | None) -> LLMOpsError:
    words, where = words_of(error), f"Looked below: {root}"
    match meaning_of(error):
        case "setup":
            return ConfigurationError(
                f"Artifacts cannot be read: {words}. Install the Airflow provider of that storage (pip install "
                "'airflow-provider-llmops[s3]', [gs] for gs://), and name its connection in 'storage_conn_id'.",
                where,
            )
        case "rights":
            return ConfigurationError(
                f"Artifacts may not be read: {words}. Name a connection whose account may in 'storage_conn_id', which is {conn_id!r}.",
                where,
            )
        case "elsewhere":
            return ConfigurationError(
                f"Artifacts are not to be had there: {words}. {object_store.HINT} in 'storage_conn_id', which is {conn_id!r}.",
                where,
            )
    return ApiUnavailableError(f"The artifact store did not answer: {words}.", where)


def _find_result(roots: Sequence[str], conn_id: str | None) -> tuple[bytes, str] | None:
    for attempt in _attempts(roots, conn_id):
        path = attempt / RESULT
        if path.exists():
            return _beginning(path), f"{_original(roots, attempt)}/{RESULT}"
    return None


def _list_outputs(roots: Sequence[str], conn_id: str | None) -> dict[str, str]:
    for attempt in _attempts(roots, conn_id):
        if outputs := {path.name: f"{_original(roots, attempt)}/{path.name}" for path in attempt.iterdir()}:
            return outputs
    return {}


def _input_digest(uri: str, conn_id: str | None) -> str | None:
    path = storage_path(uri.rstrip("/"), conn_id)
    beside = path.parent / RESULT
    if beside.is_file():
        if beside.stat().st_size > MAX_RESULT_BYTES:
            return None
        for artifact in artifacts_in(beside.read_text(encoding="utf-8")).values():
            if artifact.uri.rstrip("/") == uri.rstrip("/"):
                return artifact.digest
    return f"{uri} {path.checksum()}" if path.is_file() else None


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
        check_bucket(path)


def _changed_at(attempt: ObjectStoragePath) -> float:
    try:
        return float((attempt / RESULT).stat().st_mtime or 0)
    except (OSError, TypeError, ValueError):
        return 0.0


def _original(roots: Sequence[str], attempt: ObjectStoragePath) -> str:
    """The attempt's address with the scheme that the steps know it by."""
    for root in roots:
        if attempt.parent.path.rstrip("/").endswith(uris.place_of(root).rstrip("/")):
            return f"{root}/{attempt.name}"
    return str(attempt)
