"""The processes of a stack, found by a mark in their environment, and ports that nobody listens on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time

import psutil

MARK = "LLMOPS_STACK"
STOP_GRACE_SECONDS = 3.0


def free_ports(count: int, preferred: tuple[int, ...] = ()) -> list[int]:
    """Ports on loopback that nobody listens on, all different.

    :param count: How many.
    :param preferred: Port to use at each position if it is free, for an address that is easy to remember.
    """
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        for position in range(count):
            wishes = [preferred[position]] if position < len(preferred) else []
            for wish in [*wishes, 0]:
                listener = held.enter_context(socket.socket())
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    listener.bind(("127.0.0.1", wish))
                except OSError as error:
                    if wish and error.errno in (errno.EADDRINUSE, errno.EACCES):
                        continue
                    raise
                ports.append(listener.getsockname()[1])
                break
        return ports


def marked_processes(directory: str | os.PathLike[str]) -> list[psutil.Process]:
    """Every live process that belongs to the stack in ``directory``, detached ones included."""
    wanted, found = os.path.realpath(directory), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(MARK) == wanted:
                found.append(process)
    return found


def stop_processes(directory: str | os.PathLike[str], grace_seconds: float = STOP_GRACE_SECONDS) -> int:
    """End every process of a stack: ask first, then kill what is left.

    :param directory: The stack's directory.
    :param grace_seconds: How long processes have to end by themselves.
    :return: How many processes there were.
    """
    processes = marked_processes(directory)
    total = len(processes)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(processes, timeout=grace_seconds)
    quiet_rounds = 0
    # A process seen in the middle of a fork may have had a child that the list did not: look until nothing shows twice.
    while quiet_rounds < 2:
        remaining = marked_processes(directory)
        for process in remaining:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(remaining, timeout=2)
        quiet_rounds = 0 if remaining else quiet_rounds + 1
        time.sleep(0.05)
    return total
