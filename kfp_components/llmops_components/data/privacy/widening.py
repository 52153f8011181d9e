"""Expressions that find at least all that others find, for RE2, which looks for many of them at once and cannot hang.

What only narrows is left out: word boundaries, what stands before and behind. Classes become those of Unicode, which take in
the ones that were meant. A text in which the wider expression finds nothing has nothing for the narrower one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from re import _constants as of_sre  # type: ignore[attr-defined]
from re import _parser as sre  # type: ignore[attr-defined]
from typing import Any

_ANYTHING = r"(?s:.)"
_MOST = 1000  # repetitions that RE2 takes
# With all that the packages re and regex know by these names.
_CATEGORIES = {
    of_sre.CATEGORY_DIGIT: r"\p{Nd}",
    of_sre.CATEGORY_SPACE: r"\s\x0b\x1c-\x1f\x85\p{Z}",
    of_sre.CATEGORY_WORD: r"\p{L}\p{M}\p{N}\p{S}\p{Pc}\x{200c}\x{200d}",
}
_ZERO_WIDTH = (of_sre.AT, of_sre.ASSERT, of_sre.ASSERT_NOT)
_REPEATS = (of_sre.MAX_REPEAT, of_sre.MIN_REPEAT, of_sre.POSSESSIVE_REPEAT)


def widened(expression: str) -> str:
    """An expression for RE2, without regard to case, that finds at least what this one finds.

    Args:
        expression: As the packages re and regex take it.
    """
    return _sequence(sre.parse(expression.replace("(?i)", ""), re.IGNORECASE | re.DOTALL | re.MULTILINE))


def _sequence(parsed: Iterable[tuple[Any, Any]]) -> str:
    return "".join(_one(kind, value) for kind, value in parsed)


def _one(kind: Any, value: Any) -> str:
    if kind in _ZERO_WIDTH:
        return ""
    if kind is of_sre.LITERAL:
        return _character(value)
    if kind is of_sre.IN:
        return _class(value)
    if kind is of_sre.BRANCH:
        return f"(?:{'|'.join(map(_sequence, value[1]))})"
    if kind is of_sre.SUBPATTERN:
        return f"(?:{_sequence(value[-1])})"
    if kind is of_sre.ATOMIC_GROUP:
        return f"(?:{_sequence(value)})"
    if kind in _REPEATS:
        least, most, inner = value
        end = "" if most is of_sre.MAXREPEAT or most > _MOST else most
        return f"(?:{_sequence(inner)}){{{min(least, _MOST)},{end}}}"
    if kind in (of_sre.ANY, of_sre.NOT_LITERAL):
        return _ANYTHING
    if kind is of_sre.GROUPREF:
        return f"{_ANYTHING}*"
    raise ValueError(f"an expression with {kind} cannot be widened")


def _class(members: Iterable[tuple[Any, Any]]) -> str:
    found = []
    for kind, value in members:
        if kind is of_sre.LITERAL:
            found.append(_character(value))
        elif kind is of_sre.RANGE:
            found.append(f"{_character(value[0])}-{_character(value[1])}")
        elif kind is of_sre.CATEGORY and value in _CATEGORIES:
            found.append(_CATEGORIES[value])
        else:  # what is not meant
            return _ANYTHING
    return f"[{''.join(found)}]"


def _character(code: int) -> str:
    return rf"\x{{{code:x}}}"
