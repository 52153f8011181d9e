"""Aggregates of per-sample scores, with bootstrap intervals.

An aggregate is a function of statistics summed over the samples: of (score, 1) for a mean, of n-gram counts for
corpus BLEU. Resampling the rows of these statistics therefore gives the interval of any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95
_SEED = 0
_BLOCK_NUMBERS = 10_000_000
_TIE = 1e-9


@dataclass(frozen=True)
class Scores:
    """One metric over all samples.

    Args:
        values: The score of each sample.
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

    def __getitem__(self, part: slice) -> Scores:
        return Scores(self.values[part], self.statistics[part], self.combine)

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
class Comparison:
    """A model against a baseline on the same samples.

    Args:
        baseline: The baseline's aggregate.
        improvement: Aggregate of the model minus that of the baseline; its interval is of paired resamples.
        changes: Score of the model minus that of the baseline, by sample.
    """

    baseline: Estimate
    improvement: Estimate
    changes: np.ndarray

    @property
    def wins(self) -> int:
        return int((self.changes > _TIE).sum())

    @property
    def losses(self) -> int:
        return int((self.changes < -_TIE).sum())

    @property
    def ties(self) -> int:
        return len(self.changes) - self.wins - self.losses


def estimate(scores: Scores) -> Estimate:
    """Aggregate with its interval."""
    resampled = [scores.combine(sums) for sums in _resampled_sums(scores.statistics)]
    return _interval(scores.aggregate, resampled)


def compare(model: Scores, baseline: Scores) -> Comparison:
    """Compare two models' scores of the same samples, in the same order.

    Both models are resampled with the same rows, so what makes a row hard for both does not widen the interval.
    """
    width = model.statistics.shape[1]
    resampled = [
        model.combine(sums[:width]) - baseline.combine(sums[width:])
        for sums in _resampled_sums(np.hstack([model.statistics, baseline.statistics]))
    ]
    return Comparison(
        baseline=estimate(baseline),
        improvement=_interval(model.aggregate - baseline.aggregate, resampled),
        changes=model.values - baseline.values,
    )


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
