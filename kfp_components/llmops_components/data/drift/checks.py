"""Tests for drift. Each gives an effect, which says how large a difference is, and a p-value, which says whether it is one.

An effect is 0 where nothing has changed and 1 where everything has:

* of lengths and of words per row it is the Kolmogorov-Smirnov distance, the largest difference between both distributions
  (``scipy.stats.ks_2samp``);
* of categories it is Cramér's V, corrected for its bias (Bergsma 2013, doi:10.1016/j.jkss.2012.10.002), of a chi-square test with
  values that are too rare for one put together;
* of a classifier that tells new rows from old ones it is ``2 * AUC - 1``, see :mod:`~llmops_components.data.drift.classifier`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmops_components.data.drift.classifier import Separation, separation, word_features

LEAST_EXPECTED = 5  # of a cell, for the chi-square test to hold (Cochran 1954)
_WORD = re.compile(r"\w+")
_SHOWN = 10
_EMBEDDED_ROWS = 1000  # a model takes minutes for more, without a GPU


@dataclass
class Check:
    """What a test found.

    Args:
        kind: ``columns``, ``length``, ``category``, ``vocabulary``, ``embedding`` or ``classifier``.
        column: The column, of a test of one.
        effect: How large the difference is, 0 to 1.
        p_value: How likely as large a difference is where there is none; None where there are too few rows to test.
        rows: Rows of the reference and new rows that were looked at.
        details: More numbers.
    """

    kind: str
    column: str | None
    effect: float | None
    p_value: float | None
    rows: tuple[int, int]
    details: dict[str, Any] = field(default_factory=dict)


def length_check(column: str, old: Sequence[int], new: Sequence[int], least: int) -> Check:
    """Whether a column's texts have become longer or shorter.

    Args:
        column: The column.
        old: Characters of the reference.
        new: Characters of the new rows.
        least: Rows that each side has to have.
    """
    details = {"median": [_median(old), _median(new)], "mean": [_mean(old), _mean(new)]}
    return _distance("length", column, old, new, least, details)


def category_check(
    kind: str, column: str, old: Mapping[str, int], new: Mapping[str, int], least: int
) -> Check:
    """Whether a column's values come in other shares.

    Args:
        kind: Kind of the check.
        column: The column.
        old: Rows of the reference by value.
        new: New rows by value.
        least: Rows that each side has to have.
    """
    from scipy.stats import chi2_contingency

    rows = (sum(old.values()), sum(new.values()))
    if min(rows) < least:
        return Check(kind, column, None, None, rows)
    names = sorted({*old, *new}, key=lambda name: (-(old.get(name, 0) + new.get(name, 0)), name))
    shares = {name: [_share(old, name, rows[0]), _share(new, name, rows[1])] for name in names[:_SHOWN]}
    unseen = [name for name in names if name not in old]
    details: dict[str, Any] = {
        "shares": shares,
        "new_values": unseen[:_SHOWN],
        "new_value_count": len(unseen),
    }
    table = _pooled([[old.get(name, 0), new.get(name, 0)] for name in names])
    if len(table) < 2:  # one value alone: there is nothing that could differ
        return Check(kind, column, 0.0, 1.0, rows, details)
    statistic, p_value, _, _ = chi2_contingency(table, correction=False)
    return Check(kind, column, _cramers_v(statistic, len(table), sum(rows)), float(p_value), rows, details)


def _pooled(table: list[list[int]]) -> list[list[int]]:
    """Values of which too few are expected on one side are put together, the rarest first."""
    total = np.sum(table, axis=0)
    smaller = min(total) / sum(total)
    kept = [each for each in table if sum(each) * smaller >= LEAST_EXPECTED]
    rare = np.sum([each for each in table if sum(each) * smaller < LEAST_EXPECTED] or [[0, 0]], axis=0)
    if sum(rare) * smaller >= LEAST_EXPECTED or not kept:
        return [*kept, list(rare)] if sum(rare) else kept
    kept[-1] = [int(a + b) for a, b in zip(kept[-1], rare, strict=True)]  # with the rarest of the others
    return kept


def _cramers_v(statistic: float, values: int, rows: int) -> float:
    phi = max(0.0, statistic / rows - (values - 1) / (rows - 1))
    height = values - (values - 1) ** 2 / (rows - 1)
    return math.sqrt(phi / min(height - 1, 1 - 1 / (rows - 1)))


def vocabulary_check(old: Sequence[str], new: Sequence[str], least: int) -> Check:
    """Whether rows are made of other words.

    Half of the reference says how frequent words are. By that the other half and the new rows are measured, in bits per word, so that both
    sides meet words that were not counted.

    Args:
        old: Texts of the reference.
        new: New texts.
        least: Rows that each side has to have.
    """
    rows = (len(old), len(new))
    if min(rows) < least:
        return Check("vocabulary", None, None, None, rows)
    words = [_WORD.findall(text.lower()) for text in old]
    counted, measured = words[::2], words[1::2]
    texts = set(old[::2])  # of a text that was counted all words are known
    unlike = [_WORD.findall(text.lower()) for text in new if text not in texts]
    frequency = Counter(word for each in counted for word in each)
    total = frequency.total() + len(frequency) + 1

    def bits(found: Sequence[str]) -> float | None:
        return sum(math.log2(total / (frequency[word] + 1)) for word in found) / len(found) if found else None

    before, after = ([each for each in map(bits, side) if each is not None] for side in (measured, unlike))
    known = {word for each in words for word in each}
    unknown = Counter(word for each in unlike for word in {*each} - known)
    told = sorted(unknown.items(), key=lambda each: (-each[1], each[0]))[:_SHOWN]
    details = {"bits_per_word": [_mean(before), _mean(after)], "new_words": [list(each) for each in told]}
    check = _distance("vocabulary", None, before, after, least // 2, details)
    check.rows = rows
    return check


def classifier_check(old: Sequence[str], new: Sequence[str], least: int, seed: int) -> Check:
    """Whether a classifier of words tells new rows from those of the reference.

    Args:
        old: Texts of the reference.
        new: New texts.
        least: Rows that each side has to have.
        seed: Chooses what is trained and tested on.
    """
    rows = (len(old), len(new))
    if min(rows) < least:
        return Check("classifier", None, None, None, rows)
    found = separation(word_features([*old, *new]), *rows, seed)
    return _separated("classifier", rows, found)


def embedding_check(
    old: Sequence[str],
    new: Sequence[str],
    least: int,
    seed: int,
    embed: Callable[[Sequence[str]], np.ndarray],
) -> Check:
    """The same by the embeddings of texts, 1,000 of each side at most: what they are about, in whatever words.

    Args:
        old: Texts of the reference.
        new: New texts.
        least: Rows that each side has to have.
        seed: Chooses what is trained and tested on.
        embed: Makes one vector of each text.
    """
    old, new = old[:_EMBEDDED_ROWS], new[:_EMBEDDED_ROWS]
    rows = (len(old), len(new))
    if min(rows) < least:
        return Check("embedding", None, None, None, rows)
    vectors = np.asarray(embed([*old, *new]), dtype=np.float64)
    found = separation(lambda train: _scaled(vectors, train), *rows, seed)
    middle = vectors[: rows[0]].mean(axis=0), vectors[rows[0] :].mean(axis=0)
    lengths = float(np.linalg.norm(middle[0]) * np.linalg.norm(middle[1]))
    cosine = float(middle[0] @ middle[1]) / lengths if lengths else 0.0
    check = _separated("embedding", rows, found)
    check.details["cosine_of_means"] = round(cosine, 6)
    return check


def _scaled(vectors: np.ndarray, train: np.ndarray) -> np.ndarray:
    """All directions by one measure: by measures of their own those that say nothing would count as much as those that do."""
    centred = vectors - vectors[train].mean(axis=0)
    spread = float(np.sqrt(centred[train].var(axis=0).sum()))
    return centred / (spread or 1.0)


def _separated(kind: str, rows: tuple[int, int], found: Separation) -> Check:
    details = {"auc": round(found.auc, 6), "low": round(found.low, 6), "high": round(found.high, 6)}
    return Check(kind, None, max(0.0, 2 * found.auc - 1), found.p_value, rows, details)


def _distance(
    kind: str,
    column: str | None,
    old: Sequence[float],
    new: Sequence[float],
    least: int,
    details: dict[str, Any],
) -> Check:
    from scipy.stats import ks_2samp

    rows = (len(old), len(new))
    if min(rows) < least:
        return Check(kind, column, None, None, rows)
    found = ks_2samp(old, new, method="asymp")
    return Check(kind, column, float(found.statistic), float(found.pvalue), rows, details)


def _share(counts: Mapping[str, int], name: str, rows: int) -> float:
    return round(counts.get(name, 0) / rows, 6)


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 6) if len(values) else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) else None
