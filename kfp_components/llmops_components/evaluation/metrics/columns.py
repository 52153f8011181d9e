"""Columns of rows that metrics need."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmops_components.data.files import raise_problems
from llmops_components.evaluation.metrics.plan import Plan
from llmops_components.evaluation.metrics.registry import RUBRIC_LEVELS
from llmops_components.evaluation.tasks.table import TASKS, settings_of
from llmops_components.json_text import parse_json


def columns_of(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> list[str]:
    """Columns that every row has a value in.

    Args:
        rows: The rows.
        fields: Fields of their format, which all have.
    """
    others = [name for name in rows[0] if name not in fields] if rows else []
    return [*fields, *(name for name in others if all(row.get(name) is not None for row in rows))]


def check_columns(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], plan: Plan) -> None:
    """Raise :class:`DataError` for what is no value of a column that a metric needs; names lines and columns.

    Args:
        path: The dataset.
        rows: Its rows.
        plan: The metrics.
    """
    needed = {column for metric in plan.metrics.values() for column in metric.columns}
    raise_problems(
        path,
        [
            f"line {number}: {column} is {row[column]!r:.60}, and no {what}"
            for number, row in enumerate(rows, start=1)
            for column, (what, is_good) in _KINDS.items()
            if column in needed and column in row and not is_good(row[column])
        ],
    )
    for name, metric in plan.metrics.items():
        if metric.is_task:
            problems = TASKS[name].check(rows, settings_of(name, plan.args.get(name, {})))
            raise_problems(path, [f"line {place + 1}: {problem}" for place, problem in problems])


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_calls(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_call, value))


def _is_call(value: Any) -> bool:
    called = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(called, dict) or not isinstance(called.get("name"), str):
        return False
    args = called.get("arguments", called.get("args", {}))
    if isinstance(args, str):
        try:
            args = parse_json(args)
        except ValueError:
            return False
    return isinstance(args, dict)


def _is_rubric(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and set(value) <= RUBRIC_LEVELS
        and all(map(_is_text, value.values()))
    )


_TEXTS = ("list of texts", _are_texts)
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "reference": ("text", _is_text),
    "retrieved_contexts": _TEXTS,
    "reference_contexts": _TEXTS,
    "reference_topics": _TEXTS,
    "reference_tool_calls": ("list of calls with name and args", _are_calls),
    "rubrics": ("object with a text for each score, score1_description to score5_description", _is_rubric),
}
