"""The processes of runs on this machine: whether one holds a lock, which belong to a run, and ending them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

RUN_DIR_VARIABLE = "LLMOPS_RUN_DIR"
STOP_POLL_SECONDS = 0.05


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file; nobody can hold what is no file.

    :param path: the lock file
    """
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    except PermissionError:
        return True  # another user's: it may be at work
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def processes_of(directory: Path) -> list[psutil.Process]:
    """Every process that was started for a run: those that carry its directory in their environment, in whatever session, and what
    those have started in their own.

    :param directory: of the run
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        # Gone since it was listed, or somebody else's.
        with suppress(psutil.Error, OSError):
            if not is_same_directory(process.environ().get(RUN_DIR_VARIABLE), directory):
                continue
            found[process.pid] = process
            for child in process.children(recursive=True):  # one may have been given another environment
                with suppress(psutil.Error, OSError):
                    if os.getsid(child.pid) == os.getsid(process.pid):
                        found.setdefault(child.pid, child)
    return [process for process in found.values() if lives(process)]


def is_same_directory(named: str | None, directory: Path) -> bool:
    """Whether a process means that directory, whichever links lead to it.

    :param named: as the process has it
    :param directory: the directory, which may be gone
    """
    if named is None or Path(named).name != directory.name:
        return False
    return os.path.realpath(named) == os.path.realpath(directory)


def lives(process: psutil.Process) -> bool:
    """Whether it still is the process that it was, and no zombie.

    :param process: a process
    """
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def stop(processes: Sequence[psutil.Process], grace: float) -> None:
    """Ask processes to end, and kill what is left; psutil looks each time whether it still is the same process.

    :param processes: the processes
    :param grace: seconds that they have to end by themselves
    """
    for send in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with suppress(psutil.Error):
                send(process)
        deadline = time.monotonic() + grace
        while any(map(lives, processes)):
            if time.monotonic() >= deadline:
                break
            time.sleep(STOP_POLL_SECONDS)
        else:
            return
