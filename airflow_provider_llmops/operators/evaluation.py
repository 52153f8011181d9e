"""Operators that judge a model."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_provider_llmops.exceptions import (
    ConfigurationError,
    QualityGateFailed,
    describe_unknown,
    shown_value,
)
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.hooks.signing import SigningHook
from airflow_provider_llmops.links import ReportLink
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.operators.judged import JudgedOperator
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_provider_llmops.comparison import MetricComparison

__all__ = ["CheckModelOperator", "EvaluateModelOperator", "QualityGateOperator"]


class CheckModelOperator(ComponentOperator):
    """Check a model's files, digest, signature, licence and size before anything serves it; fails when a check is not passed.

    In any case: the weights are safetensors files that hold what their headers say, and every other file is JSON, text, a tokenizer or
    a picture. Pickles, code, weights in other formats, and links that lead out of the directory are refused by name. Nothing is loaded.

    Artifact: ``report`` (JSON: each check with what it looked at and what it found). It is pushed before the task fails.

    :param model: URI of the model
    :param model_digest: digest that the model has to have: ``sha256:`` and 64 hexadecimal digits
    :param allowed_licenses: licences as the hub names them, for example ``["apache-2.0", "mit"]``; what the card says and what is known
        of the origin have to be among them, and a model of which nothing is known does not pass
    :param max_parameters: most parameters
    :param max_bytes: most bytes of the weight files
    :param scan: have modelscan look for code in the files; it needs a data plane on a Python below 3.13
    :param signature: URI of the model's signature, as :class:`~airflow_provider_llmops.operators.registry.RegisterModelOperator` and
        :class:`~airflow_provider_llmops.operators.registry.FetchModelOperator` give it
    :param public_key: public key in PEM of who has to have signed the model; several, one below the other, where any of them will do. A
        model without a signature does not pass then, nor one with a file more, less or other than was signed
    :param signing_conn_id: connection of type ``model_signing`` that has the public key, instead of ``public_key``
    """

    component = "check_model"
    own_arguments = ("signing_conn_id",)
    addresses = {"model": Address(kind="directory"), "signature": Address(kind="file")}

    def __init__(
        self,
        *,
        model: str,
        model_digest: str | None = None,
        allowed_licenses: Sequence[str] | str | None = None,
        max_parameters: int | str | None = None,
        max_bytes: int | str | None = None,
        scan: bool | str = True,
        signature: str | None = None,
        public_key: str | None = None,
        signing_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.model_digest = model_digest
        self.allowed_licenses = allowed_licenses
        self.max_parameters = max_parameters
        self.max_bytes = max_bytes
        self.scan = scan
        self.signature = signature
        self.public_key = public_key
        self.signing_conn_id = signing_conn_id

    def arguments(self) -> dict[str, Any]:
        """The component's arguments; the public key may be a connection's."""
        given = super().arguments()
        if not self.signing_conn_id:
            return given
        if self.public_key:
            raise ConfigurationError(
                "There are public_key and signing_conn_id: which of them says who has to have signed the model? Leave one out."
            )
        return given | {"public_key": SigningHook(self.signing_conn_id).public_key()}


class EvaluateModelOperator(JudgedOperator):
    """Answer every evaluation prompt and score the answers.

    Artifacts: ``scores`` (one JSON line a sample), ``report`` (page). The output ``comparison`` holds for each metric what model
    and baseline reach, how they differ, within which interval, and on how many rows; without ``baseline_scores`` it is empty.

    :param model: URI of the model
    :param dataset: URI of rows with a ``prompt``, and what else the metrics need, which is a ``reference`` for most
    :param baseline_scores: ``scores`` of another model on the same rows, to compare with
    :param metric_names: metrics to compute, by name, or functions of allowed packages as ``module:function``; all that look at answer
        and reference alone when left out
    :param generation_args: passed to ``transformers.GenerationConfig``
    :param batch_size: prompts generated together
    :param embedding_model: directory or ``package://name`` of the sentence-embedding model
    :param reward_model: URI of the reward model behind the metric ``reward``

    Metrics by a judge need ``judge``, ``judge_conn_id`` and the like: :class:`~airflow_provider_llmops.operators.judged.JudgedOperator`.
    """

    component = "evaluate_model"
    addresses = {
        "model": Address(kind="directory"),
        "dataset": Address(kind="file"),
        "baseline_scores": Address(kind="file"),
        "embedding_model": Address(("package",), "directory"),
        "reward_model": Address(kind="directory"),
        "checkpoints": Address(kind="directory", exists=False),
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
    """Fail unless a model beats its baseline by a margin on one metric, judged on every row.

    Runs in the worker: it decides by numbers that an evaluation has already brought home. ``return_value`` has them, beside
    ``metric``, ``min_improvement`` and ``passed``.

    :param comparison: output ``comparison`` of an evaluation that was given ``baseline_scores``
    :param metric: metric to decide by; higher is better
    :param min_improvement: smallest difference to the baseline that passes, in the metric's own unit
    :param report: URI of the evaluation's page, to name and link
    :param kubeflow_conn_id: connection that the evaluation ran with, by which the page is reached
    """

    template_fields: Sequence[str] = ("comparison", "metric", "min_improvement", "report", "kubeflow_conn_id")
    operator_extra_links = (ReportLink(),)
    ui_color = "#fef3e0"

    def __init__(
        self,
        *,
        comparison: Mapping[str, Any],
        metric: str,
        min_improvement: float | str = 0.0,
        report: str | None = None,
        kubeflow_conn_id: str = KubeflowPipelinesHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.comparison = comparison
        self.metric = metric
        self.min_improvement = min_improvement
        self.report = report
        self.kubeflow_conn_id = kubeflow_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Compare; the numbers are pushed whether or not the gate is passed."""
        compared = self._compared()
        asked = self._margin()
        fault = _shortfall(self.metric, compared, asked)
        verdict = {
            "metric": self.metric,
            **compared.model_dump(),
            "min_improvement": asked,
            "passed": fault is None,
        }
        report = self._link_report(context)
        if fault is not None:
            context["ti"].xcom_push(key="return_value", value=verdict)
            self.log.error("%s", fault)
            raise QualityGateFailed(fault, report)
        self.log.info(
            "Gate passed: %s", "\n".join(filter(None, (_summary(self.metric, compared, asked), report)))
        )
        return verdict

    def _compared(self) -> MetricComparison:
        from airflow_provider_llmops.comparison import read_comparison  # whoever reads DAGs runs nothing

        metrics = read_comparison(self.comparison).metrics
        if unknown := describe_unknown([self.metric], metrics):
            raise ConfigurationError(
                f"The evaluation compared no metric {unknown}. It compared: {', '.join(metrics) or 'nothing'}; give "
                "the evaluation baseline_scores, or choose one of these."
            )
        return metrics[self.metric]

    def _margin(self) -> float:
        try:
            margin = float(self.min_improvement)
        except (TypeError, ValueError):
            margin = math.nan
        if not math.isfinite(margin):
            raise ConfigurationError(
                f"min_improvement is {shown_value(self.min_improvement)}, and no finite number. Give the smallest difference to the "
                "baseline that passes."
            )
        return margin

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


def _shortfall(metric: str, compared: MetricComparison, asked: float) -> str | None:
    """Why the gate is not passed. A row without a score may be the one that the model answers worst."""
    if compared.rows_unscored or compared.difference is None:
        rows = compared.rows_scored + compared.rows_unscored
        return (
            f"{metric} has no score for {compared.rows_unscored} of {rows} rows, so that the model cannot be judged by it. Look for "
            f"the rows whose {metric} is null in the evaluation's scores; correct them or what scores them, or choose another "
            "metric."
        )
    if compared.difference.value >= asked:
        return None
    return (
        f"{_summary(metric, compared, asked)}: the model is not good enough. Train longer, look at the evaluation's report, or "
        "lower min_improvement."
    )


def _summary(metric: str, compared: MetricComparison, asked: float) -> str:
    assert compared.difference is not None
    reached = compared.difference.value
    # As many digits as tell the two apart, should it have been close.
    digits = next((n for n in range(4, 17) if f"{reached:.{n}g}" != f"{asked:.{n}g}"), 4)
    return (
        f"{metric} {compared.candidate:.4g} against {compared.baseline:.4g}, at least {asked:+.{digits}g} asked for and "
        f"{reached:+.{digits}g} reached"
    )
