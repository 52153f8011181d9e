"""Rows with personal data, and toxic ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from llmops_components.data.languages import language_of
from llmops_components.data.preparation.records import SOURCE_ROW_ID
from llmops_components.data.preparation.row import Row
from llmops_components.data.preparation.step import KEPT, Changed, Dropped, Inputs, Outcome, RowStep
from llmops_components.data.preparation.texts import text_of, texts_of
from llmops_components.data.privacy.kinds import USUAL, USUAL_REGIONS, check_kinds, check_regions
from llmops_components.data.privacy.standins import key_in, masked, pseudonyms
from llmops_components.errors import SettingError

_DIGITS = 4  # of a score that is told


@dataclass(kw_only=True)
class RedactPersonalData(RowStep):
    """Find personal data in every text of a row, wherever it stands, and drop the row, mask it, or put stand-ins in its place.

    The ledger says what kinds were found and never what. A row that is dropped is not in the ledger.

    Args:
        action: ``mask`` writes the kind, ``<EMAIL_ADDRESS>``; ``pseudonym`` a stand-in that is the same wherever the value is;
            ``drop`` drops the row.
        kinds: What is looked for.
        phone_regions: Whose phone numbers are found without a country's code.
        key_variable: Of ``pseudonym``: the environment variable with the key, where the step runs.
    """

    step: ClassVar[str] = "redact_personal_data"
    action: Literal["mask", "pseudonym", "drop"] = "mask"
    kinds: tuple[str, ...] = USUAL
    phone_regions: tuple[str, ...] = USUAL_REGIONS
    key_variable: str | None = None

    def __post_init__(self) -> None:
        check_kinds(self.kinds)
        check_regions(self.phone_regions)
        if (self.action == "pseudonym") is not (self.key_variable is not None):
            raise SettingError(
                "stand-ins need a key: give key_variable, the name of the environment variable that holds it."
                if self.action == "pseudonym"
                else f"key_variable is of the action pseudonym alone, and this one is {self.action}."
            )

    def check(self, inputs: Inputs) -> None:
        if self.key_variable is not None:
            key_in(self.key_variable)

    def start(self, inputs: Inputs) -> Callable[[Row], Outcome]:
        from llmops_components.data.privacy.detect import detector
        from llmops_components.data.privacy.rows import search

        find = detector(self.kinds, self.phone_regions)
        instead = masked if self.key_variable is None else pseudonyms(self.key_variable, self.phone_regions)

        def judge(row: Row) -> Outcome:
            texts = {name: each for name, each in row.value.items() if name != SOURCE_ROW_ID}
            try:
                found = search(texts, find, instead)
            except TimeoutError:
                return Dropped("takes too long to be searched for personal data", withheld=True)
            if not found.kinds:
                return KEPT
            if self.action == "drop":
                return Dropped(
                    f"has personal data: {', '.join(sorted(found.kinds))}", found.score, withheld=True
                )
            counts = ", ".join(f"{kind} ({count})" for kind, count in sorted(found.kinds.items()))
            return Changed({**row.value, **found.value}, f"personal data replaced: {counts}", found.score)

        return judge


@dataclass(kw_only=True)
class FilterToxicity(RowStep):
    """Drop rows with a toxic text, as hatesonar's small model of English tweets tells; it knows no other language.

    Args:
        max_score: Score from 0 to 1 above which a row is dropped: that of its most toxic text, in parts of 50 words.
        other_languages: What happens to a row in another language, as py3langid tells, which is not judged.
        fields: The fields to look at; none means those of TRL's formats.
    """

    step: ClassVar[str] = "filter_toxicity"
    max_score: Annotated[float, Ge(0), Le(1)] = 0.9
    other_languages: Literal["keep", "drop"] = "keep"
    fields: tuple[str, ...] = ()

    def start(self, inputs: Inputs) -> Callable[[Row], Outcome]:
        from llmops_components.data.toxicity import toxicity

        model = toxicity()

        def judge(row: Row) -> Outcome:
            if (language := language_of(text_of(row.value, self.fields))) not in ("en", None):
                return KEPT if self.other_languages == "keep" else Dropped(f"is in the language {language}")
            score = max((model.score(text) for _, text in texts_of(row.value, self.fields)), default=0.0)
            return (
                Dropped(f"more toxic than {self.max_score}", round(score, _DIGITS))
                if score > self.max_score
                else KEPT
            )

        return judge
