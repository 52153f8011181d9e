"""Two models' answers to the same questions, as an evaluation has written them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmops_components.data.files import read_rows
from llmops_components.errors import DataError

_SAME = ("prompt", "reference")
_AGAIN = "Give the scores of two evaluations of the same dataset."


@dataclass(frozen=True)
class Pair:
    """Both answers to one question.

    Args:
        row: Number of the row in the evaluation, from 1.
        prompt: What was asked, text or a conversation.
        candidate: The model's answer; None where it has none.
        baseline: The other one's answer.
        reference: The right answer, where one is known.
    """

    row: int
    prompt: str | list[dict[str, Any]]
    candidate: str | None
    baseline: str | None
    reference: str | None = None

    @property
    def are_both_there(self) -> bool:
        """Whether both have answered."""
        return self.candidate is not None and self.baseline is not None


def read_pairs(scores: str | os.PathLike[str], baseline_scores: str | os.PathLike[str] | None) -> list[Pair]:
    """Read both models' answers.

    Args:
        scores: ``scores`` of an evaluation of the model, or of a comparison of two revisions, which has both answers.
        baseline_scores: ``scores`` of the model that it is compared with; None where the first has both answers.

    Raises:
        DataError: They cannot be read, are of different datasets, or have no answers.
    """
    rows = read_rows(scores)
    theirs = rows if baseline_scores is None else read_rows(baseline_scores)
    field = "baseline_answer" if baseline_scores is None else "answer"
    if len(rows) != len(theirs):
        raise DataError(f"The scores have {len(rows)} rows, those of the baseline {len(theirs)}. {_AGAIN}")
    return [
        _pair(number, row, other, field)
        for number, (row, other) in enumerate(zip(rows, theirs, strict=True), start=1)
    ]


def _pair(number: int, row: Mapping[str, Any], other: Mapping[str, Any], field: str) -> Pair:
    for whose, each, name in (("scores", row, "answer"), ("baseline's scores", other, field)):
        if name not in each or not isinstance(each[name], str | None):
            raise DataError(f"Row {number} of the {whose} has no text as {name}. {_AGAIN}")
    prompt = row.get("prompt")
    if not isinstance(prompt, str) and not _is_conversation(prompt):
        raise DataError(
            f"Row {number} of the scores has no prompt that is text or a conversation. Give the scores of an evaluation."
        )
    if different := [name for name in _SAME if row.get(name) != other.get(name)]:
        raise DataError(f"Row {number}: {' and '.join(different)} of both scores differ. {_AGAIN}")
    reference = row.get("reference")
    return Pair(
        number, prompt, row["answer"], other[field], reference if isinstance(reference, str) else None
    )


def _is_conversation(prompt: Any) -> bool:
    return (
        isinstance(prompt, list)
        and bool(prompt)
        and all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in prompt)
    )
