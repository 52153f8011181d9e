"""What operators have in common that evaluate: answers that a judge may score, and a report."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_llmops.backends.serving.access import JUDGE_PREFIX
from airflow_provider_llmops.exceptions import ConfigurationError, shown_value
from airflow_provider_llmops.hooks.mlflow import MlflowHook
from airflow_provider_llmops.hooks.openai_endpoint import OpenAIEndpointHook
from airflow_provider_llmops.links import MlflowRunLink, ReportLink
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.operators.pipeline_run import names_of_run, tracking_of
from airflow_provider_llmops.specs.declared import converted
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_provider_llmops.backends.pipelines.base import Run
    from airflow_provider_llmops.specs.pipeline import BoundPipeline

__all__ = ["EvaluationOperator", "JudgedOperator", "ReportOperator"]


class JudgedOperator(ComponentOperator):
    """A component whose metrics may be scored by a judge.

    :param metric_args: arguments of metrics, by name; one with a ``prompt`` is a metric of yours, for example
        ``{"polite": {"prompt": "Is this polite? {response}", "values": {"yes": 1, "no": 0}}}``
    :param judge: who judges: ``model_name``, ``url`` unless the connection has it, and ``request``, ``response_format``, ``asks``,
        ``embeddings``, ``concurrency``, ``limits``, ``price``, ``max_tokens_total``, ``max_cost``, ``labels``
    :param judge_conn_id: connection of type ``openai_endpoint`` whose host is the judge's address; its API key reaches the step through
        the environment only
    :param checkpoints: directory that outlives the run, where answers are kept; a run that was killed asks nothing twice. On this
        machine the attempts of a task share one by themselves
    """

    own_arguments: ClassVar[tuple[str, ...]] = ("judge_conn_id",)

    def __init__(
        self,
        *,
        metric_args: dict[str, Any] | None = None,
        judge: dict[str, Any] | None = None,
        judge_conn_id: str | None = None,
        checkpoints: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.metric_args = metric_args
        self.judge = judge
        self.judge_conn_id = judge_conn_id
        self.checkpoints = checkpoints

    def arguments(self) -> dict[str, Any]:
        """Value of each input of the component; the judge's address is that of its connection."""
        found = super().arguments()
        if self.judge_conn_id:
            if not isinstance(found["judge"], dict):
                raise ConfigurationError(
                    "judge_conn_id is given and no judge. Give judge an object with the model_name of who judges, or leave both out."
                )
            found["judge"] = OpenAIEndpointHook(self.judge_conn_id).with_url(found["judge"])
        return found

    def environment(self) -> dict[str, str]:
        """The judge's API key, and the authorities that its certificate is verified with."""
        found = super().environment()
        if self.judge_conn_id:
            found = {**found, **OpenAIEndpointHook(self.judge_conn_id).environment(JUDGE_PREFIX)}
        return found


FURTHER_INPUTS = tuple(f"further_scores_{number}" for number in range(1, 5))
"""The inputs of a component that scores of further models are given as; its ``further_names`` are their names, in this order."""
FURTHER_ADDRESSES: Mapping[str, Address] = dict.fromkeys(FURTHER_INPUTS, Address(kind="file"))


def further_arguments(further_scores: Any) -> dict[str, Any]:
    """A component's arguments for further models: artifacts, so that they are staged, named in the lineage and count for reuse as others are.

    :param further_scores: URIs of scores by the name of their model, or the text that a template makes of that
    :raises ConfigurationError: it is something else, or has more models than a report
    """
    given = converted(further_scores, [{"dict": ["str"]}, "null"], "further_scores", {}, strict=False) or {}
    if not isinstance(given, Mapping) or not all(
        isinstance(text, str) and text for pair in given.items() for text in pair
    ):
        raise ConfigurationError(
            f"further_scores must have URIs of scores by the name of their model, got {shown_value(further_scores)}."
        )
    if len(given) > len(FURTHER_INPUTS):
        raise ConfigurationError(
            f"further_scores has {len(given)} models, and a report has room for {len(FURTHER_INPUTS)}. Leave some out."
        )
    places = [*given.values(), *[None] * (len(FURTHER_INPUTS) - len(given))]
    return {**dict(zip(FURTHER_INPUTS, places, strict=True)), "further_names": list(given) or None}


class ReportOperator(ComponentOperator):
    """A component that writes a report, and becomes a run of its own in MLflow.

    The report names the DAG's run and the task, whether or not it is kept in MLflow.

    :param further_scores: ``scores`` of further models on the same rows, four at most, by the names that the report gives them, such as
        ``{"week 46": week_46.output["scores"]}``. The report shows each beside the model with its interval, its coverage and the paired
        difference; no gate reads them. A row that one lacks counts as not scored for it
    :param tracking: where it is kept in MLflow: ``tracking_uri``, ``experiment``, ``parent``, ``run_name``; no credentials
    :param mlflow_conn_id: connection of type ``mlflow``: gives ``tracking`` the address; the run lies where those of the trainings of the same
        run of the DAG do. Its credentials reach the step through its environment only
    """

    own_arguments: ClassVar[tuple[str, ...]] = ("further_scores", "mlflow_conn_id")
    operator_extra_links: Collection[BaseOperatorLink] = (
        *ComponentOperator.operator_extra_links,
        ReportLink(),
        MlflowRunLink(),
    )

    def __init__(
        self,
        *,
        further_scores: dict[str, str] | str | None = None,
        tracking: dict[str, Any] | None = None,
        mlflow_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.further_scores = further_scores
        self.tracking = tracking
        self.mlflow_conn_id = mlflow_conn_id

    def arguments(self) -> dict[str, Any]:
        """The component's arguments; the connection and the DAG's run say where it is kept."""
        found = super().arguments() | further_arguments(self.further_scores)
        if self.mlflow_conn_id:
            found["tracking"] = tracking_of(self, self.mlflow_conn_id, self.tracking)
        elif self._context is not None:
            found["tracking"] = {**names_of_run(self, self._context), **(self.tracking or {})}
        return found

    def environment(self) -> dict[str, str]:
        """MLflow's credentials, beside what else the step needs."""
        found = super().environment()
        return {**found, **MlflowHook(self.mlflow_conn_id).environment()} if self.mlflow_conn_id else found

    def _given_places(self) -> dict[str, Any]:
        """The arguments as the DAG's author gives them, the further scores among them, each as the input that it becomes."""
        return super()._given_places() | further_arguments(self.further_scores)

    def outcome(self, context: Context, run: Run) -> dict[str, Any]:
        """The result; events of assets say what was reached, and where the page is."""
        value = super().outcome(context, run)
        report = value["artifacts"].get("report", {}).get("uri")
        self.tell_assets(context, {"metrics": value["metrics"], "report": report})
        return value

    def deciding(self, pipeline: BoundPipeline) -> BoundPipeline:
        """Without where it is kept, which differs from run to run, and does not change what comes out."""
        kept = {name: value for name, value in pipeline.parameters.items() if name != "tracking"}
        return replace(pipeline, parameters=kept)


class EvaluationOperator(ReportOperator, JudgedOperator):
    """A judged component that writes a report, and becomes a run of its own in MLflow."""

    own_arguments: ClassVar[tuple[str, ...]] = (*JudgedOperator.own_arguments, *ReportOperator.own_arguments)
