"""Many questions at a time: which are asked again, when, and when a service as a whole is given up.

A question whose answer fails is asked again where that may help. What a failure says of its own question, or of the service, is
known only when another question has been answered: until then the verdict is held back, and where the service is given up it
is dropped, so that these questions are asked again next time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from llmops_components.errors import SettingError, UnavailableError, check_known
from llmops_components.inference.client import Client, DeclinedError, PassingError, RefusedError, Reply
from llmops_components.inference.pace import Pace
from llmops_components.inference.protocols import Question

MAX_CONCURRENCY = 1024
_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 30.0
_TELL_SECONDS = 5.0  # of trouble, after which it is worth a line in the log
_NOT_LET_IN = 401
OF_THE_QUESTION = (200, 400, 413, 422)  # what other statuses refuse, they refuse whatever is asked
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How long and how often is asked.

    Args:
        request_seconds: Longest time for one answer.
        run_minutes: Longest time for all of them; without it there is none.
        attempts: How often one question is tried. A service that cannot be reached or is too busy (429, 503) does not count.
        outage_seconds: After how much time without any answer, while questions fail, the service is given up.
        refused_in_a_row: After how many refusals without an answer between them the service is given up.
        requests_per_minute: Most requests a minute, those that are sent again among them; without it there is no limit.

    Raises:
        SettingError: One of them is no number, or too small.
    """

    request_seconds: float = 120
    run_minutes: float | None = None
    attempts: int = 5
    outage_seconds: float = 300
    refused_in_a_row: int = 100
    requests_per_minute: float | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None and each.default is None:
                continue
            is_number = (
                isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            )
            is_whole = "int" not in str(each.type) or isinstance(value, int)
            if not is_number or not is_whole or value <= 0:
                kind = "whole number" if "int" in str(each.type) else "number"
                raise SettingError(f"limits: {each.name} is {value!r:.60}. Give a {kind} above 0.")

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Limits:
        """Limits by name; the others are the defaults.

        Args:
            given: Limits by name.
        """
        check_known(given or {}, [each.name for each in fields(cls)], "limits")
        return cls(**(given or {}))


@dataclass(frozen=True)
class Failure:
    """Why a question has no answer.

    Args:
        reason: The server's reason, or what happened.
        status: The server's HTTP status, if it sent one.
        may_pass: Whether asking another time may help.
        is_declined: Whether it is the model that declined to answer.
        is_late: Whether the answer took too long.
    """

    reason: str
    status: int | None
    may_pass: bool
    is_declined: bool = False
    is_late: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a question.

    Args:
        number: The question's number.
        attempts: How often it was sent.
        reply: Its answer, or
        failure: why there is none.
    """

    number: int
    attempts: int
    reply: Reply | None = None
    failure: Failure | None = None


class ServiceGoneError(UnavailableError):
    """A service gives no more answers, whatever it is asked, or the time for all of them is up."""


class ServiceRefusesError(SettingError):
    """A service refuses everything."""


async def ask_all(
    client: Client,
    questions: Iterable[tuple[int, Question]],
    settle: Callable[[Outcome], None],
    *,
    concurrency: int = 16,
    limits: Limits | None = None,
    has_answered: bool = False,
) -> None:
    """Ask questions, several at a time; they are taken from the iterable as there is time for them.

    Args:
        client: Whom to ask.
        questions: The questions, each with its number.
        settle: Called with what became of each, in the order in which that is known.
        concurrency: How many at a time.
        limits: How long and how often is asked.
        has_answered: Whether the service is known to answer questions of this kind, so that a refusal is the question's fault.

    Raises:
        ServiceGoneError: The service is given up, and may be back another time. Questions that were not settled have no answer.
        ServiceRefusesError: The service is given up for good.
    """
    check_concurrency(concurrency)
    pool = _Pool(client, settle, limits or Limits(), has_answered=has_answered)
    source = iter(questions)
    minutes = pool.limits.run_minutes
    try:
        async with asyncio.timeout(None if minutes is None else minutes * 60), asyncio.TaskGroup() as tasks:
            for _ in range(concurrency):
                tasks.create_task(pool.work(source))
    except TimeoutError:
        raise ServiceGoneError(
            f"The time for all answers is up: limits has run_minutes {minutes:g}. Run again to go on, or raise it."
        ) from None
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    pool.release()


def check_concurrency(concurrency: int) -> None:
    """Raise :class:`SettingError` unless so many questions can be asked at a time."""
    if (
        isinstance(concurrency, bool)
        or not isinstance(concurrency, int)
        or not 1 <= concurrency <= MAX_CONCURRENCY
    ):
        raise SettingError(
            f"concurrency is {concurrency!r:.60}. Give a whole number from 1 to {MAX_CONCURRENCY}."
        )


class Asker:
    """Asks one question after the other, or many at a time, and each again where that may help.

    Args:
        client: Whom to ask.
        limits: How long and how often is asked.
    """

    def __init__(self, client: Client, limits: Limits) -> None:
        self.limits = limits
        self._client = client
        self._troubled_since: float | None = None
        self._closed_until = 0.0
        self._pace = Pace(limits.requests_per_minute)
        self._is_told = False
        # An answer that takes its time is no outage, nor is a question that is not sent yet.
        self._outage_seconds = max(limits.outage_seconds, limits.request_seconds, 3 * self._pace.interval)

    async def ask(self, number: int, question: Question) -> Outcome:
        """What becomes of a question.

        Args:
            number: The question's number.
            question: The question.

        Raises:
            ServiceGoneError: The service is given up, and may be back another time.
            ServiceRefusesError: The service wants another key.
        """
        began, attempts, tries = time.monotonic(), 0, 0
        while True:
            began += await self._opened()  # its turn is nobody's outage
            attempts += 1
            try:
                reply = await self._client.ask(question)
            except RefusedError as error:
                self._check_key(error)
                failure = Failure(
                    error.reason, error.status, may_pass=False, is_declined=isinstance(error, DeclinedError)
                )
                return Outcome(number, attempts, failure=failure)
            except PassingError as error:
                tries += error.is_try
                self._check_outage(error)
                is_starved = not error.is_try and time.monotonic() - began > self._outage_seconds
                if tries >= self.limits.attempts or is_starved:
                    failure = Failure(error.reason, error.status, may_pass=True, is_late=error.is_late)
                    return Outcome(number, attempts, failure=failure)
                await asyncio.sleep(_delay(attempts))
            else:
                self.lives()
                return Outcome(number, attempts, reply=reply)

    def lives(self) -> None:
        """The service has answered, or refused what it would not refuse of another question."""
        self._troubled_since, self._is_told = None, False

    async def _opened(self) -> float:
        """Wait for the question's turn; how many seconds that took.

        Where there is no limit on requests a minute, all wait until the time that the service named, a little longer each, so that not
        all come at once.
        """
        if self._pace.interval:
            waited = await self._pace.wait(self._closed_until)
            while self._closed_until > time.monotonic():  # it named a time meanwhile
                waited += await self._pace.wait(self._closed_until)
            return waited
        while (left := self._closed_until - time.monotonic()) > 0:  # noqa: ASYNC110  a moment is waited for
            await asyncio.sleep(left + random.uniform(0, min(1.0, left)))  # noqa: S311  no secret
        return 0.0

    def _check_key(self, error: RefusedError) -> None:
        if error.status == _NOT_LET_IN:
            variable, file_variable = self._client.key_variables
            raise ServiceRefusesError(
                f"The service wants another API key: {error.reason}. Give it in {variable}, or a file with it in "
                f"{file_variable}. Address: {self._client.service.address}."
            )

    def _check_outage(self, error: PassingError) -> None:
        now = time.monotonic()
        if self._troubled_since is None:
            self._troubled_since = now
        wait = error.retry_after or 0.0
        if not error.is_try:
            self._closed_until = max(self._closed_until, now + min(wait, self._outage_seconds))
        without = now - self._troubled_since
        if without > _TELL_SECONDS and not self._is_told:
            self._is_told = True
            logger.warning(
                "The service gives no answers: %s; it is asked for %g s more",
                error.reason,
                self._outage_seconds,
            )
        if max(without, wait) > self._outage_seconds:
            raise ServiceGoneError(
                f"The service gives no answers: {error.reason}. Nothing was answered for {without:.0f} s"
                + (f", and it wants to be asked again after {wait:.0f} s" if wait else "")
                + f". Look at its log; run again to go on. Address: {self._client.service.address}."
            )


class _Pool:
    """Holds verdicts back until it is known whether they are of the question or of the service."""

    def __init__(
        self, client: Client, settle: Callable[[Outcome], None], limits: Limits, *, has_answered: bool
    ) -> None:
        self.limits = limits
        self._client = client
        self._asker = Asker(client, limits)
        self._settle = settle
        self._held: list[Outcome] = []
        self._has_answered = has_answered

    async def work(self, source: Iterator[tuple[int, Question]]) -> None:
        """Ask one question after the other, until there are no more."""
        for number, question in source:
            outcome = await self._asker.ask(number, question)
            if outcome.failure is None:
                self._has_answered = True
                self.release()
                self._settle(outcome)
            else:
                self._held.append(outcome)
                if not outcome.failure.may_pass:
                    self._refused(outcome.failure)

    def release(self) -> None:
        """Settle what was held back."""
        for outcome in self._held:
            self._settle(outcome)
        self._held.clear()

    def _refused(self, failure: Failure) -> None:
        if failure.status in OF_THE_QUESTION and self._has_answered:
            self._asker.lives()
            self.release()
            return
        refused = [each.failure for each in self._held if each.failure and not each.failure.may_pass]
        if len(refused) >= self.limits.refused_in_a_row:
            raise ServiceRefusesError(
                f"The service refuses everything: {refused[0].reason}. {len(refused)} questions in a row were refused. Correct the "
                "address, the model's name, the request or the rows; limits has refused_in_a_row. "
                f"Address: {self._client.service.address}."
            )


def _delay(attempts: int) -> float:
    """Seconds until the next attempt: longer each time, and another one for each question."""
    longest = min(_FIRST_DELAY_SECONDS * 2 ** min(attempts - 1, 10), _LONGEST_DELAY_SECONDS)
    return random.uniform(longest / 2, longest)  # noqa: S311  no secret
