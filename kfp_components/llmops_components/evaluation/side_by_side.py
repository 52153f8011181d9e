"""The answers of two revisions to the same questions, scored and compared row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmops_components.errors import named, shortened
from llmops_components.evaluation.comparing import comparison_of
from llmops_components.evaluation.statistics import PairedComparison, Scores, compare
from llmops_components.inference.rows import answer_text, read_outcomes
from llmops_components.results import StepReport

if TYPE_CHECKING:
    from llmops_components.evaluation.about import About
    from llmops_components.evaluation.metrics.plan import Plan

Against = Literal["reference", "baseline"]
_WORST_TOLD = 3  # in the result, cut short
_LONGEST_TOLD = 200
_LATENCIES = ("seconds_p50", "seconds_p95")


@dataclass(frozen=True)
class Asked:
    """What became of the rows with one revision.

    Args:
        texts: Its answer to each row as text; None where there is none.
        seconds: How long that took.
        reasons: Why there is none.
        metrics: Counts and percentiles.
    """

    texts: list[str | None]
    seconds: list[float | None]
    reasons: list[str | None]
    metrics: Mapping[str, float | int]

    @classmethod
    def read(cls, asked: StepReport, answers: Path, rejected: Path, numbers: Sequence[int]) -> Asked:
        """What ``batch_inference`` has found out.

        Args:
            asked: What it said.
            answers: Its answered rows.
            rejected: Its other rows.
            numbers: Number of each row's line in the dataset.
        """
        texts: list[str | None] = [None] * len(numbers)
        seconds: list[float | None] = [None] * len(numbers)
        reasons: list[str | None] = [None] * len(numbers)
        place_of = {number: at for at, number in enumerate(numbers)}
        for row in read_outcomes(answers):
            how = row["response"]
            at = place_of[how["line"]]
            found = row["answer"] if row["answer"] is not None else how.get("tool_calls")
            texts[at], seconds[at] = answer_text(found), how["seconds"]
        for row in read_outcomes(rejected):
            reasons[place_of[row["line"]]] = row["reasons"][0]
        return cls(texts, seconds, reasons, asked.metrics)

    @property
    def unanswered(self) -> list[int]:
        """Numbers of the rows without an answer."""
        return [number for number, text in enumerate(self.texts, start=1) if text is None]


@dataclass(frozen=True)
class SideBySide:
    """The answers of both revisions with their scores.

    Args:
        rows: What was asked.
        candidate: What became of it with the revision.
        baseline: The same with the one that it is compared with.
        against: What answers were scored against.
        scores: Of both, by metric.
        comparisons: Of both, by metric.
        skipped: Metrics that were left out, and why.
        tokenizers: What counts as a word in each metric that compares words.
    """

    rows: list[dict[str, Any]]
    candidate: Asked
    baseline: Asked
    against: Against
    scores: Mapping[str, tuple[Scores, Scores]]
    comparisons: Mapping[str, PairedComparison]
    skipped: Mapping[str, str]
    tokenizers: Mapping[str, str]

    @classmethod
    def of(
        cls, plan: Plan, rows: list[dict[str, Any]], candidate: Asked, baseline: Asked, against: Against
    ) -> SideBySide:
        """Score what can be scored: rows that both have answered.

        Args:
            plan: The metrics.
            rows: What was asked.
            candidate: What became of it with the revision.
            baseline: The same with the one that it is compared with.
            against: What answers are scored against.
        """
        from llmops_components.evaluation.composites import with_composites
        from llmops_components.evaluation.metrics.scoring import score_answers, tokenizers_of

        pairs = zip(candidate.texts, baseline.texts, strict=True)
        both = [at for at, pair in enumerate(pairs) if None not in pair]
        ours, theirs = ([str(each.texts[at]) for at in both] for each in (candidate, baseline))
        expected = theirs if against == "baseline" else [str(rows[at]["reference"]) for at in both]
        scored = score_answers(plan, ours + theirs, expected * 2) if both else {}
        scored = with_composites(scored, None, plan.metrics)
        count = len(both)
        scores = {
            name: (
                _spread(each[:count], both, len(rows)),
                _spread(each[count:], both, len(rows)),
            )
            for name, each in scored.items()
        } or {name: (_nothing(len(rows)), _nothing(len(rows))) for name in plan.names}
        return cls(
            rows,
            candidate,
            baseline,
            against,
            scores,
            {name: compare(*pair) for name, pair in scores.items()},
            plan.skipped,
            tokenizers_of(plan, ours + theirs, expected * 2),
        )

    @property
    def first(self) -> str:
        """The metric that orders rows."""
        return next(iter(self.scores))

    def lines(self) -> list[dict[str, Any]]:
        """The lines of the scores file."""
        return [self._line(at, row) for at, row in enumerate(self.rows)]

    def _line(self, at: int, row: Mapping[str, Any]) -> dict[str, Any]:
        line: dict[str, Any] = {"row": at + 1, "prompt": row.get("prompt", row.get("messages"))}
        if self.against == "reference":
            line["reference"] = row["reference"]
        for prefix, asked in (("", self.candidate), ("baseline_", self.baseline)):
            line[f"{prefix}answer"] = asked.texts[at]
            line[f"{prefix}seconds"] = asked.seconds[at]
            if asked.reasons[at] is not None:
                line[f"{prefix}reason"] = asked.reasons[at]
        for which, key in enumerate(("scores", "baseline_scores")):
            line[key] = {name: _score(pair[which].values[at]) for name, pair in self.scores.items()}
        return line

    def worst(self, lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Rows that the revision does not answer and the baseline does, then those that it answers worse, the worst first.

        Args:
            lines: Of :meth:`lines`.
        """
        changes = self.comparisons[self.first].changes
        unanswered = [
            dict(line) for line in lines if line["answer"] is None and line["baseline_answer"] is not None
        ]
        worse = [at for at in np.argsort(changes) if changes[at] < 0]  # NaN is not
        return unanswered + [{**lines[at], "change": _score(changes[at])} for at in worse]

    def page(self, lines: Sequence[Mapping[str, Any]], about: About) -> str:
        """The HTML page.

        Args:
            lines: Of :meth:`lines`.
            about: What was asked.
        """
        from llmops_components.evaluation.facts import RevisionFacts
        from llmops_components.evaluation.report.content import Content
        from llmops_components.evaluation.report.page import render_page

        ours, theirs = ({name: pair[which] for name, pair in self.scores.items()} for which in (0, 1))
        theirs_of = ("answer", "seconds", "reason")
        content = Content(
            samples=lines,
            ours=ours,
            theirs=theirs,
            compared=self.comparisons,
            comparison=comparison_of(ours, theirs, self.comparisons),
            facts=RevisionFacts(
                unanswered=len(self.candidate.unanswered),
                baseline_unanswered=len(self.baseline.unanswered),
                seconds=self.candidate.metrics.get("seconds_p95"),
                baseline_seconds=self.baseline.metrics.get("seconds_p95"),
                against=self.against,
                skipped=self.skipped,
                tokenizers=self.tokenizers,
            ),
            about=about,
            baseline=[{name: line.get(f"baseline_{name}") for name in theirs_of} for line in lines],
        )
        return render_page(content)


def report_of(compared: SideBySide, worst: Sequence[Mapping[str, Any]]) -> StepReport:
    """What the step says of itself.

    Args:
        compared: Both revisions' answers.
        worst: The rows that the revision answers worst.
    """
    metrics: dict[str, float | int] = {"rows": len(compared.rows)}
    for whose, asked in (("candidate", compared.candidate), ("baseline", compared.baseline)):
        metrics[f"{whose}_unanswered"] = len(asked.unanswered)
        metrics |= {f"{whose}_{name}": asked.metrics[name] for name in _LATENCIES if name in asked.metrics}
    ours, theirs = ({name: pair[which] for name, pair in compared.scores.items()} for which in (0, 1))
    return StepReport(
        metrics=metrics,
        details={
            "against": compared.against,
            "skipped_metrics": dict(compared.skipped),
            "tokenizers": dict(compared.tokenizers),
            "worst": [_told(row, compared.first) for row in worst[:_WORST_TOLD]],
        },
        findings=_findings(compared),
        comparison=comparison_of(ours, theirs, compared.comparisons),
    )


def _findings(compared: SideBySide) -> list[str]:
    found = []
    for whose, asked in (("revision", compared.candidate), ("baseline", compared.baseline)):
        if missing := asked.unanswered:
            reason = next(filter(None, asked.reasons))
            found.append(
                f"The {whose} did not answer {len(missing)} of {len(compared.rows)} rows, which have no score: row {named(missing)}. "
                f"The first: {reason}"
            )
    unanswered = {*compared.candidate.unanswered, *compared.baseline.unanswered}
    for name, each in compared.comparisons.items():
        numbers = np.flatnonzero(~np.isfinite(each.changes)) + 1
        if missing := [number for number in numbers.tolist() if number not in unanswered]:
            found.append(
                f"{name} has no score for {len(missing)} rows that both have answered: row {named(missing)}. What scores them gave no "
                "finite number."
            )
    return found


def _spread(part: Scores, places: Sequence[int], count: int) -> Scores:
    """Scores of some rows as scores of all, of which the others have none."""
    whole = np.full(count, np.nan)
    statistics = np.zeros((count, part.statistics.shape[1]))
    whole[list(places)], statistics[list(places)] = part.values, part.statistics
    return replace(part, values=whole, statistics=statistics)


def _nothing(count: int) -> Scores:
    return Scores.mean_of(np.full(count, np.nan))


def _score(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def _shown(line: Mapping[str, Any], prefix: str) -> str:
    answer: str | None = line[f"{prefix}answer"]
    return f"[not answered: {line[f'{prefix}reason']}]" if answer is None else answer


def _told(row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """A row for the result, which goes through the control plane: texts cut short, scores by one metric."""
    prompt = row["prompt"]
    texts = {
        "prompt": prompt if isinstance(prompt, str) else str(prompt[-1].get("content") or ""),
        "reference": row.get("reference"),
        "answer": _shown(row, ""),
        "baseline_answer": _shown(row, "baseline_"),
    }
    told: dict[str, Any] = {
        name: shortened(text, _LONGEST_TOLD) for name, text in texts.items() if text is not None
    }
    return {
        "row": row["row"],
        **told,
        "score": row["scores"][metric],
        "baseline_score": row["baseline_scores"][metric],
    }
