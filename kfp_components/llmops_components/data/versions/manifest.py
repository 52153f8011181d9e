"""Manifests from what steps know, and as files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmops_components.comparison import first_of
from llmops_components.data.files import write_output
from llmops_components.data.versions.digest import Content, content_of
from llmops_components.dataset_manifest import (
    MAX_COLUMNS,
    Column,
    Counts,
    DataFile,
    Manifest,
    PolicyVerdict,
    Source,
    Step,
    digest_of_files,
    read_manifest,
)
from llmops_components.errors import DataError
from llmops_components.json_text import parse_json
from llmops_components.redaction import redact, redacted
from llmops_components.results import digest_of
from llmops_components.state_files import StateFileError, read_content
from llmops_components.uris import scheme_of, split_login

OURS = "llmops-components"


def file_record(path: str | os.PathLike[str], name: str, content: Content | None = None) -> DataFile:
    """A file of a data set.

    Args:
        path: The file.
        name: What it is called in the data set: ``train``.
        content: What is in it, where that is known already; None to read it.

    Raises:
        DataError: It cannot be read, has no rows, or has a line that is no row.
    """
    content = content or content_of(path)
    if len(content.columns) > MAX_COLUMNS:
        raise DataError(
            f"The rows have {len(content.columns)} columns, and a manifest has room for {MAX_COLUMNS}: put what differs from row "
            f"to row into one column, as an object. Dataset: {os.fspath(path)}."
        )
    file_digest, size = digest_of(path)
    columns = [Column(name=column[:256], types=dict(types)) for column, types in content.columns.items()]  # type: ignore[arg-type]
    return DataFile(
        name=name,
        digest=content.digest,
        file_digest=file_digest,
        rows=content.rows,
        bytes=size,
        columns=columns,
    )


def source_record(
    name: str,
    *,
    uri: str | None = None,
    digest: str | None = None,
    rows: int | None = None,
    licence: str | None = None,
    owner: str | None = None,
    date: str | None = None,
) -> Source:
    """A source of rows; what nobody says stays null.

    Args:
        name: What it is called in ids of rows.
        uri: Its address; a login or a token in it is left out.
        digest: Of the file (:func:`~llmops_components.results.digest_of`), or the commit of a repository.
        rows: Rows that were read of it.
        licence: SPDX expression.
        owner: Who answers for it.
        date: The day that the data is of, as ``2026-11-28``.

    Raises:
        DataError: One of these is not what it has to be.
    """
    if uri is not None:
        shown, login = split_login(uri, "uri") if scheme_of(uri) else (uri, None)
        uri = redact(shown if login else uri)  # the slash of a directory stays
    given = {"name": name, "uri": uri, "digest": digest, "rows": rows, "licence": licence, "owner": owner, "date": date}  # fmt: skip
    try:
        return Source.model_validate(given)
    except ValidationError as error:
        raise DataError(
            f"What is said of the source {name!r:.60} cannot be kept ({first_of(error)}). Correct it."
        ) from None


def step_record(
    name: str,
    settings: Mapping[str, Any],
    libraries: Sequence[str] = (),
    *,
    dropped: int = 0,
    changed: int = 0,
    repeated: int = 0,
    added: int = 0,
) -> Step:
    """A step that rows went through.

    Args:
        name: What it is called.
        settings: All of its settings, defaults included; secrets are hidden.
        libraries: Distributions whose versions change what comes out.
        dropped: Rows that it rejected.
        changed: Rows that it changed.
        repeated: Further copies that it made.
        added: Other rows that it made.
    """
    return Step(
        name=name,
        settings=redacted(dict(settings)),
        libraries={library: version(library) for library in sorted(libraries)},
        dropped=dropped,
        changed=changed,
        repeated=repeated,
        added=added,
    )


def make_manifest(
    name: str,
    files: Sequence[DataFile],
    *,
    sources: Sequence[Source],
    steps: Sequence[Step] = (),
    counts: Counts | None = None,
    row_format: str | None = None,
    quality: Mapping[str, float] | None = None,
    partition: str | None = None,
    policy: PolicyVerdict | None = None,
) -> Manifest:
    """The manifest of a data set.

    Args:
        name: What the data set is called, whatever the version.
        files: Its files.
        sources: Where its rows came from.
        steps: What was done to them, in order.
        counts: Rows read, and what became of them; None where every row that was read is in it.
        row_format: Format of the rows.
        quality: What was measured of them, by name.
        partition: Key of the partition that it is of.
        policy: What a policy says of it.

    Raises:
        DataError: These do not belong together; the message says what.
    """
    rows = sum(each.rows for each in files)
    counts = counts or Counts(rows_in=rows, used=rows, rejected=0, repeated=0, added=0)
    return read_manifest(
        {
            "schema_version": 1,
            "name": name,
            "partition": partition,
            "digest": digest_of_files([(each.name, each.digest) for each in files]) if files else "",
            "rows": rows,
            "bytes": sum(each.bytes for each in files),
            "format": row_format,
            "files": [each.model_dump() for each in files],
            "sources": [each.model_dump() for each in sources],
            "steps": [each.model_dump() for each in steps],
            "counts": counts.model_dump(),
            "quality": {key: float(value) for key, value in (quality or {}).items()},
            "policy": policy.model_dump() if policy else None,
            "made_with": {OURS: version(OURS)},
        }
    )


def write_manifest(path: str | os.PathLike[str], manifest: Manifest) -> None:
    """Write a manifest: the same bytes for the same manifest.

    Args:
        path: Destination.
        manifest: The manifest.
    """
    write_output(path, manifest_text(manifest))


def manifest_text(manifest: Manifest) -> str:
    """A manifest as the JSON that its file has."""
    return (
        json.dumps(manifest.model_dump(), ensure_ascii=False, allow_nan=False, indent=1, sort_keys=True)
        + "\n"
    )


def load_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest in a file.

    Args:
        path: The file.

    Raises:
        DataError: It does not exist, or holds none.
    """
    try:
        value = parse_json(read_content(Path(path)))
    except FileNotFoundError:
        raise DataError(
            f"The manifest does not exist: {os.fspath(path)}. Check the step that writes it."
        ) from None
    except (OSError, StateFileError, ValueError) as error:
        raise DataError(
            f"The manifest cannot be read: {error}. Give the file that prepare_dataset or publish_dataset wrote. "
            f"Manifest: {os.fspath(path)}."
        ) from error
    return read_manifest(value)
