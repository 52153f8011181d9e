"""Forward passes by OpenVINO: all prompts in one pass without padding, their keys and values in blocks of one pool."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openvino as ov
import torch

from llmops_components.serving.predictor.engines import Row, advance
from llmops_components.serving.predictor.exporting import BLOCK_TOKENS, compiled

_FIRST_BLOCKS = 64  # of the pool, which doubles when they are taken
_KEPT_BLOCKS = 256  # that it keeps at most while nothing is answered
# Tokens of prompts that a pass reads beside the next token of each answer: many prompts do not all wait for the last of
# them, and a long one does not hold up the answers of others.
_PART_TOKENS = 256


@dataclass(eq=False)
class _Place:
    """Where an answer stands: its blocks, tokens whose keys and values they hold, and tokens that come next."""

    row: Row
    coming: list[int]
    held: int = 0
    blocks: list[int] = field(default_factory=list)


class _Pool:
    """Blocks of keys and values of all layers."""

    def __init__(self, model: Any, request: Any) -> None:
        self._request = request
        self._ports = [port for port in model.inputs if "_cache." in port.get_any_name()]
        self._caches: list[Any] = []
        self._free: list[int] = []
        self._grow(_FIRST_BLOCKS)

    def take(self) -> int:
        if not self._free:
            self._grow(2 * self._size)
        return self._free.pop()

    @property
    def is_large(self) -> bool:
        """Whether it is larger than what is kept for the next answers."""
        return self._size > _KEPT_BLOCKS

    def give_back(self, blocks: Sequence[int]) -> None:
        self._free += blocks

    def _grow(self, size: int) -> None:
        before = self._caches
        self._caches = []
        for index, port in enumerate(self._ports):
            shape = port.get_partial_shape()
            cache = ov.Tensor(
                port.get_element_type(), ov.Shape([size, *(shape[axis].get_length() for axis in (1, 2, 3))])
            )
            if before:
                old, before[index] = before[index], None
                old.copy_to(ov.Tensor(cache, ov.Coordinate([0] * 4), ov.Coordinate(list(old.shape))))
            self._request.set_tensor(port, cache)
            self._caches.append(cache)
        self._free += range(self._size if before else 0, size)
        self._size = size


class Paged:
    """The prompts being answered, by a compiled model.

    Args:
        compiled_model: What :func:`~llmops_components.serving.predictor.exporting.compiled` made.
        part_tokens: Most tokens of prompts that are read in one pass.
    """

    def __init__(self, compiled_model: Any, part_tokens: int = _PART_TOKENS) -> None:
        self._compiled = compiled_model
        self._request = compiled_model.create_infer_request()
        self._pool = _Pool(compiled_model, self._request)
        self._part_tokens = part_tokens
        self._places: list[_Place] = []

    @property
    def rows(self) -> list[Any]:
        """Prompts that it is answering."""
        return [place.row for place in self._places]

    def step(self, new: list[Row]) -> None:
        """The next token of every answer; prompts that join are read in the same pass, in parts if they are long.

        Args:
            new: Prompts that join.
        """
        self._places += [_Place(row, list(row.ids)) for row in new]
        parts = self._next_parts()
        logits = self._logits(parts)
        for place, tokens in parts:
            place.held += len(tokens)
            del place.coming[: len(tokens)]
        read = [index for index, (place, _) in enumerate(parts) if not place.coming]
        if read:
            places = [parts[index][0] for index in read]
            of_read = logits if len(read) == len(parts) else logits[read]
            for place, token in zip(places, advance([place.row for place in places], of_read), strict=True):
                place.coming = [token]
        for place in self._places:
            if place.row.cancelled and place.row.finish_reason is None:
                place.row.finish("cancelled")
        self._keep([place for place in self._places if place.row.finish_reason is None])

    def _next_parts(self) -> list[tuple[_Place, list[int]]]:
        """What the next pass reads: a token of every answer, and of prompts, in their order, what has room."""
        parts = []
        room = self._part_tokens
        for place in self._places:
            if place.held and len(place.coming) == 1:
                parts.append((place, place.coming[:]))
            elif room:
                parts.append((place, place.coming[:room]))
                room -= len(parts[-1][1])
        return parts

    def leave(self, rows: Sequence[Any]) -> None:
        self._keep([place for place in self._places if place.row not in rows])

    @staticmethod
    def tokens_held(needs: Sequence[int]) -> int:
        return sum(-(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS for tokens in needs)

    def _keep(self, kept: list[_Place]) -> None:
        for place in self._places:
            if place not in kept:
                self._pool.give_back(place.blocks)
        self._places = kept
        if not kept and self._pool.is_large:
            self._pool = _Pool(self._compiled, self._request)  # what many long answers took is given back

    def _logits(self, parts: Sequence[tuple[_Place, list[int]]]) -> torch.Tensor:
        """The model's scores behind each of the parts."""
        ends = [place.held + len(tokens) for place, tokens in parts]
        for (place, _), end in zip(parts, ends, strict=True):
            while len(place.blocks) * BLOCK_TOKENS < end:
                place.blocks.append(self._pool.take())
        begins = _begins([len(tokens) for _, tokens in parts])
        given = {
            "input_ids": _row(token for _, tokens in parts for token in tokens),
            "position_ids": _row(
                at for (place, _), end in zip(parts, ends, strict=True) for at in range(place.held, end)
            ),
            "last": begins[1:].astype(np.int64) - 1,
            "past_lens": np.array([place.held for place, _ in parts], np.int32),
            "subsequence_begins": begins,
            "block_indices": np.array([block for place, _ in parts for block in place.blocks], np.int32),
            "block_indices_begins": _begins([len(place.blocks) for place, _ in parts]),
            "max_context_len": np.array(max(ends), np.int32),
        }
        self._request.set_tensors({name: ov.Tensor(values) for name, values in given.items()})
        self._request.infer()
        return torch.from_numpy(self._request.get_tensor("logits").data)


class PagedMaker:
    """Makes engines of one compiled model.

    Args:
        model: A causal language model of transformers, on the CPU.

    Raises:
        NotExportableError: The model is of a kind that the export does not cover.
    """

    most_rows = None
    computes_with_torch = False

    def __init__(self, model: Any) -> None:
        self._model = model  # OpenVINO reads weights where torch has them
        self._compiled = compiled(model)
        self._part_tokens = _PART_TOKENS

    def __call__(self, model: Any) -> Paged:
        return Paged(self._compiled, self._part_tokens)

    def with_parts(self, tokens: int) -> PagedMaker:
        """The same, of engines that read prompts in other parts.

        Args:
            tokens: Most tokens of prompts that an engine reads in one pass.
        """
        other = copy.copy(self)
        other._part_tokens = tokens
        return other


def _row(values: Any) -> np.ndarray[Any, Any]:
    return np.array([list(values)], np.int64)


def _begins(sizes: Sequence[int]) -> np.ndarray[Any, Any]:
    """Where each of several pieces begins, and where the last one ends."""
    return np.cumsum([0, *sizes], dtype=np.int32)
