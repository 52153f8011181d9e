"""Dataset files and the formats their rows may have: what validation and the trainers agree on.

A dataset is one file of JSON Lines or Parquet, told apart by their first bytes. The formats are TRL's (https://huggingface.co/docs/trl/dataset_formats), each with
plain text or with chat messages, and one of our own for evaluation:

====================  ======================================================
language_modeling     ``messages``, or ``text``
prompt_completion     ``prompt``, ``completion``
preference            ``prompt``, ``chosen``, ``rejected``; without ``prompt`` the two share their first messages
unpaired_preference   ``prompt``, ``completion``, ``label``
prompt_only           ``prompt``
evaluation            ``prompt``, ``reference``, ``contexts``
====================  ======================================================
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from llmops_components.errors import DataError, check_known

FormatName = Literal[
    "evaluation", "preference", "unpaired_preference", "prompt_completion", "language_modeling", "prompt_only"
]
FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)

_PARQUET = b"PAR1"
_MESSAGE_FIELDS = ("messages", "prompt", "completion", "chosen", "rejected")
_MAX_PROBLEMS_SHOWN = 5
_PARQUET_BATCH_ROWS = 1024

# Which role may come after which. A chat template renders other orders too, but wrongly or not at all.
_NEXT_ROLES: dict[str | None, tuple[str, ...]] = {
    None: ("system", "developer", "user"),
    "system": ("user",),
    "developer": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}


@dataclass(frozen=True)
class Line:
    """One line of a dataset file: either ``row`` or ``problem`` is set.

    Args:
        number: Line number, from 1.
        raw: The line as text, without its line end; bytes that are not UTF-8 are shown as ``\\xNN``.
        row: The object on the line, or None when the line cannot be used.
        problem: Why the line cannot be used.
    """

    number: int
    raw: str
    row: dict[str, Any] | None = None
    problem: str | None = None


@dataclass(frozen=True)
class DatasetFormat:
    """The format of a whole dataset.

    Args:
        name: TRL's name of the dataset type, or ``evaluation``.
        conversational: Whether the fields hold lists of messages instead of text.
        fields: The fields that each row has to have.
    """

    name: FormatName
    conversational: bool
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({'conversational' if self.conversational else 'plain text'})"


def read_lines(path: str | os.PathLike[str]) -> Iterator[Line]:
    """Read a file of JSON Lines or Parquet row by row; a line that cannot be used is returned with its problem.

    Blank lines are left out. Lines end with a line feed; a carriage return before it and a byte order mark at the
    start of the file are dropped.

    Args:
        path: The dataset file.

    Raises:
        DataError: The file does not exist or cannot be read.
    """
    file = Path(path)
    if file.is_dir():
        raise DataError(f"Dataset {file} is a directory; a dataset is one file of JSON Lines or Parquet.")
    try:
        with file.open("rb") as handle:
            if handle.read(len(_PARQUET)) == _PARQUET:
                yield from _read_parquet(file)
                return
            handle.seek(0)
            for number, raw in enumerate(handle, start=1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                if raw := raw.rstrip(b"\r\n"):
                    line = _parse(number, raw)
                    if line.raw.strip():
                        yield line
    except FileNotFoundError:
        raise DataError(
            f"Dataset {file} does not exist. Check the path, or the step that writes it."
        ) from None
    except OSError as error:
        raise DataError(f"Dataset {file} cannot be read: {error.strerror or error}.") from error


def _read_parquet(file: Path) -> Iterator[Line]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            batches = (batch.to_pylist() for batch in parquet.iter_batches(batch_size=_PARQUET_BATCH_ROWS))
            for number, row in enumerate(map(without_nulls, chain.from_iterable(batches)), start=1):
                yield Line(number, json.dumps(row, ensure_ascii=False, default=str), row=row)
    except pyarrow.ArrowException as error:
        raise DataError(f"Dataset {file} is not a readable Parquet file: {error}. Write it again.") from error


def without_nulls(value: Any) -> Any:
    """Leave out what is null: a column has a value in every row, so a field that a row lacks is stored as null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _parse(number: int, raw: bytes) -> Line:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        shown = raw.decode("utf-8", errors="backslashreplace")
        return Line(number, shown, problem=f"is not UTF-8 at byte {error.start + 1} of the line")
    try:
        row = json.loads(text, parse_constant=_refuse_constant)
        if "\\ud" in text.lower():
            json.dumps(row, ensure_ascii=False).encode(
                "utf-8"
            )  # half of a surrogate pair cannot be written again
    except json.JSONDecodeError as error:
        return Line(number, text, problem=f"is not valid JSON: {error.msg} (column {error.colno})")
    except UnicodeEncodeError:
        return Line(number, text, problem="has half of a Unicode surrogate pair (\\udXXX), which is not text")
    except (ValueError, RecursionError) as error:
        return Line(number, text, problem=f"is not usable JSON: {error}")
    if not isinstance(row, dict):
        return Line(number, text, problem=f"is not a JSON object but {_kind(row)}")
    return Line(number, text, row=row)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All rows of a dataset.

    Args:
        path: The dataset file.

    Returns:
        One dict a row, in the order of the file; at least one.

    Raises:
        DataError: The file cannot be read, has no row, or has lines that are not JSON objects; the message names
            the file and the line numbers.
    """
    return [line.row for line in _usable_lines(path) if line.row is not None]


def read_valid_rows(
    path: str | os.PathLike[str], formats: Sequence[FormatName] = FORMAT_NAMES
) -> tuple[list[dict[str, Any]], DatasetFormat]:
    """All rows of a dataset of which every row is valid for one of some formats.

    Args:
        path: The dataset file.
        formats: Formats that the caller can use.

    Returns:
        The rows and their format.

    Raises:
        DataError: The file cannot be used, is in another format, or has rows that are not valid in it; the message
            names the file, line numbers and fields.
    """
    lines = _usable_lines(path)
    rows = [line.row for line in lines if line.row is not None]
    dataset_format = accepted_format(path, rows, formats)
    _raise_problems(
        path,
        (
            f"line {line.number}: {field} {problem}"
            for line, row in zip(lines, rows, strict=True)
            for field, problem in row_problems(row, dataset_format)
        ),
        dataset_format,
    )
    return rows, dataset_format


def accepted_format(
    source: str | os.PathLike[str], rows: Sequence[dict[str, Any]], formats: Sequence[FormatName]
) -> DatasetFormat:
    """The format of a dataset, once it is known to be one that the caller can use.

    Args:
        source: The dataset, for messages.
        rows: Its rows, or the first of them.
        formats: Formats that the caller can use. ``prompt_only`` takes every dataset whose rows have a prompt.

    Raises:
        DataError: The dataset is in no format or in another one.
    """
    try:
        found = detect_format(rows)
        if found.name not in formats and "prompt_only" in formats and "prompt" in rows[0]:
            return detect_format(rows, "prompt_only")
    except DataError as error:
        raise DataError(f"Dataset {os.fspath(source)}: {error}") from None
    if found.name not in formats:
        raise DataError(
            f"Dataset {os.fspath(source)} is in the format {found} (fields {', '.join(rows[0])}); "
            f"this step needs {' or '.join(formats)}."
        )
    return found


def _usable_lines(path: str | os.PathLike[str]) -> list[Line]:
    lines = list(read_lines(path))
    if not lines:
        raise DataError(f"Dataset {os.fspath(path)} has no rows. Check the step that writes it.")
    _raise_problems(path, (f"line {line.number} {line.problem}" for line in lines if line.problem))
    return lines


def _raise_problems(
    path: str | os.PathLike[str], problems: Iterable[str], dataset_format: DatasetFormat | None = None
) -> None:
    found = list(problems)
    if found:
        more = f"; and {len(found) - _MAX_PROBLEMS_SHOWN} more" if len(found) > _MAX_PROBLEMS_SHOWN else ""
        known = f" as {dataset_format}" if dataset_format else ""
        raise DataError(
            f"Dataset {os.fspath(path)} cannot be used{known}: {'; '.join(found[:_MAX_PROBLEMS_SHOWN])}{more}. "
            "Correct these lines, or let validate_dataset set them aside."
        )


def write_rows(path: str | os.PathLike[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON Lines.

    Args:
        path: Destination; parent directories are made.
        rows: The rows.
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def detect_format(rows: Sequence[dict[str, Any]], name: str = "auto") -> DatasetFormat:
    """The format that most rows have, so that the others can be told what they lack.

    Args:
        rows: Rows of the dataset.
        name: A format that is already known, or ``auto``.

    Raises:
        DataError: No row has the fields of any format.
        SettingError: ``name`` is not a format.
    """
    if name == "auto":
        names = Counter(filter(None, map(_format_name, rows)))
        if not names:
            fields = Counter(key for row in rows for key in row)
            seen = ", ".join(key for key, _ in fields.most_common(8)) or "none"
            raise DataError(
                f"No row has the fields of a known format; fields seen: {seen}. A row needs, for example, prompt and "
                "completion; prompt, chosen and rejected; messages; text; or prompt, reference and contexts."
            )
        # On a tie the more demanding format wins: a row that lacks a field is more likely than one with too many.
        name = max(names, key=lambda each: (names[each], -FORMAT_NAMES.index(each)))
    else:
        check_known([name], FORMAT_NAMES, "dataset_format")
    fields = _fields(name, rows)
    styles = Counter(style for row in rows if (style := _is_conversational(row, fields)) is not None)
    return DatasetFormat(name, styles[True] >= max(1, styles[False]), fields)  # type: ignore[arg-type]


def _format_name(row: dict[str, Any]) -> FormatName | None:
    if "reference" in row:
        return "evaluation"
    if "chosen" in row or "rejected" in row:
        return "preference"
    if "label" in row and "completion" in row:
        return "unpaired_preference"
    if "completion" in row:
        return "prompt_completion"
    if "messages" in row or "text" in row:
        return "language_modeling"
    return "prompt_only" if "prompt" in row else None


def _fields(name: str, rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    if name == "language_modeling":
        # A row with both is trained on as a conversation: TRL looks at `messages` first.
        return ("messages",) if sum("messages" in row for row in rows) * 2 >= len(rows) else ("text",)
    if name == "preference":
        explicit = sum("prompt" in row for row in rows) * 2 >= len(rows)
        return ("prompt", "chosen", "rejected") if explicit else ("chosen", "rejected")
    return {
        "evaluation": ("prompt", "reference", "contexts"),
        "unpaired_preference": ("prompt", "completion", "label"),
        "prompt_completion": ("prompt", "completion"),
        "prompt_only": ("prompt",),
    }[name]


def _is_conversational(row: dict[str, Any], fields: Sequence[str]) -> bool | None:
    for field in fields:
        if field in _MESSAGE_FIELDS and isinstance(row.get(field), list | str):
            return isinstance(row[field], list)
    return None


def row_problems(row: dict[str, Any], dataset_format: DatasetFormat) -> list[tuple[str, str]]:
    """What makes a row invalid for a format.

    Args:
        row: The row.
        dataset_format: The format of the dataset that the row belongs to.

    Returns:
        ``(field, problem)`` pairs, for example ``("completion", "is empty")``; none for a valid row.
    """
    problems = [
        (field, problem)
        for field in dataset_format.fields
        for problem in _field_problems(field, row, dataset_format)
    ]
    if not problems and dataset_format.name == "preference":
        problems = [("rejected", problem) for problem in _pair_problems(row, dataset_format)]
    return problems


def _field_problems(field: str, row: dict[str, Any], dataset_format: DatasetFormat) -> list[str]:
    value = row.get(field)
    if field not in row:
        return ["is missing"]
    if value is None:
        return ["is null"]
    if field == "label":
        return [] if isinstance(value, bool) else [f"is {_kind(value)}, not true or false"]
    if field == "contexts":
        return _context_problems(value)
    if field in _MESSAGE_FIELDS and dataset_format.conversational:
        return _message_problems(field, value, dataset_format)
    if not isinstance(value, str):
        return [f"is {_kind(value)}, not text"]
    return [] if value.strip() else ["is empty"]


def _context_problems(value: Any) -> list[str]:
    if not isinstance(value, list):
        return [f"is {_kind(value)}, not a list of texts"]
    if not value:
        return ["is empty"]
    bad = [
        i for i, context in enumerate(value, start=1) if not isinstance(context, str) or not context.strip()
    ]
    return [f"has no text at position {i}" for i in bad]


def _message_problems(field: str, value: Any, dataset_format: DatasetFormat) -> list[str]:
    if not isinstance(value, list):
        return [f"is {_kind(value)}, not a list of messages"]
    if not value:
        return ["is empty"]
    problems = [
        problem if len(value) == 1 else f"message {i} {problem}"
        for i, message in enumerate(value, start=1)
        if (problem := _one_message_problem(message))
    ]
    return problems or _order_problems(field, value, dataset_format)


def _one_message_problem(message: Any) -> str | None:
    if not isinstance(message, dict):
        return f"is {_kind(message)}, not an object with role and content"
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in _NEXT_ROLES:
        known = ", ".join(role for role in _NEXT_ROLES if role)
        return f"has the role {str(role)[:40]!r} (known: {known})" if "role" in message else "has no role"
    if role == "assistant" and message.get("tool_calls") and content is None:
        return None
    if isinstance(content, str):
        return None if content.strip() or message.get("tool_calls") else "is empty"
    if isinstance(content, list):  # a multimodal message: https://huggingface.co/docs/trl/dataset_formats
        return (
            None
            if content and all(map(_is_content_part, content))
            else "has an empty or unknown content part"
        )
    return f"has {_kind(content)} as content" if "content" in message else "has no content"


def _is_content_part(part: Any) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return False
    return part["type"] != "text" or (isinstance(part.get("text"), str) and bool(part["text"].strip()))


def _order_problems(field: str, messages: list[dict[str, Any]], dataset_format: DatasetFormat) -> list[str]:
    roles = [message["role"] for message in messages]
    # An answer goes on where the prompt ended; every other field is a conversation from its start.
    is_answer = field == "completion" or (
        field in ("chosen", "rejected") and "prompt" in dataset_format.fields
    )
    if is_answer and roles[0] != "assistant":
        return [f"starts with the role {roles[0]}, not assistant"]
    for before, role in pairwise(roles if is_answer else [None, *roles]):
        if role not in _NEXT_ROLES[before]:
            return [f"has the role {role} {f'after {before}' if before else 'at the start'}"]
    if field == "prompt":
        return [] if roles[-1] in ("user", "tool") else [f"ends with the role {roles[-1]}, not user"]
    return [] if roles[-1] == "assistant" else [f"ends with the role {roles[-1]}, not assistant"]


def _pair_problems(row: dict[str, Any], dataset_format: DatasetFormat) -> list[str]:
    if row["chosen"] == row["rejected"]:
        return ["is the same as chosen"]
    if (
        dataset_format.conversational
        and "prompt" not in dataset_format.fields
        and row["chosen"][0] != row["rejected"][0]
    ):
        return ["does not start with the same message as chosen, so there is no shared prompt"]
    return []


def _kind(value: Any) -> str:
    """A JSON value's kind, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
