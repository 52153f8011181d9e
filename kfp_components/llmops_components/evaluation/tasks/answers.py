"""What of an answer counts: not what a model thought before it, and of what it wrote around a block the block."""

from __future__ import annotations

import re

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_END_OF_THOUGHT = "</think>"  # some templates write the beginning into the prompt
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n]*$", re.MULTILINE)


def said(answer: str) -> str:
    """An answer without what the model thought; a thought that never ends has nothing behind it.

    Args:
        answer: The answer.
    """
    return _THOUGHT.sub("", answer).rpartition(_END_OF_THOUGHT)[2].strip()


def blocks(text: str) -> list[tuple[str, str]]:
    """Blocks of code in Markdown, each with its language in lower case; one that is not closed ends with the text.

    Args:
        text: The text.
    """
    found: list[tuple[str, str]] = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[1].startswith(opened[1]) and not fence[2]:
            found.append((opened[2].lower(), _inside(text[opened.end() + 1 : fence.start()], opened)))
            opened = None
    if opened is not None:
        found.append((opened[2].lower(), _inside(text[opened.end() + 1 :], opened)))
    return found


def _inside(text: str, opened: re.Match[str]) -> str:
    """A block's text, without the indentation of the fence, as of one within a list."""
    indent = len(opened[0]) - len(opened[0].lstrip())
    return re.sub(rf"^[ \t]{{1,{indent}}}", "", text, flags=re.MULTILINE) if indent else text
