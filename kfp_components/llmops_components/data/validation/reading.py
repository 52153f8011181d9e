"""A dataset read for validation: its lines in polars' memory, and of its rows what tells their format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.data.files import no_rows, read_lines
from llmops_components.data.formats import with_our_names
from llmops_components.data.validation.rows import LINE, PROBLEM, ROW, ROW_ID, Facts
from llmops_components.data.validation.tables import Table, TableBuilder

if TYPE_CHECKING:
    import polars as pl

    from llmops_components.data.formats import DatasetFormat

_CHUNK_ROWS = 20_000
_MAX_TOLD = 40
_SHOWN_CHARACTERS = 60
_TYPES: dict[type, str] = {list: "array", str: "string", bool: "boolean", int: "number", dict: "object"}


@dataclass(frozen=True)
class Lines:
    """The lines of a dataset.

    Args:
        frame: Line number, id, text and what keeps it from being a row.
        shapes: Of each row, in order, its fields with empty values of the same kind; equal ones are one object.
        table: Columns of the rows that were asked for.
        facts: What there is to say of the rows if they are of the format that the first of them have.
    """

    frame: pl.DataFrame
    shapes: list[dict[str, Any]]
    table: Table
    facts: Facts | None

    @property
    def columns(self) -> list[str]:
        """Names that some row has."""
        distinct = {id(each): each for each in self.shapes}
        return list(dict.fromkeys(name for each in distinct.values() for name in each))


def read(
    dataset: str | os.PathLike[str],
    name: str | None,
    columns: Iterable[str] | None,
    format_of: Callable[[list[dict[str, Any]]], DatasetFormat | None],
) -> Lines:
    """Read a dataset once, in chunks.

    Args:
        dataset: The file.
        name: What its rows' ids begin with; None for the name of the file.
        columns: Columns to hold as a table; None for all.
        format_of: The format of rows by their shapes.

    Raises:
        DataError: It cannot be read, or has no rows.
    """
    import polars as pl

    path = os.fspath(dataset)
    shapes: list[dict[str, Any]] = []
    known: dict[tuple[Any, ...], dict[str, Any]] = {}
    chunks, builder = [], TableBuilder()
    facts: Facts | None = None
    lines = read_lines(dataset)
    while chunk := list(islice(lines, _CHUNK_ROWS)):
        rows = [line.row for line in chunk if line.row is not None]
        for row in rows:
            key = tuple((name, _kind(value)) for name, value in row.items())
            shapes.append(known.setdefault(key, {name: _EMPTY[kind] for name, kind in key}))
        builder.add(rows, columns)
        if not chunks and (guess := format_of(_renamed(shapes))):
            facts = Facts(guess)
        if facts:
            facts.add(map(with_our_names, rows))
        chunks.append(
            pl.DataFrame(
                {
                    LINE: [line.number for line in chunk],
                    ROW: [line.raw for line in chunk],
                    PROBLEM: [line.problem for line in chunk],
                },
                schema={LINE: pl.Int64, ROW: pl.String, PROBLEM: pl.String},
            )
        )
    if not chunks:
        raise no_rows(path)
    ids = pl.concat_str(pl.lit(f"{name or Path(path).name}:"), pl.col(LINE).cast(pl.String))
    return Lines(pl.concat(chunks).with_columns(ids.alias(ROW_ID)), shapes, builder.table(), facts)


_EMPTY: dict[str, Any] = {
    "objects": [{}],
    "list": [],
    "text": "",
    "truth": False,
    "number": 0,
    "object": {},
    "null": None,
}


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "objects" if value and isinstance(value[0], dict) else "list"
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "object" if isinstance(value, dict) else "null"


def column_types(lines: Lines) -> dict[str, str]:
    """The first columns, each with the JSON types that its values have.

    Args:
        lines: The dataset.
    """
    distinct = {id(each): each for each in lines.shapes}
    found: dict[str, set[str]] = {}
    for shape in distinct.values():
        for name, empty in shape.items():
            found.setdefault(name, set()).update(_TYPES[kind] for kind in _TYPES if type(empty) is kind)
    return {
        name[:_SHOWN_CHARACTERS]: "|".join(sorted(found[name])) or "null" for name in list(found)[:_MAX_TOLD]
    }


def shapes_with_our_names(lines: Lines) -> list[dict[str, Any]]:
    """The shapes of the rows, with our names of a prompt and its contexts."""
    return _renamed(lines.shapes)


def _renamed(shapes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    renamed = {id(each): with_our_names(each) for each in shapes}
    return [renamed[id(each)] for each in shapes]


def in_slices(series: pl.Series) -> Iterator[Any]:
    """The values of a series, never all at once as Python's objects."""
    for offset in range(0, len(series), _CHUNK_ROWS):
        yield from series.slice(offset, _CHUNK_ROWS).to_list()


def write_texts(path: str | os.PathLike[str], texts: Iterable[str]) -> None:
    """Write lines of a dataset as they were read.

    Args:
        path: Destination; parent directories are made.
        texts: The lines, without line ends.
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(f"{text}\n" for text in texts)
