"""A row as bytes: how it goes between processes and lies on disk between two steps.

A record is one line: ``[row_id, source, added, side, problem]`` as JSON, a tab, and the row as JSON, or the raw text of a line
that could not be read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from llmops_components.data.lines import Line
from llmops_components.data.preparation.row import PREPARED, Row
from llmops_components.data.texts import ROW_ID

SOURCE_ROW_ID = "source_row_id"  # the id that a row had in its file, when that was prepared itself
_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Broken:
    """A line that could not be read.

    Args:
        row_id: ``FILE:LINE``.
        raw: The line.
        problem: Why.
    """

    row_id: str
    raw: str
    problem: str


def record_of_line(source: str, line: Line) -> bytes:
    """The record of a line of a file.

    Args:
        source: Name of the file.
        line: The line.
    """
    head = _dumps([f"{source}:{line.number}", source, False, PREPARED, line.problem])
    return f"{head}\t{line.raw}".encode()


def record_of(row: Row, body: bytes | None = None) -> bytes:
    """The record of a row.

    Args:
        row: The row.
        body: Its value as JSON, where that is known.
    """
    head = _dumps([row.row_id, row.source, row.added, row.side, None]).encode()
    return head + b"\t" + (json_of(row.value) if body is None else body)


def json_of(value: dict[str, Any]) -> bytes:
    """A row as JSON.

    Raises:
        ValueError: It holds what JSON cannot.
        TypeError: Likewise.
    """
    return _dumps(value).encode()


def row_of(record: bytes) -> Row | Broken:
    """The row that a record holds.

    Args:
        record: Of :func:`record_of` or :func:`record_of_line`.
    """
    head, _, body = record.partition(b"\t")
    row_id, source, added, side, problem = json.loads(head)
    if problem is not None:
        return Broken(row_id, body.decode(), problem)
    return Row(row_id, source, json.loads(body), added, side)


def body_of(record: bytes) -> bytes:
    """The row of a record as JSON."""
    return record.partition(b"\t")[2]


def head_of(record: bytes) -> Row:
    """The row of a record without its value, which is empty."""
    row_id, source, added, side, _ = json.loads(record.partition(b"\t")[0])
    return Row(row_id, source, {}, added, side)


def without_id(row: Row) -> Row:
    """A row as the steps get it: an id that it has from an earlier preparation becomes its :data:`SOURCE_ROW_ID`.

    Where it has that already, it stays: it is the first one, and the other can be looked up in the file.
    """
    if ROW_ID not in row.value:
        return row
    value = {name: each for name, each in row.value.items() if name != ROW_ID}
    value.setdefault(SOURCE_ROW_ID, row.value[ROW_ID])
    return Row(row.row_id, row.source, value, row.added, row.side)


def output_line(row_id: str, body: bytes) -> bytes:
    """A row as it is written: its id, then its fields.

    Args:
        row_id: The id.
        body: The row as JSON.
    """
    separator = b"" if body == b"{}" else b", "
    return b'{"row_id": ' + _dumps(row_id).encode() + separator + body[1:] + b"\n"
