"""Addresses of artifacts: what scheme they have, which path they name, whether this machine can read them.

The data plane has the same rules (``llmops_components/uris.py``), and a test compares the answers.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, quote, unquote, unquote_to_bytes, urlsplit

from airflow_provider_llmops.exceptions import ConfigurationError, shown_value
from airflow_provider_llmops.redaction import redact

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?=//)|(file):(?=/)", re.IGNORECASE)
_THIS_MACHINE = ("", "localhost")
_MINIO = "minio"
_UNSEEN = re.compile(r"[\x00-\x20\x7f]")
_ONE_IN_THE_WORLD = ("hf", "package")
_CONTAINER_BEFORE_HOST = ("abfs", "abfss", "wasb", "wasbs")
_SAME_STORE = {"gcs": "gs", "s3a": "s3", "s3n": "s3"}
_KEYS = ("s3", "gs", "pvc", *_CONTAINER_BEFORE_HOST)  # what follows the bucket is no path from a root


@dataclass(frozen=True)
class Address:
    """What an argument that names a place may be, on a machine without object storage.

    :param schemes: what the component reads by itself, besides a path or ``file:///``
    :param kind: what has to be there; ``None`` for a file or a directory
    :param exists: whether it has to be there before the run starts
    :param names: whether text without a scheme may be a name of something else, as ``org/name`` on the hub
    """

    schemes: Collection[str] = ()
    kind: Literal["file", "directory"] | None = None
    exists: bool = True
    names: bool = False

    def and_also(self, other: Address) -> Address:
        """What is both.

        :param other: what somebody else expects at the same place
        """
        return Address(
            schemes=tuple(scheme for scheme in self.schemes if scheme in other.schemes),
            kind=self.kind or other.kind,
            exists=self.exists or other.exists,
            names=self.names and other.names,
        )


ANY_ARTIFACT = Address(schemes=("hf", "package"))
"""KFP hands these schemes on as they are, and a component may know what to do with them; of ``s3`` and others it makes a path."""


def scheme_of(address: str) -> str:
    """The scheme in lower case; empty for a path."""
    match = _SCHEME.match(address)
    return (match[1] or match[2]).lower() if match else ""


def place_of(address: str) -> str:
    """What stands behind the scheme of an address: bucket or host, and path."""
    return address.partition("://")[2]


def server_address(host: str, port: int | None, scheme: str) -> str | None:
    """Address of a server from the fields of an Airflow connection, without a slash at its end; ``None`` if they make none.

    It has no login, which has fields of its own, and no query.

    :param host: with or without a scheme, port and path
    :param port: where the host names none
    :param scheme: where the host names none
    """
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    whole = host if "://" in host else f"{scheme}://{host}"
    try:
        parts = urlsplit(whole)
        own_port = f":{port}" if port and parts.port is None else ""
        address = f"{parts.scheme}://{parts.netloc}{own_port}{parts.path.rstrip('/')}"
        is_address = parse_url(address).host is not None and not _UNSEEN.search(whole)
    except (ValueError, LocationParseError):  # a bracket that is not closed, a port that is none
        return None
    is_server = is_address and parts.scheme in ("http", "https") and bool(parts.hostname)
    return None if not is_server or parts.username or parts.password or parts.query else address


def split_address(address: str) -> SplitResult:
    """The parts of an address of a server, which has no login in it: clients show it in their errors, and logs keep it.

    Before the host of an object store may be the id of an Airflow connection.

    :param address: address of any scheme
    :raises ConfigurationError: it is none, or has a login before its host
    """
    host, is_valid = "", False
    with contextlib.suppress(ValueError):
        parts = urlsplit(address)
        host, is_valid = parts.hostname or "", parts.port is None or parts.port > 0
    login = re.split(r"[/?#]", address.partition("://")[2])[0].rpartition("@")[0]
    if login and (":" in login or scheme_of(address) in ("http", "https")):
        raise ConfigurationError(
            "Addresses with a login in them (user:password@) are not read. Leave it out, and put it into an Airflow connection.",
            f"Scheme: {scheme_of(address)}",
        )
    if not is_valid or "%" in host:
        raise ConfigurationError(
            "That is not a valid address: its host or port cannot be read. Write it as scheme://host:port/path.",
            f"Scheme: {scheme_of(address)}",
        )
    return parts


def file_address(path: str) -> str:
    """The ``file://`` address of an absolute path.

    :param path: absolute path
    """
    return f"file://{quote(os.fsencode(path))}"


def file_path(address: str, what: str) -> str:
    """The path that a ``file://`` address names.

    Everything behind the host is the path, ``?`` and ``#`` included, with percent-encoded characters decoded.

    :param address: address of scheme ``file``
    :param what: what has the address, for messages
    :raises ConfigurationError: it names another machine, or no path
    """
    host, path = _host_and_path(address)
    if host.lower() not in _THIS_MACHINE:
        raise ConfigurationError(
            f"{what} names the host {host!r}; a file URL has three slashes: file:///path. It is {shown_value(address, 300)}."
        )
    if not path:
        raise ConfigurationError(
            f"{what} names no path: it is {shown_value(address, 300)}. A file URL is written as file:///path."
        )
    return path


def _host_and_path(address: str) -> tuple[str, str]:
    rest = address.partition(":")[2]
    if not rest.startswith("//"):
        return "", _decoded(f"/{rest.lstrip('/')}")
    host, slash, path = rest[2:].partition("/")
    return host, _decoded(slash + path)


def _decoded(path: str) -> str:
    return os.fsdecode(unquote_to_bytes(path))


def names_in(path: str) -> list[str]:
    """The names that a path is made of; a slash within one is written as ``%2F``.

    :param path: of an address whose names are texts
    """
    return [unquote(part) for part in path.removeprefix("/").split("/")]


def storage_address(address: str) -> str:
    """The address as object storage libraries know it: MinIO speaks S3, and Kubeflow has a scheme of its own for it."""
    return f"s3:{address[len(_MINIO) + 1 :]}" if scheme_of(address) == _MINIO else address


def dataset_at(address: str) -> tuple[str, str] | None:
    """Namespace and name of what lies at an address, by OpenLineage's rules (https://openlineage.io/docs/spec/naming).

    Without login, query and fragment, so that the same thing has one name whoever asks for it; ``None`` where an address names no place.

    :param address: path or address
    """
    scheme = scheme_of(address)
    if scheme in ("", "file"):
        host, path = _host_and_path(address) if scheme else ("", address)
        namespace = "file" if host.lower() in _THIS_MACHINE else f"file://{redact(host)}"
        return (namespace, redact(path.rstrip("/") or "/")) if path.startswith("/") else None
    place = re.split(r"[?#]", place_of(storage_address(address)), maxsplit=1)[0]
    if scheme in _ONE_IN_THE_WORLD:
        return scheme, redact(place.partition("@")[0].strip("/"))
    scheme = "s3" if scheme == _MINIO else _SAME_STORE.get(scheme, scheme)
    login, _, host = place.partition("/")[0].rpartition("@")
    if scheme not in _CONTAINER_BEFORE_HOST or ":" in login:
        authority, _, path = place_of(redact(f"{scheme}://{place}")).partition("/")
        authority = authority.rpartition("@")[2]
    else:
        authority, path = place.partition("/")[0], redact(place.partition("/")[2])
    path = path.strip("/")
    return f"{scheme}://{authority}", (path or "/") if scheme in _KEYS else f"/{path}"


def on_this_machine(name: str, address: str, expected: Address) -> str:
    """The absolute path that an address names, or an address that the component reads by itself.

    :param name: the argument, for messages
    :param address: path or URI
    :param expected: what it may be
    :raises ConfigurationError: a step on this machine cannot read it
    """
    scheme = scheme_of(address)
    if scheme in expected.schemes:
        return address
    if scheme not in ("", "file"):
        raise ConfigurationError(_unreadable(name, address, scheme, expected))
    path = file_path(address, name) if scheme else address
    if not scheme and expected.names and not path.startswith(("/", "~", "./", "../")):
        return address
    if not path.startswith("/"):
        full = Path(path).expanduser() if path.startswith("~") else Path.cwd() / path
        raise ConfigurationError(
            f"{name} is {shown_value(address, 200)}, not an absolute path, and a step starts in a directory of its own. If the "
            f"worker's is meant, give {os.path.normpath(full)}."
        )
    if expected.exists:
        _check_present(name, path, expected)
    return path


def _unreadable(name: str, address: str, scheme: str, expected: Address) -> str:
    readable = [*(f"{each}://" for each in expected.schemes), "file:///"]
    return (
        f"{name} has the scheme {scheme}://, which cannot be read on this machine: {shown_value(address, 300)}. Here it takes an "
        f"absolute path or {' or '.join(readable)}. Copy it to this machine's disk, or use a connection with a host, a "
        "Kubeflow Pipelines server."
    )


def _check_present(name: str, path: str, expected: Address) -> None:
    try:
        is_directory, is_there = Path(path).is_dir(), Path(path).exists()
    except (OSError, ValueError) as error:  # too long, no permission, a NUL in it
        raise ConfigurationError(
            f"{name} cannot be read: {error}. It is {shown_value(path, 300)}."
        ) from error
    if not is_there:
        parent = next(parent for parent in Path(path).parents if parent.exists())
        raise ConfigurationError(
            f"{name} does not exist on this machine: {shown_value(path, 300)}; {shown_value(str(parent), 200)} does. Check the path, and that the "
            "task that makes it runs on the same machine."
        )
    if expected.kind == "file" and is_directory:
        raise ConfigurationError(
            f"{name} is a directory, and a file is needed: {shown_value(path, 300)}. Name the file in it."
        )
    if expected.kind == "directory" and not is_directory:
        raise ConfigurationError(
            f"{name} is a file, and a directory is needed: {shown_value(path, 300)}. Give the directory."
        )
