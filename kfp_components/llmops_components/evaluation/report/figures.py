"""Small pictures of numbers as SVG, which take their colours from the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmops_components.evaluation.metrics.registry import Metric
from llmops_components.evaluation.report.content import Content

AXIS_WIDTH = 200
WIDTH, HEIGHT = 240, 64
_BINS = 24
_FAR = 0.99  # the rest of lengths and times is put into the last bar, lest one of them leaves no room to the others
_LOGITS_PER_PROBABILITY = 4.0  # where a probability changes fastest


@dataclass(frozen=True)
class Histogram:
    """How many samples lie where.

    Args:
        name: What is counted.
        unit: Its unit.
        low: Where the first bar begins.
        high: Where the last bar ends.
        ours: Samples of the model in each bar.
        theirs: Samples of the baseline; empty without one.
        is_open: Whether the last bar has all that is greater, too.
    """

    name: str
    unit: str
    low: float
    high: float
    ours: Sequence[int]
    theirs: Sequence[int] = ()
    is_open: bool = False

    @property
    def ends(self) -> tuple[str, str]:
        """The ends of the axis."""
        high = f"{self.high:.4g} {self.unit}".rstrip()
        return f"{self.low:.4g}", f"{high} and more" if self.is_open else high

    @property
    def tallest(self) -> int:
        """Samples in the fullest bar."""
        return max((*self.ours, *self.theirs), default=0) or 1

    @property
    def bars(self) -> list[tuple[float, float, float, float]]:
        """Left, top, width and height of each bar of the model that has a sample."""
        step = WIDTH / len(self.ours)
        return [
            (round(place * step, 1), round(HEIGHT - tall, 1), round(step - 1, 1), round(tall, 1))
            for place, count in enumerate(self.ours)
            for tall in [max(1.5, count / self.tallest * HEIGHT)]
            if count
        ]

    @property
    def outline(self) -> str:
        """The baseline's counts as the points of a line."""
        step = WIDTH / max(1, len(self.theirs))
        points = [
            f"{x:.1f},{HEIGHT - count / self.tallest * HEIGHT:.1f}"
            for place, count in enumerate(self.theirs)
            for x in (place * step, (place + 1) * step)
        ]
        return " ".join(points)

    def as_json(self) -> dict[str, Any]:
        """The counts, for the report as JSON."""
        return {
            "unit": self.unit,
            "low": self.low,
            "high": self.high,
            "model": list(self.ours),
            **({"baseline": list(self.theirs)} if self.theirs else {}),
            "last_is_open": self.is_open,
        }


def histograms(content: Content) -> list[Histogram]:
    """The distributions of scores, of the answers' lengths, and of how long they took.

    Args:
        content: What the report says.
    """
    found = []
    for name, scores in content.ours.items():
        metric = content.metrics[name]
        limits = None if metric.best is None or metric.worst is None else (metric.worst, metric.best)
        theirs = content.theirs[name].values if name in content.theirs else ()
        found.append(_histogram(name, "", scores.values, theirs, limits))
    for name, unit, of in (("answer length", "characters", _length), ("latency", "s", _seconds)):
        ours, theirs = ([of(each) for each in rows] for rows in (content.samples, content.baseline))
        found.append(_histogram(name, unit, ours, theirs, None, is_long=True))
    return [each for each in found if each is not None]


def _length(sample: Mapping[str, Any]) -> float:
    return math.nan if sample.get("answer") is None else float(len(sample["answer"]))


def _seconds(sample: Mapping[str, Any]) -> float:
    return math.nan if sample.get("seconds") is None else float(sample["seconds"])


def _histogram(
    name: str,
    unit: str,
    ours: Sequence[float] | np.ndarray,
    theirs: Sequence[float] | np.ndarray,
    limits: tuple[float, float] | None,
    *,
    is_long: bool = False,
) -> Histogram | None:
    mine, others = (values[np.isfinite(values)] for values in (np.asarray(ours), np.asarray(theirs, float)))
    everything = np.concatenate([mine, others])
    if not len(mine):
        return None
    low, high = limits or (0.0 if is_long else float(everything.min()), float(everything.max()))
    is_open = is_long and len(everything) > 1 / (1 - _FAR)
    if is_open:
        high = float(np.quantile(everything, _FAR))
        is_open = bool((everything > high).any())
    if not high > low:
        high = low + 1.0
    counts = [
        np.histogram(np.clip(values, low, high), bins=_BINS, range=(low, high))[0].tolist()
        for values in (mine, others)
    ]
    return Histogram(name, unit, low, high, counts[0], counts[1] if len(others) else (), is_open)


def bar(metric: Metric, ends: Mapping[str, float]) -> dict[str, float]:
    """Value and ends of an interval in percent of the best score.

    Args:
        metric: The metric.
        ends: ``value``, ``low`` and ``high``.
    """
    if metric.best is None or metric.best <= 0:  # a reward is a logit; as a probability it has its place
        percent = {key: 50 * (1 + math.tanh(value / 2)) for key, value in ends.items()}
    else:
        percent = {key: min(100.0, max(0.0, 100 * value / metric.best)) for key, value in ends.items()}
    return {key: round(value, 2) for key, value in percent.items()}


def axes(content: Content) -> dict[str, dict[str, Any]]:
    """Where points and ends of the differences' intervals lie on one axis that all metrics share.

    Args:
        content: What the report says.
    """
    relative = {
        name: {
            end: getattr(each.difference, end) / (content.metrics[name].best or _LOGITS_PER_PROBABILITY)
            for end in ("value", "low", "high")
        }
        for name, each in content.compared.items()
        if each.difference
    }
    reach = max((abs(value) for ends in relative.values() for value in ends.values()), default=0) or 1
    half = AXIS_WIDTH / 2
    return {
        name: {end: round(half + value / reach * (half - 6), 1) for end, value in ends.items()}
        | {"kind": kind_of(content.compared[name].direction)}
        for name, ends in relative.items()
    }


def kind_of(direction: int) -> str:
    """The class of what is better, worse, or neither.

    Args:
        direction: 1, -1 or 0.
    """
    return ("even", "up", "down")[direction]
