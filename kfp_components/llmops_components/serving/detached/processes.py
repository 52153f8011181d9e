"""Detached processes that can be watched without trusting a process id.

A process holds a ``flock`` on a file from its birth to its death, whatever kills it: the parent takes the lock and the
child inherits it. A free lock therefore means that the process is gone, also when its id has been given to another one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import psutil

from llmops_components.errors import UnavailableError
from llmops_components.redaction import redact
from llmops_components.serving.detached.logs import LOGS_KEPT, earlier
from llmops_components.state_files import (
    PRIVATE_UMASK,
    StateFileError,
    private_directory,
    read_json,
    write_json,
)

STOP_GRACE_SECONDS = 10
KILL_SECONDS = 5
DIRECTORY_VARIABLE = "LLMOPS_PROCESS_DIR"  # marks all that was started in a directory
PROCESS_SHAPE = {"pid": int, "started": (int, float)}
CLOCK_SECONDS = 2.0  # times of birth are reckoned from the machine's start, which moves when its clock is set
_POLL_SECONDS = 0.05
_LOG_TAIL_BYTES = 4000
_MAX_TAIL_BYTES = 1 << 20


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
    private_directory(directory)
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(lock, directory)
        with _open_log(directory / "log.txt") as log:
            process = subprocess.Popen(
                arguments,
                cwd=directory,
                env={**environment, DIRECTORY_VARIABLE: str(directory)},
                umask=PRIVATE_UMASK,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock, *inherited),
                start_new_session=True,
            )
        known = {"pid": process.pid, "started": _started_at(process.pid)}
        write_json(directory / "process.json", known, private=True)
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
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False  # nobody can hold what is no file
    except PermissionError:
        return True  # another user's: it may run
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(lock)


def stop(
    directory: Path, *, grace_seconds: float = STOP_GRACE_SECONDS, kill_seconds: float = KILL_SECONDS
) -> None:
    """SIGTERM, and SIGKILL for what is still there after the grace time, of all that was started in this directory.

    Only processes are signalled that carry the directory in their environment or are the very one that was noted, by its number
    and its time of birth: a number alone is given to another process one day.

    Args:
        directory: As given to :func:`start`.
        grace_seconds: Time to finish running work.
        kill_seconds: Time to be gone once killed.

    Raises:
        UnavailableError: Something of it still lives.
    """
    if not is_running(directory):
        return
    for send, seconds in ((psutil.Process.terminate, grace_seconds), (psutil.Process.kill, kill_seconds)):
        members = _members(directory)
        for process in members:
            with contextlib.suppress(
                psutil.Error
            ):  # gone since; psutil looks whether it still is the one it was
                send(process)
        deadline = time.monotonic() + seconds
        while is_running(directory) or any(map(_lives, members)):
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        else:
            return
    raise UnavailableError(
        f"The process of {directory.name} did not end, or is none that can be known as the one that was started there. End it by "
        f"hand: it is the one that holds {directory / 'lock'} open."
    )


def _members(directory: Path) -> list[psutil.Process]:
    """The processes that were started in a directory, and those that they have started themselves."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # gone since it was listed, or somebody else's
            if is_same_directory(process.environ().get(DIRECTORY_VARIABLE), directory):
                found.append(process)
    with contextlib.suppress(psutil.Error, StateFileError, KeyError, ValueError, OverflowError):
        known = read_json(directory / "process.json", PROCESS_SHAPE)
        process = psutil.Process(known["pid"])
        started = known.get("started")
        # Of an earlier release there is the number alone; it started its processes in their directory.
        is_ours = (
            is_same_directory(process.cwd(), directory)
            if started is None
            else abs(process.create_time() - started) <= CLOCK_SECONDS
        )
        if is_ours and process not in found:
            found.append(process)
    return [process for process in found if _lives(process)]


def is_same_directory(named: str | None, directory: Path) -> bool:
    """Whether a process means that directory, whichever links lead to it.

    Args:
        named: As the process has it.
        directory: The directory, which may be gone.
    """
    if named is None or Path(named).name != directory.name:
        return False
    return os.path.realpath(named) == os.path.realpath(directory)


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _started_at(pid: int) -> float | None:
    """When a process was born, by which it is told from a later one of the same number."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).create_time()
    return None


def _open_log(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")


def log_tail(directory: Path, lines: int = 15) -> str:
    """The end of the process's log, without secrets.

    Args:
        directory: As given to :func:`start`.
        lines: How many lines at most.
    """
    found: list[str] = []
    for number in range(LOGS_KEPT + 1):
        if len(found) < lines:
            found = _last_lines(earlier(directory / "log.txt", number), lines - len(found)) + found
    return redact("\n".join(found))


def _last_lines(log: Path, lines: int) -> list[str]:
    try:
        with log.open("rb") as handle:
            handle.seek(
                max(
                    handle.seek(0, os.SEEK_END) - min(_LOG_TAIL_BYTES * max(lines // 15, 1), _MAX_TAIL_BYTES),
                    0,
                )
            )
            text = handle.read(_MAX_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return []
    return text.replace("\r", "\n").splitlines()[-lines:]


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Let one process at a time through.

    Args:
        path: Lock file; may be deleted by the one who holds it.
    """
    while True:
        private_directory(path.parent)
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
