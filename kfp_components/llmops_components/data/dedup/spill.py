"""The shingles of all rows in a temporary file, since they take more room than the memory has for a million rows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
_BATCH = 1 << 21  # shingles that are read at a time
_BYTES = 8


class Spill:
    """Rows of numbers of 64 bits, written one after the other and read again in order or one by one.

    Args:
        directory: Where the file is made; it has no name there and goes with the process.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._file = tempfile.TemporaryFile(dir=Path(directory), buffering=0)  # noqa: SIM115 - closed by close()
        self._counts: list[Array] = []
        self._offsets: Array | None = None

    def write(self, values: Array, counts: Array) -> None:
        """Add rows.

        Args:
            values: The numbers of all of them.
            counts: How many each has.
        """
        view = memoryview(np.ascontiguousarray(values, np.uint64)).cast("B")
        while view:
            view = view[self._file.write(view) :]
        self._counts.append(counts.astype(np.int64))
        self._offsets = None

    @property
    def offsets(self) -> Array:
        """Where each row begins, and where the last one ends."""
        if self._offsets is None:
            counts = np.concatenate([np.zeros(1, np.int64), *self._counts])
            self._counts = [counts[1:]]
            self._offsets = np.cumsum(counts)
        return self._offsets

    def row(self, index: int) -> Array:
        """The numbers of one row.

        Args:
            index: The row.
        """
        begin, end = self.offsets.item(index), self.offsets.item(index + 1)
        return np.frombuffer(os.pread(self._file.fileno(), (end - begin) * _BYTES, begin * _BYTES), np.uint64)

    def batches(self) -> Iterator[tuple[int, Array, Array]]:
        """All rows in order: the first one's index, the numbers, and how many each row has."""
        offsets, first = self.offsets, 0
        while first < len(offsets) - 1:
            last = int(np.searchsorted(offsets, offsets[first] + _BATCH, side="right")) - 1
            last = max(last, first + 1)
            begin, end = int(offsets[first]), int(offsets[last])
            read = os.pread(self._file.fileno(), (end - begin) * _BYTES, begin * _BYTES)
            yield first, np.frombuffer(read, np.uint64), np.diff(offsets[first : last + 1])
            first = last

    def close(self) -> None:
        """Give the room back."""
        self._file.close()
