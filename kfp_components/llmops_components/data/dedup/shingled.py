"""Rows as sets of shingles: sequences of tokens, each with the part of the row that it stands in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmops_components.data.dedup.spill import Spill
from llmops_components.data.dedup.words import salt_of, shingles_of, tokens_of

Array = np.ndarray[Any, np.dtype[Any]]
Document = Sequence[
    tuple[str, str]
]  # the parts of a row: a name, as that of the column or the role, and a text

_ROWS, _CHARACTERS = (
    4095,
    1 << 22,
)  # of a chunk: the number of a row in it, and the next one, take twelve bits
_HASH_BITS = np.uint64(52)
_HASH = np.uint64((1 << 52) - 1)
_THREADS = 2


@dataclass(frozen=True)
class Chunk:
    """Shingles of some rows.

    Args:
        values: Of each row in order, without repetitions and in ascending order.
        counts: How many each row has.
        prints: A number for each row's set of shingles.
    """

    values: Array
    counts: Array
    prints: Array


def shingled(documents: Sequence[Document], size: int) -> Chunk:
    """The shingles of some rows.

    Args:
        documents: At most 4095 rows.
        size: Tokens of a shingle.
    """
    parts = [part for document in documents for part in document]
    names = {name: salt_of(name) for name in {name for name, _ in parts}}
    salts = np.array([names[name] for name, _ in parts], np.uint64)
    values, counts = shingles_of(tokens_of([text for _, text in parts]), size, salts)
    rows = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    values >>= np.uint64(64) - _HASH_BITS
    values |= np.repeat(rows.astype(np.uint64), counts) << _HASH_BITS
    values.sort()
    if len(values):
        values = values[np.concatenate([[True], values[1:] != values[:-1]])]
    ends = np.searchsorted(values, np.arange(1, len(documents) + 1, dtype=np.uint64) << _HASH_BITS)
    counts = np.diff(ends, prepend=0)
    values &= _HASH
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values * values)])
    return Chunk(values, counts, sums[ends] - sums[ends - counts])


def spilled(documents: Iterable[Document], size: int, spill: Spill) -> Array:
    """Write the shingles of rows to a file; returned is a number for each row's set of shingles.

    Args:
        documents: The rows.
        size: Tokens of a shingle.
        spill: Where the shingles go.
    """
    prints = [np.empty(0, np.uint64)]
    waiting: deque[Future[Chunk]] = deque()

    def written() -> None:
        chunk = waiting.popleft().result()
        spill.write(chunk.values, chunk.counts)
        prints.append(chunk.prints)

    with ThreadPoolExecutor(_THREADS) as threads:
        for chunk in _chunks(documents):
            if len(waiting) > _THREADS:
                written()
            waiting.append(threads.submit(shingled, chunk, size))
        while waiting:
            written()
    return np.concatenate(prints)


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        characters += sum([len(text) for _, text in document])
        if len(chunk) == _ROWS or characters > _CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
