"""Verdicts of a judge: each question asked once, its answer remembered, counted and read."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from llmops_components.errors import ComponentError, SettingError, shortened
from llmops_components.evaluation.judge.memory import Memory, digest
from llmops_components.evaluation.judge.settings import JudgeSettings
from llmops_components.inference.client import Client
from llmops_components.inference.pool import (
    OF_THE_QUESTION,
    Asker,
    Failure,
    Outcome,
    ServiceGoneError,
    ServiceRefusesError,
)
from llmops_components.inference.protocols import Question
from llmops_components.inference.service import JUDGE_PREFIX, Access, origin_of

DECLINED, REFUSED, MALFORMED, CUT_OFF = "declined", "refused", "malformed", "cut_off"
LATE, UNAVAILABLE, LIMIT, NO_SCORE = "timed_out", "unavailable", "limit", "no_score"
_MAX_SHOWN = 200
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_CUT, _FILTERED = "length", "content_filter"
Verdict = TypeVar("Verdict", bound=BaseModel)


class NoVerdictError(Exception):
    """The judge has given no verdict.

    Args:
        kind: What it was, in one word.
        reason: What it was, in a sentence.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass
class Case:
    """One metric of one row: what was asked for it, and why it has no score.

    Args:
        asked: How often each question was asked; the same one again is another question.
        failure: Why there is no score. What asks the judge may swallow it.
    """

    asked: Counter[str] = field(default_factory=Counter)
    failure: NoVerdictError | None = None

    def fail(self, failure: NoVerdictError) -> NoVerdictError:
        """Keep the first reason.

        Args:
            failure: A reason.
        """
        self.failure = self.failure or failure
        return self.failure


@dataclass
class Spent:
    """Questions and tokens.

    Args:
        questions: Questions sent by this attempt.
        remembered: Answers known from before.
        again: Questions that were asked again, as the answer was not what was asked for.
        prompt_tokens: Tokens read, for all answers that were used.
        completion_tokens: Tokens written.
        without_usage: Answers of which the server does not say how many tokens they took.
    """

    questions: int = 0
    remembered: int = 0
    again: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_usage: int = 0


class Judge:
    """Asks a judge: to be used with ``async with``, in one event loop.

    Args:
        settings: Who judges.
        memory: What it has answered before, open.
    """

    def __init__(self, settings: JudgeSettings, memory: Memory) -> None:
        self.settings = settings
        self.spent = Spent()
        self.gone: ServiceGoneError | None = None
        self.fatal: ComponentError | None = None
        self._memory = memory
        self._who = digest([settings.service.address, settings.model_name, dict(settings.request)])
        self._free = asyncio.Semaphore(settings.concurrency)
        self._trying = asyncio.Lock()
        self._takes_schema = {"auto": None, "json_schema": True, "prompt": False}[settings.response_format]
        self._coming: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._used: set[str] = set()
        self._has_answered = False
        self._refused = 0
        self._refusal = ""
        self._began: float | None = None
        self._numbers = 0
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        access = Access.from_environment(JUDGE_PREFIX)
        limits = self.settings.checked_limits

        async def asker(service: Any) -> Asker:
            client = Client(
                service,
                access if origin_of(service.url) == origin_of(self.settings.url) else Access(),
                connections=self.settings.concurrency,
                request_seconds=limits.request_seconds,
            )
            return Asker(await self._stack.enter_async_context(client), limits)

        self._asker = await asker(self.settings.service)
        embedder = self.settings.embedder
        self._embedder = None if embedder is None else await asker(embedder)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def verdict(self, prompt: str, kind: type[Verdict], case: Case) -> Verdict:
        """What the judge says, in the form that was asked for.

        Args:
            prompt: The question.
            kind: The form.
            case: For what it is asked.

        Raises:
            NoVerdictError: There is none.
            ServiceRefusesError: The judge refuses everything.
            SettingError: The judge cannot be asked under these limits.
        """
        if case.failure is not None:
            raise case.failure
        schema = _schema(kind)
        case.asked[prompt] += 1
        asked = {"judge": self._who, "prompt": prompt, "schema": _digest_of(kind), "nth": case.asked[prompt]}
        said: list[dict[str, str]] = []
        try:
            for _ in range(self.settings.asks):
                key = digest(asked | {"said": said}) if said else digest(asked)
                answer = await self._once(key, prompt, schema, said)
                if answer.get("finish_reason") == _FILTERED:
                    raise NoVerdictError(DECLINED, "the judge's answer was filtered")
                try:
                    return _read(kind, answer["answer"])
                except ValueError as error:
                    if answer.get("finish_reason") == _CUT:
                        raise NoVerdictError(
                            CUT_OFF,
                            "the judge's answer was cut off at its token limit; raise max_tokens in its request",
                        ) from None
                    why = _why(error)
                    self.spent.again += 1
                    said = [*said, *_again(answer["answer"], why)]
            raise NoVerdictError(
                MALFORMED, f"the judge did not answer as asked, {self.settings.asks} times: {why}"
            )
        except NoVerdictError as error:
            raise case.fail(error) from None
        except ComponentError as error:
            self.fatal = error
            raise

    async def embedding(self, text: str, case: Case) -> list[float]:
        """A text as the endpoint for embeddings has it.

        Args:
            text: The text.
            case: For what it is asked.
        """
        assert self._embedder is not None and self.settings.embedder is not None
        if case.failure is not None:
            raise case.failure
        service = self.settings.embedder
        key = digest({"embedder": [service.address, service.model_name], "text": text})
        embedder = self._embedder
        try:
            answer = await self._kept(key, "embedder", lambda: self._ask(embedder, Question(text, {})))
        except NoVerdictError as error:
            raise case.fail(error) from None
        except ComponentError as error:
            self.fatal = error
            raise
        found: list[float] = answer["answer"]
        return found

    async def _once(
        self, key: str, prompt: str, schema: dict[str, Any], said: list[dict[str, str]]
    ) -> dict[str, Any]:
        answer = await self._kept(key, self._who, lambda: self._ask_as_it_takes_it(prompt, schema, said))
        if key not in self._used:
            self._used.add(key)
            counts = answer.get("prompt_tokens"), answer.get("completion_tokens")
            self.spent.without_usage += None in counts
            self.spent.prompt_tokens += counts[0] or 0
            self.spent.completion_tokens += counts[1] or 0
        return answer

    async def _kept(self, key: str, who: str, ask: Callable[[], Awaitable[Outcome]]) -> dict[str, Any]:
        """What was answered before, or what is being asked, or the answer to a new question."""
        if (known := self._memory.known(key)) is not None:
            self.spent.remembered += key not in self._used
            return known
        if (coming := self._coming.get(key)) is not None:
            return await asyncio.shield(coming)
        future = self._coming[key] = asyncio.get_running_loop().create_future()
        try:
            async with self._free:
                outcome = await ask()
            answer = self._answer(outcome)
            self._memory.note(key, {"judge": who, **answer})
        except BaseException as error:
            future.set_exception(error if isinstance(error, Exception) else RuntimeError("stopped"))
            future.exception()  # somebody may wait for it, or nobody
            raise
        finally:
            del self._coming[key]
        future.set_result(answer)
        return answer

    async def _ask_as_it_takes_it(
        self, prompt: str, schema: dict[str, Any], said: list[dict[str, str]]
    ) -> Outcome:
        if self._takes_schema is None:
            async with self._trying:  # one finds it out for all
                if self._takes_schema is None:
                    outcome = await self._ask(self._asker, _question(prompt, schema, said, by_schema=True))
                    refused = outcome.failure is not None and outcome.failure.status in (400, 422)
                    if not refused:
                        self._takes_schema = True if outcome.reply else None
                        return outcome
                    other = await self._ask(self._asker, _question(prompt, schema, said, by_schema=False))
                    self._takes_schema = False if other.reply else None
                    return other
        return await self._ask(self._asker, _question(prompt, schema, said, by_schema=self._takes_schema))

    async def _ask(self, asker: Asker, question: Question) -> Outcome:
        if self.gone is not None:
            raise NoVerdictError(UNAVAILABLE, f"the judge gave no more answers: {self.gone}")
        self._check_limits()
        self._numbers += 1
        self.spent.questions += 1
        try:
            return await asker.ask(self._numbers, question)
        except ServiceGoneError as error:
            self.gone = self.gone or error
            raise NoVerdictError(UNAVAILABLE, f"the judge gave no more answers: {error}") from None

    def _check_limits(self) -> None:
        now = time.monotonic()
        self._began = self._began or now  # with the first question
        minutes = self.settings.checked_limits.run_minutes
        if minutes is not None and now - self._began > minutes * 60:
            raise NoVerdictError(LIMIT, f"the judge's limit is reached: run_minutes is {minutes:g}")
        prompt, completion = self._memory.tokens_of(self._who)  # what earlier attempts took counts, too
        most, cost = self.settings.max_tokens_total, self.settings.cost(prompt, completion)
        if most is not None and prompt + completion >= most:
            raise NoVerdictError(LIMIT, f"the judge's limit is reached: max_tokens_total is {most}")
        if self.settings.max_cost is not None and cost is not None and cost >= self.settings.max_cost:
            raise NoVerdictError(
                LIMIT, f"the judge's limit is reached: max_cost is {self.settings.max_cost:g}"
            )

    def _answer(self, outcome: Outcome) -> dict[str, Any]:
        if outcome.reply is None:
            assert outcome.failure is not None
            raise self._no_answer(outcome.failure)
        answer = outcome.reply.answer
        limited = self.settings.max_tokens_total or self.settings.max_cost
        is_verdict = not isinstance(answer.value, list)
        self._has_answered = self._has_answered or is_verdict
        if limited and is_verdict and None in (answer.prompt_tokens, answer.completion_tokens):
            raise SettingError(
                "The judge's server does not say how many tokens an answer takes (usage), so that max_tokens_total and max_cost cannot be "
                "kept. Leave them out, or ask a server that does."
            )
        return {
            "answer": answer.value or "",
            "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
        }

    def _no_answer(self, failure: Failure) -> Exception:
        if failure.is_declined:
            return NoVerdictError(DECLINED, failure.reason)
        if failure.is_late:
            return NoVerdictError(LATE, f"the judge took too long: {failure.reason}")
        if failure.may_pass:
            return NoVerdictError(UNAVAILABLE, f"the judge gave no answer: {failure.reason}")
        self._refused, self._refusal = self._refused + 1, failure.reason
        are_many = self._refused >= self.settings.checked_limits.refused_in_a_row
        if not self._has_answered and (failure.status not in OF_THE_QUESTION or are_many):
            return self._refuses()
        return NoVerdictError(REFUSED, f"the judge's server refused the question: {failure.reason}")

    def check_has_answered(self) -> None:
        """Raise :class:`ServiceRefusesError` where every question was refused: not the rows are wrong then, but the settings."""
        if self._refused and not self._has_answered and not self.spent.remembered:
            raise self._refuses()

    def _refuses(self) -> ServiceRefusesError:
        return ServiceRefusesError(
            f"The judge refuses to be asked: {self._refusal}. Correct its address, model_name or request. Address: "
            f"{self.settings.service.address}."
        )


@cache
def _schema(kind: type[BaseModel]) -> dict[str, Any]:
    return kind.model_json_schema()


@cache
def _digest_of(kind: type[BaseModel]) -> str:
    return digest(_schema(kind))


def _question(
    prompt: str, schema: dict[str, Any], said: list[dict[str, str]], *, by_schema: bool | None
) -> Question:
    if by_schema:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", schema.get("title", "verdict"))[:64]
        form = {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
        return Question([{"role": "user", "content": prompt}, *said], {"response_format": form})
    words = f"{prompt}\n\nAnswer with one JSON object that fits this JSON schema, and with nothing else:\n{json.dumps(schema)}"
    return Question([{"role": "user", "content": words}, *said], {})


def _again(answer: str, why: str) -> list[dict[str, str]]:
    return [
        {"role": "assistant", "content": answer or " "},
        {
            "role": "user",
            "content": f"That is not what was asked for: {why}. Answer again, with the JSON object alone.",
        },
    ]


def _read(kind: type[Verdict], text: str) -> Verdict:
    """The object in an answer, which may stand in a block of code, or after what a model thought."""
    text = _THOUGHT.sub("", text)
    start, end = text.find("{"), text.rfind("}")
    return kind.model_validate_json(text[start : end + 1] if 0 <= start < end else text)


def _why(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return shortened(str(error), _MAX_SHOWN)
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return shortened(f"{where}: {first['msg']}" if where else first["msg"], _MAX_SHOWN)
