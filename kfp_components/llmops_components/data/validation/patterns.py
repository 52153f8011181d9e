"""Regular expressions that cannot run for ever: Python's, as one that polars' engine takes and finds in linear time.

GX's pandas engine searches with Python's ``re``, which tries one way after the other, and for ``(a+)+$`` may never end. The
engine of polars cannot do that, but reads some expressions differently: ``$`` before a last line feed, what ``\\w`` is,
what has the same letter in upper case. An expression is therefore taken apart by Python's own parser and written anew,
its classes of characters as Python has them; what has no equal is refused by its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Literal

Edge = Literal["word", "other"]
_CATEGORIES = {
    op.CATEGORY_DIGIT: r"\d",
    op.CATEGORY_NOT_DIGIT: r"\D",
    op.CATEGORY_SPACE: r"\s",
    op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_WORD: r"\w",
    op.CATEGORY_NOT_WORD: r"\W",
}
_REFUSED = {
    op.ASSERT: "a look ahead or behind, (?=...) or (?<=...)",
    op.ASSERT_NOT: "a look ahead or behind, (?!...) or (?<!...)",
    op.GROUPREF: "a reference to a group, as \\1",
    op.GROUPREF_EXISTS: "a condition on a group, (?(1)...)",
    op.ATOMIC_GROUP: "an atomic group, (?>...)",
    op.POSSESSIVE_REPEAT: "a possessive repetition, as a++",
}
_CLASS_FLAGS = re.IGNORECASE | re.ASCII
_NOTHING = r"[^\x{0}-\x{10FFFF}]"


class PatternError(ValueError):
    """A regular expression that has no equal which is found in linear time."""


def linear_pattern(pattern: str) -> str:
    """A pattern of polars that is found in exactly those texts in which ``re.search`` finds this one.

    Args:
        pattern: A regular expression as Python's ``re`` takes it.

    Raises:
        PatternError: It is none, or it has something that cannot be searched for in linear time; says what.
    """
    try:
        parsed = _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(f"The regular expression {pattern!r} is not one: {error}.") from None
    return _Writer(pattern).sequence(list(parsed), parsed.state.flags, head=True, tail=True)


class _Writer:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def sequence(self, items: Sequence[Any], flags: int, *, head: bool, tail: bool) -> str:
        """Items one after the other; ``head`` and ``tail`` say whether nothing comes before or after them."""
        written = []
        for number, (code, value) in enumerate(items):
            first, last = head and number == 0, tail and number == len(items) - 1
            if code is op.AT:
                written.append(self._place(value, items, number, flags, head=first, tail=last))
            else:
                written.append(self._item(code, value, flags, head=first, tail=last))
        return "".join(written)

    def _item(self, code: Any, value: Any, flags: int, *, head: bool, tail: bool) -> str:
        if code in (op.LITERAL, op.NOT_LITERAL, op.IN):
            return _characters(code, value, flags)
        if code is op.ANY:
            return r"(?s:.)" if flags & re.DOTALL else r"[^\n]"
        if code is op.BRANCH:
            return (
                f"(?:{'|'.join(self.sequence(list(each), flags, head=head, tail=tail) for each in value[1])})"
            )
        if code is op.SUBPATTERN:
            _, added, removed, inner = value
            return f"(?:{self.sequence(list(inner), (flags | added) & ~removed, head=head, tail=tail)})"
        if code in (op.MAX_REPEAT, op.MIN_REPEAT):
            low, high, inner = value
            times = "" if high is op.MAXREPEAT else str(high)
            return f"(?:{self.sequence(list(inner), flags, head=False, tail=False)}){{{low},{times}}}"
        raise self._refused(_REFUSED.get(code, str(code).lower()))

    def _place(
        self, place: Any, items: Sequence[Any], number: int, flags: int, *, head: bool, tail: bool
    ) -> str:
        lines = flags & re.MULTILINE
        if place is op.AT_BEGINNING_STRING or (place is op.AT_BEGINNING and not lines):
            return r"\A"
        if place is op.AT_END_STRING:
            return r"\z"
        if place is op.AT_BEGINNING:
            return "(?m:^)"
        if place is op.AT_END and lines:
            return "(?m:$)"
        if place is op.AT_END and tail:
            return r"(?:\n?\z)"  # Python's is also found before a last line feed
        word = _characters(op.IN, [(op.CATEGORY, op.CATEGORY_WORD)], flags & re.ASCII)
        other = word.replace("[", "[^", 1)
        if place is op.AT_BOUNDARY and head and (edge := _edge(items[number + 1 :], flags, first=True)):
            return rf"(?:\A|{other})" if edge == "word" else word
        if place is op.AT_BOUNDARY and tail and (edge := _edge(items[:number], flags, first=False)):
            return rf"(?:\z|{other})" if edge == "word" else word
        if place is op.AT_END:
            raise self._refused("$ elsewhere than at its end")
        what = r"\B" if place is op.AT_NON_BOUNDARY else r"\b"
        raise self._refused(
            f"{what} elsewhere than at its edge, or beside what may and may not be part of a word"
        )

    def _refused(self, what: str) -> PatternError:
        return PatternError(
            f"The regular expression {self.pattern!r} has {what}, which cannot be searched for in linear time. Write it "
            "without, or as several expectations."
        )


def _edge(items: Sequence[Any], flags: int, *, first: bool) -> Edge | None:
    """Whether what items match starts (or ends) with a character of a word; None where that is not certain."""
    if not items:
        return None
    code, value = items[0 if first else -1]
    if code in (op.LITERAL, op.NOT_LITERAL, op.IN):
        kinds = {bool(_is_word(flags & re.ASCII)(each)) for each in _matched(_source(code, value), flags)}
        return ("word" if kinds.pop() else "other") if len(kinds) == 1 else None
    if code is op.SUBPATTERN:
        return _edge(list(value[3]), (flags | value[1]) & ~value[2], first=first)
    if code in (op.MAX_REPEAT, op.MIN_REPEAT) and value[0] > 0:
        return _edge(list(value[2]), flags, first=first)
    if code is op.BRANCH:
        edges = {_edge(list(each), flags, first=first) for each in value[1]}
        return edges.pop() if len(edges) == 1 else None
    return None


def _is_word(flags: int) -> Callable[[str], object]:
    return re.compile(r"\w", flags).match


def _characters(code: Any, value: Any, flags: int) -> str:
    """One character: what is written out as it is, anything else as the class of those that Python takes."""
    if not flags & re.IGNORECASE:
        if code is op.LITERAL:
            return _hexadecimal(value)
        items = [(op.NEGATE, None), (op.LITERAL, value)] if code is op.NOT_LITERAL else value
        if all(kind is not op.CATEGORY for kind, _ in items):
            return f"[{''.join(_as_written(kind, each) for kind, each in items)}]"
    return _class(_source(code, value), int(flags & _CLASS_FLAGS))


def _as_written(kind: Any, value: Any) -> str:
    if kind is op.NEGATE:
        return "^"
    return _hexadecimal(value) if kind is op.LITERAL else "-".join(map(_hexadecimal, value))


def _hexadecimal(number: int) -> str:
    return f"\\x{{{number:X}}}"


def _source(code: Any, value: Any) -> str:
    """The class in Python's own writing."""
    if code is op.LITERAL:
        return f"[{_escaped(value)}]"
    if code is op.NOT_LITERAL:
        return f"[^{_escaped(value)}]"
    parts = []
    for kind, each in value:
        if kind is op.NEGATE:
            parts.append("^")
        elif kind is op.LITERAL:
            parts.append(_escaped(each))
        elif kind is op.RANGE:
            parts.append(f"{_escaped(each[0])}-{_escaped(each[1])}")
        else:
            parts.append(_CATEGORIES[each])
    return f"[{''.join(parts)}]"


def _escaped(number: int) -> str:
    return f"\\U{number:08x}"


@cache
def _class(source: str, flags: int) -> str:
    ranges = "".join(
        f"{_hexadecimal(low)}-{_hexadecimal(high)}" for low, high in _ranges(_matched(source, flags))
    )
    return f"[{ranges}]" if ranges else _NOTHING


def _matched(source: str, flags: int) -> list[str]:
    return re.compile(source, flags & _CLASS_FLAGS).findall(_all_characters())


@cache
def _all_characters() -> str:
    """Every character that a text may have: all but the halves of surrogate pairs."""
    return "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))


def _ranges(characters: Iterable[str]) -> list[tuple[int, int]]:
    found: list[list[int]] = []
    for number in map(ord, characters):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return [(low, high) for low, high in found]
