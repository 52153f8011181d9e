"""Whether a row holds what its format says, and files of which every row does."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from llmops_components.data.content import content_problem, content_text
from llmops_components.data.files import raise_problems, usable_lines
from llmops_components.data.formats import (
    FORMAT_NAMES,
    MEDIA_COLUMNS,
    MESSAGE_FIELDS,
    DatasetFormat,
    FormatName,
    accepted_format,
    with_our_names,
    with_text,
)
from llmops_components.data.lines import kind_of
from llmops_components.json_text import parse_json

_EMPTY = "is empty"
_LINKED = ("audio", "audios", "video", "videos")
_ROLE = r"""role['"]\s*:\s*['"](system|developer|user|assistant|tool)['"]"""
_CONTENT = r"""content['"]\s*:\s*("([^"\\]|\\.)*"|'([^'\\]|\\.)*'|null|None)"""
# A first object with a role and what was said, in either order, or ShareGPT's from and value: other lists of objects are
# what an answer may well be.
_MESSAGES_AS_TEXT = re.compile(
    rf"""\s*\[\s*\{{\s*['"]({_ROLE}[^{{}}]*['"](content|tool_calls)['"]\s*:|from['"]\s*:\s*['"]\w[^{{}}]*['"]value['"]\s*:|{_CONTENT}\s*,\s*['"]{_ROLE})""",
    re.DOTALL,
)
# Which role may come after which. A chat template renders other orders too, but wrongly or not at all.
_NEXT_ROLES: dict[str | None, tuple[str, ...]] = {
    None: ("system", "developer", "user"),
    "system": ("user",),
    "developer": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}


def read_valid_rows(
    path: str | os.PathLike[str], formats: Sequence[FormatName] = FORMAT_NAMES
) -> tuple[list[dict[str, Any]], DatasetFormat]:
    """All rows of a dataset of which every row is valid for one of some formats.

    Args:
        path: The dataset file.
        formats: Formats that the caller can use.

    Returns:
        The rows and their format; the content of messages is text.

    Raises:
        DataError: The file cannot be used, is in another format, or has rows that are not valid in it; the message
            names the file, line numbers and fields.
    """
    lines = usable_lines(path)
    rows = [with_our_names(line.row) for line in lines if line.row is not None]
    dataset_format = accepted_format(path, rows, formats)
    raise_problems(
        path,
        [
            f"line {line.number}: {field} {problem}"
            for line, row in zip(lines, rows, strict=True)
            for field, problem in row_problems(row, dataset_format)
        ],
        f"as {dataset_format}",
    )
    return [with_text(row, dataset_format) for row in rows], dataset_format


class RowProblem(NamedTuple):
    """What makes a row invalid for a format.

    Args:
        field: The field, or another column.
        problem: What is wrong with it, for example ``is empty``.
        kind: ``format`` where it is not what the format says, ``empty``, ``turns`` where the roles are in no order,
            ``pair`` where the two answers of a preference do not make one.
    """

    field: str
    problem: str
    kind: Literal["format", "empty", "turns", "pair"] = "format"


def row_problems(row: dict[str, Any], dataset_format: DatasetFormat) -> list[tuple[str, str]]:
    """What makes a row invalid for a format.

    Args:
        row: The row.
        dataset_format: The format of the dataset that the row belongs to.

    Returns:
        ``(field, problem)`` pairs, for example ``("completion", "is empty")``; none for a valid row.
    """
    return [(each.field, each.problem) for each in sorted_problems(row, dataset_format)]


def sorted_problems(row: dict[str, Any], dataset_format: DatasetFormat) -> list[RowProblem]:
    """The same as :func:`row_problems`, each with what kind of problem it is."""
    problems = [
        problem for field in dataset_format.fields for problem in _field_problems(field, row, dataset_format)
    ]
    problems += [RowProblem(*each) for each in _column_problems(row, dataset_format)]
    if not problems and dataset_format.name == "preference":
        problems = [RowProblem("rejected", each, "pair") for each in _pair_problems(row, dataset_format)]
    return problems


def _field_problems(field: str, row: dict[str, Any], dataset_format: DatasetFormat) -> list[RowProblem]:
    value = row.get(field)
    if field not in row:
        return [RowProblem(field, "is missing")]
    if value is None:
        return [RowProblem(field, "is null")]
    if field == "label":
        if isinstance(value, bool):
            return []
        return [RowProblem(field, f"is {kind_of(value)}, not true or false")]
    if field in MESSAGE_FIELDS and dataset_format.conversational:
        return _message_problems(field, value, dataset_format)
    if not isinstance(value, str):
        return [RowProblem(field, f"is {kind_of(value)}, not text")]
    if field in MESSAGE_FIELDS and _MESSAGES_AS_TEXT.match(value):
        what = "is a list of messages written as text; write it as a list of objects with role and content"
        return [RowProblem(field, what)]
    return [] if value.strip() else [RowProblem(field, _EMPTY, "empty")]


def _column_problems(row: dict[str, Any], dataset_format: DatasetFormat) -> list[tuple[str, str]]:
    """Problems with columns that a row need not have."""
    problems = [
        (column, "holds pictures, sound or video; only text is taken here, so leave the column out")
        for column in MEDIA_COLUMNS
        # What is empty is none, and a text beside sound or video, a link to it, is left out by the trainers.
        if (value := row.get(column)) and not (column in _LINKED and isinstance(value, str))
    ]
    checks = {
        **(_PREFERENCE_COLUMNS if dataset_format.name == "preference" else {}),
        **(_CHAT_COLUMNS if dataset_format.conversational else {}),
    }
    return problems + [
        (column, problem)
        for column, check in checks.items()
        if row.get(column) is not None and (problem := check(row[column]))
    ]


def _margin_problem(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"is {kind_of(value)}, not a number"
    return None if math.isfinite(value) else "is not a finite number"


def _tools_problem(value: Any) -> str | None:
    if isinstance(value, str):  # as TRL takes it, since Arrow cannot hold tools of different shapes
        try:
            value = parse_json(value)
        except ValueError:
            return "is text that is not JSON"
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        return "is not a list of objects, each the JSON schema of a function"
    return None


def _template_arguments_problem(value: Any) -> str | None:
    return None if isinstance(value, dict) else f"is {kind_of(value)}, not an object with arguments"


_PREFERENCE_COLUMNS: dict[str, Callable[[Any], str | None]] = {"margin": _margin_problem}
_CHAT_COLUMNS: dict[str, Callable[[Any], str | None]] = {
    "tools": _tools_problem,
    "chat_template_kwargs": _template_arguments_problem,
}


def _message_problems(field: str, value: Any, dataset_format: DatasetFormat) -> list[RowProblem]:
    if not isinstance(value, list):
        return [RowProblem(field, f"is {kind_of(value)}, not a list of messages")]
    if not value:
        return [RowProblem(field, _EMPTY, "empty")]
    if all(isinstance(each, str) for each in value):
        what = (
            "is a list of texts, not of messages; a row of plain text has one text, so write a row for each"
        )
        return [RowProblem(field, what)]
    problems = [
        RowProblem(
            field,
            problem if len(value) == 1 else f"message {i} {problem}",
            "empty" if problem == _EMPTY else "format",
        )
        for i, message in enumerate(value, start=1)
        if (problem := _one_message_problem(message))
    ]
    return problems or [
        RowProblem(field, each, "turns") for each in _order_problems(field, value, dataset_format)
    ]


def _one_message_problem(message: Any) -> str | None:
    if not isinstance(message, dict):
        return f"is {kind_of(message)}, not an object with role and content"
    role, content, calls = (message.get(name) for name in ("role", "content", "tool_calls"))
    if "role" not in message:
        other = next((name for name in ("from", "type") if isinstance(message.get(name), str)), None)
        return f"has no role, but {other} {message[other][:40]!r}; name it role" if other else "has no role"
    if not isinstance(role, str) or role not in _NEXT_ROLES:
        known = ", ".join(role for role in _NEXT_ROLES if role)
        return f"has the role {str(role)[:40]!r} (known: {known})"
    if calls and (problem := _tool_calls_problem(calls)):
        return problem
    if role == "assistant" and calls and content is None:
        return None
    if not isinstance(content, str | list):
        return f"has {kind_of(content)} as content" if "content" in message else "has no content"
    if problem := content_problem(content):
        return problem
    return None if content_text(content).strip() or calls else _EMPTY


def _tool_calls_problem(calls: Any) -> str | None:
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return "has tool_calls that are not a list of objects, each with a function and its name"
    return None


def _order_problems(field: str, messages: list[dict[str, Any]], dataset_format: DatasetFormat) -> list[str]:
    roles = [message["role"] for message in messages]
    # An answer goes on where the prompt ended; every other field is a conversation from its start.
    is_answer = field == "completion" or (
        field in ("chosen", "rejected") and "prompt" in dataset_format.fields
    )
    if is_answer and roles[0] != "assistant":
        return [f"starts with the role {roles[0]}, not assistant"]
    for before, role in pairwise(roles if is_answer else [None, *roles]):
        if role not in _NEXT_ROLES[before]:
            return [f"has the role {role} {f'after {before}' if before else 'at the start'}"]
    if field == "prompt":
        return [] if roles[-1] in ("user", "tool") else [f"ends with the role {roles[-1]}, not user"]
    return [] if roles[-1] == "assistant" else [f"ends with the role {roles[-1]}, not assistant"]


def _pair_problems(row: dict[str, Any], dataset_format: DatasetFormat) -> list[str]:
    row = with_text(row, dataset_format)
    if row["chosen"] == row["rejected"]:
        return ["is the same as chosen"]
    if (
        dataset_format.conversational
        and "prompt" not in dataset_format.fields
        and row["chosen"][0] != row["rejected"][0]
    ):
        return ["does not start with the same message as chosen, so there is no shared prompt"]
    return []
