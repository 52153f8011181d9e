"""Requests a minute: each has a moment of its own, evenly apart, in the order in which they come."""

from __future__ import annotations

import asyncio
import time

_SECONDS = 60


class Pace:
    """When the next request may be sent; at any time without a limit.

    Args:
        requests_per_minute: Most requests a minute; None for no limit.
    """

    def __init__(self, requests_per_minute: float | None) -> None:
        self.interval = 0.0 if requests_per_minute is None else _SECONDS / requests_per_minute
        self._next = 0.0
        self._turn = asyncio.Lock()  # the first that waits has it, and the others come in their order

    async def wait(self, closed_until: float = 0.0) -> float:
        """Wait for a moment; how many seconds that took. Who is cancelled meanwhile takes none.

        Args:
            closed_until: Moment before which nothing may be sent.
        """
        if not self.interval:
            return 0.0
        began = time.monotonic()
        async with self._turn:
            moment = max(time.monotonic(), self._next, closed_until)
            while (left := moment - time.monotonic()) > 0:  # noqa: ASYNC110  a moment is waited for
                await asyncio.sleep(left)
            self._next = moment + self.interval
        return time.monotonic() - began
