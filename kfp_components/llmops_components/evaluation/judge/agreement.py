"""How far a judge agrees with people who have labelled the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmops_components.errors import DataError, SettingError, check_known
from llmops_components.evaluation.agreement import agreement

_FEWEST_FOR_MINIMUM = 20  # below, the interval of a kappa means little
_FEWEST = 2


@dataclass(frozen=True)
class Labels:
    """People's labels for one metric.

    Args:
        column: Column of the rows with a number, or true and false; rows without one are left out.
        threshold: From where on score and label count as good; without it they have to be the same number.
        min_kappa: What the lower end of the interval has to reach.

    Raises:
        SettingError: One of them cannot be meant.
    """

    column: str
    threshold: float | None = None
    min_kappa: float | None = None

    @classmethod
    def of(cls, metric: str, given: Any) -> Labels:
        """Labels by name of their settings.

        Args:
            metric: The metric.
            given: The settings.
        """
        how = f"judge: labels of {metric} are {given!r:.100}. Give an object with column, and threshold and min_kappa where wanted."
        if not isinstance(given, Mapping):
            raise SettingError(how)
        known = {name: value for name, value in given.items() if value is not None}
        check_known(known, ("column", "threshold", "min_kappa"), f"judge: labels of {metric}")
        numbers = [known[name] for name in ("threshold", "min_kappa") if name in known]
        if not isinstance(known.get("column"), str) or not all(map(is_number, numbers)):
            raise SettingError(how)
        if not -1 <= known.get("min_kappa", 0) < 1:
            raise SettingError(
                f"judge: min_kappa of {metric} is {known['min_kappa']!r}. Give a number from -1 to below 1."
            )
        return cls(**known)


@dataclass(frozen=True)
class Agreement:
    """Cohen's kappa between judge and people.

    Args:
        kappa: Agreement beyond chance, 1 for all rows; None where it is not defined, as where all say the same.
        low: Lower end of the 95% bootstrap interval.
        high: Its upper end.
        agreed: Share of the rows on which they agree.
        rows: Rows that have a label and a score.
        unscored: Rows that have a label and no score.
    """

    kappa: float | None
    low: float | None
    high: float | None
    agreed: float | None
    rows: int
    unscored: int


def check_labels(
    rows: Sequence[Mapping[str, Any]], labels: Mapping[str, Labels], judged: Sequence[str]
) -> None:
    """Raise an error for labels that cannot be compared with a judge's scores, before anything is asked.

    Args:
        rows: The rows.
        labels: People's labels by metric.
        judged: Metrics that the judge scores.
    """
    check_known(labels, judged, "metric in the judge's labels")
    for metric, each in labels.items():
        found = [row[each.column] for row in rows if row.get(each.column) is not None]
        if len(found) < _FEWEST:
            raise DataError(
                f"{len(found)} of {len(rows)} rows have a label in {each.column}, with which the judge's {metric} is compared. Label at "
                f"least {_FEWEST}, or leave labels out."
            )
        if odd := [value for value in found if not isinstance(value, bool) and not is_number(value)]:
            raise DataError(f"A label in {each.column} is {odd[0]!r:.60}. Give numbers, or true and false.")


def agreement_of(labels: Labels, rows: Sequence[Mapping[str, Any]], scores: np.ndarray) -> Agreement:
    """How far scores agree with labels.

    Args:
        labels: Where the labels are.
        rows: The rows.
        scores: The score of each; NaN where there is none.
    """
    given = np.array([_number(row.get(labels.column)) for row in rows])
    labelled = np.isfinite(given)
    both = labelled & np.isfinite(scores)
    ours, theirs = _classes(scores[both], labels), _classes(given[both], labels)
    count, unscored = int(both.sum()), int((labelled & ~both).sum())
    if not count:
        return Agreement(None, None, None, None, count, unscored)
    found = agreement(ours.tolist(), theirs.tolist())
    numbers = (None if each is None else round(each, 6) for each in (found.kappa, found.low, found.high))
    return Agreement(*numbers, round(found.agreed, 6), count, unscored)


def findings_of(metric: str, labels: Labels, found: Agreement) -> list[str]:
    """Why a judge is not to be believed by a metric; nothing where it is, or where nothing is asked for.

    Args:
        metric: The metric.
        labels: What is asked for.
        found: How far the judge agrees.
    """
    if labels.min_kappa is None:
        return []
    if found.unscored:
        return [
            f"{found.unscored} rows that people have labelled have no score by {metric}, so that nobody knows how far the judge agrees with "
            "them. Look why they have none."
        ]
    if found.rows < _FEWEST_FOR_MINIMUM:
        return [
            f"People have labelled {found.rows} rows for {metric}, and at least {_FEWEST_FOR_MINIMUM} are needed to ask for a min_kappa. "
            "Label more, or leave min_kappa out."
        ]
    if found.low is not None and found.low >= labels.min_kappa:
        return []
    said = (
        f"kappa is {found.kappa:.3g}, {found.low:.3g} to {found.high:.3g}"
        if found.kappa is not None
        else "kappa is not defined"
    )
    return [
        f"The judge does not agree enough with people by {metric}: {said}, on {found.rows} rows, and the lower end must be at least "
        f"{labels.min_kappa:g}. Take another judge or question, or label more rows."
    ]


def _classes(values: np.ndarray, labels: Labels) -> np.ndarray:
    return np.round(values, 6) if labels.threshold is None else values >= labels.threshold


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def is_number(value: Any) -> bool:
    """Whether a setting or label is a finite number.

    Args:
        value: Anything.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
