"""Whose turn it is on this machine: runs wait as files and are started first come, first served.

A run that has to wait is a ticket, ``<root>/queue/<number>.<run id>``, and no process. Who ends starts the next: the process of a
run, see ``llmops_components.local.queue``, which is the other side of this; and whoever looks at the first run in the queue while
a slot is free, as after a process was killed. A ticket holds the run's environment, so it is its owner's alone, and gone when the
run starts.

A slot, ``<root>/slots/<number>``, is locked for as long as the process of its run works, however that ends, and names that run.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from airflow_provider_llmops.state_files import (
    PRIVATE_UMASK,
    Record,
    StateFileError,
    private_directory,
    read_record,
    write_json,
)

RUN_DIR_VARIABLE = "LLMOPS_RUN_DIR"
ORPHAN_GRACE_SECONDS = 5.0  # without the run's process nobody reads what a step writes, and it dies of that
STOP_POLL_SECONDS = 0.05


class Ticket(Record):
    """How to start a run.

    :param command: the runner's command line
    :param environment: all of its environment
    """

    command: list[str] = []
    environment: dict[str, str] = {}


@dataclass(frozen=True)
class Start:
    """How to start a run whose directory is complete.

    :param directory: of the run; its lock is free, or held by ``lock_fd``
    :param command: the runner's command line
    :param environment: all of its environment
    """

    directory: Path
    command: Sequence[str]
    environment: Mapping[str, str]


class LocalQueue:
    """The runs that wait below one directory.

    :param root: directory that holds ``runs/``
    :param slots: runs at a time
    """

    def __init__(self, root: Path, slots: int) -> None:
        self._root, self._slots = root, max(slots, 1)
        self._directory = root / "queue"

    def enter(self, start: Start, lock_fd: int) -> bool:
        """Start a run if it is its turn, or let it wait; returns whether it was started.

        :param start: how to start it
        :param lock_fd: its lock, held by the caller
        """
        with self._alone():
            waiting = self._tickets()
            if not waiting and (slot := self._free_slot()) is not None:
                try:
                    self._launch(start, lock_fd, slot)
                finally:
                    os.close(slot)
                return True
            last = int(waiting[-1].partition(".")[0]) if waiting else 0
            number = max(last + 1, time.time_ns())
            known = {"command": list(start.command), "environment": dict(start.environment)}
            write_json(self._directory / f"{number:020d}.{start.directory.name}", known)
        return False

    def ahead_of(self, run_id: str) -> int | None:
        """How many runs are to be started before one that waits; ``None`` if it does not."""
        try:
            names = os.listdir(self._directory)  # noqa: PTH208  200 runs look at it
        except FileNotFoundError:
            return None
        own = next((name for name in names if name.endswith(run_id)), None)
        # Numbers come first: neither the lock nor a ticket that is being written is before one.
        return None if own is None else sum("0" <= name < own for name in names)

    def go_on(self, on_broken: Callable[[Path, str], None]) -> None:
        """Start those whose turn it is.

        :param on_broken: is told of a run whose ticket cannot be read, and why
        """
        if not self._tickets() or (slot := self._free_slot()) is None:
            return
        os.close(slot)
        with self._alone():
            while (waiting := self._tickets()) and (slot := self._free_slot()) is not None:
                try:
                    self._start_first(self._directory / waiting[0], slot, on_broken)
                finally:
                    os.close(slot)

    def leave(self, run_id: str) -> None:
        """Let a run wait no longer.

        :param run_id: the run
        """
        if self.ahead_of(run_id) is None:
            return
        with self._alone():
            for name in self._tickets():
                if name.endswith(run_id):
                    (self._directory / name).unlink(missing_ok=True)

    def _start_first(self, ticket: Path, slot: int, on_broken: Callable[[Path, str], None]) -> None:
        directory = self._root / "runs" / ticket.name.partition(".")[2]
        try:
            known = read_record(ticket, Ticket)
        except StateFileError as error:
            with suppress(OSError):
                ticket.unlink()
            on_broken(directory, str(error))
            return
        try:
            with (directory / "lock").open("w") as lock:
                # Held before the ticket goes, so that whoever looks sees one or the other.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not (directory / "cancel").exists() and not (directory / "state.json").exists():
                    self._launch(Start(directory, known.command, known.environment), lock.fileno(), slot)
        except (FileNotFoundError, BlockingIOError) as error:  # it was removed, or has been started
            if directory.is_dir() and not isinstance(error, BlockingIOError):
                on_broken(directory, f"its process could not be started: {error}")
        except OSError as error:
            on_broken(directory, f"its process could not be started: {error}")
        ticket.unlink(missing_ok=True)

    def _launch(self, start: Start, lock_fd: int, slot: int) -> None:
        """Start the process of a run, once all that the slot's last run has left is stopped."""
        before = os.pread(slot, 100, 0).decode("ascii", errors="replace").strip()
        last = self._root / "runs" / before
        if before and last != start.directory and not is_locked(last / "lock"):
            stop(processes_of(last), ORPHAN_GRACE_SECONDS)
        os.ftruncate(slot, 0)
        os.pwrite(slot, start.directory.name.encode(), 0)
        log = os.open(start.directory / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            subprocess.Popen(
                [*start.command, "--slot", str(slot)],
                cwd=start.directory,
                env=dict(start.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock_fd, slot],
                start_new_session=True,
                umask=PRIVATE_UMASK,
            )
        finally:
            os.close(log)

    def _free_slot(self) -> int | None:
        """A slot that nobody works in, locked."""
        directory = private_directory(self._root / "slots")
        for number in range(self._slots):
            slot = os.open(directory / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(slot)
            else:
                return slot
        return None

    def _tickets(self) -> list[str]:
        """Names of the tickets, the first to be started first."""
        try:
            return sorted(name for name in os.listdir(self._directory) if name[:20].isdigit())  # noqa: PTH208
        except FileNotFoundError:
            return []

    @contextmanager
    def _alone(self) -> Iterator[None]:
        private_directory(self._directory)
        lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


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
            if process.environ().get(RUN_DIR_VARIABLE) != str(directory):
                continue
            found[process.pid] = process
            for child in process.children(recursive=True):  # one may have been given another environment
                with suppress(psutil.Error, OSError):
                    if os.getsid(child.pid) == os.getsid(process.pid):
                        found.setdefault(child.pid, child)
    return [process for process in found.values() if lives(process)]


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
