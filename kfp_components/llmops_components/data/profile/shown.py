"""Texts of rows as they are shown: short, and with nothing in them that is not seen."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

_SHOWN_CHARACTERS = 240
_JOINERS = "\u200c\u200d"  # emoji and Persian are written with them


def shortened(texts: Mapping[str, str]) -> str:
    """The texts of a row in short.

    Args:
        texts: By column.
    """
    whole = "\n".join(texts.values())
    return whole[:_SHOWN_CHARACTERS].rstrip() + ("\u2026" if len(whole) > _SHOWN_CHARACTERS else "")


def visible(text: str) -> str:
    """A text in which control characters and what changes the direction of others are written out.

    Args:
        text: Somebody's text.
    """
    return "".join(
        sign
        if sign.isprintable() or _is_space(sign) or sign in _JOINERS
        else sign.encode("unicode_escape").decode()
        for sign in text
    )


def _is_space(sign: str) -> bool:
    return sign == "\n" or unicodedata.category(sign) == "Zs"
