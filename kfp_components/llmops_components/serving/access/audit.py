"""The audit log: a line of JSON for each request, never with what was asked or answered unless the access file says so."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

MAX_BYTES = 10 << 20
KEPT_FILES = 5
# A flood of refused requests must not push out the lines about those that were answered.
REFUSED_LINES_PER_MINUTE = 60
LONGEST_TEXT = 200
LONGEST_CONTENT = 65536
logger = logging.getLogger(__name__)


class _OwnersFile(RotatingFileHandler):
    """A log that nobody else may read, rotated by size."""

    def _open(self) -> TextIO:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:
        logger.error("Cannot write the audit log %s: %s", self.baseFilename, sys.exc_info()[1])


class AuditLog:
    """Writes the log; one process writes to one file.

    Args:
        file: Where; directories are made, and what is full becomes ``FILE.1`` and so on.
        clock: Seconds, monotonic.
        max_bytes: Size at which a file is full.
    """

    def __init__(
        self, file: Path, *, clock: Callable[[], float] = time.monotonic, max_bytes: int = MAX_BYTES
    ) -> None:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._handler = _OwnersFile(file, maxBytes=max_bytes, backupCount=KEPT_FILES)
        self._handler.setFormatter(logging.Formatter("%(message)s"))
        self._clock = clock
        self._minute = 0
        self._refused = 0
        self._left_out = 0

    def write(self, record: dict[str, Any], *, refused: bool = False) -> None:
        """Write a line.

        Args:
            record: What to note; values that are None are left out.
            refused: Whether it is of a request that nobody's key came with; of many of them in a minute only the first are
                noted, and the next line says how many were not.
        """
        if refused and not self._may_note_refusal():
            self._left_out += 1
            return
        if self._left_out:
            record = record | {"refused_and_not_noted": self._left_out}
            self._left_out = 0
        line = json.dumps({name: value for name, value in record.items() if value is not None})
        self._handler.emit(logging.makeLogRecord({"msg": line}))

    def _may_note_refusal(self) -> bool:
        minute = int(self._clock() // 60)
        if minute != self._minute:
            self._minute, self._refused = minute, 0
        self._refused += 1
        return self._refused <= REFUSED_LINES_PER_MINUTE

    def close(self) -> None:
        """Close the file."""
        self._handler.close()
