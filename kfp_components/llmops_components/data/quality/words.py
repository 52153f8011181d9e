"""Words and sentences of a text, which most rules count."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from llmops_components.errors import SettingError

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

# Marks that end a sentence, in all scripts: Unicode's property Sentence_Terminal as of version 15, and three of Khmer.
_SENTENCE_ENDS = (
    "21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e 1735-1736 "
    "17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e 1c3b-1c3c 1c7e-1c7f "
    "203c-203d 2047-2049 2e2e 2e3c 2e53-2e54 3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f "
    "a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 "
    "10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df 11238-11239 "
    "1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946 "
    "11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 "
    "16e98 1bc9f 1da88 "
)
SENTENCE_ENDS = frozenset(
    chr(code)
    for first, _, last in (each.partition("-") for each in _SENTENCE_ENDS.split())
    for code in range(int(first, 16), int(last or first, 16) + 1)
)
# What counts as no word by itself: CCNet's list of punctuation, control characters, and marks that end a sentence.
MARKS = (
    SENTENCE_ENDS
    | set(string.punctuation)
    | set(
        "\u00ab\u00b4\u00bb\u2013\u2014\u2019\u201c\u201d\u201e\u2026\u2236\u2501\u25ba\u3001\u3002\uff01\uff05\uff08"
    )
    | set("\u3008\u3009\u300a\u300b\u300c\u300d\u3010\u3011\uff09\uff0c\uff0e\uff11\uff1a\uff1b\uff1f\uff5e")
    | {chr(code) for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
)
# Scripts without spaces between words: each character counts as a word.
UNSPACED = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(
    rf"[{UNSPACED}]|(?:(?![{UNSPACED}])\w)+(?:['\u2019.,](?:(?![{UNSPACED}])\w)+)*|\.{{2,}}|-{{2,}}|[^\w\s]"
)
_TEXTS_IN_A_ZONE = 500


class Splitter(Protocol):
    """Splits texts."""

    def words(self, text: str) -> list[str]:
        """The words and marks of a text, without white space."""

    def sentences(self, text: str) -> int:
        """How many sentences a text has."""


class PlainSplitter:
    """Words are letters and digits that stand together, marks are words of their own; quick, and for every language."""

    def __init__(self) -> None:
        self._last: tuple[str, list[str]] = ("", [])

    def words(self, text: str) -> list[str]:
        """See :class:`Splitter`."""
        if text != self._last[0]:
            self._last = text, [match[0] for match in _TOKEN.finditer(text)]
        return self._last[1]

    def sentences(self, text: str) -> int:
        """See :class:`Splitter`."""
        count, has_ended = 0, True
        for word in self.words(text):
            if word in SENTENCE_ENDS:
                has_ended = True
            elif has_ended and word not in MARKS:
                count += 1
                has_ended = False
        return max(count, bool(text.strip()))


class SpacySplitter:
    """Words and sentences are spaCy's, by its rules for a language; ten times as slow.

    Args:
        language: Code of the language, as ``en``.

    Raises:
        SettingError: spaCy has no rules for the language that work here.
    """

    def __init__(self, language: str) -> None:
        self._pipeline = _pipeline(language)
        self._zone, self._texts = ExitStack(), 0

    def _split(self, text: str) -> Doc:
        # What spaCy remembers of words is given up from time to time: else it grows with each new word.
        if self._texts % _TEXTS_IN_A_ZONE == 0:
            self._zone.close()
            self._zone.enter_context(self._pipeline.memory_zone())
        self._texts += 1
        self._pipeline.max_length = len(text) + 10
        return self._pipeline(text)

    def words(self, text: str) -> list[str]:
        """See :class:`Splitter`."""
        return [word for token in self._split(text) if (word := token.text.strip())]

    def sentences(self, text: str) -> int:
        """See :class:`Splitter`."""
        return sum(1 for _ in self._split(text).sents)


def _pipeline(language: str) -> Language:
    import spacy

    try:
        pipeline = spacy.blank(language)
    except (
        Exception
    ) as error:  # of any kind: a language brings code of its own, and some need further packages
        raise SettingError(
            f"spaCy has no rules for the language {language!r:.20} that work here: {str(error)[:200]}"
        ) from error
    pipeline.add_pipe("sentencizer")
    return pipeline


class Text:
    """A text, and what rules need of it, found out once.

    Args:
        text: The text.
        splitter: What splits it.
    """

    def __init__(self, text: str, splitter: Splitter) -> None:
        self.text = text
        self.splitter = splitter

    @cached_property
    def words(self) -> list[str]:
        """The words."""
        return self.splitter.words(self.text)

    @cached_property
    def lines(self) -> list[str]:
        """The lines, whatever ends them."""
        return self.text.splitlines()

    @cached_property
    def filled_lines(self) -> list[str]:
        """The lines, as line feeds end them, that are more than blanks."""
        return [line for line in self.text.split("\n") if line.strip()]

    @cached_property
    def real_words(self) -> list[str]:
        """The words that are more than marks."""
        return [
            word for word in self.words if (word.isascii() and word.isalnum()) or not MARKS.issuperset(word)
        ]

    @cached_property
    def has_repeats(self) -> bool:
        """Whether any five words in a row occur again."""
        fives = list(zip(*(self.words[start:] for start in range(5)), strict=False))
        return len(set(fives)) < len(fives)

    def share_of_words(self, has: Callable[[str], bool]) -> float:
        """Share of the words that have something; 0 where there are none."""
        return share_of(self.words, has)

    def share_of_lines(self, has: Callable[[str], bool]) -> float:
        """Share of the lines that have something; 0 where there are none."""
        return share_of(self.lines, has)


def share_of(items: Sequence[str], has: Callable[[str], bool]) -> float:
    """Share of some texts that have something; 0 where there are none.

    Args:
        items: The texts.
        has: Whether one has it.
    """
    return sum(map(has, items)) / len(items) if items else 0.0
