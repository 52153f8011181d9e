"""Rows in allowed languages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le, MinLen

from llmops_components.data.languages import (
    CHARACTERS_READ,
    CHARACTERS_TO_TELL,
    PROBABILITY_TO_TELL,
    identifier,
)
from llmops_components.data.preparation.step import KEPT, Dropped, Inputs, Outcome, Row, RowStep
from llmops_components.data.preparation.texts import text_of
from llmops_components.errors import check_known


@dataclass(kw_only=True)
class FilterLanguage(RowStep):
    """Drop rows in other languages, as py3langid tells by the first 2,000 characters.

    Args:
        languages: Codes of ISO 639-1, as ``en``.
        min_probability: Probability from which on a language counts as told.
        min_characters: Texts with fewer are too short to tell.
        undecided: What happens to a row whose language cannot be told.
        fields: The fields to look at; none means those of TRL's formats.
    """

    step: ClassVar[str] = "filter_language"
    libraries: ClassVar[tuple[str, ...]] = ("py3langid",)
    languages: Annotated[tuple[str, ...], MinLen(1)]
    min_probability: Annotated[float, Ge(0), Le(1)] = PROBABILITY_TO_TELL
    min_characters: Annotated[int, Ge(0)] = CHARACTERS_TO_TELL
    undecided: Literal["keep", "drop"] = "keep"
    fields: tuple[str, ...] = ()

    def check(self, inputs: Inputs) -> None:
        check_known(self.languages, identifier().labels, "language")

    def start(self, inputs: Inputs) -> Callable[[Row], Outcome]:
        classify, allowed = identifier().classify, frozenset(self.languages)
        unclear = Dropped("its language cannot be told") if self.undecided == "drop" else KEPT

        def judge(row: Row) -> Outcome:
            text = text_of(row.value, self.fields)[:CHARACTERS_READ]
            if len(text) < self.min_characters:
                return unclear
            language, probability = classify(text)
            if probability < self.min_probability:
                return unclear
            if language in allowed:
                return KEPT
            return Dropped(f"is in the language {language}", round(probability, 4))

        return judge
