"""What operators have in common that evaluate: answers that a judge may score, and a report."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_llmops.backends.serving.access import JUDGE_PREFIX
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.hooks.mlflow import MlflowHook
from airflow_provider_llmops.hooks.openai_endpoint import OpenAIEndpointHook
from airflow_provider_llmops.links import MlflowRunLink, ReportLink
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.operators.pipeline_run import names_of_run, tracking_of

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink

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


class ReportOperator(ComponentOperator):
    """A component that writes a report, and becomes a run of its own in MLflow.

    The report names the DAG's run and the task, whether or not it is kept in MLflow.

    :param tracking: where it is kept in MLflow: ``tracking_uri``, ``experiment``, ``parent``, ``run_name``; no credentials
    :param mlflow_conn_id: connection of type ``mlflow``: gives ``tracking`` the address; the run lies where those of the trainings of the same
        run of the DAG do. Its credentials reach the step through its environment only
    """

    own_arguments: ClassVar[tuple[str, ...]] = ("mlflow_conn_id",)
    operator_extra_links: Collection[BaseOperatorLink] = (
        *ComponentOperator.operator_extra_links,
        ReportLink(),
        MlflowRunLink(),
    )

    def __init__(
        self, *, tracking: dict[str, Any] | None = None, mlflow_conn_id: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.tracking = tracking
        self.mlflow_conn_id = mlflow_conn_id

    def arguments(self) -> dict[str, Any]:
        """The component's arguments; the connection and the DAG's run say where it is kept."""
        found = super().arguments()
        if self.mlflow_conn_id:
            found["tracking"] = tracking_of(self, self.mlflow_conn_id, self.tracking)
        elif self._context is not None:
            found["tracking"] = {**names_of_run(self, self._context), **(self.tracking or {})}
        return found

    def environment(self) -> dict[str, str]:
        """MLflow's credentials, beside what else the step needs."""
        found = super().environment()
        return {**found, **MlflowHook(self.mlflow_conn_id).environment()} if self.mlflow_conn_id else found

    def deciding(self, pipeline: BoundPipeline) -> BoundPipeline:
        """Without where it is kept, which differs from run to run, and does not change what comes out."""
        kept = {name: value for name, value in pipeline.parameters.items() if name != "tracking"}
        return replace(pipeline, parameters=kept)


class EvaluationOperator(ReportOperator, JudgedOperator):
    """A judged component that writes a report, and becomes a run of its own in MLflow."""

    own_arguments: ClassVar[tuple[str, ...]] = (*JudgedOperator.own_arguments, *ReportOperator.own_arguments)
