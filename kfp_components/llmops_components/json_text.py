"""JSON that others have written, which may be nested so deeply that whoever walks through it runs out of stack."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 200  # of Python's 1000 frames, of which a function that walks through it takes several a level


def parse_json(text: str | bytes) -> Any:
    """What a text says as JSON.

    Args:
        text: The text.

    Raises:
        ValueError: It is no JSON, or nested too deeply; the message says which.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        value = None
        is_too_deep = True
    else:
        is_too_deep = _is_deeper(value, MAX_DEPTH)
    if is_too_deep:
        shown = text[:100] if isinstance(text, str) else text[:100].decode(errors="replace")
        raise json.JSONDecodeError(f"Nested more than {MAX_DEPTH} deep", shown, 0)
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    found = [value]
    for _ in range(levels):
        found = [
            inner
            for each in found
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not found:
            return False
    return True
