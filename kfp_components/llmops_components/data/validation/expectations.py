"""Expectations of ours for rows that a language model learns from, registered with Great Expectations.

A suite names them as it names GX's own, for example ``{"type": "expect_rows_to_be_unique"}``. They judge the row as a whole,
which the engine on polars has as the column ``(row)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import polars as pl
from great_expectations.compatibility.pydantic import StrictStr
from great_expectations.expectations.expectation import ColumnAggregateExpectation, ColumnMapExpectation
from great_expectations.expectations.metrics.column_aggregate_metric_provider import (
    ColumnAggregateMetricProvider,
)
from great_expectations.expectations.metrics.map_metric_provider import ColumnMapMetricProvider

from llmops_components.data.formats import FORMAT_NAMES, DatasetFormat, detect_format
from llmops_components.data.validation import rows as by_row
from llmops_components.data.validation.engine import PolarsExecutionEngine, register
from llmops_components.data.validation.metrics import register_reasons
from llmops_components.data.validation.rows import LINE, PROBLEM, ROW, Facts, Reasons, facts_of, rows_in


class RowExpectation(ColumnMapExpectation):
    """An expectation of rows as a whole."""

    column: StrictStr = ROW


class ExpectLinesToBeRows(RowExpectation):
    """Each line is one JSON object."""

    map_metric: ClassVar[str] = "lines.are_rows"


class ExpectRowsToFitFormat(RowExpectation):
    """Each row has the fields of its format, each of the right type, and nothing that no trainer takes."""

    map_metric: ClassVar[str] = "rows.fit_format"
    success_keys: ClassVar[tuple[str, ...]] = ("mostly", "dataset_format")
    dataset_format: str | None = None


class ExpectFieldsToNotBeEmpty(RowExpectation):
    """No text, no message and no list of messages is empty."""

    map_metric: ClassVar[str] = "rows.fields_not_empty"
    success_keys: ClassVar[tuple[str, ...]] = ("mostly", "dataset_format")
    dataset_format: str | None = None


class ExpectTurnsToAlternate(RowExpectation):
    """Roles take turns; a prompt ends with the user's, anything else with the assistant's."""

    map_metric: ClassVar[str] = "rows.turns_alternate"
    success_keys: ClassVar[tuple[str, ...]] = ("mostly", "dataset_format")
    dataset_format: str | None = None


class ExpectChosenToDifferFromRejected(RowExpectation):
    """The two answers of a preference differ, and go on from the same prompt."""

    map_metric: ClassVar[str] = "rows.pairs_differ"
    success_keys: ClassVar[tuple[str, ...]] = ("mostly", "dataset_format")
    dataset_format: str | None = None


class ExpectRowsToBeUnique(RowExpectation):
    """No row says what an earlier one says; other columns, such as an id, do not count."""

    map_metric: ClassVar[str] = "rows.unique"


class ExpectRowCharactersToBeBetween(RowExpectation):
    """The prompt, or the longest answer, has a number of characters; those of all messages count together."""

    map_metric: ClassVar[str] = "rows.characters_between"
    success_keys: ClassVar[tuple[str, ...]] = ("mostly", "part", "min_value", "max_value")
    part: Literal["prompt", "answer"] = "answer"
    min_value: int | None = None
    max_value: int | None = None


class ExpectRowTokensToFitContext(RowExpectation):
    """Prompt and answer together have no more tokens than the model reads at once."""

    map_metric: ClassVar[str] = "rows.tokens_fit"
    success_keys: ClassVar[tuple[str, ...]] = ("mostly", "max_tokens")
    max_tokens: int | None = None


class ExpectChatTemplateToTakeRows(RowExpectation):
    """The model's chat template takes each conversation."""

    map_metric: ClassVar[str] = "rows.template_takes"


class ExpectRowLanguagesToBeInSet(RowExpectation):
    """The text of each row is in an allowed language; of rows with little text nothing is said."""

    map_metric: ClassVar[str] = "rows.languages_in_set"
    success_keys: ClassVar[tuple[str, ...]] = ("mostly", "languages", "min_characters")
    languages: list[str]
    min_characters: int = 40


class ExpectRowsToNotBeInEvaluation(RowExpectation):
    """No row asks what a row of the evaluation asks."""

    map_metric: ClassVar[str] = "rows.not_in_evaluation"


class ExpectColumnLabelsToBeBalanced(ColumnAggregateExpectation):
    """Of the values that a column has, two at least, none is rarer than a share of the rows."""

    column: StrictStr = "label"
    min_share: float = 0.1
    metric_dependencies = ("column.smallest_share",)
    success_keys = ("min_share",)

    def _validate(self, metrics: dict[str, Any], **_: Any) -> dict[str, Any]:
        share = metrics["column.smallest_share"]
        return {"success": share >= self.min_share, "result": {"observed_value": share}}


EXPECTATIONS = (
    ExpectLinesToBeRows,
    ExpectRowsToFitFormat,
    ExpectFieldsToNotBeEmpty,
    ExpectTurnsToAlternate,
    ExpectChosenToDifferFromRejected,
    ExpectRowsToBeUnique,
    ExpectRowCharactersToBeBetween,
    ExpectRowTokensToFitContext,
    ExpectChatTemplateToTakeRows,
    ExpectRowLanguagesToBeInSet,
    ExpectRowsToNotBeInEvaluation,
    ExpectColumnLabelsToBeBalanced,
)


class _About:
    """A table of rows, and what has been found in it."""

    def __init__(self, engine: PolarsExecutionEngine, domain: dict[str, Any], name: str | None) -> None:
        self.engine, self.table = engine, engine.table(domain)
        self.texts, self.subject = self.table.frame[ROW], self.table.subject
        self._name = name

    @property
    def dataset_format(self) -> DatasetFormat:
        known = self.subject.dataset_format if self.subject else None
        if self._name is None or (known and known.name == self._name):
            if known is None:
                raise ValueError(f"no format is known: give dataset_format, one of {', '.join(FORMAT_NAMES)}")
            return known
        return detect_format([row for _, row in rows_in(self.texts)], self._name)

    @property
    def facts(self) -> Facts:
        wanted = self.dataset_format
        known = self.subject.facts if self.subject else None
        if known and known.dataset_format == wanted:
            return known
        return self.engine.remembered((id(self.table), wanted), lambda: facts_of(self.texts, wanted))

    def clean(self) -> Any:
        """The rows without problems."""
        bad = self.facts.bad
        return (each for each in rows_in(self.texts) if each[0] not in bad)

    def asked(self, what: str, why: str) -> Any:
        value = getattr(self.subject, what, None)
        if value is None:
            raise ValueError(why)
        return value


def _tokenizer(about: _About) -> Any:
    load = about.asked("tokenizer", "no model is known: give base_model")
    return about.engine.remembered("tokenizer", load)


def _templates(about: _About) -> Reasons:
    return by_row.refused_by_template(about.clean(), about.dataset_format, _tokenizer(about))


def _tokens(about: _About, max_tokens: int | None = None) -> Reasons:
    return by_row.beyond_context(about.clean(), about.dataset_format, _tokenizer(about), max_tokens)


def _evaluation(about: _About) -> Reasons:
    rows = about.asked("evaluation", "no evaluation is known: give evaluation_dataset")
    return by_row.in_evaluation(rows_in(about.texts), rows)


def _languages(about: _About, languages: Any, min_characters: int = 40) -> Reasons:
    return by_row.in_other_languages(rows_in(about.texts), languages, min_characters)


def _lines(about: _About) -> Reasons:
    problems = about.table.frame[PROBLEM]
    return {place: problems[place] for place in problems.is_not_null().arg_true().to_list()}


def _kind(kind: str) -> Callable[..., Reasons]:
    return lambda about, dataset_format=None: about.facts.problems[kind]


_CHECKS: tuple[tuple[type[ColumnMapExpectation], tuple[str, ...], Callable[..., Reasons]], ...] = (
    (ExpectLinesToBeRows, (), _lines),
    (ExpectRowsToFitFormat, ("dataset_format",), _kind("format")),
    (ExpectFieldsToNotBeEmpty, ("dataset_format",), _kind("empty")),
    (ExpectTurnsToAlternate, ("dataset_format",), _kind("turns")),
    (ExpectChosenToDifferFromRejected, ("dataset_format",), _kind("pair")),
    (ExpectRowsToBeUnique, (), lambda about: by_row.repeated(about.facts, about.table.frame[LINE])),
    (
        ExpectRowCharactersToBeBetween,
        ("part", "min_value", "max_value"),
        lambda about, part, min_value=None, max_value=None: by_row.outside(
            about.facts, part, min_value, max_value
        ),
    ),
    (ExpectRowTokensToFitContext, ("max_tokens",), _tokens),
    (ExpectChatTemplateToTakeRows, (), _templates),
    (ExpectRowLanguagesToBeInSet, ("languages", "min_characters"), _languages),
    (ExpectRowsToNotBeInEvaluation, (), _evaluation),
)


def _reasons(check: Callable[..., Reasons]) -> Callable[..., Any]:
    def compute(
        execution_engine: PolarsExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        **_: Any,
    ) -> pl.Series:
        arguments = {name: value for name, value in metric_value_kwargs.items() if value is not None}
        about = _About(execution_engine, metric_domain_kwargs, arguments.get("dataset_format"))
        found = check(about, **arguments)
        return _by_place(found, len(about.texts))

    return compute


def _by_place(reasons: Reasons, length: int) -> pl.Series:
    places = pl.DataFrame(
        {"place": list(reasons), "why": list(reasons.values())}, schema={"place": pl.Int64, "why": pl.String}
    )
    return pl.DataFrame({"place": pl.int_range(length, eager=True)}).join(
        places, on="place", how="left", maintain_order="left"
    )["why"]


def _smallest_share(
    execution_engine: PolarsExecutionEngine, metric_domain_kwargs: dict[str, Any], **_: Any
) -> float:
    values = execution_engine.column(metric_domain_kwargs).present().series
    counts = values.value_counts()["count"]
    return float(counts.min() / len(values)) if len(counts) > 1 else 0.0  # type: ignore[operator]


class _SmallestShare(ColumnAggregateMetricProvider):
    metric_name = "column.smallest_share"


def _register_all() -> None:
    for expectation, arguments, check in _CHECKS:
        provider = type(
            f"{expectation.__name__}Metric",
            (ColumnMapMetricProvider,),
            {"condition_metric_name": expectation.map_metric, "condition_value_keys": arguments},
        )
        register_reasons(provider, _reasons(check))
    register(_SmallestShare.metric_name, _SmallestShare, _smallest_share, _SmallestShare.domain_keys)


_register_all()
