"""What follows from answers, whoever gave them: scores, the comparison with another model's, the page, and what the step says."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmops_components.comparison import Comparison
from llmops_components.data.files import write_output
from llmops_components.errors import SettingError, named
from llmops_components.evaluation import likelihoods
from llmops_components.evaluation.clock import Clock
from llmops_components.evaluation.further import FurtherModel, GivenModel
from llmops_components.evaluation.judge.judging import Judging
from llmops_components.evaluation.judge.memory import Memory, digest
from llmops_components.evaluation.scored import NO_NUMBER, Given, Scored, score_rows
from llmops_components.evaluation.scores_file import KEPT
from llmops_components.redaction import redacted
from llmops_components.results import StepReport

if TYPE_CHECKING:
    from llmops_components.evaluation.about import About
    from llmops_components.evaluation.comparing import Parts
    from llmops_components.evaluation.facts import Facts, ServiceFacts
    from llmops_components.evaluation.metrics.plan import Plan
    from llmops_components.evaluation.statistics import Estimate, Scores


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
    about: About | None = None,
    further: Sequence[GivenModel] = (),
    report_json: str | os.PathLike[str] | None = None,
    report_markdown: str | os.PathLike[str] | None = None,
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
        about: What was evaluated, for the page, and where it is kept in MLflow; None for a page alone.
        further: Further models, which the page shows, and which are in no comparison that a gate reads.
        report_json: Output file, the page's figures as JSON; None for none.
        report_markdown: Output file, the page as Markdown; None for none.
    """
    from llmops_components.evaluation import statistics
    from llmops_components.evaluation.about import About
    from llmops_components.evaluation.comparing import Parts, comparison_of
    from llmops_components.evaluation.composites import with_composites
    from llmops_components.evaluation.metrics.scoring import tokenizers_of
    from llmops_components.evaluation.report.content import CATEGORY, Content
    from llmops_components.evaluation.report.written import write_report
    from llmops_components.evaluation.slices import labels_of, slices_of
    from llmops_components.tracking.evaluation import EvaluationRun, log_evaluation

    parts = parts or Parts.of(plan, rows)
    given = [each.given for each in answers] + [_given(row) for row in baseline]
    together = len(given)
    given += [_given(row) for each in further for row in each.answers]
    times = len(given) // len(rows)
    whole = _score(plan, rows, times, given, judging, scores, together)
    scored = with_composites(whole.scores, parts.composites, parts.metrics)
    texts = [each.text or "" for each in given]
    tokenizers = tokenizers_of(plan, texts, [row.get("reference", "") for row in rows] * times)
    ours = {name: each[: len(rows)] for name, each in scored.items()}
    theirs = {name: each[len(rows) : together] for name, each in scored.items() if baseline}
    estimates = {name: statistics.estimate(each) for name, each in ours.items()}
    comparisons = {name: statistics.compare(ours[name], each) for name, each in theirs.items()}
    slices, put_together = slices_of(rows, parts.columns, parts.sliced, ours, theirs)
    comparison = comparison_of(ours, theirs, comparisons, slices)
    by_itself = [name for name in scored if not _is_pairwise(name, parts)]
    beside = [
        FurtherModel.of(each, {name: scored[name][start : start + len(rows)] for name in by_itself}, ours)
        for each, start in zip(further, range(together, len(given), len(rows)), strict=True)
    ]
    clock.lap("score")

    samples = _samples(rows, answers, ours, whole)
    facts = replace(
        facts, skipped=plan.skipped, tokenizers=tokenizers, judge=whole.judge, prompts=whole.prompts
    )
    write_output(scores, "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples))
    agreements, disagreements = judging.agreements(rows, ours)
    reached = {name: each for name, each in estimates.items() if each is not None}
    for line in [
        *(_compared_lines(comparison) if baseline else _scored_lines(reached)),
        *_further_lines(beside),
    ]:
        print(line, flush=True)
    values: dict[str, float | int] = {name: each.value for name, each in reached.items()}
    values |= {"samples": len(rows), **metrics, **_spent(whole)}
    values = {name: round(value, 6) for name, value in values.items()}
    found = [
        *disagreements,
        *filter(None, findings),
        *put_together,
        *_places(whole, ours),
        *_unscored(ours, "model", whole),
        *_unscored(theirs, "baseline", whole, len(rows)),
    ]
    for each, start in zip(beside, range(together, len(given), len(rows)), strict=True):
        found += each.given.findings()
        found += _unscored(
            each.scores, f"further model {each.name!r}", whole, start, without=each.given.lacking
        )
    content = Content(
        samples=samples,
        ours=ours,
        comparison=comparison,
        facts=facts,
        about=about or About(component="evaluation"),
        compared=comparisons,
        theirs=theirs,
        baseline=baseline,
        further=beside,
        metrics=parts.metrics,
        labels=labels_of(rows, parts.columns, [CATEGORY]),
        took={**metrics, **_spent(whole)},
        seconds=clock.seconds,
        findings=redacted(found),
    )
    write_report(content, report, report_json, report_markdown)
    logged: dict[str, Any] = {}
    if about is not None:
        files = {"evaluation.html": report, "evaluation.json": report_json, "evaluation.md": report_markdown}
        run = EvaluationRun(
            component=about.component,
            identity={**about.identity, "metrics": list(ours), "judge": judging.settings},
            params={**about.identity, "judge": whole.judge and whole.judge["settings"]},
            metrics=values,
            comparison=comparison,
            files={name: Path(path) for name, path in files.items() if path is not None},
            model_digest=about.model_digest,
            dataset_digest=about.dataset_digest,
        )
        logged["tracking"], not_logged = log_evaluation(about.tracking, run)
        found += [not_logged] if not_logged else []
    return StepReport(
        metrics=values,
        details={
            "skipped_metrics": plan.skipped,
            "tokenizers": tokenizers,
            **details,
            **_unscored_details(whole, len(rows)),
            **({"agreement": agreements} if agreements else {}),
            **({"further_models": {each.name: each.given.told() for each in beside}} if beside else {}),
            **logged,
            "seconds": {name: round(seconds, 2) for name, seconds in clock.seconds.items()},
        },
        passed=not disagreements,
        findings=found,
        comparison=comparison,
    )


def _score(
    plan: Plan,
    rows: Sequence[Mapping[str, Any]],
    times: int,
    given: Sequence[Given],
    judging: Judging,
    scores: str | os.PathLike[str],
    together: int,
) -> Scored:
    """Score the answers of models after each other."""
    of_each, rows = len(rows), [*rows] * times
    if not plan.asks_judge:
        return score_rows(plan, rows, given, of_each=of_each, together=together)
    what = digest([{key: row.get(key) for key in KEPT} for row in rows])
    with Memory.at(judging.checkpoints, what, Path(scores)) as memory:
        scored = score_rows(
            plan, rows, given, of_each=of_each, together=together, judge=judging.settings, memory=memory
        )
        if scored.stopped is not None and memory.outlives:
            raise scored.stopped
    return scored


def _given(row: Mapping[str, Any]) -> Given:
    """The answer in a line of a scores file."""
    return Given(
        row["answer"],
        row.get("reason"),
        row.get("tool_calls"),
        row.get("retrieved_contexts"),
        likelihoods.read(row),
    )


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
                **{key: row[key] for key in KEPT if key in row},
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


def _unscored(
    scores: Mapping[str, Scores], whose: str, scored: Scored, start: int = 0, without: Sequence[int] = ()
) -> list[str]:
    """A sentence for each metric that has no score for some rows, but for those that are told of already."""
    found, known = [], set(without)
    for name, each in scores.items():
        missing = [number for number in (np.flatnonzero(~each.are_there) + 1).tolist() if number not in known]
        if not missing or name not in scored.reasons:  # a composite lacks what its parts lack
            continue
        first = scored.reasons[name][start + missing[0] - 1]
        found.append(
            f"{name} has no score for {len(missing)} of {len(each.values) - len(known)} answers of the {whose}: row "
            f"{named(missing)}. "
            f"{'The first: ' if len(missing) > 1 and first != NO_NUMBER else ''}{first}; they are left out of the aggregate."
        )
    return found


def _places(scored: Scored, ours: Mapping[str, Scores]) -> list[str]:
    """A sentence for each pairwise metric: who won, and what the answers' places did to it."""
    found = []
    for name, each in ((scored.judge or {}).get("places") or {}).items():
        values = ours[name].values
        wins, ties, losses = (int((values == value).sum()) for value in (1.0, 0.5, 0.0))
        line = (
            f"{name}: the judge prefers the model's answer in {wins} of {len(values)} rows and the baseline's in {losses}; {ties} are ties. It "
            f"was asked about {each['pairs_asked']} pairs, and with the answers' places changed its verdict on {each['position_dependent']} of "
            "them, which are ties"
        )
        first = each["first_preferred"]
        found.append(
            line
            + (f"; {first:.0%} of its verdicts for one were for the first." if first is not None else ".")
        )
    return found


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


def _further_lines(further: Sequence[FurtherModel]) -> list[str]:
    lines = [f"{'further model':<40}{'score':>9}{'model minus it':>16}"] if further else []
    for model in further:
        for name, each in model.reached.items():
            own, change = each.candidate, model.compared[name].difference
            figures = "  not scored" if own is None else f"{own.value:>9.3f}"
            lines.append(
                f"{model.name + ', ' + name:<40}{figures}{'' if change is None else f'{change.value:>+16.3f}'}"
            )
    return lines


def _is_pairwise(name: str, parts: Parts) -> bool:
    """Whether a metric, or a part of a composite, is of the answers of model and baseline together."""
    return any(parts.metrics[each].is_pairwise for each in (name, *parts.composites.get(name, ())))


def check_has_baseline(plan: Plan, baseline: Sequence[Mapping[str, Any]]) -> None:
    """Raise :class:`SettingError` for a metric that compares with another model's answers where there are none.

    Args:
        plan: The metrics.
        baseline: The rows of another evaluation's scores, or none.
    """
    pairwise = [name for name, metric in plan.metrics.items() if metric.is_pairwise]
    if pairwise and not baseline:
        raise SettingError(
            f"metric_names has {pairwise[0]}, which compares the answers with another model's, and there are none. Pass baseline_scores, the "
            "scores of an evaluation of that model, or leave the metric out."
        )
