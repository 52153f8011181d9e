"""What the files of a run say about it, read as a :class:`~airflow_provider_llmops.backends.pipelines.base.Run`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from airflow_provider_llmops.backends.pipelines.base import Run
from airflow_provider_llmops.backends.pipelines.local.ending import bury
from airflow_provider_llmops.backends.pipelines.local.processes import is_locked
from airflow_provider_llmops.backends.pipelines.local.queue import LocalQueue
from airflow_provider_llmops.backends.pipelines.local.records import RequestRecord, StateRecord
from airflow_provider_llmops.backends.pipelines.local.runs import looking_at
from airflow_provider_llmops.state_files import StateFileError, read_record
from airflow_provider_llmops.states import RunState


class RunReader:
    """Reads runs; one whose process has vanished without a last word is given its end.

    :param queue: knows which runs wait, and starts those whose turn it is
    """

    def __init__(self, queue: LocalQueue) -> None:
        self._queue = queue
        self._requests_of_waiting: dict[str, RequestRecord] = {}

    def read(self, directory: Path) -> Run:
        """The run as it is now.

        :param directory: of the run
        :raises ApiUnavailableError: the system lets nobody look at it now
        """
        with looking_at(directory):
            state, ahead = self._look(directory)
            if ahead is not None:  # who should have started the next one may have been killed
                self._queue.go_on()
                state, ahead = self._look(directory)
            return self._describe(directory, state, ahead)

    def _look(self, directory: Path) -> tuple[StateRecord, int | None]:
        """State of a run, and how many are to be started before it if it waits."""
        for look in (1, 2):  # a run may begin, or end, between two of these questions
            try:
                state = read_record(directory / "state.json", StateRecord)
            except StateFileError as error:
                return self._bury(directory, StateRecord(), unreadable=str(error)), None
            if state.state.is_terminal or is_alive(directory):
                break
            if (ahead := self._queue.ahead_of(directory.name)) is not None:
                return state, ahead
            if look == 2:
                return self._bury(directory, state), None
        return state, None

    def _bury(self, directory: Path, state: StateRecord, *, unreadable: str | None = None) -> StateRecord:
        ended = bury(directory, state, unreadable=unreadable)
        self._queue.go_on()  # as its process would have seen to
        return ended

    def _describe(self, directory: Path, state: StateRecord, ahead: int | None) -> Run:
        value = state.state
        if (directory / "cancel").exists():
            if not value.is_terminal:
                value = RunState.CANCELING
            elif not value.is_successful:
                value = RunState.CANCELED
        request = self._request_of(directory, is_waiting=ahead is not None)
        error = state.error
        text = None
        if error and not value.is_canceled:
            # What a component raises on purpose says all in its message.
            is_raised_on_purpose = "traceback" in error.model_fields_set and error.traceback is None
            text = error.message if is_raised_on_purpose else f"{error.type}: {error.message}"
        return Run(
            run_id=directory.name,
            display_name=request.display_name or directory.name,
            state=value,
            tasks=state.tasks,
            ahead=ahead,
            error=text,
            failed_steps=(error.task,) if error and text and error.task else (),
            retryable=error.retryable if error else True,
            created_at=request.created_at,
            finished_at=state.finished_at,
            log_hint=str(directory / "log.txt"),
        )

    def _request_of(self, directory: Path, *, is_waiting: bool) -> RequestRecord:
        """What was asked for; of a run that waits it is kept, since that is looked at often and written once."""
        known = self._requests_of_waiting.get(directory.name) if is_waiting else None
        request = known or _read_or_empty(directory / "request.json")
        if is_waiting:
            self._requests_of_waiting[directory.name] = request
        return request


def is_alive(directory: Path) -> bool:
    """Whether the process of a run is there: it holds the run's lock from before its first instruction on.

    :param directory: of the run
    """
    return is_locked(directory / "lock")


def _read_or_empty(path: Path) -> RequestRecord:
    with suppress(StateFileError):
        return read_record(path, RequestRecord)
    return RequestRecord()
