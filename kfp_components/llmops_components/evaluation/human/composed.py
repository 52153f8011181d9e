"""What people prefer, and weighted sums of that and of metrics, pair by pair."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from llmops_components.data.files import read_rows
from llmops_components.errors import DataError, SettingError
from llmops_components.evaluation.composites import Composites, check_composites, limits_of, with_composites
from llmops_components.evaluation.human.pairs import Pair, read_pairs
from llmops_components.evaluation.metrics.registry import METRICS, Metric
from llmops_components.evaluation.statistics import Scores

HUMAN_PREFERENCE = "human_preference"
_PREFERENCE = Metric("how far people prefer the answer to the other model's", columns=())


def composed(
    pairs: Sequence[Pair],
    preferred: np.ndarray,
    composites: Composites | None,
    scores: str | os.PathLike[str] | None,
    baseline_scores: str | os.PathLike[str] | None,
) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """What the model and the other one reach by people's preference, and by composites of it.

    Args:
        pairs: Both answers each.
        preferred: Of each pair how far the model's answer is preferred, 0 to 1; NaN where nobody could tell.
        composites: Weights by metric, by name of the composite.
        scores: Scores of the model's answers, for composites.
        baseline_scores: Those of the other model's.

    Raises:
        DataError: The scores are of other answers.
        SettingError: A composite cannot be meant, or there are no scores for it.
    """
    limits = limits_of(_PREFERENCE)
    both = [{HUMAN_PREFERENCE: Scores.mean_of(values, limits)} for values in (preferred, 1 - preferred)]
    if not composites:
        if scores is not None or baseline_scores is not None:
            raise SettingError(
                "scores are given, and only composites need them. Give composites, or leave the scores out."
            )
        return both[0], both[1]
    if scores is None or baseline_scores is None:
        raise SettingError(
            "composites need the scores of both models: give scores and baseline_scores, those that the sheet was made from."
        )
    described = {HUMAN_PREFERENCE: _PREFERENCE, **METRICS}
    metrics = described | check_composites(composites, described)
    for name, weights in composites.items():
        if HUMAN_PREFERENCE not in weights:
            raise SettingError(
                f"composites[{name!r}] has no {HUMAN_PREFERENCE}: an evaluation composes metrics of all rows, and here are those that were judged."
            )
    _check_same(pairs, scores, baseline_scores)
    names = sorted({metric for weights in composites.values() for metric in weights} - {HUMAN_PREFERENCE})
    found = []
    for one, file in zip(both, (scores, baseline_scores), strict=True):
        rows = read_rows(file)
        judged = [rows[pair.row - 1] for pair in pairs]
        parts = {name: Scores.mean_of(_values(judged, name, file)) for name in names}
        told = with_composites(one | parts, composites, metrics)
        found.append({name: each for name, each in told.items() if name not in names})
    return found[0], found[1]


def _check_same(
    pairs: Sequence[Pair], scores: str | os.PathLike[str], baseline_scores: str | os.PathLike[str]
) -> None:
    """Raise :class:`DataError` where the scores are not those of the answers that people have seen."""
    all_pairs = read_pairs(scores, baseline_scores)
    for pair in pairs:
        if pair.row > len(all_pairs) or all_pairs[pair.row - 1] != pair:
            raise DataError(
                f"Row {pair.row} of the scores is not what stands on the sheet. Give the scores and baseline_scores that the sheet was made from."
            )


def _values(rows: Sequence[Mapping[str, object]], name: str, file: str | os.PathLike[str]) -> np.ndarray:
    values = [row.get(name) for row in rows]
    if not any(name in row for row in rows):
        raise DataError(
            f"The metric {name} is not in the scores {os.fspath(file)}. Have the evaluation compute it, or leave it out of composites."
        )
    if wrong := [
        each
        for each in values
        if each is not None and (isinstance(each, bool) or not isinstance(each, int | float))
    ]:
        raise DataError(
            f"The metric {name} has a score that is no number: {wrong[0]!r:.60}. Scores: {os.fspath(file)}."
        )
    return np.array([np.nan if each is None else each for each in values], dtype=float)
