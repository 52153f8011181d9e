"""The words of a sample: the most frequent ones, sequences of them, the vocabulary, and what two data sets share of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops_components.data.profile.rows import Sampled
from llmops_components.data.quality.words import PlainSplitter, Text

MAX_WORDS = 1_000_000  # that are looked at; sequences of more take too much memory
_MAX_WORDS_OF_TEXT = 5000
_SHOWN = 25
SIZES = (2, 3)


@dataclass
class Words:
    """The words of a sample.

    Args:
        counts: How often each is there, in lower case.
        sequences: The same of words that follow each other, by how many they are.
        lengths: By column the number of rows by words.
        rows: Rows whose words are counted.
        is_cut: Whether there are more rows, or longer texts, than were counted.
    """

    counts: Counter[str] = field(default_factory=Counter)
    sequences: dict[int, Counter[tuple[str, ...]]] = field(default_factory=dict)
    lengths: dict[str, Counter[int]] = field(default_factory=dict)
    rows: int = 0
    is_cut: bool = False


def words_of(sample: Iterable[Sampled], sizes: Iterable[int] = SIZES) -> Words:
    """The words of rows.

    Args:
        sample: The rows.
        sizes: How many words sequences have that are counted.
    """
    found = Words(sequences={size: Counter() for size in sizes})
    splitter, left = PlainSplitter(), MAX_WORDS
    for row in sample:
        is_counted = left > 0
        for name, text in row.texts.items():
            words = [word.lower() for word in Text(text, splitter).real_words]
            found.lengths.setdefault(name, Counter())[len(words)] += 1
            most = min(left, _MAX_WORDS_OF_TEXT)
            found.is_cut |= len(words) > most
            words = words[:most]
            left -= len(words)
            found.counts.update(words)
            for size, counts in found.sequences.items():
                counts.update(zip(*(words[start:] for start in range(size)), strict=False))
        found.rows += is_counted
    return found


def most_frequent(words: Words) -> dict[str, list[list[Any]]]:
    """The most frequent words and sequences, each with how often it is there.

    Args:
        words: The words.
    """
    found = {"1": [[word, number] for word, number in _top(words.counts)]}
    for size, counts in words.sequences.items():
        found[str(size)] = [[" ".join(gram), number] for gram, number in _top(counts) if number > 1]
    return found


def _top(counts: Counter[Any]) -> list[tuple[Any, int]]:
    least = min((number for _, number in counts.most_common(_SHOWN)), default=0)
    enough = [(each, number) for each, number in counts.items() if number >= least]
    return sorted(enough, key=lambda pair: (-pair[1], pair[0]))[:_SHOWN]


def vocabulary(words: Words) -> dict[str, Any]:
    """How large and how varied it is.

    Args:
        words: The words.
    """
    tokens = words.counts.total()
    return {
        "rows": words.rows,
        "words": tokens,
        "different_words": len(words.counts),
        "different_per_word": round(len(words.counts) / tokens, 6) if tokens else None,
        "words_there_once": sum(number == 1 for number in words.counts.values()),
        "is_cut": words.is_cut,
    }


def overlap(ours: Words, theirs: Words) -> dict[str, Any]:
    """What two vocabularies share.

    Args:
        ours: The words of the data set.
        theirs: Those of the other one.
    """
    shared = ours.counts.keys() & theirs.counts.keys()
    either = len(ours.counts.keys() | theirs.counts.keys())
    tokens = ours.counts.total()
    return {
        "shared_words": len(shared),
        "jaccard": round(len(shared) / either, 6) if either else None,
        "share_of_words_known": round(sum(ours.counts[word] for word in shared) / tokens, 6)
        if tokens
        else None,
        "only_here": _only(ours.counts, theirs.counts),
        "only_in_compared": _only(theirs.counts, ours.counts),
    }


def _only(counts: Counter[str], others: Counter[str]) -> Sequence[list[Any]]:
    return [
        [word, number]
        for word, number in _top(Counter({word: n for word, n in counts.items() if word not in others}))
    ]
