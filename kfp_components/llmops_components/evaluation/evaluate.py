"""Evaluate a model: answer every prompt, score the answers, compare them with another model's."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.comparison import Comparison
from llmops_components.data.content import with_text_content
from llmops_components.data.files import read_rows
from llmops_components.data.rendering import loss_finding, losses
from llmops_components.data.valid_rows import read_valid_rows
from llmops_components.errors import DataError, SettingError, named
from llmops_components.evaluation.judge.judging import Judging
from llmops_components.evaluation.judge.memory import Memory, digest
from llmops_components.evaluation.judge.settings import JudgeSettings
from llmops_components.evaluation.scored import NO_NUMBER, Given, Scored, score_rows, shown_answer
from llmops_components.moved import old_names
from llmops_components.results import StepReport

if TYPE_CHECKING:
    from llmops_components.evaluation.comparing import Parts
    from llmops_components.evaluation.facts import Facts, ServiceFacts
    from llmops_components.evaluation.metrics.plan import Plan
    from llmops_components.evaluation.statistics import Estimate, Scores

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
    metric_args: Mapping[str, Any] | None = None,
    judge: Mapping[str, Any] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    composites: Mapping[str, Mapping[str, float]] | None = None,
    slices: Sequence[str] | None = None,
    slice_metrics: Sequence[str] | None = None,
) -> StepReport:
    """Answer every evaluation prompt and score the answers against the references.

    Args:
        model: Directory of the model, weights as safetensors.
        dataset: Rows with a ``prompt`` and what else the metrics need, which is a ``reference`` for most.
        scores: Output file, one JSON line a sample: row number, prompt, reference, answer, tokens, finish reason,
            every score, and as ``unscored`` by metric why there is none.
        report: Output file, an HTML page without external parts.
        metric_names: Names from ``llmops_components.evaluation.metrics.registry.METRICS`` or ``metric_args``, and functions of
            allowed packages as ``module:function``; all that look at answer and reference alone by default. The first orders the
            samples in the report.
        baseline_scores: The ``scores`` of another model on the same rows. Its answers are scored again, so that
            both models are measured in the same way.
        generation_args: Arguments of ``transformers.GenerationConfig``; greedy with 64 new tokens by default.
        batch_size: Prompts answered together.
        embedding_model: Directory or ``package://name`` of the model behind ``semantic_similarity``, and behind metrics that a
            judge without embeddings scores.
        reward_model: Directory of the model behind ``reward``.
        metric_args: Arguments of metrics, see :func:`~llmops_components.evaluation.metrics.arguments.check_arguments`.
        judge: Who judges, see :class:`~llmops_components.evaluation.judge.settings.JudgeSettings`. Its API key comes from the
            environment variable ``LLMOPS_JUDGE_KEY``, or from the file that ``LLMOPS_JUDGE_KEY_FILE`` names.
        checkpoints: Directory that outlives the step, where the judge's answers are kept: an evaluation that was killed asks no
            question twice. Left out, the variable ``LLMOPS_CHECKPOINTS`` may name one.
        composites: Weighted sums of metrics row by row, such as ``{"quality": {"rougeL": 0.5, "chrf": 0.005}}``: each is a metric like the
            others, and higher is better. A row that lacks one of its parts has no score.
        slices: Names of columns: each value's rows are compared for themselves. Numbers of many kinds are cut in quarters, as is
            ``prompt_length``, the characters of the prompt, which needs no column. Small slices are put together where the result has no
            room for them, and named in a finding.
        slice_metrics: Metrics to compare in slices; the first by default.

    Returns:
        Metrics: each metric's aggregate by name, ``tokens_per_second`` and ``samples``. The comparison has for each metric
        what model and baseline reach and how they differ; without a baseline what the model reaches. A sample whose score is no
        finite number is ``null`` in ``scores``, left out of the aggregate, counted, and told in a finding.

    Raises:
        DataError: The dataset or the baseline cannot be used, or they hold different rows.
        SettingError: A metric or argument is unknown or not valid.
        ModelError: The model or the embedding model cannot be loaded.
        ServiceGoneError: The judge stopped to answer, and there is a directory to go on from.
    """
    from llmops_components.evaluation.comparing import Parts
    from llmops_components.evaluation.facts import Facts
    from llmops_components.evaluation.metrics.columns import check_columns, columns_of
    from llmops_components.evaluation.metrics.plan import plan_for_columns, plan_metrics
    from llmops_components.models.generation import generate_answers
    from llmops_components.models.loading import load_to_answer

    # Everything that can be wrong with the inputs is found before the long part.
    judges = None if judge is None else JudgeSettings.of(judge)
    plan = plan_metrics(metric_names, embedding_model, reward_model, metric_args=metric_args, judge=judges)
    _check_no_tool_calls(plan)
    rows, found = read_valid_rows(dataset, ("evaluation", "prompt_only"))
    plan = plan_for_columns(plan, columns_of(rows, found.fields), all_of_them=metric_names is not None)
    check_columns(dataset, rows, plan)
    parts = Parts.of(plan, rows, composites, slices, slice_metrics)
    judging = Judging(judges, checkpoints)
    judging.check_labels(plan, rows)
    baseline = read_baseline(baseline_scores, rows)

    clock = Clock()
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
    tokens = sum(answer.tokens for answer in answers)
    facts = Facts(
        architecture=type(network).__name__,
        parameters=parameters,
        tokens=tokens,
        tokens_per_second=tokens / clock.seconds["generate"],
        cut_off=sum(answer.finish_reason == "length" for answer in answers),
    )
    del network, tokenizer  # what scores may need the memory
    return conclude(
        plan,
        rows,
        [
            Answered(Given(answer.text), {"tokens": answer.tokens, "finish_reason": answer.finish_reason})
            for answer in answers
        ],
        baseline,
        scores,
        report,
        facts=facts,
        metrics={"tokens_per_second": facts.tokens_per_second},
        details={"answers_cut_off": facts.cut_off},
        findings=findings,
        judging=judging,
        clock=clock,
        parts=parts,
    )


@dataclass(frozen=True)
class Answered:
    """What was answered to a row.

    Args:
        given: The answer.
        more: What else the scores file says of it.
    """

    given: Given
    more: Mapping[str, Any] = field(default_factory=dict)


def conclude(
    plan: Plan,
    rows: Sequence[Mapping[str, Any]],
    answers: Sequence[Answered],
    baseline: Sequence[Mapping[str, Any]],
    scores: str | os.PathLike[str],
    report: str | os.PathLike[str],
    *,
    facts: Facts | ServiceFacts,
    metrics: Mapping[str, float | int],
    details: Mapping[str, Any],
    findings: Sequence[str | None],
    judging: Judging,
    clock: Clock,
    parts: Parts | None = None,
) -> StepReport:
    """Score answers, compare them with a baseline's, and report.

    Args:
        plan: The metrics.
        rows: The rows.
        answers: What was answered to each.
        baseline: The rows of another evaluation's scores, or none.
        scores: Output file, one JSON line a sample.
        report: Output file, an HTML page.
        facts: What the page says of who answered.
        metrics: What the step says of it.
        details: What else the step says of it.
        findings: What is already found.
        judging: Who judges.
        clock: Times of what went before.
        parts: What is compared besides the metrics; nothing by default.
    """
    from llmops_components.evaluation import statistics
    from llmops_components.evaluation.comparing import Parts, comparison_of
    from llmops_components.evaluation.composites import with_composites
    from llmops_components.evaluation.metrics.scoring import tokenizers_of
    from llmops_components.evaluation.report import render_report
    from llmops_components.evaluation.slices import slices_of

    parts = parts or Parts.of(plan, rows)
    given = [each.given for each in answers] + [_given(row) for row in baseline]
    times = 2 if baseline else 1
    whole = _score(plan, rows, times, given, judging, scores)
    scored = with_composites(whole.scores, parts.composites, parts.metrics)
    texts = [each.text or "" for each in given]
    tokenizers = tokenizers_of(plan, texts, [row.get("reference", "") for row in rows] * times)
    ours = {name: each[: len(rows)] for name, each in scored.items()}
    theirs = {name: each[len(rows) :] for name, each in scored.items() if baseline}
    estimates = {name: statistics.estimate(each) for name, each in ours.items()}
    comparisons = {name: statistics.compare(ours[name], each) for name, each in theirs.items()}
    slices, put_together = slices_of(rows, parts.columns, parts.sliced, ours, theirs)
    comparison = comparison_of(ours, theirs, comparisons, slices)
    clock.lap("score")

    samples = _samples(rows, answers, ours, whole)
    facts = replace(
        facts, skipped=plan.skipped, tokenizers=tokenizers, judge=whole.judge, prompts=whole.prompts
    )
    _write(scores, "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples))
    shown = [shown_answer(row["answer"], row.get("reason")) for row in baseline]
    cards = [{**each, "answer": shown_answer(each["answer"], each.get("reason"))} for each in samples]
    _write(report, render_report(cards, estimates, facts, comparisons, shown, metrics=parts.metrics))

    agreements, disagreements = judging.agreements(rows, ours)
    reached = {name: each for name, each in estimates.items() if each is not None}
    for line in _compared_lines(comparison) if baseline else _scored_lines(reached):
        print(line, flush=True)
    values: dict[str, float | int] = {name: each.value for name, each in reached.items()}
    values |= {"samples": len(rows), **metrics, **_spent(whole)}
    return StepReport(
        metrics={name: round(value, 6) for name, value in values.items()},
        details={
            "skipped_metrics": plan.skipped,
            "tokenizers": tokenizers,
            **details,
            **_unscored_details(whole, len(rows)),
            **({"agreement": agreements} if agreements else {}),
            "seconds": {name: round(seconds, 2) for name, seconds in clock.seconds.items()},
        },
        passed=not disagreements,
        findings=[
            *disagreements,
            *filter(None, findings),
            *put_together,
            *_unscored(ours, "model", whole),
            *_unscored(theirs, "baseline", whole, len(rows)),
        ],
        comparison=comparison,
    )


def _score(
    plan: Plan,
    rows: Sequence[Mapping[str, Any]],
    times: int,
    given: Sequence[Given],
    judging: Judging,
    scores: str | os.PathLike[str],
) -> Scored:
    """Score the answers of one model, or of two after each other."""
    of_each, rows = len(rows), [*rows] * times
    if not plan.asks_judge:
        return score_rows(plan, rows, given, of_each=of_each)
    what = digest([{key: row.get(key) for key in _KEPT} for row in rows])
    with Memory.at(judging.checkpoints, what, Path(scores)) as memory:
        scored = score_rows(plan, rows, given, of_each=of_each, judge=judging.settings, memory=memory)
        if scored.stopped is not None and memory.outlives:
            raise scored.stopped
    return scored


def _given(row: Mapping[str, Any]) -> Given:
    """The answer in a line of a scores file."""
    return Given(row["answer"], row.get("reason"), row.get("tool_calls"), row.get("retrieved_contexts"))


def _samples(
    rows: Sequence[Mapping[str, Any]],
    answers: Sequence[Answered],
    scores: Mapping[str, Scores],
    whole: Scored,
) -> list[dict[str, Any]]:
    """The lines of the scores file."""
    samples = []
    for place, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        given, why = answer.given, whole.reasons_of(place)
        more = {
            "reason": given.reason,
            "tool_calls": given.tool_calls,
            "retrieved_contexts": given.contexts,
            "unscored": why or None,
        }
        samples.append(
            {
                "row": place + 1,
                **{key: row[key] for key in _KEPT if key in row},
                "answer": given.text,
                **answer.more,
                **{name: _number(each.values[place]) for name, each in scores.items()},
                **{name: value for name, value in more.items() if value is not None},
            }
        )
    return samples


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def _spent(scored: Scored) -> dict[str, float | int]:
    """What the judge took, for the step's metrics."""
    if scored.judge is None:
        return {}
    names = ("questions", "prompt_tokens", "completion_tokens", "cost")
    return {f"judge_{name}": scored.judge[name] for name in names if name in scored.judge}


def _unscored_details(scored: Scored, count: int) -> dict[str, Any]:
    """How many of the model's rows have no score, by metric, and what the judge was asked with."""
    missing = {name: sum(place < count for place in found) for name, found in scored.reasons.items()}
    told: dict[str, Any] = {"rows_unscored": {name: rows for name, rows in missing.items() if rows}}
    if scored.judge is not None:
        told["judge"] = {
            **scored.judge,
            "unscored": {name: dict(each) for name, each in scored.kinds.items()},
        }
    return {name: value for name, value in told.items() if value}


def _unscored(scores: Mapping[str, Scores], whose: str, scored: Scored, start: int = 0) -> list[str]:
    """A sentence for each metric that has no score for some rows."""
    found = []
    for name, each in scores.items():
        missing = [number for number, is_there in enumerate(each.are_there, start=1) if not is_there]
        if not missing or name not in scored.reasons:  # a composite lacks what its parts lack
            continue
        first = scored.reasons[name][start + missing[0] - 1]
        found.append(
            f"{name} has no score for {len(missing)} of {len(each.values)} answers of the {whose}: row "
            f"{named(missing)}. "
            f"{'The first: ' if len(missing) > 1 and first != NO_NUMBER else ''}{first}; they are left out of the aggregate."
        )
    return found


def _check_no_tool_calls(plan: Plan) -> None:
    """A model's own text is no call that could be compared."""
    for name, metric in plan.metrics.items():
        if "reference_tool_calls" in metric.takes:
            raise SettingError(
                f"metric_names has {name}, which compares tool calls, and a model that is asked here answers with text. Leave it out, or "
                "deploy the model and evaluate the service."
            )


class Clock:
    """Seconds of what was done, one after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Note how long something took.

        Args:
            name: What was done since the last time.
        """
        now = time.monotonic()
        self.seconds[name], self._last = now - self._last, now


def read_baseline(
    path: str | os.PathLike[str] | None, rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The scores of another evaluation of the same rows.

    Args:
        path: The file; None for no other evaluation.
        rows: The rows.

    Raises:
        DataError: It is of other rows, or no such file.
    """
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
        is_unanswered = "answer" in theirs and theirs["answer"] is None and theirs.get("reason")
        if not isinstance(theirs.get("answer"), str) and not is_unanswered:
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
            f"{name:<20}{each.baseline.value:>9.3f}{each.candidate.value:>9.3f}{value:>+9.3f}  {low:+.3f} to {high:+.3f}"
        )
    return lines


def _write(path: str | os.PathLike[str], text: str) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
