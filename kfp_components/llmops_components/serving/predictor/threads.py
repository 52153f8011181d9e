"""Work that would hold up the event loop, in a thread beside it: one piece after the other, and not without end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from llmops_components.serving.http.refusals import RequestError

_Answer = TypeVar("_Answer")


class SideThread:
    """One thread, and what waits for it.

    Args:
        name: Name of the thread.
        max_waiting: Most characters that wait to be read; more are refused with 429, but for those of a single request.
        what: What waits, in the plural, for the refusal.
    """

    def __init__(self, name: str, *, max_waiting: int, what: str) -> None:
        self._max_waiting = max_waiting
        self._what = what
        self._waiting = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, work: Callable[[], _Answer], characters: int) -> _Answer:
        """What a function gives, while the event loop goes on.

        Args:
            work: The function.
            characters: How much it reads.
        """
        if self._waiting and self._waiting + characters > self._max_waiting:
            raise RequestError(
                429,
                f"The server is full: {self._what} of {self._waiting} characters wait to be read. Try again later.",
                code="queue_full",
                retry_after_seconds=1,
            )
        self._waiting += characters
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= characters
