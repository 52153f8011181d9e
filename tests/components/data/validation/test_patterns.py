"""Regular expressions in linear time: found where Python finds them, or refused by what they have."""

from __future__ import annotations

import random
import re
import time

import polars as pl
import pytest
from llmops_components.data.validation.patterns import PatternError, linear_pattern

# What engines read differently: digits and words of other scripts, marks, case of Turkish and German, ends of lines.
_ALPHABET = "abfoxyzkKsS\u0131İiI\u017f \n\t\r\x1c\x85\u2028_.-@0123٣²½éÉßẞ\u0301कि‿\U0001f600عAcdtheר"
_WHOLE = [
    "foo",
    "foo bar",
    "a foo.",
    "straße",
    "STRASSE",
    "STRAßE",
    "ISTANBUL",
    "\u0131stanbul",
    "the end",
    "x\n",
    "a@b.cc",
    "ab\n",
]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    roll = random.Random(1)  # noqa: S311 - the same again next time
    return ["".join(roll.choices(_ALPHABET, k=roll.randint(0, 8))) for _ in range(2000)] + _WHOLE


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\w+$",
        r"\bfoo\b",
        r"\bfoo\b|\bbar\b",
        r"\b(the|a)\b",
        r"\.\b",
        r"(?i)istanbul",
        r"(?i)straße",
        r"(?i)[k-s]+\b",
        r"(?a)\w+\s",
        r"^[^\s@]+@[^\s@]+\.\w{2,}$",
        r"a$|b$",
        r"(^a|b$)",
        r"(?m)^x$",
        r"(?s)a.b",
        r"a.b",
        r"\Aab\Z",
        r"[^\W\d_]+",
        r"^$",
        "",
        r"\s$",
        r"x*?y+?",
        r"(?x) a b # c",
        r"[^a]",
        r"[\u0900-\u097f]+",
    ],
)
def test_found_in_the_texts_in_which_python_finds_it(texts, pattern):
    found = pl.Series(texts).str.contains(linear_pattern(pattern)).to_list()
    assert [text for text, each in zip(texts, found, strict=True) if each] == [
        text for text in texts if re.search(pattern, text)
    ]


def test_an_expression_that_python_would_try_for_ever_ends(texts):
    text = "a" * 100_000 + "!"
    started = time.monotonic()
    assert pl.Series([text]).str.contains(linear_pattern(r"^(a+)+$")).to_list() == [False]
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (r"(?=a)", "a look ahead or behind"),
        (r"(?<!a)b", "a look ahead or behind"),
        (r"(a)\1", "a reference to a group"),
        (r"(a)?(?(1)b|c)", "a condition on a group"),
        (r"(?>a)b", "an atomic group"),
        (r"a++", "a possessive repetition"),
        (r"a\b.*", r"\\b elsewhere"),
        (r"a\Bb", r"\\B elsewhere"),
        (r"a$b", r"\$ elsewhere"),
        (r"(a", "is not one: missing \\)"),
    ],
)
def test_what_has_no_equal_is_refused_by_name(pattern, what):
    with pytest.raises(PatternError, match=what):
        linear_pattern(pattern)
