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

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from llmops_components.data.content import with_text_content
from llmops_components.errors import DataError, check_known

FormatName = Literal[
    "evaluation", "preference", "unpaired_preference", "prompt_completion", "language_modeling", "prompt_only"
]
FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)
_MAX_NAMED = 5
MESSAGE_FIELDS = ("messages", "prompt", "completion", "chosen", "rejected")
MEDIA_COLUMNS = ("image", "images", "audio", "audios", "video", "videos", "pixel_values")
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
    if name in MESSAGE_FIELDS or name in ("text", "reference"):
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
    fields = [field for field in dataset_format.fields if field in MESSAGE_FIELDS]
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
        if field in MESSAGE_FIELDS and isinstance(row.get(field), list | str):
            return isinstance(row[field], list)
    return None
