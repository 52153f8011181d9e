"""The record of how a model compares with its baseline: what a gate decides by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmops_components.comparison import Comparison, MetricComparison
from llmops_components.evaluation.composites import Composites, check_composites
from llmops_components.evaluation.intervals import CONFIDENCE, LEVELS
from llmops_components.evaluation.slices import check_columns, check_slices
from llmops_components.evaluation.statistics import PairedComparison, Scores, record

if TYPE_CHECKING:
    from llmops_components.evaluation.metrics.plan import Plan
    from llmops_components.evaluation.metrics.registry import Metric

Slices = Mapping[str, Mapping[str, Mapping[str, MetricComparison]]]


def comparison_of(
    ours: Mapping[str, Scores],
    theirs: Mapping[str, Scores],
    compared: Mapping[str, PairedComparison],
    slices: Slices | None = None,
) -> Comparison:
    """What a model reaches by each metric, what its baseline does, and how they differ.

    Args:
        ours: Scores of the model.
        theirs: Scores of the baseline; empty without one.
        compared: How they differ, by metric; empty without a baseline.
        slices: The same of slices of the rows, by column, value and metric.
    """
    return Comparison(
        schema_version=2,
        confidence=CONFIDENCE,
        levels=list(LEVELS),
        has_baseline=bool(theirs),
        metrics={name: record(each, theirs.get(name), compared.get(name)) for name, each in ours.items()},
        slices={
            column: {value: dict(each) for value, each in values.items()}
            for column, values in (slices or {}).items()
        },
    )


@dataclass(frozen=True)
class Parts:
    """What is compared besides the metrics, once it is known that it can be.

    Args:
        metrics: What each metric and composite measures.
        composites: Weights by metric, by name of the composite.
        columns: What rows are cut by.
        sliced: Metrics to compare in slices.
    """

    metrics: Mapping[str, Metric]
    composites: Composites
    columns: Sequence[str]
    sliced: Sequence[str]

    @classmethod
    def of(
        cls,
        plan: Plan,
        rows: Sequence[Mapping[str, Any]],
        composites: Composites | None = None,
        slices: Sequence[str] | None = None,
        slice_metrics: Sequence[str] | None = None,
    ) -> Parts:
        """Check what somebody asks for, see :func:`~llmops_components.evaluation.evaluate.evaluate_model`.

        Args:
            plan: The metrics.
            rows: The dataset.
            composites: Weights by metric, by name of the composite.
            slices: Columns to cut the rows by.
            slice_metrics: Metrics to compare in slices.
        """
        metrics = {**plan.metrics, **check_composites(composites, plan.metrics)}
        columns, sliced = check_slices(slices, slice_metrics, list(metrics))
        check_columns(rows, columns)
        return cls(metrics, composites or {}, columns, sliced)
