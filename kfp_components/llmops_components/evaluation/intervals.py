"""Within which ends the true value of an aggregate lies, from the scores of some rows.

Three methods, each where it is right:

- Scores that are only the worst or the best one, as those of ``exact_match``: Wilson's interval, and the exact bounds of Clopper and
  Pearson (``scipy.stats.binomtest`` has both). Thirty right answers of thirty do not say that all will be right.
- Where few rows differ, as with answers that are mostly the same: the bound of Gaffke for the mean of what has known limits
  (Learned-Miller and Thomas, "A new confidence interval for the mean of a bounded random variable", 2020). Resamples of such rows are
  nearly all alike, so that a bootstrap would be sure of what it cannot know. It is never too narrow, and often too wide. Scores without
  limits have no bounds then.
- Else the paired bootstrap with bias correction and acceleration (BCa, as ``scipy.stats.bootstrap``), whose levels are those of Student's
  distribution, widened by the root of n / (n - 1) (Hesterberg, "What teachers should know about the bootstrap", 2015): by percentiles
  alone 95 % intervals of 30 skewed scores hold the true mean in 90 to 94 % of the cases only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 5000
CONFIDENCE = 0.95
# How often a bound may be wrong: those that a gate may ask for. A bound is one end alone, an interval has two.
LEVELS = (0.1, 0.05, 0.01, 0.001)
MIN_DIFFERENT = 12
_ALL_LEVELS = ((1 - CONFIDENCE) / 2, *LEVELS)
_SEED = 0
_BLOCK_NUMBERS = 10_000_000
_TIE = 1e-9
_SURE_RESAMPLES = 5  # an end that fewer resamples lie beyond is extrapolated

Limits = tuple[float, float]


@dataclass(frozen=True)
class Ends:
    """Where the true value lies.

    Args:
        low: Lower end of the interval.
        high: Its upper end.
        lower: What it is not below, at each of ``LEVELS``.
        upper: What it is not above.
    """

    low: float
    high: float
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    @classmethod
    def of(cls, lower: Sequence[float], upper: Sequence[float], value: float, limits: Limits | None) -> Ends:
        """From the ends at all levels, the interval's first; the value that was found is never outside, limits never exceeded."""
        least, most = limits or (-np.inf, np.inf)
        below = [float(max(least, min(end, value))) for end in lower]
        above = [float(min(most, max(end, value))) for end in upper]
        return cls(below[0], above[0], tuple(below[1:]), tuple(above[1:]))


def ends_of(
    values: np.ndarray,
    statistics: np.ndarray,
    aggregate: Callable[[np.ndarray], np.ndarray],
    limits: Limits | None,
) -> Ends:
    """The ends of one aggregate.

    Args:
        values: Score of each row; finite.
        statistics: What is summed over the rows.
        aggregate: From sums, one a line, to the aggregate of each.
        limits: What no score can be below or above, if it is known.
    """
    value = float(aggregate(statistics.sum(axis=0, keepdims=True))[0])
    if limits and np.isin(values, limits).all():
        return _of_yes_and_no(values, value, limits)
    distinct, counts = np.unique(np.round(values, 9), return_counts=True)
    if len(values) - counts.max() < MIN_DIFFERENT:
        return _of_few(distinct, counts, value, limits)
    return _of_resamples(statistics, aggregate, value, limits)


def _of_yes_and_no(values: np.ndarray, value: float, limits: Limits) -> Ends:
    from scipy.special import betaincinv, ndtri

    (low, high), width = limits, limits[1] - limits[0]
    low += value - values.mean()  # of what is no mean, as corpus BLEU
    count, levels = len(values), np.array(LEVELS)
    best = int((values == high).sum())
    lower = betaincinv(best, count - best + 1, levels) if best else np.zeros(len(levels))
    upper = betaincinv(best + 1, count - best, 1 - levels) if best < count else np.ones(len(levels))
    square = ndtri(_ALL_LEVELS[0]) ** 2
    middle = (best + square / 2) / (count + square)
    half = np.sqrt(square * (best * (count - best) / count + square / 4)) / (count + square)
    return Ends.of(
        [low + width * end for end in (middle - half, *lower)],
        [low + width * end for end in (middle + half, *upper)],
        value,
        limits,
    )


def _of_few(distinct: np.ndarray, counts: np.ndarray, value: float, limits: Limits | None) -> Ends:
    """Weights of the rows are drawn as a Bayesian bootstrap does, with one more row at the limit."""
    generator = np.random.default_rng(_SEED)
    weights = generator.standard_gamma(counts, size=(4 * RESAMPLES, len(counts)))
    further = generator.standard_exponential(4 * RESAMPLES)
    sums, whole = weights @ distinct, weights.sum(axis=1) + further
    mean = float(distinct @ counts / counts.sum())
    low, high = limits or (float(distinct[0]), float(distinct[-1]))
    shift = value - mean  # of what is no mean, as corpus BLEU
    levels = np.array(_ALL_LEVELS if limits else _ALL_LEVELS[:1])
    return Ends.of(
        np.quantile((sums + further * low) / whole, levels) + shift,
        np.quantile((sums + further * high) / whole, 1 - levels) + shift,
        value,
        limits,
    )


def _of_resamples(
    statistics: np.ndarray,
    aggregate: Callable[[np.ndarray], np.ndarray],
    value: float,
    limits: Limits | None,
) -> Ends:
    from scipy.special import ndtr, ndtri
    from scipy.stats import t

    count = len(statistics)
    found = np.sort(aggregate(_resampled_sums(statistics)))
    less = np.searchsorted(found, value - _TIE), np.searchsorted(found, value + _TIE)
    bias = ndtri(np.clip(np.mean(less) / RESAMPLES, 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    without = aggregate(statistics.sum(axis=0) - statistics)
    apart = without.mean() - without
    spread = (apart**2).sum() ** 1.5
    acceleration = (apart**3).sum() / (6 * spread) if spread else 0.0

    def end(normal: float) -> float:
        moved = bias + normal
        tail = bias + moved / max(0.1, 1 - acceleration * moved)
        surely = float(ndtri(_SURE_RESAMPLES / RESAMPLES))
        if abs(tail) <= -surely:
            return float(np.quantile(found, ndtr(tail)))
        edge = float(np.quantile(found, ndtr(np.copysign(surely, tail))))
        return value + (edge - value) * abs(tail) / -surely

    normals = np.sqrt(count / (count - 1)) * t.isf(_ALL_LEVELS, count - 1)
    return Ends.of([end(-each) for each in normals], [end(each) for each in normals], value, limits)


def _resampled_sums(statistics: np.ndarray) -> np.ndarray:
    """Sum of the statistics over each of ``RESAMPLES`` draws of the rows with replacement; the same draws for as many rows."""
    count = len(statistics)
    block = max(1, _BLOCK_NUMBERS // count)
    if block >= RESAMPLES:
        return _kept_draws(count, RESAMPLES).astype(float) @ statistics
    generator = np.random.default_rng(_SEED)
    starts = range(0, RESAMPLES, block)
    return np.vstack(
        [
            _draws(generator, count, min(block, RESAMPLES - start)).astype(float) @ statistics
            for start in starts
        ]
    )


@lru_cache(maxsize=4)
def _kept_draws(count: int, times: int) -> np.ndarray:
    return _draws(np.random.default_rng(_SEED), count, times)


def _draws(generator: np.random.Generator, count: int, times: int) -> np.ndarray:
    """How often each row was drawn, a line for each draw of all rows."""
    drawn = generator.integers(0, count, size=(times, count)) + count * np.arange(times)[:, None]
    return np.bincount(drawn.ravel(), minlength=times * count).reshape(times, count).astype(np.int32)
