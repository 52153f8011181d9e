"""A judge in an evaluation: who it is, where its answers are kept, and how far people agree with it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmops_components.evaluation.judge.agreement import agreement_of, check_labels, findings_of
from llmops_components.evaluation.judge.settings import JudgeSettings
from llmops_components.evaluation.metrics.plan import Plan
from llmops_components.evaluation.statistics import Scores


@dataclass(frozen=True)
class Judging:
    """Who judges, and where that is kept.

    Args:
        settings: The judge; None where no metric needs one.
        checkpoints: Directory that outlives the step.
    """

    settings: JudgeSettings | None = None
    checkpoints: str | os.PathLike[str] | None = None

    def check_labels(self, plan: Plan, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raise an error for people's labels that cannot be compared with the judge's scores.

        Args:
            plan: The metrics.
            rows: The rows.
        """
        if self.settings is not None:
            judged = [name for name, metric in plan.metrics.items() if "judge" in metric.needs]
            check_labels(rows, self.settings.human_labels, judged)

    def agreements(
        self, rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Scores]
    ) -> tuple[dict[str, Any], list[str]]:
        """How far the judge agrees with people, by metric, and where that is not enough.

        Args:
            rows: The rows.
            scores: The model's scores.
        """
        labels = {} if self.settings is None else self.settings.human_labels
        found = {name: agreement_of(each, rows, scores[name].values) for name, each in labels.items()}
        findings = [line for name, each in labels.items() for line in findings_of(name, each, found[name])]
        return {name: asdict(each) for name, each in found.items()}, findings
