"""The texts of a row: what its columns say, whether as text or as messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmops_components.data.content import content_problem, content_text

ROW_ID = "row_id"  # the column that names the row that one comes from


def text_of(value: Any) -> str | None:
    """A column's value as text; None where it is neither text nor messages.

    Args:
        value: The value. Of messages it is what they say, one after the other.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value or not all(isinstance(each, Mapping) for each in value):
        return None
    contents = [each["content"] for each in value if each.get("content") is not None]
    if not contents or any(content_problem(content) for content in contents):
        return None
    return "\n".join(map(content_text, contents))


def texts_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The text of each column that has one, but for the row's id.

    Args:
        row: The row.
    """
    found = ((name, text_of(value)) for name, value in row.items() if name != ROW_ID)
    return {name: text for name, text in found if text is not None}
