"""Plain numbers on the quality of a sample's texts, and how many of them published rules would drop."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from llmops_components.data.languages import language_of
from llmops_components.data.profile.rows import Sampled
from llmops_components.data.quality import c4, fineweb, gopher
from llmops_components.data.quality.words import PlainSplitter, Text

SHORT, LONG = 20, 20_000
JUDGED_ROWS = 2000  # by the rules, which take some milliseconds for a long text
_CHARACTERS_READ = 20_000
_LANGUAGE_ROWS = 5000
UNTOLD = "cannot be told"


def languages(sample: Sequence[Sampled]) -> dict[str, int]:
    """Rows by language, the most frequent first.

    Args:
        sample: The rows.
    """
    found = Counter(language_of(_text(row)) or UNTOLD for row in sample[:_LANGUAGE_ROWS] if row.texts)
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


def shares(sample: Sequence[Sampled]) -> dict[str, float]:
    """Of rows with text the shares that have something, and the means of what texts consist of.

    Args:
        sample: The rows.
    """
    texts = [_text(row) for row in sample if row.texts]
    if not texts:
        return {}
    kinds = [_kinds(text[:_CHARACTERS_READ]) for text in texts]
    has = {
        "rows_with_repeated_lines": [_repeats_lines(text) for text in texts],
        "rows_with_replacement_characters": ["\ufffd" in text for text in texts],
        "rows_with_control_characters": [has_control for _, _, has_control in kinds],
        f"rows_below_{SHORT}_characters": [len(text) < SHORT for text in texts],
        f"rows_above_{LONG}_characters": [len(text) > LONG for text in texts],
        "mean_share_of_punctuation": [punctuation for punctuation, _, _ in kinds],
        "mean_share_of_digits": [digits for _, digits, _ in kinds],
    }
    return {name: round(sum(values) / len(texts), 6) for name, values in has.items()}


def rules(sample: Sequence[Sampled]) -> dict[str, Any]:
    """How many rows each published rule would drop at its published threshold.

    Args:
        sample: The rows.
    """
    rows, splitter = [row for row in sample if row.texts][:JUDGED_ROWS], PlainSplitter()
    every = (*gopher.QUALITY, *gopher.REPETITION, *c4.RULES, *fineweb.RULES)
    broken: Counter[str] = Counter()
    for row in rows:
        text = Text(_text(row)[:_CHARACTERS_READ], splitter)
        broken.update(rule.name for rule in every if rule.breaks(text, rule.limit) is not None)
    reasons = {rule.name: rule.reason(rule.limit) for rule in every}
    return {
        "rows": len(rows),
        "broken": [
            {"rule": reasons[name], "rows": number}
            for name, number in sorted(broken.items(), key=lambda pair: (-pair[1], pair[0]))
        ],
    }


def _text(row: Sampled) -> str:
    return "\n".join(row.texts.values())


def _repeats_lines(text: str) -> bool:
    lines = [line for line in text.split("\n") if line.strip()]
    return len(set(lines)) < len(lines)


def _kinds(text: str) -> tuple[float, float, bool]:
    """Shares of punctuation and of digits among what is no space, and whether control characters are there."""
    counts = Counter(text)
    by_kind: Counter[str] = Counter()
    for sign, number in counts.items():
        if not sign.isspace():
            by_kind[unicodedata.category(sign)] += number
    total = by_kind.total() or 1
    punctuation = sum(number for kind, number in by_kind.items() if kind[0] in "PS")
    return punctuation / total, by_kind["Nd"] / total, by_kind["Cc"] > 0
