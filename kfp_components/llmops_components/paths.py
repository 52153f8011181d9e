"""Paths that come as text: what this machine's file system knows, and nothing that only looks like it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from llmops_components.errors import SettingError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def local_path(address: str | os.PathLike[str], what: str, *, also: str = "") -> Path:
    """The path that an absolute path, a relative one, or a ``file:///`` address names.

    Of an address everything behind the host is the path, ``?`` and ``#`` included, with percent-encoded characters
    decoded; a path is taken as it is.

    Args:
        address: Path or address.
        what: The argument, for the message.
        also: What else the argument may be, for the message.

    Raises:
        SettingError: It has another scheme, or names another machine.
    """
    text = os.fspath(address)
    match = _SCHEME.match(text)
    if match is None:
        return Path(text)
    scheme, rest = match[1].lower(), text[match.end() :]
    if scheme != "file":
        raise SettingError(
            f"{what} has the scheme {scheme}://, which is not read here: {text!r:.300}. Give a path or file:///path{also}."
        )
    host, _, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise SettingError(
            f"{what} names the host {host!r}; a file URL has three slashes: file:///path. It is {text!r:.300}."
        )
    return Path(os.fsdecode(unquote_to_bytes(f"/{path}")))
