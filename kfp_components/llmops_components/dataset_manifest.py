"""The manifest of a data set: what is in it, where that came from, and what was done to it.

The Airflow provider declares the same in its ``dataset_manifest.py``; a test compares the two. It says nothing of when or where it
was made: the same inputs and settings give the same manifest, byte by byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from llmops_components.comparison import Count, Finite, Name, Strict, Versioned, first_of
from llmops_components.errors import DataError
from llmops_components.redaction import redact

MAX_COLUMNS = 2000
_ORDER = ("fail", "undecided", "pass")

Words = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
RowsDigest = Annotated[str, StringConstraints(pattern=r"^rows1:[0-9a-f]{64}$")]
FileDigest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Day = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")]
Outcome = Literal["pass", "fail", "undecided"]
JsonType = Literal["array", "boolean", "number", "object", "string"]


class Column(Strict):
    """A column, and how many rows have a value of which JSON type in it."""

    name: Annotated[str, StringConstraints(max_length=256)]
    types: Annotated[dict[JsonType, Count], Field(min_length=1)]


class DataFile(Strict):
    """One file of the data set: the digest of its rows, in whatever order, and of its bytes."""

    name: Name
    digest: RowsDigest
    file_digest: FileDigest
    rows: Count
    bytes: Count
    columns: Annotated[list[Column], Field(max_length=MAX_COLUMNS)]


class Source(Strict):
    """Where rows came from. What nobody said is null, and no policy takes it for good.

    ``digest`` is that of the file, or the commit of a repository; ``date`` the day that the data is of, as its owner says.
    """

    name: Name
    uri: Uri | None
    digest: Name | None
    rows: Count | None
    licence: Name | None
    owner: Name | None
    date: Day | None

    @model_validator(mode="after")
    def _check_secrets(self) -> Source:
        if self.uri is not None and redact(self.uri) != self.uri:
            raise PydanticCustomError("uri", "its address has a login or a secret in it")
        return self


class Step(Strict):
    """What was done, with which settings and libraries, and to how many rows."""

    name: Name
    settings: dict[Name, JsonValue]
    libraries: dict[Name, Name]
    dropped: Count
    changed: Count
    repeated: Count
    added: Count

    @model_validator(mode="after")
    def _check_settings(self) -> Step:
        try:
            json.dumps(self.settings, allow_nan=False)
        except ValueError:
            raise PydanticCustomError("settings", "its settings have a number that is none in JSON") from None
        return self


class Counts(Strict):
    """Rows that were read, and what became of each; those that were made besides are counted apart."""

    rows_in: Count
    used: Count
    rejected: Count
    repeated: Count
    added: Count

    @model_validator(mode="after")
    def _check_sum(self) -> Counts:
        if self.rows_in != self.used + self.rejected:
            raise PydanticCustomError("counts", "the rows used and rejected are not as many as the rows read")
        return self


class PolicyCheck(Strict):
    """What one field of a policy says, of one source or of the whole."""

    field: Name
    outcome: Outcome
    reason: Words


class PolicyVerdict(Strict):
    """What a policy says of the data set; it passes when every one of its checks does."""

    policy: Name
    digest: FileDigest
    outcome: Outcome
    checks: Annotated[list[PolicyCheck], Field(min_length=1, max_length=20_000)]

    @model_validator(mode="after")
    def _check_outcome(self) -> PolicyVerdict:
        if self.outcome != worst_of([each.outcome for each in self.checks]):
            raise PydanticCustomError("outcome", "its outcome is not the worst of its checks")
        return self


class Manifest(Versioned):
    """A version of a data set. ``format`` is the format of its rows, ``quality`` what was measured of them, by name."""

    schema_version: Literal[1]
    name: Name
    partition: Name | None
    digest: RowsDigest
    rows: Count
    bytes: Count
    format: Name | None
    files: Annotated[list[DataFile], Field(min_length=1, max_length=2000)]
    sources: Annotated[list[Source], Field(max_length=2000)]
    steps: Annotated[list[Step], Field(max_length=200)]
    counts: Counts
    quality: Annotated[dict[Name, Finite], Field(max_length=200)]
    policy: PolicyVerdict | None
    made_with: Annotated[dict[Name, Name], Field(max_length=20)]

    @model_validator(mode="after")
    def _check_sums(self) -> Manifest:
        if len({each.name for each in self.files}) < len(self.files):
            raise PydanticCustomError("files", "two of its files have one name")
        if self.digest != digest_of_files([(each.name, each.digest) for each in self.files]):
            raise PydanticCustomError("digest", "its digest is not that of its files")
        if self.rows != sum(each.rows for each in self.files):
            raise PydanticCustomError("rows", "its rows are not those of its files")
        if self.bytes != sum(each.bytes for each in self.files):
            raise PydanticCustomError("bytes", "its bytes are not those of its files")
        if self.rows != self.counts.used + self.counts.repeated + self.counts.added:
            raise PydanticCustomError(
                "counts", "its rows are not as many as those used, repeated and added together"
            )
        return self


def digest_of_files(files: Sequence[tuple[str, str]]) -> str:
    """The digest of a data set: of a lone file that file's own, else of the names and digests of all, in whatever order."""
    if len(files) == 1:
        return files[0][1]
    told = "".join(f"{name}\0{digest}\n" for name, digest in sorted(files))
    return f"rows1:{hashlib.sha256(told.encode('utf-8', 'backslashreplace')).hexdigest()}"


def worst_of(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of several checks; of none it is undecided."""
    return min(outcomes, key=_ORDER.index, default="undecided")


def read_manifest(value: Any) -> Manifest:
    """A manifest that a step has written.

    Args:
        value: Its JSON.

    Raises:
        DataError: It is none, or of a schema version that this release does not know.
    """
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        raise DataError(
            f"That is no manifest of a data set ({first_of(error)}). Give the one that prepare_dataset or publish_dataset wrote, as "
            "it was written, with the same release on both sides."
        ) from None
