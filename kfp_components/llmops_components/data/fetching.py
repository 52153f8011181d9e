"""Bring rows from where they lie into a file of the run, and say exactly what was brought."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, BinaryIO

from llmops_components.data.files import read_lines, write_rows
from llmops_components.data.hub import open_hub
from llmops_components.data.lines import Line, parse_line
from llmops_components.data.stores import Place, StoredFile
from llmops_components.errors import DataError, SettingError
from llmops_components.results import StepReport
from llmops_components.state_files import write_json
from llmops_components.uris import hub_name

_CHUNK_BYTES = 4 << 20
_TOLD_EVERY_SECONDS = 10.0
_HELD_BYTES = 256 << 20  # of a dataset on the hub, above which it is streamed


def fetch_dataset(
    source: str, dataset: str | os.PathLike[str], sources: str | os.PathLike[str]
) -> StepReport:
    """Fetch a dataset: what comes after reads this copy, and not what the source may hold by then.

    One file is copied as it is, whatever its format. Several become one file of JSON Lines, in the order of their names; a line that cannot be
    read stays in it as it was, for a validation to reject. A dataset on the hub becomes JSON Lines, of the commit that its revision names.

    Args:
        source: Path, ``file:///path``, ``s3://bucket/key``, ``gs://bucket/key`` or ``hf://datasets/org/name@revision?config=...&split=train``.
            Of files, an address that ends with a slash, or has ``*`` in its last part, names several. See :class:`~llmops_components.data.stores.Place`.
        dataset: Output, the rows.
        sources: Output, JSON with each file's address, digest, size and rows, or the commit on the hub.

    Returns:
        ``files`` and ``bytes`` read, and ``rows`` where they were counted, as metrics; ``details["source"]`` is what was asked for, and
        ``details["revision"]`` the commit on the hub.

    Raises:
        DataError: There is no file, nothing in it, or it may not be read.
        SettingError: The address makes no sense.
        UnavailableError: The store or the hub does not answer.
    """
    if not isinstance(source, str) or not source.strip():
        raise SettingError(f"source is {source!r:.60}. Give the path or address of a dataset.")
    Path(dataset).parent.mkdir(parents=True, exist_ok=True)
    if hub_name(source) is not None:
        return _from_hub(source, dataset, sources)
    place = Place(source)
    files = place.files()
    total = sum(file.bytes for file in files)
    progress = _Progress(f"of {total:,} bytes")
    with Path(dataset).open("wb") as output:
        if place.is_several:
            brought = [_append_rows(place, file, output, progress) for file in files]
        else:
            brought = [_copy(place, files[0], output, progress)]
    size = sum(each["bytes"] for each in brought)
    if not size or (place.is_several and not any(each["rows"] for each in brought)):
        raise DataError(f"The source has no rows: {source}. Check the step that writes it.")
    write_json(sources, {"source": source, "files": brought})
    metrics: dict[str, float | int] = {"files": len(brought), "bytes": size}
    if place.is_several:
        metrics["rows"] = sum(each["rows"] for each in brought)
    print(f"Fetched {len(brought)} file(s), {size:,} bytes from {source}.")
    return StepReport(metrics=metrics, details={"source": source})


class _Progress:
    """Counts, and says now and then how far it is."""

    def __init__(self, of: str) -> None:
        self.done, self._of, self._told = 0, of, time.monotonic()

    def add(self, size: int) -> None:
        self.done += size
        if time.monotonic() - self._told >= _TOLD_EVERY_SECONDS:
            self._told = time.monotonic()
            print(f"{self.done:,} {self._of}", flush=True)


def _copy(place: Place, file: StoredFile, output: BinaryIO, progress: _Progress) -> dict[str, Any]:
    sha, size = hashlib.sha256(), 0
    with place.open(file) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            output.write(chunk)
            sha.update(chunk)
            size += len(chunk)
            progress.add(len(chunk))
    if size != file.bytes:
        raise DataError(
            f"The source changed while it was read: {size:,} bytes came of {file.bytes:,}. Fetch it again when nobody writes to it. File: {file.address}."
        )
    return {"address": file.address, "digest": f"sha256:{sha.hexdigest()}", "bytes": size}


def _append_rows(place: Place, file: StoredFile, output: BinaryIO, progress: _Progress) -> dict[str, Any]:
    """Write a file's rows, by way of a copy on disk: Parquet is read from its end."""
    with NamedTemporaryFile() as copy:
        brought = _copy(place, file, copy.file, progress)
        copy.flush()
        rows = 0
        try:
            for line in read_lines(copy.name):
                kept = _kept(line, is_first=not output.tell())
                output.write(kept.encode("utf-8", errors="surrogateescape") + b"\n")
                rows += 1
        except DataError as error:
            raise DataError(str(error).replace(copy.name, file.address)) from None
    return {**brought, "rows": rows}


def _kept(line: Line, *, is_first: bool) -> str:
    """A line of JSON Lines; of one that cannot be read, what no reader takes for a row, or, in the first line, for another format."""
    if line.problem and (
        (is_first and not line.raw.startswith("{"))
        or "\n" in line.raw
        or parse_line(line.number, line.raw.encode("utf-8", "replace")).row is not None
    ):
        return json.dumps(f"{line.problem}: {line.raw}")
    return line.raw


def _from_hub(source: str, dataset: str | os.PathLike[str], sources: str | os.PathLike[str]) -> StepReport:
    found = open_hub(source, _HELD_BYTES)
    progress = _Progress("rows")

    def rows() -> Iterator[dict[str, Any]]:
        for _, row in found.read():
            progress.add(1)
            yield row

    write_rows(dataset, rows())
    if not progress.done:
        raise DataError(f"The dataset has no rows: {source}. Check its split.")
    write_json(sources, {**found.origin, "rows": progress.done})
    print(f"Fetched {progress.done:,} rows of {found.origin['source']}, commit {found.origin['revision']}.")
    return StepReport(
        metrics={"rows": progress.done, "bytes": Path(dataset).stat().st_size},
        details={"source": source, "revision": found.origin["revision"]},
    )
