"""The scores file of another evaluation, read again: what was answered to the same rows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from llmops_components.data.content import with_text_content
from llmops_components.data.files import read_rows
from llmops_components.errors import DataError
from llmops_components.evaluation.further import FurtherScores, GivenModel, read_models

KEPT = ("prompt", "reference")  # the latter where a metric needs it


def read_baseline(
    path: str | os.PathLike[str] | None, rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The scores of another evaluation of the same rows.

    Args:
        path: The file; None for no other evaluation.
        rows: The rows.

    Raises:
        DataError: It is of other rows, or no such file.
    """
    if path is None:
        return []
    baseline = read_rows(path)
    again = "Pass the scores of an evaluation of the same dataset."
    if len(baseline) != len(rows):
        raise DataError(
            f"Scores {os.fspath(path)} are of {len(baseline)} rows, and the dataset has {len(rows)}. {again}"
        )
    for number, (theirs, row) in enumerate(zip(baseline, rows, strict=True), start=1):
        _check_line(f"Scores {os.fspath(path)}, row {number}", theirs, row, again)
    return baseline


def read_further(further_scores: FurtherScores | None, rows: Sequence[dict[str, Any]]) -> list[GivenModel]:
    """The scores of further models on the same rows, of which some may be missing.

    Args:
        further_scores: The files, by the names of their models.
        rows: The rows.

    Raises:
        SettingError: The names cannot be told apart, or are too many.
        DataError: A file is of other rows, or no such file.
    """
    again = "Give the scores of an evaluation of the same dataset."
    return read_models(further_scores, rows, again, partial(_check_line, again=again))


def _check_line(what: str, theirs: dict[str, Any], row: Mapping[str, Any], again: str) -> None:
    """Raise :class:`DataError` for a line that is not of this row, or has neither an answer nor a reason why there is none."""
    if isinstance(theirs.get("prompt"), list):  # an earlier release wrote parts as they came
        theirs["prompt"] = with_text_content(theirs["prompt"])
    is_unanswered = "answer" in theirs and theirs["answer"] is None and theirs.get("reason")
    if not isinstance(theirs.get("answer"), str) and not is_unanswered:
        raise DataError(f"{what}: there is no answer. {again}")
    if different := [key for key in KEPT if theirs.get(key) != row.get(key)]:
        verb = "differs" if len(different) == 1 else "differ"
        raise DataError(f"{what}: its {' and '.join(different)} {verb} from the dataset's. {again}")
