"""What the engine on polars computes: GX's metrics of tables and columns, with the verdicts of its pandas engine.

Values that polars holds as what they are (text, numbers, true or false) are judged by polars. Columns of lists, of objects
and of values of several kinds are judged value by value, by GX's own metric of pandas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.metrics import column_map_metrics as maps
from great_expectations.expectations.metrics.map_metric_provider import ColumnMapMetricProvider
from great_expectations.expectations.registry import get_metric_provider

from llmops_components.data.validation.aggregates import register_aggregates
from llmops_components.data.validation.engine import Column, PolarsExecutionEngine, register
from llmops_components.data.validation.patterns import linear_pattern
from llmops_components.data.validation.tables import objects_of

Judge = Callable[..., pl.Series]
_SHOWN = 200
_SHOWN_CHARACTERS = 1000


def register_condition(provider: type[ColumnMapMetricProvider], unexpected: Callable[..., Any]) -> None:
    """Register a metric that judges row by row, and all that GX tells of what it finds.

    Args:
        provider: GX's class of the metric.
        unexpected: Called as GX calls a metric; returns which rows of the whole column are unexpected.
    """
    name, domain, values = (
        provider.condition_metric_name,  # type: ignore[attr-defined]
        provider.condition_domain_keys,
        provider.condition_value_keys,
    )
    register(f"{name}.condition", provider, unexpected, domain, values, condition=True)
    register(f"{name}.unexpected_count", provider, _unexpected_count, domain, values)
    for suffix, compute in (
        ("unexpected_values", _unexpected_values),
        ("unexpected_index_list", _unexpected_index),
        ("unexpected_index_query", _no_query),
        ("unexpected_rows", _unexpected_rows),
    ):
        register(f"{name}.{suffix}", provider, compute, domain, (*values, "result_format"))


def register_reasons(provider: type[ColumnMapMetricProvider], reasons: Callable[..., pl.Series]) -> None:
    """Register a metric that says of each row why it is unexpected; GX then tells the reasons in place of values.

    Args:
        provider: GX's class of the metric.
        reasons: Called as GX calls a metric; returns a reason for each row, null where there is none.
    """

    def unexpected(metric_domain_kwargs: dict[str, Any], **given: Any) -> tuple[Any, ...]:
        found = reasons(metric_domain_kwargs=metric_domain_kwargs, **given)
        return found.is_not_null(), metric_domain_kwargs, {"column": metric_domain_kwargs["column"]}, found

    register_condition(provider, unexpected)


def _unexpected_count(metrics: dict[str, Any], **_: Any) -> int:
    return int(metrics["unexpected_condition"][0].sum())


def _limit(metric_value_kwargs: dict[str, Any]) -> int | None:
    wanted = metric_value_kwargs["result_format"]
    complete = wanted["result_format"] == "COMPLETE"
    return _SHOWN if complete else min(wanted["partial_unexpected_count"], _SHOWN)


def _unexpected_values(
    execution_engine: PolarsExecutionEngine,
    metric_domain_kwargs: dict[str, Any],
    metric_value_kwargs: dict[str, Any],
    metrics: dict[str, Any],
    **_: Any,
) -> list[Any]:
    column = execution_engine.column(metric_domain_kwargs)
    mask, _, _, *reasons = metrics["unexpected_condition"]
    values = reasons[0] if reasons else column.series
    found = values.filter(mask).head(_limit(metric_value_kwargs))
    return [_shown(each) for each in objects_of(found, column.encoded and not reasons)]


def _shown(value: Any) -> Any:
    """A value that is told; of a long text, its start."""
    return (
        f"{value[:_SHOWN_CHARACTERS]}\u2026"
        if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS
        else value
    )


def _unexpected_index(
    execution_engine: PolarsExecutionEngine,
    metric_domain_kwargs: dict[str, Any],
    metric_value_kwargs: dict[str, Any],
    metrics: dict[str, Any],
    **_: Any,
) -> list[Any]:
    wanted = metric_value_kwargs["result_format"]
    table = execution_engine.table(metric_domain_kwargs)
    mask, _, _, *reasons = metrics["unexpected_condition"]
    limit = None if wanted["result_format"] == "COMPLETE" else wanted["partial_unexpected_count"]
    ids = wanted.get("unexpected_index_column_names")
    if not ids:
        found = mask.arg_true()
        return (found if limit is None else found.head(limit)).to_list()
    shown = () if wanted.get("exclude_unexpected_values") or reasons else (metric_domain_kwargs["column"],)
    names = list(dict.fromkeys((*shown, *ids)))
    part = table.frame.select(names).filter(mask)
    part = part if limit is None else part.head(limit)
    columns = [list(map(_shown, objects_of(part[name], name in table.encoded))) for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _unexpected_rows(
    execution_engine: PolarsExecutionEngine,
    metric_domain_kwargs: dict[str, Any],
    metric_value_kwargs: dict[str, Any],
    metrics: dict[str, Any],
    **_: Any,
) -> list[dict[str, Any]]:
    frame = execution_engine.table(metric_domain_kwargs).frame
    return frame.filter(metrics["unexpected_condition"][0]).head(_limit(metric_value_kwargs)).to_dicts()


def _no_query(**_: Any) -> None:
    """Of pandas it is the list of all indices once more."""


def _judged(
    judge: Judge,
    execution_engine: PolarsExecutionEngine,
    metric_domain_kwargs: dict[str, Any],
    metric_value_kwargs: dict[str, Any],
    **_: Any,
) -> tuple[pl.Series, dict[str, Any], dict[str, Any]]:
    """Which rows are unexpected by a judge of those values that are not missing."""
    column = execution_engine.column(metric_domain_kwargs)
    missing = column.missing
    arguments = {name: value for name, value in metric_value_kwargs.items() if name != "result_format"}
    verdict = ~judge(column.present(), **arguments)
    if missing.any():
        unexpected = np.zeros(len(missing), dtype=bool)
        unexpected[(~missing).to_numpy()] = verdict.to_numpy()
        verdict = pl.Series(unexpected)
    domain = {name: value for name, value in metric_domain_kwargs.items() if name != "column"}
    return verdict, domain, {"column": column.name}


def _missing(
    want_missing: bool,
    execution_engine: PolarsExecutionEngine,
    metric_domain_kwargs: dict[str, Any],
    **_: Any,
) -> tuple[pl.Series, dict[str, Any], dict[str, Any]]:
    missing = execution_engine.column(metric_domain_kwargs).missing
    domain = {name: value for name, value in metric_domain_kwargs.items() if name != "column"}
    return ~missing if want_missing else missing, domain, {"column": metric_domain_kwargs["column"]}


def _by_pandas(metric: str, column: Column, **arguments: Any) -> pl.Series:
    """GX's own verdicts on values as Python's objects."""
    frame = pd.DataFrame({column.name: pd.Series(column.objects(), dtype=object)})
    engine = PandasExecutionEngine(batch_data_dict={"rows": frame})
    provider, compute = get_metric_provider(f"{metric}.condition", engine)
    unexpected, _, _ = compute(
        cls=provider,
        execution_engine=engine,
        metric_domain_kwargs={"column": column.name, "batch_id": "rows"},
        metric_value_kwargs=arguments,
        metrics={"table.columns": [column.name]},
        runtime_configuration={},
    )
    return ~pl.Series(np.asarray(unexpected, dtype=bool))


def _all(length: int, verdict: bool) -> pl.Series:
    return pl.Series([verdict], dtype=pl.Boolean).new_from_index(0, length)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _between(
    column: Column,
    min_value: Any = None,
    max_value: Any = None,
    strict_min: bool | None = None,
    strict_max: bool | None = None,
) -> pl.Series:
    bounds = [each for each in (min_value, max_value) if each is not None]
    if not bounds:
        raise ValueError("min_value and max_value cannot both be None")
    if len(bounds) == 2 and min_value > max_value:
        raise ValueError("min_value cannot be greater than max_value")
    series = column.series
    is_text = series.dtype == pl.String
    if column.encoded or not len(series):
        return _by_pandas(
            "column_values.between",
            column,
            min_value=min_value,
            max_value=max_value,
            strict_min=strict_min,
            strict_max=strict_max,
        )
    if any(isinstance(each, str) != is_text or not (is_text or _is_number(each)) for each in bounds):
        raise TypeError(
            f"{column.name} holds {'text' if is_text else 'numbers'}, so min_value and max_value have to be that, too."
        )
    return _within(series, min_value, max_value, bool(strict_min), bool(strict_max))


def _within(series: pl.Series, low: Any, high: Any, strict_low: bool, strict_high: bool) -> pl.Series:
    if series.dtype == pl.Boolean:
        series = series.cast(pl.Int64)
    if series.dtype.is_integer():  # a bound that polars' integers cannot hold is far beyond all of them
        low, high = (
            float(each) if isinstance(each, int) and abs(each) >= 1 << 63 else each for each in (low, high)
        )
    verdict = _all(len(series), True)
    if low is not None:
        verdict = series > low if strict_low else series >= low
    if high is not None:
        verdict = verdict & (series < high if strict_high else series <= high)
    return verdict


def _in_set(column: Column, value_set: Any = None) -> pl.Series:
    series = column.series
    if value_set is None:
        return _all(len(series), True)
    if column.encoded or not len(series):
        return _by_pandas("column_values.in_set", column, value_set=list(value_set))
    if series.dtype == pl.String:
        return series.is_in([each for each in value_set if isinstance(each, str)])
    if series.dtype == pl.Boolean:
        series = series.cast(pl.Int64)
    numbers = [each for each in value_set if _is_number(each) and math.isfinite(each)]
    if series.dtype.is_float():
        return series.is_in([float(each) for each in value_set if _is_number(each)])
    whole = [int(each) for each in numbers if each == int(each) and -(1 << 63) <= each < 1 << 63]
    return series.is_in(whole)


def _not_in_set(column: Column, value_set: Any = None) -> pl.Series:
    return _all(len(column.series), True) if value_set is None else ~_in_set(column, value_set)


def _unique(column: Column) -> pl.Series:
    return _by_pandas("column_values.unique", column) if column.encoded else column.series.is_unique()


def _texts(column: Column) -> pl.Series:
    """The values as pandas writes them."""
    if column.series.dtype == pl.String and not column.encoded:
        return column.series
    return pl.Series(map(str, column.objects()), dtype=pl.String)


def _match(column: Column, regex: str) -> pl.Series:
    return _texts(column).str.contains(linear_pattern(regex))


def _not_match(column: Column, regex: str) -> pl.Series:
    return ~_match(column, regex)


def _length_between(
    column: Column,
    min_value: Any = None,
    max_value: Any = None,
    strict_min: bool | None = None,
    strict_max: bool | None = None,
) -> pl.Series:
    if min_value is None and max_value is None:
        raise ValueError("min_value and max_value cannot both be None")
    lengths = _texts(column).str.len_chars().cast(pl.Int64)
    return _within(lengths, min_value, max_value, bool(strict_min), bool(strict_max))


def _length_equals(column: Column, value: Any) -> pl.Series:
    return _texts(column).str.len_chars().cast(pl.Int64) == value


def _of_type(metric: str, column: Column, **arguments: Any) -> pl.Series:
    """Values of a column that is not encoded are all of the type of its first."""
    first = Column(column.name, column.series.head(1), encoded=False)
    if column.encoded or not len(column.series):
        return _by_pandas(metric, column, **arguments)
    return _all(len(column.series), bool(_by_pandas(metric, first, **arguments)[0]))


_JUDGES: dict[type[ColumnMapMetricProvider], Judge] = {
    maps.ColumnValuesBetween: _between,
    maps.ColumnValuesInSet: _in_set,
    maps.ColumnValuesNotInSet: _not_in_set,
    maps.ColumnValuesUnique: _unique,
    maps.ColumnValuesMatchRegex: _match,
    maps.ColumnValuesNotMatchRegex: _not_match,
    maps.ColumnValuesValueLength: _length_between,
    maps.ColumnValuesValueLengthEquals: _length_equals,
    maps.ColumnValuesOfType: partial(_of_type, "column_values.of_type"),
    maps.ColumnValuesInTypeList: partial(_of_type, "column_values.in_type_list"),
}


def _value_lengths(**_: Any) -> tuple[None, None, None]:
    """GX asks for the lengths before it asks for a verdict on them, which computes them itself."""
    return None, None, None


def _register_all() -> None:
    for provider, judge in _JUDGES.items():
        register_condition(provider, partial(_judged, judge))
    register_condition(maps.ColumnValuesNull, partial(_missing, True))
    register_condition(maps.ColumnValuesNonNull, partial(_missing, False))
    lengths = maps.ColumnValuesValueLength
    register("column_values.value_length.map", lengths, _value_lengths, lengths.function_domain_keys)
    register_aggregates()


_register_all()
