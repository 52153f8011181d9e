"""What was found below a root, and which of it goes."""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

DAY_SECONDS = 24 * 3600.0


@dataclass
class Item:
    """Something on the disk.

    Args:
        kind: ``run``, ``checkpoints``, ``environment``, ``service``, ``model``, ``temporary``, or ``foreign``.
        name: What to call it.
        path: Where it is.
        days: Since it was last used.
        kept: Why it stays; None when it goes.
        bytes: What its removal gives back, or, of what is kept, what it takes up.
    """

    kind: str
    name: str
    path: Path
    days: float
    kept: str | None = None
    bytes: int = 0


class Inventory:
    """Collects what lies below a root, each with what removes it.

    Args:
        root: Directory of a local connection.
        days: Age from which something goes; None for only what is of no use at any age.
    """

    def __init__(self, root: Path, days: float | None) -> None:
        self.root, self.days = root, days
        self.now = time.time()
        self.items: list[Item] = []
        self.links: Counter[tuple[int, int]] = Counter()  # of what goes: links by device and inode
        self._removals: list[tuple[Item, Callable[[], str | None]]] = []

    def remove(self) -> None:
        """Remove what goes, unless something has happened since it was looked at."""
        for item, remove in self._removals:
            item.kept = remove()

    def add(
        self,
        item: Item,
        remove: Callable[[], str | None],
        *,
        kept: str | None = None,
        at: float | None = None,
    ) -> None:
        """Note an item, and what removes it if it goes.

        Args:
            item: What was found.
            remove: Removes it, unless something has happened since it was looked at; then it says what.
            kept: Why it stays whatever its age.
            at: Another age than the one that was asked for.
        """
        age = self.days if at is None else at
        if kept is None and (age is None or item.days < age):
            kept = "younger" if age is not None else "no age is set"
        item.kept = kept
        item.bytes = _size(item.path, self.links if kept is None else None)
        self.items.append(item)
        if kept is None:
            self._removals.append((item, remove))

    def note_foreign(self, path: Path, why: str) -> None:
        self.items.append(
            Item("foreign", path.name, path, self.days_since(path), f"not of this program: {why}")
        )

    def days_since(self, path: Path) -> float:
        with contextlib.suppress(OSError):
            return (self.now - path.lstat().st_mtime) / DAY_SECONDS
        return 0.0

    def directories(self, parent: Path, pattern: re.Pattern[str] | None = None) -> Iterator[Path]:
        """Directories of ours; others are noted."""
        if parent.is_symlink():
            self.note_foreign(parent, "a symbolic link")
            return
        for path in sorted(parent.glob("*")) if parent.is_dir() else ():
            if path.is_symlink():
                self.note_foreign(path, "a symbolic link")
            elif not path.is_dir():
                if not path.name.endswith(".lock"):
                    self.note_foreign(path, "not a directory")
            elif pattern is not None and not pattern.fullmatch(path.name):
                if not path.name.startswith("."):
                    self.note_foreign(path, "another name")
            else:
                yield path


def _size(path: Path, links: Counter[tuple[int, int]] | None) -> int:
    """Bytes on disk below a path; with ``links``, those that its removal and that of all counted before give back."""
    total = 0
    seen: set[tuple[int, int]] = set()
    for file in (path, *path.rglob("*")) if path.is_dir() and not path.is_symlink() else (path,):
        with contextlib.suppress(OSError):
            status = file.lstat()
            key = status.st_dev, status.st_ino
            if links is not None:
                links[key] += 1
                gone = file.is_dir() or links[key] >= status.st_nlink
                total += status.st_blocks * 512 if gone else 0
            elif key not in seen:
                seen.add(key)
                total += status.st_blocks * 512
    return total
