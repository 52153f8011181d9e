"""Operators for versions of datasets: what two of them differ in, and whether new rows have drifted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import AssetAlias

from airflow_provider_llmops.arguments import names_of
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.openlineage.components import ComponentFacts, passed_checks
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import Asset, Context

    from airflow_provider_llmops.backends.pipelines.base import Run
    from airflow_provider_llmops.specs.pipeline import BoundPipeline

__all__ = ["DiffDatasetsOperator", "MonitorDataOperator"]


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
    lineage_facts = ComponentFacts(rows={"before": "rows_before", "after": "rows_after"})
    addresses = {"before": Address(kind="file"), "after": Address(kind="file")}

    def __init__(self, *, before: str, after: str, examples: int | str = 20, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.before = before
        self.after = after
        self.examples = examples


class MonitorDataOperator(ComponentOperator):
    """Compare new rows with a reference; fails where they have drifted, or where too few rows say anything.

    Compared are columns that are missing in some rows, characters and words of texts, the shares of categories, embeddings where a model is
    given, and whether a classifier tells both apart. A check fails or warns by its effect, and only where that is no chance.

    The outcome is ``fail``, ``warn``, ``undecided`` or ``pass``, the worst of all checks. Events of assets among ``outlets`` have ``outcome`` and
    ``drifted`` (the names of the checks that fail or warn) as extra. ``return_value["details"]`` holds ``outcome`` and ``checks``.

    Artifacts: ``drift`` (Markdown), ``drift_json``. They are pushed before the task fails.

    :param dataset: URI of the new rows
    :param reference: URI of the rows that they are compared with
    :param categories: columns whose values are compared as categories
    :param thresholds: by kind of check (``columns``, ``length``, ``category``, ``vocabulary``, ``classifier``, ``embedding``) the effects from which on
        it warns and fails, from 0 to 1: ``{"length": {"warn": 0.15, "fail": 0.3}}``
    :param min_rows: rows that each side has to have for a check, 50 or more
    :param sample_rows: rows of each side whose words and embeddings are compared
    :param embedding_model: directory or ``package://name`` of a sentence-embedding model; embeddings are not compared without one
    :param on_drift: ``fail``, or ``report`` for a task that succeeds whatever was found
    :param seed: chooses the sample
    :param drift_asset: asset that gets an event where the outcome is ``fail`` or ``warn``, and none otherwise; it takes ``on_drift="report"``,
        since a task that fails gives no events
    """

    component = "monitor_data"
    lineage_facts = ComponentFacts(
        checks=lambda result: {"dataset": passed_checks(result.details.get("checks"))},
    )
    own_arguments = ("drift_asset",)
    addresses = {
        "dataset": Address(kind="file"),
        "reference": Address(kind="file"),
        "embedding_model": Address(("package",), "directory"),
    }

    def __init__(
        self,
        *,
        dataset: str,
        reference: str,
        categories: Sequence[str] | str | None = None,
        thresholds: Mapping[str, Mapping[str, float]] | None = None,
        min_rows: int | str = 200,
        sample_rows: int | str = 2000,
        embedding_model: str | None = None,
        on_drift: str = "fail",
        seed: int | str = 0,
        drift_asset: Asset | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.reference = reference
        self.categories = categories
        self.thresholds = thresholds
        self.min_rows = min_rows
        self.sample_rows = sample_rows
        self.embedding_model = embedding_model
        self.on_drift = on_drift
        self.seed = seed
        self.drift_asset = drift_asset
        if drift_asset is not None:
            # Airflow gives an event of every outlet when a task succeeds; that of an alias is given only where one is added.
            self.outlets = [*self.outlets, _alias_of(drift_asset)]

    template_fields = (
        *ComponentOperator.template_fields,
        *(each for each in names_of(__init__) if each != "drift_asset"),
    )

    def bind(self) -> BoundPipeline:
        """The component as a pipeline; refuses an asset that would never get an event."""
        if self.drift_asset is not None and self.on_drift != "report":
            raise ConfigurationError(
                'drift_asset takes on_drift="report": a task that fails because of drift gives no event. Set it, or leave drift_asset out.'
            )
        return super().bind()

    def outcome(self, context: Context, run: Run) -> dict[str, Any]:
        """The result; events of assets say what was found."""
        value = super().outcome(context, run)
        details = value["details"]
        found = details["outcome"]
        drifted = [name for name, outcome in details["checks"].items() if outcome in ("fail", "warn")]
        extra = {"outcome": found, "drifted": drifted}
        self.tell_assets(context, extra)
        if self.drift_asset is not None and drifted:
            context["outlet_events"][_alias_of(self.drift_asset)].add(self.drift_asset, extra=extra)
        return value


def _alias_of(asset: Asset) -> AssetAlias:
    return AssetAlias(f"drift:{asset.name}")
