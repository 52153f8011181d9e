"""Rows of Parquet, and the values of any typed table as those of JSON."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import uuid
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from llmops_components.data.lines import Line
from llmops_components.errors import DataError

_PARQUET_BATCH_ROWS = 1024


def read_parquet(file: Path) -> Iterator[Line]:
    """Rows of a Parquet file.

    Args:
        file: The file.

    Raises:
        DataError: It cannot be read.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            batches = (
                batch.to_pylist(maps_as_pydicts="strict")
                for batch in parquet.iter_batches(batch_size=_PARQUET_BATCH_ROWS)
            )
            for number, row in enumerate(chain.from_iterable(batches), start=1):
                yield _parquet_line(number, row)
    except (pyarrow.ArrowException, ValueError, KeyError, OverflowError) as error:
        raise DataError(
            f"The dataset is not a readable Parquet file: {error}. Write it again. Dataset: {file}."
        ) from error


def _parquet_line(number: int, row: dict[str, Any]) -> Line:
    try:
        row = plain_row(row)
    except ValueError as error:
        return Line(number, json.dumps(row, default=_shown), problem=str(error))
    return Line(number, json.dumps(row, ensure_ascii=False), row=row)


def _shown(value: Any) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)


def plain_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON could hold it, from types that Parquet and Arrow have besides.

    What is null is left out: a column has a value in every row, so a field that a row lacks is stored as null. So is
    NaN, by which Pandas writes it. Dates and times become text as ISO 8601 has it, decimal numbers become numbers.

    Args:
        row: The row.

    Raises:
        ValueError: A value has no such form, for example an infinity or bytes; names its column.
    """
    return {str(name): _plain(value, str(name)) for name, value in row.items() if not _is_absent(value)}


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError(f"has an infinite number in {where}")
        return None if math.isnan(value) else float(value)
    if isinstance(value, dict):
        return {
            str(name): _plain(each, f"{where}.{name}") for name, each in value.items() if not _is_absent(each)
        }
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [_plain(each, where) for each in value]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return _plain(float(value), where) if decimal.Decimal(repr(float(value))) == value else str(value)
    if isinstance(value, datetime.timedelta | uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"has bytes in {where} that are not text; only text is read") from None
    if hasattr(value, "tolist"):  # an array or a number of NumPy's
        return _plain(value.tolist(), where)
    raise ValueError(
        f"has a value of the type {type(value).__name__} in {where}, which is not text or a number"
    )
