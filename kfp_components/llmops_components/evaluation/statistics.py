"""Aggregates of per-sample scores, and how two models differ on the same samples, each with its interval.

An aggregate is a function of statistics summed over the samples: of (score, 1) for a mean, of n-gram counts for
corpus BLEU. Resampling the rows of these statistics therefore gives the interval of any of them. A sample whose score is
not finite has none: it is left out of every aggregate, and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from llmops_components.comparison import Bounded, Estimated, MetricComparison
from llmops_components.evaluation.intervals import Ends, Limits, ends_of

_TIE = 1e-9
_DIGITS = 6
_SHORT_DIGITS = 4


def _mean(sums: np.ndarray) -> float:
    return float(sums[0] / sums[1])


@dataclass(frozen=True)
class Scores:
    """One metric over all samples.

    Args:
        values: The score of each sample; NaN or infinite where there is none.
        statistics: One row a sample; the aggregate depends on their sum only.
        combine: From summed statistics to the aggregate.
        limits: The lowest and the highest score that there can be, if they are known.
        higher_is_better: Whether a higher score is the better one.
    """

    values: np.ndarray
    statistics: np.ndarray
    combine: Callable[[np.ndarray], float]
    limits: Limits | None = None
    higher_is_better: bool = True

    @classmethod
    def mean_of(
        cls,
        values: np.ndarray | list[float],
        limits: Limits | None = None,
        *,
        higher_is_better: bool = True,
    ) -> Scores:
        """Scores whose aggregate is their mean."""
        array = np.asarray(values, dtype=float)
        return cls(array, np.column_stack([array, np.ones_like(array)]), _mean, limits, higher_is_better)

    def __getitem__(self, part: slice | np.ndarray) -> Scores:
        return replace(self, values=self.values[part], statistics=self.statistics[part])

    @property
    def are_there(self) -> np.ndarray:
        """Of each sample whether it has a score."""
        return np.isfinite(self.values)

    @property
    def aggregate(self) -> float:
        return self.combine(self.statistics.sum(axis=0))

    @cached_property
    def estimated(self) -> Estimate | None:
        """What :func:`estimate` says: resampling takes the longest of all, and several ask."""
        found = self if self.are_there.all() else self[self.are_there]
        if not len(found.values):
            return None
        ends = ends_of(found.values, found.statistics, found.aggregates, found.limits)
        return Estimate.of(found.aggregate, ends)

    def aggregates(self, sums: np.ndarray) -> np.ndarray:
        """The aggregate of each line of sums."""
        if self.combine is _mean:
            means: np.ndarray = sums[:, 0] / sums[:, 1]
            return means
        return np.array([self.combine(line) for line in sums])

    def with_failed(self) -> Scores | None:
        """The scores with the worst one for each sample that has none; None where there is no worst one."""
        if self.limits is None or self.combine is not _mean:
            return None
        worst = self.limits[0 if self.higher_is_better else 1]
        filled = np.where(self.are_there, self.values, worst)
        return Scores.mean_of(filled, self.limits, higher_is_better=self.higher_is_better)


@dataclass(frozen=True)
class Estimate:
    """A value, its 95% interval, and what it is not below or above, at each of ``intervals.LEVELS``."""

    value: float
    low: float
    high: float
    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()

    @classmethod
    def of(cls, value: float, ends: Ends) -> Estimate:
        """A value with its ends."""
        return cls(value, ends.low, ends.high, ends.lower, ends.upper)

    def record(self) -> Bounded:
        """What of it crosses to the control plane."""
        return Bounded(
            value=round(self.value, _DIGITS),
            low=_short(self.low, -1),
            high=_short(self.high, 1),
            lower=[_short(end, -1) for end in self.lower],
            upper=[_short(end, 1) for end in self.upper],
        )


@dataclass(frozen=True)
class PairedComparison:
    """A model against a baseline on the samples that both have a score for; no estimates where there is no such sample.

    Args:
        candidate: The model's aggregate.
        baseline: The baseline's aggregate.
        difference: The first minus the second; its interval is of paired resamples.
        changes: Score of the model minus that of the baseline, by sample; NaN where one of them has none.
        higher_is_better: Whether a higher score is the better one.
    """

    candidate: Estimate | None
    baseline: Estimate | None
    difference: Estimate | None
    changes: np.ndarray
    higher_is_better: bool = True

    @property
    def direction(self) -> int:
        """1 where the model is better for sure, -1 where it is worse, else 0."""
        if self.difference is None or self.difference.low <= 0 <= self.difference.high:
            return 0
        return 1 if (self.difference.value > 0) == self.higher_is_better else -1

    @property
    def scored(self) -> int:
        return int(np.isfinite(self.changes).sum())

    @property
    def unscored(self) -> int:
        return len(self.changes) - self.scored

    @property
    def _gains(self) -> np.ndarray:
        return self.changes if self.higher_is_better else -self.changes

    @property
    def wins(self) -> int:
        return int((self._gains > _TIE).sum())

    @property
    def losses(self) -> int:
        return int((self._gains < -_TIE).sum())

    @property
    def ties(self) -> int:
        return self.scored - self.wins - self.losses


def estimate(scores: Scores) -> Estimate | None:
    """Aggregate of the samples that have a score, with its interval; None where none has.

    Args:
        scores: One metric over all samples.
    """
    return scores.estimated


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
    if not both.any():
        return PairedComparison(None, None, None, changes, model.higher_is_better)
    ours, theirs = (model, baseline) if both.all() else (model[both], baseline[both])
    width = ours.statistics.shape[1]

    def differences(sums: np.ndarray) -> np.ndarray:
        return ours.aggregates(sums[:, :width]) - theirs.aggregates(sums[:, width:])

    statistics = np.hstack([ours.statistics, theirs.statistics])
    limits = ours.limits and (ours.limits[0] - ours.limits[1], ours.limits[1] - ours.limits[0])
    ends = ends_of(changes[both], statistics, differences, limits)
    difference = Estimate.of(ours.aggregate - theirs.aggregate, ends)
    return PairedComparison(estimate(ours), estimate(theirs), difference, changes, model.higher_is_better)


def record(
    model: Scores, baseline: Scores | None = None, compared: PairedComparison | None = None
) -> MetricComparison:
    """What of a metric crosses to the control plane.

    Each model has the aggregate of the samples that it has a score for itself. What the model's is not below or above counts those
    without a score as failed.

    Args:
        model: Scores of the model that is judged.
        baseline: Scores of the other one, if there is one.
        compared: What :func:`compare` says of both.
    """
    compared = compared or (compare(model, baseline) if baseline is not None else None)
    ours, theirs = estimate(model), baseline and estimate(baseline)
    scored = int(model.are_there.sum())
    unscored = len(model.values) - scored
    filled = model.with_failed() if unscored else None
    worst = filled and estimate(filled)
    if ours and unscored:
        ours = replace(ours, lower=worst.lower if worst else (), upper=worst.upper if worst else ())
    return MetricComparison(
        higher_is_better=model.higher_is_better,
        candidate=ours and ours.record(),
        baseline=theirs
        and Estimated(
            value=round(theirs.value, _DIGITS), low=_short(theirs.low, -1), high=_short(theirs.high, 1)
        ),
        difference=compared.difference.record() if compared and compared.difference else None,
        worst_case=round(worst.value, _DIGITS) if worst else None,
        rows_scored=scored,
        rows_unscored=unscored,
        pairs_scored=compared.scored if compared else 0,
    )


def _short(end: float, direction: int) -> float:
    """An end with as many digits as it is worth, since results are small, and never nearer to the value for it."""
    if not end:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(end))) - _SHORT_DIGITS + 1)
    short = (math.floor if direction < 0 else math.ceil)(round(end / step, 6)) * step
    return float(f"{short:.{_SHORT_DIGITS}g}")
