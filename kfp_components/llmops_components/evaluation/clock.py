"""How long the parts of an evaluation take."""

from __future__ import annotations

import time


class Clock:
    """Seconds of what was done, one after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Note how long something took.

        Args:
            name: What was done since the last time.
        """
        now = time.monotonic()
        self.seconds[name], self._last = now - self._last, now
