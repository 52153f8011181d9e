"""What counts as a word in ROUGE and BLEU, in any script.

ROUGE's own tokenizer knows a to z and 0 to 9 only: a perfect answer in Cyrillic has no words, and so the score 0. BLEU's
splits at spaces, which Chinese, Japanese, Thai, Lao, Khmer and Burmese do not have: a sentence is one word. Here a word
is made of letters, marks and digits of any script, and scripts without spaces are taken apart into characters. Text in
ASCII has exactly the words that rouge_score and sacreBLEU find in it, text in other scripts with spaces those of
sacreBLEU's "13a", Chinese those of its "zh".

Text is compared in Unicode's normal form C, in which an accent typed by itself is no difference; for ROUGE, which
ignores case as well, in form KC with case folded, in which full-width letters and presentation forms are none either.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

import regex
from nltk.stem.porter import PorterStemmer
from rouge_score.tokenizers import Tokenizer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

# Scripts without spaces between words, and how many characters tell as much as a word does. One says much in Chinese; of
# the letters of Thai any two sentences have most in common.
UNSPACED = {
    1: ("Han", "Yi"),
    2: ("Hiragana", "Katakana", "Bopomofo"),
    3: (
        "Thai",
        "Lao",
        "Khmer",
        "Myanmar",
        "Tibetan",
        "Tai_Le",
        "New_Tai_Lue",
        "Tai_Tham",
        "Javanese",
        "Balinese",
    ),
}
_PROLONGED = "\u30fc"  # the mark after a long vowel in Japanese, of no script of its own


def _class(names: Iterable[str]) -> str:
    found = "".join(rf"\p{{Script={name}}}" for name in names)
    return found + _PROLONGED if "Katakana" in names else found


_ALL_UNSPACED = "".join(_class(names) for names in UNSPACED.values())
_TEXT = r"[\p{L}\p{M}\p{N}]"
_WORD = regex.compile(
    "|".join(
        [rf"(?P<run{size}>(?:[[{_class(names)}]&&{_TEXT}]\p{{M}}*)+)" for size, names in UNSPACED.items()]
        + [
            rf"[{_TEXT}--[{_ALL_UNSPACED}]]+",
            r"[\p{S}--[\x00-\x7F]]\p{M}*",  # an emoji is all that some answers consist of
        ]
    ),
    regex.VERSION1,
)
_CHARACTER = regex.compile(r".\p{M}*", regex.DOTALL)
_INVISIBLE = regex.compile(r"\p{Cf}")  # joiners, soft hyphens, marks of direction
# With the punctuation that is written between such characters, as sacreBLEU's "zh" has it.
_UNSPACED_CHARACTER = regex.compile(rf"([{_ALL_UNSPACED}\u3000-\u303F\uFF00-\uFFEF]\p{{M}}*)")
_SCRIPT = {name: regex.compile(rf"\p{{Script={name}}}") for names in UNSPACED.values() for name in names}
_stem = lru_cache(maxsize=100_000)(PorterStemmer().stem)
_13a = Tokenizer13a()


def normalised(text: str) -> str:
    """Text in Unicode's normal form C; ASCII stays as it is.

    Args:
        text: Any text.
    """
    return unicodedata.normalize("NFC", text)


class RougeWords(Tokenizer):
    """Words for rouge_score: in lower case, those of a to z and 0 to 9 stemmed."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text.

        Args:
            text: Any text.
        """
        if not text.isascii():
            text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text).casefold())
        words: list[str] = []
        for match in _WORD.finditer(text.lower()):
            word = match[0]
            if match.lastgroup is not None:
                words += _sequences(_CHARACTER.findall(word), int(match.lastgroup.removeprefix("run")))
            else:
                words.append(_stem(word) if len(word) > 3 and word.isascii() else word)
        return words


def _sequences(characters: list[str], size: int) -> list[str]:
    """All sequences of that many characters, overlapping; all characters together where there are fewer."""
    count = max(len(characters) - size, 0) + 1
    return ["".join(characters[start : start + size]) for start in range(count)]


def bleu_words(text: str) -> str:
    """The words of a text for BLEU, with a space between any two.

    Args:
        text: Any text.
    """
    if not text.isascii():
        text = _UNSPACED_CHARACTER.sub(r" \1 ", text)
    return str(_13a(text.rstrip()))


def describe(texts: Iterable[str]) -> dict[str, str]:
    """How ROUGE, BLEU and chrF take these texts apart, in words for people.

    Args:
        texts: Answers and references.
    """
    whole = "".join({character for text in texts for character in text})
    if whole.isascii():
        return {"rouge": "rouge_score (a to z, 0 to 9; stems)", "bleu": "13a", "chrf": "characters"}
    scripts = ", ".join(name.replace("_", " ") for name, pattern in _SCRIPT.items() if pattern.search(whole))
    rouge, bleu = "words of any script; stems of English", "13a"
    if scripts:
        rouge += f"; sequences of 1 to 3 characters in {scripts}"
        bleu += f"; characters in {scripts}"
    return {"rouge": rouge, "bleu": bleu, "chrf": "characters"}
