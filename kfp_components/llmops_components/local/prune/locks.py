"""Locks that keep others from what is being removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from llmops_components.errors import UnavailableError


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Be the only one who prunes a root.

    Args:
        root: Directory of a local connection.

    Raises:
        UnavailableError: Another one is at it.
    """
    with held(root / ".prune.lock", make=True) as is_ours:
        if not is_ours:
            raise UnavailableError(
                f"Another process prunes {root} at this moment. Try again when it has ended."
            )
        yield


@contextlib.contextmanager
def held(path: Path, *, make: bool = False) -> Iterator[bool]:
    """Whether the lock was free, and is held now. Without a regular file there is nobody to hold it.

    Args:
        path: The lock's file.
        make: Whether to make it.
    """
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        yield True
        return
    except PermissionError:
        yield False  # another user's: it may be held
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(lock)
