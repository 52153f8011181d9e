"""What a report says, before it is a page, JSON or Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from llmops_components.comparison import Comparison, MetricComparison
from llmops_components.evaluation.about import About
from llmops_components.evaluation.facts import BenchmarkFacts, Facts, RevisionFacts, ServiceFacts
from llmops_components.evaluation.further import FurtherModel
from llmops_components.evaluation.metrics.registry import METRICS, Metric
from llmops_components.evaluation.statistics import PairedComparison, Scores, record

SAFETY, CATEGORY = "safety", "category"


@dataclass(frozen=True, kw_only=True)
class Content:
    """All that a report is made from.

    Args:
        samples: The lines of the scores file, in order.
        ours: Scores of the model, by metric.
        comparison: What of them crosses to the gate.
        facts: Who answered, and who judged.
        about: What was evaluated.
        compared: How the model differs from its baseline, by metric; empty without one.
        theirs: Scores of the baseline; empty without one.
        baseline: The baseline's ``answer`` to each sample, and the ``seconds`` that it took, where they are known.
        further: Further models beside both.
        metrics: What each metric is, by name.
        labels: What each sample has in a column that rows are told apart by.
        took: What the answers and the judge took, by name.
        seconds: How long each part of the evaluation took.
        findings: What has to be known of it.
    """

    samples: Sequence[Mapping[str, Any]]
    ours: Mapping[str, Scores]
    comparison: Comparison
    facts: Facts | ServiceFacts | RevisionFacts | BenchmarkFacts
    about: About
    compared: Mapping[str, PairedComparison] = field(default_factory=dict)
    theirs: Mapping[str, Scores] = field(default_factory=dict)
    baseline: Sequence[Mapping[str, Any]] = ()
    further: Sequence[FurtherModel] = ()
    metrics: Mapping[str, Metric] = field(default_factory=lambda: METRICS)
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    took: Mapping[str, float | int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    findings: Sequence[str] = ()

    @property
    def title(self) -> str:
        """What the report is headed with."""
        return "Model against baseline" if self.compared else "Model evaluation"

    @property
    def names(self) -> list[str]:
        """The metrics, the one that orders samples first."""
        return list(self.ours)

    @property
    def first(self) -> str:
        """The metric that orders samples."""
        return self.names[0]

    @property
    def verdict(self) -> str:
        """What the intervals say of each metric, in a sentence; empty without a baseline."""
        better = [name for name, each in self.compared.items() if each.direction > 0]
        worse = [name for name, each in self.compared.items() if each.direction < 0]
        unknown = [name for name, each in self.compared.items() if each.difference is None]
        unclear = [name for name in self.compared if name not in (*better, *worse, *unknown)]
        parts = [
            f"{words} {', '.join(names)}"
            for words, names in (
                ("better in", better),
                ("worse in", worse),
                ("no clear difference in", unclear),
                ("no score for", unknown),
            )
            if names
        ]
        text = "; ".join(parts)
        return f"{text[:1].upper()}{text[1:]}." if text else ""

    @cached_property
    def changes(self) -> dict[str, np.ndarray]:
        """By metric how much better each sample is than with the baseline; without one its scores, the better the higher."""
        found = {name: each.changes for name, each in self.compared.items()} or {
            name: each.values for name, each in self.ours.items()
        }
        return {
            name: values if self.ours[name].higher_is_better else -values for name, values in found.items()
        }

    @cached_property
    def order(self) -> list[int]:
        """Places of the samples, the best by the first metric first; those without a score last."""
        changes = self.changes[self.first]
        scored = np.flatnonzero(np.isfinite(changes))
        ordered = scored[np.argsort(-changes[scored], kind="stable")].tolist()
        return ordered + np.flatnonzero(~np.isfinite(changes)).tolist()

    @cached_property
    def by_greatest_change(self) -> list[int]:
        """Places of the samples, those first that say most: without a score, then from both ends of the order."""
        changes = self.changes[self.first]
        scored = [place for place in self.order if np.isfinite(changes[place])]
        ends = [place for pair in zip(scored, reversed(scored), strict=True) for place in pair]
        return list(dict.fromkeys([*self.order[len(scored) :], *ends]))

    def extremes(self, count: int) -> tuple[list[int], list[int]]:
        """The best and the worst samples by the first metric. A change of nothing is neither.

        Args:
            count: How many of each.
        """
        changes = self.changes[self.first]
        scored = [place for place in self.order if np.isfinite(changes[place])]
        best = [place for place in scored if not self.compared or changes[place] > 0][:count]
        worst = [
            place
            for place in reversed(scored)
            if place not in best and (not self.compared or changes[place] < 0)
        ]
        return best, worst[:count]

    @cached_property
    def safety(self) -> dict[str, MetricComparison]:
        """Both models by the metric ``safety`` in each category; empty where that was not asked."""
        if SAFETY not in self.ours or CATEGORY not in self.labels:
            return {}
        labels, theirs = np.array(self.labels[CATEGORY]), self.theirs.get(SAFETY)
        return {
            category: record(self.ours[SAFETY][part], None if theirs is None else theirs[part])
            for category in sorted(set(labels.tolist()))
            for part in [labels == category]
        }

    @property
    def slices(self) -> Mapping[str, Mapping[str, Mapping[str, MetricComparison]]]:
        """Both models in each slice, but where that is the table of safety once more."""
        return {
            column: values
            for column, values in self.comparison.slices.items()
            if not (
                column == CATEGORY and self.safety and all(set(each) == {SAFETY} for each in values.values())
            )
        }


def prompt_text(prompt: str | Sequence[Mapping[str, Any]] | None) -> str:
    """What was asked, as text.

    Args:
        prompt: Text, or messages.
    """
    if prompt is None or isinstance(prompt, str):
        return prompt or ""
    return "\n\n".join(f"{message['role']}: {message.get('content') or ''}" for message in prompt)


def cut(text: str, limit: int) -> str:
    """A text of no more than some characters, with a mark that says what was left out.

    Args:
        text: The text.
        limit: Most characters.
    """
    left_out = len(text) - limit
    return text if left_out <= 0 else f"{text[:limit]} [... {left_out:,} more characters]"


def number(value: float, best: float | None, *, signed: bool = False) -> str:
    """A score as people read it.

    Args:
        value: The score.
        best: The highest one of its metric.
        signed: Whether a plus is shown, too.
    """
    digits = 1 if (best or 1) > 1 else 3
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "\u2212")
