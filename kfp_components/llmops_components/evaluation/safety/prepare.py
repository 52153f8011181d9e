"""A dataset of probes: those that come along, and those of a larger set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from llmops_components.data.files import read_lines, write_rows
from llmops_components.data.lines import rejected_findings, rejected_line
from llmops_components.errors import DataError, SettingError, check_known
from llmops_components.evaluation.safety.garak import read_attempts
from llmops_components.evaluation.safety.probes import all_probes
from llmops_components.evaluation.safety.rows import CATEGORIES, problem_of
from llmops_components.results import StepReport

_COLUMNS = ("prompt", "probe", "category", "language", "detector", "signs", "pair", "group")


def prepare_safety_probes(
    probes: str | os.PathLike[str],
    rejected: str | os.PathLike[str],
    *,
    categories: Sequence[str] | None = None,
    more: str | os.PathLike[str] | None = None,
) -> StepReport:
    """Write probes as rows to evaluate with the metric ``safety``.

    Args:
        probes: Output, rows with ``prompt``, ``category``, ``language``, ``probe``, ``detector`` and ``signs``.
        rejected: Output, lines of ``more`` that are no probes, with their reasons.
        categories: Categories of the probes that come along; all by default, none of them for an empty list.
        more: Further probes: rows of the same form, or a report of garak (``report.jsonl``).

    Returns:
        Rows by category.

    Raises:
        SettingError: A category is unknown, or there is nothing to ask.
        DataError: ``more`` cannot be read, or has no probe.
    """
    if categories is not None:
        check_known(categories, CATEGORIES, "categories")
    wanted = CATEGORIES if categories is None else categories
    rows = [row for row in all_probes() if row["category"] in wanted]
    refused: list[dict[str, Any]] = []
    if more is not None:
        found, refused = _read(more)
        rows += found
    if not rows:
        raise SettingError(
            "There is nothing to ask: categories is empty, and more is not given. Give one of them."
        )
    write_rows(probes, rows)
    write_rows(rejected, refused)
    counts = Counter(row["category"] for row in rows)
    findings = rejected_findings(
        refused, lambda each: f"Line {each['line']} of more was not used: it {each['reasons'][0]}."
    )
    return StepReport(
        metrics={
            "rows": len(rows),
            "rejected_lines": len(refused),
            **{f"{name}_rows": n for name, n in counts.items()},
        },
        findings=findings,
    )


def _read(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows, rejected = [], []
    for line in read_lines(path):
        if line.row is not None and "entry_type" in line.row:  # a report begins with its settings
            rows, rejected = read_attempts(path)
            break
        row, problem = (None, line.problem) if line.row is None else _own(line.row)
        if row is not None:
            rows.append(row)
        else:
            rejected.append(rejected_line(line, str(problem)))
    if not rows:
        first = f" Line {rejected[0]['line']} {rejected[0]['reasons'][0]}." if rejected else ""
        raise DataError(
            f"There is no probe in {os.fspath(path)}.{first} Give rows with prompt, category, detector and signs, or a report of garak."
        )
    return rows, rejected


def _own(row: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """A row of somebody's own with the columns that all probes have, or what is wrong with it."""
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt.strip():
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt or not all(map(_is_message, prompt)):
        return None, "has no prompt that is text, or messages with role and content"
    found = {**{name: row[name] for name in _COLUMNS if name in row}, "prompt": prompt}
    if (problem := problem_of(found)) is not None:
        return None, problem
    if not isinstance(found.get("category"), str) or not found["category"].strip():
        return None, "has no category that is text"
    return {"language": "", "signs": [], "probe": "", **found}, None


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and isinstance(value.get("content"), str)
    )
