"""Rows of evaluation sets in training data, found by sequences of words that both have.

The sequences are those of GPT-3 (Brown et al. 2020, appendix C): 13 words in lower case without punctuation; of a text with
fewer, all its words, from 8 on. Sequences that stand in more than ten training rows are left aside there, since they are
phrases that everybody uses. So they are here, except where an evaluation row has no others: then it may have been copied that
often, and counts by those of its sequences that the fewest evaluation rows have, which are no prompt's that all of them share.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmops_components.data.dedup.spill import Spill
from llmops_components.data.dedup.words import Tokens, shingles_of, tokens_of
from llmops_components.errors import DataError, SettingError, check_whole_number

Array = np.ndarray[Any, np.dtype[Any]]
Texts = Sequence[str]  # of a row
_ROWS, _CHARACTERS = 4096, 1 << 22  # of a chunk
_DIGITS = 4  # of an overlap that is told


@dataclass(frozen=True)
class OverlapSettings:
    """What is too much of an evaluation row.

    Args:
        words: Of a sequence; in scripts without spaces characters.
        least_words: A text with fewer is not looked for: others have it by chance.
        common_rows: A sequence that stands in more training rows than this is a phrase; None where all count.
        least_overlap: Share of an evaluation row's sequences from which a training row counts; 0 for a single one.
    """

    words: int = 13
    least_words: int = 8
    common_rows: int | None = 10
    least_overlap: float = 0.0

    def __post_init__(self) -> None:
        check_whole_number("words", self.words, 2, 100)
        check_whole_number("least_words", self.least_words, 1, self.words)
        if self.common_rows is not None:
            check_whole_number("common_rows", self.common_rows, 1, 10**9)
        least = self.least_overlap
        if isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least <= 1:
            raise SettingError(f"least_overlap must be a number from 0 to 1, got {least!r:.60}.")


@dataclass(frozen=True)
class Overlap:
    """A training row that has words of an evaluation row.

    Args:
        row: Its number, from 0.
        evaluation: The number of the evaluation row of which it has the largest share.
        share: The share of that row's sequences, phrases left aside.
    """

    row: int
    evaluation: int
    share: float


@dataclass
class Overlaps:
    """What was found.

    Args:
        found: The training rows, in order.
        rows: Training rows that there were.
        evaluation_rows: Evaluation rows that there were.
        evaluation_rows_too_short: Those whose texts are all too short to be looked for.
        common_sequences: Sequences of evaluation rows that are phrases.
    """

    found: list[Overlap] = field(default_factory=list)
    rows: int = 0
    evaluation_rows: int = 0
    evaluation_rows_too_short: int = 0
    common_sequences: int = 0


def find_overlaps(
    rows: Iterable[Texts],
    evaluation: Iterable[Texts],
    directory: str | os.PathLike[str],
    settings: OverlapSettings | None = None,
) -> Overlaps:
    """Find the training rows that have words of evaluation rows.

    Args:
        rows: Texts of the training rows, in order.
        evaluation: Texts of the evaluation rows.
        directory: For a temporary file.
        settings: What is too much.

    Raises:
        DataError: There is no evaluation row, or none that is long enough to be looked for.
    """
    settings = settings or OverlapSettings()
    index = _Index(evaluation, settings)
    spill = Spill(directory)
    try:
        for chunk in _chunks(rows):
            spill.write(*index.matches(chunk))
        return _compared(index, spill, settings)
    finally:
        spill.close()


class _Index:
    """The sequences of evaluation rows, each with the rows that it stands in."""

    def __init__(self, evaluation: Iterable[Texts], settings: OverlapSettings) -> None:
        self._settings = settings
        hashes: list[Array] = [np.empty(0, np.uint64)]
        owners: list[Array] = [np.empty(0, np.int64)]
        sizes: set[int] = set()
        self.rows = 0
        for chunk in _chunks(evaluation):
            tokens, of_text = _tokens(chunk)
            counts = np.diff(tokens.offsets)
            for size in range(settings.least_words, settings.words + 1):
                chosen = counts >= size if size == settings.words else counts == size
                if chosen.any():
                    sizes.add(size)
                    values, shingles = shingles_of(tokens, size)
                    hashes.append(values[np.repeat(chosen, shingles)])
                    owners.append(self.rows + np.repeat(of_text[chosen], shingles[chosen]))
            self.rows += len(chunk)
        if not self.rows:
            raise DataError("There are no evaluation rows to compare with: give a file that has some.")
        pairs = np.unique(
            np.stack([np.concatenate(hashes), np.concatenate(owners).astype(np.uint64)]), axis=1
        )
        self.sequences, starts = np.unique(pairs[0], return_index=True)
        self.owners = pairs[1].astype(np.int64)
        self.starts = np.append(starts, len(self.owners))
        self.sizes = sorted(sizes)
        self.too_short = self.rows - len(np.unique(self.owners))
        if self.too_short == self.rows:
            raise DataError(
                f"None of the {self.rows} evaluation rows has a text of {settings.least_words} words, so that none would be "
                "found: lower least_words."
            )

    def matches(self, chunk: list[Texts]) -> tuple[Array, Array]:
        """For each row the numbers of the sequences that stand in it, and how many there are."""
        tokens, of_text = _tokens(chunk)
        found, owners = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for size in self.sizes:
            values, shingles = shingles_of(tokens, size)
            if not len(values):
                continue
            places = np.minimum(np.searchsorted(self.sequences, values), len(self.sequences) - 1)
            is_match = (self.sequences[places] == values) & np.repeat(
                np.diff(tokens.offsets) >= size, shingles
            )
            found.append(places[is_match])
            owners.append(np.repeat(of_text, shingles)[is_match])
        pairs = np.unique(np.stack([np.concatenate(owners), np.concatenate(found)]), axis=1)
        return pairs[1].astype(np.uint64), np.bincount(pairs[0], minlength=len(chunk))


def _compared(index: _Index, spill: Spill, settings: OverlapSettings) -> Overlaps:
    seen = np.zeros(len(index.sequences), np.int64)
    for _, values, _ in spill.batches():
        seen += np.bincount(values.astype(np.int64), minlength=len(seen))
    common = np.zeros(len(seen), bool) if settings.common_rows is None else seen > settings.common_rows
    is_own = _own(index, common)
    own = np.bincount(index.owners[is_own], minlength=index.rows)
    result = Overlaps(
        rows=len(spill.offsets) - 1,
        evaluation_rows=index.rows,
        evaluation_rows_too_short=index.too_short,
        common_sequences=int(common.sum()),
    )
    for first, values, counts in spill.batches():
        ends = np.cumsum(counts)
        for row in np.flatnonzero(counts).tolist():
            parts = []
            for sequence in values[ends[row] - counts[row] : ends[row]].tolist():
                begin, end = index.starts.item(sequence), index.starts.item(sequence + 1)
                parts.append(index.owners[begin:end][is_own[begin:end]])
            owners, shared = np.unique(np.concatenate(parts), return_counts=True)
            if not len(owners):
                continue
            shares = shared / own[owners]
            most = int(shares.argmax())  # the first of those that have it
            share = shares.item(most)
            if share >= settings.least_overlap:
                result.found.append(Overlap(first + row, owners.item(most), round(share, _DIGITS)))
    return result


def _own(index: _Index, common: Array) -> Array:
    """For each sequence of each evaluation row whether the row is known by it."""
    rows = np.diff(index.starts)  # of each sequence, those that it stands in
    is_own = ~np.repeat(common, rows)
    spread = np.repeat(rows, rows)
    fewest = np.full(index.rows, index.rows + 1)
    np.minimum.at(fewest, index.owners, spread)
    has_own = np.bincount(index.owners[is_own], minlength=index.rows) > 0
    return is_own | (~has_own[index.owners] & (spread == fewest[index.owners]))


def _tokens(chunk: Sequence[Texts]) -> tuple[Tokens, Array]:
    """The tokens of all texts, and the row of each text."""
    texts = list(itertools.chain.from_iterable(chunk))
    return tokens_of(texts), np.repeat(np.arange(len(chunk)), [len(each) for each in chunk])


def _chunks(rows: Iterable[Texts]) -> Iterator[list[Texts]]:
    chunk: list[Texts] = []
    characters = 0
    for texts in rows:
        chunk.append(texts)
        characters += sum(map(len, texts))
        if len(chunk) == _ROWS or characters > _CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
