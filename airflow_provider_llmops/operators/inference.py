"""Operators that use a service for work: answer a whole dataset, compare two revisions."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.kinds.probes import COMPARISON_ADDRESSES
from airflow_provider_llmops.links import ReportLink
from airflow_provider_llmops.openlineage.components import ComponentFacts
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink

__all__ = ["BatchInferenceOperator", "CompareRevisionsOperator"]


class BatchInferenceOperator(ComponentOperator):
    """Ask a service every row of a dataset, many at a time: each is answered, or listed with the reason why not.

    Fails when fewer than ``min_answered`` of the rows are answered, after both artifacts are pushed. Where the service stops to
    answer, the attempt fails, and a retry asks only what has no answer yet.

    Artifacts: ``answers`` (rows with their answer and how it came), ``rejected`` (rows with line number and reasons).

    :param dataset: URI of rows with a ``prompt``, text or a conversation, or with ``messages`` that end with a question
    :param url: address of the service, as :class:`~airflow_provider_llmops.operators.serving.DeployModelOperator` pushes it, or base
        URL of an OpenAI API, which ends in ``/v1``
    :param model_name: name of the served model
    :param protocol: ``openai_chat``, ``openai_completions``, ``openai`` (a conversation by the first, a text by the second, as
        ``EvaluateModelOperator`` has them read), or KServe's ``v1`` or ``v2``
    :param request: further fields of each request, for example ``{"max_tokens": 64, "temperature": 0}``
    :param concurrency: questions at a time
    :param limits: ``request_seconds``, ``run_minutes``, ``attempts``, ``outage_seconds``, ``refused_in_a_row``,
        ``requests_per_minute``
    :param min_answered: share of the rows, 0 to 1, that must be answered
    :param retry_failed: ask also those rows again that an earlier run with the same ``checkpoints`` was refused for good
    :param checkpoints: directory that outlives the run; a run that was killed goes on with the answers there. On this machine
        the attempts of a task share one by themselves
    :param kserve_conn_id: connection of type ``kserve`` whose password is the service's API key, which reaches the step through its
        environment only; the default one need not exist
    """

    component = "batch_inference"
    lineage_facts = ComponentFacts(
        services=("url",), rows={"dataset": "rows", "answers": "answered", "rejected": "failed"}
    )
    own_arguments = ("kserve_conn_id",)
    addresses = {
        "dataset": Address(kind="file"),
        "checkpoints": Address(kind="directory", exists=False),
    }
    ui_color = "#e6f4ea"

    def __init__(
        self,
        *,
        dataset: str,
        url: str,
        model_name: str,
        protocol: str = "openai_chat",
        request: dict[str, Any] | None = None,
        concurrency: int | str = 16,
        limits: dict[str, Any] | None = None,
        min_answered: float | str = 1.0,
        retry_failed: bool | str = False,
        checkpoints: str | None = None,
        kserve_conn_id: str = KServeHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.url = url
        self.model_name = model_name
        self.protocol = protocol
        self.request = request
        self.concurrency = concurrency
        self.limits = limits
        self.min_answered = min_answered
        self.retry_failed = retry_failed
        self.checkpoints = checkpoints
        self.kserve_conn_id = kserve_conn_id

    def environment(self) -> dict[str, str]:
        """The service's API key, and the authorities that its certificate is verified with."""
        return KServeHook(self.kserve_conn_id).access.environment()


class CompareRevisionsOperator(ComponentOperator):
    """Ask two revisions of a service the same questions at the same time, and compare their answers row by row.

    A row that one of them does not answer has no score; :class:`~airflow_provider_llmops.operators.evaluation.QualityGateOperator`, which
    decides by the output ``comparison``, passes no metric with such a row. :class:`~airflow_provider_llmops.operators.canary.CanaryOperator`
    does this comparison in each step by itself.

    Artifacts: ``scores`` (rows with both answers, their scores and seconds), ``report`` (page), ``worst`` (the rows that the revision answers
    worst against the baseline, as JSON).

    :param dataset: URI of rows with a ``prompt``, or with ``messages`` that end with a question, and a ``reference`` to score against
    :param url: address of the revision, or of a service on this machine, of which ``revision`` is asked
    :param model_name: name of the served model
    :param revision: name of the revision, where the address is that of a service on this machine
    :param baseline_url: address of the revision that it is compared with; the same when left out
    :param baseline_revision: name of that revision
    :param against: what answers are scored against: ``reference``, or ``baseline`` for the other revision's answer, which tells how far
        both agree; the reference if the rows have one, when left out
    :param metric_names: metrics to compute; all that need no judge when left out. The first orders the rows
    :param embedding_model: directory or ``package://name`` of the sentence-embedding model
    :param protocol: ``openai_chat``, ``openai_completions``, ``openai`` (a conversation by the first, a text by the second, as
        ``EvaluateModelOperator`` has them read), or KServe's ``v1`` or ``v2``
    :param request: further fields of each request, for example ``{"max_tokens": 64, "temperature": 0}``
    :param max_rows: ask only the first so many rows; all when left out
    :param concurrency: questions at a time, of each revision
    :param limits: as for :class:`BatchInferenceOperator`
    :param checkpoints: directory that outlives the run, likewise
    :param kserve_conn_id: connection of type ``kserve`` whose password is the service's API key, likewise
    """

    component = "compare_revisions"
    lineage_facts = ComponentFacts(services=("url", "baseline_url"))
    own_arguments = ("kserve_conn_id",)
    addresses = COMPARISON_ADDRESSES
    operator_extra_links: Collection[BaseOperatorLink] = (
        *ComponentOperator.operator_extra_links,
        ReportLink(),
    )
    ui_color = "#e6f4ea"

    def __init__(
        self,
        *,
        dataset: str,
        url: str,
        model_name: str,
        revision: str | None = None,
        baseline_url: str | None = None,
        baseline_revision: str | None = None,
        against: str | None = None,
        metric_names: list[str] | None = None,
        embedding_model: str | None = None,
        protocol: str = "openai_chat",
        request: dict[str, Any] | None = None,
        max_rows: int | str | None = None,
        concurrency: int | str = 8,
        limits: dict[str, Any] | None = None,
        checkpoints: str | None = None,
        kserve_conn_id: str = KServeHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.url = url
        self.model_name = model_name
        self.revision = revision
        self.baseline_url = baseline_url
        self.baseline_revision = baseline_revision
        self.against = against
        self.metric_names = metric_names
        self.embedding_model = embedding_model
        self.protocol = protocol
        self.request = request
        self.max_rows = max_rows
        self.concurrency = concurrency
        self.limits = limits
        self.checkpoints = checkpoints
        self.kserve_conn_id = kserve_conn_id

    def environment(self) -> dict[str, str]:
        """The service's API key, and the authorities that its certificate is verified with."""
        return KServeHook(self.kserve_conn_id).access.environment()
