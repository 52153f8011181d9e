"""Where the text of a specification comes from: files, packages of the KFP SDK, URLs, object stores.

Nothing is extracted to disk, and nothing is read, or unpacked, beyond :data:`MAX_BYTES`.
"""

from __future__ import annotations

import gzip
import http.client
import io
import os
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlunsplit

from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, LLMOpsError
from airflow_provider_llmops.http import TooSlowError, open_within
from airflow_provider_llmops.in_time import in_time
from airflow_provider_llmops.object_store import HINT, meaning_of, storage_path, words_of
from airflow_provider_llmops.specs.hosts import check_host
from airflow_provider_llmops.uris import file_path, scheme_of, split_address

MAX_BYTES = 10 * 2**20
TIMEOUT_SECONDS = 30.0
DEADLINE_SECONDS = 120.0

_CHUNK_BYTES = 64 * 2**10
_ENTRY = "pipeline.yaml"  # what the API server looks for in a package before it takes the first file
_YAML_SUFFIXES = (".yaml", ".yml")


def read_source(source: str | os.PathLike[str]) -> bytes:
    """Read the text of a specification.

    :param source: path, or URL of scheme http, https, file, or of an object store that Airflow knows (``s3``, ``gs``, ...);
        YAML, JSON, or a ``.zip`` or ``.tar.gz`` package with one YAML in it
    :raises ConfigurationError: there is no such file, it cannot be read, or it is too large
    :raises ApiUnavailableError: the server cannot be reached, or it failed
    """
    where = shown(source)
    content = _fetch(os.fsdecode(source), where)
    if content.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _from_zip(content, where)
    if content.startswith(b"\x1f\x8b"):
        return _from_tarball(content, where)
    return content


def shown(source: str | os.PathLike[str]) -> str:
    """Name a source in a message, without the query of its URL, which may be secret.

    :param source: path or URL
    :raises ConfigurationError: the URL cannot be read, or has a login in it
    """
    text = os.fsdecode(source)
    if not scheme_of(text):
        return text
    if scheme_of(text) == "file":
        return text
    parts = split_address(text)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _fetch(source: str, where: str) -> bytes:
    scheme = scheme_of(source)
    if scheme not in ("", "file"):
        check_host(source, where)
    if scheme in ("http", "https"):
        return _download(source, where)
    if scheme == "file":
        return _read_file(file_path(source, where), where)
    return _read_object(source, where) if scheme else _read_file(source, where)


def _read_file(path: str, where: str) -> bytes:
    try:
        file = Path(path)
        if file.is_dir():
            raise ConfigurationError(
                f"{where} is a directory. Name the compiled specification (.yaml) in it."
            )
        if not file.is_file():  # a pipe or a device would be read for ever
            raise ConfigurationError(
                f"There is no file {where} on this machine. Workers read it when the task runs: give them the file, or an "
                "address in object storage."
            )
        with file.open("rb") as stream:
            return _read_limited(stream, where)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{where} cannot be read: {error}.") from error


def _read_object(source: str, where: str) -> bytes:
    def read() -> bytes:
        with storage_path(source, None).open("rb") as stream:  # type: ignore[no-untyped-call]
            return _read_limited(stream, where)

    try:
        return in_time(read, DEADLINE_SECONDS)
    except LLMOpsError:
        raise
    except Exception as error:
        raise _told(error, where) from error


def _told(error: Exception, where: str) -> LLMOpsError:
    words = words_of(error)
    if isinstance(error, FileNotFoundError | IsADirectoryError):
        return ConfigurationError(f"There is no object {where}: {words}. Was the specification uploaded?")
    match meaning_of(error):
        case "setup":
            return ConfigurationError(
                f"{where} cannot be opened: {words}. Object stores need their Airflow provider, pip install "
                "'airflow-provider-llmops[s3]' for s3://, [gs] for gs://; before the bucket may stand the id of a connection that there is, and an @."
            )
        case "rights":
            return ConfigurationError(
                f"{where} may not be read: {words}. Check the Airflow connection of that store."
            )
        case "elsewhere":
            return ConfigurationError(f"{where} is not to be had there: {words}. {HINT}.")
    return ApiUnavailableError(f"{where} cannot be read: {words}. Is the store up?")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to where a specification may be taken from, and to no other scheme than http and https."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        if scheme_of(newurl) not in ("http", "https"):
            raise ConfigurationError(
                f"{shown(req.full_url)} leads to {shown(newurl)}, which is no http or https address."
            )
        check_host(newurl, f"{shown(newurl)}, to which {shown(req.full_url)} leads")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str, where: str) -> bytes:
    try:
        with open_within(url, _Redirects(), timeout=TIMEOUT_SECONDS, seconds=DEADLINE_SECONDS) as answer:
            content = _read_limited(answer, where)
            if answer.length:  # a read of a limited size does not notice that the body was cut off
                raise ApiUnavailableError(
                    f"{where} was cut off {answer.length} bytes before its end. Try again."
                )
            return content
    except urllib.error.HTTPError as error:
        kind = ConfigurationError if error.code < 500 and error.code != 429 else ApiUnavailableError
        hint = " Only addresses that need no login can be read." if error.code in (401, 403) else ""
        raise kind(f"{where} answered {error.code} {error.reason}.{hint}") from error
    except (http.client.InvalidURL, ValueError) as error:  # whose words repeat a part of the address
        raise ConfigurationError(
            f"{where} is not a valid address. Percent-encode blanks and what else it has besides visible ASCII."
        ) from error
    except TooSlowError as error:
        raise ApiUnavailableError(_too_slow(where)) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ApiUnavailableError(f"{where} cannot be read: {reason}. Is the server up?") from error


def _read_limited(stream: IO[bytes] | Any, where: str) -> bytes:
    """Read to the end, but neither more than the limit nor for longer than the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    content = bytearray()
    # Of an answer as much as has come: a read waits for each byte anew.
    read = stream.read1 if isinstance(stream, http.client.HTTPResponse) else stream.read
    while chunk := read(_CHUNK_BYTES):
        content += chunk
        if len(content) > MAX_BYTES:
            raise ConfigurationError(
                f"{where} holds more than {MAX_BYTES // 2**20} MiB. Move code or data that is embedded in the specification "
                "into an image or to object storage."
            )
        if time.monotonic() > deadline:
            raise ApiUnavailableError(_too_slow(where))
    return bytes(content)


def _too_slow(where: str) -> str:
    return f"{where} was not read within {DEADLINE_SECONDS:.0f} seconds. Is the network slow?"


def _from_zip(content: bytes, where: str) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            name = _entry([info.filename for info in archive.infolist() if not info.is_dir()], where)
            info = archive.getinfo(name)
            # The other methods unpack a block at a time, however large it becomes.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 0x1:
                raise ConfigurationError(
                    f"{where} is encrypted or compressed in a way that is not supported. Make it with deflate."
                )
            with archive.open(info) as stream:
                return _read_limited(stream, f"{name} in {where}")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ConfigurationError(
            f"{where} is not a valid zip file: {error}. Compile the pipeline again."
        ) from error


def _from_tarball(content: bytes, where: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            unpacked = _read_limited(stream, where)
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
            members = {member.name: member for member in archive if member.isreg()}
            member = archive.extractfile(members[_entry(list(members), where)])
            return member.read() if member else b""
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise ConfigurationError(
            f"{where} is not a valid .tar.gz file: {error}. Compile the pipeline again."
        ) from error


def _entry(names: list[str], where: str) -> str:
    """The specification among a package's files, as the API server chooses it."""
    for name in names:
        if name.removeprefix("./") == _ENTRY:
            return name
    if not names or not names[0].endswith(_YAML_SUFFIXES):
        raise ConfigurationError(
            f"{where} holds no {_ENTRY}, and its first file is {names[0]!r}."
            if names
            else f"{where} is an empty package."
        )
    return names[0]
