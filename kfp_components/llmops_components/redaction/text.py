"""Texts and lines without secrets, whatever shows them: a variable of the environment, a key's lines, a pattern."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator

from llmops_components.redaction.patterns import hide_by_patterns
from llmops_components.redaction.pem import KeyFilter, hide_keys
from llmops_components.redaction.signs import HIDDEN, is_secret_name

_MIN_SECRET_CHARACTERS = 8  # a shorter value, such as "true", would blank out ordinary words


def redact(text: str) -> str:
    """A text without passwords, tokens, keys, and values of secret environment variables."""
    for name in _secret_variables(tuple(os.environ)):
        if len(value := os.environ.get(name, "")) >= _MIN_SECRET_CHARACTERS:
            text = text.replace(value, HIDDEN)
    if "-----" in text:
        text = hide_keys(text)
    return hide_by_patterns(text)


@functools.lru_cache(16)
def _secret_variables(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name != "PWD" and is_secret_name(name))


class Redactor:
    """Hides secrets in lines as they come, keys in PEM across them."""

    def __init__(self) -> None:
        self._keys = KeyFilter()

    def lines(self, lines: Iterable[str]) -> Iterator[str]:
        """Lines without secrets; a key may go on in the lines of the next call."""
        for line in self._keys.lines(lines):
            yield redact(line)
