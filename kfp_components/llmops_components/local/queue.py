"""The queue of runs on this machine: the process of a run starts the next ones, when it begins and when it has ended.

A run that is to be started is a ticket, ``<root>/queue/<number>.<run id>``, with its command and environment, and no process. A slot,
``<root>/slots/<number>``, is locked for as long as the process of its run works, and names that run. The Airflow provider's
``backends/pipelines/local/queue.py`` is the other side of this: it lets runs in, and starts them in the same way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from llmops_components.redaction import redact
from llmops_components.serving.detached.processes import is_running, is_same_directory
from llmops_components.state_files import (
    PASSING,
    PRIVATE_UMASK,
    StateFileError,
    private_directory,
    read_json,
    unreadable,
    write_json,
)

RUN_DIR_VARIABLE = "LLMOPS_RUN_DIR"
ORPHAN_GRACE_SECONDS = 5.0
LOOK_SECONDS = 1.0  # a look at a run holds its lock for an instant; many of them, for a little longer
LOG_TAIL_BYTES = 1024
# Each text stands for bytes, one sign for each: the system's texts need not be Unicode.
TICKET_SHAPE = {"command": [str], "environment": {str: str}}
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_POLL_SECONDS = 0.05


class NotNowError(Exception):
    """No run can be started at this moment, for a reason that is none of its own."""


def take_slot(slot: int, run: Path) -> None:
    """Begin in a slot: stop what its last run has left if that was killed, then name this one.

    Args:
        slot: Descriptor of the slot's file.
        run: Directory of the run.
    """
    before = os.pread(slot, 100, 0).decode("ascii", errors="replace")
    last = run.with_name(before) if _RUN_ID.fullmatch(before) else run  # a power cut may leave anything
    # One that still lives has stopped its steps, or the slot would not be free, and is about to be gone.
    if last.name != run.name and not is_running(last):
        stop_processes_of(last)
    os.pwrite(slot, run.name.encode(), 0)
    os.ftruncate(slot, len(run.name))
    os.fsync(slot)


def start_next(root: Path, slots: int) -> None:
    """Start the runs whose turn it is.

    Args:
        root: Directory that holds ``queue/``, ``slots/`` and ``runs/``.
        slots: Runs at a time.
    """
    queue = private_directory(root / "queue")
    lock = os.open(queue / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # first of all: who comes in at this moment saw no free slot
        for ticket in tickets(root):
            if (slot := _free_slot(root / "slots", slots)) is None:
                return
            run = root / "runs" / _run_id(ticket)
            try:
                _start(ticket, run, slot)
            except NotNowError as error:
                _say_once(run / "log.txt", f"waiting: {error}")
                return  # the others would fare no better
            finally:
                os.close(slot)
    finally:
        os.close(lock)


def is_waiting(run: Path) -> bool:
    """Whether a run has a ticket, and so waits to be started.

    Ask this first and look at the run's lock second: a run is locked before its ticket goes.

    Args:
        run: Its directory.
    """
    return any(_run_id(ticket) == run.name for ticket in tickets(run.parent.parent))


def tickets(root: Path) -> list[Path]:
    """The tickets, the first to be started first.

    Args:
        root: Directory that holds ``queue/``.
    """
    return sorted(path for path in (root / "queue").glob("[0-9]*.*") if path.name[:20].isdigit())


def _run_id(ticket: Path) -> str:
    return ticket.name.partition(".")[2]


def _free_slot(directory: Path, slots: int) -> int | None:
    """A free slot, now locked; None where all are taken. The caller holds the queue's lock."""
    private_directory(directory)
    for number in range(max(slots, 1)):
        slot = _open_slot(directory / str(number))
        try:
            fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(slot)
        else:
            return slot
    return None


def _open_slot(path: Path) -> int:
    """Open a slot's file. What is no regular file is put aside: no run can have locked it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        path.rename(path.with_name(f".{path.name}.{uuid.uuid4().hex}"))
    return os.open(path, flags, 0o600)


def _start(ticket: Path, run: Path, slot: int) -> None:
    """Start the run of a ticket, or record why it can never be started. A run that another process has locked keeps its ticket."""
    why = None
    try:
        known = read_json(ticket, TICKET_SHAPE)
        with _held(run) as lock:
            # Otherwise it ended, was cancelled, or began when its ticket could not be removed.
            if not (run / "cancel").exists() and not (run / "state.json").exists():
                if lock is None:
                    return
                _launch(run, known, lock, slot)
    except (StateFileError, ValueError) as error:
        why = str(error)
    except OSError as error:
        if error.errno in PASSING:
            raise NotNowError(f"its process cannot be started: {error}") from error
        why = f"its process could not be started: {error}"
    if why and run.is_dir():
        reason = {"type": "NotStarted", "message": redact(why), "retryable": True}
        with contextlib.suppress(
            OSError
        ):  # before the ticket goes, or a look between the two would find no reason
            write_json(run / "state.json", {"state": "FAILED", "error": reason}, private=True)
    _discard(ticket)


@contextlib.contextmanager
def _held(run: Path) -> Iterator[int | None]:
    """Take a run's lock; None where another process keeps it."""
    lock = os.open(run / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield lock if _taken(lock) else None
    finally:
        os.close(lock)


def _taken(lock: int) -> bool:
    deadline = time.monotonic() + LOOK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)
        else:
            return True


def _launch(run: Path, known: dict[str, Any], lock: int, slot: int) -> None:
    """Start the process of a run, which inherits its lock and its slot."""
    command = [text.encode("latin-1") for text in known.get("command") or []]
    if not command:
        raise unreadable(run, "its ticket names no command")
    environment = known.get("environment") or {}
    program = os.fsdecode(command[0])
    if os.path.dirname(program) and not os.access(program, os.X_OK):  # noqa: PTH120
        raise NotNowError(f"{program} is not there, or cannot be started")
    log = os.open(
        run / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o600
    )
    try:
        subprocess.Popen(
            [*command, b"--slot", str(slot).encode()],
            cwd=run,
            env={key.encode("latin-1"): value.encode("latin-1") for key, value in environment.items()},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[lock, slot],
            start_new_session=True,
            umask=PRIVATE_UMASK,
        )
    finally:
        os.close(log)


def _discard(ticket: Path) -> None:
    """Remove a ticket, be it a file or a directory."""
    try:
        ticket.unlink(missing_ok=True)
    except OSError:
        shutil.rmtree(ticket, ignore_errors=True)


def _say_once(log: Path, line: str) -> None:
    """Add a line to a run's log, unless it is the last one."""
    text = f"{line}\n".encode("utf-8", errors="replace")
    with contextlib.suppress(OSError):
        handle = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            start = max(os.fstat(handle).st_size - LOG_TAIL_BYTES, 0)
            if not os.pread(handle, LOG_TAIL_BYTES, start).endswith(text):
                os.write(handle, text)
        finally:
            os.close(handle)


def stop_processes_of(run: Path, grace: float = ORPHAN_GRACE_SECONDS) -> None:
    """Stop what the steps of a run have left at work, so that nothing of it goes on beside the next run.

    Args:
        run: Its directory, which each of its processes carries in its environment.
        grace: Seconds to end by themselves.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if is_same_directory(process.environ().get(RUN_DIR_VARIABLE), run):
                found[process.pid] = process
                for child in process.children(recursive=True):  # one may have been given another environment
                    if os.getsid(child.pid) == os.getsid(process.pid):
                        found.setdefault(child.pid, child)
    found.pop(os.getpid(), None)
    for send in (psutil.Process.terminate, psutil.Process.kill):
        for process in found.values():
            with contextlib.suppress(psutil.Error):  # which looks whether it still is the same process
                send(process)
        deadline = time.monotonic() + grace
        while any(map(_lives, found.values())):
            if time.monotonic() >= deadline:
                break
            time.sleep(_POLL_SECONDS)
        else:
            return


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
