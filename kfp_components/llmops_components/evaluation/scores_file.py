"""The scores file of another evaluation, read again: what was answered to the same rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from llmops_components.data.content import with_text_content
from llmops_components.data.files import read_rows
from llmops_components.errors import DataError

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
        if isinstance(theirs.get("prompt"), list):  # an earlier release wrote parts as they came
            theirs["prompt"] = with_text_content(theirs["prompt"])
        is_unanswered = "answer" in theirs and theirs["answer"] is None and theirs.get("reason")
        if not isinstance(theirs.get("answer"), str) and not is_unanswered:
            raise DataError(f"Scores {os.fspath(path)}, row {number}: there is no answer. {again}")
        if different := [key for key in KEPT if theirs.get(key) != row.get(key)]:
            raise DataError(
                f"Scores {os.fspath(path)}, row {number}: its {' and '.join(different)} differ from the dataset's. "
                f"{again}"
            )
    return baseline
