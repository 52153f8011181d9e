"""Answers concurrent requests with one forward pass per token for all of them.

One worker thread owns the model. Requests wait in a queue; between two tokens the worker lets waiting prompts join the
batch and drops rows that have ended (end token, stop string, length, client gone), so nobody waits for somebody else's
long answer. Each row has its own sampling settings and gets its text as it appears.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from prometheus_client import Counter, Gauge

from llmops_components.serving.http.refusals import RequestError
from llmops_components.serving.predictor.engines import Batch, Engine, EngineMaker
from llmops_components.serving.predictor.generation import Generation, model_failed
from llmops_components.serving.predictor.queueing import WaitingLine
from llmops_components.serving.predictor.sampling import Sampling

logger = logging.getLogger(__name__)

QUEUE_LENGTH = Gauge("llmops_queue_length", "Prompts that wait for a place in the batch")
RUNNING = Gauge("llmops_running_prompts", "Prompts that are being answered")
PROMPT_TOKENS = Counter("llmops_prompt_tokens", "Prompt tokens read")


_SHARE_TOKENS = 32
# Prompts that are read in one pass, padded: short ones do not wait for a pass over many long ones.
_MAX_JOINING_TOKENS = 2048


class Batcher:
    """Queue and worker thread in front of one model.

    Args:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        max_batch_size: Most prompts answered at the same time.
        max_queue_length: Most prompts that wait; more are refused with 429.
        max_model_len: Most tokens of a prompt and its answer together.
        max_batch_total_tokens: Most tokens of all prompts that are answered at the same time and of their answers, as the
            engine keeps them; what ``max_batch_size`` of ``max_model_len`` take where it is not given.
        request_timeout_seconds: Longest time from arrival to the end of the answer.
        engine: Makes what answers, from the model.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_batch_size: int = 32,
        max_queue_length: int = 64,
        max_model_len: int = 2048,
        max_batch_total_tokens: int | None = None,
        request_timeout_seconds: float = 300,
        engine: EngineMaker = Batch,
    ) -> None:
        self.model = model
        self.max_batch_size = min(max_batch_size, engine.most_rows or max_batch_size)
        self.max_queue_length = max_queue_length
        self.max_model_len = max_model_len
        self.max_batch_total_tokens = max_batch_total_tokens or self.max_batch_size * max_model_len
        self.request_timeout_seconds = request_timeout_seconds
        self.vocabulary = model.get_input_embeddings().weight.shape[0]
        self._make_engine = engine
        self._tokenizer = tokenizer.backend_tokenizer
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self.end_tokens = frozenset(end for end in [*ends, tokenizer.eos_token_id] if end is not None)
        self._waiting = WaitingLine()
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
            self._waiting.add(made)
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
            new = self._take(engine)
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

    def _take(self, engine: Engine) -> list[Generation] | None:
        """Prompts that may join now; None when the batcher stops and nothing is left to do."""
        with self._arrived:
            while not engine.rows and not self._waiting:
                if self._stopping:
                    return None
                self._arrived.wait()
            taken = self._take_fitting(engine)
            if not taken and self._waiting and self._make_way(engine):
                taken = self._take_fitting(engine)
            QUEUE_LENGTH.set(len(self._waiting))
        for row in taken:
            row.joined_at = row.completion_tokens
        return taken

    def _take_fitting(self, engine: Engine) -> list[Generation]:
        """Prompts that have a place, in their order: a large one is not passed by those that would fit."""
        taken: list[Generation] = []
        while (row := self._waiting.first()) and self._fit(engine, [*engine.rows, *taken, row]):
            joining = [len(each.ids) for each in (*taken, row)]
            if taken and len(joining) * max(joining) > _MAX_JOINING_TOKENS:
                break
            taken.append(self._waiting.take())
        return taken

    def _make_way(self, engine: Engine) -> bool:
        """Whether running answers that have had their share give their places to the prompt whose turn it is.

        They stand in line again and go on later, with a pass over what they have so far: so the first word of an answer waits
        for a share of others, not for their ends.
        """
        if (first := self._waiting.first()) is None:
            return False
        shares = [(row.completion_tokens - row.joined_at, row) for row in engine.rows]
        may_leave = [
            row for share, row in sorted(shares, key=_share, reverse=True) if share >= _share_of(row)
        ]
        for count in range(1, len(may_leave) + 1):
            leaving = may_leave[:count]
            if self._fit(engine, [*(row for row in engine.rows if row not in leaving), first]):
                engine.leave(leaving)
                for row in leaving:
                    self._waiting.add_again(row)
                return True
        return False

    def _fit(self, engine: Engine, rows: list[Generation]) -> bool:
        held = engine.tokens_held([row.needs for row in rows])
        return len(rows) <= self.max_batch_size and held <= self.max_batch_total_tokens


def _share(row: tuple[int, Generation]) -> int:
    return row[0]


def _share_of(row: Generation) -> int:
    """Tokens that an answer may have before others take its place: more where it takes long to come back."""
    return max(_SHARE_TOKENS, len(row.ids) // 8)
