"""Operators for versions of datasets: what two of them differ in."""

from __future__ import annotations

from typing import Any

from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.uris import Address

__all__ = ["DiffDatasetsOperator"]


class DiffDatasetsOperator(ComponentOperator):
    """Tell which rows were added, removed and changed between two versions, and how columns and lengths have shifted.

    Rows are matched by their column ``row_id`` where every row of both has one of its own, else by their content. The task
    succeeds whatever the differences are.

    Artifacts: ``difference`` (Markdown), ``difference_json``. Metrics: ``rows_before``, ``rows_after``, ``rows_added``,
    ``rows_removed``, ``rows_changed``, ``rows_unchanged``. ``return_value["details"]`` holds ``matched_by``, ``same_rows`` and
    ``digests``.

    :param before: URI of the rows of the one version
    :param after: URI of the rows of the other
    :param examples: how many rows of each kind are shown, 0 to 200
    """

    component = "diff_datasets"
    addresses = {"before": Address(kind="file"), "after": Address(kind="file")}

    def __init__(self, *, before: str, after: str, examples: int | str = 20, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.before = before
        self.after = after
        self.examples = examples
