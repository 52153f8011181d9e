"""Small files of JSON by which processes on this machine know of each other: written as a whole, and read as if anything could be in them.

After a power cut, on a full disk or from somebody's editor a file can be cut off, empty, or full of NUL bytes. Who reads one gets
what its model declares, or an error that names the file and the reason. Without Airflow, for the tools of a checkout.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

MAX_BYTES = 16 << 20
MAX_DEPTH = 64
_NOT_OURS = (errno.EPERM, errno.EACCES, errno.EROFS)  # another user's directory, or a disk that is only read
PRIVATE_UMASK = 0o077  # of the processes of runs: what they make is their owner's alone
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# About the machine at this moment, and not about the file.
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN)


class StateFileError(Exception):
    """A state file holds something else than what is written there."""


class Record(BaseModel):
    """What a state file declares; further keys are kept as they are."""

    model_config = ConfigDict(extra="allow")


RecordT = TypeVar("RecordT", bound=Record)


def write_json(path: Path, value: Any) -> None:
    """Write JSON for the owner alone, so that a reader sees the whole file or none, also after a power cut.

    :param path: destination
    :param value: anything that :mod:`json` can write; NaN and infinity are refused
    """
    write_private(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write_private(path: Path, content: bytes) -> None:
    """Write a file for the owner alone, as a whole or not at all.

    :param path: destination
    :param content: all of it
    """
    aside = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}.tmp")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    _keep_names(path.parent)


def _keep_names(directory: Path) -> None:
    """Have the disk keep a rename; without it, what comes back after a power cut may be the file before."""
    with suppress(OSError):  # some network file systems know no such thing
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_record(path: Path, model: type[RecordT]) -> RecordT:
    """What a file holds, or what the model has for nothing where there is no file.

    :param path: file that :func:`write_json` wrote
    :param model: what it declares
    :raises StateFileError: the file cannot be read, or holds something else; the message names it
    """
    try:
        content = read_content(path)
    except FileNotFoundError:
        if path.is_symlink():
            raise unreadable(path, "it is a symbolic link to nothing") from None
        return model()
    except OSError as error:
        if error.errno in PASSING:
            raise
        raise unreadable(path, os.strerror(error.errno or 0)) from error
    try:
        value = read_text(content)
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:200]
        raise unreadable(path, f"{where}: {first['msg']}" if where else first["msg"]) from None
    except (ValueError, RecursionError) as error:
        raise unreadable(path, str(error)) from None


def read_text(content: bytes) -> Any:
    """A JSON value that can be handed on: finite numbers, real text, nested no deeper than anything of ours.

    :param content: the text as bytes
    :raises ValueError: it is no such thing; the message says why
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(_why_no_json(content, error)) from None
    if why := why_unusable(value):
        raise ValueError(why)
    return value


def read_content(path: Path, limit: int = MAX_BYTES) -> bytes:
    """What a regular file holds, if it is no more than that.

    :param path: the file
    :param limit: the most bytes that are read
    :raises StateFileError: it is no regular file, or larger
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe there must not hold us up
    with os.fdopen(descriptor, "rb") as handle:
        status = os.fstat(handle.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise unreadable(path, "it is no regular file")
        if status.st_size > limit:
            raise unreadable(path, f"it has {status.st_size} bytes, {limit} at most are read")
        return handle.read(limit)


def _why_no_json(content: bytes, error: ValueError) -> str:
    if not content.strip():
        return "it is empty"
    if not content.strip(b"\0"):
        return "it holds NUL bytes alone, as after a power cut"
    if isinstance(error, UnicodeDecodeError):
        return "it is no text"
    return f"it is cut off, or no JSON ({error})"


def why_unusable(value: Any, where: str = "", depth: int = 0) -> str | None:
    """Why no reader takes a value, were it written as JSON; ``None`` if it does.

    :param value: a JSON value
    :param where: of what it is a part, as ``.name.name``
    :param depth: how deep
    """
    if depth > MAX_DEPTH:
        return f"it is nested more than {MAX_DEPTH} deep"
    if isinstance(value, str):
        return (
            "it has text that is no Unicode" if any("\ud800" <= sign <= "\udfff" for sign in value) else None
        )
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where[1:201] or 'it'} is {value}, which is no finite number"
    parts: Iterable[tuple[object, Any]]
    if isinstance(value, dict):
        if any(why_unusable(key) for key in value):
            return "it has text that is no Unicode"
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    else:
        return None
    return next(
        filter(None, (why_unusable(part, f"{where}.{name}", depth + 1) for name, part in parts)), None
    )


def unreadable(path: Path, why: str) -> StateFileError:
    """The error that names a file and why it cannot be read.

    :param path: the file
    :param why: a clause with "it" for the file
    """
    return StateFileError(f"{path.name} cannot be read: {why}. File: {path}")


def why_not_written(error: OSError, path: Path) -> str:
    """What went wrong with writing a file, a full disk by its name, with what is free there.

    :param error: of writing it
    :param path: the file, or the directory that it was to be in
    """
    if error.errno not in _FULL:
        return error.strerror or str(error)
    why = {
        errno.EDQUOT: "the disk quota of this user is used up",
        errno.EFBIG: "the file would be larger than this process may write",
    }.get(error.errno, "the disk is full")
    with suppress(OSError, StopIteration):
        there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        return f"{why} ({shutil.disk_usage(there).free // 2**20} MiB are free)"
    return why


def private_directory(path: Path) -> Path:
    """A directory that its owner alone may enter; one that was there before is made so.

    :param path: the directory; made when needed
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        try:
            path.chmod(0o700)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
    return path
