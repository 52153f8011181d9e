"""Rows on disk at a barrier, and their keys."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path

from llmops_components.data.preparation.records import row_of
from llmops_components.data.preparation.row import Row


class _Chunks:
    """Pieces of bytes, one after the other in a file; only where they begin is in memory.

    Args:
        path: The file, which is made anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb+")
        self.starts = array("Q", [0])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def add(self, chunks: Sequence[bytes]) -> None:
        end = self.starts[-1]
        for chunk in chunks:
            end += len(chunk)
            self.starts.append(end)
        self._file.write(b"".join(chunks))

    def get(self, index: int) -> bytes:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = self.starts[index]
        return os.pread(self._file.fileno(), self.starts[index + 1] - start, start)

    def __iter__(self) -> Iterator[bytes]:
        with self.path.open("rb") as handle:
            for start, end in zip(self.starts, self.starts[1:], strict=False):
                yield handle.read(end - start)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Spool:
    """The rows that have reached a barrier, and their keys.

    Args:
        directory: Where they are written.
        name: Of this barrier.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._records, self._keys = _Chunks(directory / f"{name}.rows"), _Chunks(directory / f"{name}.keys")

    def add(self, records: Sequence[bytes], keys: Sequence[bytes]) -> None:
        """Write rows and their keys."""
        self._records.add(records)
        self._keys.add(keys)

    def read(self) -> tuple[Keys, Rows]:
        """What was written, to look at."""
        self._records.flush()
        self._keys.flush()
        return Keys(self._keys), Rows(self._records)

    def records(self) -> Iterator[bytes]:
        """The records in their order; after :meth:`read`."""
        return iter(self._records)

    def remove(self) -> None:
        """Delete the files."""
        for chunks in (self._records, self._keys):
            chunks.close()
            chunks.path.unlink(missing_ok=True)


class Keys(Sized, Iterable[bytes]):
    """The key of each row."""

    def __init__(self, chunks: _Chunks) -> None:
        self._chunks = chunks

    @property
    def directory(self) -> Path:
        """Where a step may put what has no room in memory: on the disk of the outputs."""
        return self._chunks.path.parent

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> bytes:
        return self._chunks.get(index)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)


class Rows:
    """The rows themselves. Each look reads one from disk."""

    def __init__(self, chunks: _Chunks) -> None:
        self._chunks = chunks

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> Row:
        row = row_of(self._chunks.get(index))
        assert isinstance(row, Row)  # broken lines reach no barrier
        return row

    def __iter__(self) -> Iterator[Row]:
        for record in self._chunks:
            row = row_of(record)
            assert isinstance(row, Row)
            yield row

    def row_id(self, index: int) -> str:
        """The id of a row."""
        return str(json.loads(self._chunks.get(index).partition(b"\t")[0])[0])
