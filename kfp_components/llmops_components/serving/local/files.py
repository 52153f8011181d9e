"""Files in which the state of a service lies: nobody but its owner may read them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from llmops_components.state_files import StateFileError, read_json, write_json


def write_private(path: Path, value: Any) -> None:
    """Write a file as a whole, or not at all.

    Args:
        path: The file.
        value: What becomes its JSON.
    """
    write_json(path, value, private=True)


def read_or_empty(path: Path, shape: Any) -> dict[str, Any]:
    """What a file holds, for who can do without; nothing where it cannot be read.

    Args:
        path: The file.
        shape: What it may hold, see :func:`~llmops_components.state_files.read_json`.
    """
    with contextlib.suppress(StateFileError):
        return read_json(path, shape)
    return {}
