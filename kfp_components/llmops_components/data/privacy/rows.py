"""Personal data in rows: every text of a row is looked at, wherever it stands."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops_components.data.privacy.detect import Find, replaced
from llmops_components.data.privacy.finding import Finding

Replace = Callable[[str, Sequence[Finding]], str]
_JSON_VALUES = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*')


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

    Names of fields are no texts, and numbers are none either: a phone number that is not written as a text stays. A text that is a
    JSON object or list, as the arguments of a tool are, stays one: what it says is looked at as it reads without escapes.

    Args:
        value: The row.
        find: Of :func:`~llmops_components.data.privacy.detect.detector`.
        instead: What stands there for a kind and a value.
    """
    result = Searched(value)

    def searched(text: str) -> str:
        if not (findings := find(text)):
            return text
        result.kinds.update(each.kind for each in findings)
        result.score = max(result.score or 0.0, *(each.score for each in findings))
        return replaced(text, findings, instead)

    def changed(item: Any) -> Any:
        if isinstance(item, str):
            return _JSON_VALUES.sub(changed_json, item) if _is_json(item) else searched(item)
        if isinstance(item, list):
            several = [changed(each) for each in item]
            return item if all(a is b for a, b in zip(item, several, strict=True)) else several
        if isinstance(item, dict):
            inner = {name: changed(each) for name, each in item.items()}
            return item if all(inner[name] is each for name, each in item.items()) else inner
        return item

    def changed_json(match: re.Match[str]) -> str:
        written = match[0]
        before = json.loads(written) if written.startswith('"') else written
        after = changed(before)
        return written if after == before else json.dumps(after, ensure_ascii=False)

    result.value = changed(value)
    return result


def _is_json(text: str) -> bool:
    """Whether a text is a JSON object or list, in which a mark among escapes or in place of a number would leave none."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.dumps(
            json.loads(text), ensure_ascii=False
        ).encode()  # half of a surrogate pair is no text to look at
    except (ValueError, RecursionError):
        return False
    return True
