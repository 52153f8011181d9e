"""Personal data in rows: every text of a row is looked at, wherever it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops_components.data.privacy.detect import Find, replaced
from llmops_components.data.privacy.finding import Finding

Replace = Callable[[str, Sequence[Finding]], str]


@dataclass
class Searched:
    """What was found in a row. Values are in no field.

    Args:
        value: The row; the same object where nothing was found.
        kinds: How often each kind was found.
        score: The highest score; None where nothing was found.
    """

    value: Any
    kinds: Counter[str] = field(default_factory=Counter)
    score: float | None = None


def search(value: Any, find: Find, instead: Callable[[str, str], str]) -> Searched:
    """Look through a row, and put something else where personal data stands.

    Names of fields are no texts, and numbers are none either: a phone number that is not written as a text stays.

    Args:
        value: The row.
        find: Of :func:`~llmops_components.data.privacy.detect.detector`.
        instead: What stands there for a kind and a value.
    """
    result = Searched(value)

    def changed(item: Any) -> Any:
        if isinstance(item, str):
            if not (findings := find(item)):
                return item
            result.kinds.update(each.kind for each in findings)
            result.score = max(result.score or 0.0, *(each.score for each in findings))
            return replaced(item, findings, instead)
        if isinstance(item, list):
            several = [changed(each) for each in item]
            return item if all(a is b for a, b in zip(item, several, strict=True)) else several
        if isinstance(item, dict):
            inner = {name: changed(each) for name, each in item.items()}
            return item if all(inner[name] is each for name, each in item.items()) else inner
        return item

    result.value = changed(value)
    return result
