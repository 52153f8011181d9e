"""Paths into a reply: names of fields and places in lists with dots between them, ``*`` for all that a list holds."""

from __future__ import annotations

import re
from typing import Any

from llmops_components.errors import SettingError

_PATH = re.compile(r"[^.\s]+(\.[^.\s]+)*")


def check_path(path: Any) -> None:
    """Raise :class:`SettingError` unless something is a path.

    Args:
        path: What may be one.
    """
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise SettingError(
            f"{path!r:.100} is no path into a reply. Give names with dots between them, such as contexts or sources.*.text."
        )


def found_at(reply: Any, path: str) -> Any:
    """What lies at a path; None where there is nothing.

    Args:
        reply: The reply.
        path: The path.
    """
    step, _, rest = path.partition(".")
    if step == "*":
        if not isinstance(reply, list):
            return None
        return [found_at(each, rest) if rest else each for each in reply]
    if isinstance(reply, list) and step.isdecimal():
        found = reply[int(step)] if int(step) < len(reply) else None
    else:
        found = reply.get(step) if isinstance(reply, dict) else None
    return found_at(found, rest) if rest and found is not None else found
