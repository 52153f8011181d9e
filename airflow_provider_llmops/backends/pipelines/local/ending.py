"""How a run ends that did not say so itself: its process is gone, or could never be started."""

from __future__ import annotations

import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from airflow_provider_llmops.backends.pipelines.local.processes import processes_of, stop
from airflow_provider_llmops.backends.pipelines.local.records import StateRecord, StepError
from airflow_provider_llmops.state_files import write_json
from airflow_provider_llmops.states import RunState

NO_ROOM_BYTES = 1024 * 1024
ORPHAN_GRACE_SECONDS = 5.0  # without the run's process nobody reads what a step writes, and it dies of that


def bury(directory: Path, state: StateRecord, *, unreadable: str | None = None) -> StateRecord:
    """Record the end of a run whose process is gone without having done so, and stop what it left behind.

    :param directory: of the run
    :param state: as the run has left it
    :param unreadable: why its state cannot be read, if that is so
    """
    stop(processes_of(directory), ORPHAN_GRACE_SECONDS)
    with suppress(OSError):
        shutil.rmtree((directory / "tmp").readlink())
        (directory / "tmp").unlink()
    if unreadable:
        message = unreadable
    elif shutil.disk_usage(directory).free < NO_ROOM_BYTES:
        message = (
            "the disk is full, and the run could not write how it went on. Delete what is no longer needed"
        )
    elif state.started_at is not None:
        message = "the run's process disappeared (killed, or the machine was restarted)"
    else:
        message = "the run was prepared but its process never started working"
    return record_end(directory, state, "StateFileError" if unreadable else "Killed", message)


def record_end(directory: Path, state: StateRecord, kind: str, message: str) -> StateRecord:
    """Write down that a run is over: failed, or cancelled if somebody wished that.

    :param directory: of the run
    :param state: as the run has left it
    :param kind: kind of the error
    :param message: why it has failed
    """
    canceled = (directory / "cancel").exists()
    ended = state.model_copy(
        update={
            "state": RunState.CANCELED if canceled else RunState.FAILED,
            "finished_at": datetime.now(UTC),
            "error": None if canceled else StepError(type=kind, message=message, retryable=True),
        }
    )
    with suppress(OSError):  # a full disk must not hide the verdict; the next look comes to the same one
        write_json(directory / "state.json", ended.model_dump(mode="json", exclude_none=True))
    return ended
