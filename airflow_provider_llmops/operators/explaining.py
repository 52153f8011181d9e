"""Operator that says what speaks for a model's answers."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.links import ReportLink
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink

__all__ = ["ExplainAnswersOperator"]


class ExplainAnswersOperator(ComponentOperator):
    """Say of the worst answers of an evaluation which contexts, and which training rows, speak for them.

    Contexts: how much less likely the answer is to the model when one is left out of the prompt. Training rows: those whose question and
    answer are closest by sentence embeddings, which is where to look first, and no proof of what the model has learned from.

    Artifacts: ``explanations`` (a JSON line an answer), ``report`` (page).

    :param model: URI of the model that was evaluated
    :param dataset: URI of the rows that it was evaluated on
    :param scores: URI of ``scores`` of that evaluation
    :param training_data: URI of rows that the model was trained on; contexts alone are looked at when left out
    :param metric_name: metric by which the answers are the worst; the first of the scores when left out
    :param higher_is_better: whether a higher score of it is the better one; needed where it is a function or a composite
    :param samples: how many answers, 1 to 200
    :param training_rows: how many training rows an answer, 1 to 50
    :param embedding_model: directory or ``package://name`` of the sentence-embedding model
    :param batch_size: answers that the model looks at together
    """

    component = "explain_answers"
    addresses = {
        "model": Address(kind="directory"),
        "dataset": Address(kind="file"),
        "scores": Address(kind="file"),
        "training_data": Address(kind="file"),
        "embedding_model": Address(("package",), "directory"),
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
        scores: str,
        training_data: str | None = None,
        metric_name: str | None = None,
        higher_is_better: bool | str | None = None,
        samples: int | str = 10,
        training_rows: int | str = 3,
        embedding_model: str | None = None,
        batch_size: int | str = 16,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.dataset = dataset
        self.scores = scores
        self.training_data = training_data
        self.metric_name = metric_name
        self.higher_is_better = higher_is_better
        self.samples = samples
        self.training_rows = training_rows
        self.embedding_model = embedding_model
        self.batch_size = batch_size
