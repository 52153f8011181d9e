"""How much each key has asked for in the last minute."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from llmops_components.serving.access.settings import Key

WINDOW_SECONDS = 60.0
# What a request counts for while it is under way, before a key's first answer says what its answers take.
FIRST_GUESS_TOKENS = 64
_BYTES_PER_TOKEN = 4
_WEIGHT_OF_THE_NEWEST = 0.2


class Window:
    """What was used in the minute that ends now."""

    def __init__(self) -> None:
        self._entries: deque[tuple[float, int]] = deque()
        self._total = 0

    def used(self, now: float) -> int:
        """The sum.

        Args:
            now: The time.
        """
        while self._entries and self._entries[0][0] <= now - WINDOW_SECONDS:
            self._total -= self._entries.popleft()[1]
        return self._total

    def add(self, amount: int, now: float) -> None:
        """Note what is used now.

        Args:
            amount: How much.
            now: The time.
        """
        if amount:
            self._entries.append((now, amount))
            self._total += amount

    def seconds_until_below(self, limit: int, now: float) -> float:
        """How long it takes until less than a limit has been used in a minute.

        Args:
            limit: The limit.
            now: The time.
        """
        left = self.used(now)
        if left < limit:
            return 0.0
        for at, amount in self._entries:
            left -= amount
            if left < limit:
                return at + WINDOW_SECONDS - now
        return WINDOW_SECONDS


@dataclass
class _OfKey:
    requests: Window = field(default_factory=Window)
    tokens: Window = field(default_factory=Window)
    under_way: int = 0
    answer_tokens: float = FIRST_GUESS_TOKENS


@dataclass(frozen=True)
class Exceeded:
    """A quota that is used up.

    Args:
        quota: Its name in words.
        limit: The limit.
        retry_after_seconds: When to ask again.
    """

    quota: str
    limit: int
    retry_after_seconds: int


class Quotas:
    """Counts by key, in this process: a restart forgets them.

    Tokens are known when a request has been answered. Until then it counts for a guess: its length, and what the key's answers
    have taken so far, so that many requests at once cannot pass the limit by far.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of_key: dict[str, _OfKey] = {}

    def take(self, key: Key, body_bytes: int) -> int | Exceeded:
        """Count a request that begins.

        Args:
            key: Who asks.
            body_bytes: Length of the request's body.

        Returns:
            What to give to :meth:`settle` when it has been answered, or the quota that is used up; then nothing is counted.
        """
        now = self._clock()
        own = self._of_key.setdefault(key.name, _OfKey())
        for quota, limit, window, more in (
            ("requests", key.requests_per_minute, own.requests, 0),
            ("tokens", key.tokens_per_minute, own.tokens, own.under_way),
        ):
            if limit is not None and window.used(now) + more >= limit:
                wait = max(window.seconds_until_below(limit, now), 1.0)
                return Exceeded(f"{quota} per minute", limit, math.ceil(wait))
        self.count(key)
        guess = body_bytes // _BYTES_PER_TOKEN + round(own.answer_tokens)
        own.under_way += guess
        return guess

    def count(self, key: Key) -> None:
        """Count a request that takes no tokens, whatever the limit.

        Args:
            key: Who asks.
        """
        if key.requests_per_minute is not None:
            self._of_key.setdefault(key.name, _OfKey()).requests.add(1, self._clock())

    def settle(self, key: Key, guess: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Count what an answered request took.

        Args:
            key: Who asked.
            guess: What :meth:`take` returned.
            prompt_tokens: Tokens read.
            completion_tokens: Tokens written.
        """
        own = self._of_key[key.name]
        own.under_way -= guess
        if key.tokens_per_minute is not None:
            own.tokens.add(prompt_tokens + completion_tokens, self._clock())
        if completion_tokens:
            own.answer_tokens += _WEIGHT_OF_THE_NEWEST * (completion_tokens - own.answer_tokens)
