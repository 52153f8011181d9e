"""What a run has left in its directory: its log, and what its steps have written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow_provider_llmops.backends.pipelines.local.records import StateRecord
from airflow_provider_llmops.exceptions import ResultError
from airflow_provider_llmops.results import MAX_RESULT_BYTES
from airflow_provider_llmops.state_files import StateFileError, read_content, read_record

LOG_CHUNK_BYTES = 256 * 1024


def read_log(directory: Path, offset: int) -> tuple[list[str], int]:
    """Complete lines of a run's log, and the offset behind them; a line that is still being written is left for the next call.

    :param directory: of the run
    :param offset: byte to begin with
    """
    try:
        file = os.open(directory / "log.txt", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(file, "rb") as log:
            log.seek(offset)
            chunk = log.read(LOG_CHUNK_BYTES)
    except OSError:
        return [], offset
    end = chunk.rfind(b"\n") + 1
    if end == 0 and len(chunk) == LOG_CHUNK_BYTES:
        end = len(chunk)  # one line longer than a chunk: pass it on in pieces rather than stand still
    return chunk[:end].decode("utf-8", errors="replace").splitlines(), offset + end


def read_result(directory: Path, task: str) -> tuple[str, str]:
    """Text and path of a step's ``result``.

    :param directory: of the run
    :param task: the step
    :raises ResultError: there is none, or it cannot be read
    """
    artifacts = directory / "artifacts"
    for path in artifacts.glob(f"*/{task}/result"):
        try:
            return read_content(path, MAX_RESULT_BYTES).decode("utf-8", errors="replace"), str(path)
        except (StateFileError, OSError) as error:
            raise ResultError(
                f"The result of step {task} cannot be read: {error}. Clear the task to run the component again.",
                f"Run: {directory.name}",
                f"Result: {path}",
            ) from error
    raise ResultError(
        f"Step {task} succeeded and left no result. The component in the data plane's environment does not belong to "
        "this provider, or the directory was cleaned. Clear the task to run it again.",
        f"Run: {directory.name}",
        f"Looked below: {artifacts}",
    )


def list_outputs(directory: Path, task: str) -> dict[str, str]:
    """Path of each output of a step, by its name.

    :param directory: of the run
    :param task: the step
    """
    return {path.name: str(path) for path in (directory / "artifacts").glob(f"*/{task}/*")}


def read_outputs(directory: Path) -> dict[str, Any]:
    """Output parameters of the pipeline, as the run has left them.

    :param directory: of the run
    :raises ResultError: they cannot be read
    """
    try:
        return read_record(directory / "state.json", StateRecord).outputs
    except StateFileError as error:
        raise ResultError(f"The run's outputs cannot be read: {error}", f"Run: {directory.name}") from error
