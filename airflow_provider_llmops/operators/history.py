"""The operator that keeps what evaluations have reached, partition by partition."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.links import TrendLink
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink

__all__ = ["RecordEvaluationOperator"]


class RecordEvaluationOperator(ComponentOperator):
    """Record the evaluation of a partition in a history, compare it with the partition before, and draw the trend of all.

    The same partition again replaces its own record and no other: backfills, in any order and side by side, retries and cleared tasks leave the
    same history. Nothing is answered or judged again, since the scores of both partitions are there, row by row.

    The output ``comparison`` is that with the partition before, if it has the same rows, metrics and ``settings``; otherwise it is what the
    service reaches by itself, and a finding says why. A partition whose record is not there yet is not compared with.

    Artifact: ``trend`` (page with a line and its intervals for each metric). ``return_value["details"]`` holds ``partition``,
    ``compared_with``, ``rows_digest`` and ``history``.

    :param scores: URI of ``scores`` of the evaluation
    :param history: directory that outlives the run, which has a record for each partition and the newest ``trend.html``; on a cluster below a
        mounted volume
    :param partition: key of the partition, such as ``2026-11-25``; keys are put in order as text
    :param comparison: output ``comparison`` of the evaluation
    :param settings: how it was measured, such as the judge's model: partitions with other settings are not compared
    :param title: title of the page
    """

    component = "record_evaluation"
    addresses = {
        "scores": Address(kind="file"),
        "history": Address(kind="directory", exists=False),
    }
    operator_extra_links: Collection[BaseOperatorLink] = (
        *ComponentOperator.operator_extra_links,
        TrendLink(),
    )

    def __init__(
        self,
        *,
        scores: str,
        history: str,
        partition: str,
        comparison: dict[str, Any],
        settings: dict[str, Any] | None = None,
        title: str = "Evaluation by partition",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scores = scores
        self.history = history
        self.partition = partition
        self.comparison = comparison
        self.settings = settings
        self.title = title
