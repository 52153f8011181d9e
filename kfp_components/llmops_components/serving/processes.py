"""Detached processes that can be watched without trusting a process id.

A process holds a ``flock`` on a file from its birth to its death, whatever kills it: the parent takes the lock and the
child inherits it. A free lock therefore means that the process is gone, also when its id has been given to another one.
Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmops_components.errors import UnavailableError
from llmops_components.results import write_json

STOP_GRACE_SECONDS = 10
_POLL_SECONDS = 0.05
_LOG_TAIL_BYTES = 4000


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one when the file does not exist.

    Args:
        path: File that :func:`llmops_components.results.write_json` wrote.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return value if isinstance(value, dict) else {}


def start(
    directory: Path, arguments: Sequence[str], *, environment: dict[str, str], inherited: Sequence[int] = ()
) -> int:
    """Start a process that outlives this one: own session, own log, and the lock of its directory.

    Args:
        directory: Gets ``log.txt``, ``lock`` and ``process.json``.
        arguments: Command line.
        environment: The whole environment.
        inherited: File descriptors that the process gets.

    Returns:
        The process id.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(lock, directory)
        with (directory / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                arguments,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock, *inherited),
                start_new_session=True,
            )
        write_json(directory / "process.json", {"pid": process.pid})
    finally:
        os.close(lock)
    threading.Thread(target=process.wait, daemon=True).start()  # leave no zombie while this process lives
    return process.pid


def _take(lock: int, directory: Path) -> None:
    deadline = time.monotonic() + 1  # is_running() holds the lock for an instant
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UnavailableError(f"A process of {directory} is running already.") from None
            time.sleep(0.01)


def is_running(directory: Path) -> bool:
    """Whether the process that was started in this directory lives.

    Args:
        directory: As given to :func:`start`.
    """
    try:
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(lock)


def stop(directory: Path, *, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
    """SIGTERM, and SIGKILL for the whole process group of what is still there after the grace time.

    Args:
        directory: As given to :func:`start`.
        grace_seconds: Time to finish running work.
    """
    for sig, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5)):
        pid = read_json(directory / "process.json").get("pid")
        if not is_running(directory) or not pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, sig)
        deadline = time.monotonic() + seconds
        while is_running(directory) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def log_tail(directory: Path, lines: int = 15) -> str:
    """The end of the process's log.

    Args:
        directory: As given to :func:`start`.
        lines: How many lines at most.
    """
    try:
        with (directory / "log.txt").open("rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES * max(lines // 15, 1), 0))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.replace("\r", "\n").splitlines()[-lines:])


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Let one process at a time through.

    Args:
        path: Lock file; may be deleted by the one who holds it.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the directory was deleted in between
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                current = path.stat().st_ino == os.fstat(lock).st_ino
            except FileNotFoundError:
                current = False
            if current:
                yield
                return
        finally:
            os.close(lock)
