"""How long texts are: quantiles and a histogram of numbers that are counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_BINS = 30
_FAR = 0.99  # what is above is in the last bar, so that one row does not squeeze all others


def quantile(counts: Mapping[int, int], share: float) -> float:
    """The quantile of numbers, by linear interpolation as NumPy does it.

    Args:
        counts: How often each number is there; at least one is.
        share: From 0 to 1.
    """
    place = share * (sum(counts.values()) - 1)
    low, high = _at(counts, math.floor(place)), _at(counts, math.ceil(place))
    return low + (high - low) * (place - math.floor(place))


def _at(counts: Mapping[int, int], place: int) -> int:
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen > place:
            return value
    return max(counts)


def distribution(counts: Mapping[int, int]) -> dict[str, Any]:
    """Mean, quantiles and histogram.

    Args:
        counts: How often each number is there; at least one is.
    """
    rows = sum(counts.values())
    return {
        "rows": rows,
        "mean": round(sum(value * number for value, number in counts.items()) / rows, 2),
        "quantiles": {f"{share:g}": round(quantile(counts, share), 2) for share in QUANTILES},
        "histogram": _histogram(counts),
    }


def _histogram(counts: Mapping[int, int]) -> dict[str, Any]:
    largest = max(counts)
    high = max(1, math.ceil(quantile(counts, _FAR)))
    width = max(1, math.ceil((high + 1) / _BINS))
    bins = [0] * (high // width + 1)
    for value, number in counts.items():
        bins[min(value // width, len(bins) - 1)] += number
    return {"width": width, "counts": bins, "last_is_open": largest >= width * len(bins)}
