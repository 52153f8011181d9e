"""What a state file can be after a power cut, on a full disk, or in somebody's hands."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

Break = Callable[[Path], None]


def _holding(content: bytes) -> Break:
    def write(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(content)

    return write


def _directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _link_to_nothing(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.with_name("nowhere"))


def _pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _huge(path: Path) -> None:
    path.unlink(missing_ok=True)
    with path.open("wb") as handle:
        handle.truncate(1 << 32)


BROKEN: dict[str, Break] = {
    "empty": _holding(b""),
    "cut off": _holding(b'{"state": "SUCC'),
    "NUL bytes": _holding(b"\0" * 4096),
    "binary": _holding(bytes(range(256))),
    "a list": _holding(b"[1, 2]"),
    "null": _holding(b"null"),
    "text": _holding(b'"SUCCEEDED"'),
    "no number": _holding(b'{"state": NaN}'),
    "beyond any number": _holding(b'{"other": 1e999}'),
    "half a pair": _holding(b'{"other": "\\ud800"}'),
    "deep": _holding(b"[" * 100_000),
    "deep object": _holding(
        json.dumps({"a": None}).replace("null", '{"a":' * 200 + "1" + "}" * 200).encode()
    ),
    "many digits": _holding(b'{"other": ' + b"9" * 10_000 + b"}"),
    "huge": _huge,
    "a directory": _directory,
    "a link to nothing": _link_to_nothing,
    "a pipe": _pipe,
}
