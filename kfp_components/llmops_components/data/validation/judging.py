"""A suite judged by Great Expectations on a table of polars, and what it says of each row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from great_expectations import ExpectationSuite, get_context
from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.validator.metric_configuration import MetricConfiguration
from great_expectations.validator.validator import calc_validation_statistics

from llmops_components.data.validation import expectations as _ours  # noqa: F401 (registers them, and the engine's metrics)
from llmops_components.data.validation.engine import PolarsExecutionEngine
from llmops_components.data.validation.rows import ROW_ID
from llmops_components.data.validation.tables import Table
from llmops_components.errors import DataError

if TYPE_CHECKING:
    import polars as pl
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation

_MAX_TOLD = 40
_SHOWN_CHARACTERS = 60
_FORMAT: dict[str, Any] = {"result_format": "SUMMARY", "unexpected_index_column_names": [ROW_ID]}


@dataclass(frozen=True)
class Verdict:
    """What one expectation says.

    Args:
        expectation: The expectation.
        result: What GX says of it.
        unexpected: Which rows it does not take; None of one that does not judge row by row.
        reasons: Why, of each row; None where the value says it.
    """

    expectation: Expectation
    result: ExpectationValidationResult
    unexpected: pl.Series | None = None
    reasons: pl.Series | None = None


class Judge:
    """Great Expectations, without a project, network or progress bars."""

    def __init__(self) -> None:
        context = get_context(mode="ephemeral")
        context.enable_analytics(False)
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        self._source = context.data_sources.add_polars("dataset")

    def judge(self, name: str, table: Table, suite: Sequence[Expectation]) -> list[Verdict]:
        """What each expectation says of a table, in their order.

        Args:
            name: What the table is.
            table: The table.
            suite: The expectations.

        Raises:
            DataError: One cannot be judged on these rows; says why.
        """
        if not suite:
            return []
        asset = self._source.add_polars_table_asset(name)
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
        whole = ExpectationSuite(name=name, expectations=list(suite))
        for number, each in enumerate(whole.expectations):
            each.id = str(number)
        index = _FORMAT if ROW_ID in table.frame.columns else {"result_format": "SUMMARY"}
        found = batch.validate(whole, result_format=index)
        engine = self._source.get_execution_engine()
        results = {each.expectation_config.id: each for each in found.results}
        verdicts = [_verdict(each, results[each.id], engine, index) for each in whole.expectations]
        for each in verdicts:
            each.expectation.id = each.result.expectation_config.id = None
        return verdicts


def _verdict(
    expectation: Expectation,
    result: ExpectationValidationResult,
    engine: PolarsExecutionEngine,
    result_format: dict[str, Any],
) -> Verdict:
    if why := _raised(result.exception_info):
        raise DataError(
            f"The expectation {expectation.expectation_type} cannot be judged: {why}. Correct it, or leave it out."
        )
    observed = result.result.get("observed_value")
    if hasattr(observed, "item"):  # GX's page cannot show NumPy 2's numbers, whose repr is not a number
        result.result["observed_value"] = observed.item()
    metric = getattr(expectation, "map_metric", None)
    if metric is None:
        return Verdict(expectation, result)
    judged = result.expectation_config.to_domain_obj()
    wanted = judged.get_validation_dependencies(engine, {"result_format": result_format})
    count = wanted.metric_configurations.get(f"{metric}.unexpected_count")
    if count is None:  # a type, which is one of a whole column
        return Verdict(expectation, result)
    condition = MetricConfiguration(
        f"{metric}.condition", count.metric_domain_kwargs, count.metric_value_kwargs
    )
    unexpected, reasons = engine.unexpected_rows(condition) or (None, None)
    return Verdict(expectation, result, unexpected, reasons)


def _raised(info: dict[str, Any] | None) -> str | None:
    """What was raised while an expectation was judged."""
    found = [info] if "raised_exception" in (info or {}) else list((info or {}).values())
    messages = [str(each.get("exception_message")) for each in found if each and each.get("raised_exception")]
    return "; ".join(dict.fromkeys(message.rstrip(".") for message in messages)) if messages else None


def merged(name: str, verdicts: Sequence[Verdict]) -> ExpectationSuiteValidationResult:
    """Verdicts as one result of GX.

    Args:
        name: Name of the suite.
        verdicts: The verdicts.
    """
    results = [each.result for each in verdicts]
    told = calc_validation_statistics(results)
    return ExpectationSuiteValidationResult(
        results=results,
        success=told.success,
        suite_name=name,
        statistics={
            "evaluated_expectations": told.evaluated_expectations,
            "successful_expectations": told.successful_expectations,
            "unsuccessful_expectations": told.unsuccessful_expectations,
            "success_percent": told.success_percent,
        },
        meta={"great_expectations_version": _version()},
    )


def told_of(verdicts: Sequence[Verdict], columns: Collection[str]) -> list[dict[str, Any]]:
    """What the first expectations say, those that are not met before the others, in short.

    Args:
        verdicts: The verdicts.
        columns: Names of the dataset's columns; others are of the validation itself.
    """
    told = []
    for each in sorted(verdicts, key=lambda verdict: bool(verdict.result.success))[:_MAX_TOLD]:
        config = each.result.expectation_config
        column = (config.kwargs if config else {}).get("column")
        found = {
            "type": each.expectation.expectation_type,
            "column": column[:_SHOWN_CHARACTERS] if column in columns else None,
            "severity": str(getattr(each.expectation.severity, "value", each.expectation.severity)),
            "success": bool(each.result.success),
        }
        count = each.result.result.get("unexpected_count")
        told.append(found if count is None else {**found, "unexpected": int(count)})
    return told


def _version() -> str:
    import great_expectations

    return str(great_expectations.__version__)
