"""How far two raters agree beyond what chance makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from llmops_components.errors import DataError

RESAMPLES = 1000
_TAILS = (2.5, 97.5)
_SEED = 0


@dataclass(frozen=True)
class Agreement:
    """Of two raters on the same items.

    Args:
        kappa: Cohen's kappa, at most 1; 0 is what chance gives. None where both gave one and the same label to everything, so that
            chance alone would have them agree.
        low: Lower end of its 95 percent bootstrap interval over the items; None where there is no kappa.
        high: Upper end.
        agreed: Share of the items that both gave the same label.
        items: How many items there are.
    """

    kappa: float | None
    low: float | None
    high: float | None
    agreed: float
    items: int


def cohens_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Cohen's kappa of two raters.

    Source: Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 20 (1960).

    Args:
        first: The labels of one.
        second: Those of the other, of the same items in the same order.

    Returns:
        Kappa; None where it is not defined.

    Raises:
        DataError: There is no item, or they are of different numbers of items.
    """
    codes, labels = _codes(first, second)
    return _kappa(np.bincount(codes, minlength=labels**2), labels)


def agreement(first: Sequence[Hashable], second: Sequence[Hashable]) -> Agreement:
    """How far two raters agree, with an interval.

    Resamples in which kappa is not defined are left out of the interval.

    Args:
        first: The labels of one.
        second: Those of the other, of the same items in the same order.

    Raises:
        DataError: There is no item, or they are of different numbers of items.
    """
    codes, labels = _codes(first, second)
    counts = np.bincount(codes, minlength=labels**2)
    kappa, items = _kappa(counts, labels), len(codes)
    agreed = float(counts.reshape(labels, labels).trace() / items)
    if kappa is None:
        return Agreement(None, None, None, agreed, items)
    generator = np.random.default_rng(_SEED)
    drawn = (
        np.bincount(codes[generator.integers(0, items, items)], minlength=labels**2) for _ in range(RESAMPLES)
    )
    resampled = [found for each in drawn if (found := _kappa(each, labels)) is not None]
    low, high = np.percentile(resampled, _TAILS)
    return Agreement(kappa, float(low), float(high), agreed, items)


def mean_pairwise_kappa(labels: Sequence[dict[str, Hashable]]) -> float | None:
    """Mean of Cohen's kappa over all pairs of raters, each over the items that both have rated.

    Source: Light, "Measures of response agreement for qualitative data", Psychological Bulletin 76 (1971).

    Args:
        labels: For each item the label of each rater, by name.

    Returns:
        The mean; None where no pair has a kappa.
    """
    raters = sorted({rater for each in labels for rater in each})
    found = []
    for at, one in enumerate(raters):
        for other in raters[at + 1 :]:
            both = [(each[one], each[other]) for each in labels if one in each and other in each]
            if both and (kappa := cohens_kappa(*zip(*both, strict=True))) is not None:
                found.append(kappa)
    return float(np.mean(found)) if found else None


def _codes(first: Sequence[Hashable], second: Sequence[Hashable]) -> tuple[np.ndarray, int]:
    """Each item as the cell of the table of both raters' labels that it belongs to, and the number of labels."""
    if len(first) != len(second) or not len(first):
        raise DataError(
            f"Agreement is of labels of the same items, at least one: got {len(first)} and {len(second)}. Give both raters' labels of each item."
        )
    places = {label: at for at, label in enumerate(Counter([*first, *second]))}
    pairs = zip(first, second, strict=True)
    return np.array([places[one] * len(places) + places[other] for one, other in pairs]), len(places)


def _kappa(counts: np.ndarray, labels: int) -> float | None:
    shares = counts.reshape(labels, labels) / counts.sum()
    by_chance = float(shares.sum(axis=0) @ shares.sum(axis=1))
    return None if by_chance > 1 - 1e-12 else (float(shares.trace()) - by_chance) / (1 - by_chance)
