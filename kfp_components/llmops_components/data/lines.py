"""One line of a file of rows: the row, or what is wrong with it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NAMED = 5


@dataclass(frozen=True)
class Line:
    """One line of a dataset file: either ``row`` or ``problem`` is set.

    Args:
        number: Line number, from 1; of a file without lines, the number of the row.
        raw: The row as JSON, without line end. Of JSON Lines it is the line as it was; bytes that are not UTF-8 are
            shown as ``\\xNN``.
        row: The object on the line, or None when the line cannot be used.
        problem: Why the line cannot be used.
    """

    number: int
    raw: str
    row: dict[str, Any] | None = None
    problem: str | None = None


def rejected_line(line: Line, reason: str, **where: Any) -> dict[str, Any]:
    """What is kept of a line that was not used.

    Args:
        line: The line.
        reason: Why.
        where: What else says where it was, before the number.
    """
    return {**where, "line": line.number, "reasons": [reason], "raw": line.raw}


def rejected_findings(
    rejected: Sequence[Mapping[str, Any]], told: Callable[[Mapping[str, Any]], str]
) -> list[str]:
    """Sentences on the first lines that were not used, and on how many more there are in the artifact ``rejected``.

    Args:
        rejected: Of :func:`rejected_line`.
        told: The sentence on one.
    """
    found = [told(each) for each in rejected[:_NAMED]]
    if len(rejected) > _NAMED:
        found.append(
            f"{len(rejected) - _NAMED} more lines that were not used are in the artifact `rejected`."
        )
    return found


HALF_PAIR = "has half of a Unicode surrogate pair (\\udXXX), which is not text"


def parse_line(number: int, raw: bytes) -> Line:
    """A line of JSON.

    Args:
        number: Its number, from 1.
        raw: Its bytes, without line end.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        shown = raw.decode("utf-8", errors="backslashreplace")
        return Line(number, shown, problem=f"is not UTF-8 at byte {error.start + 1} of the line")
    try:
        row = (
            json.loads(text) if text.startswith("\ufeff") else _DECODER.decode(text)
        )  # which says what a mark is
        if "\\ud" in text.lower():
            json.dumps(row, ensure_ascii=False).encode(
                "utf-8"
            )  # half of a surrogate pair cannot be written again
    except json.JSONDecodeError as error:
        return Line(number, text, problem=f"is not valid JSON: {error.msg} (column {error.colno})")
    except UnicodeEncodeError:
        return Line(number, text, problem=HALF_PAIR)
    except (ValueError, RecursionError) as error:
        return Line(number, text, problem=f"is not usable JSON: {error}")
    if not isinstance(row, dict):
        return Line(number, text, problem=f"is not a JSON object but {kind_of(row)}")
    return Line(number, text, row=row)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def finite(text: str) -> float:
    """The number that a text writes.

    Raises:
        ValueError: It writes none, or one that is too large, as ``1e999``, which would become an infinity.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large a number")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=finite)


def kind_of(value: Any) -> str:
    """A JSON value's kind, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
