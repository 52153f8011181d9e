"""The log of a service's process, which stays small for as long as the service lives."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

MAX_LOG_BYTES = 16 << 20
LOGS_KEPT = 2  # besides the one that is written
_LOOK_SECONDS = 2.0
_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def configure(log: Path | None) -> None:
    """Say what goes wrong, one line each, and rotate the log.

    Args:
        log: File that the output of this process goes to, if it is one of ours.
    """
    logging.basicConfig(level=logging.WARNING, format=_FORMAT)
    if log is not None:
        threading.Thread(target=_watch, args=(log,), name="log", daemon=True).start()


def _watch(log: Path) -> None:
    pause = threading.Event()
    while not pause.wait(_LOOK_SECONDS):
        try:
            rotate(log)
        except OSError as error:  # of a full disk, for example; the service goes on
            logging.getLogger(__name__).warning("The log cannot be rotated: %s", error)


def rotate(log: Path, max_bytes: int = MAX_LOG_BYTES) -> bool:
    """Begin a new log where the one that this process writes has become large; nothing that is written gets lost.

    Args:
        log: The log, which this process's output goes to; another file is left alone.
        max_bytes: What is large.

    Returns:
        Whether a new one was begun.
    """
    written = os.fstat(2)
    if written.st_size < max_bytes or not _is(log, written):
        return False
    # Before anything is renamed: where this fails, all is as it was, and the next try may do better.
    new = log.with_name(f"{log.name}.new")
    fresh = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        for number in range(LOGS_KEPT, 0, -1):
            source = earlier(log, number - 1)
            if source.exists():
                source.replace(earlier(log, number))
        new.replace(log)
        for descriptor in (1, 2):
            if os.path.samestat(os.fstat(descriptor), written):
                os.dup2(fresh, descriptor)
    finally:
        os.close(fresh)
    return True


def earlier(log: Path, number: int) -> Path:
    """The log before the present one, the one before that, and so on.

    Args:
        log: The present one.
        number: How many before it.
    """
    return log.with_name(f"{log.name}.{number}") if number else log


def _is(log: Path, written: os.stat_result) -> bool:
    try:
        return os.path.samestat(log.stat(), written)
    except FileNotFoundError:
        return False
