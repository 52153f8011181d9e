"""Markdown in which what stands in rows is text, and no markup."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

_SHOWN_CHARACTERS = 200


def code(text: str) -> str:
    """Text in which nothing is markup, and which does not end the cell of a table.

    Args:
        text: Somebody's text.
    """
    shown = on_one_line(text).replace("`", "'").replace("|", "\\|")[:_SHOWN_CHARACTERS]
    return f"`{shown}`" if shown.strip() else "(no name)"


def on_one_line(text: str) -> str:
    """Text on one line: line ends and control characters are written out.

    Args:
        text: Somebody's text.
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table.

    Args:
        heading: Its heading.
        rows: Its rows, whose texts are markup: see :func:`code`.
    """
    yield f"| {' | '.join(heading)} |"
    yield f"|{'---|' * len(heading)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
