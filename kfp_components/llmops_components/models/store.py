"""Model files that several runs have are on disk once: ``<root>/models/<digest>``, with a hard link in each run.

Nothing is looked up here to read a model. A run's directory is whole by itself, whatever happens to the store or to
other runs: a file is gone when its last link is. What is stored is write-protected, for to write into a file with
several links would change other runs; who wants other content writes a new file in its place.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import stat
import uuid
from pathlib import Path

from llmops_components.results import digest_of

MODELS = "models"
MIN_BYTES = 64 * 1024  # smaller files are not worth an entry
_WRITE_BITS = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def store_once(model: str | os.PathLike[str], store: str | os.PathLike[str]) -> int:
    """Make the files of a model share the disk's blocks with the same files of other runs.

    Where files cannot be linked (another file system, one without hard links), they stay the copies that they are.

    Args:
        model: Directory that nobody writes into any more.
        store: Directory of the store; made when needed.

    Returns:
        Bytes that are not on disk a second time.
    """
    saved = 0
    for file in sorted(Path(model).rglob("*")):
        if file.is_symlink() or not file.is_file() or file.stat().st_size < MIN_BYTES:
            continue
        with contextlib.suppress(OSError):
            saved += _store_file(file, Path(store))
    return saved


def _store_file(file: Path, store: Path) -> int:
    store.mkdir(parents=True, exist_ok=True)
    digest, size = digest_of(file)
    stored = store / digest.removeprefix("sha256:")
    if stored.exists() and stored.samefile(file):
        return 0
    # Its name tells what it was when it came. A root user, or a change of its mode, may have written into it since.
    if stored.is_file() and filecmp.cmp(file, stored, shallow=False):
        _link(stored, file)
        return size
    _link(file, stored)
    file.chmod(stat.S_IMODE(file.stat().st_mode) & ~_WRITE_BITS)  # of both, which are one
    return 0


def _link(source: Path, target: Path) -> None:
    """Put a link to ``source`` in the place of ``target``, in one step."""
    aside = target.with_name(f".{target.name[:64]}.{uuid.uuid4().hex}")
    os.link(source, aside)
    aside.replace(target)
