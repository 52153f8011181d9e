"""Signals while a stack starts and stops: an interruption cleans up, and the cleaning-up is not interrupted."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM and SIGHUP what Ctrl-C is, a :class:`KeyboardInterrupt`, so that ``finally`` blocks run.

    SIGINT too: a shell has it ignored in what it starts in the background.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with _handling(interrupt):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore further signals while cleaning up, which takes seconds and must be complete."""
    with _handling(signal.SIG_IGN) if _in_main_thread() else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _handling(handler: Any) -> Iterator[None]:
    before = {
        number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
