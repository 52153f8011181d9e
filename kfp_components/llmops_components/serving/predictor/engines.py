"""What carries out forward passes: many prompts in one cache, or one prompt after the other where a model cannot share.

Which of them a model gets, or whether OpenVINO computes for it, is found out when it is loaded, by asking it
(:func:`~llmops_components.serving.predictor.choosing.choose_engine`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from prometheus_client import Counter, Histogram
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, StoppingCriteria

from llmops_components.models.probing import left_padded, without_own_settings
from llmops_components.serving.predictor.mailbox import sent_together

BATCH_SIZE = Histogram("llmops_batch_size", "Prompts per forward pass", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
GENERATED_TOKENS = Counter("llmops_generated_tokens", "Tokens generated")


class Row(Protocol):
    """A prompt being answered, as an engine sees it."""

    ids: list[int]
    """Token ids of the prompt, and of the answer as far as there is one."""

    max_tokens: int
    finish_reason: str | None
    cancelled: bool
    takes_most_likely: bool

    def choose(self, logits: torch.Tensor) -> int:
        """The next token, by the row's own settings."""

    def feed(self, token: int) -> None:
        """Take the token that was chosen; sets ``finish_reason`` when it was the last one."""

    def finish(self, reason: Any) -> None:
        """End the answer."""


class Engine(Protocol):
    """Owns the model and carries out forward passes; prompts join and leave it between two tokens.

    It makes scores of tokens and nothing else. What is chosen by them, and what becomes of it, is the rows' business
    (:func:`advance`), so that another engine does no worse by any setting of a request.
    """

    @property
    def rows(self) -> list[Any]:
        """Prompts that it is answering."""

    def step(self, new: list[Any]) -> None:
        """One step of work.

        Args:
            new: Prompts that join.
        """

    def leave(self, rows: Sequence[Any]) -> None:
        """Give up the places of prompts. Their answers may go on later: they join again with what they say by then.

        Args:
            rows: The prompts.
        """

    @staticmethod
    def tokens_held(needs: Sequence[int]) -> int:
        """Tokens whose keys and values are kept when prompts are answered together.

        Args:
            needs: Tokens of each prompt and its answer, at the most.
        """


class EngineMaker(Protocol):
    """Makes an engine for a model, anew where the one before failed in the middle of its work."""

    most_rows: ClassVar[int | None]
    """Most prompts that an engine answers at the same time; None for any number."""

    computes_with_torch: ClassVar[bool]
    """Whether torch carries out the forward passes. Where something else does, torch's threads are in its way."""

    def __call__(self, model: Any) -> Engine:
        """A new engine.

        Args:
            model: A causal language model of transformers.
        """


def advance(rows: Sequence[Row], logits: torch.Tensor) -> list[int]:
    """Let each row choose its next token and take it.

    Args:
        rows: Prompts being answered.
        logits: The model's score of every token, a line for each of them.

    Returns:
        The tokens chosen.
    """
    tokens = _most_likely(logits)
    BATCH_SIZE.observe(len(rows))
    GENERATED_TOKENS.inc(len(rows))
    with sent_together():
        for index, row in enumerate(rows):
            if not row.takes_most_likely:
                tokens[index] = row.choose(logits[index])
        for row, token in zip(rows, tokens, strict=True):
            row.feed(token)
    return tokens


def _most_likely(logits: torch.Tensor) -> list[int]:
    # NumPy compares many numbers at a time on a CPU, which torch does not: 0.3 ms instead of 3 for 32 lines of 49,152.
    in_numpy = logits.device.type == "cpu" and logits.dtype == torch.float32
    tokens: list[int] = (logits.numpy() if in_numpy else logits).argmax(-1).tolist()
    return tokens


class Batch:
    """The prompts being answered, with their keys and values in one cache; prompts join and leave between two tokens.

    Rows of different length share the cache by padding on the left; the mask says which places are real.

    Args:
        model: A causal language model of transformers.
    """

    most_rows = None
    computes_with_torch = True

    def __init__(self, model: Any) -> None:
        self.model = model
        self.rows: list[Row] = []
        self._cache = DynamicCache()
        self._mask = torch.empty(0, 0, dtype=torch.long, device=model.device)
        self._tokens = torch.empty(0, dtype=torch.long, device=model.device)

    @torch.inference_mode()
    def step(self, new: list[Row]) -> None:
        """One forward pass: the first token of prompts that join, or else the next token of every prompt.

        Args:
            new: Prompts that join.
        """
        if new:
            ids, mask = left_padded([row.ids for row in new], self.model.device)
            cache = DynamicCache()
            tokens = self._next_tokens(ids, mask, cache, new)
            self._append(new, tokens, mask, cache)
        else:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], dim=1)
            self._tokens = self._next_tokens(self._tokens[:, None], self._mask, self._cache, self.rows)
        self._drop_finished()

    def _next_tokens(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: Any, rows: list[Row]
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
        return torch.tensor(advance(rows, output.logits[:, -1]), device=ids.device)

    def _append(self, new: list[Row], tokens: torch.Tensor, mask: torch.Tensor, cache: Any) -> None:
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
        self._keep(kept)

    def leave(self, rows: Sequence[Any]) -> None:
        self._keep([index for index, row in enumerate(self.rows) if row not in rows])

    @staticmethod
    def tokens_held(needs: Sequence[int]) -> int:
        return len(needs) * max(needs, default=0)  # rows are padded to the longest

    def _keep(self, kept: list[int]) -> None:
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


class OneByOne:
    """Answers one prompt after the other by the model's own ``generate``, for models whose state cannot be shared.

    A long answer holds up those that wait behind it.

    Args:
        model: A causal language model of transformers.
    """

    most_rows = 1
    computes_with_torch = True

    def __init__(self, model: Any) -> None:
        self.model = model
        self.rows: list[Row] = []

    @torch.inference_mode()
    def step(self, new: list[Row]) -> None:
        """Answer these prompts to their end.

        Args:
            new: The prompts.
        """
        for row in new:
            ids = torch.tensor([row.ids], device=self.model.device)
            with without_own_settings(self.model):
                self.model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    # Ended by the row alone: it knows end tokens, stop strings and whether its client is still there.
                    generation_config=GenerationConfig(max_new_tokens=row.max_tokens, do_sample=False),
                    logits_processor=[_Chosen(row)],
                    stopping_criteria=[_Ended(row)],
                )
            if row.finish_reason is None:
                row.finish("cancelled")

    def leave(self, rows: Sequence[Any]) -> None:
        """Nothing to give up: between two steps nobody is being answered."""

    @staticmethod
    def tokens_held(needs: Sequence[int]) -> int:
        return max(needs, default=0)


class _Chosen(LogitsProcessor):
    """Leaves ``generate`` no other token than the one that the row chooses."""

    def __init__(self, row: Row) -> None:
        self._row = row

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        # On a GPU ``generate`` finds out a token later that a row has ended.
        token = advance([self._row], scores)[0] if self._row.finish_reason is None else 0
        only = torch.full_like(scores, -torch.inf)
        only[0, token] = 0
        return only


class _Ended(StoppingCriteria):
    def __init__(self, row: Row) -> None:
        self._row = row

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **_: Any) -> torch.BoolTensor:
        ended = self._row.finish_reason is not None or self._row.cancelled
        return torch.full((1,), ended, device=input_ids.device)
