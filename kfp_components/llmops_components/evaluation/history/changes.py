"""How an evaluation differs from an earlier one of the same rows, by the scores that both have: nothing is asked, answered or judged again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llmops_components.comparison import Bounded, Comparison, MetricComparison
from llmops_components.errors import DataError
from llmops_components.evaluation.composites import limits_of
from llmops_components.evaluation.metrics.plan import plan_metrics
from llmops_components.evaluation.metrics.registry import METRICS
from llmops_components.evaluation.metrics.scoring import score_answers
from llmops_components.evaluation.scored import spread
from llmops_components.evaluation.statistics import Scores, compare, record

Lines = Sequence[Mapping[str, Any]]
_CORPUS = "bleu"  # of all texts together, and no mean of the rows' scores
_SLACK = 2e-5  # numbers are rounded to six decimals


def alone(metric: MetricComparison) -> MetricComparison:
    """What a model reaches by a metric, without what it was compared with.

    Args:
        metric: Of an evaluation.
    """
    return metric.model_copy(update={"baseline": None, "difference": None, "pairs_scored": 0})


def check_scores(lines: Lines, metrics: Mapping[str, MetricComparison]) -> None:
    """Raise :class:`DataError` unless the lines of a scores file are those of a comparison.

    Args:
        lines: The lines.
        metrics: The metrics of the comparison.
    """
    again = "Give scores and comparison of one evaluation."
    for name, metric in metrics.items():
        if any(name not in line for line in lines):
            raise DataError(f"The scores have no {name}, and the comparison does. {again}")
        there, missing = (
            sum((line[name] is None) == is_missing for line in lines) for is_missing in (False, True)
        )
        if (there, missing) != (metric.rows_scored, metric.rows_unscored):
            raise DataError(
                f"The scores have {there} rows with {name} and {missing} without, the comparison {metric.rows_scored} and "
                f"{metric.rows_unscored}. {again}"
            )


def compare_scores(
    told: Comparison, lines: Lines, baseline: Mapping[str, MetricComparison], baseline_lines: Lines
) -> tuple[Comparison, list[str]]:
    """A comparison with an earlier evaluation's scores of the same rows.

    Of a composite and of a metric of one's own nobody knows the limits here: where few rows differ, it has no bounds, and rules on them stay
    undecided.

    Args:
        told: The comparison of the evaluation, of which what the model reaches is taken.
        lines: Its scores.
        baseline: What the earlier one has reached, by metric.
        baseline_lines: Its scores.

    Returns:
        The comparison, and a sentence for each metric that cannot be compared by its scores.
    """
    found, findings = {}, []
    for name, metric in told.metrics.items():
        pair = _scores_of(name, metric.higher_is_better, lines, baseline_lines)
        aggregates = [metric.candidate, baseline[name].candidate]
        if not all(_is_of(each, known) for each, known in zip(pair, aggregates, strict=True)):
            findings.append(
                f"{name} is no mean of its rows' scores, and is not compared with the evaluation before: a rule on that stays undecided."
            )
            found[name] = alone(metric)
            continue
        paired = record(*pair, compare(*pair))
        values = {key: getattr(paired, key) for key in ("baseline", "difference", "pairs_scored")}
        found[name] = MetricComparison(**{**dict(metric), **values})
    return told.model_copy(update={"has_baseline": True, "metrics": found}), findings


def _scores_of(name: str, higher_is_better: bool, *models: Lines) -> list[Scores]:
    """Scores of each model by a metric."""
    if name == _CORPUS:
        return _of_texts(models)
    limits = limits_of(METRICS[name]) if name in METRICS else None
    return [
        Scores.mean_of(
            np.array([math.nan if line[name] is None else line[name] for line in lines], dtype=float),
            limits,
            higher_is_better=higher_is_better,
        )
        for lines in models
    ]


def _of_texts(models: Sequence[Lines]) -> list[Scores]:
    """Corpus BLEU from the texts, of all models at once, as an evaluation has it."""
    lines = [line for each in models for line in each]
    places = [place for place, line in enumerate(lines) if line["answer"] is not None]
    answers, references = ([lines[place].get(key, "") for place in places] for key in ("answer", "reference"))
    part = score_answers(plan_metrics([_CORPUS]), answers, references)[_CORPUS]
    whole = replace(spread(part, places, len(lines)), limits=limits_of(METRICS[_CORPUS]))
    ends = np.cumsum([len(each) for each in models])
    return [whole[int(end) - len(each) : int(end)] for end, each in zip(ends, models, strict=True)]


def _is_of(scores: Scores, known: Bounded | None) -> bool:
    """Whether these are the scores of an aggregate that is known."""
    there = scores[scores.are_there]
    if known is None or not len(there.values):
        return known is None and not len(there.values)
    return math.isclose(there.aggregate, known.value, rel_tol=_SLACK, abs_tol=_SLACK)
