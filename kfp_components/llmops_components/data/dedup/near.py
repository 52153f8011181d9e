"""Near duplicates: each row that goes names the row that stays and how similar the two are, which was looked at.

MinHash (rensa) and bands of its hashes say which rows to compare. They only propose: what counts is the Jaccard similarity
of the two rows' own shingles. A row goes where it is as similar as the threshold to a row that stays, and for no other
reason: where a is like b and b like c, but a is not like c, then a and c stay.

Rows made from a template are alike in what they do not say themselves. Shingles that stand in many rows are therefore taken
for a template's: rows have to be alike in the rest as well.
"""

from __future__ import annotations

import itertools
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rensa

from llmops_components.data.dedup.bands import Bands, bands_for
from llmops_components.data.dedup.shingled import Document, spilled
from llmops_components.data.dedup.spill import Spill
from llmops_components.data.dedup.words import mixed
from llmops_components.errors import SettingError, check_whole_number

Array = np.ndarray[Any, np.dtype[Any]]
_LEAST_SLOTS, _MOST_SLOTS = 16, 24  # in bits, of the table that counts in how many rows a shingle stands
_DIGITS = 4  # of a similarity that is told


@dataclass(frozen=True)
class NearSettings:
    """What near duplicates are.

    Args:
        threshold: Similarity from which rows are duplicates: the share of shingles that both have of those that either has.
        recall: The share of pairs just at the threshold that are to be found.
        shingle_tokens: Words of a shingle; in scripts without spaces characters.
        template_rows: A shingle that stands in more rows than this is a template's; None where there are no templates.
        comparisons: Rows that one row is compared with at most.
        seed: Of the hashes.
    """

    threshold: float = 0.8
    recall: float = 0.95
    shingle_tokens: int = 5
    template_rows: int | None = 100
    comparisons: int = 32
    seed: int = 42

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("threshold", self.threshold, 0.3, 0.99),
            ("recall", self.recall, 0.5, 0.999),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                raise SettingError(f"{name} must be a number from {least} to {most}, got {value!r:.60}.")
        check_whole_number("shingle_tokens", self.shingle_tokens, 1, 50)
        check_whole_number("comparisons", self.comparisons, 1, 10_000)
        check_whole_number("seed", self.seed, 0, 2**32 - 1)
        if self.template_rows is not None:
            check_whole_number("template_rows", self.template_rows, 2, 10**9)

    @property
    def bands(self) -> Bands:
        """The bands that find what the settings ask for."""
        return bands_for(self.threshold, self.recall)


@dataclass(frozen=True)
class Duplicate:
    """A row that another one stands for.

    Args:
        row: Its number, from 0.
        kept: The number of the row that stays, which comes before it.
        similarity: Jaccard similarity of the two, which was computed and not estimated; where they share a template, that
            without it if it is the lower one.
    """

    row: int
    kept: int
    similarity: float


@dataclass
class NearDuplicates:
    """What was found.

    Args:
        duplicates: The rows that go, in order.
        rows: Rows that there were.
        rows_without_words: Rows that were compared with none, since nothing in them is a word or a sign.
        rows_of_templates: Rows in which shingles of templates stand.
        pairs_compared: Pairs whose similarity was computed.
        pairs_not_compared: Pairs, at most, that bands proposed and that were not compared, since ``comparisons`` bounds them.
        rows_not_fully_compared: Rows that stay and have such a pair.
    """

    duplicates: list[Duplicate] = field(default_factory=list)
    rows: int = 0
    rows_without_words: int = 0
    rows_of_templates: int = 0
    pairs_compared: int = 0
    pairs_not_compared: int = 0
    rows_not_fully_compared: int = 0


def find_near_duplicates(
    documents: Iterable[Document], directory: str | os.PathLike[str], settings: NearSettings | None = None
) -> NearDuplicates:
    """Find the rows that are near duplicates of an earlier one that stays.

    Args:
        documents: The rows in order, each as its named parts; the same text under another name is not the same.
        directory: For a temporary file of about eight bytes for each word.
        settings: What near duplicates are.
    """
    settings = settings or NearSettings()
    spill = Spill(directory)
    try:
        prints = spilled(documents, settings.shingle_tokens, spill)
        return _Search(settings, spill, prints).found()
    finally:
        spill.close()


class _Search:
    """Of rows whose shingles are on disk. Rows with one and the same set of shingles are one here: the first."""

    def __init__(self, settings: NearSettings, spill: Spill, prints: Array) -> None:
        self._settings, self._spill = settings, spill
        self._sizes = np.diff(spill.offsets)
        self._first = self._firsts(prints)
        self._table = self._counted()
        self._common = self._most_of_own()
        self._own = self._sizes.copy()
        self._result = NearDuplicates(rows=len(prints), rows_without_words=int((self._sizes == 0).sum()))

    def found(self) -> NearDuplicates:
        """All of it."""
        rows = np.flatnonzero((self._first == np.arange(len(self._first))) & (self._sizes > 0))
        kept_of: dict[int, Duplicate] = {}
        for row, buckets in _with_company(rows, self._band_keys(rows)):
            if duplicate := self._decided(row, buckets):
                kept_of[row] = duplicate
        for row, first in enumerate(self._first.tolist()):
            if duplicate := kept_of.get(first):
                self._result.duplicates.append(Duplicate(row, duplicate.kept, duplicate.similarity))
            elif first != row:
                self._result.duplicates.append(Duplicate(row, first, 1.0))
        self._result.rows_of_templates = int((self._own < self._sizes)[self._first].sum())
        return self._result

    def _firsts(self, prints: Array) -> Array:
        """For each row the first one with the same shingles."""
        _, first, inverse = np.unique(prints, return_index=True, return_inverse=True)
        firsts = first[inverse]
        for row in np.flatnonzero((firsts != np.arange(len(prints))) & (self._sizes > 0)).tolist():
            if not np.array_equal(self._spill.row(row), self._spill.row(firsts[row])):
                firsts[row] = row
        firsts[self._sizes == 0] = np.flatnonzero(self._sizes == 0)
        return firsts

    def _counted(self) -> Array | None:
        """In how many rows shingles stand, by the last bits of their hashes."""
        if self._settings.template_rows is None:
            return None
        bits = (int(self._sizes.sum()) // 4).bit_length()
        table = np.zeros(1 << min(max(bits, _LEAST_SLOTS), _MOST_SLOTS), np.uint32)
        for first, values, counts in self._spill.batches():
            is_first = self._first[first : first + len(counts)] == np.arange(first, first + len(counts))
            slots = (values[np.repeat(is_first, counts)] & np.uint64(len(table) - 1)).astype(np.int64)
            table += np.bincount(slots, minlength=len(table)).astype(np.uint32)
        return table

    def _most_of_own(self) -> float:
        """How high a slot may count until its shingles are a template's: a full table has in each what others have by chance, too."""
        if self._table is None or self._settings.template_rows is None:
            return 0.0
        by_chance = float(self._table.mean()) if len(self._table) == 1 << _MOST_SLOTS else 0.0
        return self._settings.template_rows + by_chance

    def _of_templates(self, values: Array) -> Array:
        """Which shingles are a template's."""
        if self._table is None:
            return np.zeros(len(values), bool)
        slots = (values & np.uint64(len(self._table) - 1)).astype(np.int64)
        return self._table[slots] > self._common

    def _band_keys(self, rows: Array) -> Array:
        """Of each band a number for each of the rows."""
        bands = self._settings.bands
        keys = np.empty((bands.count, len(rows)), np.uint64)
        done = 0
        for first, values, counts in self._spill.batches():
            index = np.arange(first, first + len(counts))
            is_used = (self._first[index] == index) & (counts > 0)
            values, counts = values[np.repeat(is_used, counts)], counts[is_used]
            if not len(counts):
                continue
            own = ~self._of_templates(values)
            starts = np.cumsum(counts) - counts
            sizes = np.add.reduceat(own, starts, dtype=np.int64)
            self._own[index[is_used]] = sizes
            own |= np.repeat(sizes == 0, counts)  # a row that is all template is compared as it is
            sizes = np.where(sizes == 0, counts, sizes)
            offsets = np.concatenate([np.zeros(1, np.uint64), np.cumsum(sizes).astype(np.uint64)])
            keys[:, done : done + len(counts)] = _keys(values[own], offsets, bands, self._settings.seed)
            done += len(counts)
        return keys

    def _decided(self, row: int, buckets: list[_Bucket]) -> Duplicate | None:
        """The row's duplicate that stays; None where it stays itself, and is found by later ones."""
        limit = self._settings.comparisons
        candidates = {other for bucket in buckets for other in bucket.rows}
        missed = sum([bucket.others for bucket in buckets])
        if len(candidates) > limit:
            shared = Counter(itertools.chain.from_iterable(bucket.rows for bucket in buckets))
            missed += len(candidates) - limit
            candidates = set(sorted(candidates, key=lambda other: (-shared[other], other))[:limit])
        best, similarity = -1, 0.0
        values = self._spill.row(row) if candidates else None
        for other in candidates:
            found = self._similarity(row, other, values)
            if found > similarity or (found == similarity and other < best):
                best, similarity = other, found
        self._result.pairs_compared += len(candidates)
        if similarity >= self._settings.threshold:
            return Duplicate(row, best, round(similarity, _DIGITS))
        self._result.pairs_not_compared += missed
        self._result.rows_not_fully_compared += missed > 0
        for bucket in buckets:
            if len(bucket.rows) < limit:
                bucket.rows.append(row)
            else:
                bucket.others += 1
        return None

    def _similarity(self, row: int, other: int, values: Any) -> float:
        sizes = self._sizes.item(row), self._sizes.item(other)
        if min(sizes) < self._settings.threshold * max(sizes):
            return 0.0
        others = self._spill.row(other)
        both = values[others.take(others.searchsorted(values), mode="clip") == values]
        whole = len(both) / (sum(sizes) - len(both))
        own = self._own.item(row), self._own.item(other)
        if own == sizes or not any(own):
            return whole
        shared = len(both) - int(self._of_templates(both).sum())
        return min(whole, shared / (sum(own) - shared))


@dataclass
class _Bucket:
    """Rows that agree in a band.

    Args:
        rows: The first of those that stay.
        others: How many more stay.
    """

    rows: list[int] = field(default_factory=list)
    others: int = 0


def _keys(values: Array, offsets: Array, bands: Bands, seed: int) -> Array:
    """Of each band a number for each row."""
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        values, offsets, bands.count * bands.hashes, seed
    )
    digests = array("I")
    for digest in matrix.to_rows():
        digests.extend(digest)
    hashes = np.frombuffer(digests, np.uint32).reshape(-1, bands.count, bands.hashes)
    keys = np.zeros(hashes.shape[:2], np.uint64)
    for each in range(bands.hashes):
        keys = mixed(keys + hashes[:, :, each])
    return keys.T


def _with_company(rows: Array, keys: Array) -> Iterator[tuple[int, list[_Bucket]]]:
    """The rows that agree with another one in a band, in order, each with its buckets."""
    members, groups, count = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for band in keys:
        order = np.argsort(band, kind="stable")
        begins = np.ones(len(band) + 1, bool)
        begins[1:-1] = band[order][1:] != band[order][:-1]
        is_member = ~(begins[1:] & begins[:-1])  # of more than one
        begins = begins[:-1] & is_member
        members.append(order[is_member])
        groups.append(count + np.cumsum(begins)[is_member] - 1)
        count += int(begins.sum())
    member, group = np.concatenate(members), np.concatenate(groups)
    order = np.argsort(member, kind="stable")
    member, group = member[order], group[order]
    buckets: dict[int, _Bucket] = {}
    starts = np.flatnonzero(np.concatenate([[True], member[1:] != member[:-1]])) if len(member) else member
    for start, end in itertools.pairwise([*starts.tolist(), len(member)]):
        names = group[start:end].tolist()
        yield int(rows[member[start]]), [buckets.setdefault(name, _Bucket()) for name in names]
