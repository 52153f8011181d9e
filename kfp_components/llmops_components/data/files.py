"""Dataset files: what is in them is told by their first bytes, since the file of an artifact has no suffix.

JSON Lines and Parquet are what the steps exchange. What else people bring is read where it is plain what its rows are: a
JSON array, CSV with a header, text in UTF-16, and any of it compressed with gzip, bzip2 or Zstandard. Everything else is
refused by its name.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from llmops_components.data.csv_lines import csv_dialect, read_csv
from llmops_components.data.lines import HALF_PAIR, Line, kind_of, parse_line
from llmops_components.data.parquet_lines import read_parquet
from llmops_components.errors import DataError

_MAX_PROBLEMS_SHOWN = 5
_PARQUET = b"PAR1"
_HEAD_BYTES = 512
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
_ENCODINGS = {  # UTF-32's little-endian mark starts with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_AS_DATA = "write the rows as JSON Lines or Parquet"
# Offset, bytes, what it is, what to do.
_OTHER_FILES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PK\x03\x04", "a ZIP archive or an Excel workbook", "unpack it, or save the sheet as CSV in UTF-8"),
    (0, b"PK\x05\x06", "an empty ZIP archive", _AS_DATA),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (0, b"\xfd7zXZ\x00", "compressed with xz", "unpack it, or compress it with gzip or zstd"),
    (257, b"ustar", "a tar archive", "unpack it"),
    (0, _PARQUET, "Parquet inside another compression", "unpack it: Parquet is compressed by itself"),
    (0, b"ARROW1", "an Arrow file", "write it with Dataset.to_parquet() or Dataset.to_json()"),
    (0, b"\xff\xff\xff\xff", "an Arrow stream", "write it with Dataset.to_parquet() or Dataset.to_json()"),
    (0, b"ORC", "an ORC file", "write the rows as Parquet"),
    (0, b"Obj\x01", "an Avro file", "write the rows as Parquet"),
    (0, b"SQLite format 3\x00", "an SQLite database", _AS_DATA),
    (0, b"\x89HDF", "an HDF5 file", _AS_DATA),
    (0, b"\x93NUMPY", "a NumPy array", _AS_DATA),
    (0, b"GGUF", "a GGUF file, which holds a model", "give the dataset, not the model"),
    (0, b"%PDF", "a PDF document", _AS_DATA),
    (0, b"\x89PNG", "a picture", _AS_DATA),
    (0, b"\xff\xd8\xff", "a picture", _AS_DATA),
    (
        0,
        b"version https://git-lfs",
        "a pointer of Git LFS and not the file",
        "fetch the file itself with `git lfs pull`",
    ),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_SAFETENSORS = re.compile(rb".{8}\{", re.DOTALL)
_MARKUP = re.compile(rb"<(!doctype|html|\?xml|head|body)", re.IGNORECASE)
_MAX_ARRAY_BYTES = 1 << 30  # about where rows held as Python objects take ten times as much
_MAX_DOCUMENT_LINES = 100_000


def read_lines(path: str | os.PathLike[str]) -> Iterator[Line]:
    """Read a dataset file row by row; a row that cannot be used is returned with its problem.

    Blank lines are left out. Lines end with a line feed; a carriage return before it and a byte order mark at the
    start of the file are dropped.

    Args:
        path: The dataset file.

    Raises:
        DataError: The file does not exist, cannot be read, or is no data.
    """
    file = Path(path)
    if file.is_dir():
        saved = (file / "dataset_info.json").is_file() or (file / "dataset_dict.json").is_file()
        how = " It was written by save_to_disk(): use Dataset.to_parquet() or to_json()." if saved else ""
        raise DataError(
            f"A dataset is one file of JSON Lines or Parquet, not a directory.{how} Dataset: {file}."
        )
    try:
        with file.open("rb") as handle:
            compression = compression_of(handle.peek(_HEAD_BYTES))
            if handle.peek(_HEAD_BYTES).startswith(_PARQUET):
                yield from read_parquet(file)
            elif compression:
                yield from _read_compressed(file, handle, compression)
            else:
                yield from _read_text(file, handle)
    except FileNotFoundError:
        raise DataError(
            f"The dataset does not exist: {file}. Check the path, or the step that writes it."
        ) from None
    except OSError as error:
        raise DataError(f"The dataset cannot be read: {error.strerror or error}. Dataset: {file}.") from error


def compression_of(head: bytes) -> str | None:
    """What a file is compressed with, by pyarrow's name; None where it is not.

    Args:
        head: The first bytes of the file.
    """
    return next((name for magic, name in _COMPRESSIONS.items() if head.startswith(magic)), None)


def is_compressed(path: str | os.PathLike[str]) -> bool:
    """Whether a file is compressed as a whole, so that it holds far more than its size."""
    with Path(path).open("rb") as handle:
        return compression_of(handle.peek(_HEAD_BYTES)) is not None


def _read_compressed(file: Path, handle: BinaryIO, compression: str) -> Iterator[Line]:
    import pyarrow

    try:
        yield from _read_text(file, io.BufferedReader(pyarrow.CompressedInputStream(handle, compression)))
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            f"The dataset cannot be unpacked, it is cut off or damaged ({compression}: {error}). Write it again. "
            f"Dataset: {file}."
        ) from error


def _read_text(file: Path, handle: io.BufferedReader) -> Iterator[Line]:
    head = handle.peek(_HEAD_BYTES)[:_HEAD_BYTES]
    _refuse_other_files(file, head)
    lines: Iterator[tuple[int, bytes]] = enumerate(_utf8_lines(file, handle, head), start=1)
    first = next(((number, raw) for number, raw in lines if raw.strip()), None)
    if first is None:
        return
    lines = chain([first], lines)
    start = first[1].lstrip()
    if _MARKUP.match(start):
        raise _other(file, "an HTML or XML page, perhaps of a login or an error", "fetch the data itself")
    if start.startswith(b"["):
        rows, lines = _array(file, first[1], lines)
        if rows is not None:
            yield from rows
            return
    elif start.startswith(b"{"):
        lines = _refuse_document(file, first[1], lines)
    elif dialect := csv_dialect(first[1]):
        yield from read_csv(file, lines, *dialect)
        return
    for number, raw in lines:
        if raw := raw.rstrip(b"\r\n"):
            line = parse_line(number, raw)
            if line.raw.strip():
                yield line


def _utf8_lines(file: Path, handle: io.BufferedReader, head: bytes) -> Iterable[bytes]:
    encoding = next((name for mark, name in _ENCODINGS.items() if head.startswith(mark)), "utf-8")
    if encoding == "utf-8-sig":
        handle.read(len(codecs.BOM_UTF8))
    if encoding.startswith("utf-8"):
        return handle  # line by line, so that one that is not UTF-8 is named
    return _recoded(file, handle, encoding)


def _recoded(file: Path, handle: io.BufferedReader, encoding: str) -> Iterator[bytes]:
    try:
        for line in io.TextIOWrapper(handle, encoding=encoding, newline="\n"):
            yield line.encode("utf-8")
    except UnicodeError as error:
        raise DataError(
            f"The dataset is not readable {encoding.upper()}: {error}. Save it as UTF-8. Dataset: {file}."
        ) from error


def _refuse_other_files(file: Path, head: bytes) -> None:
    for offset, magic, what, remedy in _OTHER_FILES:
        if head.startswith(magic, offset):
            raise _other(file, what, remedy)
    if _PICKLE.match(head):
        raise _other(
            file, "a Python pickle, which could run code when it is read and so is never read", _AS_DATA
        )
    if _SAFETENSORS.match(head) and b"\x00" in head[:8]:
        raise _other(file, "a safetensors file, which holds a model", "give the dataset, not the model")
    if b"\x00" in head and not any(head.startswith(mark) for mark in _ENCODINGS):
        raise _other(file, "binary, or UTF-16 without a byte order mark", "save it as UTF-8, or as Parquet")


def _other(file: Path, what: str, remedy: str) -> DataError:
    return DataError(f"The dataset is {what}, not JSON Lines or Parquet: {remedy}. Dataset: {file}.")


def _array(
    file: Path, first: bytes, lines: Iterator[tuple[int, bytes]]
) -> tuple[Iterator[Line] | None, Iterator[tuple[int, bytes]]]:
    """The elements of a JSON array; None where it is lines of lists after all, and the lines."""
    kept, size = [], 0
    for number, raw in lines:
        kept.append((number, raw))
        size += len(raw)
        if size > _MAX_ARRAY_BYTES:
            raise DataError(
                f"The dataset is a JSON array of more than {_MAX_ARRAY_BYTES:,} bytes, which has to be read as a whole: "
                f"write it as JSON Lines, one row a line (`jq -c '.[]'`), or as Parquet. Dataset: {file}."
            )
    try:
        document = json.loads(b"".join(raw for _, raw in kept))
    except (ValueError, RecursionError) as error:
        if _is_json(first):
            return None, iter(kept)
        raise DataError(
            f"The dataset is a JSON array that cannot be read: {error}. Write it again, or write JSON Lines, one row a "
            f"line. Dataset: {file}."
        ) from error
    return (_element(number, item) for number, item in enumerate(document, start=1)), iter(())


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw.decode("utf-8", errors="replace"))  # what is not UTF-8 is a fault of that line
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def _element(number: int, item: Any) -> Line:
    if not isinstance(item, dict):
        return Line(number, json.dumps(item), problem=f"is not a JSON object but {kind_of(item)}")
    try:
        json.dumps(item, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:
        return Line(number, json.dumps(item), problem=HALF_PAIR)
    except ValueError:
        return Line(number, json.dumps(item), problem="has a number that is infinite or no number (NaN)")
    return Line(number, json.dumps(item, ensure_ascii=False), row=item)


def _refuse_document(
    file: Path, first: bytes, lines: Iterator[tuple[int, bytes]]
) -> Iterator[tuple[int, bytes]]:
    """Refuse rows, or one object with all of them, that are written over several lines."""
    if _is_json(first):
        return lines
    kept = list(islice(lines, _MAX_DOCUMENT_LINES))
    text = b"".join(raw for _, raw in kept).decode("utf-8", errors="replace").lstrip()
    try:
        document, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return chain(kept, lines)  # its first line is broken, and is named as such
    whole = "one JSON object" if not text[end:].strip() else "JSON objects"
    fields = ", ".join(list(document)[:8])
    raise DataError(
        f"The dataset is {whole} written over several lines (fields {fields}), not JSON Lines. Write each row on one "
        f"line, for example with `jq -c .`, or with `jq -c '.FIELD[]'` where FIELD holds the rows. Dataset: {file}."
    )


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
    return [line.row for line in usable_lines(path) if line.row is not None]


def usable_lines(path: str | os.PathLike[str]) -> list[Line]:
    """All lines of a dataset, each with a row; raises like :func:`read_rows`."""
    lines = list(read_lines(path))
    if not lines:
        raise no_rows(path)
    raise_problems(path, [f"line {line.number} {line.problem}" for line in lines if line.problem])
    return lines


def numbered_rows(path: str | os.PathLike[str], why: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row by row, with the numbers of their lines, until one cannot be used.

    Args:
        path: The dataset file.
        why: How the message begins that names such a line, for example ``Rows cannot be compared:``.

    Raises:
        DataError: A line is no row.
    """
    for line in read_lines(path):
        if line.row is None:
            raise DataError(
                f"{why} line {line.number} {line.problem}. Correct the line, or let validate_dataset set it aside. Dataset: "
                f"{os.fspath(path)}."
            )
        yield line.number, line.row


def no_rows(path: str | os.PathLike[str]) -> DataError:
    """The error of a dataset that is empty.

    Args:
        path: The dataset file.
    """
    return DataError(f"The dataset has no rows: {os.fspath(path)}. Check the step that writes it.")


def raise_problems(path: str | os.PathLike[str], problems: Sequence[str], how: str = "") -> None:
    """Raise :class:`DataError` with the first problems of a dataset, if it has any.

    Args:
        path: The dataset file.
        problems: Each with the number of its line.
        how: What the dataset was read as.
    """
    if problems:
        shown = "; ".join(problems[:_MAX_PROBLEMS_SHOWN])
        more = (
            f"; and {len(problems) - _MAX_PROBLEMS_SHOWN} more" if len(problems) > _MAX_PROBLEMS_SHOWN else ""
        )
        raise DataError(
            f"Rows cannot be used: {shown}{more}. Correct these lines, or let validate_dataset set them aside. "
            f"Dataset: {os.fspath(path)}{how and ' '}{how}."
        )


def write_output(path: str | os.PathLike[str], text: str) -> None:
    """Write text to an output of a step.

    Args:
        path: Destination; parent directories are made.
        text: What is to stand in it.
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


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
