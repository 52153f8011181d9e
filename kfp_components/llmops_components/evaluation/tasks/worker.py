"""Work that may take for ever, such as a regular expression's: done in a process that is ended where it takes too long."""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

_CODE = Path(__file__).with_name("working.py")
_MAX_REPLY_BYTES = 1 << 20
_START_SECONDS = 60  # of a process on a busy machine
_ENDED = "what checks it ended without an answer"


class TooSlowError(Exception):
    """An answer took longer than it may."""


class Worker:
    """One process that answers questions: to be used with ``with``. It is started with the first, and again after one that took too long.

    Args:
        seconds: Longest time for one answer.
        kind: What it is asked about.
    """

    def __init__(self, seconds: float, kind: Literal["patterns", "schemas"]) -> None:
        self._seconds = seconds
        self._kind = kind
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a question.

        Args:
            question: See :mod:`~llmops_components.evaluation.tasks.working`.

        Raises:
            TooSlowError: It takes too long.
        """
        if self._process is None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            line = self._line(self._seconds)
        except BrokenPipeError:
            line = b""
        if not line:
            self._end()
            return {"problem": _ENDED}
        found: dict[str, Any] = json.loads(line)
        return found

    def _start(self) -> None:
        # -P: the folder of this file has no modules that the process means.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_CODE), self._kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if not self._line(_START_SECONDS):
            self._end()
            raise RuntimeError("The process that checks answers did not start. What it said is in the log.")

    def _line(self, seconds: float) -> bytes:
        """One line of the process; nothing where it has ended."""
        assert self._process is not None and self._process.stdout is not None
        found, until, output = bytearray(), time.monotonic() + seconds, self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while not found.endswith(b"\n"):
                if not selector.select(max(until - time.monotonic(), 0)):
                    self._end()
                    raise TooSlowError
                piece = output.read1(65536)  # type: ignore[attr-defined]
                if not piece or len(found) > _MAX_REPLY_BYTES:
                    return b""
                found += piece
        return bytes(found)

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.communicate()
        self._process = None
