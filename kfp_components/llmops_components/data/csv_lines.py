"""Rows of CSV: what separates the cells, and what type a cell has, which CSV does not say."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from llmops_components.data.lines import Line, finite
from llmops_components.errors import DataError

_DELIMITERS = (",", "\t", ";", "|")
_HEADER_CELL = re.compile(r"[A-Za-z_][\w .-]{0,63}")
_LONE_COLUMNS = ("text", "prompt")  # a header of one column is told from a line of text by its name
_TRUTH = {"true": True, "false": False, "1": True, "0": False}
# Columns of a CSV file that hold something else than text, written as JSON ...
_JSON_COLUMNS = ("messages", "tools", "chat_template_kwargs")
# ... and those that may hold messages, while other JSON there is text: what was asked, or the answer itself.
_TEXT_OR_MESSAGES = ("prompt", "completion", "chosen", "rejected")
# Columns that are no text beside another one; without it they are somebody's own.
_TYPED_BESIDE = {"label": "completion", "margin": "chosen"}
_KNOWN_COLUMNS = {*_JSON_COLUMNS, *_TEXT_OR_MESSAGES, *_LONE_COLUMNS, "reference", "user_input"}


def csv_dialect(first: bytes) -> tuple[str, bool] | None:
    """What separates the names in the header of a CSV file, and whether spaces follow it; None for any other line.

    Args:
        first: The first line.
    """
    try:
        text = first.decode("utf-8").strip()
    except UnicodeDecodeError:
        return None
    for spaced, delimiter in product((False, True), _DELIMITERS):
        cells = next(csv.reader([text], delimiter=delimiter, skipinitialspace=spaced), [])
        names = cells[1:] if cells[:1] == [""] else cells  # Pandas gives its index no name
        if (
            len(cells) > 1
            and len(set(names)) == len(names)
            and all(map(_HEADER_CELL.fullmatch, names))
            and (not spaced or _KNOWN_COLUMNS & {name.strip() for name in names})  # or it is prose
        ):
            return delimiter, spaced
    return (",", False) if text.strip('"') in _LONE_COLUMNS else None


def read_csv(file: Path, lines: Iterator[tuple[int, bytes]], delimiter: str, spaced: bool) -> Iterator[Line]:
    """Rows of a CSV file. All cells are text, as they are written, but for labels, margins and JSON.

    Args:
        file: The file, for messages.
        lines: Its lines with their numbers, the header first.
        delimiter: What separates cells.
        spaced: Whether spaces follow it.
    """
    csv.field_size_limit(sys.maxsize)
    text = (raw.decode("utf-8", errors="surrogateescape") for _, raw in lines)
    reader = csv.reader(text, delimiter=delimiter, skipinitialspace=spaced, strict=True)
    try:
        header = [name.strip() for name in next(reader)]
        for cells in reader:
            if cells:
                yield _csv_line(reader.line_num, header, cells)
    except csv.Error as error:
        raise DataError(
            f"The dataset is CSV that cannot be read: line {reader.line_num}: {error}. Write it again, for example with a "
            f"library, or write JSON Lines. Dataset: {file}."
        ) from error


def _csv_line(number: int, header: list[str], cells: list[str]) -> Line:
    if len(cells) != len(header):
        raw = json.dumps(cells).encode("utf-8", errors="backslashreplace").decode("utf-8")
        return Line(number, raw, problem=f"has {len(cells)} cells, and the header has {len(header)}")
    try:
        row = {name: _cell(name, cell, header) for name, cell in zip(header, cells, strict=True)}
        row = {name: value for name, value in row.items() if name and value is not None}
        raw = json.dumps(row, ensure_ascii=False, allow_nan=False)
        raw.encode("utf-8")
    except UnicodeEncodeError:
        return Line(number, json.dumps(cells), problem="is not UTF-8")
    except ValueError as error:
        return Line(number, json.dumps(cells), problem=str(error))
    return Line(number, raw, row=row)


def _cell(name: str, cell: str, header: Sequence[str]) -> Any:
    if name in _TYPED_BESIDE:
        return _typed_cell(name, cell) if _TYPED_BESIDE[name] in header else cell
    if name in (*_JSON_COLUMNS, *_TEXT_OR_MESSAGES) and cell.lstrip().startswith(("[", "{")):
        try:
            value = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        return value if name in _JSON_COLUMNS or _are_messages(value) else cell
    return cell


def _typed_cell(name: str, cell: str) -> Any:
    if not cell.strip():
        return None
    if name == "label":
        return _TRUTH.get(cell.strip().lower(), cell)
    try:
        return finite(cell)
    except ValueError:
        raise ValueError(f"has {cell[:40]!r} as {name}, not a number") from None


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(each, dict) for each in value)
        and any("role" in each and each.keys() & {"content", "tool_calls"} for each in value)
    )
