"""The caller's own suite: what Great Expectations reads as one, checked by name before anything is judged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.data.validation.patterns import PatternError, linear_pattern
from llmops_components.errors import DataError, SettingError, check_known

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

_ENTRY = ("type", "kwargs", "severity", "description", "meta", "notes", "id", "rendered_content")
_SUITE = ("name", "expectations", "meta", "notes", "id", "suite_parameters")
_NOT_TAKEN = ("row_condition", "condition_parser")
_OF_ALL_COLUMNS = ("expect_table_column_count", "expect_table_columns")
# What GX has and the engine on polars computes; ours come from their own module.
_OF_GX = (
    "expect_column_max_to_be_between",
    "expect_column_mean_to_be_between",
    "expect_column_min_to_be_between",
    "expect_column_proportion_of_non_null_values_to_be_between",
    "expect_column_proportion_of_unique_values_to_be_between",
    "expect_column_sum_to_be_between",
    "expect_column_to_exist",
    "expect_column_unique_value_count_to_be_between",
    "expect_column_value_lengths_to_be_between",
    "expect_column_value_lengths_to_equal",
    "expect_column_values_to_be_between",
    "expect_column_values_to_be_in_set",
    "expect_column_values_to_be_in_type_list",
    "expect_column_values_to_be_null",
    "expect_column_values_to_be_of_type",
    "expect_column_values_to_be_unique",
    "expect_column_values_to_match_regex",
    "expect_column_values_to_not_be_in_set",
    "expect_column_values_to_not_be_null",
    "expect_column_values_to_not_match_regex",
    "expect_table_column_count_to_be_between",
    "expect_table_column_count_to_equal",
    "expect_table_columns_to_match_ordered_list",
    "expect_table_columns_to_match_set",
    "expect_table_row_count_to_be_between",
    "expect_table_row_count_to_equal",
)


def read_suite(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The expectations of a suite that Great Expectations 1 has written.

    Args:
        path: The JSON file.

    Raises:
        DataError: It does not exist, or is no suite.
    """
    file = Path(path)
    try:
        suite = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"The suite does not exist: {file}. Check the path.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"The suite is not readable JSON: {error}. Suite: {file}.") from error
    if isinstance(suite, dict) and "expectation_suite_name" in suite:
        raise DataError(
            "The suite is one of Great Expectations 0.x (expectation_suite_name). Write it again with version 1: name, and "
            f"expectations with type and kwargs. Suite: {file}."
        )
    if not isinstance(suite, dict) or not isinstance(suite.get("expectations"), list):
        raise DataError(
            f"The suite is no suite of Great Expectations, an object with name and expectations. Suite: {file}."
        )
    check_known(suite, _SUITE, "part of the suite")
    if suite.get("suite_parameters"):
        raise SettingError(
            f"The suite has suite_parameters, which are not taken here: write their values. Suite: {file}."
        )
    return list(suite["expectations"])


def build(entries: Sequence[Any]) -> list[Expectation]:
    """GX's expectations of what a suite says.

    Args:
        entries: Each with ``type``, ``kwargs`` and what else GX writes of one.

    Raises:
        SettingError: An expectation, or an argument of one, is unknown or has a wrong value; names it.
    """
    kinds = known() if entries else {}
    return [_expectation(entry, number, kinds) for number, entry in enumerate(entries, start=1)]


def known() -> dict[str, type[Expectation]]:
    """The expectations that can be judged, by the name that a suite gives them."""
    from great_expectations.expectations.registry import get_expectation_impl

    from llmops_components.data.validation.expectations import EXPECTATIONS

    ours = {each.expectation_type: each for each in EXPECTATIONS}
    return {**{name: get_expectation_impl(name) for name in _OF_GX}, **ours}


def _expectation(entry: Any, number: int, kinds: Mapping[str, type[Expectation]]) -> Expectation:
    from great_expectations.compatibility.pydantic import ValidationError

    if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str):
        raise SettingError(
            f"Expectation {number} is no object with a type, as {{'type': 'expect_rows_to_be_unique'}}: {entry!r:.200}."
        )
    check_known(entry, _ENTRY, f"part of expectation {number}")
    name = entry["type"]
    check_known([name], kinds, "expectation")
    kind, arguments = kinds[name], entry.get("kwargs") or {}
    if not isinstance(arguments, Mapping):
        raise SettingError(f"The kwargs of {name} are no object: {arguments!r:.200}.")
    arguments = {
        key: value
        for key, value in arguments.items()
        if key != "batch_id" and (key not in _NOT_TAKEN or value)
    }
    fields = {*kind.__fields__} - {*_NOT_TAKEN, *_ENTRY, "catch_exceptions", "windows"}
    check_known(arguments, fields, f"argument of {name}")
    _refuse_parameters(name, arguments)
    given = {key: entry[key] for key in ("severity", "description", "meta", "notes") if entry.get(key)}
    try:
        return kind(**arguments, **given)
    except ValidationError as error:
        wrong = "; ".join(
            dict.fromkeys(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        )
        raise SettingError(f"The expectation {name} has a wrong value: {wrong}.") from None


def _refuse_parameters(name: str, arguments: Mapping[str, Any]) -> None:
    for key, value in arguments.items():
        if isinstance(value, Mapping) and "$PARAMETER" in value:
            raise SettingError(
                f"The argument {key} of {name} is a parameter, which is not taken here: write its value."
            )
    if "regex" in arguments:
        try:
            linear_pattern(str(arguments["regex"]))
        except PatternError as error:
            raise SettingError(f"{error} Expectation: {name}.") from None


def asked_columns(expectations: Iterable[Expectation]) -> list[str] | None:
    """The columns that expectations ask for; None where one asks for all."""
    if any(each.expectation_type.startswith(_OF_ALL_COLUMNS) for each in expectations):
        return None
    names = (getattr(each, "column", None) for each in expectations)
    return [name for name in dict.fromkeys(names) if name and not name.startswith("(")]


def check_columns(expectations: Iterable[Expectation], columns: Sequence[str], where: str) -> None:
    """Refuse expectations of columns that no row has.

    Args:
        expectations: The expectations.
        columns: Columns that the dataset has.
        where: The dataset, for messages.

    Raises:
        DataError: One names a column that no row has.
    """
    for each in expectations:
        name = getattr(each, "column", None)
        if name is None or name.startswith("(") or each.expectation_type == "expect_column_to_exist":
            continue
        if name not in columns:
            raise DataError(
                f"The suite names the column {name!r}, which no row has ({each.expectation_type}). Columns: "
                f"{', '.join(columns[:20]) or 'none'}. Correct the suite, or the step that writes the column. Dataset: {where}."
            )


def written(expectation: Expectation) -> str:
    """An expectation in short, for a finding."""
    arguments = expectation.configuration.kwargs
    shown = ", ".join(
        f"{key}={value!r:.60}"
        for key, value in arguments.items()
        if key != "batch_id" and not str(value).startswith("(")
    )
    return f"{expectation.expectation_type}({shown})"
