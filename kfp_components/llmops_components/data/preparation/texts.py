"""The texts of a row, wherever its format puts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llmops_components.data.content import content_text
from llmops_components.data.formats import MESSAGE_FIELDS

TEXT_FIELDS = ("text", *MESSAGE_FIELDS, "reference")


def texts_of(value: dict[str, Any], fields: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Each text of a row with the field that it stands in; of a conversation, the content of each message.

    Args:
        value: The row.
        fields: The fields to look at; none means those of TRL's formats. One that the row lacks has no text.
    """
    for field in fields or TEXT_FIELDS:
        content = value.get(field)
        if isinstance(content, str):
            yield field, content
        elif isinstance(content, list):
            for item in content:
                if isinstance(item, str):
                    yield field, item
                elif isinstance(item, dict) and (text := _content(item.get("content"))):
                    yield field, text


def text_of(value: dict[str, Any], fields: Sequence[str] = ()) -> str:
    """The texts of a row as one, with line feeds between them; see :func:`texts_of`."""
    return "\n".join(text for _, text in texts_of(value, fields))


def with_texts(
    value: dict[str, Any], change: Callable[[str], str], fields: Sequence[str] = ()
) -> dict[str, Any]:
    """A row with each of its texts changed; the same object where none is.

    Args:
        value: The row, which stays as it is.
        change: Gives the new text for a text.
        fields: See :func:`texts_of`.
    """
    changed = {}
    for field in fields or TEXT_FIELDS:
        before = value.get(field)
        after = _changed(before, change)
        if after is not before:
            changed[field] = after
    return {**value, **changed} if changed else value


def _content(content: Any) -> str:
    if isinstance(content, list):
        content = [
            part
            for part in content
            if isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("text"), str))
        ]
    return content_text(content) if isinstance(content, str | list) else ""


def _changed(item: Any, change: Callable[[str], str]) -> Any:
    """A text, list of texts or messages, message, or part of a content, changed; the same object where nothing is."""
    if isinstance(item, str):
        after = change(item)
        return item if after == item else after
    if isinstance(item, list):
        several = [_changed(each, change) for each in item]
        return item if all(a is b for a, b in zip(item, several, strict=True)) else several
    if isinstance(item, dict):
        for key in ("content", "text"):  # of a message, and of a part of its content
            if key in item:
                inner = _changed(item[key], change)
                return item if inner is item[key] else {**item, key: inner}
    return item
