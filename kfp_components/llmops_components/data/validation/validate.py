"""Check a dataset with Great Expectations and set its bad rows aside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.data.content import content_text
from llmops_components.data.files import read_lines, write_output, write_rows
from llmops_components.data.formats import (
    FORMAT_NAMES,
    DatasetFormat,
    accepted_format,
    detect_format,
    partly_filled,
    with_our_names,
    with_text,
)
from llmops_components.data.lines import Line
from llmops_components.data.rendering import loss_finding, lost_texts, refusal
from llmops_components.data.valid_rows import row_problems
from llmops_components.errors import DataError, SettingError, check_known
from llmops_components.results import StepReport
from llmops_components.state_files import write_json

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationSuiteValidationResult
    from pandas import DataFrame
    from transformers import PreTrainedTokenizerBase

MAX_ROWS_NAMED = 20
_ANSWER_FIELDS = ("completion", "chosen", "rejected", "reference", "messages", "text")


@dataclass
class _Checked:
    """A line of the dataset and what was found: problems by column of the table that GX sees."""

    line: Line
    row: dict[str, Any] | None
    problems: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    prompt_characters: int | None = None
    answer_characters: int | None = None


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
) -> StepReport:
    """Split a dataset into rows that fit its format and rows that do not, with a GX result that says why.

    A row is rejected when it is not a JSON object, lacks something that its format needs (see
    :func:`~llmops_components.data.formats.row_problems`), repeats an earlier row, is too long, or is refused by the
    chat template of the model that is to be trained.

    Args:
        dataset: File to check, see :mod:`~llmops_components.data.files`.
        validated: Output, the accepted lines exactly as they were; of a file without lines, the rows as JSON Lines.
        rejected: Output, a JSON line for each rejected one: its number, the reasons, and the ``row`` (or the ``raw``
            text where it was not a JSON object).
        validation_result: Output, the result of the GX suite as JSON.
        data_docs: Output, the result as GX's data docs page, one HTML file.
        dataset_format: One of TRL's formats or ``evaluation``, or several with commas between them, of which it has to be
            one; ``auto`` takes the one that most rows have.
        min_rows: How many rows have to be accepted.
        max_rejected_fraction: Share of the rows, from 0 to 1, that may be rejected without failing the gate.
        max_prompt_characters: Longest prompt, all messages together; None for no limit.
        max_answer_characters: Longest completion, chosen, rejected, reference, text or conversation; None for no
            limit.
        tokenizer: Loads the tokenizer of the model that the rows are for, where they are conversations. They are rendered
            with its chat template, and a finding names those of which something does not appear in what the model gets to
            see. See :func:`~llmops_components.models.loading.load_chat_tokenizer`.

    Returns:
        Row counts as metrics. ``passed`` is False when too many rows are rejected or too few accepted; findings name
        the first 20 rejected rows, and what else is worth knowing of the rows.

    Raises:
        DataError: The file does not exist, has no rows, or is in no known format.
        SettingError: A setting has a wrong value.
        ModelError: What ``tokenizer`` raises.
    """
    _check_settings(min_rows, max_rejected_fraction, max_prompt_characters, max_answer_characters)
    checked = [_Checked(line, line.row and with_our_names(line.row)) for line in read_lines(dataset)]
    if not checked:
        raise DataError(f"The dataset has no rows: {os.fspath(dataset)}. Check the step that writes it.")
    found_format = _find_format(dataset, checked, dataset_format)
    for each in checked:
        _check_row(each, found_format, max_prompt_characters, max_answer_characters)
    _check_duplicates(checked, found_format)
    if tokenizer is not None and found_format and found_format.conversational:
        _check_rendering(checked, found_format, tokenizer())

    accepted = [each.line for each in checked if not each.problems]
    rejects = [each for each in checked if each.problems]
    write_lines(validated, accepted)
    write_rows(rejected, (_rejected_row(each) for each in rejects))

    suite = _suite(
        found_format,
        min_rows,
        max_rejected_fraction,
        max_prompt_characters,
        max_answer_characters,
        rendered=tokenizer is not None,
    )
    result = _run_suite(suite, _table(checked))
    passed = bool(result.success)
    findings = _findings(len(checked), rejects, min_rows, max_rejected_fraction)
    findings += _remarks(checked, found_format)
    if not passed and len(findings) == 0:
        findings = ["An expectation could not be evaluated; `validation_result` has the exception."]
    write_json(validation_result, result.to_json_dict())
    _write_data_docs(data_docs, result, found_format, findings)

    shape = str(found_format) if found_format else "unknown format"
    print(f"{len(accepted)} of {len(checked)} rows accepted ({shape}): {'passed' if passed else 'FAILED'}.")
    return StepReport(
        metrics={
            "rows": len(checked),
            "accepted_rows": len(accepted),
            "rejected_rows": len(rejects),
            "rejected_fraction": len(rejects) / len(checked),
            "duplicate_rows": sum("duplicate" in each.problems for each in rejects),
            "expectations": result.statistics["evaluated_expectations"],
            "successful_expectations": result.statistics["successful_expectations"],
        },
        details={
            "dataset_format": found_format.name if found_format else None,
            "conversational": found_format.conversational if found_format else None,
        },
        passed=passed,
        findings=findings,
    )


def _check_settings(min_rows: int, max_rejected_fraction: float, *limits: int | None) -> None:
    if isinstance(min_rows, bool) or not isinstance(min_rows, int) or min_rows < 1:
        raise SettingError(f"min_rows is {min_rows!r}; give a whole number of at least 1.")
    if not 0 <= max_rejected_fraction <= 1:
        raise SettingError(f"max_rejected_fraction is {max_rejected_fraction!r}; give a number from 0 to 1.")
    for name, limit in zip(("max_prompt_characters", "max_answer_characters"), limits, strict=True):
        if limit is not None and limit < 1:
            raise SettingError(
                f"{name} is {limit!r}; give a whole number of at least 1, or None for no limit."
            )


def _find_format(path: str | os.PathLike[str], checked: list[_Checked], name: str) -> DatasetFormat | None:
    rows = [each.row for each in checked if each.row is not None]
    several = [part.strip() for part in name.split(",")] if "," in name else []
    check_known(several, FORMAT_NAMES, "dataset_format")
    if not rows and (several or name == "auto"):
        return None
    if several:
        return accepted_format(path, rows, several)  # type: ignore[arg-type]
    try:
        return detect_format(rows, name)
    except DataError as error:
        raise DataError(f"{error} Dataset: {os.fspath(path)}.") from None


def _check_row(
    each: _Checked, found_format: DatasetFormat | None, max_prompt: int | None, max_answer: int | None
) -> None:
    row = each.row
    if row is None or found_format is None:
        each.problems["json"] = each.line.problem or "is in no known format"
        return
    for name, problem in row_problems(row, found_format):
        column = name if name in found_format.fields else "columns"
        so_far = f"{each.problems[column]} and " if column in each.problems else f"{name} "
        each.problems[column] = so_far + problem
    if each.problems:
        return
    row = each.row = with_text(row, found_format)
    each.prompt_characters = _characters(row["prompt"]) if "prompt" in found_format.fields else None
    answers = [_characters(row[name]) for name in found_format.fields if name in _ANSWER_FIELDS]
    each.answer_characters = max(answers, default=None)
    for what, length, limit in (
        ("prompt", each.prompt_characters, max_prompt),
        ("answer", each.answer_characters, max_answer),
    ):
        if limit is not None and length is not None and length > limit:
            each.problems[f"{what}_characters"] = f"{what} has {length} characters, more than {limit}"


def _characters(value: Any) -> int:
    """Length of a text, or of all the texts in a conversation."""
    if isinstance(value, str):
        return len(value)
    return sum(len(content_text(message.get("content") or "")) for message in value)


def _check_duplicates(checked: list[_Checked], found_format: DatasetFormat | None) -> None:
    """Mark rows whose fields are the same as in an earlier row; other columns, such as an id, do not count."""
    first: dict[str, int] = {}
    for each in checked:
        if found_format is None or each.row is None or each.problems:
            continue
        key = json.dumps([each.row[name] for name in found_format.fields], sort_keys=True)
        earlier = first.setdefault(key, each.line.number)
        if earlier != each.line.number:
            each.problems["duplicate"] = f"is the same as line {earlier}"


def _check_rendering(
    checked: list[_Checked], found_format: DatasetFormat, tokenizer: PreTrainedTokenizerBase
) -> None:
    for each in checked:
        if each.row is None or each.problems:
            continue
        if refused := refusal(tokenizer, each.row, found_format):
            each.problems["chat_template"] = refused
        else:
            each.lost = lost_texts(tokenizer, each.row, found_format)


def _remarks(checked: list[_Checked], found_format: DatasetFormat | None) -> list[str]:
    """What is no reason to reject a row, but worth knowing."""
    accepted = [each for each in checked if not each.problems and each.row is not None]
    lost = [(f"line {each.line.number}", each.lost) for each in accepted if each.lost]
    remarks = [loss_finding(lost, len(accepted))]
    if found_format and found_format.name == "preference":
        rows = [(f"line {each.line.number}", each.row) for each in accepted]
        remarks.append(partly_filled(rows, "margin", "train_reward takes it in all rows or in none"))
    return [remark for remark in remarks if remark]


def write_lines(path: str | os.PathLike[str], lines: Sequence[Line]) -> None:
    """Write lines of a dataset as they were read.

    Args:
        path: Destination; parent directories are made.
        lines: The lines.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(f"{line.raw}\n" for line in lines)


def _rejected_row(each: _Checked) -> dict[str, Any]:
    original = {"raw": each.line.raw} if each.line.row is None else {"row": each.line.row}
    return {"line": each.line.number, "reasons": list(each.problems.values()), **original}


def _findings(rows: int, rejects: list[_Checked], min_rows: int, max_rejected_fraction: float) -> list[str]:
    findings = []
    if len(rejects) / rows > max_rejected_fraction:
        findings.append(f"{len(rejects)} of {rows} rows rejected, at most {max_rejected_fraction:.1%} may be")
    if rows - len(rejects) < min_rows:
        findings.append(f"{rows - len(rejects)} rows accepted, at least {min_rows} are needed")
    for each in rejects[:MAX_ROWS_NAMED]:
        findings.append(f"line {each.line.number}: {'; '.join(each.problems.values())}")
    if len(rejects) > MAX_ROWS_NAMED:
        findings.append(f"{len(rejects) - MAX_ROWS_NAMED} more rejected rows are in the artifact `rejected`")
    return findings


def _table(checked: list[_Checked]) -> DataFrame:
    """One row a line: what is wrong with each of its parts (nothing: null), and how long they are."""
    import pandas as pd

    def problems(name: str) -> list[str | None]:
        return [each.problems.get(name) for each in checked]

    columns = {name: pd.Series(problems(name), dtype=object) for name in _PROBLEM_COLUMNS}
    return pd.DataFrame(
        {
            "line": [each.line.number for each in checked],
            **columns,
            "prompt_characters": pd.Series([each.prompt_characters for each in checked], dtype="Float64"),
            "answer_characters": pd.Series([each.answer_characters for each in checked], dtype="Float64"),
            "accepted": [int(not each.problems) for each in checked],
            "rejected_row": [int(bool(each.problems)) for each in checked],
        }
    )


_PROBLEM_COLUMNS = {
    "json": "Each line is one JSON object.",
    "prompt": "The prompt is there, is not empty, and ends with the user's turn.",
    "completion": "The completion is there, is not empty, and is the assistant's turn.",
    "chosen": "The chosen answer is there, is not empty, and is the assistant's turn.",
    "rejected": "The rejected answer is there, is not empty, is the assistant's turn, and differs from the chosen one.",
    "label": "The label is true or false.",
    "messages": "The messages are there, are not empty, take turns, and end with the assistant's.",
    "text": "The text is there and is not empty.",
    "reference": "The reference answer is there and is not empty.",
    "columns": "No other column holds what cannot be used: pictures or sound, tools that are no list of functions.",
    "duplicate": "No row repeats an earlier one.",
    "chat_template": "The model's chat template takes the row.",
}


def _suite(
    found_format: DatasetFormat | None,
    min_rows: int,
    max_rejected_fraction: float,
    max_prompt_characters: int | None,
    max_answer_characters: int | None,
    *,
    rendered: bool,
) -> ExpectationSuite:
    """The suite that fits a format: per-row checks, each tolerated as far as the gate is, and the gate itself."""
    import great_expectations.expectations as gxe
    from great_expectations import ExpectationSuite

    mostly = round(1 - max_rejected_fraction, 12)  # 1 - 0.58 is a little more than 0.42
    fields = found_format.fields if found_format else ()
    limits = {"prompt_characters": max_prompt_characters, "answer_characters": max_answer_characters}
    return ExpectationSuite(
        name=found_format.name if found_format else "json_lines",
        expectations=[
            gxe.ExpectColumnSumToBeBetween(
                column="accepted", min_value=min_rows, description=f"At least {min_rows} rows are accepted."
            ),
            gxe.ExpectColumnMeanToBeBetween(
                column="rejected_row",
                max_value=max_rejected_fraction,
                description=f"At most {max_rejected_fraction:.1%} of the rows are rejected.",
            ),
            *(
                gxe.ExpectColumnValuesToBeNull(
                    column=column, mostly=mostly, description=_PROBLEM_COLUMNS[column]
                )
                for column in (
                    "json",
                    *fields,
                    "columns",
                    "duplicate",
                    *(["chat_template"] if rendered else []),
                )
            ),
            *(
                gxe.ExpectColumnValuesToBeBetween(
                    column=column,
                    max_value=limit,
                    mostly=mostly,
                    description=f"No {column.partition('_')[0]} has more than {limit} characters.",
                )
                for column, limit in limits.items()
                if limit is not None
            ),
        ],
    )


def _run_suite(suite: ExpectationSuite, table: DataFrame) -> ExpectationSuiteValidationResult:
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("dataset").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
    result_format = {"result_format": "SUMMARY", "unexpected_index_column_names": ["line"]}
    result = batch.validate(suite, result_format=result_format)
    for each in result.results:  # GX's page cannot show NumPy 2's numbers, whose repr is not a number
        observed = each.result.get("observed_value")
        if hasattr(observed, "item"):
            each.result["observed_value"] = observed.item()
    return result


def _write_data_docs(
    path: str | os.PathLike[str],
    result: ExpectationSuiteValidationResult,
    found_format: DatasetFormat | None,
    findings: list[str],
) -> None:
    from llmops_components.data.validation.data_docs import render_data_docs

    heading = (
        f"Dataset validation: {found_format or 'unknown format'}, {'passed' if result.success else 'failed'}"
    )
    write_output(path, render_data_docs(result, heading, findings))
