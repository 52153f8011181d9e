"""The rules that FineWeb added to others' (Penedo et al., 2024, https://arxiv.org/abs/2406.17557, section 3.5)."""

from __future__ import annotations

from collections.abc import Callable

from llmops_components.data.quality.gopher import repeats
from llmops_components.data.quality.rules import Rule
from llmops_components.data.quality.words import SENTENCE_ENDS, Text, share_of

_ENDS = tuple(sorted(SENTENCE_ENDS))
_SHORT_CHARACTERS = 30


def _share(has: Callable[[str], bool]) -> Callable[[Text], float]:
    def share(text: Text) -> float:
        return share_of(text.filled_lines, has)

    return share


def _repeated_characters(text: Text) -> float:
    characters = len(text.text.replace("\n", ""))
    return repeats(text.filled_lines)[1] / characters if characters else 0.0


def _lines_a_word(text: Text) -> float:
    return text.text.count("\n") / len(text.words) if text.words else 0.0


RULES = (
    Rule(
        "fineweb_line_ends",
        "of the lines end with a mark that ends a sentence",
        _share(lambda line: line.endswith(_ENDS)),
        "least",
        0.12,
    ),
    Rule(
        "fineweb_short_lines",
        f"of the lines have {_SHORT_CHARACTERS} characters or fewer",
        _share(lambda line: len(line) <= _SHORT_CHARACTERS),
        "most",
        0.67,
    ),
    Rule(
        "fineweb_repeated_characters",
        "of the characters are in repeated lines",
        _repeated_characters,
        "most",
        0.01,
    ),
    Rule("fineweb_line_feeds", "line feeds a word", _lines_a_word, "most", 0.3),
)
