"""Weighted sums of metrics, row by row, that are compared as a metric is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from llmops_components.errors import SettingError, check_known
from llmops_components.evaluation.metrics.registry import TAKEN, Metric
from llmops_components.evaluation.statistics import Scores

Composites = Mapping[str, Mapping[str, float]]


def check_composites(composites: Composites | None, metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Check what somebody has declared, and describe each as a metric.

    Args:
        composites: Weights by metric, by name of the composite.
        metrics: The metrics that are computed, by name.

    Returns:
        The composites, described as metrics are.

    Raises:
        SettingError: A name is taken or unknown, or a weight is no finite number, or one by which a worse model would gain.
    """
    if not isinstance(composites, Mapping | None):
        raise SettingError(
            f"composites is {composites!r:.60}. Give weights of metrics by name, by name of the composite."
        )
    found = {}
    for name, weights in (composites or {}).items():
        what = f"composites[{name!r}]"
        if not isinstance(name, str) or not name or name in (*metrics, *TAKEN):
            raise SettingError(
                f"{what}: that is no name, or one of a metric or of a column of the scores. Give another one."
            )
        if not isinstance(weights, Mapping) or not weights:
            raise SettingError(
                f"{what} is {weights!r:.60}. Give weights by metric, such as {{'rougeL': 0.5, 'chrf': 0.005}}."
            )
        check_known(weights, metrics, what)
        for metric, weight in weights.items():
            if (
                isinstance(weight, bool)
                or not isinstance(weight, int | float)
                or not weight
                or not math.isfinite(weight)
            ):
                raise SettingError(
                    f"{what}[{metric!r}] is {weight!r:.60}. Give a finite number that is not 0."
                )
            if (weight > 0) != metrics[metric].higher_is_better:
                better = "higher" if metrics[metric].higher_is_better else "lower"
                raise SettingError(
                    f"A worse model would gain by {what}[{metric!r}], which is {weight:g}: {metric} is better the {better} it is. Give "
                    f"{-weight:g}."
                )
        found[name] = _described(weights, metrics)
    return found


def _described(weights: Mapping[str, float], metrics: Mapping[str, Metric]) -> Metric:
    lows, highs = [], []
    for metric, weight in weights.items():
        limits = limits_of(metrics[metric])
        if limits is None:
            return Metric(_sum_of(weights), best=None, worst=None)
        ends = sorted(weight * limit for limit in limits)
        lows.append(ends[0])
        highs.append(ends[1])
    return Metric(_sum_of(weights), best=sum(highs), worst=sum(lows))


def _sum_of(weights: Mapping[str, float]) -> str:
    return " + ".join(f"{weight:g} {metric}" for metric, weight in weights.items()).replace("+ -", "- ")


def limits_of(metric: Metric) -> tuple[float, float] | None:
    """The lowest and the highest score of a metric, if both are known.

    Args:
        metric: The metric.
    """
    return None if metric.worst is None or metric.best is None else (metric.worst, metric.best)


def with_composites(
    scored: Mapping[str, Scores], composites: Composites | None, metrics: Mapping[str, Metric]
) -> dict[str, Scores]:
    """The scores with their limits, and those of the composites; a row that lacks a part has none.

    Args:
        scored: Scores by metric.
        composites: Weights by metric, by name of the composite.
        metrics: Metrics and described composites.
    """
    found = {name: _told(each, metrics[name]) for name, each in scored.items()}
    for name, weights in (composites or {}).items():
        parts = [
            weight * np.where(scored[metric].are_there, scored[metric].values, np.nan)
            for metric, weight in weights.items()
        ]
        found[name] = Scores.mean_of(np.sum(parts, axis=0), limits_of(metrics[name]))
    return found


def _told(scores: Scores, metric: Metric) -> Scores:
    """Scores that know what their metric says of itself."""
    return replace(scores, limits=limits_of(metric), higher_is_better=metric.higher_is_better)
