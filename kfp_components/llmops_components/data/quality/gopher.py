"""The rules by which Gopher's training data were filtered (Rae et al., 2021, https://arxiv.org/abs/2112.11446, appendix A1).

Words are compared as they stand, and lines and paragraphs as they are separated by line feeds, as FineWeb's authors do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from llmops_components.data.quality.rules import Rule
from llmops_components.data.quality.words import Text

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_PARAGRAPH_ENDS, _LINE_ENDS = re.compile(r"\n{2,}"), re.compile(r"\n+")
_TOP = {2: 0.20, 3: 0.18, 4: 0.16}
_REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


def _word_length(text: Text) -> float | None:
    words = text.real_words
    return sum(map(len, words)) / len(words) if words else None


def _per_word(text: Text, *marks: str) -> float:
    count = sum(text.text.count(mark) for mark in marks)
    return count / len(text.words) if text.words else 0.0


def _has_letter(word: str) -> bool:
    return word.isalpha() or any(map(str.isalpha, word))


QUALITY = (
    Rule("gopher_words_least", "words", lambda text: len(text.real_words), "least", 50),
    Rule("gopher_words_most", "words", lambda text: len(text.real_words), "most", 100_000),
    Rule("gopher_word_length_least", "characters a word", _word_length, "least", 3),
    Rule("gopher_word_length_most", "characters a word", _word_length, "most", 10),
    Rule("gopher_hashes", "hash signs a word", lambda text: _per_word(text, "#"), "most", 0.1),
    Rule("gopher_ellipses", "ellipses a word", lambda text: _per_word(text, "...", "\u2026"), "most", 0.1),
    Rule(
        "gopher_bullets",
        "of the lines begin with a bullet",
        lambda text: text.share_of_lines(lambda line: line.lstrip().startswith(("\u2022", "-"))),
        "most",
        0.9,
    ),
    Rule(
        "gopher_ellipsis_ends",
        "of the lines end with an ellipsis",
        lambda text: text.share_of_lines(lambda line: line.rstrip().endswith(("...", "\u2026"))),
        "most",
        0.3,
    ),
    Rule(
        "gopher_letters",
        "of the words have a letter",
        lambda text: text.share_of_words(_has_letter),
        "least",
        0.8,
    ),
    Rule(
        "gopher_stop_words",
        "of the stop words",
        lambda text: len(STOP_WORDS.intersection(text.words)),
        "least",
        2,
    ),
)


def repeats(pieces: Iterable[str]) -> tuple[int, int]:
    """How many pieces repeat an earlier one, and how many characters these have.

    Args:
        pieces: Lines or paragraphs.
    """
    seen: set[str] = set()
    count = characters = 0
    for piece in pieces:
        if piece in seen:
            count += 1
            characters += len(piece)
        else:
            seen.add(piece)
    return count, characters


def _pieces(text: Text, ends: re.Pattern[str]) -> list[str]:
    return ends.split(text.text.strip() if ends is _PARAGRAPH_ENDS else text.text)


def _repeated_pieces(text: Text, ends: re.Pattern[str]) -> float:
    pieces = _pieces(text, ends)
    return repeats(pieces)[0] / len(pieces)


def _repeated_characters(text: Text, ends: re.Pattern[str]) -> float:
    return repeats(_pieces(text, ends))[1] / len(text.text) if text.text else 0.0


def _top(text: Text, size: int) -> float:
    """Share of the characters in the most frequent n-gram; of several equally frequent ones, the first counts."""
    words = text.words
    grams = Counter(zip(*(words[start:] for start in range(size)), strict=False))
    if not grams:
        return 0.0
    most = max(grams.values())
    gram = next(each for each, count in grams.items() if count == most)
    return (sum(map(len, gram)) + size - 1) * most / len(text.text)


def _repeated(text: Text, size: int) -> float:
    """Share of the characters in n-grams that occurred before, none counted twice."""
    if not text.has_repeats:
        return 0.0  # nor has it longer ones
    words = text.words
    seen: set[str] = set()
    characters = place = 0
    while place <= len(words) - size:
        gram = "".join(words[place : place + size])
        if gram in seen:
            characters += len(gram)
            place += size
        else:
            seen.add(gram)
            place += 1
    return characters / len(text.text) if text.text else 0.0


def _rule(name: str, measures: str, measure: Callable[[Text], float], limit: float) -> Rule:
    return Rule(f"gopher_{name}", measures, measure, "most", limit)


def _of_pieces(name: str, ends: re.Pattern[str]) -> tuple[Rule, Rule]:
    return (
        _rule(
            f"repeated_{name}s", f"of the {name}s repeat another", partial(_repeated_pieces, ends=ends), 0.3
        ),
        _rule(
            f"repeated_{name}_characters",
            f"of the characters are in repeated {name}s",
            partial(_repeated_characters, ends=ends),
            0.2,
        ),
    )


REPETITION = (
    *_of_pieces("paragraph", _PARAGRAPH_ENDS),
    *_of_pieces("line", _LINE_ENDS),
    *(
        _rule(
            f"top_{size}_gram",
            f"of the characters are in one {size}-gram",
            partial(_top, size=size),
            limit,
        )
        for size, limit in _TOP.items()
    ),
    *(
        _rule(
            f"repeated_{size}_grams",
            f"of the characters are in repeated {size}-grams",
            partial(_repeated, size=size),
            limit,
        )
        for size, limit in _REPEATED.items()
    ),
)
