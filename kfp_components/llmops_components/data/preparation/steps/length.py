"""Rows of a fitting length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from llmops_components.data.preparation.step import KEPT, Dropped, Inputs, Outcome, Row, RowStep
from llmops_components.data.preparation.texts import texts_of
from llmops_components.errors import SettingError

Length = Annotated[int, Ge(0)]


@dataclass(kw_only=True)
class FilterLength(RowStep):
    """Drop rows that are too short or too long, all their texts together.

    Tokens are those of the model that comes with the call as ``base_model``: of the texts alone, without the chat template.

    Args:
        min_characters: Fewest characters.
        max_characters: Most characters.
        min_words: Fewest words, which whitespace separates.
        max_words: Most words.
        min_tokens: Fewest tokens.
        max_tokens: Most tokens.
        fields: The fields that count; none means those of TRL's formats.
    """

    step: ClassVar[str] = "filter_length"
    min_characters: Length | None = None
    max_characters: Length | None = None
    min_words: Length | None = None
    max_words: Length | None = None
    min_tokens: Length | None = None
    max_tokens: Length | None = None
    fields: tuple[str, ...] = ()

    def _limits(self, what: str) -> tuple[int | None, int | None]:
        return getattr(self, f"min_{what}"), getattr(self, f"max_{what}")

    def __post_init__(self) -> None:
        limits = {what: self._limits(what) for what in ("characters", "words", "tokens")}
        if all(limit is None for pair in limits.values() for limit in pair):
            raise SettingError("no limit is given: set min_characters, max_tokens or another one.")
        for what, (least, most) in limits.items():
            if least is not None and most is not None and least > most:
                raise SettingError(f"min_{what} is {least}, more than max_{what}, which is {most}.")

    def check(self, inputs: Inputs) -> None:
        if self._limits("tokens") != (None, None) and "tokenizer" not in inputs:
            raise SettingError("tokens are those of a model: give base_model, or limit words.")

    def start(self, inputs: Inputs) -> Callable[[Row], Outcome]:
        counts: dict[str, Callable[[str], int]] = {"characters": len, "words": lambda text: len(text.split())}
        if self._limits("tokens") != (None, None):
            tokenizer = inputs["tokenizer"]()
            counts["tokens"] = lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])
        limits = {what: self._limits(what) for what in counts if self._limits(what) != (None, None)}

        def judge(row: Row) -> Outcome:
            texts = [text for _, text in texts_of(row.value, self.fields)]
            for what, (least, most) in limits.items():
                length = sum(map(counts[what], texts))
                if least is not None and length < least:
                    return Dropped(f"fewer {what} than {least}", length)
                if most is not None and length > most:
                    return Dropped(f"more {what} than {most}", length)
            return KEPT

        return judge
