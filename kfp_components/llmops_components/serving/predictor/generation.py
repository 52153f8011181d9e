"""One answer in the making: the tokens that the worker feeds it become the text that its client reads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from prometheus_client import Histogram
from tokenizers.decoders import DecodeStream

from llmops_components.serving.http.refusals import RequestError
from llmops_components.serving.predictor.logprobs import TokenScore, score
from llmops_components.serving.predictor.mailbox import mailbox
from llmops_components.serving.predictor.sampling import Sampler, Sampling

logger = logging.getLogger(__name__)

FIRST_TOKEN_SECONDS = Histogram(
    "llmops_time_to_first_token_seconds",
    "From the arrival of a prompt to its first token",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)

FinishReason = Literal["stop", "length", "cancelled"]


def model_failed(error: Exception) -> RequestError:
    """What a client is told when its request made the model fail.

    Args:
        error: The reason, which is for the log alone.
    """
    refusal = RequestError(500, "The model failed on this request; the server's log has the reason.")
    refusal.__cause__ = error
    return refusal


@dataclass(frozen=True)
class Piece:
    """A part of an answer, or the whole.

    Args:
        text: What it says.
        scores: Log probabilities of the tokens that it is made of, where they were asked for.
    """

    text: str
    scores: list[TokenScore]


class Generation:
    """One prompt being answered: the worker feeds it tokens, its client iterates over the text.

    Args:
        prompt_ids: Token ids of the prompt.
        sampling: How to answer.
        tokenizer: The model's ``tokenizers.Tokenizer``.
        end_tokens: Ids of the tokens with which the model ends an answer.
        deadline: ``time.monotonic()`` at which the client is told that it took too long.
    """

    def __init__(
        self,
        prompt_ids: list[int],
        sampling: Sampling,
        tokenizer: Any,
        *,
        end_tokens: frozenset[int] = frozenset(),
        deadline: float,
    ) -> None:
        self.prompt_ids = prompt_ids
        self.sampling = sampling
        self.max_tokens = sampling.max_tokens
        self.joined_at = 0  # tokens that were there when it last got a place
        self.tokens: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.cancelled = False
        self.arrived = time.monotonic()
        self.deadline = deadline
        self._end_tokens = (frozenset() if sampling.ignore_eos else end_tokens) | set(sampling.stop_token_ids)
        self._sampler = Sampler(sampling, prompt_ids, self._end_tokens)
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=sampling.skip_special_tokens)
        self._decoded = 0  # characters that the decoder gave so far
        self._sent = 0  # characters that the client got so far
        self._held_back = ""
        self._score: TokenScore | None = None  # of the token that comes next
        self._scores: list[TokenScore] = []  # of tokens whose text is held back
        self._mailbox = mailbox()
        self._pieces: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()

    @property
    def completion_tokens(self) -> int:
        """Number of tokens generated, the end token included."""
        return len(self.tokens)

    @property
    def ids(self) -> list[int]:
        """Token ids of the prompt and of the answer so far."""
        return [*self.prompt_ids, *self.tokens]

    @property
    def needs(self) -> int:
        """Tokens of the prompt and of the answer, at the most."""
        return len(self.prompt_ids) + self.max_tokens

    @property
    def takes_most_likely(self) -> bool:
        """Whether the next token is the one with the highest score."""
        return self._sampler.takes_most_likely and self.sampling.logprobs is None

    def choose(self, logits: torch.Tensor) -> int:
        """The next token, by this answer's own settings; where there is none, the answer fails and others go on.

        Args:
            logits: The model's score of every token.
        """
        try:
            token = self._sampler.choose(logits)
            if self.sampling.logprobs is not None:
                self._score = score(logits, token, self.sampling.logprobs, self._decoded)
            return token
        except RequestError as error:
            self.fail(error)
            return 0
        except Exception as error:  # scores that are no numbers, for example
            logger.exception("Choosing a token failed, with %s", self.sampling)
            self.fail(model_failed(error))
            return 0

    def cancel(self) -> None:
        """The client is gone: the worker drops the row before the next token."""
        self.cancelled = True

    def feed(self, token: int) -> None:
        """Take one more token (worker thread).

        Args:
            token: The token's id.
        """
        if self.finish_reason is not None:
            return
        self.tokens.append(token)
        if len(self.tokens) == 1:
            FIRST_TOKEN_SECONDS.observe(time.monotonic() - self.arrived)
        ends = token in self._end_tokens
        if self._score is not None and not ends:
            self._scores.append(self._score)
        reason: FinishReason | None = "stop" if ends or self._sampler.has_ended else None
        if reason is None and len(self.tokens) >= self.max_tokens:
            reason = "length"
        self._take_text(self._decoder.step(self._tokenizer, token) or "" if not ends else "")
        if reason and self.finish_reason is None:
            # The decoder waits for the rest of a character; there is none, so take what decoding all at once says.
            said = self.tokens[:-1] if ends else self.tokens
            text = self._tokenizer.decode(said, skip_special_tokens=self.sampling.skip_special_tokens)
            self._take_text(text[self._decoded :])
        if reason and self.finish_reason is None:
            self.finish(reason)

    def _take_text(self, new: str) -> None:
        """Send text on as far as it cannot be the beginning of a stop string."""
        self._decoded += len(new)
        text = self._held_back + new
        stops = self.sampling.stop if len(self.tokens) > self.sampling.min_tokens else ()
        found = [(at, stop) for stop in stops if (at := text.find(stop)) >= 0]
        if found:
            at, stop = min(found)
            self._held_back = text[: at + (len(stop) if self.sampling.include_stop_str_in_output else 0)]
            end = self._sent + len(self._held_back)
            self._scores = [each for each in self._scores if each.offset < end]
            self.finish("stop")
            return
        keep = length_of_begun(text, stops)
        self._held_back = text[len(text) - keep :]
        if said := text[: len(text) - keep]:
            self._send_text(said)

    def finish(self, reason: FinishReason) -> None:
        """End the answer (worker thread).

        Args:
            reason: Why it ends.
        """
        self.finish_reason = reason
        if self._held_back or self._scores:
            self._send_text(self._held_back)
        self._send(None)

    def fail(self, error: Exception) -> None:
        """End the answer with an error (worker thread).

        Args:
            error: What the client gets.
        """
        self.finish_reason = "cancelled"
        self._send(error)

    def _send_text(self, text: str) -> None:
        self._sent += len(text)
        scores, self._scores = self._scores, []
        self._send(Piece(text, scores))

    def _send(self, piece: Piece | Exception | None) -> None:
        try:
            self._mailbox.put(self._pieces, piece)
        except RuntimeError:  # the server's loop is closed: nobody listens any more
            self.cancelled = True

    async def __aiter__(self) -> AsyncIterator[Piece]:
        try:
            while True:
                async with asyncio.timeout(self.deadline - time.monotonic()):
                    piece = await self._pieces.get()
                if piece is None:
                    return
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        except TimeoutError:
            seconds = round(self.deadline - self.arrived)
            raise RequestError(
                504,
                f"The request was not answered within {seconds} s ({self.completion_tokens} tokens generated). Ask for "
                "fewer tokens, or raise the predictor's request_timeout_seconds.",
                code="timeout",
            ) from None
        finally:
            self.cancel()

    async def whole(self) -> Piece:
        """The whole answer."""
        pieces = [piece async for piece in self]
        return Piece(
            "".join(piece.text for piece in pieces), [each for piece in pieces for each in piece.scores]
        )

    async def text(self) -> str:
        """What the whole answer says."""
        return (await self.whole()).text


def length_of_begun(text: str, stops: tuple[str, ...]) -> int:
    """Length of the longest end of a text that may be the beginning of a string.

    Args:
        text: The text.
        stops: The strings.
    """
    for size in range(min(len(text), max(map(len, stops), default=1) - 1), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return size
    return 0
