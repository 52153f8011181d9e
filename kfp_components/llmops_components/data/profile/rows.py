"""One pass over a file of rows: what is counted of all of them, and the texts of a sample."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmops_components.data.files import no_rows, read_lines
from llmops_components.data.formats import detect_format
from llmops_components.data.lines import kind_of
from llmops_components.data.texts import ROW_ID, texts_of
from llmops_components.data.versions.digest import canonical
from llmops_components.errors import DataError

DIGEST_BYTES = 16
MAX_COLUMNS = 200  # a file with more has a key for each row
MAX_SAMPLED_CHARACTERS = 64_000_000
MAX_ROW_CHARACTERS = 1_000_000  # of a row of the sample: words and tokens of more take too much memory
NO_FORMAT = "no known format"
_MAX_SHAPES = 1000
_MAX_ROLES = 50
_SHOWN_PROBLEMS = 5
_SHOWN_NAME = 80


@dataclass(frozen=True)
class Sampled:
    """A row of the sample.

    Args:
        line: Its number in the file.
        digest: Of its content.
        texts: Its texts by column.
    """

    line: int
    digest: bytes
    texts: Mapping[str, str]

    @property
    def characters(self) -> int:
        """How many its texts have together."""
        return sum(map(len, self.texts.values()))


@dataclass
class Counted:
    """What is counted of all rows.

    Args:
        rows: How many there are.
        bad_lines: Lines that are no row.
        problems: What is wrong with the first of them.
        digests: Those of all rows one after the other, in order.
        columns: By column the number of rows by kind of value.
        other_columns: Values in columns beyond the first ones.
        lengths: By column with text the number of rows by characters.
        empty: By column with text the number of rows in which it is empty or white space.
        formats: Rows by format.
        turns: By column with messages the number of rows by messages.
        roles: By column with messages the number of messages by role.
        too_long: Rows that are not in the sample for the characters that they have.
        sample: Rows that the seed has chosen, in an order that says nothing.
    """

    rows: int = 0
    bad_lines: int = 0
    problems: list[str] = field(default_factory=list)
    digests: bytearray = field(default_factory=bytearray)
    columns: dict[str, Counter[str]] = field(default_factory=dict)
    other_columns: int = 0
    lengths: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    empty: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    turns: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    roles: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    too_long: int = 0
    sample: list[Sampled] = field(default_factory=list)


def count(path: str | os.PathLike[str], sample_rows: int, seed: int) -> Counted:
    """Read a file.

    Args:
        path: The file.
        sample_rows: How many rows the sample has at most.
        seed: Chooses them.

    Raises:
        DataError: The file cannot be read, or no line of it is a row.
    """
    found, sample = Counted(), Sample(sample_rows, seed)
    format_of = _Formats()
    for line in read_lines(path):
        if line.row is None:
            found.bad_lines += 1
            if len(found.problems) < _SHOWN_PROBLEMS:
                found.problems.append(f"Line {line.number} {line.problem}.")
            continue
        row = {name: value for name, value in line.row.items() if name != ROW_ID}
        digest = hashlib.blake2b(canonical(row).encode(), digest_size=DIGEST_BYTES).digest()
        found.rows += 1
        found.digests += digest
        found.formats[format_of(row)] += 1
        sampled = Sampled(line.number, digest, _add(row, found))
        if sampled.characters > MAX_ROW_CHARACTERS:
            found.too_long += 1
        else:
            sample.add(sampled)
    if found.problems and not found.rows:
        raise DataError(f"No line of the dataset is a row. {found.problems[0]} Dataset: {os.fspath(path)}.")
    if not found.rows:
        raise no_rows(path)
    found.sample = sample.rows()
    return found


def _add(row: Mapping[str, Any], found: Counted) -> dict[str, str]:
    for name, value in row.items():
        if name not in found.columns:
            if len(found.columns) == MAX_COLUMNS:
                found.other_columns += 1
                continue
            found.columns[name] = Counter()
        found.columns[name][kind_of(value)] += 1
        if _is_conversation(value):
            found.turns[name][len(value)] += 1
            _add_roles(value, found.roles[name])
    texts = {name: text for name, text in texts_of(row).items() if name in found.columns}
    for name, text in texts.items():
        found.lengths[name][len(text)] += 1
        if not text.strip():
            found.empty[name] += 1
    return texts


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, Mapping) and ("role" in each or "from" in each) for each in value)
    )


def _add_roles(messages: list[Mapping[str, Any]], roles: Counter[str]) -> None:
    for message in messages:
        role = message.get("role", message.get("from"))
        name = role[:_SHOWN_NAME] if isinstance(role, str) else f"({kind_of(role)})"
        roles[name if name in roles or len(roles) < _MAX_ROLES else "(others)"] += 1


class _Formats:
    """The formats of rows, each found out once for all rows with the same columns and kinds of values.

    A value that is null is none: Parquet has one for every column of every row.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[str, str], ...], str] = {}

    def __call__(self, row: dict[str, Any]) -> str:
        row = {name: value for name, value in row.items() if value is not None}
        shape = tuple(sorted((name, kind_of(value)) for name, value in row.items()))
        if shape not in self._known:
            try:
                name = str(detect_format([row]))
            except DataError:
                name = NO_FORMAT
            if len(self._known) == _MAX_SHAPES:
                return name
            self._known[shape] = name
        return self._known[shape]


class Sample:
    """Rows with the lowest hashes of seed and line: each is as likely, and the same file and seed give the same.

    Args:
        rows: How many at most.
        seed: Chooses them.
        characters: How many characters their texts have at most together.
    """

    def __init__(self, rows: int, seed: int, characters: int = MAX_SAMPLED_CHARACTERS) -> None:
        self._most, self._seed, self._characters = rows, str(seed).encode(), characters
        self._heap: list[tuple[int, int, Sampled]] = []
        self._limit, self._held = 1 << 64, 0

    def add(self, row: Sampled) -> None:
        """Offer a row.

        Args:
            row: The row.
        """
        digest = hashlib.blake2b(str(row.line).encode(), digest_size=8, key=self._seed).digest()
        value = int.from_bytes(digest, "big")
        if value >= self._limit:  # as high as one that had to go
            return
        heapq.heappush(self._heap, (-value, row.line, row))
        self._held += row.characters
        while len(self._heap) > self._most or self._held > self._characters:
            highest, _, gone = heapq.heappop(self._heap)
            self._limit = -highest
            self._held -= gone.characters

    def rows(self) -> list[Sampled]:
        """The sample, by hash."""
        return [row for _, _, row in sorted(self._heap, key=lambda each: (-each[0], each[1]))]


def shown_columns(counted: Counted) -> Iterator[dict[str, Any]]:
    """The columns, for a reader and for programs.

    Args:
        counted: What was counted.
    """
    for name, kinds in counted.columns.items():
        there = sum(number for kind, number in kinds.items() if kind != "null")
        yield {
            "name": name,
            "rows": there,
            "missing": counted.rows - there,
            "kinds": dict(sorted((kind, number) for kind, number in kinds.items() if kind != "null")),
            "empty_texts": counted.empty[name],
        }
