"""Faults that the server answers with instead of, or after, doing what was asked."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Status:
    """An error status, as a proxy in front of the server answers it: plain text, no JSON."""

    code: int
    retry_after: float | str | None = None


@dataclass(frozen=True)
class Reset:
    """The connection is closed with RST and no answer."""


@dataclass(frozen=True)
class Timeout:
    """The answer comes after this many seconds; if the client has gone by then, the request has no effect."""

    seconds: float


@dataclass(frozen=True)
class Truncated:
    """The body stops in the middle.

    :param length_matches: ``Content-Length`` is that of the cut body, so that only the JSON tells; by default it
        promises the whole body and the connection closes early.
    """

    length_matches: bool = False


@dataclass(frozen=True)
class LoginPage:
    """What an authenticating proxy answers without a session: a login form, or a redirect to one."""

    status: int = 200


Fault = Status | Reset | Timeout | Truncated | LoginPage


@dataclass
class _Planned:
    faults: Sequence[Fault]
    times: float
    method: str | None
    path: re.Pattern[str] | None
    after_effect: bool
    probability: float
    random: random.Random

    def draw(self, method: str, path: str) -> Fault | None:
        if self.times < 1 or (self.method is not None and self.method != method):
            return None
        if self.path is not None and not self.path.search(path):
            return None
        if self.probability < 1 and self.random.random() >= self.probability:
            return None
        self.times -= 1
        return self.faults[0] if len(self.faults) == 1 else self.random.choice(list(self.faults))


class Faults:
    """The faults still to come; the first that fits a request is used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[_Planned] = []

    def add(
        self,
        fault: Fault,
        *,
        times: float = 1,
        method: str | None = None,
        path: str | None = None,
        after_effect: bool = False,
    ) -> None:
        """The next ``times`` requests that fit end in ``fault``.

        :param path: regular expression, searched in the path.
        :param after_effect: the request takes effect first, only its answer is lost.
        """
        self._plan([fault], times, method, path, after_effect, 1.0, 0)

    def always(
        self, fault: Fault, *, method: str | None = None, path: str | None = None, after_effect: bool = False
    ) -> None:
        self._plan([fault], float("inf"), method, path, after_effect, 1.0, 0)

    def random(
        self,
        probability: float,
        faults: Sequence[Fault],
        *,
        seed: int = 0,
        method: str | None = None,
        path: str | None = None,
        after_effect: bool = False,
    ) -> None:
        self._plan(faults, float("inf"), method, path, after_effect, probability, seed)

    def clear(self) -> None:
        with self._lock:
            self._planned.clear()

    def draw(self, method: str, path: str) -> tuple[Fault, bool] | None:
        with self._lock:
            for planned in self._planned:
                fault = planned.draw(method, path)
                if fault is not None:
                    return fault, planned.after_effect
        return None

    def _plan(
        self,
        faults: Sequence[Fault],
        times: float,
        method: str | None,
        path: str | None,
        after_effect: bool,
        probability: float,
        seed: int,
    ) -> None:
        pattern = re.compile(path) if path else None
        with self._lock:
            self._planned.append(
                _Planned(faults, times, method, pattern, after_effect, probability, random.Random(seed))  # noqa: S311
            )
