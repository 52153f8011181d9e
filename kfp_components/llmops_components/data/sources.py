"""Training data from where it lies: a file, or a dataset on the Hugging Face hub.

Small datasets are read as a whole and every row is checked before anything is trained. Large ones are streamed: their
rows are checked as training comes to them, and never all in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from llmops_components.data.files import is_compressed, no_rows, numbered_rows
from llmops_components.data.formats import (
    MEDIA_COLUMNS,
    DatasetFormat,
    FormatName,
    accepted_format,
    with_our_names,
    with_text,
)
from llmops_components.data.hub import HubDataset, open_hub
from llmops_components.data.valid_rows import read_valid_rows, row_problems
from llmops_components.errors import DataError
from llmops_components.results import digest_of
from llmops_components.uris import hub_name, local_path

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

STREAM_BYTES = 1 << 30  # about where rows held as Python objects take ten times as much
STREAM_ENVIRONMENT = "LLMOPS_STREAM_BYTES"
_COMPRESSED = 4  # about how much more text a compressed file holds than its size
_SAMPLE_ROWS = 1000
_ABSENT: dict[str, Any] = {
    "chat_template_kwargs": {}
}  # TRL unpacks it; of other columns null is what is absent
_SHUFFLE_BUFFER_ROWS = 1000


@dataclass(frozen=True)
class Source:
    """Rows to train on, in a known format.

    Args:
        name: Path or URI, for messages.
        origin: What the provenance says of it: digest or commit, rows if they were counted, format.
        format: The rows' format.
        rows: The rows, or None when they are streamed.
        read: Reads them again, with the number of each, checked.
    """

    name: str
    origin: Mapping[str, Any]
    format: DatasetFormat
    rows: list[dict[str, Any]] | None
    read: Callable[[], Iterator[dict[str, Any]]]

    def dataset(
        self,
        columns: Sequence[str] | None = None,
        *,
        expand: Callable[[dict[str, Any]], list[dict[str, Any]]] | None = None,
        shuffle_seed: int | None = None,
    ) -> Dataset | IterableDataset:
        """The rows as a dataset for a trainer.

        Args:
            columns: Columns that the trainer reads; others (an id, a source) may have a type that differs from row to
                row. None for all.
            expand: Makes several rows of one.
            shuffle_seed: Shuffle the rows; of streamed ones, those that are near each other.
        """
        from datasets import Dataset, Features, IterableDataset

        if self.rows is None:
            streamed = IterableDataset.from_generator(
                _expanded, gen_kwargs={"read": self.read, "columns": columns, "expand": expand}
            )
            if shuffle_seed is None:
                return streamed
            return streamed.shuffle(seed=shuffle_seed, buffer_size=_SHUFFLE_BUFFER_ROWS)
        rows = list(_expanded(self.read, columns, expand))
        present = list(dict.fromkeys(name for row in rows for name in row))
        filled = [{name: row.get(name, _ABSENT.get(name)) for name in present} for row in rows]
        try:
            dataset = Dataset.from_list(filled)
            if uneven := _uneven_columns(dataset):
                dataset = Dataset.from_list(filled, features=Features({**dataset.features, **uneven}))
        except (TypeError, ValueError, OverflowError) as error:  # of pyarrow: its own errors are among them
            raise DataError(
                f"A column has a type that differs from row to row: {error}. Give it one type. Dataset: {self.name}."
            ) from error
        return dataset if shuffle_seed is None else dataset.shuffle(seed=shuffle_seed)


def open_source(source: str | os.PathLike[str], formats: Sequence[FormatName]) -> Source:
    """Find a dataset and check it: all rows of a small one, the first of a large one.

    Args:
        source: Path of a file (see :mod:`~llmops_components.data.files`), or ``hf://datasets/org/name@revision?config=...&split=train``.
        formats: Formats that the caller can use.

    Raises:
        DataError: The dataset does not exist, is in another format, or has rows that are not valid; names the row, the
            format and the field.
        SettingError: The URI makes no sense.
        UnavailableError: The hub cannot be reached.
    """
    name = os.fspath(source)
    limit = int(os.environ.get(STREAM_ENVIRONMENT, STREAM_BYTES))
    if hub_name(name) is not None:
        return _from_hub(name, formats, limit)
    path = local_path(name, "dataset", also=", or hf://datasets/org/name")
    if path.is_file() and path.stat().st_size * (_COMPRESSED if is_compressed(path) else 1) > limit:
        return _streamed(name, formats, partial(_numbered, str(path)), {"digest": digest_of(path)[0]})
    rows, found = read_valid_rows(path, formats)
    origin = {"digest": digest_of(path)[0], "rows": len(rows), "format": str(found)}
    return Source(name, origin, found, rows, partial(iter, rows))


def _streamed(
    name: str,
    formats: Sequence[FormatName],
    read: Callable[[], Iterable[tuple[int, dict[str, Any]]]],
    origin: Mapping[str, Any],
) -> Source:
    first = [row for _, row in islice(read(), _SAMPLE_ROWS)]
    if not first:
        raise no_rows(name)
    found = accepted_format(name, first, formats)
    checked = partial(_checked, name, found, read)
    for _ in islice(checked(), _SAMPLE_ROWS):
        pass  # a dataset that is wrong from its start is refused before a model is loaded
    return Source(name, {**origin, "format": str(found)}, found, None, checked)


def _numbered(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in numbered_rows(path, "Rows cannot be used:"):
        yield number, with_our_names(row)


def _checked(
    name: str, found: DatasetFormat, read: Callable[[], Iterable[tuple[int, dict[str, Any]]]]
) -> Iterator[dict[str, Any]]:
    for number, row in read():
        for field, problem in row_problems(row, found):
            raise DataError(
                f"Rows cannot be used: row {number}: {field} {problem}. Correct the row, or let validate_dataset set it "
                f"aside. Dataset: {name} as {found}."
            )
        yield with_text(row, found)


def _expanded(
    read: Callable[[], Iterator[dict[str, Any]]],
    columns: Sequence[str] | None,
    expand: Callable[[dict[str, Any]], list[dict[str, Any]]] | None,
) -> Iterator[dict[str, Any]]:
    for row in read():
        for each in expand(row) if expand else (row,):
            if columns is None:  # an empty column of pictures would be read as one
                yield {name: value for name, value in each.items() if value or name not in MEDIA_COLUMNS}
            else:
                yield {name: each[name] for name in columns if name in each}


def _uneven_columns(dataset: Dataset) -> dict[str, Any]:
    """Columns whose objects do not all have the same fields, as JSON.

    As Arrow's structs all of them get all fields: those that one lacks become null, and chat templates render them.
    """
    import pyarrow as pa
    from datasets import Json, List

    def has_nulls(array: pa.Array) -> bool:
        if pa.types.is_struct(array.type):
            return any(field.null_count or has_nulls(field) for field in array.flatten())
        if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            return has_nulls(array.flatten())
        return False

    return {
        name: List(Json()) if isinstance(dataset.features[name], List) else Json()
        for name, column in zip(dataset.column_names, dataset.data.columns, strict=True)
        if any(map(has_nulls, column.chunks))
    }


def _from_hub(uri: str, formats: Sequence[FormatName], limit: int) -> Source:
    found = open_hub(uri, limit)
    streamed = _streamed(uri, formats, partial(_with_our_names, found), found.origin)
    if found.is_streamed:
        return streamed
    everything = list(streamed.read())
    return Source(
        uri,
        {**streamed.origin, "rows": len(everything)},
        streamed.format,
        everything,
        partial(iter, everything),
    )


def _with_our_names(dataset: HubDataset) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in dataset.read():
        yield number, with_our_names(row)
