"""Addresses: what scheme they have, which path, repository or server they name, and which login they carry.

The provider has the same rules (``airflow_provider_llmops/uris.py``), and a test compares the answers.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit, urlunsplit

from llmops_components.errors import SettingError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?=//)|(file):(?=/)", re.IGNORECASE)
_THIS_MACHINE = ("", "localhost")


def scheme_of(address: str) -> str:
    """The scheme in lower case; empty for a path.

    Args:
        address: Path or address.
    """
    match = _SCHEME.match(address)
    return (match[1] or match[2]).lower() if match else ""


def place_of(address: str) -> str:
    """What stands behind the scheme of an address: bucket or host, and path.

    Args:
        address: Address with a scheme.
    """
    return address.partition("://")[2]


def last_part(address: str) -> str:
    """The name of the file or directory that an address names.

    Args:
        address: Path or address.
    """
    return address.partition("?")[0].rstrip("/").rpartition("/")[2]


def is_http(address: str) -> bool:
    """Whether an address is one of a web server.

    Args:
        address: Path or address.
    """
    return scheme_of(address) in ("http", "https")


def host_of(address: str) -> str:
    """The host of a server's address; empty where there is none.

    Args:
        address: Its address.
    """
    with contextlib.suppress(ValueError):
        return urlsplit(address).hostname or ""
    return ""


def is_server(address: str) -> bool:
    """Whether an address is one of a server, and of nothing that is asked there: no query, no fragment, printable ASCII alone.

    Args:
        address: The address.
    """
    try:
        parts = urlsplit(address)
        has_place = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    return has_place and not (parts.query or parts.fragment) and all("!" <= sign <= "~" for sign in address)


def hub_name(address: str) -> str | None:
    """What an address names on the Hugging Face hub: ``org/name``, or ``datasets/org/name``; None if it is of another scheme.

    Args:
        address: Path or address.
    """
    return place_of(address) if scheme_of(address) == "hf" else None


def file_path(address: str, what: str) -> str:
    """The path that a ``file://`` address names.

    Everything behind the host is the path, ``?`` and ``#`` included, with percent-encoded characters decoded.

    Args:
        address: Address of scheme ``file``.
        what: What has the address, for messages.

    Raises:
        SettingError: It names another machine, or no path.
    """
    host, path = _host_and_path(address)
    if host.lower() not in _THIS_MACHINE:
        raise SettingError(
            f"{what} names the host {host!r}; a file URL has three slashes: file:///path. It is {address!r:.300}."
        )
    if not path:
        raise SettingError(
            f"{what} names no path: it is {address!r:.300}. A file URL is written as file:///path."
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


def local_path(address: str | os.PathLike[str], what: str, *, also: str = "") -> Path:
    """The path that an absolute path, a relative one, or a ``file:///`` address names; a path is taken as it is.

    Args:
        address: Path or address.
        what: The argument, for the message.
        also: What else the argument may be, for the message.

    Raises:
        SettingError: It has another scheme, or names another machine.
    """
    text = os.fspath(address)
    scheme = scheme_of(text)
    if scheme not in ("", "file"):
        raise SettingError(
            f"{what} has the scheme {scheme}://, which is not read here: {text!r:.300}. Give a path or file:///path{also}."
        )
    return Path(file_path(text, what) if scheme else text)


def split_login(address: str, what: str) -> tuple[str, tuple[str, str] | None]:
    """An address that may be shown, and the user and password that stood before its host.

    Args:
        address: A server's address.
        what: The argument, for the message.

    Raises:
        SettingError: It is no address.
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        raise SettingError(f"{what} is not an address, for example http://mlflow.example.org:5000.") from None
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return address.rstrip("/") if parts.netloc else address, None
    user, _, password = login.partition(":")
    shown = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
    return shown, (unquote(user), unquote(password))


def without_login(text: str, address: str) -> str:
    """A text in which the login of an address is hidden, however much else of the address it repeats.

    Args:
        text: What a library said of the address.
        address: A server's address.
    """
    try:
        login = urlsplit(address).netloc.rpartition("@")[0]
    except ValueError:  # no address: there is nothing of it to hide
        return text
    return text.replace(login, "***") if login else text
