"""Whose turn it is on this machine: runs wait as files and are started first come, first served.

A run that is to be started is a ticket, ``<root>/queue/<number>.<run id>``, and no process. Whoever holds the queue's lock starts those
whose turn it is: who submits one, who looks at one that waits or has buried one, and the process of a run that ends, see
``llmops_components.local.queue``, which is the other side of this. A ticket goes when the run's process holds the run's lock, or when
the run can never be started; until then the next one who comes tries again. It holds the run's environment, so it is its owner's alone.

A slot, ``<root>/slots/<number>``, is locked for as long as the process of its run works, however that ends, and names that run.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from airflow_provider_llmops.backends.pipelines.local.ending import record_end
from airflow_provider_llmops.backends.pipelines.local.records import StateRecord
from airflow_provider_llmops.state_files import (
    PASSING,
    PRIVATE_UMASK,
    Record,
    StateFileError,
    private_directory,
    read_record,
    unreadable,
    write_json,
)

LOOK_SECONDS = 1.0  # a look at a run holds its lock for an instant; many of them, for a little longer
LOG_TAIL_BYTES = 1024


class Ticket(Record):
    """How to start a run. Each text stands for bytes, one sign for each: the system's texts need not be Unicode.

    :param command: the runner's command line
    :param environment: all of its environment
    """

    command: list[str] = []
    environment: dict[str, str] = {}


class NotNowError(Exception):
    """No run can be started at this moment, for a reason that is none of its own."""


def ticket(command: Sequence[str], environment: Mapping[str, str]) -> Ticket:
    """How to start a run, as a ticket has it.

    :param command: the runner's command line
    :param environment: all of its environment
    :raises ValueError: a text is none that a process can be given
    """

    def written(text: str) -> str:
        if "\0" in text:
            raise ValueError("it has a NUL")
        return os.fsencode(text).decode("latin-1")

    known = Ticket()
    for name, value in environment.items():
        try:
            if not name or "=" in name:
                raise ValueError("no variable can have that name")
            known.environment[written(name)] = written(value)
        except ValueError as error:
            raise ValueError(f"variable {name!r} of its environment: {error}") from None
    known.command.extend(map(written, command))
    return known


class LocalQueue:
    """The runs that wait below one directory.

    :param root: directory that holds ``runs/``
    :param slots: runs at a time
    """

    def __init__(self, root: Path, slots: int) -> None:
        self._root, self._slots = root, max(slots, 1)
        self._directory = root / "queue"

    def enter(self, run_id: str, known: Ticket) -> None:
        """Let a run wait behind those that do; :meth:`go_on` starts it.

        :param run_id: the run, whose directory is complete
        :param known: how to start it
        """
        with self._alone():
            waiting = self._tickets()
            last = int(waiting[-1].partition(".")[0]) if waiting else 0
            number = max(last + 1, time.time_ns())
            write_json(self._directory / f"{number:020d}.{run_id}", known.model_dump())

    def ahead_of(self, run_id: str) -> int | None:
        """How many runs are to be started before one that waits; ``None`` if it does not."""
        try:
            names = os.listdir(self._directory)  # noqa: PTH208  200 runs look at it
        except FileNotFoundError:
            return None
        own = next((name for name in names if name.endswith(run_id)), None)
        # Numbers come first: neither the lock nor a ticket that is being written is before one.
        return None if own is None else sum("0" <= name < own for name in names)

    def go_on(self, *, patient: bool = False) -> None:
        """Start those whose turn it is; the end of one that can never be started is recorded.

        :param patient: whether to wait for another one who does it at this moment
        """
        if not self._directory.is_dir():
            return
        with self._alone(patient=patient) as is_ours:
            for name in self._tickets() if is_ours else ():
                if (slot := self._free_slot()) is None:
                    return
                try:
                    self._start(self._directory / name, slot)
                except NotNowError as error:
                    _say_once(self._run_of(name) / "log.txt", f"waiting: {error}")
                    return  # the others would fare no better
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
                    _discard(self._directory / name)

    def _run_of(self, name: str) -> Path:
        return self._root / "runs" / name.partition(".")[2]

    def _start(self, path: Path, slot: int) -> None:
        """Start the run of a ticket, or find that it can never be started; a run whose lock is held keeps its ticket."""
        run = self._run_of(path.name)
        why = None
        try:
            known = read_record(path, Ticket)
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
            record_end(
                run, StateRecord(), "NotStarted", why
            )  # before the ticket goes, or a look between the two would find no reason
        _discard(path)

    def _free_slot(self) -> int | None:
        """A slot that nobody works in, locked; only who holds the queue's lock takes one."""
        directory = private_directory(self._root / "slots")
        for number in range(self._slots):
            slot = _open_slot(directory / str(number))
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
    def _alone(self, *, patient: bool = True) -> Iterator[bool]:
        """Hold the queue's lock; whether it is held, for those who do not wait for it."""
        private_directory(self._directory)
        lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if patient else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(lock)


def _open_slot(path: Path) -> int:
    """A slot's file; nobody can work in what is none, so that is put aside."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        path.rename(path.with_name(f".{path.name}.{uuid.uuid4().hex}"))
    return os.open(path, flags, 0o600)


@contextmanager
def _held(run: Path) -> Iterator[int | None]:
    """A run's lock, held; ``None`` where another one holds it for longer than a look takes."""
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


def _launch(run: Path, known: Ticket, lock: int, slot: int) -> None:
    """Start the process of a run, which inherits its lock and its slot."""
    if not known.command:
        raise unreadable(run, "its ticket names no command")
    command = [text.encode("latin-1") for text in known.command]
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
            env={key.encode("latin-1"): value.encode("latin-1") for key, value in known.environment.items()},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[lock, slot],
            start_new_session=True,
            umask=PRIVATE_UMASK,
        )
    finally:
        os.close(log)


def _discard(path: Path) -> None:
    """Remove a ticket, whatever it is."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)


def _say_once(log: Path, line: str) -> None:
    """Add a line to a run's log, unless it is the last one."""
    text = f"{line}\n".encode("utf-8", errors="replace")
    with suppress(OSError):
        handle = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            if not os.pread(
                handle, LOG_TAIL_BYTES, max(os.fstat(handle).st_size - LOG_TAIL_BYTES, 0)
            ).endswith(text):
                os.write(handle, text)
        finally:
            os.close(handle)
