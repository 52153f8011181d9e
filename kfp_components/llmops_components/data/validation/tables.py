"""Rows as a table of polars, in a fraction of the memory that they would take as Python's objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl
    from transformers import PreTrainedTokenizerBase

    from llmops_components.data.formats import DatasetFormat
    from llmops_components.data.validation.rows import Facts

_CHUNK_ROWS = 20_000
_LARGEST_INTEGER = 1 << 63


@dataclass(frozen=True)
class Table:
    """Rows by column.

    Args:
        frame: Text, numbers, and true or false, as polars holds them.
        encoded: Columns of the frame whose values are JSON text: those with lists or objects, and those whose values are of
            several kinds.
        subject: What the rows are for, where expectations of ours ask for it.
    """

    frame: pl.DataFrame
    encoded: frozenset[str] = field(default_factory=frozenset)
    subject: Subject | None = None


@dataclass(frozen=True)
class Subject:
    """What rows are for, which some expectations have to know.

    Args:
        dataset_format: Their format.
        tokenizer: Loads the tokenizer of the model that they are for.
        evaluation: What :func:`~llmops_components.data.validation.rows.asked_in` gives for each row of an evaluation.
        facts: What is known of them in this format already.
    """

    dataset_format: DatasetFormat | None = None
    tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None
    evaluation: frozenset[bytes] | None = None
    facts: Facts | None = None


class TableBuilder:
    """Makes a table of rows that come in chunks."""

    def __init__(self) -> None:
        self._chunks: list[dict[str, tuple[str, pl.Series]]] = []
        self._sizes: list[int] = []

    def add(self, rows: Sequence[Mapping[str, Any]], columns: Iterable[str] | None = None) -> None:
        """Add rows.

        Args:
            rows: Rows of JSON's types.
            columns: The only columns that are held; None for all.
        """
        present = dict.fromkeys(name for row in rows for name in row)
        names = present if columns is None else [name for name in columns if name in present]
        self._chunks.append({name: _column(name, [row.get(name) for row in rows]) for name in names})
        self._sizes.append(len(rows))

    def table(self, columns: Iterable[str] = ()) -> Table:
        """The rows as a table; what a row lacks is null.

        Args:
            columns: Columns that the table has even where no row does.
        """
        import polars as pl

        found: list[pl.Series] = []
        encoded = set()
        for name in dict.fromkeys([*columns, *(name for chunk in self._chunks for name in chunk)]):
            parts = [chunk.get(name) for chunk in self._chunks]
            kind = _common({part[0] for part in parts if part})
            if kind == "encoded":
                encoded.add(name)
            pieces = [
                _as_kind(part, kind, name) if part else _nulls(name, kind, size)
                for part, size in zip(parts, self._sizes, strict=True)
            ]
            found.append(pl.concat(pieces).alias(name) if pieces else pl.Series(name, [], dtype=pl.Null))
        return Table(pl.DataFrame(found), frozenset(encoded))


def table_of(rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = ()) -> Table:
    """The rows as a table; what a row lacks is null.

    Args:
        rows: Rows of JSON's types.
        columns: Columns that the table has even where no row does.
    """
    builder, rows = TableBuilder(), iter(rows)
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        builder.add(chunk)
    return builder.table(columns)


def objects_of(column: pl.Series, encoded: bool) -> list[Any]:
    """The values of a column as Python's objects.

    Args:
        column: The column, or a part of it.
        encoded: Whether it is one of :attr:`Table.encoded`.
    """
    if not encoded:
        return column.to_list()
    return [None if value is None else json.loads(value) for value in column.to_list()]


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -_LARGEST_INTEGER <= value < _LARGEST_INTEGER else "encoded"
    if isinstance(value, float):
        return "float"
    return "str" if isinstance(value, str) else "encoded"


def _common(kinds: set[str]) -> str:
    """One kind that holds all; whole numbers beside others become such, as they do with pandas."""
    kinds = kinds - {"null"}
    if kinds == {"int", "float"}:
        return "float"
    return kinds.pop() if len(kinds) == 1 else "encoded" if kinds else "null"


def _column(name: str, values: list[Any]) -> tuple[str, pl.Series]:
    import polars as pl

    kind = _common({_kind(value) for value in values if value is not None})
    if kind == "encoded":
        values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    return kind, pl.Series(name, values, dtype=_types()[kind])


def _types() -> dict[str, Any]:
    import polars as pl

    return {
        "null": pl.Null,
        "bool": pl.Boolean,
        "int": pl.Int64,
        "float": pl.Float64,
        "str": pl.String,
        "encoded": pl.String,
    }


def _nulls(name: str, kind: str, size: int) -> pl.Series:
    import polars as pl

    return pl.Series(name, [None], dtype=_types()[kind]).new_from_index(0, size)


def _as_kind(part: tuple[str, pl.Series], kind: str, name: str) -> pl.Series:
    import polars as pl

    own, column = part
    if own == kind:
        return column
    if own == "null" or (own, kind) == ("int", "float"):
        return column.cast(_types()[kind])
    texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in column.to_list()]
    return pl.Series(name, texts, dtype=pl.String)
