"""Check a dataset with Great Expectations and set its bad rows aside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llmops_components.data.files import numbered_rows, write_output, write_rows
from llmops_components.data.formats import (
    FORMAT_NAMES,
    DatasetFormat,
    accepted_format,
    detect_format,
    partly_filled,
    with_our_names,
    with_text,
)
from llmops_components.data.rendering import loss_finding, lost_texts
from llmops_components.data.validation.outcome import Limits, Outcome
from llmops_components.data.validation.reading import (
    Lines,
    column_types,
    in_slices,
    read,
    shapes_with_our_names,
    write_texts,
)
from llmops_components.data.validation.rows import LINE, PROBLEM, ROW, asked_in
from llmops_components.data.validation.suite import asked_columns, build, check_columns, read_suite
from llmops_components.data.validation.tables import Subject
from llmops_components.errors import DataError, check_known
from llmops_components.results import StepReport
from llmops_components.state_files import write_json

if TYPE_CHECKING:
    import polars as pl
    from great_expectations.core import ExpectationSuiteValidationResult
    from transformers import PreTrainedTokenizerBase

_NAMED = 5
_IDS = ("id", "row_id")
_TOLD = (*_IDS, "margin")
_ASK_THE_MODEL = ("expect_row_tokens_to_fit_context", "expect_chat_template_to_take_rows")


def validate_dataset(
    dataset: str | os.PathLike[str],
    validated: str | os.PathLike[str],
    rejected: str | os.PathLike[str],
    validation_result: str | os.PathLike[str],
    data_docs: str | os.PathLike[str],
    *,
    dataset_format: str = "auto",
    min_rows: int = 1,
    max_rejected_fraction: float = 0.0,
    max_prompt_characters: int | None = None,
    max_answer_characters: int | None = None,
    tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None,
    suite: str | os.PathLike[str] | None = None,
    expectations: Sequence[Any] = (),
    evaluation: str | os.PathLike[str] | None = None,
    name: str | None = None,
) -> StepReport:
    """Split a dataset into rows that fit its format and rows that do not, as Great Expectations judges them.

    A row is rejected when it is not a JSON object, lacks something that its format needs (see
    :func:`~llmops_components.data.valid_rows.row_problems`), repeats an earlier row, is too long, is refused by the
    chat template of the model that is to be trained, asks what a row of the evaluation asks, or is not taken by a critical
    expectation of the caller's.

    Args:
        dataset: File to check, see :mod:`~llmops_components.data.files`.
        validated: Output, the accepted lines exactly as they were; of a file without lines, the rows as JSON Lines.
        rejected: Output, a JSON line for each rejected one: its number, its id (``NAME:LINE``), the reasons, and the
            ``row`` (or the ``raw`` text where it was not a JSON object).
        validation_result: Output, the result of the GX suites as JSON.
        data_docs: Output, the result as GX's data docs page, one HTML file.
        dataset_format: One of TRL's formats or ``evaluation``, or several with commas between them, of which it has to be
            one; ``auto`` takes the one that most rows have.
        min_rows: How many rows have to be accepted.
        max_rejected_fraction: Share of the rows, from 0 to 1, that may be rejected without failing the gate. Rows that an
            expectation of the caller's does not take do not count: its ``mostly`` says how many may be.
        max_prompt_characters: Longest prompt, all messages together; None for no limit.
        max_answer_characters: Longest completion, chosen, rejected, reference, text or conversation; None for no
            limit.
        tokenizer: Loads the tokenizer of the model that the rows are for, where they are conversations. They are rendered
            with its chat template, and a finding names those of which something does not appear in what the model gets to
            see. See :func:`~llmops_components.models.loading.load_chat_tokenizer`.
        suite: A suite of the caller's, as Great Expectations 1 writes it as JSON.
        expectations: Expectations of the caller's, as they stand in a suite. One of the severity ``warning`` or ``info`` is
            told in a finding and neither rejects a row nor fails the gate.
        evaluation: Rows that a model is evaluated on, which must not be in the dataset.
        name: What the rows' ids begin with; None for the name of the file.

    Returns:
        Row counts as metrics; ``columns`` with their types, and what each of the ``expectations`` says, as details, the first 40 of both. ``passed`` is False when too many rows are rejected or too few accepted, or a critical
        expectation of the caller's is not met; findings name the first 20 rejected rows, and what else is worth knowing.

    Raises:
        DataError: The file does not exist, has no rows, or is in no known format; the suite is none, or asks for a column
            that no row has.
        SettingError: A setting has a wrong value, or an expectation or an argument of one is unknown.
        ModelError: What ``tokenizer`` raises.
    """
    limits = Limits(min_rows, max_rejected_fraction, max_prompt_characters, max_answer_characters)
    limits.check()
    theirs = build([*(read_suite(suite) if suite is not None else ()), *expectations])
    asked = asked_columns(theirs)

    def format_of(shapes: list[dict[str, Any]]) -> DatasetFormat | None:
        try:
            return _find_format(dataset, shapes, dataset_format)
        except DataError:  # of the first rows; all of them may have one
            return None

    lines = read(dataset, name, None if asked is None else [*asked, *_TOLD], format_of)
    check_columns(theirs, lines.columns, os.fspath(dataset))
    found_format = _find_format(dataset, shapes_with_our_names(lines), dataset_format)
    asks = bool(found_format and found_format.conversational)
    asks = asks or any(each.expectation_type in _ASK_THE_MODEL for each in theirs)
    loaded = tokenizer() if tokenizer is not None and asks else None
    subject = Subject(
        found_format,
        (lambda: loaded) if loaded is not None else None,
        None if evaluation is None else _evaluated(evaluation),
        lines.facts if lines.facts and lines.facts.dataset_format == found_format else None,
    )

    from llmops_components.data.validation.judging import Judge, merged, told_of

    judge = Judge()
    outcome = Outcome(lines, limits, found_format)
    outcome.judge(judge, subject, theirs, [name for name in lines.columns if asked is None or name in asked])
    verdicts = [*outcome.gate(judge), *outcome.verdicts]
    result = merged(found_format.name if found_format else "json_lines", verdicts)
    passed = all(each.result.success for each in verdicts if each.expectation.severity == "critical")

    accepted = outcome.accepted()
    write_texts(validated, in_slices(accepted[ROW]))
    write_rows(rejected, outcome.rejected_rows())
    findings = [*outcome.findings(), *_remarks(accepted, found_format, lines, loaded)]
    write_json(validation_result, result.to_json_dict())
    _write_data_docs(data_docs, result, found_format, findings, passed)

    rows = lines.frame.height
    shape = str(found_format) if found_format else "unknown format"
    print(f"{accepted.height} of {rows} rows accepted ({shape}): {'passed' if passed else 'FAILED'}.")
    return StepReport(
        metrics={
            "rows": rows,
            "accepted_rows": accepted.height,
            "rejected_rows": rows - accepted.height,
            "rejected_fraction": (rows - accepted.height) / rows,
            "duplicate_rows": outcome.duplicates(),
            "expectations": result.statistics["evaluated_expectations"],
            "successful_expectations": result.statistics["successful_expectations"],
        },
        details={
            "dataset_format": found_format.name if found_format else None,
            "conversational": found_format.conversational if found_format else None,
            "columns": column_types(lines),
            "expectations": told_of(verdicts, lines.columns),
        },
        passed=passed,
        findings=findings,
    )


def _find_format(
    path: str | os.PathLike[str], shapes: Sequence[dict[str, Any]], name: str
) -> DatasetFormat | None:
    several = [part.strip() for part in name.split(",")] if "," in name else []
    check_known(several, FORMAT_NAMES, "dataset_format")
    if not shapes and (several or name == "auto"):
        return None
    if several:
        return accepted_format(path, shapes, several)  # type: ignore[arg-type]
    try:
        return detect_format(shapes, name)
    except DataError as error:
        raise DataError(f"{error} Dataset: {os.fspath(path)}.") from None


def _evaluated(path: str | os.PathLike[str]) -> frozenset[bytes]:
    """What the rows of an evaluation ask."""
    asked = set()
    for _, row in numbered_rows(path, "Rows of the evaluation cannot be used:"):
        asked.add(asked_in(with_our_names(row)))
    if not asked - {None}:
        raise DataError(
            f"No row of the evaluation asks anything: it needs a prompt, messages or a text. Dataset: {os.fspath(path)}."
        )
    return frozenset(each for each in asked if each)


def _remarks(
    accepted: pl.DataFrame, found_format: DatasetFormat | None, lines: Lines, tokenizer: Any
) -> list[str]:
    """What is no reason to reject a row, but worth knowing."""
    remarks = []
    if tokenizer is not None and found_format and found_format.conversational:
        rows = zip(in_slices(accepted[LINE]), in_slices(accepted[ROW]), strict=True)
        lost = (
            (
                f"line {line}",
                lost_texts(
                    tokenizer, with_text(with_our_names(json.loads(text)), found_format), found_format
                ),
            )
            for line, text in rows
        )
        remarks.append(loss_finding([each for each in lost if each[1]], accepted.height))
    held = _held(lines, accepted)
    if found_format and found_format.name == "preference" and "margin" in held:
        named = [(f"line {line}", {"margin": value}) for line, value in held["margin"].iter_rows()]
        remarks.append(partly_filled(named, "margin", "train_reward takes it in all rows or in none"))
    remarks += [_repeated_ids(held[name], name) for name in _IDS if name in held]
    return [remark for remark in remarks if remark]


def _held(lines: Lines, accepted: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Of accepted rows, the line and the value of each column that there is something to say of."""
    import polars as pl

    numbers = lines.frame.filter(pl.col(PROBLEM).is_null())[LINE]
    kept = numbers.is_in(accepted[LINE].implode())
    return {
        name: pl.DataFrame({LINE: numbers.filter(kept), name: lines.table.frame[name].filter(kept)})
        for name in _TOLD
        if name in lines.table.frame.columns
    }


def _repeated_ids(held: pl.DataFrame, name: str) -> str | None:
    import polars as pl

    found = held.drop_nulls(name).group_by(name, maintain_order=True).agg(LINE)
    repeated = found.filter(pl.col(LINE).list.len() > 1)
    if repeated.is_empty():
        return None
    first = "; ".join(
        f"{str(value)[:40]!r} in lines {', '.join(map(str, where[:_NAMED]))}"
        for value, where in repeated.head(_NAMED).iter_rows()
    )
    return f"{repeated.height} values of {name} are of several rows, so that it does not tell them apart: {first}."


def _write_data_docs(
    path: str | os.PathLike[str],
    result: ExpectationSuiteValidationResult,
    found_format: DatasetFormat | None,
    findings: list[str],
    passed: bool,
) -> None:
    from llmops_components.data.validation.data_docs import render_data_docs

    heading = f"Dataset validation: {found_format or 'unknown format'}, {'passed' if passed else 'failed'}"
    write_output(path, render_data_docs(result, heading, findings))
