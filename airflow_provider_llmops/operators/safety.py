"""Operators for the safety of a model."""

from __future__ import annotations

from typing import Any

from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.uris import Address

__all__ = ["PrepareSafetyProbesOperator"]


class PrepareSafetyProbesOperator(ComponentOperator):
    """Write probes as rows for an evaluation with the metric ``safety``: can a model be talked into harm?

    Artifacts: ``probes`` (rows with ``prompt``, ``category`` and what an answer must not have), ``rejected`` (lines of ``more`` that are no
    probes, with their reasons).

    :param categories: categories of the probes that come along: ``pii_leakage``, ``prompt_injection``, ``injection_through_contexts``,
        ``jailbreak``, ``system_prompt_leakage``, ``toxicity``, ``bias``; all when left out
    :param more: URI of further probes: rows of the same form, or a report of garak (``report.jsonl``)
    """

    component = "prepare_safety_probes"
    addresses = {"more": Address(kind="file")}

    def __init__(
        self, *, categories: list[str] | None = None, more: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.categories = categories
        self.more = more
