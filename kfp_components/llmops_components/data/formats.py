"""The formats that the rows of a dataset may have: what validation and the trainers agree on.

The formats are TRL's (https://huggingface.co/docs/trl/dataset_formats), each with plain text or with chat messages, and
one of our own for evaluation:

====================  ======================================================
language_modeling     ``messages``, or ``text``
prompt_completion     ``prompt``, ``completion``
preference            ``prompt``, ``chosen``, ``rejected``; without ``prompt`` the two share their first messages
unpaired_preference   ``prompt``, ``completion``, ``label``
prompt_only           ``prompt``
evaluation            ``prompt``, ``reference``
====================  ======================================================

Further columns are left alone, but for a few that the trainers read (``tools``, ``chat_template_kwargs``, ``margin``) and
those with pictures or sound, which no trainer here takes.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

from llmops_components.data.content import content_problem, content_text, with_text_content
from llmops_components.data.files import kind_of, raise_problems, usable_lines
from llmops_components.errors import DataError, check_known
from llmops_components.json_text import parse_json

FormatName = Literal[
    "evaluation", "preference", "unpaired_preference", "prompt_completion", "language_modeling", "prompt_only"
]
FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)

_MAX_NAMED = 5
_MESSAGE_FIELDS = ("messages", "prompt", "completion", "chosen", "rejected")
MEDIA_COLUMNS = ("image", "images", "audio", "audios", "video", "videos", "pixel_values")
_LINKED = ("audio", "audios", "video", "videos")
# Names that other projects give to our columns: RAGAS's are read as ours, the others are hinted at.
_RAGAS_NAMES = {"user_input": "prompt", "retrieved_contexts": "contexts"}
_OTHER_NAMES = {
    "prompt": ("question", "instruction", "query", "input", "problem", "source", "context"),
    "completion": ("answer", "output", "response", "target", "solution"),
    "messages": ("conversations", "conversation", "dialog", "dialogue", "chat", "turns"),
    "text": ("content", "document", "body", "article"),
    "chosen": ("accepted", "preferred", "winner"),
    "reference": ("ground_truth", "ground_truths", "expected", "gold"),
}
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


@dataclass(frozen=True)
class DatasetFormat:
    """The format of a whole dataset.

    Args:
        name: TRL's name of the dataset type, or ``evaluation``.
        conversational: Whether the fields hold lists of messages instead of text.
        fields: The fields that each row has to have.
    """

    name: FormatName
    conversational: bool
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({'conversational' if self.conversational else 'plain text'})"


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


def accepted_format(
    source: str | os.PathLike[str], rows: Sequence[dict[str, Any]], formats: Sequence[FormatName]
) -> DatasetFormat:
    """The format of a dataset, once it is known to be one that the caller can use.

    Args:
        source: The dataset, for messages.
        rows: Its rows, or the first of them.
        formats: Formats that the caller can use. ``prompt_only`` takes every dataset whose rows have a prompt.

    Raises:
        DataError: The dataset is in no format or in another one.
    """
    try:
        found = detect_format(rows)
        # A row may have more than a step asks for: a completion beside its prompt, or a reference to compare with.
        to_evaluate = found.name == "prompt_only" or found.name not in formats
        if "evaluation" in formats and to_evaluate and any("reference" in row for row in rows):
            return detect_format(rows, "evaluation")
        if found.name not in formats and "prompt_only" in formats and "prompt" in rows[0]:
            return detect_format(rows, "prompt_only")
    except DataError as error:
        raise DataError(f"{error} Dataset: {os.fspath(source)}.") from None
    if found.name not in formats:
        raise DataError(
            f"The rows are in the format {found} (fields {', '.join(rows[0])}); this step needs "
            f"{' or '.join(formats)}. Dataset: {os.fspath(source)}."
        )
    return found


def detect_format(rows: Sequence[dict[str, Any]], name: str = "auto") -> DatasetFormat:
    """The format that most rows have, so that the others can be told what they lack.

    Args:
        rows: Rows of the dataset.
        name: A format that is already known, or ``auto``.

    Raises:
        DataError: No row has the fields of any format.
        SettingError: ``name`` is not a format.
    """
    if name == "auto":
        names = Counter(filter(None, map(_format_name, rows)))
        others = Counter(filter(None, map(_other_format, rows)))
        if others and sum(others.values()) * 2 >= len(rows):
            raise DataError(f"{others.most_common(1)[0][0]}, which no step here takes.")
        if not names:
            raise DataError(_no_format(rows))
        # On a tie the more demanding format wins: a row that lacks a field is more likely than one with too many.
        name = max(names, key=lambda each: (names[each], -FORMAT_NAMES.index(each)))
    else:
        check_known([name], FORMAT_NAMES, "dataset_format")
    fields = _fields(name, rows)
    styles = Counter(style for row in rows if (style := _is_conversational(row, fields)) is not None)
    return DatasetFormat(name, styles[True] >= max(1, styles[False]), fields)  # type: ignore[arg-type]


def _format_name(row: dict[str, Any]) -> FormatName | None:
    if "chosen" in row or "rejected" in row:
        return "preference"
    if "label" in row and "completion" in row:
        return "unpaired_preference"
    if "completion" in row:
        return "prompt_completion"
    if "prompt" in row and "reference" in row:
        return "evaluation"
    if "messages" in row or "text" in row:
        return "language_modeling"
    if "reference" in row:
        return "evaluation"
    return "prompt_only" if "prompt" in row else None


def _other_format(row: dict[str, Any]) -> str | None:
    """A format of TRL's that none of our trainers takes, as the start of a sentence."""
    if isinstance(row.get("completions"), list) and "labels" in row:
        return "The rows are for stepwise supervision (prompt, completions, labels)"
    if "input_ids" in row and _format_name(row) is None:
        return "The rows are tokenised already (input_ids)"
    return None


def _no_format(rows: Sequence[dict[str, Any]]) -> str:
    fields = [key for key, _ in Counter(key for row in rows for key in row).most_common(8)]
    hints = [f"{field} may be {ours}" for field in fields if (ours := _our_name(field))]
    lists = [name for name, value in rows[0].items() if _is_list_of_objects(value)] if len(rows) == 1 else []
    if lists and not hints:
        return (
            f"The one row holds lists of objects, which may be the rows: {', '.join(lists)}. Write each of them on one line, "
            f"for example with `jq -c '.{lists[0]}[]'`."
        )
    return (
        f"No row has the fields of a known format; fields seen: {', '.join(fields) or 'none'}. "
        + (f"Rename what is meant by other names: {', '.join(hints)}. " if hints else "")
        + "A row needs, for example, prompt and completion; prompt, chosen and rejected; messages; text; or prompt and "
        "reference."
    )


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _our_name(field: str) -> str | None:
    name = field.strip().lower()
    if name in _MESSAGE_FIELDS or name in ("text", "reference"):
        return name
    return next((ours for ours, others in _OTHER_NAMES.items() if name in others), None)


def partly_filled(rows: Sequence[tuple[str, dict[str, Any]]], column: str, why: str) -> str | None:
    """What there is to say of a column that some rows have and others have not; None where all or none have it.

    Args:
        rows: Rows with their names.
        column: The column.
        why: Why it matters.
    """
    lacking = [name for name, row in rows if row.get(column) is None]
    if not lacking or len(lacking) == len(rows):
        return None
    more = f" and {len(lacking) - _MAX_NAMED} more" if len(lacking) > _MAX_NAMED else ""
    return (
        f"{column} is missing in {len(lacking)} of {len(rows)} rows ({', '.join(lacking[:_MAX_NAMED])}{more}); {why}. "
        "Fill the column, or leave it out."
    )


def with_our_names(row: dict[str, Any]) -> dict[str, Any]:
    """A row with RAGAS's names of a prompt and its contexts in place of ours; any other as it is."""
    if "user_input" not in row or "prompt" in row:
        return row
    return {_RAGAS_NAMES.get(name, name): value for name, value in row.items()}


def with_text(row: dict[str, Any], dataset_format: DatasetFormat) -> dict[str, Any]:
    """A valid row whose messages have text as content, in place of parts.

    Args:
        row: A row in which :func:`row_problems` finds nothing.
        dataset_format: The format of its dataset.
    """
    if not dataset_format.conversational:
        return row
    fields = [field for field in dataset_format.fields if field in _MESSAGE_FIELDS]
    return {**row, **{field: with_text_content(row[field]) for field in fields}}


def _fields(name: str, rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    if name == "language_modeling":
        # A row with both is trained on as a conversation: TRL looks at `messages` first.
        return ("messages",) if sum("messages" in row for row in rows) * 2 >= len(rows) else ("text",)
    if name == "preference":
        explicit = sum("prompt" in row for row in rows) * 2 >= len(rows)
        return ("prompt", "chosen", "rejected") if explicit else ("chosen", "rejected")
    return {
        "evaluation": ("prompt", "reference"),
        "unpaired_preference": ("prompt", "completion", "label"),
        "prompt_completion": ("prompt", "completion"),
        "prompt_only": ("prompt",),
    }[name]


def _is_conversational(row: dict[str, Any], fields: Sequence[str]) -> bool | None:
    for field in fields:
        if field in _MESSAGE_FIELDS and isinstance(row.get(field), list | str):
            return isinstance(row[field], list)
    return None


def row_problems(row: dict[str, Any], dataset_format: DatasetFormat) -> list[tuple[str, str]]:
    """What makes a row invalid for a format.

    Args:
        row: The row.
        dataset_format: The format of the dataset that the row belongs to.

    Returns:
        ``(field, problem)`` pairs, for example ``("completion", "is empty")``; none for a valid row.
    """
    problems = [
        (field, problem)
        for field in dataset_format.fields
        for problem in _field_problems(field, row, dataset_format)
    ]
    problems += _column_problems(row, dataset_format)
    if not problems and dataset_format.name == "preference":
        problems = [("rejected", problem) for problem in _pair_problems(row, dataset_format)]
    return problems


def _field_problems(field: str, row: dict[str, Any], dataset_format: DatasetFormat) -> list[str]:
    value = row.get(field)
    if field not in row:
        return ["is missing"]
    if value is None:
        return ["is null"]
    if field == "label":
        return [] if isinstance(value, bool) else [f"is {kind_of(value)}, not true or false"]
    if field in _MESSAGE_FIELDS and dataset_format.conversational:
        return _message_problems(field, value, dataset_format)
    if not isinstance(value, str):
        return [f"is {kind_of(value)}, not text"]
    if field in _MESSAGE_FIELDS and _MESSAGES_AS_TEXT.match(value):
        return ["is a list of messages written as text; write it as a list of objects with role and content"]
    return [] if value.strip() else ["is empty"]


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


def _message_problems(field: str, value: Any, dataset_format: DatasetFormat) -> list[str]:
    if not isinstance(value, list):
        return [f"is {kind_of(value)}, not a list of messages"]
    if not value:
        return ["is empty"]
    if all(isinstance(each, str) for each in value):
        return [
            "is a list of texts, not of messages; a row of plain text has one text, so write a row for each"
        ]
    problems = [
        problem if len(value) == 1 else f"message {i} {problem}"
        for i, message in enumerate(value, start=1)
        if (problem := _one_message_problem(message))
    ]
    return problems or _order_problems(field, value, dataset_format)


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
    return None if content_text(content).strip() or calls else "is empty"


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
