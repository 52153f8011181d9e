"""What a chat template makes of rows: rows that it refuses, and text of theirs that it leaves out.

A template is a program of the model's authors. Some raise an error at a system message, some leave it out, some drop the
reasoning of an answer or its tool calls; the model then never sees what the row says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmops_components.data.formats import DatasetFormat
from llmops_components.errors import DataError
from llmops_components.json_text import parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MAX_NAMED = 5
_TAKEN = "\0"  # stands where a text was found, so that the next message with the same one needs its own
# What messages may have besides their content, and what it is called.
_EXTRAS = {
    "tool_calls": "tool calls",
    "reasoning_content": "reasoning",
    "reasoning": "reasoning",
    "thinking": "reasoning",
}
_END_OF_REASONING = "</think>"


@dataclass(frozen=True)
class _Conversation:
    """Messages as they are rendered together, each with the field that it comes from and its place there, from 1."""

    messages: list[dict[str, Any]]
    places: list[tuple[str, int]]
    asks: bool = False

    def place(self, i: int) -> str:
        field, number = self.places[i]
        return f"message {number} of {field} ({self.messages[i].get('role')})"


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[dict[str, Any]],
    row: Mapping[str, Any],
    *,
    asks: bool,
    chat_template: str | None = None,
) -> str:
    """Messages as the tokenizer's chat template writes them.

    Args:
        tokenizer: The tokenizer.
        messages: The messages.
        row: The row that they are of, which may have ``tools`` and ``chat_template_kwargs``.
        asks: Whether the start of an answer is written, too.
        chat_template: Another template than the tokenizer's own.

    Raises:
        Exception: Whatever the template raises.
    """
    tools = row.get("tools")
    return str(
        tokenizer.apply_chat_template(
            messages,
            tools=(parse_json(tools) if isinstance(tools, str) else tools) or None,
            tokenize=False,
            add_generation_prompt=asks,
            chat_template=chat_template,
            **(row.get("chat_template_kwargs") or {}),
        )
    )


def render_prompt(tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], number: int) -> str:
    """The prompt of a row with the start of an answer.

    Args:
        tokenizer: The tokenizer.
        row: The row, whose prompt is messages.
        number: Its number, for messages.

    Raises:
        DataError: The template refuses the prompt; names row and message.
    """
    try:
        return render(tokenizer, row["prompt"], row, asks=True)
    except Exception as error:
        what = refusal(tokenizer, dict(row), DatasetFormat("prompt_only", True, ("prompt",)))
        raise DataError(
            f"Row {number}: {what or error}. Correct the row, or use another chat template."
        ) from error


def refusal(
    tokenizer: PreTrainedTokenizerBase,
    row: dict[str, Any],
    dataset_format: DatasetFormat,
    chat_template: str | None = None,
) -> str | None:
    """Why the chat template refuses a row, with the message that it is about; None where it takes it.

    Args:
        tokenizer: The tokenizer.
        row: A valid row with text as content.
        dataset_format: Its format.
        chat_template: Another template than the tokenizer's own.
    """
    for conversation in _conversations(row, dataset_format):
        error = _error_of(tokenizer, conversation.messages, row, conversation.asks, chat_template)
        if error:
            return f"the chat template refuses {_culprit(tokenizer, conversation, row, error, chat_template)}: {error}"
    return None


def _error_of(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[dict[str, Any]],
    row: dict[str, Any],
    asks: bool,
    chat_template: str | None,
) -> str | None:
    try:
        render(tokenizer, messages, row, asks=asks, chat_template=chat_template)
    except Exception as error:  # a template is a program of somebody's, which may raise anything
        text = str(error).strip().rstrip(".")
        return text if type(error).__name__ == "TemplateError" else f"{type(error).__name__}: {text}"
    return None


def _culprit(
    tokenizer: PreTrainedTokenizerBase,
    conversation: _Conversation,
    row: dict[str, Any],
    error: str,
    chat_template: str | None,
) -> str:
    """The message without which the rest is taken, or the first that the same error comes with."""
    messages = conversation.messages
    without = ((i, [*messages[:i], *messages[i + 1 :]]) for i in range(len(messages)) if len(messages) > 1)
    for i, rest in without:
        if _error_of(tokenizer, rest, row, conversation.asks, chat_template) is None:
            return conversation.place(i)
    for i in range(len(messages)):
        if _error_of(tokenizer, messages[: i + 1], row, False, chat_template) == error:
            return conversation.place(i)
    return " and ".join(dict.fromkeys(field for field, _ in conversation.places))


def lost_texts(
    tokenizer: PreTrainedTokenizerBase,
    row: dict[str, Any],
    dataset_format: DatasetFormat,
    chat_template: str | None = None,
) -> list[str]:
    """What of a row does not appear in what the chat template renders.

    Texts are compared without white space, which many templates strip, and as they are or as JSON writes them, as some
    do with the answers of tools.

    Args:
        tokenizer: The tokenizer.
        row: A valid row with text as content, which the template takes.
        dataset_format: Its format.
        chat_template: Another template than the tokenizer's own.

    Returns:
        For example ``the text of message 1 of prompt (system)``.
    """
    lost: dict[str, None] = {}
    for conversation in _conversations(row, dataset_format):

        def rendered(
            messages: list[dict[str, Any]], asks: bool = conversation.asks, row: dict[str, Any] = row
        ) -> str | None:
            try:
                return render(tokenizer, messages, row, asks=asks, chat_template=chat_template)
            except Exception:  # what it refuses it does not leave out
                return None

        messages, whole = conversation.messages, rendered(conversation.messages)
        if whole is None:
            continue
        for i, what in _lost_contents(messages, whole):
            lost[f"the {what} of {conversation.place(i)}"] = None
        for i, message in enumerate(messages):
            for name in [name for name in _EXTRAS if message.get(name)]:
                bare = {key: value for key, value in message.items() if key != name}
                if rendered([*messages[:i], bare, *messages[i + 1 :]]) == whole:
                    lost[f"the {_EXTRAS[name]} of {conversation.place(i)}"] = None
        if row.get("tools") and rendered(messages, row={**row, "tools": None}) == whole:
            lost["the tools"] = None
    return list(lost)


def _lost_contents(messages: Sequence[dict[str, Any]], rendered: str) -> list[tuple[int, str]]:
    left = _squeezed(rendered)
    lost = []
    # The longest first: a short text would else be found inside of a longer one. Of two messages with the same text, the
    # one whose role templates know is the one that is there.
    texts = [
        (i, message["content"])
        for i, message in enumerate(messages)
        if (message.get("content") or "").strip()
    ]
    texts.sort(key=lambda each: (-len(each[1]), messages[each[0]].get("role") not in ("user", "assistant")))
    for i, text in texts:
        after_reasoning = text.rpartition(_END_OF_REASONING)[2]
        if found := _find(text, left):
            left = left.replace(found, _TAKEN, 1)
        elif after_reasoning != text and (found := _find(after_reasoning, left)):
            left = left.replace(found, _TAKEN, 1)
            lost.append((i, "reasoning"))
        else:
            lost.append((i, "text"))
    return sorted(lost)


def _find(text: str, squeezed: str) -> str | None:
    """The form in which a text is there."""
    forms = (text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1])
    return next((form for form in map(_squeezed, forms) if form and form in squeezed), None)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def loss_finding(
    lost: Sequence[tuple[str, Sequence[str]]], looked_at: int, remedy: str = "use another chat template"
) -> str | None:
    """One sentence on all rows that lose text, or None where there is none.

    Args:
        lost: Names of rows and what they lose.
        looked_at: Rows that were compared.
        remedy: What to do besides changing the rows.
    """
    if not lost:
        return None
    named = "; ".join(f"{name}: {', '.join(what)}" for name, what in lost[:_MAX_NAMED])
    more = f"; and {len(lost) - _MAX_NAMED} more" if len(lost) > _MAX_NAMED else ""
    return (
        f"{len(lost)} of {looked_at} rows have text that the chat template leaves out, so that the model never sees it: "
        f"{named}{more}. Change these rows, or {remedy}."
    )


def losses(
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[tuple[str, dict[str, Any]]],
    dataset_format: DatasetFormat,
    chat_template: str | None = None,
) -> list[tuple[str, list[str]]]:
    """The rows that lose text, and what; see :func:`lost_texts`.

    Args:
        tokenizer: The tokenizer.
        rows: Rows with their names.
        dataset_format: Their format.
        chat_template: Another template than the tokenizer's own.
    """
    found = ((name, lost_texts(tokenizer, row, dataset_format, chat_template)) for name, row in rows)
    return [(name, what) for name, what in found if what]


def _conversations(row: dict[str, Any], dataset_format: DatasetFormat) -> list[_Conversation]:
    if not dataset_format.conversational:
        return []
    prompt = row["prompt"] if "prompt" in dataset_format.fields else []
    answers = [
        field for field in ("messages", "completion", "chosen", "rejected") if field in dataset_format.fields
    ]
    asked = [_Conversation(prompt, _places("prompt", prompt), asks=True)] if prompt else []
    whole = [
        _Conversation(prompt + row[field], _places("prompt", prompt) + _places(field, row[field]))
        for field in answers
    ]
    return asked + whole


def _places(field: str, messages: Sequence[Any]) -> list[tuple[str, int]]:
    return [(field, number) for number in range(1, len(messages) + 1)]
