"""The content of chat messages as text: the one place where the parts of a content become one text.

OpenAI's clients and datasets with pictures write a message's content as a list of parts,
``[{"type": "text", "text": "..."}]``. Chat templates of text models take text: given parts, some render an empty turn,
others Python's notation of the list. Training, evaluation and serving therefore hand them text, made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_TEXT_TYPES = ("text", "input_text", "output_text")  # the last two are those of OpenAI's Responses API


def content_problem(content: Any) -> str | None:
    """Why a list of parts cannot become text, or None where it can.

    Args:
        content: Content of a message.

    Returns:
        What is wrong, to go on from the name of the message, as ``has a part of the type 'image_url' ...``.
    """
    if isinstance(content, str):
        return None
    if not isinstance(content, list | tuple):
        return "has content that is neither text nor a list of parts"
    return next(filter(None, map(_part_problem, content)), None)


def _part_problem(part: Any) -> str | None:
    if isinstance(part, str):
        return None
    if not isinstance(part, Mapping):
        return "has a content part that is neither an object nor text"
    kind = part.get("type", "text")
    if kind not in _TEXT_TYPES:
        return f"has a content part of the type {str(kind)[:40]!r}; only text is taken"
    return None if isinstance(part.get("text"), str) else "has a content part without text"


def content_text(content: str | Iterable[str | Mapping[str, Any]]) -> str:
    """The text of a content: its parts one after the other with nothing between them, as chat templates that take parts
    write them.

    Args:
        content: Text, or parts in which :func:`content_problem` finds nothing.
    """
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else part["text"] for part in content)


def with_text_content(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose content is text, the rest of them as it is.

    Args:
        messages: Messages in whose contents :func:`content_problem` finds nothing. A content that is left out or null,
            as beside tool calls, stays so.
    """
    return [
        {**message, "content": content_text(message["content"])}
        if message.get("content") is not None
        else dict(message)
        for message in messages
    ]
