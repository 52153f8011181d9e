"""Files where they lie: on a disk, or in a bucket of S3 or Google Cloud Storage, read by Arrow.

Credentials come from the environment, as the clients of these stores have them: ``AWS_ACCESS_KEY_ID`` and the like, with
``AWS_ENDPOINT_URL`` for a store that is not Amazon's, and ``GOOGLE_APPLICATION_CREDENTIALS``.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from llmops_components.errors import DataError, SettingError, UnavailableError
from llmops_components.uris import local_path, place_of, scheme_of

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

BUCKETS = ("s3", "gs")
_MANY = re.compile(r"[*?\[]")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}")
_HIDDEN = (".", "_")  # of what other tools leave beside the data, as Spark's _SUCCESS
_DENIED = re.compile(
    r"ACCESS_DENIED|AccessDenied|Forbidden|(?i:status)\W{0,3}40[13]\b|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|PERMISSION_DENIED|UNAUTHENTICATED"
)
# What a store answers where it is asked in another region than the bucket's, or with a session token that has run out.
_ELSEWHERE = re.compile(
    r"(?i:status)\W{0,3}(?:30[1278]|400)\b|AuthorizationHeaderMalformed|PermanentRedirect|ExpiredToken"
)


@dataclass(frozen=True)
class StoredFile:
    """A file in a place.

    Args:
        address: Its address, or its path.
        bytes: Its size.
    """

    address: str
    bytes: int


class Place:
    """A file, or several of one directory, on a disk or in a bucket.

    Args:
        address: Path, ``file:///path``, ``s3://bucket/key`` or ``gs://bucket/key``. One that ends with a slash names all files of the
            directory, but not of those below it, and one with ``*``, ``?`` or ``[`` in its last part those whose names fit; names that begin with a dot or an underscore
            are left out.

    Raises:
        SettingError: It has another scheme, a login, or names no bucket.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._scheme = scheme_of(address)
        if self._scheme in BUCKETS:
            self._root, self._path, self._is_file = f"{self._scheme}://", _bucket_path(address), False
        else:
            path = local_path(
                address, "source", also=", s3://bucket/key, gs://bucket/key or hf://datasets/org/name"
            )
            end = "/" if address.endswith("/") or path.is_dir() else ""
            # Links stay as they are: what `..` leads to from one, only the file system knows.
            self._root, self._path = "", f"{str(path.absolute()).rstrip('/')}{end}"
            self._is_file = path.is_file()  # whatever signs its name has

    @property
    def is_several(self) -> bool:
        """Whether it names files by their directory or a pattern."""
        if self._is_file:
            return False
        return self._path.endswith("/") or bool(_MANY.search(PurePosixPath(self._path).name))

    def files(self) -> list[StoredFile]:
        """The files, in the order of their names.

        Raises:
            DataError: There is none, one is no file, or they may not be read.
            UnavailableError: The store does not answer.
        """
        from pyarrow.fs import FileSelector, FileType

        folder, name = self._path.rpartition("/")[::2]
        asked: Any = FileSelector(folder or "/", allow_not_found=True) if self.is_several else [self._path]
        with self._asking():
            if not self._root and self.is_several:
                _refuse_odd(Path(folder or "/"), name or "*")
            found = self._store.get_file_info(asked)
        files = sorted(
            (
                StoredFile(f"{self._root}{each.path}", each.size)
                for each in found
                if each.type == FileType.File and (not self.is_several or _fits(each.base_name, name or "*"))
            ),
            key=lambda each: each.address,
        )
        if files:
            return files
        if not self.is_several and found[0].type == FileType.Directory:
            raise DataError(f"The source is a directory: write {self.address}/ to have all files of it.")
        if self._root and self._lacks_bucket():
            raise DataError(
                f"There is no such bucket in that store: {self.address}. Check the address, and AWS_ENDPOINT_URL of the step."
            )
        raise DataError(
            f"There is no file to fetch: {self.address}. Check the address, or the step that writes it."
        )

    def _lacks_bucket(self) -> bool:
        from pyarrow.fs import FileType

        try:
            return self._store.get_file_info(self._path.partition("/")[0]).type == FileType.NotFound
        except OSError:  # as where the bucket may not be looked at: then that is not why
            return False

    @contextmanager
    def open(self, file: StoredFile) -> Iterator[Any]:
        """A stream of the bytes of one of its files.

        Args:
            file: One of :meth:`files`.

        Raises:
            DataError: It is not there any more, or may not be read.
            UnavailableError: The store does not answer.
        """
        with self._asking():
            stream = self._store.open_input_stream(file.address.removeprefix(self._root), compression=None)
        with stream:
            yield _Stream(stream.read, self._asking)

    @cached_property
    def _store(self) -> FileSystem:
        from pyarrow import fs

        with self._asking():
            if not self._root:
                return fs.LocalFileSystem()
            # Of the bucket alone: Arrow takes a key for percent-encoded. It finds a bucket's region, and reads AWS_ENDPOINT_URL, only so.
            return fs.FileSystem.from_uri(f"{self._root}{self._path.partition('/')[0]}")[0]

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise DataError(
                f"There is no file to fetch: {self.address}. Check the address, or the step that writes it."
            ) from error
        except OSError as error:
            text = str(error)
            if isinstance(error, PermissionError) or _DENIED.search(text):
                raise DataError(
                    f"The source may not be read: {text:.300}. Give the step credentials that may, in its environment. Source: {self.address}."
                ) from error
            if _ELSEWHERE.search(text):
                raise SettingError(
                    f"The source is not to be had there: {text:.300}. Check AWS_DEFAULT_REGION, AWS_ENDPOINT_URL and AWS_SESSION_TOKEN of the step, which "
                    f"storage_conn_id sets. Source: {self.address}."
                ) from error
            raise UnavailableError(
                f"The source cannot be read just now: {text:.300}. Check the store, and the step's network. Source: {self.address}."
            ) from error


class _Stream:
    def __init__(self, read: Callable[[int], bytes], asking: Callable[[], Any]) -> None:
        self._read, self._asking = read, asking

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end."""
        with self._asking():
            return self._read(size)


def _bucket_path(address: str) -> str:
    place = place_of(address)
    bucket, _, key = place.partition("/")
    if "@" in bucket or ":" in bucket:
        raise SettingError(
            f"An address of {scheme_of(address)}:// has no login or port: write {scheme_of(address)}://bucket/key. Credentials and the address of "
            "the store belong in the environment, as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL."
        )
    if not _BUCKET.fullmatch(bucket) or not key:
        raise SettingError(
            f"An address of a bucket is {scheme_of(address)}://bucket/key, and ends with a slash for all files of a directory: {address!r:.300}."
        )
    if any(part in ("", ".", "..") for part in key.removesuffix("/").split("/")):
        raise SettingError(f"An address of a bucket has no empty parts, '.' or '..': {address!r:.300}.")
    return place


def _refuse_odd(folder: Path, pattern: str) -> None:
    """Refuse what Arrow would leave out of a directory without a word, as a link to nothing, or could not name."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _fits(path.name, pattern) and not (path.is_file() or path.is_dir()):
            raise DataError(
                f"The source has something that is no file: {path}. Remove it, or write it again."
            )
        if path.name != os.fsencode(path.name).decode("utf-8", "replace"):
            raise DataError(
                f"The source has a file whose name is not UTF-8: {os.fsencode(path)!r:.300}. Rename it."
            )


def _fits(name: str, pattern: str) -> bool:
    return not name.startswith(_HIDDEN) and fnmatch.fnmatchcase(name, pattern)
