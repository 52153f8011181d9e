"""Operators that use a service for work: answer a whole dataset."""

from __future__ import annotations

from typing import Any

from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.uris import Address

__all__ = ["BatchInferenceOperator"]


class BatchInferenceOperator(ComponentOperator):
    """Ask a service every row of a dataset, many at a time: each is answered, or listed with the reason why not.

    Fails when fewer than ``min_answered`` of the rows are answered, after both artifacts are pushed. Where the service stops to
    answer, the attempt fails, and a retry asks only what has no answer yet.

    Artifacts: ``answers`` (rows with their answer and how it came), ``rejected`` (rows with line number and reasons).

    :param dataset: URI of rows with a ``prompt``, text or a conversation, or with ``messages`` that end with a question
    :param url: address of the service, as :class:`~airflow_provider_llmops.operators.serving.DeployModelOperator` pushes it, or base
        URL of an OpenAI API, which ends in ``/v1``
    :param model_name: name of the served model
    :param protocol: ``openai_chat``, ``openai_completions``, or KServe's ``v1`` or ``v2``
    :param request: further fields of each request, for example ``{"max_tokens": 64, "temperature": 0}``
    :param concurrency: questions at a time
    :param limits: ``request_seconds``, ``run_minutes``, ``attempts``, ``outage_seconds``, ``refused_in_a_row``
    :param min_answered: share of the rows, 0 to 1, that must be answered
    :param retry_failed: ask also those rows again that an earlier run with the same ``checkpoints`` was refused for good
    :param checkpoints: directory that outlives the run; a run that was killed goes on with the answers there. On this machine
        the attempts of a task share one by themselves
    :param kserve_conn_id: connection of type ``kserve`` whose password is the service's API key, which reaches the step through its
        environment only; the default one need not exist
    """

    component = "batch_inference"
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
