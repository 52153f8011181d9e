"""Aggregates of per-sample scores, with bootstrap intervals.

An aggregate is a function of statistics summed over the samples: of (score, 1) for a mean, of n-gram counts for
corpus BLEU. Resampling the rows of these statistics therefore gives the interval of any of them. A sample whose score is
not finite has none: it is left out of every aggregate, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmops_components.comparison import Difference, MetricComparison

RESAMPLES = 1000
CONFIDENCE = 0.95
_SEED = 0
_BLOCK_NUMBERS = 10_000_000
_TIE = 1e-9
_DIGITS = 6


@dataclass(frozen=True)
class Scores:
    """One metric over all samples.

    Args:
        values: The score of each sample; NaN or infinite where there is none.
        statistics: One row a sample; the aggregate depends on their sum only.
        combine: From summed statistics to the aggregate.
    """

    values: np.ndarray
    statistics: np.ndarray
    combine: Callable[[np.ndarray], float]

    @classmethod
    def mean_of(cls, values: np.ndarray | list[float]) -> Scores:
        """Scores whose aggregate is their mean."""
        array = np.asarray(values, dtype=float)
        return cls(
            array, np.column_stack([array, np.ones_like(array)]), lambda sums: float(sums[0] / sums[1])
        )

    def __getitem__(self, part: slice | np.ndarray) -> Scores:
        return Scores(self.values[part], self.statistics[part], self.combine)

    @property
    def are_there(self) -> np.ndarray:
        """Of each sample whether it has a score."""
        return np.isfinite(self.values)

    @property
    def aggregate(self) -> float:
        return self.combine(self.statistics.sum(axis=0))


@dataclass(frozen=True)
class Estimate:
    """A value and its 95% bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedComparison:
    """A model against a baseline on the samples that both have a score for; no estimates where there is no such sample.

    Args:
        candidate: The model's aggregate.
        baseline: The baseline's aggregate.
        difference: The first minus the second; its interval is of paired resamples.
        changes: Score of the model minus that of the baseline, by sample; NaN where one of them has none.
    """

    candidate: Estimate | None
    baseline: Estimate | None
    difference: Estimate | None
    changes: np.ndarray

    @property
    def scored(self) -> int:
        return int(np.isfinite(self.changes).sum())

    @property
    def unscored(self) -> int:
        return len(self.changes) - self.scored

    @property
    def wins(self) -> int:
        return int((self.changes > _TIE).sum())

    @property
    def losses(self) -> int:
        return int((self.changes < -_TIE).sum())

    @property
    def ties(self) -> int:
        return self.scored - self.wins - self.losses

    def record(self) -> MetricComparison:
        """What of it crosses to the control plane."""
        difference = self.difference and Difference(
            value=round(self.difference.value, _DIGITS),
            low=round(self.difference.low, _DIGITS),
            high=round(self.difference.high, _DIGITS),
        )
        return MetricComparison(
            candidate=self.candidate and round(self.candidate.value, _DIGITS),
            baseline=self.baseline and round(self.baseline.value, _DIGITS),
            difference=difference,
            rows_scored=self.scored,
            rows_unscored=self.unscored,
        )


def estimate(scores: Scores) -> Estimate | None:
    """Aggregate of the samples that have a score, with its interval; None where none has.

    Args:
        scores: One metric over all samples.
    """
    found = scores[scores.are_there]
    if not len(found.values):
        return None
    resampled = [found.combine(sums) for sums in _resampled_sums(found.statistics)]
    return _interval(found.aggregate, resampled)


def compare(model: Scores, baseline: Scores) -> PairedComparison:
    """Compare two models' scores of the same samples, in the same order.

    Both models are resampled with the same rows, so what makes a row hard for both does not widen the interval.

    Args:
        model: Scores of the model that is judged.
        baseline: Scores of the other one.
    """
    both = model.are_there & baseline.are_there
    changes = np.full(len(both), np.nan)
    changes[both] = model.values[both] - baseline.values[both]
    ours, theirs = model[both], baseline[both]
    candidate, before = estimate(ours), estimate(theirs)
    if candidate is None or before is None:
        return PairedComparison(None, None, None, changes)
    width = ours.statistics.shape[1]
    resampled = [
        ours.combine(sums[:width]) - theirs.combine(sums[width:])
        for sums in _resampled_sums(np.hstack([ours.statistics, theirs.statistics]))
    ]
    difference = _interval(ours.aggregate - theirs.aggregate, resampled)
    return PairedComparison(candidate, before, difference, changes)


def _resampled_sums(statistics: np.ndarray) -> np.ndarray:
    """Sum of the statistics over each of ``RESAMPLES`` draws of the samples with replacement."""
    count = len(statistics)
    generator = np.random.default_rng(_SEED)
    block = max(1, _BLOCK_NUMBERS // count)
    return np.vstack(
        [
            generator.multinomial(count, np.full(count, 1 / count), size=min(block, RESAMPLES - start))
            @ statistics
            for start in range(0, RESAMPLES, block)
        ]
    )


def _interval(value: float, resampled: list[float]) -> Estimate:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Estimate(value, float(low), float(high))
