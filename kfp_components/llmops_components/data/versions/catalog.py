"""Versions of data sets in a directory that outlives the runs: one that is there is never changed.

A version is known by a digest of its manifest, which has the digests of its files: the same rows, made in the same way, of the same sources
are the same version, whoever publishes them and however often. What a policy said when it was first published stands in its manifest. ::

    NAME/versions/VERSION/manifest.json, prepared.jsonl ...
    NAME/partitions/KEY.json    the version that a partition has
    NAME/current.json           the one of a data set without partitions
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llmops_components.data.partitions import name_of_partition
from llmops_components.data.versions.manifest import load_manifest, manifest_text
from llmops_components.dataset_manifest import Manifest
from llmops_components.errors import DataError, SettingError
from llmops_components.results import digest_of
from llmops_components.state_files import StateFileError, raise_if_full, read_json, write_json, write_text

MANIFEST = "manifest.json"
_VERSION_DIGITS = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_POINTER: Mapping[str, Any] = {"version": str}


@dataclass(frozen=True)
class Published:
    """What became of a version.

    Args:
        version: Its id.
        directory: Where it is.
        is_new: Whether it was not there before.
        before: The version that the partition, or the data set, had until now; None where it had none, or the same.
    """

    version: str
    directory: Path
    is_new: bool
    before: str | None


class Catalog:
    """The versions of a data set.

    Args:
        directory: Of the catalog; made when needed.
        name: Name of the data set.

    Raises:
        SettingError: The name is none.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SettingError(
                f"name is {name!r:.60}. Give a name of at most 100 letters, digits, '.', '_' and '-', which begins with a letter or digit."
            )
        self._directory = Path(directory) / name

    def publish(self, manifest: Manifest, files: Mapping[str, Path]) -> Published:
        """Keep a version, and have its partition point to it. Who is killed on the way leaves nothing that is taken for a version.

        Args:
            manifest: Its manifest.
            files: Its files by name, whose digests are those of the manifest.

        Raises:
            DataError: A version with this id is there, and its files are not what they were.
        """
        text = manifest_text(manifest)
        version = version_of(manifest)
        directory = self._directory / "versions" / version
        is_new = not directory.is_dir()
        if is_new:
            self._put(directory, text, files)
        self._check(directory, manifest)
        pointer = self._pointer(manifest.partition)
        before = _read_pointer(pointer)
        if before != version:
            write_json(pointer, {"version": version, "partition": manifest.partition})
        return Published(version, directory, is_new, before if before != version else None)

    def _pointer(self, partition: str | None) -> Path:
        if partition is None:
            return self._directory / "current.json"
        return self._directory / "partitions" / f"{name_of_partition(partition)}.json"

    def _put(self, directory: Path, manifest: str, files: Mapping[str, Path]) -> None:
        aside = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}.tmp")
        try:
            aside.mkdir(parents=True)
            for name, path in files.items():
                _copy(path, aside / file_name(name))
            write_text(aside / MANIFEST, manifest)
            try:
                aside.rename(directory)
            except OSError:
                if not directory.is_dir():
                    raise
                # Somebody else has published the same version in the meantime.
        except OSError as error:
            raise_if_full(error, aside)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _check(self, directory: Path, manifest: Manifest) -> None:
        """Refuse a version whose files were changed after they were published."""
        for file in manifest.files:
            path = directory / file_name(file.name)
            found = digest_of(path)[0] if path.is_file() else "nothing"
            if found != file.file_digest:
                raise DataError(
                    f"A published version was changed: its file {path.name} has the digest {found}, its manifest {file.file_digest}. Remove the "
                    f"directory, and publish it again. Directory: {directory}."
                )
        try:
            is_same = _itself(load_manifest(directory / MANIFEST)) == _itself(manifest)
        except DataError:
            is_same = False
        if not is_same:
            raise DataError(
                f"A published version was changed: its manifest is not what it was. Remove the directory, and publish it again. Directory: {directory}."
            )


def version_of(manifest: Manifest) -> str:
    """The id of a version: the first digits of its manifest's SHA-256, without what a policy said, which may be another word tomorrow.

    Args:
        manifest: Its manifest.
    """
    return hashlib.sha256(manifest_text(_itself(manifest)).encode()).hexdigest()[:_VERSION_DIGITS]


def _itself(manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"policy": None})


def file_name(name: str) -> str:
    """What a file of a data set is called in a version.

    Args:
        name: Its name in the manifest.
    """
    return f"{quote(name, safe='')}.jsonl"


def _read_pointer(path: Path) -> str | None:
    try:
        found = read_json(path, _POINTER).get("version")
    except StateFileError as error:
        raise DataError(
            f"The catalog does not say which version there is: {error}. Remove the file, and publish again. File: {path}."
        ) from error
    return found and str(found)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("wb") as written:
        shutil.copyfileobj(read, written, 1 << 20)
        written.flush()
        os.fsync(written.fileno())
