"""Evaluate a model: answer every prompt, score the answers, compare them with another model's."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.comparison import SCHEMA_VERSION, Comparison
from llmops_components.data.content import with_text_content
from llmops_components.data.files import read_rows
from llmops_components.data.rendering import loss_finding, losses
from llmops_components.data.valid_rows import read_valid_rows
from llmops_components.errors import DataError
from llmops_components.moved import old_names
from llmops_components.results import StepReport

if TYPE_CHECKING:
    from llmops_components.evaluation.statistics import Estimate, Scores
    from llmops_components.models.generation import Answer

_ROWS_NAMED = 5
_KEPT = ("prompt", "reference")  # the latter where a metric needs it


@old_names(metrics="metric_names")
def evaluate_model(
    model: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    scores: str | os.PathLike[str],
    report: str | os.PathLike[str],
    *,
    metric_names: Sequence[str] | None = None,
    baseline_scores: str | os.PathLike[str] | None = None,
    generation_args: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    embedding_model: str | None = None,
    reward_model: str | os.PathLike[str] | None = None,
) -> StepReport:
    """Answer every evaluation prompt and score the answers against the references.

    Args:
        model: Directory of the model, weights as safetensors.
        dataset: Rows with a ``prompt`` and what else the metrics need, which is a ``reference`` for all but ``reward``.
        scores: Output file, one JSON line a sample: row number, prompt, reference, answer, tokens, finish reason
            and every score.
        report: Output file, an HTML page without external parts.
        metric_names: Names from ``llmops_components.evaluation.metrics.registry.METRICS``; all of them by default. The first
            orders the samples in the report.
        baseline_scores: The ``scores`` of another model on the same rows. Its answers are scored again, so that
            both models are measured in the same way.
        generation_args: Arguments of ``transformers.GenerationConfig``; greedy with 64 new tokens by default.
        batch_size: Prompts answered together.
        embedding_model: Directory or ``package://name`` of the model behind ``semantic_similarity``.
        reward_model: Directory of the model behind ``reward``.

    Returns:
        Metrics: each metric's aggregate by name, ``tokens_per_second`` and ``samples``. The comparison has for each metric
        what model and baseline reach and how they differ; without a baseline it has no metrics. A sample whose score is no
        finite number is ``null`` in ``scores``, left out of the aggregate, counted, and told in a finding.

    Raises:
        DataError: The dataset or the baseline cannot be used, or they hold different rows.
        SettingError: A metric or argument is unknown or not valid.
        ModelError: The model or the embedding model cannot be loaded.
    """
    from llmops_components.evaluation import statistics
    from llmops_components.evaluation.metrics.plan import plan_for_columns, plan_metrics
    from llmops_components.evaluation.metrics.scoring import score_answers, tokenizers_of
    from llmops_components.evaluation.report import Facts, render_report
    from llmops_components.models.generation import generate_answers
    from llmops_components.models.loading import load_to_answer

    # Everything that can be wrong with the inputs is found before the long part.
    plan = plan_metrics(metric_names, embedding_model, reward_model)
    rows, found = read_valid_rows(dataset, ("evaluation", "prompt_only"))
    plan = plan_for_columns(plan, found.fields, all_of_them=metric_names is not None)
    baseline = _read_baseline(baseline_scores, rows)

    clock = _Clock()
    network, tokenizer = load_to_answer(model)
    parameters = network.num_parameters()
    print(f"loaded {parameters / 1e6:,.0f}M parameters, {network.dtype} on {network.device}", flush=True)
    clock.lap("load")
    answers = generate_answers(
        network,
        tokenizer,
        rows,
        generation_args=generation_args,
        batch_size=batch_size,
    )
    clock.lap("generate")

    findings = []
    if found.conversational:
        named = ((f"row {number}", row) for number, row in enumerate(rows, start=1))
        findings = [loss_finding(losses(tokenizer, named, found), len(rows))]
    texts = [answer.text for answer in answers] + [row["answer"] for row in baseline]
    times = 2 if baseline else 1
    references, prompts = ([row.get(key, "") for row in rows] * times for key in ("reference", "prompt"))
    scored = score_answers(plan, texts, references, prompts)
    tokenizers = tokenizers_of(plan, texts, references)
    ours = {name: each[: len(rows)] for name, each in scored.items()}
    theirs = {name: each[len(rows) :] for name, each in scored.items() if baseline}
    estimates = {name: statistics.estimate(each) for name, each in ours.items()}
    comparisons = {name: statistics.compare(ours[name], each) for name, each in theirs.items()}
    clock.lap("score")

    samples = _samples(rows, answers, ours)
    tokens = sum(answer.tokens for answer in answers)
    facts = Facts(
        architecture=type(network).__name__,
        parameters=parameters,
        tokens=tokens,
        tokens_per_second=tokens / clock.seconds["generate"],
        cut_off=sum(answer.finish_reason == "length" for answer in answers),
        skipped=plan.skipped,
        tokenizers=tokenizers,
    )
    _write(scores, "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples))
    _write(report, render_report(samples, estimates, facts, comparisons, [row["answer"] for row in baseline]))

    comparison = Comparison(
        schema_version=SCHEMA_VERSION,
        confidence=statistics.CONFIDENCE,
        metrics={name: each.record() for name, each in comparisons.items()},
    )
    reached = {name: each for name, each in estimates.items() if each is not None}
    for line in _compared_lines(comparison) if baseline else _scored_lines(reached):
        print(line, flush=True)
    values: dict[str, float | int] = {name: each.value for name, each in reached.items()}
    values |= {"samples": len(rows), "tokens_per_second": facts.tokens_per_second}
    return StepReport(
        metrics={name: round(value, 6) for name, value in values.items()},
        details={
            "intervals": {name: [round(e.low, 6), round(e.high, 6)] for name, e in reached.items()},
            "skipped_metrics": plan.skipped,
            "tokenizers": tokenizers,
            "answers_cut_off": facts.cut_off,
            "seconds": {name: round(seconds, 2) for name, seconds in clock.seconds.items()},
        },
        findings=[*filter(None, findings), *_unscored(ours, "model"), *_unscored(theirs, "baseline")],
        comparison=comparison,
    )


def _samples(
    rows: Sequence[Mapping[str, Any]], answers: Sequence[Answer], scores: Mapping[str, Scores]
) -> list[dict[str, Any]]:
    """The lines of the scores file."""
    return [
        {
            "row": number,
            **{key: row[key] for key in _KEPT if key in row},
            "answer": answer.text,
            "tokens": answer.tokens,
            "finish_reason": answer.finish_reason,
            **{name: _score(each.values[number - 1]) for name, each in scores.items()},
        }
        for number, (row, answer) in enumerate(zip(rows, answers, strict=True), start=1)
    ]


def _score(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def _unscored(scores: Mapping[str, Scores], whose: str) -> list[str]:
    """A sentence for each metric that has no score for some rows."""
    return [
        f"{name} has no score for {len(missing)} of {len(each.values)} answers of the {whose}: row "
        f"{', '.join(map(str, missing[:_ROWS_NAMED]))}{' and others' if len(missing) > _ROWS_NAMED else ''}. What scores them "
        "gave no finite number; they are left out of the aggregate."
        for name, each in scores.items()
        if (missing := [number for number, scored in enumerate(each.are_there, start=1) if not scored])
    ]


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name], self._last = now - self._last, now


def _read_baseline(
    path: str | os.PathLike[str] | None, rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    if path is None:
        return []
    baseline = read_rows(path)
    again = "Evaluate both models on the same dataset."
    if len(baseline) != len(rows):
        raise DataError(
            f"Baseline {os.fspath(path)} has {len(baseline)} rows, the dataset {len(rows)}. {again}"
        )
    for number, (theirs, row) in enumerate(zip(baseline, rows, strict=True), start=1):
        if isinstance(theirs.get("prompt"), list):  # an earlier release wrote parts as they came
            theirs["prompt"] = with_text_content(theirs["prompt"])
        if not isinstance(theirs.get("answer"), str):
            raise DataError(
                f"Baseline {os.fspath(path)}, row {number}: it has no answer. Pass the scores of an evaluation."
            )
        if different := [key for key in _KEPT if theirs.get(key) != row.get(key)]:
            raise DataError(
                f"Baseline {os.fspath(path)}, row {number}: its {' and '.join(different)} differ from the dataset's. "
                f"{again}"
            )
    return baseline


def _scored_lines(reached: Mapping[str, Estimate]) -> list[str]:
    return [f"{name:<20}{each.value:>9.3f}" for name, each in reached.items()]


def _compared_lines(comparison: Comparison) -> list[str]:
    lines = [f"{'':<20}{'baseline':>9}{'model':>9}{'change':>9}  95% interval"]
    for name, each in comparison.metrics.items():
        if each.difference is None:
            lines.append(f"{name:<20} no row has a score")
            continue
        value, low, high = each.difference.value, each.difference.low, each.difference.high
        lines.append(
            f"{name:<20}{each.baseline:>9.3f}{each.candidate:>9.3f}{value:>+9.3f}  {low:+.3f} to {high:+.3f}"
        )
    return lines


def _write(path: str | os.PathLike[str], text: str) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
