"""Answers as they come, in a file that an interrupted run leaves and the next one goes on with.

A line of JSON for what became of each row, after one that says what was asked whom. A line that a kill or a power cut has torn
is as if it had never been written. In memory are a few bytes a row, however many there are.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from array import array
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llmops_components.errors import SettingError, UnavailableError
from llmops_components.state_files import raise_if_full

_SCHEMA = 1
_SYNC_SECONDS = 5.0  # after a power cut so much may have to be asked again; a kill loses nothing
_MAX_SHOWN = 200


class Journal:
    """What became of the rows of a dataset: to be used with ``with``; one process at a time has it.

    Args:
        path: The file; its directory is made.
        facts: What was asked whom, by name: another run may go on only with the same.

    Raises:
        SettingError: The file is of a run with other facts, or no journal; names them.
        UnavailableError: Another process has it.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path = path
        self._facts = json.loads(json.dumps(facts))
        self._places = array("q")  # by row: where its line begins, counted from 1
        self._synced = time.monotonic()
        self.has_answers = False  # of an earlier run

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise_if_full(error, self.path)
            raise SettingError(
                f"The answers cannot be kept: {error.strerror}. Give checkpoints a directory that can be written. "
                f"File: {self.path}."
            ) from None
        self._file = os.fdopen(descriptor, "rb+")
        try:
            self._lock()
            self._end = self._read()
            self._file.truncate(self._end)
            if not self._end:
                self._write({"journal": _SCHEMA, "facts": self._facts})
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def note(self, row: int, record: Mapping[str, Any]) -> None:
        """Write down what became of a row; it counts in place of what was known of it.

        Args:
            row: Number of the row, from 1.
            record: What became of it.
        """
        place = self._end
        self._write({"row": row, **record})
        self._remember(row, place)

    def record(self, row: int) -> dict[str, Any] | None:
        """What became of a row; None if that is not known.

        Args:
            row: Number of the row, from 1.
        """
        if row >= len(self._places) or not self._places[row]:
            return None
        self._file.seek(self._places[row] - 1)
        found: dict[str, Any] = json.loads(self._file.readline())
        return found

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def _write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, allow_nan=False).encode("ascii") + b"\n"
        try:
            self._file.seek(self._end)
            self._file.write(line)
            self._file.flush()
            if (now := time.monotonic()) - self._synced > _SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = now
        except OSError as error:
            raise_if_full(error, self.path)
            raise
        self._end += len(line)

    def _remember(self, row: int, place: int) -> None:
        if row >= len(self._places):
            self._places.extend([0] * (row + 1 - len(self._places)))
        self._places[row] = place + 1

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UnavailableError(
                f"Another run is writing its answers here. Wait for it, or give another directory. File: {self.path}."
            ) from None

    def _read(self) -> int:
        """Take over what is there; returns where the last whole line ends."""
        first = self._file.readline()
        if not first.endswith(b"\n"):
            return 0  # never begun, or torn in its first line
        self._check(first)
        end = len(first)
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                row = record["row"]
                self.has_answers = self.has_answers or "failed" not in record
            except (ValueError, LookupError, TypeError):
                row = None  # as after a power cut: asked again
            if type(row) is int and row > 0:
                self._remember(row, end)
            end += len(line)
        return end

    def _check(self, first: bytes) -> None:
        try:
            head = json.loads(first)
            facts = dict(head["facts"]) if head["journal"] == _SCHEMA else None
        except (ValueError, LookupError, TypeError):
            facts = None
        how = f"Give another directory for checkpoints, or remove the file to ask all rows anew. File: {self.path}."
        if facts is None:
            raise SettingError(f"What lies where the answers are kept are no answers of this release. {how}")
        for name, value in self._facts.items():
            if (former := facts.get(name)) != value:
                raise SettingError(
                    f"{name} is not what the answers so far were made with: it was {_shown(former)} and is {_shown(value)}, and "
                    f"answers are not mixed. {how}"
                )


def _shown(value: Any) -> str:
    return f"{json.dumps(value):.{_MAX_SHOWN}}"
