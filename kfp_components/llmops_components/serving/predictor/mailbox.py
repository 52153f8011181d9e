"""From the thread that computes answers to the event loop of those who read them, with one call for whatever is ready.

To wake a loop takes a system call, and a thread that gives up Python's lock for it. For each token of each answer that would be
more work than all else that is done about it.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Mailbox:
    """Puts things into queues of an event loop.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._letters: deque[tuple[asyncio.Queue[Any], Any]] = deque()

    def put(self, queue: asyncio.Queue[Any], letter: Any) -> None:
        """Put something into a queue, in the order of the calls (any thread).

        Args:
            queue: A queue without a limit.
            letter: What to put into it.

        Raises:
            RuntimeError: The loop is closed.
        """
        if (loop := self._loop()) is None or loop.is_closed():
            raise RuntimeError("The event loop is closed.")
        self._letters.append((queue, letter))
        held: set[Mailbox] | None = getattr(_HELD, "boxes", None)
        if held is None:
            self.send()
        else:
            held.add(self)

    def send(self) -> None:
        """Have the loop deliver what was put."""
        if (loop := self._loop()) is not None:
            with suppress(RuntimeError):  # closed: nobody listens any more
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        while self._letters:
            queue, letter = self._letters.popleft()
            queue.put_nowait(letter)


_HELD = threading.local()
_MAILBOXES: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = weakref.WeakKeyDictionary()


def mailbox() -> Mailbox:
    """That of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _MAILBOXES:
        _MAILBOXES[loop] = Mailbox(loop)
    return _MAILBOXES[loop]


@contextmanager
def sent_together() -> Iterator[None]:
    """What this thread puts into mailboxes meanwhile is delivered at the end, by one call to each loop."""
    boxes: set[Mailbox] = set()
    before, _HELD.boxes = getattr(_HELD, "boxes", None), boxes
    try:
        yield
    finally:
        _HELD.boxes = before
        for box in boxes:
            box.send()
