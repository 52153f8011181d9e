"""Processes that carry out segments: results come in the order of the batches, whichever was done first.

Each process has one batch at a time, so that one that dies leaves no doubt which rows it had.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Protocol

from llmops_components.data.preparation.records import head_of
from llmops_components.data.preparation.worker import Result, Worker
from llmops_components.errors import ComponentError

_BATCHES_AHEAD = 4  # a process, done and waiting for an earlier one to be done
_JOIN_SECONDS = 5.0


class BrokenWorkerError(ComponentError):
    """A process ended in the middle of its rows: out of memory, or a library crashed."""


class Crew(Protocol):
    """Whoever carries out segments."""

    def carry_out(self, number: int, batches: Iterable[Sequence[bytes]]) -> Iterator[Result]:
        """Carry out a segment for batches of records.

        Args:
            number: Of the segment.
            batches: The batches, taken as they are needed.
        """

    def close(self) -> None:
        """End what is still running."""


class ThisProcess:
    """Carries out segments in this process.

    Args:
        worker: What does the work.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def carry_out(self, number: int, batches: Iterable[Sequence[bytes]]) -> Iterator[Result]:
        """See :class:`Crew`."""
        return (self._worker.carry_out(number, batch) for batch in batches)

    def close(self) -> None:
        """Nothing is left running."""


class Processes:
    """Carries out segments in processes of its own.

    Args:
        worker: What does the work, a copy in each process.
        count: How many processes.
    """

    def __init__(self, worker: Worker, count: int) -> None:
        # Not forked: a copy of a process in which a library has threads may wait for ever for one that it lacks.
        context = multiprocessing.get_context("spawn")
        self._processes: dict[Connection, SpawnProcess] = {}
        try:
            for _ in range(count):
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(there, worker), daemon=True)
                process.start()
                there.close()
                self._processes[here] = process
        except BaseException:
            self.close()
            raise

    def carry_out(self, number: int, batches: Iterable[Sequence[bytes]]) -> Iterator[Result]:
        """See :class:`Crew`."""
        upcoming = iter(batches)
        batch = next(upcoming, None)
        idle = list(self._processes)
        busy: dict[Connection, tuple[int, Sequence[bytes]]] = {}
        done: dict[int, Result] = {}
        given = returned = 0
        while batch is not None or busy:
            while batch is not None and idle and given - returned < _BATCHES_AHEAD * len(self._processes):
                connection = idle.pop()
                busy[connection] = (given, batch)
                with suppress(OSError):  # it is gone: that is found where its answer is awaited
                    connection.send((number, batch))
                given += 1
                batch = next(upcoming, None)
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                position, its_batch = busy.pop(connection)
                done[position] = self._answer(connection, its_batch)
                idle.append(connection)
            while returned in done:
                yield done.pop(returned)
                returned += 1

    def _answer(self, connection: Connection, batch: Sequence[bytes]) -> Result:
        try:
            answer = connection.recv()
        except (EOFError, OSError):
            process = self._processes[connection]
            process.join(_JOIN_SECONDS)
            first, last = head_of(batch[0]).row_id, head_of(batch[-1]).row_id
            raise BrokenWorkerError(
                f"A process that prepared rows {_ending(process.exitcode)}, with rows {first} to {last} ({len(batch)}) in its "
                "hands: for lack of memory, or because a library crashed. Give the step more memory or fewer processes; where "
                "it happens again, look at these rows."
            ) from None
        if isinstance(answer, Result):
            return answer
        error, trace = answer
        error.add_note(f"In a process that prepares rows:\n{trace}")
        raise error

    def close(self) -> None:
        """Kill the processes: they hold nothing that has to be written."""
        for process in self._processes.values():
            process.kill()
        for connection, process in self._processes.items():
            process.join(_JOIN_SECONDS)
            connection.close()
        self._processes.clear()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return "does not answer" if code is None else f"ended by itself (exit status {code})"


def _serve(connection: Connection, worker: Worker) -> None:
    for told in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # they may reach the whole group; the main process ends this one
        signal.signal(told, signal.SIG_IGN)
    while True:
        try:
            number, batch = connection.recv()
        except EOFError:  # the main process is gone
            return
        try:
            answer: Result | tuple[Exception, str] = worker.carry_out(number, batch)
        except ComponentError as error:
            answer = (error, traceback.format_exc())
        except Exception as error:  # of any class, which the main process may not be able to read
            answer = (RuntimeError(str(error)), traceback.format_exc())
        with suppress(BrokenPipeError):
            connection.send(answer)
