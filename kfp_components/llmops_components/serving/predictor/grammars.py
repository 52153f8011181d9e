"""Answers of a required form: a grammar says at each place which tokens may come next. The work is llguidance's.

What a client sends as a schema is a program for somebody else's machine. Its size is limited before anything reads it, it is
compiled beside the event loop, and llguidance counts the steps that it takes there and at each token.
https://github.com/guidance-ai/llguidance
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch

from llmops_components.errors import shortened
from llmops_components.json_text import parse_json
from llmops_components.serving.http.refusals import RequestError, bad_request
from llmops_components.serving.predictor.threads import SideThread

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_SCHEMA_CHARACTERS = 1 << 16
_MAX_WAITING_CHARACTERS = 1 << 18
# The states that count numbers, of which llguidance makes as many as the product says: a million take 20 s.
_MAX_MULTIPLE = 10_000
# Whitespace where JSON may have it, but not for ever: a model that is required to write JSON may get stuck in it.
JSON_OPTIONS = {"whitespace_pattern": r"[ \n\r\t]{0,20}", "lenient": False}
_TRIED_TOKENS = 16  # of an answer that has the form, before one is asked for
# Tried with patterns such as (a{1000}){1000}: a step takes up to 0.5 s and 100 MB before it is given up; real ones about 1 ms.
_LIMITS = {
    "initial_lexer_fuel": 300_000,
    "step_lexer_fuel": 20_000,
    "max_lexer_states": 20_000,
    "step_max_items": 20_000,
    "verbose_errors": False,
}


class Constraint(Protocol):
    """The state of one answer of a required form."""

    ended: bool
    """Whether nothing can follow any more, not even an end token."""

    def allow(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores of tokens, without those that may not come next."""

    def take(self, token: int) -> None:
        """Go on behind a token."""


class Grammar:
    """A form that answers may have, compiled.

    Args:
        matcher: llguidance's, at the beginning.
    """

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def begin(self) -> Constraint:
        """The state at the beginning of an answer."""
        return _Matching(self._matcher.deep_copy())


class _Matching:
    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self.ended = False

    def allow(self, scores: torch.Tensor) -> torch.Tensor:
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        self._check()
        allowed = ((bits[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).bool().flatten()
        allowed = torch.nn.functional.pad(allowed, (0, max(scores.shape[-1] - len(allowed), 0)))
        return scores.masked_fill(~allowed[: scores.shape[-1]], -torch.inf)

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()
        self.ended = self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise bad_request(
                f"The answer's form takes too much work to follow ({_reason(self._matcher)}). Use a simpler schema.",
                "response_format",
            )


class Grammars:
    """Makes grammars for one model.

    Args:
        tokenizer: The model's tokenizer.
        end_tokens: Ids of the tokens with which the model ends an answer.
        vocabulary: Number of the model's tokens.
    """

    def __init__(self, tokenizer: Any, end_tokens: frozenset[int], vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._end_tokens = sorted(end_tokens)
        self._vocabulary = vocabulary
        self._thread = SideThread("grammars", max_waiting=_MAX_WAITING_CHARACTERS, what="schemas")

    async def of_schema(self, schema: dict[str, Any], field: str) -> Grammar:
        """The grammar of JSON that a schema describes.

        Args:
            schema: A JSON schema.
            field: What the request calls it.
        """
        written = check_schema(schema, field)
        return await self._made(lambda: _of_json(written), len(written), field)

    async def of_lark(self, written: str, field: str) -> Grammar:
        """The grammar that a text in llguidance's dialect of Lark describes.

        Args:
            written: The text, whose schemas went through :func:`check_schema`.
            field: What the request calls the source of it.
        """
        return await self._made(lambda: written, len(written), field)

    async def _made(self, write: Callable[[], str], characters: int, field: str) -> Grammar:
        if not self._end_tokens:
            raise bad_request(
                "This model has no end token, so that an answer of a required form could not end.",
                field,
                "unsupported_value",
            )
        return await self._thread.run(lambda: self._compile(write, field), characters)

    def _compile(self, write: Callable[[], str], field: str) -> Grammar:
        from llguidance import LLMatcher, LLParserLimits

        try:
            written = write()
        except ValueError as error:  # nested too deeply for its reader
            raise bad_request(
                f"{field} cannot be carried out: {shortened(str(error), 300)}", field, "unsupported_value"
            ) from None
        matcher = LLMatcher(self._words, written, log_level=0, limits=LLParserLimits(**_LIMITS))
        tried = matcher.deep_copy()
        for _ in range(_TRIED_TOKENS):
            if tried.is_error() or tried.is_stopped():
                break
            allowed = tried.compute_bitmask()
            place, bits = next(((place, bits) for place, bits in enumerate(allowed) if bits), (0, 0))
            if bits:
                tried.consume_token(8 * place + (bits & -bits).bit_length() - 1)
        if "NoExtension" in tried.get_error():
            raise bad_request(f"{field} allows no answer at all.", field)
        if tried.is_error():
            raise bad_request(f"{field} cannot be carried out: {_reason(tried)}", field, "unsupported_value")
        return Grammar(matcher)

    @cached_property
    def _words(self) -> LLTokenizer:
        """llguidance's view of the tokens. It takes about a second to make."""
        from llguidance.hf import from_tokenizer

        try:
            size = max(self._vocabulary, len(self._tokenizer))
            return from_tokenizer(self._tokenizer, n_vocab=size, eos_token=self._end_tokens)
        except Exception as error:  # tokenizers whose tokens do not say which bytes they are
            raise RequestError(
                400,
                f"This model's tokenizer is of a kind that answers of a required form do not work with: {error}",
                param="response_format",
                code="unsupported_value",
            ) from None


def check_schema(schema: dict[str, Any], field: str) -> str:
    """A schema as text; raises :class:`RequestError` where it is larger, or deeper, than a schema may be.

    Args:
        schema: A JSON schema.
        field: What the request calls it.
    """
    try:
        written = json.dumps(schema, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"{field} cannot be written as JSON: {error}", field) from None
    if len(written) > MAX_SCHEMA_CHARACTERS:
        raise bad_request(
            f"{field} has {len(written)} characters; {MAX_SCHEMA_CHARACTERS} are the most. Ask for less at once.",
            field,
        )
    try:
        parse_json(written)
    except ValueError as error:
        raise bad_request(f"{field} is no schema that can be read: {error}", field) from None
    if "x-guidance" in schema:
        raise bad_request(f"{field} has x-guidance, which is no keyword of JSON schema.", field)
    product = 1
    for multiple in {*_multiples(schema)}:
        product *= max(int("".join(map(str, Decimal(str(multiple)).normalize().as_tuple().digits))), 1)
    if product > _MAX_MULTIPLE:
        raise bad_request(
            f"{field} has multipleOf with values that make {product} together; {_MAX_MULTIPLE} are the most.",
            field,
            "unsupported_value",
        )
    return written


def _multiples(schema: dict[str, Any]) -> list[Any]:
    found, waiting = [], [schema]
    while waiting:
        each: Any = waiting.pop()
        inner = list(each.values()) if isinstance(each, dict) else each
        waiting += [value for value in inner if isinstance(value, dict | list)]
        if isinstance(each, dict) and isinstance(multiple := each.get("multipleOf"), int | float):
            found.append(multiple)
    return found


def _of_json(written: str) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(written, overrides=JSON_OPTIONS)


def _reason(matcher: LLMatcher) -> str:
    return shortened(" ".join(matcher.get_error().replace("<non-verbose/>", "").split()), 300)
