"""What a thread puts into mailboxes comes to the event loop in its order, with one call for what belongs together."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest
from llmops_components.serving.predictor.mailbox import _MAILBOXES, Mailbox, mailbox, sent_together


async def put_by_a_thread(letters: int, queues: list[asyncio.Queue[Any]], together: int) -> int:
    """Put numbers into the queues in turn; how often the loop was called for it."""
    loop, box, calls = asyncio.get_running_loop(), mailbox(), []

    def put() -> None:
        for start in range(0, letters, together):
            with sent_together():
                for letter in range(start, min(start + together, letters)):
                    box.put(queues[letter % len(queues)], letter)

    call = loop.call_soon_threadsafe
    loop.call_soon_threadsafe = lambda *of, **more: calls.append(of) or call(*of, **more)  # type: ignore[method-assign]
    thread = threading.Thread(target=put)
    thread.start()
    for number in range(letters):
        assert await asyncio.wait_for(queues[number % len(queues)].get(), 10) == number
    thread.join()
    return len(calls)


def test_letters_come_in_their_order_and_by_one_call_for_those_that_belong_together() -> None:
    async def run() -> int:
        return await put_by_a_thread(3000, [asyncio.Queue() for _ in range(3)], 30)

    assert asyncio.run(run()) == 100


def test_a_letter_by_itself_comes_at_once() -> None:
    async def run() -> Any:
        queue: asyncio.Queue[str] = asyncio.Queue()
        threading.Thread(target=mailbox().put, args=(queue, "alone")).start()
        return await asyncio.wait_for(queue.get(), 10)

    assert asyncio.run(run()) == "alone"


def test_what_is_put_before_an_error_comes_all_the_same() -> None:
    async def run() -> Any:
        queue: asyncio.Queue[str] = asyncio.Queue()
        with pytest.raises(ZeroDivisionError), sent_together():
            mailbox().put(queue, "before")
            raise ZeroDivisionError
        return await asyncio.wait_for(queue.get(), 10)

    assert asyncio.run(run()) == "before"


def test_what_belongs_together_within_more_is_sent_with_its_own() -> None:
    async def run() -> list[str]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        with sent_together():
            mailbox().put(queue, "a")
            with sent_together():
                mailbox().put(queue, "b")
            mailbox().put(queue, "c")
        return [await asyncio.wait_for(queue.get(), 10) for _ in range(3)]

    assert asyncio.run(run()) == ["a", "b", "c"]


def test_a_loop_that_is_gone_is_not_kept() -> None:
    async def run() -> int:
        mailbox()
        return len(_MAILBOXES)

    for _ in range(3):
        gc.collect()
        assert asyncio.run(run()) <= 2


def test_each_loop_has_its_own() -> None:
    async def run() -> Mailbox:
        assert mailbox() is mailbox()
        return mailbox()

    first = asyncio.run(run())
    assert asyncio.run(run()) is not first
    with pytest.raises(RuntimeError, match="closed"):
        first.put(asyncio.Queue(), "nobody listens")
