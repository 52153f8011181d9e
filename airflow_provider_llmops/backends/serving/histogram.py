"""Seconds of answers, as Prometheus counts them in cumulative buckets."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["seconds_of"]

FINE = 1.3  # bounds that are at most so many times the one before are taken as they are
_PARTS = 16


def seconds_of(cumulative: Mapping[float, float]) -> dict[float, int]:
    """How many answers took at most so long and longer than the next smaller number: ``seconds`` of ``Answers``.

    The answers of a coarse bucket are taken to be spread evenly over it, as ``histogram_quantile`` of Prometheus does. Otherwise a percentile
    that crosses a bound of, say, 5 s would become one of 10 s.

    :param cumulative: how many answers took at most so long, by the bound, ``inf`` included
    :raises ValueError: these are no buckets of a histogram
    """
    bounds = sorted(cumulative)
    if not bounds or bounds[-1] != math.inf:
        raise ValueError("a histogram without the bucket +Inf")
    found: dict[float, int] = {}
    low, below, counted = 0.0, 0.0, 0
    for bound in bounds:
        up_to = cumulative[bound]
        if not below <= up_to < math.inf:
            raise ValueError(f"a histogram with {up_to:g} answers up to {bound:g} s and {below:g} below")
        is_fine = bound == math.inf or bound <= low * FINE
        for part in range(1, 2 if is_fine else _PARTS + 1):
            share = 1.0 if is_fine else part / _PARTS
            # Cumulative numbers are rounded, never buckets, so that two of them can be taken apart.
            so_far = math.floor(below + (up_to - below) * share + 0.5)
            if so_far > counted:
                at = bound if share == 1.0 else low + (bound - low) * share
                found[at] = so_far - counted
            counted = so_far
        low, below = bound, up_to
    return found
