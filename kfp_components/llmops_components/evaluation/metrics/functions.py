"""Metrics of users: functions of installed packages, named ``module:function``.

A function gets all rows and the text of each answer, and gives one number a row, or None where it has none::

    def brevity(rows, answers):
        return [1 / (1 + len(answer.split())) for answer in answers]

    brevity.columns = ()  # columns besides prompt that it needs
    brevity.bounds = (0, 1)  # lowest and highest score, for the report; None where there is no end to it
    brevity.higher_is_better = True

The attributes may be left out. The metric has the function's name. Its module has to be allowed by whoever runs the component, in
the environment variable ``LLMOPS_ALLOWED_CODE``: an argument alone never chooses the code that runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmops_components.errors import SettingError
from llmops_components.evaluation.metrics.registry import METRICS, TAKEN, Metric
from llmops_components.passthrough.functions import named_function

_UNBOUNDED = (None, None)
_ROUNDING = 1e-6


def metric_of_function(name: str) -> tuple[str, Metric]:
    """A user's metric, and what it is called.

    Args:
        name: ``module:function``.

    Raises:
        SettingError: It does not name a function, or one that is not allowed here.
    """
    function = named_function(name, "metrics")
    called = name.rpartition(":")[2]
    if called in (*METRICS, *TAKEN):
        raise SettingError(
            f"metrics: {name} has the name of a metric or of a column that there is, {called}. Give the function another name."
        )
    worst, best = _bounds(name, getattr(function, "bounds", _UNBOUNDED))
    return called, Metric(
        about=(function.__doc__ or name).strip().partition("\n")[0],
        best=best,
        worst=worst,
        columns=tuple(getattr(function, "columns", ())),
        higher_is_better=bool(getattr(function, "higher_is_better", True)),
        function=function,
    )


def _bounds(name: str, bounds: Any) -> tuple[float | None, float | None]:
    found = tuple(bounds) if isinstance(bounds, Sequence) else ()
    if len(found) != 2 or not all(each is None or _is_number(each) for each in found):
        raise SettingError(
            f"metrics: the bounds of {name} are {bounds!r:.60}. Give the lowest and the highest score, None where there is no end."
        )
    return found[0], found[1]


def call_function(
    name: str, metric: Metric, rows: Sequence[Mapping[str, Any]], answers: Sequence[str]
) -> np.ndarray:
    """The score of each answer; NaN where the function gives none.

    Args:
        name: Name of the metric.
        metric: The metric.
        rows: The rows.
        answers: The answer to each.

    Raises:
        SettingError: The function fails, or does not give one number, or None, for each row.
    """
    assert metric.function is not None
    try:
        given = list(metric.function([dict(row) for row in rows], list(answers)))
    except Exception as error:
        raise SettingError(
            f"metrics: the function {name} failed: {type(error).__name__}: {error}. Correct it, or leave the metric out."
        ) from error
    if len(given) != len(answers) or not all(each is None or _is_number(each) for each in given):
        odd = next((each for each in given if each is not None and not _is_number(each)), None)
        what = f"{len(given)} values for {len(answers)} rows" if odd is None else f"{odd!r:.60}"
        raise SettingError(
            f"metrics: the function {name} gave {what}. It has to give one number, or None, for each row."
        )
    for each in given:
        if each is not None and not _is_within(each, metric):
            raise SettingError(
                f"metrics: the function {name} gave {each:g}, and its bounds are {metric.worst} and {metric.best}. Correct one of them."
            )
    return np.array([math.nan if each is None else float(each) for each in given])


def _is_within(score: float, metric: Metric) -> bool:
    """Whether a score is one that the metric can have; one that is no finite number is none, and counted as such."""
    least = -math.inf if metric.worst is None else metric.worst
    most = math.inf if metric.best is None else metric.best
    return not math.isfinite(score) or least - _ROUNDING <= score <= most + _ROUNDING


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
