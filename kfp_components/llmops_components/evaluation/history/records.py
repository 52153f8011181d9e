"""The records of a history: one file for each partition, which is replaced as a whole.

The first line of a file says what was reached, and the others are the lines of the evaluation's scores. Who writes one never looks at another
one's, so that partitions may be evaluated in any order, side by side, and again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from llmops_components.comparison import Count, MetricComparison, Name, Strict, first_of
from llmops_components.data.partitions import name_of_partition
from llmops_components.errors import DataError
from llmops_components.json_text import parse_json
from llmops_components.state_files import write_text

_END = ".jsonl"


class Record(Strict):
    """What an evaluation of a partition has reached."""

    schema_version: Literal[1] = 1
    partition: Annotated[str, Field(min_length=1)]
    rows: Count
    rows_digest: str
    settings: dict[str, Any]
    metrics: dict[Name, MetricComparison]

    def differences(self, other: Record) -> list[str]:
        """In what two of them differ that may not differ if they are to be compared.

        Args:
            other: The other one.
        """
        found = {
            "rows": self.rows_digest != other.rows_digest,
            "metrics": self.metrics.keys() != other.metrics.keys(),
            "settings": self.settings != other.settings,
        }
        return [name for name, differs in found.items() if differs]


class History:
    """The records in a directory.

    Args:
        directory: Where they are; made when needed.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)

    def put(self, record: Record, scores: Sequence[Mapping[str, Any]]) -> None:
        """Keep a record in place of the one that the partition has.

        Args:
            record: The record.
            scores: The lines of the evaluation's scores.
        """
        lines = [record.model_dump(), *scores]
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        write_text(self._path(record.partition), text)

    def records(self) -> list[Record]:
        """All records, in the order of their partitions as text."""
        found = []
        for file in self.directory.glob(f"[!.]*{_END}"):
            with file.open(encoding="utf-8", errors="replace") as handle:
                found.append(self._read(file, handle.readline()))
        return sorted(found, key=lambda each: each.partition)

    def scores(self, partition: str) -> list[dict[str, Any]]:
        """The lines of the scores that a partition has a record of.

        Args:
            partition: Its key.
        """
        path = self._path(partition)
        _, *lines = path.read_text(encoding="utf-8").split("\n")
        try:
            return [parse_json(line) for line in lines if line]
        except ValueError:
            raise _broken(path, "a line of it is no JSON") from None

    def _path(self, partition: str) -> Path:
        return self.directory / f"{name_of_partition(partition)}{_END}"

    def _read(self, file: Path, line: str) -> Record:
        try:
            found = Record.model_validate(parse_json(line))
        except ValidationError as error:
            raise _broken(file, first_of(error)) from None
        except ValueError:
            raise _broken(file, "its first line is no JSON") from None
        if self._path(found.partition) != file:
            raise _broken(file, f"it is of partition {found.partition!r:.60}, by whose name it should go")
        return found


def _broken(file: Path, why: str) -> DataError:
    return DataError(
        f"A record of the history cannot be read: {why}. Take it away, and evaluate its partition again; if it is no record, such as a "
        f"partition's questions, give history a directory of its own. File: {file}."
    )
