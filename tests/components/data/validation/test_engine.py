"""The engine on polars beside GX's own on pandas: the same rows, the same suite, the same verdicts."""

from __future__ import annotations

import math
import random
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
import pytest
from great_expectations.data_context.types.base import ProgressBarsConfig
from llmops_components.data.validation import metrics  # noqa: F401 (registers what the engine computes)
from llmops_components.data.validation.tables import objects_of, table_of

TEXTS = [
    "",
    " ",
    "a",
    "ab",
    "Ab\n",
    "foo bar",
    "naïve café",
    "\U0001f600",
    "שלום",
    "कि",
    "x\u2028y",
    "12",
    "1.5",
    "a@b.cc",
]
NUMBERS = [0, 1, -1, 2, 3, 7, 2**40]
VALUES: dict[str, list[Any]] = {
    "text": TEXTS,
    "whole": NUMBERS,
    "real": [0.0, -0.0, 0.1, 1.0, 2.5, -3.75, 1e300, float("nan")],
    "truth": [True, False],
    "mixed": [*TEXTS, *NUMBERS, 2.5, True],
    "nested": [[], [1, None], {"a": None}, [{"role": "user", "content": "x"}]],
    "nothing": [None],
}
REGEXES = [r"^\w+$", r"\bfoo\b", r"(?i)AB", r"\d", r"^[^\s@]+@[^\s@]+\.\w{2,}$", r"(a+)+$", r"\s$", "."]


def expectations() -> list[Any]:
    found: list[Any] = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, max_value=40),
        gxe.ExpectTableRowCountToEqual(value=7),
        gxe.ExpectTableColumnCountToEqual(value=len(VALUES)),
        gxe.ExpectTableColumnsToMatchSet(column_set=list(VALUES)),
        gxe.ExpectColumnToExist(column="absent"),
    ]
    for column in VALUES:
        found += [
            gxe.ExpectColumnToExist(column=column),
            gxe.ExpectColumnValuesToBeNull(column=column, mostly=0.3),
            gxe.ExpectColumnValuesToNotBeNull(column=column, mostly=0.7, severity="warning"),
            gxe.ExpectColumnValuesToBeUnique(column=column),
            gxe.ExpectColumnValuesToBeInSet(column=column, value_set=["a", "ab", "12", 1, 2.5, True, 0]),
            gxe.ExpectColumnValuesToNotBeInSet(column=column, value_set=["a", 0, 7.0, "\U0001f600"]),
            gxe.ExpectColumnValueLengthsToBeBetween(column=column, min_value=1, max_value=3, mostly=0.5),
            gxe.ExpectColumnValueLengthsToBeBetween(column=column, min_value=2, strict_min=True),
            gxe.ExpectColumnValueLengthsToEqual(column=column, value=1),
            gxe.ExpectColumnProportionOfUniqueValuesToBeBetween(column=column, min_value=0.4),
            gxe.ExpectColumnUniqueValueCountToBeBetween(column=column, min_value=2, max_value=6),
            gxe.ExpectColumnProportionOfNonNullValuesToBeBetween(column=column, min_value=0.6),
            *(
                gxe.ExpectColumnValuesToBeOfType(column=column, type_=each)
                for each in ("str", "int", "float64", "list")
            ),
            gxe.ExpectColumnValuesToBeInTypeList(column=column, type_list=["str", "bool", "int64"]),
            *(gxe.ExpectColumnValuesToMatchRegex(column=column, regex=each) for each in REGEXES),
            gxe.ExpectColumnValuesToNotMatchRegex(column=column, regex=r"[a-c]|\u05d0"),
        ]
        found += [
            gxe.ExpectColumnValuesToBeBetween(column=column, min_value=0, max_value=2.5),
            gxe.ExpectColumnValuesToBeBetween(column=column, min_value=0, strict_min=True, mostly=0.6),
            gxe.ExpectColumnValuesToBeBetween(column=column, max_value=2.5, strict_max=True),
        ]
        if column in ("whole", "real", "truth", "nothing"):
            found += [
                gxe.ExpectColumnSumToBeBetween(column=column, min_value=2),
                gxe.ExpectColumnMeanToBeBetween(column=column, max_value=1.5),
                gxe.ExpectColumnMinToBeBetween(column=column, min_value=0),
                gxe.ExpectColumnMaxToBeBetween(column=column, max_value=3),
            ]
    return found


def rows(seed: int) -> list[dict[str, Any]]:
    """Some are short, some all null, some without a null."""
    roll = random.Random(seed)  # noqa: S311 - the same again next time
    nulls = roll.choice([0.0, 0.1, 0.5, 0.95])
    return [
        {name: None if roll.random() < nulls else roll.choice(values) for name, values in VALUES.items()}
        for _ in range(roll.choice([0, 1, 3, 7, 40, 90]))
    ]


def frame(table: list[dict[str, Any]]) -> pd.DataFrame:
    """As Python's objects where pandas has no type for numbers and nulls together, or for several kinds."""
    columns = {}
    for name in VALUES:
        values = [row[name] for row in table]
        whole = name in ("text", "real") or (name in ("whole", "truth") and None not in values and values)
        columns[name] = pd.Series(values, dtype=None if whole and values else object)
    return pd.DataFrame(columns)


@pytest.fixture(scope="module")
def context() -> Any:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    context.data_sources.add_polars("polars").add_polars_table_asset("rows")
    context.data_sources.add_pandas("pandas").add_dataframe_asset("rows")
    return context


def verdicts(context: Any, engine: str, data: Any, suite: list[Any]) -> list[dict[str, Any]]:
    asset = context.data_sources.get(engine).get_asset("rows")
    definition = next(iter(asset.batch_definitions), None) or asset.add_batch_definition_whole_dataframe(
        "all"
    )
    result = definition.get_batch({"dataframe": data}).validate(
        gx.ExpectationSuite(name="both", expectations=suite), result_format="SUMMARY"
    )
    return [_verdict(each) for each in sorted(result.results, key=_name)]


def _name(result: Any) -> str:
    config = result.expectation_config
    return f"{config.type} {sorted((name, str(each)) for name, each in config.kwargs.items() if name != 'batch_id')}"


def _verdict(result: Any) -> dict[str, Any]:
    found = result.to_json_dict()
    raised = [found["exception_info"]] if "raised_exception" in found["exception_info"] else [1]
    if raised == [1] or raised[0]["raised_exception"]:
        return {"expectation": _name(result), "raised": True}
    keys = ("element_count", "unexpected_count", "unexpected_percent", "missing_count", "observed_value")
    told = {
        key: found["result"].get(key)
        for key in (*keys, "partial_unexpected_list", "partial_unexpected_index_list")
    }
    told = {key: None if isinstance(each, float) and math.isnan(each) else each for key, each in told.items()}
    return {
        "expectation": _name(result),
        "success": found["success"],
        "severity": result.expectation_config.severity,
        **told,
    }


@pytest.mark.parametrize("seed", range(6))
def test_verdicts_counts_and_values_are_those_of_the_pandas_engine(context, seed):
    table = rows(seed)
    suite = random.Random(seed).sample(expectations(), 30)  # noqa: S311
    named = [{**dict.fromkeys(VALUES), **row} for row in table]
    ours = verdicts(context, "polars", table_of(named, VALUES), suite)
    assert ours == verdicts(context, "pandas", frame(table), suite)
    assert sum("success" in each for each in ours) > 20


@pytest.mark.parametrize(
    ("expectation", "reason"),
    [
        (
            gxe.ExpectColumnMedianToBeBetween(column="text", max_value=1),
            "column.median is none that is computed here",
        ),
        (gxe.ExpectColumnSumToBeBetween(column="text", max_value=1), "text does not hold numbers alone"),
        (
            gxe.ExpectColumnValuesToBeBetween(column="text", max_value=1),
            "text holds text, so min_value and max_value",
        ),
        (gxe.ExpectColumnValuesToMatchRegex(column="text", regex="(?=a)"), "has a look ahead or behind"),
        (gxe.ExpectColumnValuesToBeNull(column="gone"), 'column "gone" does not exist'),
        (
            gxe.ExpectColumnValuesToBeNull(column="text", row_condition="a > 1", condition_parser="pandas"),
            "row_condition is not taken here",
        ),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_name(context, expectation, reason):
    asset = context.data_sources.get("polars").get_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe(reason).get_batch(
        {"dataframe": table_of([{"text": "a"}])}
    )
    result = batch.validate(expectation)
    assert not result.success
    assert reason in str(result.exception_info)


def test_a_table_holds_what_rows_hold_however_many_there_are():
    rows = [
        {"whole": i, "mixed": i if i % 2 else str(i), "real": 1 if i < 25_000 else 0.5} for i in range(30_000)
    ]
    rows[7] = {"late": [1, None]}
    table = table_of(rows)
    assert table.encoded == {"mixed", "late"}
    assert {name: str(kind) for name, kind in table.frame.schema.items()} == {
        "whole": "Int64",
        "mixed": "String",
        "real": "Float64",
        "late": "String",
    }
    assert objects_of(table.frame["mixed"], encoded=True) == [row.get("mixed") for row in rows]
    assert objects_of(table.frame["late"], encoded=True) == [row.get("late") for row in rows]
