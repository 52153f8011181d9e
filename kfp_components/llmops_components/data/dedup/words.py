"""Texts as the hashes of their tokens: what near duplicates and contamination are found by.

A token is a word of letters, marks and digits in lower case; a symbol that changes what is said, as ``+``, ``-`` or an
emoji; and in scripts without spaces between words one character. Other punctuation and white space are no tokens. Text is
compared in Unicode's normal form KC. Hashes have 64 bits and are the same on every machine.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any

import numpy as np
import polars as pl

# Scripts that are written without spaces between words.
UNSPACED = (
    *("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan"),
    *("Tai_Le", "New_Tai_Lue", "Tai_Tham", "Javanese", "Balinese"),
)
_SIGNS = "+-*/%<>=^~|$`"  # of ASCII; of the rest every symbol is a sign
_BETWEEN = r"[^\p{L}\p{M}\p{N}\p{S}*/%-]+"
_ALONE = r"(?:[" + "".join(f"\\p{{{name}}}" for name in UNSPACED) + r"]|[\p{S}--[\x00-\x7F]])\p{M}*"
_SPACE, _LETTER, _SIGN = 0, 1, 2
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of splitmix64
_BASE = np.uint64(0x9E3779B97F4A7C15)
_SLICE_BYTES = 1 << 18
_WORD_BYTES, _LONG_BYTES = 8, 64

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Tokens:
    """The tokens of some texts, one text after the other.

    Args:
        hashes: A hash of each token.
        offsets: Where each text's tokens begin, and behind the last one where they end.
    """

    hashes: Array
    offsets: Array


def tokens_of(texts: Sequence[str]) -> Tokens:
    """The tokens of texts.

    Args:
        texts: Any texts without halves of surrogate pairs.
    """
    plain = _plain(texts)
    lengths = np.fromiter(map(len, plain), np.int64, len(plain)) + 1
    ends = np.cumsum(lengths)
    hashes, starts, begin = [], [], 0
    for part in _slices(b" ".join([*plain, b""])):
        found = _hashed(part)
        hashes.append(found[0])
        starts.append(found[1] + begin)
        begin += len(part)
    if not hashes:
        return Tokens(np.empty(0, np.uint64), np.zeros(len(texts) + 1, np.int64))
    offsets = np.concatenate([[0], np.searchsorted(np.concatenate(starts), ends)])
    return Tokens(np.concatenate(hashes), offsets.astype(np.int64))


def shingles_of(tokens: Tokens, size: int, salts: Array | None = None) -> tuple[Array, Array]:
    """Hashes of all sequences of so many tokens within each text, and how many each text has.

    Of a text with fewer tokens it is one: all its tokens. A text without tokens has none.

    Args:
        tokens: Of :func:`tokens_of`.
        size: Tokens of a sequence.
        salts: For each text a number: the same sequence has another hash where it is another one.
    """
    counts = np.diff(tokens.offsets)
    shingles = np.where(counts >= size, counts - size + 1, np.minimum(counts, 1))
    begins = np.repeat(tokens.offsets[:-1] - np.concatenate([[0], np.cumsum(shingles)[:-1]]), shingles)
    begins += np.arange(len(begins))
    padded = np.concatenate([tokens.hashes, np.zeros(size, np.uint64)])
    sums = padded[: len(tokens.hashes)].copy()
    for step in range(1, size):
        sums *= _BASE
        sums += padded[step : len(sums) + step]
    sums = sums[begins]
    for length in set(
        counts[(counts > 0) & (counts < size)].tolist()
    ):  # what stands behind is another text's
        whole = counts == length
        own = tokens.offsets[:-1][whole]
        value = np.full(len(own), length, np.uint64)
        for step in range(length):
            value = value * _BASE + tokens.hashes[own + step]
        sums[(np.cumsum(shingles) - shingles)[whole]] = value
    return mixed(sums if salts is None else sums ^ np.repeat(salts, shingles)), shingles


def mixed(values: Array) -> Array:
    """Numbers of 64 bits whose every bit depends on every bit of those given.

    Args:
        values: Numbers of 64 bits.
    """
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))


def salt_of(name: str) -> np.uint64:
    """A number for a name, the same on every machine.

    Args:
        name: As that of a column.
    """
    value = np.uint64(len(name))
    with np.errstate(over="ignore"):
        for byte in name.encode():
            value = value * _BASE + np.uint64(byte + 1)
    return np.uint64(mixed(np.array([value]))[0])


def _plain(texts: Sequence[str]) -> list[bytes]:
    """Texts as bytes in which tokens stand apart: words in lower case, spaces, and signs."""
    table = _table()
    plain = [text.encode().translate(table) if text.isascii() else b"" for text in texts]
    others = [index for index, text in enumerate(texts) if not text.isascii()]
    if others:
        series = pl.Series([unicodedata.normalize("NFKC", texts[index]) for index in others])
        series = series.str.to_lowercase().str.replace_all(_BETWEEN, " ").str.replace_all(_ALONE, " $0 ")
        for index, text in zip(others, series.to_list(), strict=True):
            plain[index] = text.encode()
    return plain


@cache
def _table() -> bytes:
    """For each byte of ASCII what stands for it: a small letter, a digit, a sign, or a space."""
    kept = string.ascii_lowercase + string.digits + _SIGNS
    return bytes(
        ord(character) if (character := chr(byte).lower()) in kept or byte >= 128 else 32
        for byte in range(256)
    )


@cache
def _classes() -> bytes:
    """For each byte whether it is a space, of a word, or a sign of its own."""
    signs = set(_SIGNS.encode())
    return bytes(_SPACE if byte <= 32 else _SIGN if byte in signs else _LETTER for byte in range(256))


def _slices(buffer: bytes) -> Iterator[bytes]:
    """Parts of a buffer that end behind a space, each about as large as fits a processor's cache."""
    begin = 0
    while begin < len(buffer):
        end = buffer.find(b" ", begin + _SLICE_BYTES) + 1 or len(buffer)
        yield buffer[begin:end]
        begin = end


def _hashed(buffer: bytes) -> tuple[Array, Array]:
    """A hash and the first byte of each token of a buffer that ends with a space."""
    classes = np.zeros(len(buffer) + 1, np.uint8)
    classes[1:] = np.frombuffer(buffer.translate(_classes()), np.uint8)
    edges = np.flatnonzero((classes[1:] != classes[:-1]) | (classes[1:] == _SIGN))
    is_token = classes[1:][edges] != _SPACE
    starts, lengths = edges[is_token], np.diff(edges, append=len(buffer))[is_token]
    if not len(starts):
        return np.empty(0, np.uint64), starts
    return _hashes(buffer, starts, lengths), starts


def _hashes(buffer: bytes, starts: Array, lengths: Array) -> Array:
    """A hash of each token, of eight bytes of all of them at a time."""
    # Of each byte, it and the seven behind it.
    words: Array = np.ndarray((len(buffer),), "<u8", buffer + bytes(_WORD_BYTES), strides=(1,))
    hashes = lengths.astype(np.uint64)
    left = np.arange(len(starts))
    for begin in range(0, _LONG_BYTES, _WORD_BYTES):
        if begin:
            left = left[lengths[left] > begin]
            if not len(left):
                return hashes
        some = slice(None) if len(left) == len(starts) else left
        taken = words[starts[some] + begin] & _masks()[np.minimum(lengths[some] - begin, _WORD_BYTES)]
        hashes[some] = mixed(hashes[some] * _BASE + taken)
    for token in left[lengths[left] > _LONG_BYTES]:
        begin = starts[token]
        digest = blake2b(buffer[begin : begin + lengths[token]], digest_size=_WORD_BYTES).digest()
        hashes[token] = int.from_bytes(digest, "little")
    return hashes


@cache
def _masks() -> Array:
    """For each number of bytes what leaves so many of a word's."""
    return np.array([(1 << 8 * count) - 1 for count in range(_WORD_BYTES + 1)], np.uint64)
