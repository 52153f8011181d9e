"""Small files of JSON by which processes know of each other: written as a whole, and read as if anything could be in them.

After a power cut, on a full disk or from somebody's editor a file can be cut off, empty, or full of NUL bytes. Who reads one gets
what it declares, or an error that names the file and the reason. Standard library only, because short commands read them.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llmops_components.errors import ComponentError, UnavailableError

MAX_BYTES = 16 << 20
MAX_DEPTH = 64
_NOT_OURS = (errno.EPERM, errno.EACCES, errno.EROFS)  # another user's directory, or a disk that is only read
_NO_ROOM_BYTES = 64 << 20  # less than the file that just failed to be written, most likely
PRIVATE_UMASK = 0o077  # of the processes of runs and services: what they make is their owner's alone
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# About the machine at this moment, and not about the file.
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN)
Shape = Any
# Why a step or a process failed, as `llmops_components.reporting` writes it.
ERROR_SHAPE = {"type": str, "message": str, "retryable": bool, "traceback": str, "task": str}


class StateFileError(ComponentError):
    """A state file does not hold what its writers write."""


class DiskFullError(UnavailableError, OSError):
    """Nothing more can be written: no space, or no more of it for this user. Running again helps once there is room."""


def write_json(path: str | os.PathLike[str], value: Any, *, private: bool = False) -> None:
    """Write JSON so that a reader sees the whole file or none, also after a power cut.

    Args:
        path: Destination; parent directories are made.
        value: Anything that :mod:`json` can write; NaN and infinity are refused.
        private: Whether only the owner may read it, whatever the process's umask says.

    Raises:
        DiskFullError: There is no room for it.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False, sort_keys=False) + "\n", private=private)


def write_text(path: str | os.PathLike[str], text: str, *, private: bool = False) -> None:
    """Write text so that a reader sees the whole file, or what was there before, also after a power cut.

    Args:
        path: Destination; parent directories are made.
        text: What is to stand in it.
        private: Whether only the owner may read it, whatever the process's umask says.

    Raises:
        DiskFullError: There is no room for it.
    """
    target = Path(path)
    # Not the process's number: on a shared volume those of two containers are often the same.
    aside = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_aside(aside, text.encode("utf-8"), 0o600 if private else 0o666)
            aside.replace(target)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        _keep_names(target.parent)
    except OSError as error:
        raise_if_full(error, target)
        raise


def _write_aside(aside: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def _keep_names(directory: Path) -> None:
    """Write a rename to the disk; without this the former file may be back after a power cut."""
    with suppress(OSError):  # some network file systems know no such thing
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_json(path: str | os.PathLike[str], shape: Shape | None = None) -> dict[str, Any]:
    """The JSON object in a file, or an empty one where there is no file.

    Args:
        path: File that :func:`write_json` wrote.
        shape: Types of the values by key, see :func:`mismatch`; a key may be absent or null.

    Raises:
        StateFileError: The file cannot be read, or does not hold that; the message names it.
    """
    file = Path(path)
    try:
        content = read_content(file)
    except FileNotFoundError:
        if file.is_symlink():
            raise unreadable(file, "it is a symbolic link to nothing") from None
        return {}
    except OSError as error:
        if error.errno in PASSING:
            raise
        raise unreadable(file, os.strerror(error.errno or 0)) from error
    try:
        value = json.loads(content)
    except RecursionError:
        raise unreadable(file, "it is nested too deeply") from None
    except ValueError as error:
        raise unreadable(file, _why_no_json(content, error)) from None
    if not isinstance(value, dict):
        raise unreadable(file, f"it holds {_kind(value)} and no JSON object")
    if why := why_unusable(value) or mismatch(value, shape or {}):
        raise unreadable(file, why)
    return value


def read_content(file: Path) -> bytes:
    """What a regular file of no more than :data:`MAX_BYTES` holds.

    Args:
        file: The file.

    Raises:
        StateFileError: It is no regular file, or larger.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe there must not hold us up
    with os.fdopen(descriptor, "rb") as handle:
        status = os.fstat(handle.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise unreadable(file, "it is no regular file")
        if status.st_size > MAX_BYTES:
            raise unreadable(file, f"it has {status.st_size} bytes, {MAX_BYTES} at most are read")
        return handle.read(MAX_BYTES + 1)


def _why_no_json(content: bytes, error: ValueError) -> str:
    if not content.strip():
        return "it is empty"
    if not content.strip(b"\0"):
        return "it holds NUL bytes alone, as after a power cut"
    if isinstance(error, UnicodeDecodeError):
        return "it is no text"
    return f"it is cut off, or no JSON ({error})"


def why_unusable(value: Any, where: str = "", depth: int = 0) -> str | None:
    """Why a value cannot be handed on: text with half a surrogate pair, numbers beyond any, nesting without an end.

    Args:
        value: Of JSON.
        where: The keys that lead to it, each with a dot before it, for the answer.
        depth: How deep it lies.
    """
    if depth > MAX_DEPTH:
        return f"it is nested more than {MAX_DEPTH} deep"
    if isinstance(value, str):
        return (
            "it has text that is no Unicode" if any("\ud800" <= sign <= "\udfff" for sign in value) else None
        )
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where[1:201] or 'it'} is {value}, which is no finite number"
    if isinstance(value, dict):
        if any(isinstance(key, str) and why_unusable(key) for key in value):
            return "it has text that is no Unicode"
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    else:
        return None
    return next(
        filter(None, (why_unusable(part, f"{where}.{name}", depth + 1) for name, part in parts)), None
    )


def mismatch(value: Any, shape: Shape, where: str = "it") -> str | None:
    """How a value differs from a shape; None if it fits.

    Args:
        value: What was read.
        shape: A type or a tuple of types; ``[shape]`` for a list of them; ``{"key": shape}`` for an object whose keys, where they
            are there and not null, hold these (``{str: shape}`` for one with any keys).
        where: What the value is, for the answer.
    """
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where} is {_kind(value)} and no object"
        known = dict.fromkeys(value, shape[str]) if str in shape else shape
        found = (
            mismatch(value[key], each, f"{key!r}" if where == "it" else f"{where}: {key!r}")
            for key, each in known.items()
            if value.get(key) is not None
        )
        return next(filter(None, found), None)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is {_kind(value)} and no list"
        return next(filter(None, (mismatch(each, shape[0], f"an item of {where}") for each in value)), None)
    kinds = shape if isinstance(shape, tuple) else (shape,)
    fits = isinstance(value, kinds) and not (isinstance(value, bool) and not {bool, object} & set(kinds))
    return (
        None if fits else f"{where} is {_kind(value)} and not {' or '.join(kind.__name__ for kind in kinds)}"
    )


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def unreadable(file: Path, why: str) -> StateFileError:
    """The error that names a file and why it cannot be read.

    Args:
        file: The file.
        why: A clause with "it" for the file.
    """
    return StateFileError(f"{file.name} cannot be read: {why}. File: {file}")


def is_full(error: BaseException) -> bool:
    """Whether an error says that nothing more can be written here.

    By its number, or in words where a library that writes files has errors of its own. What a server's answer says in the same
    words is about the server's disk.

    Args:
        error: Of writing something.
    """
    if isinstance(error, DiskFullError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    # Those written in Rust, not all of which have a class of their own.
    if type(error).__name__ != "SafetensorError" and type(error) not in (Exception, OSError):
        return False
    return any(f"(os error {number})" in str(error) for number in _FULL)


def raise_if_full(error: OSError, path: str | os.PathLike[str]) -> None:
    """Raise :class:`DiskFullError` if that is what an error says.

    Args:
        error: Of writing something.
        path: What was written, or the directory it was written to.
    """
    if is_full(error):
        raise DiskFullError(full_disk(error, path)) from error


@contextmanager
def naming_full_disk(place: str | os.PathLike[str]) -> Iterator[None]:
    """Raise :class:`DiskFullError` in place of whatever a library raises because the disk is full.

    Args:
        place: What is written meanwhile, for errors that name no file.

    Raises:
        DiskFullError: An error says that there is no room, or torch's own does, which gives no reason, and there is none.
    """
    try:
        yield
    except ComponentError:
        raise
    except Exception as error:
        if is_full(error) or (_is_of_writer(error) and _free_bytes(place) < _NO_ROOM_BYTES):
            raise DiskFullError(full_disk(error, getattr(error, "filename", None) or place)) from error
        raise


def _is_of_writer(error: BaseException) -> bool:
    """Whether an error is torch's own for an archive that it could not write."""
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("unexpected pos", "PytorchStreamWriter failed", "inline_container")
    )


def _free_bytes(path: str | os.PathLike[str]) -> int:
    with suppress(OSError, StopIteration):
        target = Path(path).absolute()
        return shutil.disk_usage(next(each for each in (target, *target.parents) if each.exists())).free
    return _NO_ROOM_BYTES


def full_disk(error: BaseException, path: str | os.PathLike[str]) -> str:
    """The message about a full disk: why, which file, and how much is free.

    Args:
        error: Of writing something; its number says which limit was met.
        path: What was written, or the directory it was written to.
    """
    why = {
        errno.EDQUOT: "The disk quota of this user is used up",
        errno.EFBIG: "The file would be larger than this process may write",
    }.get(getattr(error, "errno", None) or 0, "The disk is full")
    target = Path(path)
    free = f", where {_free_bytes(target) // 2**20} MiB are free"
    return f"{why}: {target.name} was not written{free}. Delete what is no longer needed, or use another disk. Path: {target}"


def private_directory(path: Path) -> Path:
    """A directory that its owner alone may enter; one that was there before is made so.

    Args:
        path: The directory; made when needed.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        try:
            path.chmod(0o700)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
    return path
