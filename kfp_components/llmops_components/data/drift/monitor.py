"""Compare new rows with a reference, and say whether they have drifted."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from llmops_components.data.drift.checks import (
    Check,
    category_check,
    classifier_check,
    embedding_check,
    length_check,
    vocabulary_check,
)
from llmops_components.data.drift.page import render_drift
from llmops_components.data.drift.rows import ABSENT, Rows, read
from llmops_components.data.files import no_rows, write_output
from llmops_components.errors import SettingError, check_known, check_whole_number
from llmops_components.results import StepReport

if TYPE_CHECKING:
    import numpy as np

Outcome = Literal["pass", "warn", "fail", "undecided"]
Embed = Callable[[Sequence[str]], "np.ndarray"]
# From which effect on a difference is told, and from which it is too large.
THRESHOLDS: dict[str, tuple[float, float]] = {
    "columns": (0.1, 0.2),
    "length": (0.1, 0.2),
    "category": (0.1, 0.2),
    "vocabulary": (0.1, 0.2),
    "classifier": (0.2, 0.4),
    "embedding": (0.2, 0.4),
}
ALPHA = 0.05
ON_DRIFT = ("fail", "report")
_ORDER: tuple[Outcome, ...] = ("fail", "warn", "undecided", "pass")
_LEAST_ROWS = 50
_MOST_SAMPLED = 50_000


def monitor_data(
    dataset: str | os.PathLike[str],
    reference: str | os.PathLike[str],
    drift: str | os.PathLike[str],
    *,
    drift_json: str | os.PathLike[str] | None = None,
    categories: Sequence[str] = (),
    thresholds: Mapping[str, Mapping[str, float]] | None = None,
    min_rows: int = 200,
    sample_rows: int = 2000,
    embed: Embed | None = None,
    on_drift: str = "fail",
    seed: int = 0,
) -> StepReport:
    """Compare new rows with a reference.

    A check *fails* or *warns* where its effect reaches a threshold and its p-value, corrected for the number of checks (Benjamini and Hochberg),
    says that it is no chance. One that reaches the threshold to fail and may be chance is *undecided*, and so is one with too few rows. The
    worst of them is the outcome: ``fail``, ``warn``, ``undecided``, ``pass``.

    Args:
        dataset: File of new rows.
        reference: File of rows that they are compared with.
        drift: Where what was found is written as Markdown.
        drift_json: The same as JSON.
        categories: Columns whose values are compared as categories.
        thresholds: By kind of check ``warn`` and ``fail``, effects from 0 to 1.
        min_rows: Rows that each side has to have for a check, 50 or more.
        sample_rows: Rows of each side whose words and embeddings are compared, at most 50,000.
        embed: Makes one vector of each text; None for no comparison of embeddings.
        on_drift: ``fail``, or ``report`` for a step that is passed whatever was found.
        seed: Chooses the sample.

    Returns:
        The effect of each check as metrics. It is passed where the outcome is ``pass`` or ``warn``, or drift is only reported.

    Raises:
        DataError: A file cannot be read, has a line that is no row, or has no rows.
        SettingError: A setting is not valid.
    """
    if on_drift not in ON_DRIFT:
        raise SettingError(f"on_drift is {on_drift!r:.40}; it is one of {', '.join(ON_DRIFT)}.")
    limits = _limits(thresholds)
    check_whole_number("min_rows", min_rows, _LEAST_ROWS, 1 << 40)
    check_whole_number("sample_rows", sample_rows, min_rows, _MOST_SAMPLED)
    names = _names(categories)
    old, new = (read(path, names, sample_rows, seed) for path in (reference, dataset))
    for rows, path in ((old, reference), (new, dataset)):
        if not rows.rows:
            raise no_rows(path)
    _refuse_missing(names, old, new)
    checks = _checks(old, new, names, min_rows, embed, seed)
    found = _judged(checks, limits)
    outcome = min((each["outcome"] for each in found), key=_ORDER.index)
    told = {
        "outcome": outcome,
        "rows": {"reference": old.rows, "new": new.rows},
        "min_rows": min_rows,
        "checks": found,
    }
    write_output(drift, render_drift(told))
    if drift_json is not None:
        write_output(drift_json, json.dumps(told, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    return StepReport(
        metrics={each["name"]: each["effect"] for each in found if each["effect"] is not None},
        details={
            "outcome": outcome,
            "checks": {each["name"]: each["outcome"] for each in found[:100]},
            "rows": told["rows"],
        },
        passed=outcome in ("pass", "warn") or on_drift == "report",
        findings=[each["finding"] for each in found if each["outcome"] != "pass"],
    )


def _names(categories: Sequence[str]) -> list[str]:
    if isinstance(categories, str) or not all(isinstance(each, str) and each for each in categories):
        raise SettingError(
            f"categories must be a list of names of columns, got {categories!r:.80}. Write ['label']."
        )
    return list(dict.fromkeys(categories))


def _refuse_missing(names: Sequence[str], old: Rows, new: Rows) -> None:
    for name in names:
        if not any(side.categories[name].keys() - {ABSENT} for side in (old, new)):
            raise SettingError(
                f"categories: no row has a column {name!r}. Columns are {', '.join(sorted(old.present)[:20])}."
            )


def _limits(given: Mapping[str, Mapping[str, float]] | None) -> dict[str, tuple[float, float]]:
    given = given or {}
    check_known(given, THRESHOLDS, "check in thresholds")
    limits = dict(THRESHOLDS)
    for kind, values in given.items():
        if not isinstance(values, Mapping):
            raise SettingError(
                f"thresholds: {kind} must be an object with warn and fail, got {values!r:.60}."
            )
        check_known(values, ("warn", "fail"), f"threshold of {kind}")
        warn, fail = (values.get(name, limits[kind][i]) for i, name in enumerate(("warn", "fail")))
        for value in (warn, fail):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
                raise SettingError(
                    f"thresholds: {kind} has {value!r:.40}, which is no number above 0 and up to 1."
                )
        if warn > fail:
            raise SettingError(f"thresholds: {kind} warns from {warn} on and fails from {fail} on already.")
        limits[kind] = (warn, fail)
    return limits


def _checks(
    old: Rows, new: Rows, names: Sequence[str], least: int, embed: Embed | None, seed: int
) -> list[Check]:
    checks = []
    for column in sorted({*old.present, *new.present} - {*names}):
        sides = [
            {"there": rows.present[column], "missing": rows.rows - rows.present[column]}
            for rows in (old, new)
        ]
        if any(side["missing"] for side in sides):
            checks.append(category_check("columns", column, *sides, least))
    for column in sorted({*old.lengths} & {*new.lengths}):
        checks.append(length_check(column, old.lengths[column], new.lengths[column], least))
    for column in names:
        checks.append(
            category_check("category", column, old.categories[column], new.categories[column], least)
        )
    if old.lengths or new.lengths:
        checks.append(vocabulary_check(old.texts, new.texts, least))
        checks.append(classifier_check(old.texts, new.texts, least, seed))
        if embed is not None:
            checks.append(embedding_check(old.texts, new.texts, least, seed, embed))
    return checks


def _judged(checks: Sequence[Check], limits: Mapping[str, tuple[float, float]]) -> list[dict[str, Any]]:
    from scipy.stats import false_discovery_control

    tested = [each.p_value for each in checks if each.p_value is not None]
    adjusted = iter(false_discovery_control(tested, method="bh").tolist() if tested else ())
    return [
        _told(each, None if each.p_value is None else next(adjusted), *limits[each.kind]) for each in checks
    ]


def _told(check: Check, p_value: float | None, warn: float, fail: float) -> dict[str, Any]:
    outcome: Outcome = "pass"
    effect = None if check.effect is None else round(check.effect, 6)  # what is told is what decides
    if effect is None or p_value is None:
        outcome = "undecided"
    elif p_value < ALPHA and effect >= warn:
        outcome = "fail" if effect >= fail else "warn"
    elif effect >= fail:
        outcome = "undecided"
    name = check.kind if check.column is None else f"{check.kind}_{check.column}"
    told = {
        "name": name,
        "kind": check.kind,
        "column": check.column,
        "outcome": outcome,
        "effect": effect,
        "warn": warn,
        "fail": fail,
        "p_value": _significant(check.p_value),
        "adjusted_p_value": _significant(p_value),
        "rows": {"reference": check.rows[0], "new": check.rows[1]},
        "details": check.details,
    }
    return {**told, "finding": _finding(told)}


def _finding(told: Mapping[str, Any]) -> str:
    what = told["kind"] if told["column"] is None else f"{told['kind']} of {told['column']!r:.80}"
    rows = f"{told['rows']['reference']} rows of the reference and {told['rows']['new']} new ones"
    if told["effect"] is None:
        return f"Too few rows to compare {what}: {rows}."
    level = told["fail"] if told["outcome"] in ("fail", "undecided") else told["warn"]
    return (
        f"The {what} has the effect {told['effect']:.3f} against a threshold of {level:g}, with an adjusted p-value of "
        f"{told['adjusted_p_value']:.2g}, from {rows}: {told['outcome']}."
    )


def _significant(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}") if math.isfinite(value) else 1.0
