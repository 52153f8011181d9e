"""What the engine on polars computes of whole tables and columns: counts, types, sums and proportions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from great_expectations.expectations.metrics import column_aggregate_metrics as aggregates
from great_expectations.expectations.metrics import table_metrics as tables

from llmops_components.data.validation.engine import PolarsExecutionEngine, register


def _column_types(
    execution_engine: PolarsExecutionEngine, metric_domain_kwargs: dict[str, Any], **_: Any
) -> list[dict[str, Any]]:
    """The types as NumPy has them; numbers with nulls between them are objects, as which pandas can hold both."""
    table = execution_engine.table(metric_domain_kwargs)
    types = {pl.Float64: "float64", pl.Int64: "int64", pl.Boolean: "bool"}
    return [
        {
            "name": each.name,
            "type": np.dtype(
                "object"
                if each.name in table.encoded or (each.null_count() and each.dtype != pl.Float64)
                else types.get(each.dtype, "object")  # type: ignore[call-overload]
            ),
        }
        for each in table.frame.iter_columns()
    ]


def _columns(metrics: dict[str, Any], **_: Any) -> list[str]:
    return [each["name"] for each in metrics["table.column_types"]]


def _column_count(metrics: dict[str, Any], **_: Any) -> int:
    return len(metrics["table.columns"])


def _row_count(
    execution_engine: PolarsExecutionEngine, metric_domain_kwargs: dict[str, Any], **_: Any
) -> int:
    return execution_engine.table(metric_domain_kwargs).frame.height


def _aggregate(
    compute: Callable[[Any], Any],
    execution_engine: PolarsExecutionEngine,
    metric_domain_kwargs: dict[str, Any],
    **_: Any,
) -> Any:
    """A number of the numbers in a column, by NumPy, whose sums are pandas' to the last bit."""
    column = execution_engine.column(metric_domain_kwargs)
    if column.encoded or column.series.dtype == pl.String:
        raise TypeError(f"{column.name} does not hold numbers alone.")
    present = column.present().series
    values = (present.cast(pl.Int64) if present.dtype == pl.Boolean else present).to_numpy()
    if column.series.dtype.is_float():  # what is missing is added as 0, which pairs the others as pandas does
        values = column.series.fill_nan(0).fill_null(0).to_numpy() if compute in (_sum, _mean) else values
    return compute((values, len(present)))


def _sum(numbers: tuple[Any, int]) -> Any:
    return numbers[0].sum().item() if numbers[1] else 0


def _mean(numbers: tuple[Any, int]) -> float:
    return float(numbers[0].sum() / numbers[1]) if numbers[1] else math.nan


def _min(numbers: tuple[Any, int]) -> Any:
    return numbers[0].min().item() if numbers[1] else math.nan


def _max(numbers: tuple[Any, int]) -> Any:
    return numbers[0].max().item() if numbers[1] else math.nan


def _distinct(execution_engine: PolarsExecutionEngine, metric_domain_kwargs: dict[str, Any], **_: Any) -> int:
    column = execution_engine.column(metric_domain_kwargs).present()
    return pd.Series(column.objects(), dtype=object).nunique() if column.encoded else column.series.n_unique()


def _non_null_count(
    execution_engine: PolarsExecutionEngine, metric_domain_kwargs: dict[str, Any], **_: Any
) -> int:
    return int((~execution_engine.column(metric_domain_kwargs).missing).sum())


def _unique_proportion(metrics: dict[str, Any], **_: Any) -> float:
    return aggregates.column_proportion_of_unique_values.unique_proportion(metrics)


def _non_null_proportion(metrics: dict[str, Any], **_: Any) -> float:
    return aggregates.column_proportion_of_non_null_values.nonnull_proportion(metrics)


def register_aggregates() -> None:
    """Register all of them with GX."""
    for table, compute, values in (
        (tables.ColumnTypes, _column_types, ("include_nested",)),
        (tables.TableColumns, _columns, ()),
        (tables.TableColumnCount, _column_count, ()),
        (tables.TableRowCount, _row_count, ()),
    ):
        register(table.metric_name, table, compute, table.domain_keys, values)
    for column, reduce in (
        (aggregates.ColumnSum, partial(_aggregate, _sum)),
        (aggregates.ColumnMean, partial(_aggregate, _mean)),
        (aggregates.ColumnMin, partial(_aggregate, _min)),
        (aggregates.ColumnMax, partial(_aggregate, _max)),
        (aggregates.ColumnDistinctValuesCount, _distinct),
        (aggregates.column_non_null_count.ColumnNonNullCount, _non_null_count),
        (aggregates.column_proportion_of_unique_values.ColumnUniqueProportion, _unique_proportion),
        (aggregates.column_proportion_of_non_null_values.ColumnNonNullProportion, _non_null_proportion),
    ):
        register(column.metric_name, column, reduce, column.domain_keys, column.value_keys)
