"""The operator that keeps what evaluations have reached, partition by partition."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.hooks.mlflow import MlflowHook
from airflow_provider_llmops.links import MlflowRunLink, TrendLink
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_provider_llmops.backends.pipelines.base import Run

__all__ = ["RecordEvaluationOperator"]


class RecordEvaluationOperator(ComponentOperator):
    """Record the evaluation of a partition in a history, compare it with the partition before, and draw the trend of all.

    The same partition again replaces its own record and no other: backfills, in any order and side by side, retries and cleared tasks leave the
    same history. Nothing is answered or judged again, since the scores of both partitions are there, row by row.

    The output ``comparison`` is that with the partition before, if it has the same rows, metrics and ``settings``; otherwise it is what the
    service reaches by itself, and a finding says why. A partition whose record is not there yet is not compared with.

    Artifact: ``trend`` (page with a line and its intervals for each metric). ``return_value["details"]`` holds ``partition``,
    ``compared_with``, ``rows_digest``, ``history`` and, where it is asked for, ``mlflow``: the run and the step.

    :param scores: URI of ``scores`` of the evaluation
    :param history: directory that outlives the run, which has a record for each partition and the newest ``trend.html``; on a cluster below a
        mounted volume
    :param partition: key of the partition, such as ``2026-11-25``; keys are put in order as text
    :param comparison: output ``comparison`` of the evaluation
    :param settings: how it was measured, such as the judge's model: partitions with other settings are not compared
    :param title: title of the page, and name of the run in MLflow
    :param mlflow_conn_id: connection of type ``mlflow``: the history's run there gets each metric, with the partition's date as the step. Its
        credentials reach the step through its environment only. Nothing is logged when left out
    :param experiment: MLflow experiment of that run
    """

    component = "record_evaluation"
    own_arguments = ("mlflow_conn_id",)
    addresses = {
        "scores": Address(kind="file"),
        "history": Address(kind="directory", exists=False),
    }
    operator_extra_links: Collection[BaseOperatorLink] = (
        *ComponentOperator.operator_extra_links,
        TrendLink(),
        MlflowRunLink(),
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
        mlflow_conn_id: str | None = None,
        experiment: str = "llmops",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scores = scores
        self.history = history
        self.partition = partition
        self.comparison = comparison
        self.settings = settings
        self.title = title
        self.mlflow_conn_id = mlflow_conn_id
        self.experiment = experiment

    def arguments(self) -> dict[str, Any]:
        """Value of each input of the component; MLflow's address is that of the connection."""
        address = MlflowHook(self.mlflow_conn_id).tracking_uri() if self.mlflow_conn_id else None
        return super().arguments() | {"tracking_uri": address}

    def environment(self) -> dict[str, str]:
        """MLflow's credentials, where something is logged there."""
        return MlflowHook(self.mlflow_conn_id).environment() if self.mlflow_conn_id else {}

    def outcome(self, context: Context, run: Run) -> dict[str, Any]:
        """The result, and the address of the run's page in MLflow for the link."""
        value = super().outcome(context, run)
        links = value["details"].get("mlflow", {}).get("links", {})
        MlflowRunLink().push(context["ti"], links.get("run", ""))
        told: dict[str, Any] = {
            "partition": self.partition,
            "metrics": value["metrics"],
            "trend": value["artifacts"].get("trend", {}).get("uri"),
        }
        for event in self.tell_assets(context, told):
            event.add_partitions(self.partition)
        return value
