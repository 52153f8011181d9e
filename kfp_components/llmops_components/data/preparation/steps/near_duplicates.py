"""Rows that nearly repeat another one, and rows of evaluation sets in training data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from llmops_components.data.files import numbered_rows
from llmops_components.data.preparation.row import Row
from llmops_components.data.preparation.spool import Keys, Rows
from llmops_components.data.preparation.step import Dropped, Inputs, Verdict, WholeStep
from llmops_components.data.preparation.texts import texts_of
from llmops_components.errors import SettingError

EVALUATION = "evaluation"


def _key(value: dict[str, Any], fields: tuple[str, ...]) -> bytes:
    return json.dumps(list(texts_of(value, fields)), ensure_ascii=False).encode()


@dataclass(kw_only=True)
class DropNearDuplicates(WholeStep):
    """Drop rows that are as similar as the threshold to an earlier one that stays; the ledger names it, and how similar they are.

    Args:
        threshold: Jaccard similarity of the two rows' sequences of words.
        recall: The share of pairs just at the threshold that are to be found.
        shingle_words: Words of a sequence; in scripts without spaces characters.
        template_rows: A sequence that stands in more rows than this is a template's: rows have to be alike in the rest as
            well. None where there are no templates.
        comparisons: Rows that one row is compared with at most; what was not compared is said.
        seed: Of the hashes.
        fields: The fields to compare; none means those of TRL's formats.
        within: ``all`` compares across data sets, ``source`` within each of them alone.
    """

    step: ClassVar[str] = "drop_near_duplicates"
    threshold: Annotated[float, Ge(0.3), Le(0.99)] = 0.8
    recall: Annotated[float, Ge(0.5), Le(0.999)] = 0.95
    shingle_words: Annotated[int, Ge(1), Le(50)] = 5
    template_rows: Annotated[int, Ge(2)] | None = 100
    comparisons: Annotated[int, Ge(1), Le(10_000)] = 32
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 42
    fields: tuple[str, ...] = ()
    within: Literal["all", "source"] = "all"

    def __post_init__(self) -> None:
        from llmops_components.data.dedup.bands import bands_for

        bands_for(self.threshold, self.recall)

    def start(self, inputs: Inputs) -> Callable[[Row], bytes]:
        def key(row: Row) -> bytes:
            source = row.source if self.within == "source" else ""
            return source.encode() + b"\0" + _key(row.value, self.fields)

        return key

    def decide(self, keys: Keys, rows: Rows) -> Mapping[int, Verdict]:
        from llmops_components.data.dedup.near import NearSettings, find_near_duplicates

        settings = NearSettings(
            threshold=self.threshold,
            recall=self.recall,
            shingle_tokens=self.shingle_words,
            template_rows=self.template_rows,
            comparisons=self.comparisons,
            seed=self.seed,
        )
        found = find_near_duplicates(_documents(keys), keys.directory, settings)
        if found.pairs_not_compared:
            print(
                f"{self.step}: {found.rows_not_fully_compared:,} rows that stay were not compared with all that may be like them: "
                f"{found.pairs_not_compared:,} pairs at most, since comparisons is {self.comparisons}.",
                flush=True,
            )
        return {
            each.row: Dropped("nearly repeats another row", kept=each.kept, similarity=each.similarity)
            for each in found.duplicates
        }


def _documents(keys: Keys) -> Iterator[list[tuple[str, str]]]:
    for key in keys:
        source, _, texts = key.partition(b"\0")
        name = source.decode()
        yield [(f"{name}\0{field}", text) for field, text in json.loads(texts)]


@dataclass(kw_only=True)
class DropContaminated(WholeStep):
    """Drop rows that have words of an evaluation row; the ledger names that row.

    The evaluation set comes with the call as ``evaluation``. The score is the share of its row's sequences of words.

    Args:
        words: Words of a sequence, GPT-3's 13; in scripts without spaces characters.
        least_words: A text of the evaluation set with fewer is not looked for.
        common_rows: A sequence that stands in more rows than this is a phrase, as GPT-3 has it; None where all count.
        least_overlap: Share from which on a row is dropped; 0 for a single sequence.
        fields: The fields to compare, of both; none means those of TRL's formats.
    """

    step: ClassVar[str] = "drop_contaminated"
    words: Annotated[int, Ge(2), Le(100)] = 13
    least_words: Annotated[int, Ge(1)] = 8
    common_rows: Annotated[int, Ge(1)] | None = 10
    least_overlap: Annotated[float, Ge(0), Le(1)] = 0.0
    fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.least_words > self.words:
            raise SettingError(f"least_words is {self.least_words}, more than words, which is {self.words}.")

    def check(self, inputs: Inputs) -> None:
        if EVALUATION not in inputs:
            raise SettingError("rows are compared with an evaluation set: give evaluation.")
        self._evaluation = inputs[EVALUATION]

    def start(self, inputs: Inputs) -> Callable[[Row], bytes]:
        return lambda row: _key(row.value, self.fields)

    def decide(self, keys: Keys, rows: Rows) -> Mapping[int, Verdict]:
        from llmops_components.data.dedup.contamination import OverlapSettings, find_overlaps

        settings = OverlapSettings(
            words=self.words,
            least_words=self.least_words,
            common_rows=self.common_rows,
            least_overlap=self.least_overlap,
        )
        numbers: list[int] = []
        found = find_overlaps(
            ([text for _, text in json.loads(key)] for key in keys),
            self._evaluation_texts(numbers),
            keys.directory,
            settings,
        )
        if found.evaluation_rows_too_short:
            print(
                f"{self.step}: {found.evaluation_rows_too_short:,} of {found.evaluation_rows:,} evaluation rows were not looked "
                f"for, since their texts have fewer than {self.least_words} words.",
                flush=True,
            )
        return {
            each.row: Dropped(
                "has words of an evaluation row",
                each.share,
                evaluation_row_id=f"{EVALUATION}:{numbers[each.evaluation]}",
            )
            for each in found.found
        }

    def _evaluation_texts(self, numbers: list[int]) -> Iterator[list[str]]:
        for number, row in numbered_rows(self._evaluation, "The evaluation set cannot be compared with:"):
            numbers.append(number)
            yield [text for _, text in texts_of(row, self.fields)]
