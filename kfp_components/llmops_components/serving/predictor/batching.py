"""Answers concurrent requests with one forward pass per token for all of them.

One worker thread owns the model. Requests wait in a queue; between two tokens the worker lets waiting prompts join the
batch and drops rows that have ended (end token, stop string, length, client gone), so nobody waits for somebody else's
long answer. Each row has its own sampling settings and gets its text as it appears.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import torch
from prometheus_client import Counter, Gauge, Histogram
from tokenizers.decoders import DecodeStream

from llmops_components.serving.http.refusals import RequestError
from llmops_components.serving.predictor.engines import Batch, Engine, OneByOne
from llmops_components.serving.predictor.sampling import Sampler, Sampling

logger = logging.getLogger(__name__)

QUEUE_LENGTH = Gauge("llmops_queue_length", "Prompts that wait for a place in the batch")
RUNNING = Gauge("llmops_running_prompts", "Prompts that are being answered")
PROMPT_TOKENS = Counter("llmops_prompt_tokens", "Prompt tokens read")
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
        self._held_back = ""
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[str | Exception | None] = asyncio.Queue()

    @property
    def completion_tokens(self) -> int:
        """Number of tokens generated, the end token included."""
        return len(self.tokens)

    @property
    def takes_most_likely(self) -> bool:
        """Whether the next token is the one with the highest score."""
        return self._sampler.takes_most_likely

    def choose(self, logits: torch.Tensor) -> int:
        """The next token, by this answer's own settings; where there is none, the answer fails and others go on.

        Args:
            logits: The model's score of every token.
        """
        try:
            return self._sampler.choose(logits)
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
        reason: FinishReason | None = "stop" if ends else None
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
            self.finish("stop")
            return
        keep = _length_of_begun_stop(text, stops)
        self._held_back = text[len(text) - keep :]
        self._send(text[: len(text) - keep])

    def finish(self, reason: FinishReason) -> None:
        """End the answer (worker thread).

        Args:
            reason: Why it ends.
        """
        self.finish_reason = reason
        self._send(self._held_back)
        self._send(None)

    def fail(self, error: Exception) -> None:
        """End the answer with an error (worker thread).

        Args:
            error: What the client gets.
        """
        self.finish_reason = "cancelled"
        self._send(error)

    def _send(self, piece: str | Exception | None) -> None:
        if piece != "":
            try:
                self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)
            except RuntimeError:  # the server's loop is closed: nobody listens any more
                self.cancelled = True

    async def __aiter__(self) -> AsyncIterator[str]:
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

    async def text(self) -> str:
        """The whole answer."""
        return "".join([piece async for piece in self])


def _length_of_begun_stop(text: str, stops: tuple[str, ...]) -> int:
    """Length of the longest end of the text that may be the beginning of a stop string."""
    for size in range(min(len(text), max(map(len, stops), default=1) - 1), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return size
    return 0


class Batcher:
    """Queue and worker thread in front of one model.

    Args:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        max_batch_size: Most prompts answered at the same time.
        max_queue_length: Most prompts that wait; more are refused with 429.
        max_model_len: Most tokens of a prompt and its answer together.
        request_timeout_seconds: Longest time from arrival to the end of the answer.
        engine: Makes what answers, from the model.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_batch_size: int = 16,
        max_queue_length: int = 64,
        max_model_len: int = 2048,
        request_timeout_seconds: float = 300,
        engine: Callable[[Any], Engine] = Batch,
    ) -> None:
        self.model = model
        self.max_batch_size = 1 if engine is OneByOne else max_batch_size
        self.max_queue_length = max_queue_length
        self.max_model_len = max_model_len
        self.request_timeout_seconds = request_timeout_seconds
        self.vocabulary = model.get_input_embeddings().weight.shape[0]
        self._make_engine = engine
        self._tokenizer = tokenizer.backend_tokenizer
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self.end_tokens = frozenset(end for end in [*ends, tokenizer.eos_token_id] if end is not None)
        self._waiting: deque[Generation] = deque()
        self._arrived = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)

    def start(self) -> None:
        """Start the worker."""
        self._thread.start()

    def stop(self) -> None:
        """Let the worker end when it has answered what it has."""
        with self._arrived:
            self._stopping = True
            self._arrived.notify()

    def submit(
        self,
        prompts: list[list[int]],
        sampling: list[Sampling],
        *,
        prompt_field: str = "prompt",
        limit_field: str = "max_tokens",
    ) -> list[Generation]:
        """Queue prompts, all or none; called on the server's event loop.

        Args:
            prompts: Token ids of each prompt.
            sampling: How to answer each.
            prompt_field: What the request calls the prompt.
            limit_field: What the request calls the most tokens of an answer.

        Returns:
            One generation per prompt, to be iterated over.
        """
        for prompt, how in zip(prompts, sampling, strict=True):
            self._check_room(prompt, how.max_tokens, prompt_field, limit_field)
        different = len(
            {id(prompt) for prompt in prompts}
        )  # a prompt is there as often as it is to be answered
        self.check_count(different, len(prompts) // different, prompt_field)
        deadline = time.monotonic() + self.request_timeout_seconds
        made = [
            Generation(ids, how, self._tokenizer, end_tokens=self.end_tokens, deadline=deadline)
            for ids, how in zip(prompts, sampling, strict=True)
        ]
        with self._arrived:
            if len(self._waiting) + len(made) > self.max_queue_length:
                raise RequestError(
                    429,
                    f"The server is full: {len(self._waiting)} prompts wait, {self.max_queue_length} may. Try again later.",
                    code="queue_full",
                    retry_after_seconds=1,
                )
            self._waiting.extend(made)
            QUEUE_LENGTH.set(len(self._waiting))
            self._arrived.notify()
        PROMPT_TOKENS.inc(sum(map(len, prompts)))
        return made

    def check_count(self, prompts: int, answers: int, prompt_field: str) -> None:
        """Raise :class:`RequestError` where a request asks for more than may wait.

        Args:
            prompts: Number of its prompts.
            answers: How often each is to be answered.
            prompt_field: What the request calls the prompts.
        """
        if prompts * answers > self.max_queue_length:
            raise RequestError(
                400,
                f"The request asks for {prompts * answers} answers; this server takes {self.max_queue_length} at once. "
                "Send several requests.",
                param="n" if answers > 1 else prompt_field,
            )

    def _check_room(self, prompt: list[int], max_tokens: int, prompt_field: str, limit_field: str) -> None:
        if not prompt:
            raise RequestError(400, "The prompt is empty.", param=prompt_field, code="empty_prompt")
        if wrong := [token for token in prompt if not 0 <= token < self.vocabulary]:
            raise RequestError(
                400,
                f"{prompt_field} has the token id {wrong[0]}; this model's are 0 to {self.vocabulary - 1}.",
                param=prompt_field,
            )
        needed = len(prompt) + max_tokens
        if needed <= self.max_model_len:
            return
        fits = len(prompt) < self.max_model_len
        remedy = f"Shorten the prompt or lower {limit_field}." if fits else "Shorten the prompt."
        raise RequestError(
            400,
            f"This model's context is {self.max_model_len} tokens; the request needs {needed} "
            f"({len(prompt)} in the prompt and {max_tokens} for the answer). {remedy}",
            param=limit_field if fits else prompt_field,
            code="context_length_exceeded",
        )

    def _work(self) -> None:
        engine = self._make_engine(self.model)
        while True:
            new = self._take(room=self.max_batch_size - len(engine.rows), wait=not engine.rows)
            if new is None:
                return
            if not new and not engine.rows:
                continue  # all that waited were cancelled
            RUNNING.set(len(engine.rows) + len(new))
            try:
                engine.step(new)
            except Exception as error:
                logger.exception("Answering a batch of %d prompts failed", len(engine.rows) + len(new))
                refusal = model_failed(error)
                for row in {*engine.rows, *new}:
                    row.fail(refusal)
                engine = self._make_engine(self.model)
            RUNNING.set(len(engine.rows))

    def _take(self, *, room: int, wait: bool) -> list[Generation] | None:
        """Prompts that may join now; None when the batcher stops and nothing is left to do."""
        with self._arrived:
            while wait and not self._waiting:
                if self._stopping:
                    return None
                self._arrived.wait()
            taken: list[Generation] = []
            while self._waiting and len(taken) < room:
                row = self._waiting.popleft()
                if not row.cancelled:
                    taken.append(row)
            QUEUE_LENGTH.set(len(self._waiting))
        return taken
