"""The operator that evaluates what is already served."""

from __future__ import annotations

from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.hooks.openai_endpoint import OpenAIEndpointHook
from airflow_provider_llmops.openlineage.components import ComponentFacts
from airflow_provider_llmops.operators.judged import FURTHER_ADDRESSES, EvaluationOperator
from airflow_provider_llmops.uris import Address

__all__ = ["EvaluateServiceOperator"]


class EvaluateServiceOperator(EvaluationOperator):
    """Ask a service every evaluation row and score the answers: a deployed model, or any application behind an OpenAI-compatible endpoint.

    It is scored as by :class:`~airflow_provider_llmops.operators.evaluation.EvaluateModelOperator`, with the same artifacts and the same
    output ``comparison``. A row that the service does not answer has no score, and says why.

    Artifacts: ``scores`` (one JSON line a sample), ``report`` (page), and the same as ``report_json`` and ``report_markdown``.

    :param dataset: URI of rows with a ``prompt``, and what else the metrics need, which is a ``reference`` for most
    :param url: address of the service, as :class:`~airflow_provider_llmops.operators.serving.DeployModelOperator` pushes it, or base
        URL of an OpenAI API, which ends in ``/v1``; left out, that of ``openai_endpoint_conn_id``
    :param model_name: name of the served model
    :param baseline_scores: ``scores`` of another evaluation of the same rows, to compare with
    :param protocol: ``openai_chat``, ``openai_completions``, ``openai`` (a conversation by the first, a text by the second, as
        ``EvaluateModelOperator`` has them read), or KServe's ``v1`` or ``v2``
    :param request: further fields of each request, for example ``{"max_tokens": 64, "temperature": 0}``
    :param contexts: path in the reply to the texts that the service has looked up, such as ``sources.*.text``
    :param metric_names: metrics to compute, by name, or functions of allowed packages as ``module:function``; all that look at answer
        and reference alone when left out
    :param embedding_model: directory or ``package://name`` of the sentence-embedding model
    :param reward_model: URI of the reward model behind the metric ``reward``
    :param concurrency: questions at a time
    :param limits: ``request_seconds``, ``run_minutes``, ``attempts``, ``outage_seconds``, ``refused_in_a_row``,
        ``requests_per_minute``
    :param composites: weighted sums of metrics row by row, as ``EvaluateModelOperator`` takes them
    :param slices: columns by whose values rows are compared for themselves
    :param slice_metrics: metrics to compare in slices; the first when left out
    :param openai_endpoint_conn_id: connection of type ``openai_endpoint`` with the service's address and API key
    :param kserve_conn_id: without it, connection of type ``kserve`` whose password is the service's API key; the default one need not
        exist. Either key reaches the step through its environment only

    A judge has ``judge``, ``judge_conn_id`` and the like: :class:`~airflow_provider_llmops.operators.judged.JudgedOperator`; MLflow has
    ``mlflow_conn_id`` and ``tracking``: :class:`~airflow_provider_llmops.operators.judged.EvaluationOperator`.
    """

    component = "evaluate_service"
    lineage_facts = ComponentFacts(services=("url",))
    own_arguments = (*EvaluationOperator.own_arguments, "openai_endpoint_conn_id", "kserve_conn_id")
    addresses = {
        "dataset": Address(kind="file"),
        "baseline_scores": Address(kind="file"),
        **FURTHER_ADDRESSES,
        "embedding_model": Address(("package",), "directory"),
        "reward_model": Address(kind="directory"),
        "checkpoints": Address(kind="directory", exists=False),
    }

    def __init__(
        self,
        *,
        dataset: str,
        model_name: str,
        url: str | None = None,
        baseline_scores: str | None = None,
        protocol: str = "openai_chat",
        request: dict[str, Any] | None = None,
        contexts: str | None = None,
        metric_names: list[str] | None = None,
        embedding_model: str | None = None,
        reward_model: str | None = None,
        concurrency: int | str = 16,
        limits: dict[str, Any] | None = None,
        composites: dict[str, dict[str, float]] | None = None,
        slices: list[str] | None = None,
        slice_metrics: list[str] | None = None,
        openai_endpoint_conn_id: str | None = None,
        kserve_conn_id: str = KServeHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.model_name = model_name
        self.url = url
        self.baseline_scores = baseline_scores
        self.protocol = protocol
        self.request = request
        self.contexts = contexts
        self.metric_names = metric_names
        self.embedding_model = embedding_model
        self.reward_model = reward_model
        self.concurrency = concurrency
        self.limits = limits
        self.composites = composites
        self.slices = slices
        self.slice_metrics = slice_metrics
        self.openai_endpoint_conn_id = openai_endpoint_conn_id
        self.kserve_conn_id = kserve_conn_id

    def arguments(self) -> dict[str, Any]:
        """Value of each input of the component; addresses are those of the connections."""
        found = super().arguments()
        if self.openai_endpoint_conn_id:
            found["url"] = OpenAIEndpointHook(self.openai_endpoint_conn_id).with_url({"url": self.url})["url"]
        elif not self.url:
            raise ConfigurationError(
                "There is no service to ask. Give its address as url, or a connection that has it as openai_endpoint_conn_id."
            )
        return found

    def environment(self) -> dict[str, str]:
        """The API keys of service and judge, and the authorities that their certificates are verified with."""
        if self.openai_endpoint_conn_id:
            asked = OpenAIEndpointHook(self.openai_endpoint_conn_id).environment()
        else:
            asked = KServeHook(self.kserve_conn_id).access.environment()
        return {**super().environment(), **asked}
