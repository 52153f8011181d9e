"""Wait for something only so long that has no limit of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_time(work: Callable[[], T], seconds: float) -> T:
    """What some work gives, or raises; a :class:`TimeoutError` if it takes too long, and nobody waits for it any more.

    :param work: what to do, in a thread that does not keep the process from ending
    :param seconds: how long to wait for it
    """
    answer: list[T] = []
    raised: list[Exception] = []

    def carry_out() -> None:
        try:
            answer.append(work())
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=carry_out, name="in-time", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not answer:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return answer[0]
