"""Answers concurrent requests with one forward pass per token for all of them.

One worker thread owns the model. Requests wait in a queue; between two tokens the worker lets waiting prompts join the
batch and drops rows that have ended (end token, stop string, length, client gone), so nobody waits for somebody else's
long answer. Each row has its own sampling settings and gets its text as it appears.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from prometheus_client import Counter, Gauge, Histogram
from tokenizers.decoders import DecodeStream
from transformers import DynamicCache

logger = logging.getLogger(__name__)

QUEUE_LENGTH = Gauge("llmops_queue_length", "Prompts that wait for a place in the batch")
RUNNING = Gauge("llmops_running_prompts", "Prompts that are being answered")
BATCH_SIZE = Histogram("llmops_batch_size", "Prompts per forward pass", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
GENERATED_TOKENS = Counter("llmops_generated_tokens", "Tokens generated")
PROMPT_TOKENS = Counter("llmops_prompt_tokens", "Prompt tokens read")
FIRST_TOKEN_SECONDS = Histogram(
    "llmops_time_to_first_token_seconds",
    "From the arrival of a prompt to its first token",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)

FinishReason = Literal["stop", "length", "cancelled"]


class RequestError(Exception):
    """A request that is answered with an error, in the form of the protocol that it came by.

    Args:
        status: HTTP status code.
        message: What is wrong, with the numbers.
        param: The field of the request that is to blame.
        code: Short machine-readable reason, as OpenAI's API has it.
        retry_after_seconds: When to come again, for errors that pass.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True)
class Sampling:
    """How one prompt is answered.

    Args:
        max_tokens: Most tokens to generate.
        temperature: 0 takes the most likely token every time.
        top_p: Sample from the smallest set of tokens that holds this much probability.
        stop: Strings that end the answer; they are not part of it.
        seed: Makes sampling repeatable.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


class Generation:
    """One prompt being answered: the worker feeds it tokens, its client iterates over the text.

    Args:
        prompt_ids: Token ids of the prompt.
        sampling: How to answer.
        tokenizer: The model's ``tokenizers.Tokenizer``.
        deadline: ``time.monotonic()`` at which the client is told that it took too long.
    """

    def __init__(self, prompt_ids: list[int], sampling: Sampling, tokenizer: Any, deadline: float) -> None:
        self.prompt_ids = prompt_ids
        self.sampling = sampling
        self.tokens: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.cancelled = False
        self.arrived = time.monotonic()
        self.deadline = deadline
        self.random = torch.Generator().manual_seed(
            random.getrandbits(63) if sampling.seed is None else sampling.seed & (2**63 - 1)
        )
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._decoded = 0  # characters that the decoder gave so far
        self._held_back = ""
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[str | Exception | None] = asyncio.Queue()

    @property
    def completion_tokens(self) -> int:
        """Number of tokens generated, the end token included."""
        return len(self.tokens)

    def cancel(self) -> None:
        """The client is gone: the worker drops the row before the next token."""
        self.cancelled = True

    def feed(self, token: int, end_tokens: frozenset[int]) -> None:
        """Take one more token (worker thread).

        Args:
            token: The token's id.
            end_tokens: Ids of the tokens that end an answer.
        """
        self.tokens.append(token)
        if len(self.tokens) == 1:
            FIRST_TOKEN_SECONDS.observe(time.monotonic() - self.arrived)
        ends = token in end_tokens
        reason: FinishReason | None = "stop" if ends else None
        if reason is None and len(self.tokens) >= self.sampling.max_tokens:
            reason = "length"
        self._take_text(self._decoder.step(self._tokenizer, token) or "" if not ends else "")
        if reason and self.finish_reason is None:
            # The decoder waits for the rest of a character; there is none, so take what decoding all at once says.
            said = self.tokens[:-1] if ends else self.tokens
            self._take_text(self._tokenizer.decode(said, skip_special_tokens=True)[self._decoded :])
        if reason and self.finish_reason is None:
            self.finish(reason)

    def _take_text(self, new: str) -> None:
        """Send text on as far as it cannot be the beginning of a stop string."""
        self._decoded += len(new)
        text = self._held_back + new
        cuts = [at for at in (text.find(stop) for stop in self.sampling.stop) if at >= 0]
        if cuts:
            self._held_back = text[: min(cuts)]
            self.finish("stop")
            return
        keep = _length_of_begun_stop(text, self.sampling.stop)
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


def sample(logits: torch.Tensor, rows: list[Generation]) -> torch.Tensor:
    """Choose the next token of each row by the row's own settings.

    Args:
        logits: One row of scores per generation.
        rows: The generations.

    Returns:
        One token id per row.
    """
    tokens = logits.argmax(dim=-1)
    for index, row in enumerate(rows):
        if row.sampling.temperature <= 0:
            continue
        probabilities = torch.softmax(logits[index].float() / row.sampling.temperature, dim=-1).cpu()
        if row.sampling.top_p < 1:
            ordered, order = probabilities.sort(descending=True)
            beyond = ordered.cumsum(0) - ordered >= row.sampling.top_p
            probabilities[order[beyond]] = 0
        tokens[index] = torch.multinomial(probabilities, 1, generator=row.random)
    return tokens


def left_padded(rows: list[list[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids in one rectangle, shorter rows filled on the left, and the mask that says which are real.

    Args:
        rows: Token ids by row.
        device: Device of the model.
    """
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


class Batch:
    """The prompts being answered, with their keys and values in one cache; prompts join and leave between two tokens.

    Rows of different length share the cache by padding on the left; the mask says which places are real.

    Args:
        model: A causal language model of transformers.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.rows: list[Generation] = []
        self._cache = DynamicCache()
        self._mask = torch.empty(0, 0, dtype=torch.long, device=model.device)
        self._tokens = torch.empty(0, dtype=torch.long, device=model.device)

    @torch.inference_mode()
    def step(self, new: list[Generation], end_tokens: frozenset[int]) -> None:
        """One forward pass: the first token of prompts that join, or else the next token of every prompt.

        Args:
            new: Prompts that join.
            end_tokens: Ids of the tokens that end an answer.
        """
        if new:
            ids, mask = left_padded([row.prompt_ids for row in new], self.model.device)
            cache = DynamicCache()
            tokens = self._next_tokens(ids, mask, cache, new, end_tokens)
            self._append(new, tokens, mask, cache)
        else:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], dim=1)
            ids = self._tokens[:, None]
            self._tokens = self._next_tokens(ids, self._mask, self._cache, self.rows, end_tokens)
        self._drop_finished()

    def _next_tokens(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        cache: Any,
        rows: list[Generation],
        end_tokens: frozenset[int],
    ) -> torch.Tensor:
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        tokens = sample(output.logits[:, -1], rows)
        BATCH_SIZE.observe(len(rows))
        GENERATED_TOKENS.inc(len(rows))
        for row, token in zip(rows, tokens.tolist(), strict=True):
            row.feed(token, end_tokens)
        return tokens

    def _append(self, new: list[Generation], tokens: torch.Tensor, mask: torch.Tensor, cache: Any) -> None:
        if not self.rows:
            self.rows, self._tokens, self._mask, self._cache = list(new), tokens, mask, cache
            return
        width = max(mask.shape[1], self._mask.shape[1])

        def widened(tensor: torch.Tensor, dim: int) -> torch.Tensor:
            missing = width - tensor.shape[dim]
            return torch.nn.functional.pad(tensor, (0, 0, missing, 0) if dim == -2 else (missing, 0))

        self._mask = torch.cat([widened(self._mask, -1), widened(mask, -1)])
        for mine, theirs in zip(self._cache.layers, cache.layers, strict=True):
            mine.keys = torch.cat([widened(mine.keys, -2), widened(theirs.keys, -2)])
            mine.values = torch.cat([widened(mine.values, -2), widened(theirs.values, -2)])
        self.rows += new
        self._tokens = torch.cat([self._tokens, tokens])

    def _drop_finished(self) -> None:
        for row in self.rows:
            if row.cancelled and row.finish_reason is None:
                row.finish("cancelled")
        kept = [index for index, row in enumerate(self.rows) if row.finish_reason is None]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in kept]
        if not kept:
            self._cache = DynamicCache()
            return
        index = torch.tensor(kept, device=self._tokens.device)
        self._tokens, self._mask = self._tokens[index], self._mask[index]
        first = int(
            self._mask.any(dim=0).int().argmax()
        )  # places before it are padding in every row that is left
        self._mask = self._mask[:, first:]
        for layer in self._cache.layers:
            layer.keys = layer.keys[index, :, first:]
            layer.values = layer.values[index, :, first:]


class Batcher:
    """Queue and worker thread in front of one model.

    Args:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        max_batch_size: Most prompts answered at the same time.
        max_queue_length: Most prompts that wait; more are refused with 429.
        max_model_len: Most tokens of a prompt and its answer together.
        request_timeout_seconds: Longest time from arrival to the end of the answer.
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
    ) -> None:
        self.model = model
        self.max_batch_size = max_batch_size
        self.max_queue_length = max_queue_length
        self.max_model_len = max_model_len
        self.request_timeout_seconds = request_timeout_seconds
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

    def submit(self, prompts: list[list[int]], sampling: list[Sampling]) -> list[Generation]:
        """Queue prompts, all or none; called on the server's event loop.

        Args:
            prompts: Token ids of each prompt.
            sampling: How to answer each.

        Returns:
            One generation per prompt, to be iterated over.
        """
        for prompt, how in zip(prompts, sampling, strict=True):
            if not prompt:
                raise RequestError(400, "The prompt is empty.", code="empty_prompt")
            if len(prompt) + how.max_tokens > self.max_model_len:
                raise RequestError(
                    400,
                    f"This model's context is {self.max_model_len} tokens; the request needs {len(prompt) + how.max_tokens} "
                    f"({len(prompt)} in the prompt and {how.max_tokens} for the answer). Shorten the prompt or lower max_tokens.",
                    param="max_tokens",
                    code="context_length_exceeded",
                )
        deadline = time.monotonic() + self.request_timeout_seconds
        made = [Generation(p, s, self._tokenizer, deadline) for p, s in zip(prompts, sampling, strict=True)]
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

    def _work(self) -> None:
        batch = Batch(self.model)
        while True:
            new = self._take(room=self.max_batch_size - len(batch.rows), wait=not batch.rows)
            if new is None:
                return
            try:
                batch.step(new, self.end_tokens)
            except Exception as error:
                logger.exception("Answering a batch of %d prompts failed", len(batch.rows) + len(new))
                refusal = RequestError(
                    500, "The model failed on this request; the server's log has the reason."
                )
                refusal.__cause__ = error
                for row in {*batch.rows, *new}:
                    row.fail(refusal)
                batch = Batch(self.model)
            RUNNING.set(len(batch.rows))

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
