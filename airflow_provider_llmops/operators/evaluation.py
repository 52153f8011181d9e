"""Operators that judge a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_provider_llmops.exceptions import ConfigurationError, QualityGateFailed, describe_unknown
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.links import ReportLink
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

__all__ = ["EvaluateModelOperator", "QualityGateOperator"]


class EvaluateModelOperator(ComponentOperator):
    """Answer every evaluation prompt and score the answers.

    Artifacts: ``scores`` (one JSON line a sample), ``report`` (page). With ``baseline_scores`` the metrics hold
    ``<metric>_baseline`` and ``<metric>_improvement`` beside ``<metric>``.

    :param model: URI of the model
    :param dataset: URI of rows with a ``prompt``, and a ``reference`` for all metrics but ``reward``
    :param baseline_scores: ``scores`` of another model on the same rows, to compare with
    :param metric_names: metrics to compute; all that need no judge when left out
    :param generation_args: passed to ``transformers.GenerationConfig``
    :param batch_size: prompts generated together
    :param embedding_model: directory or ``package://name`` of the sentence-embedding model
    :param reward_model: URI of the reward model behind the metric ``reward``
    """

    component = "evaluate_model"
    addresses = {
        "model": Address(kind="directory"),
        "dataset": Address(kind="file"),
        "baseline_scores": Address(kind="file"),
        "embedding_model": Address(("package",), "directory"),
        "reward_model": Address(kind="directory"),
    }
    operator_extra_links: Collection[BaseOperatorLink] = (
        *ComponentOperator.operator_extra_links,
        ReportLink(),
    )

    def __init__(
        self,
        *,
        model: str,
        dataset: str,
        baseline_scores: str | None = None,
        metric_names: list[str] | None = None,
        generation_args: dict[str, Any] | None = None,
        batch_size: int | str = 16,
        embedding_model: str | None = None,
        reward_model: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.dataset = dataset
        self.baseline_scores = baseline_scores
        self.metric_names = metric_names
        self.generation_args = generation_args
        self.batch_size = batch_size
        self.embedding_model = embedding_model
        self.reward_model = reward_model


class QualityGateOperator(BaseOperator):
    """Fail unless a model beats its baseline by a margin on one metric.

    Runs in the worker: it compares two numbers that an evaluation has already brought home.

    :param metrics: metrics of an evaluation that was given ``baseline_scores``
    :param metric: metric to decide by; higher is better
    :param min_improvement: smallest difference to the baseline that passes, in the metric's own unit
    :param report: URI of the evaluation's page, to name and link
    :param kubeflow_conn_id: connection that the evaluation ran with, by which the page is reached
    """

    template_fields: Sequence[str] = ("metrics", "metric", "min_improvement", "report", "kubeflow_conn_id")
    operator_extra_links = (ReportLink(),)
    ui_color = "#fef3e0"

    def __init__(
        self,
        *,
        metrics: Mapping[str, float],
        metric: str,
        min_improvement: float | str = 0.0,
        report: str | None = None,
        kubeflow_conn_id: str = KubeflowPipelinesHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.metrics = metrics
        self.metric = metric
        self.min_improvement = min_improvement
        self.report = report
        self.kubeflow_conn_id = kubeflow_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Compare; the numbers are pushed whether or not the gate is passed."""
        comparable = [
            name.removesuffix("_improvement") for name in self.metrics if name.endswith("_improvement")
        ]
        if unknown := describe_unknown([self.metric], comparable):
            raise ConfigurationError(
                f"The evaluation compared no metric {unknown}. It compared: {', '.join(comparable) or 'nothing'}; give "
                "the evaluation baseline_scores, or choose one of these."
            )
        improvement, asked = self.metrics[f"{self.metric}_improvement"], float(self.min_improvement)
        verdict: dict[str, Any] = {
            "metric": self.metric,
            "baseline": self.metrics[f"{self.metric}_baseline"],
            "candidate": self.metrics[self.metric],
            "improvement": improvement,
            "min_improvement": asked,
            "passed": improvement >= asked,
        }
        # As many digits as tell the two apart, should it have been close.
        digits = next((n for n in range(4, 17) if f"{improvement:.{n}g}" != f"{asked:.{n}g}"), 4)
        summary = (
            f"{self.metric} {verdict['candidate']:.4g} against {verdict['baseline']:.4g}, at least {asked:+.{digits}g} asked for "
            f"and {improvement:+.{digits}g} reached"
        )
        report = self._link_report(context)
        if not verdict["passed"]:
            context["ti"].xcom_push(key="return_value", value=verdict)
            self.log.error("%s", summary)
            raise QualityGateFailed(
                f"{summary}: the model is not good enough. Train longer, look at the evaluation's report, or lower "
                "min_improvement.",
                report,
            )
        self.log.info("Gate passed: %s", "\n".join(filter(None, (summary, report))))
        return verdict

    def _link_report(self, context: Context) -> str | None:
        if not self.report:
            return None
        url = ""
        try:
            url = KubeflowPipelinesHook(self.kubeflow_conn_id).page_url(self.report)
        except (AirflowNotFoundException, ConfigurationError) as error:
            self.log.warning("The report is not linked: %s", error)
        ReportLink().push(context["ti"], url)
        return f"Report: {url or self.report}"
