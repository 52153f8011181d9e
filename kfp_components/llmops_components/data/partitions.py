"""Keys of partitions, and the files that have their names."""

from __future__ import annotations

import re
from urllib.parse import quote

from llmops_components.errors import SettingError

_KEY = re.compile(r"[^\W_][^\x00-\x1f\x7f]*")
_MAX_BYTES = 200  # of a file's name, less its end


def check_partition(partition: str) -> None:
    """Raise :class:`SettingError` unless a partition can have a file.

    Args:
        partition: Its key.
    """
    is_text = isinstance(partition, str) and _KEY.fullmatch(partition)
    if not is_text or len(name_of_partition(partition)) > _MAX_BYTES:
        raise SettingError(
            f"partition is {partition!r:.60}. Give its key, such as 2026-11-25: text of one line that begins with a letter or digit, at most "
            f"{_MAX_BYTES} bytes as an address has it."
        )


def name_of_partition(partition: str) -> str:
    """The name of a partition's file, without its end.

    Args:
        partition: Its key.
    """
    return quote(partition, safe="")
