"""Rows by published rules on the quality of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import MinLen

from llmops_components.data.preparation.step import KEPT, Changed, Dropped, Inputs, Outcome, Row, RowStep
from llmops_components.data.preparation.texts import text_of, with_texts
from llmops_components.data.quality import c4, fineweb, gopher
from llmops_components.data.quality.rules import Rule, limits_of
from llmops_components.data.quality.words import PlainSplitter, SpacySplitter, Splitter, Text
from llmops_components.errors import SettingError

_SETS: dict[str, Sequence[Rule]] = {"gopher": gopher.QUALITY, "c4": c4.RULES, "fineweb": fineweb.RULES}
_PLAIN = PlainSplitter()  # one for all steps: the next one asks for the words of the same text
_KNOWN = [rule for rules in _SETS.values() for rule in rules]


def _splitter(words: str, language: str) -> Splitter:
    return SpacySplitter(language) if words == "spacy" else _PLAIN


def _judge(
    rules: Sequence[tuple[Rule, float]], splitter: Splitter, fields: Sequence[str]
) -> Callable[[Row], Dropped | None]:
    def judge(row: Row) -> Dropped | None:
        text = Text(text_of(row.value, fields), splitter)
        if not text.text.strip():
            return Dropped("has no text")
        for rule, limit in rules:
            if (value := rule.breaks(text, limit)) is not None:
                return Dropped(rule.reason(limit), round(value, 6))
        return None

    return judge


@dataclass(kw_only=True)
class FilterQuality(RowStep):
    """Drop rows whose text breaks a rule of Gopher, C4 or FineWeb. The rules are made for web pages in English.

    Args:
        rules: Whose rules, in the order in which they are looked at.
        limits: Limits by rule in place of those that were published; None leaves a rule out.
        remove_lines: Whether lines that C4 does not take are removed from the rows that stay, as C4 does.
        words: What counts as a word: ``plain`` goes by letters and marks; ``spacy`` splits as FineWeb's authors do, ten times as
            slow.
        language: Of spaCy's rules.
        fields: The fields to look at, all their texts as one; none means those of TRL's formats.
    """

    step: ClassVar[str] = "filter_quality"
    rules: Annotated[tuple[Literal["gopher", "c4", "fineweb"], ...], MinLen(1)] = ("gopher", "fineweb")
    limits: dict[str, float | None] = field(default_factory=dict)
    remove_lines: bool = False
    words: Literal["plain", "spacy"] = "plain"
    language: str = "en"
    fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.remove_lines and "c4" not in self.rules:
            raise SettingError("remove_lines removes what C4 does not take: add c4 to rules.")
        self._rules()

    def _rules(self) -> list[tuple[Rule, float]]:
        return limits_of([rule for name in self.rules for rule in _SETS[name]], self.limits, _KNOWN)

    def check(self, inputs: Inputs) -> None:
        _splitter(self.words, self.language)

    def start(self, inputs: Inputs) -> Callable[[Row], Outcome]:
        judge = _judge(self._rules(), _splitter(self.words, self.language), self.fields)

        def outcome(row: Row) -> Outcome:
            if (dropped := judge(row)) is not None:
                return dropped
            if not self.remove_lines:
                return KEPT
            value = with_texts(row.value, lambda text: "\n".join(c4.remains(text).lines), self.fields)
            return KEPT if value is row.value else Changed(value, "lines that C4 does not take were removed")

        return outcome


@dataclass(kw_only=True)
class FilterRepetition(RowStep):
    """Drop rows whose text repeats itself, by Gopher's rules.

    Args:
        limits: Limits by rule in place of those that were published; None leaves a rule out.
        words: As of ``filter_quality``.
        language: Of spaCy's rules.
        fields: The fields to look at, all their texts as one; none means those of TRL's formats.
    """

    step: ClassVar[str] = "filter_repetition"
    limits: dict[str, float | None] = field(default_factory=dict)
    words: Literal["plain", "spacy"] = "plain"
    language: str = "en"
    fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._rules()

    def _rules(self) -> list[tuple[Rule, float]]:
        return limits_of(gopher.REPETITION, self.limits, gopher.REPETITION)

    def check(self, inputs: Inputs) -> None:
        _splitter(self.words, self.language)

    def start(self, inputs: Inputs) -> Callable[[Row], Outcome]:
        judge = _judge(self._rules(), _splitter(self.words, self.language), self.fields)
        return lambda row: judge(row) or KEPT
