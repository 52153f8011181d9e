"""The rules by which C4 was filtered (Raffel et al., 2020, https://jmlr.org/papers/v21/20-074.html, section 2.2).

They take lines away first, and judge what is left.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from llmops_components.data.quality.rules import Rule
from llmops_components.data.quality.words import Text

_CITATIONS = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_ENDS = (".", "?", "!", '"', "'")
_POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_FEWEST_WORDS = 3
_LONGEST_WORD = 1000


@dataclass(frozen=True)
class Remains:
    """What C4 leaves of a text.

    Args:
        lines: The lines that are left, without marks of citations.
        refused: The rule by which the text as a whole goes, for what stands in one of these lines.
    """

    lines: tuple[str, ...]
    refused: str | None = None


@lru_cache(maxsize=1)  # each of the rules asks for the same text
def remains(text: str) -> Remains:
    """Take the lines away that C4 does not take.

    Args:
        text: The text.
    """
    kept = []
    for each in text.splitlines():
        stripped = each.strip()
        words = stripped.split()
        line = _CITATIONS.sub("", stripped)
        if any(len(word) > _LONGEST_WORD for word in words) or len(words) < _FEWEST_WORDS:
            continue
        if not line.endswith(_ENDS) or line.endswith("..."):
            continue
        lower = line.lower()
        if "lorem ipsum" in lower:
            return Remains(tuple(kept), "c4_lorem_ipsum")
        if "javascript" in lower:
            continue
        if "{" in line:
            return Remains(tuple(kept), "c4_curly_bracket")
        if any(policy in lower for policy in _POLICIES):
            continue
        kept.append(line)
    return Remains(tuple(kept))


def _holds(name: str, text: Text) -> float:
    return float(remains(text.text).refused == name)


def _sentences(text: Text) -> float | None:
    left = remains(text.text)
    return None if left.refused else sum(map(text.splitter.sentences, left.lines))


RULES = (
    Rule("c4_lorem_ipsum", "lines with lorem ipsum", lambda text: _holds("c4_lorem_ipsum", text), "most", 0),
    Rule(
        "c4_curly_bracket",
        "lines with a curly bracket",
        lambda text: _holds("c4_curly_bracket", text),
        "most",
        0,
    ),
    Rule("c4_sentences", "sentences in lines that C4 takes", _sentences, "least", 5),
)
