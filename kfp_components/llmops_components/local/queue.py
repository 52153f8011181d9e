"""Whose turn it is on this machine: what the process of a run does when it has ended, for those that wait.

A run that waits is a file, ``<root>/queue/<number>.<run id>``, with its command and environment, and no process. A slot,
``<root>/slots/<number>``, is locked for as long as the process of its run works, and names that run. The Airflow provider's
``backends/local_queue.py`` is the other side of this: it lets runs in, and starts the first ones where a process was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
from pathlib import Path

import psutil

from llmops_components.serving.local.processes import is_running
from llmops_components.state_files import PRIVATE_UMASK, StateFileError, read_json, write_json

RUN_DIR_VARIABLE = "LLMOPS_RUN_DIR"
ORPHAN_GRACE_SECONDS = 5.0
TICKET_SHAPE = {"command": [str], "environment": {str: str}}
_POLL_SECONDS = 0.05


def start_next(root: Path, slots: int) -> None:
    """Start the runs whose turn it is.

    Args:
        root: Directory that holds ``queue/``, ``slots/`` and ``runs/``.
        slots: Runs at a time.
    """
    queue = root / "queue"
    if not _tickets(queue):
        return
    lock = os.open(queue / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        while (waiting := _tickets(queue)) and (slot := _free_slot(root / "slots", slots)) is not None:
            try:
                _start_first(root, waiting[0], slot)
            finally:
                os.close(slot)
    finally:
        os.close(lock)


def _tickets(queue: Path) -> list[Path]:
    return sorted(path for path in queue.glob("[0-9]*.*") if path.name[:20].isdigit())


def _free_slot(directory: Path, slots: int) -> int | None:
    for number in range(max(slots, 1)):
        slot = os.open(directory / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(slot)
        else:
            return slot
    return None


def _start_first(root: Path, ticket: Path, slot: int) -> None:
    run = root / "runs" / ticket.name.partition(".")[2]
    try:
        known = read_json(ticket, TICKET_SHAPE)
        command, environment = known.get("command") or [], known.get("environment") or {}
    except StateFileError as error:
        with contextlib.suppress(OSError):
            ticket.unlink()
        reason = {"type": "StateFileError", "message": str(error), "retryable": True}
        with contextlib.suppress(OSError):
            write_json(run / "state.json", {"state": "FAILED", "error": reason}, private=True)
        return
    with contextlib.suppress(OSError), (run / "lock").open("w") as lock:
        # Held before the ticket goes, so that whoever looks sees one or the other.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not (run / "cancel").exists() and not (run / "state.json").exists():
            _launch(root, run, command, environment, lock.fileno(), slot)
        ticket.unlink(missing_ok=True)
        return
    ticket.unlink(missing_ok=True)  # its directory is gone, or it has been started


def _launch(
    root: Path, run: Path, command: list[str], environment: dict[str, str], lock: int, slot: int
) -> None:
    before = os.pread(slot, 100, 0).decode("ascii", errors="replace").strip()
    last = root / "runs" / before
    is_mine = str(last) == os.environ.get(RUN_DIR_VARIABLE)
    # Another one that holds its lock has ended its steps, or its slot would not be free, and is about to be gone.
    if before and before != run.name and (is_mine or not is_running(last)):
        stop_processes_of(last)
    os.ftruncate(slot, 0)
    os.pwrite(slot, run.name.encode(), 0)
    log = os.open(run / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        subprocess.Popen(
            [*command, "--slot", str(slot)],
            cwd=run,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[lock, slot],
            start_new_session=True,
            umask=PRIVATE_UMASK,
        )
    finally:
        os.close(log)


def stop_processes_of(run: Path, grace: float = ORPHAN_GRACE_SECONDS) -> None:
    """Stop what a run has left behind whose process was killed: a step at work beside the next run.

    Args:
        run: Its directory, which each of its processes carries in its environment.
        grace: Seconds to end by themselves.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(RUN_DIR_VARIABLE) == str(run):
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
        while any(map(_lives, found.values())) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
