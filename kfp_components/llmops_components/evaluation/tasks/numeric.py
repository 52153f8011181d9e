r"""Answers that are a number.

What is taken as the answer, of an answer and of a reference in the same way:

1. the last number in the last ``\boxed{...}``, if there is one;
2. else the first number behind the last ``####``, on its line, as the answers of GSM8K are marked;
3. else the last number of the text, as lm-evaluation-harness's ``flexible-extract`` has it.

A number may have a sign, a sign of currency before it, thousands separators (``1,234,567``, ``1'234``, LaTeX's ``1{,}234`` and
``1\,234``, and behind a sign of rupees ``1,00,000``), decimals, an exponent (``1.5e3``, ``1.5 \times 10^3``), be a fraction (``3/4``,
``\frac{3}{4}``, ``¾``) or a mixed number (``1 3/4``, ``1¾``), and have a percent sign. A percent sign counts a hundredth, or as a unit that the other side has left out: ``50%`` is 0.5 and is 50. Expressions are
not computed: where a power or a root would be taken, there is no number.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

from llmops_components.errors import SettingError
from llmops_components.evaluation.tasks.answers import said
from llmops_components.evaluation.tasks.verdicts import Row, Verdict

_MARK = "####"
_BOX = "\\boxed{"
_MAX_DIGITS = 1000  # of one number; more is noise, and takes its time
_CONTEXT = Context(prec=_MAX_DIGITS + 50, traps=[])
_SLACK = Decimal("1e-40")  # of quotients, which end somewhere
_GROUPS = {False: (",", "."), True: (".", ",")}  # thousands and decimals, without and with decimal_comma


def _pattern(*, decimal_comma: bool) -> re.Pattern[str]:
    thousands, decimals = map(re.escape, _GROUPS[decimal_comma])
    whole = rf"(?:[0-9]{{1,3}}(?:{thousands}[0-9]{{3}}(?![0-9]))+|[0-9]+)"
    plain = rf"(?:{whole}(?:{decimals}[0-9]+)?|(?<![0-9]){decimals}[0-9]+)"
    return re.compile(
        rf"""
        (?P<sign>(?<![\w)\]}}.])[-+])?[$€£¥₹]?(?P<second>(?<=[$€£¥₹])-)?
        (?:
            (?:(?P<mixed>[0-9]+)\s*)?\\frac\{{(?P<over>[-+]?{plain})\}}\{{(?P<under>[-+]?{plain})\}}
          | (?:(?P<mixed2>[0-9]+)\ )?(?P<over2>{plain})\s?/\s?(?P<under2>{plain})(?![\w/])
          | (?P<number>{plain})(?:[eE](?P<exponent>[-+]?[0-9]+)|\s*(?:\\times|\u00d7|\*|x)\s*10\s*(?:\^|\*\*)\s*\{{?(?P<power>[-+]?[0-9]+)\}}?)?
        )
        (?P<raised>\s*\^|\*\*(?=[\w({{+-])|\s\*\*\s|[\u00b2\u00b3\u00b9\u2070-\u2079])?
        (?P<percent>\s?(?:%|percent\b))?
        """,
        re.VERBOSE,
    )


_NUMBERS = {comma: _pattern(decimal_comma=comma) for comma in (False, True)}
# What a number behind it is part of, and not all of.
_BEFORE = re.compile(r"(?:\^|(?<=[\w)}\]])(?:\*\*|\s\*\*\s)|\\sqrt|√)\s*[{(]?\s*\Z")
_BESIDE = re.compile(r"\\sqrt\s*(?:\[[^]]*\])?\s*\{?\s*\Z|√\s*\Z|\\frac\s*(?:\{[^{}]*\}\s*)?\{[^{}]*\Z")
_LOOKS_BACK = 100  # characters: these patterns take more than their share of time where white space is long
# Bold type of Markdown, whose asterisks raise nothing to a power.
_BOLD = re.compile(r"(?<![\w)}\]*])(\*{2,3})(?=[^\s*])([^\n*]+)(?<=\S)\1(?!\*)")
# In lakhs and crores: without such a sign it may as well be a list of numbers.
_RUPEES = re.compile(
    r"(?<=₹)\s?-?[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9,])|(?<=\bRs)\.?\s?[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9,])"
)
_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|([0-9]))\s*(?:\{([^{}]*)\}|([0-9]))")


@dataclass(frozen=True)
class NumericSettings:
    """How numbers are compared.

    Args:
        tolerance: How far from the reference a right answer may be; a row's own ``tolerance`` counts in its place.
        relative_tolerance: The same as a share of the reference.
        decimal_comma: Whether a comma begins the decimals, and a point groups thousands.

    Raises:
        SettingError: One of them cannot be meant.
    """

    tolerance: float = 0
    relative_tolerance: float = 0
    decimal_comma: bool = False

    def __post_init__(self) -> None:
        for name in ("tolerance", "relative_tolerance"):
            if not _is_tolerance(getattr(self, name)):
                raise SettingError(
                    f"metric_args: {name} of numeric_answer is {getattr(self, name)!r:.60}. Give a number from 0 on."
                )
        if not isinstance(self.decimal_comma, bool):
            raise SettingError(
                f"metric_args: decimal_comma of numeric_answer is {self.decimal_comma!r:.60}. Give true or false."
            )


@dataclass(frozen=True)
class Number:
    """A number as it is written.

    Args:
        value: The number.
        is_percent: Whether a percent sign follows.
    """

    value: Decimal
    is_percent: bool = False

    @property
    def readings(self) -> list[Decimal]:
        """What it may mean."""
        return [self.value, self.value.scaleb(-2, _CONTEXT)] if self.is_percent else [self.value]


def number_in(text: str, *, decimal_comma: bool = False) -> Number | None:
    """The number that is a text's answer; None where there is none.

    Args:
        text: An answer, or a reference.
        decimal_comma: Whether a comma begins the decimals.
    """
    text = _plain(text, _GROUPS[decimal_comma][0])
    start = text.rfind(_BOX)
    if start >= 0:
        return _read(_braced(text, start + len(_BOX)), decimal_comma, first=False)
    _, mark, behind = text.rpartition(_MARK)
    if mark:
        return _read(behind.strip().partition("\n")[0], decimal_comma, first=True)
    return _read(text, decimal_comma, first=False)


def check_numbers(rows: Sequence[Row], settings: NumericSettings) -> list[tuple[int, str]]:
    """Rows whose reference has no number, or whose tolerance is none.

    Args:
        rows: The rows.
        settings: How numbers are compared.
    """
    found = []
    for place, row in enumerate(rows):
        if number_in(row["reference"], decimal_comma=settings.decimal_comma) is None:
            found.append(
                (
                    place,
                    f"reference is {row['reference']!r:.60}, in which numeric_answer finds no number",
                )
            )
        if row.get("tolerance") is not None and not _is_tolerance(row["tolerance"]):
            found.append((place, f"tolerance is {row['tolerance']!r:.60}, and no number from 0 on"))
    return found


def judge_numbers(rows: Sequence[Row], answers: Sequence[str], settings: NumericSettings) -> list[Verdict]:
    """Whether each answer is its reference's number.

    Args:
        rows: The rows.
        answers: Their answers.
        settings: How numbers are compared.
    """
    return [Verdict(_is_right(row, answer, settings)) for row, answer in zip(rows, answers, strict=True)]


def _is_right(row: Row, answer: str, settings: NumericSettings) -> bool:
    given = number_in(said(answer), decimal_comma=settings.decimal_comma)
    expected = number_in(row["reference"], decimal_comma=settings.decimal_comma)
    if given is None or expected is None:
        return False
    own = row.get("tolerance")
    absolute = Decimal(str(settings.tolerance if own is None else own))
    relative = Decimal(str(settings.relative_tolerance))
    if given.is_percent == expected.is_percent:
        pairs = [(given.value, expected.value)]
    else:
        pairs = [(one, other) for one in given.readings for other in expected.readings]
    return any(_is_near(one, other, absolute, relative) for one, other in pairs)


def _is_near(given: Decimal, expected: Decimal, absolute: Decimal, relative: Decimal) -> bool:
    room = max(absolute, _CONTEXT.multiply(relative + _SLACK, expected.copy_abs()))
    return _CONTEXT.subtract(given, expected).copy_abs() <= room


def _read(text: str, decimal_comma: bool, *, first: bool) -> Number | None:
    found = [match for match in _NUMBERS[decimal_comma].finditer(text) if len(match[0]) <= _MAX_DIGITS]
    if not found:
        return None
    match = found[0 if first else -1]
    begins = max(0, match.start() - _LOOKS_BACK)
    if match["raised"] or any(each.search(text, begins, match.start()) for each in (_BEFORE, _BESIDE)):
        return None
    thousands, decimals = _GROUPS[decimal_comma]

    def number(written: str) -> Decimal:
        return Decimal(written.replace(thousands, "").replace(decimals, "."))

    over, under = match["over"] or match["over2"], match["under"] or match["under2"]
    if over is not None:
        below = number(under)
        if not below:
            return None
        value = _CONTEXT.divide(number(over), below)
        if mixed := match["mixed"] or match["mixed2"]:
            value = _CONTEXT.add(number(mixed), value)
    else:
        value = number(match["number"])
        exponent = match["exponent"] or match["power"]
        if exponent is not None:
            if len(exponent) > 5:  # no number that anybody means
                return None
            value = _CONTEXT.scaleb(value, int(exponent))
    if "-" in (match["sign"], match["second"]):
        value = value.copy_negate()
    return Number(value, match["percent"] is not None)


def _braced(text: str, start: int) -> str:
    """What stands between a brace and the one that closes it, or the end of the text."""
    depth = 1
    for place in range(start, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if not depth:
            return text[start:place]
    return text[start:]


def _plain(text: str, thousands: str) -> str:
    """Digits and signs of other scripts as ASCII has them, and spaces that group thousands as their separator."""
    text = "".join(each if each.isascii() else _ascii(each) for each in text)
    for written, meant in (
        ("\u2212", "-"),
        ("\u2044", "/"),
        ("\\dfrac", "\\frac"),
        ("\\tfrac", "\\frac"),
        ("{,}", ","),
        ("\\%", "%"),
        ("\\$", "$"),
    ):
        text = text.replace(written, meant)
    text = _BOLD.sub(r" \2 ", text)
    if thousands == ",":
        text = _RUPEES.sub(lambda found: found[0].replace(",", ""), text)
    text = _FRACTION.sub(lambda found: f"\\frac{{{found[2] or found[1]}}}{{{found[4] or found[3]}}}", text)
    return re.sub(
        r"(?<=[0-9])(?:(?:\\,|\\!|\\ |[\u00a0\u2009\u202f])+|['\u2019])(?=[0-9]{3}(?![0-9]))", thousands, text
    )


def _ascii(sign: str) -> str:
    """A digit of another script, or a fraction that is one sign (``¾``), which may follow a whole number."""
    if sign.isdecimal():
        return str(unicodedata.decimal(sign))
    if unicodedata.decomposition(sign).startswith("<fraction>"):
        written = unicodedata.normalize("NFKC", sign).replace("\u2044", "/")
        return f" {written}" if written.partition("/")[2] else sign
    return sign


def _is_tolerance(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    )
