"""What a rule is, and the rules by name.

A rule measures a text, and says whether that is within its limit. Its name begins with who published it: ``gopher_words_least``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llmops_components.data.quality.words import Text
from llmops_components.errors import SettingError, check_known

Side = Literal["least", "most"]


@dataclass(frozen=True)
class Rule:
    """A rule with its published threshold.

    Args:
        name: Its name.
        measures: What it measures, for a reason: ``words``.
        measure: Measures a text; None where there is nothing to measure.
        side: Whether the limit is the least or the most that a text may have.
        limit: The published threshold.
    """

    name: str
    measures: str
    measure: Callable[[Text], float | None]
    side: Side
    limit: float

    def breaks(self, text: Text, limit: float) -> float | None:
        """What a text measures where it is beyond a limit; None where it keeps to it."""
        value = self.measure(text)
        if value is None:
            return None
        is_beyond = value < limit if self.side == "least" else value > limit
        return float(value) if is_beyond else None

    def reason(self, limit: float) -> str:
        """Why a text is dropped that is beyond a limit."""
        return f"{self.name}: {'less' if self.side == 'least' else 'more'} than {limit:g} {self.measures}"


def limits_of(
    rules: Sequence[Rule], given: Mapping[str, float | None], known: Sequence[Rule]
) -> list[tuple[Rule, float]]:
    """Rules with the limits to keep to.

    Args:
        rules: The rules.
        given: Limits in place of those that were published; None leaves a rule out.
        known: All rules that may be named.

    Raises:
        SettingError: A limit is given for a rule that does not exist or is not in use.
    """
    check_known(given, (rule.name for rule in known), "rule in limits")
    if unused := sorted(set(given) - {rule.name for rule in rules}):
        raise SettingError(f"limits are given for rules that are not in use: {', '.join(unused)}.")
    limits = ((rule, given.get(rule.name, rule.limit)) for rule in rules)
    found = [(rule, limit) for rule, limit in limits if limit is not None]
    if not found:
        raise SettingError("no rule is left: limits leave all of them out.")
    return found
