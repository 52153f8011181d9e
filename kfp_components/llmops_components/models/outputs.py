"""Output directories that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmops_components.errors import SettingError


def check_output(path: str | os.PathLike[str]) -> Path:
    """An output directory that may be written: it does not exist yet, or is empty."""
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SettingError(f"Output {target} exists and is not an empty directory. Give a new path.")
    return target


@contextmanager
def new_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A directory that appears under its name only when its content is complete.

    Args:
        path: Destination; it may exist when it is empty.

    Yields:
        The directory to write into, beside the destination.
    """
    target = check_output(path)
    aside = target.with_name(f".{target.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)  # left by a run that was killed while it wrote
    aside.mkdir(parents=True)
    try:
        yield aside
        aside.replace(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
