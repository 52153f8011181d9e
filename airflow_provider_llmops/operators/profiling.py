"""Operator that says what is in a data set."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.links import ProfileLink
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink

__all__ = ["ProfileDatasetOperator"]


class ProfileDatasetOperator(ComponentOperator):
    """Say what is in a data set: formats, columns, lengths, languages, duplicates, words, clusters and quality.

    The task succeeds whatever it finds. What deserves a look, as copies, several formats or languages, is in ``return_value["findings"]``.
    Lines that are no rows are counted and left out.

    Artifacts: ``profile`` (page), ``profile_json``. Metrics: ``rows``, ``bad_lines``, ``exact_duplicates``, ``near_duplicates_of_sample``,
    ``different_words_of_sample``, and ``rows_in_both`` where another data set is compared. ``return_value["details"]`` holds ``formats``, ``columns``,
    ``languages`` and ``sample_rows``.

    :param dataset: URI of rows, in any format
    :param compared: URI of other rows, as of another split: what words and rows both have
    :param base_model: URI of the model whose tokens are counted
    :param sample_rows: rows of the sample of which words, tokens, languages, near duplicates, clusters and quality are told, 100 to 200,000
    :param seed: chooses the sample
    """

    component = "profile_dataset"
    addresses = {
        "dataset": Address(kind="file"),
        "compared": Address(kind="file"),
        "base_model": Address(kind="directory"),
    }
    operator_extra_links: Collection[BaseOperatorLink] = (
        *ComponentOperator.operator_extra_links,
        ProfileLink(),
    )

    def __init__(
        self,
        *,
        dataset: str,
        compared: str | None = None,
        base_model: str | None = None,
        sample_rows: int | str = 20_000,
        seed: int | str = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.compared = compared
        self.base_model = base_model
        self.sample_rows = sample_rows
        self.seed = seed
