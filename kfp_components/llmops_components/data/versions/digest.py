"""A digest of the rows of a data set: the same for the same rows, in whatever file, format and order they stand.

Two rows are the same when their canonical JSON is:

* the keys of objects are sorted by code point, and their order means nothing; nothing stands between the tokens;
* a field of an object that is null is one that is not there, since Parquet has a value for every field of every row; a null
  in a list is one of its elements;
* a number is its value: ``1``, ``1.0`` and ``1e0`` are one, and so are ``0`` and ``-0.0``, since a column of Parquet has one
  type. Whole numbers are exact at any length, others are the nearest double in its shortest notation;
* text is its code points, unchanged: no Unicode normalisation, no trimming;
* dates, decimals and bytes of Parquet are what :mod:`~llmops_components.data.parquet_lines` makes of them, CSV's cells what
  :mod:`~llmops_components.data.csv_lines` does. CSV has text alone in most columns, so that its ``7`` is not the ``7`` of JSON.

Rows are added up, so that their order does not matter and parts that several processes have read can be put together. A row
becomes 1024 numbers of 16 bits (SHAKE128 of its JSON); equal places of all rows are summed, and SHA-256 of the sums and of the
number of rows is the digest. This is LtHash (Bellare and Micciancio, "A New Paradigm for Collision-Free Hashing", EUROCRYPT 1997,
doi:10.1007/3-540-69053-0_13; Lewi et al., "Securing Update Propagation with Homomorphic Hashing", IACR ePrint 2019/227) with
the parameters for which the latter estimates more than 200 bits of security. A plain sum modulo 2^256 would be faster and can be
forged with about 2^32 rows of the forger's choice (Wagner, "A Generalized Birthday Problem", CRYPTO 2002). Unlike there the sums
are kept whole and not modulo 2^16: who finds two data sets with one digest has found such a pair for LtHash as well, and a row that
is repeated 65,536 times still counts.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

import numpy as np

from llmops_components.data.files import no_rows, numbered_rows
from llmops_components.errors import DataError

PREFIX = "rows1:"  # the version of this scheme; another one gets another number
_PLACES = 1024
_ROW_BYTES = 2 * _PLACES
_BATCH_ROWS = 512
_KINDS = {bool: "boolean", str: "string", int: "number", float: "number", list: "array", dict: "object"}
_CONSTANTS = {None: "null", True: "true", False: "false"}


@dataclass(frozen=True)
class Content:
    """What is in a data set.

    Args:
        digest: Of its rows.
        rows: How many there are.
        columns: By column and JSON type, the number of rows that have a value there; names and types are sorted.
    """

    digest: str
    rows: int
    columns: Mapping[str, Mapping[str, int]]


class ContentDigest:
    """The digest of rows that come one after the other."""

    def __init__(self) -> None:
        self.rows = 0
        self._sums = np.zeros(_PLACES, dtype=np.uint64)  # room for 2^48 rows
        self._waiting: list[bytes] = []
        self._columns: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, row: dict[str, Any]) -> None:
        """Add a row.

        Args:
            row: Its fields, as :func:`~llmops_components.data.files.read_lines` gives them.

        Raises:
            DataError: It is nested too deeply.
        """
        self._waiting.append(hashlib.shake_128(canonical(row).encode()).digest(_ROW_BYTES))
        for name, value in row.items():
            if value is not None:
                self._columns[name][_KINDS[type(value)]] += 1
        self.rows += 1
        if len(self._waiting) >= _BATCH_ROWS:
            self._sum_up()

    def merge(self, other: ContentDigest) -> None:
        """Add the rows of another digest, which another process may have read.

        Args:
            other: The digest; it stays as it is.
        """
        other._sum_up()
        self._sums += other._sums
        self.rows += other.rows
        for name, kinds in other._columns.items():
            self._columns[name].update(kinds)

    def content(self) -> Content:
        """What has been added so far."""
        self._sum_up()
        told = hashlib.sha256(b"llmops rows 1\n")
        told.update(self.rows.to_bytes(8, "little"))
        told.update(self._sums.astype("<u8").tobytes())
        columns = {name: dict(sorted(self._columns[name].items())) for name in sorted(self._columns)}
        return Content(f"{PREFIX}{told.hexdigest()}", self.rows, columns)

    def _sum_up(self) -> None:
        if self._waiting:
            numbers = np.frombuffer(b"".join(self._waiting), dtype="<u2").reshape(-1, _PLACES)
            self._sums += numbers.sum(axis=0, dtype=np.uint64)
            self._waiting.clear()


def canonical(row: dict[str, Any]) -> str:
    """A row as its canonical JSON: equal for rows that are the same.

    Args:
        row: The row.

    Raises:
        DataError: It is nested too deeply.
    """
    try:
        return _text(row)
    except RecursionError:
        raise DataError(
            f"A row is nested too deeply for a digest (fields {', '.join(list(row)[:8]):.200}). Write what is deep in it as text."
        ) from None


def content_of(path: str | os.PathLike[str]) -> Content:
    """The digest of a file's rows, their number and their columns, in one pass.

    Args:
        path: A file of rows, see :mod:`~llmops_components.data.files`.

    Raises:
        DataError: It cannot be read, has no rows, or has a line that is no row; names the line.
    """
    digest = ContentDigest()
    for _, row in numbered_rows(path, "A digest is of rows, and"):
        digest.add(row)
    if not digest.rows:
        raise no_rows(path)
    return digest.content()


def content_digest(path: str | os.PathLike[str]) -> str:
    """The digest of a file's rows; raises like :func:`content_of`.

    Args:
        path: The file.
    """
    return content_of(path).digest


def _text(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is dict:
        fields = [
            f"{encode_basestring(name)}:{_text(value[name])}"
            for name in sorted(value)
            if value[name] is not None
        ]
        return f"{{{','.join(fields)}}}"
    if kind is list:
        return f"[{','.join([_text(each) for each in value])}]"
    if kind is float:
        return repr(int(value)) if value.is_integer() else repr(value)
    return _CONSTANTS[value] if value is None or kind is bool else repr(value)
