"""Great Expectations on polars: an execution engine, and the data source that gives it its tables.

GX judges by pandas, Spark or SQL. Its expectations ask an engine whether it is the one of pandas, since that decides how
types are told, and this one answers as that one does: it is a kind of it, whose tables are polars'. None of pandas' own
metrics runs on them: what this engine can compute is registered in :mod:`~llmops_components.data.validation.metrics`, and
any other is refused by its name.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import polars as pl
from great_expectations.core.batch import BatchData, BatchMarkers
from great_expectations.core.metric_function_types import MetricFunctionTypes, MetricPartialFunctionTypes
from great_expectations.datasource.fluent import BatchRequest
from great_expectations.datasource.fluent.interfaces import DataAsset
from great_expectations.datasource.fluent.pandas_datasource import DataFrameAsset, PandasDatasource
from great_expectations.exceptions import InvalidMetricAccessorDomainKwargsKeyError, MetricResolutionError
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.registry import register_metric
from great_expectations.validator.metric_configuration import MetricConfiguration

from llmops_components.data.validation.tables import Table, objects_of

_COMPUTED: set[str] = set()


class Column:
    """One column of a table.

    Args:
        name: Its name.
        series: Its values.
        encoded: Whether they are JSON text, see :class:`~llmops_components.data.validation.tables.Table`.
    """

    def __init__(self, name: str, series: pl.Series, encoded: bool) -> None:
        self.name, self.series, self.encoded = name, series, encoded

    @property
    def missing(self) -> pl.Series:
        """Which values are null or, as pandas counts them, no number (NaN)."""
        missing = self.series.is_null()
        return missing | self.series.is_nan().fill_null(False) if self.series.dtype.is_float() else missing

    def present(self) -> Column:
        """The column without what is missing."""
        missing = self.missing
        return Column(self.name, self.series.filter(~missing), self.encoded) if missing.any() else self

    def objects(self) -> list[Any]:
        """The values as Python's objects."""
        return objects_of(self.series, self.encoded)


class PolarsBatchData(BatchData):
    """A table that GX has been given.

    Args:
        execution_engine: The engine.
        table: The table.
    """

    def __init__(self, execution_engine: Any, table: Table) -> None:
        super().__init__(execution_engine=execution_engine)
        self.table = table


class PolarsExecutionEngine(PandasExecutionEngine):
    """Computes GX's metrics on tables of polars."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._remembered: dict[Any, Any] = {}
        super().__init__(*args, **kwargs)

    def load_batch_data(self, batch_id: str, batch_data: Any) -> None:
        """Keep a table under an id."""
        if isinstance(batch_data, Table):
            batch_data = PolarsBatchData(self, batch_data)
        self._batch_manager.save_batch_data(batch_id=batch_id, batch_data=batch_data)

    def get_batch_data_and_markers(self, batch_spec: Any) -> tuple[Any, BatchMarkers]:
        """The table of a batch request, and when it was loaded."""
        table, batch_spec.batch_data = batch_spec.batch_data, "PolarsTable"
        loaded = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        return PolarsBatchData(self, table), BatchMarkers({"ge_load_time": loaded})

    def resolve_metrics(
        self,
        metrics_to_resolve: Iterable[MetricConfiguration],
        metrics: Any = None,
        runtime_configuration: dict[str, Any] | None = None,
    ) -> Any:
        """Compute metrics; those that are pandas' alone are refused."""
        wanted = list(metrics_to_resolve)
        for metric in wanted:
            if metric.metric_name not in _COMPUTED:
                raise MetricResolutionError(
                    message=f"The metric {metric.metric_name} is none that is computed here.",
                    failed_metrics=(metric,),
                )
        return super().resolve_metrics(wanted, metrics, runtime_configuration)

    def table(self, domain: Mapping[str, Any]) -> Table:
        """The table that a metric is about.

        Args:
            domain: The metric's domain, as GX writes it.
        """
        if domain.get("row_condition"):
            raise NotImplementedError(
                "row_condition is not taken here: give a dataset of the rows that are meant."
            )
        batch_id = domain.get("batch_id") or self.batch_manager.active_batch_data_id
        return self.batch_manager.batch_data_cache[batch_id].table  # type: ignore[union-attr, index]

    def column(self, domain: Mapping[str, Any]) -> Column:
        """The column that a metric is about."""
        table, name = self.table(domain), domain["column"]
        if name not in table.frame.columns:
            raise InvalidMetricAccessorDomainKwargsKeyError(f'The column "{name}" does not exist.')
        return Column(name, table.frame[name], name in table.encoded)

    def remembered(self, key: Any, compute: Callable[[], Any]) -> Any:
        """What several metrics need, computed once.

        Args:
            key: What it is, with the table that it is about.
            compute: Computes it.
        """
        if key not in self._remembered:
            self._remembered[key] = compute()
        return self._remembered[key]

    def unexpected_rows(self, condition: MetricConfiguration) -> tuple[pl.Series, pl.Series | None] | None:
        """Which rows an expectation that was judged does not take, and why where it says so; None where it does not judge
        by row.

        Args:
            condition: Its metric that ends with ``.condition``.
        """
        found = self._metric_cache.get(condition.id)  # type: ignore[union-attr]
        return None if found is None else (found[0], found[3] if len(found) > 3 else None)


def register(
    name: str,
    provider: Any,
    compute: Callable[..., Any],
    domain_keys: Sequence[str],
    value_keys: Sequence[str] = (),
    *,
    condition: bool = False,
) -> None:
    """Register a metric of the engine with GX.

    Args:
        name: The metric's name.
        provider: GX's class of it, which knows what else it needs.
        compute: Computes it.
        domain_keys: What says which column it is about.
        value_keys: Its arguments.
        condition: Whether it says which rows are unexpected.
    """
    kind: Any = MetricPartialFunctionTypes.MAP_CONDITION_SERIES if condition else MetricFunctionTypes.VALUE
    register_metric(
        metric_name=name,
        metric_domain_keys=tuple(domain_keys),
        metric_value_keys=tuple(value_keys),
        execution_engine=PolarsExecutionEngine,
        metric_class=provider,
        metric_provider=compute,
        metric_fn_type=kind,
    )
    _COMPUTED.add(name)


class PolarsTableAsset(DataFrameAsset):
    """A table of polars, given with the batch request as ``dataframe``."""

    type: Literal["polars_table"] = "polars_table"  # type: ignore[assignment]

    def build_batch_request(
        self, options: Any = None, batch_slice: Any = None, partitioner: Any = None
    ) -> BatchRequest:
        """What GX asks for when it wants the table."""
        return BatchRequest(datasource_name=self.datasource.name, data_asset_name=self.name, options=options)

    def _validate_batch_request(self, batch_request: BatchRequest) -> None:
        if not isinstance(batch_request.options.get("dataframe"), Table):
            raise TypeError("The batch request has no table: give it as `dataframe`.")


class PolarsDatasource(PandasDatasource):
    """Tables of polars for GX: ``context.data_sources.add_polars(name)``."""

    ADD_READER_METHODS: ClassVar[bool] = False
    asset_types: ClassVar[Sequence[type[DataAsset]]] = [PolarsTableAsset]

    type: Literal["polars"] = "polars"  # type: ignore[assignment]
    assets: list[PolarsTableAsset] = []  # type: ignore[assignment]

    @property
    def execution_engine_type(self) -> type[PandasExecutionEngine]:
        """The engine."""
        return PolarsExecutionEngine
