"""Rows of a dataset as questions to a model."""

from __future__ import annotations

from typing import Any

from llmops_components.data.content import with_text_content
from llmops_components.data.formats import DatasetFormat, with_our_names
from llmops_components.data.valid_rows import row_problems
from llmops_components.inference.protocols import PROTOCOLS, ProtocolName, Question
from llmops_components.json_text import parse_json

ANSWER, RESPONSE = "answer", "response"
_MORE = ("tools", "chat_template_kwargs")


class RowError(ValueError):
    """A row asks nothing that could be sent."""


def question_of(row: dict[str, Any], protocol: ProtocolName) -> Question:
    """What a row asks: its ``prompt``, text or a conversation, or ``messages`` that end with a question.

    Args:
        row: The row.
        protocol: The protocol that it will be asked in.

    Raises:
        RowError: It asks nothing, or what the protocol does not take.
    """
    row = with_our_names(row)
    field = "messages" if "prompt" not in row and "messages" in row else "prompt"
    if taken := [name for name in (ANSWER, RESPONSE) if name in row]:
        raise RowError(f"{taken[0]} is where the answers are written; rename this column of the dataset")
    prompt = row.get(field)
    is_conversation = isinstance(prompt, list)
    asked = {**row, "prompt": prompt} if field in row else row
    for name, problem in row_problems(asked, DatasetFormat("prompt_only", is_conversation, ("prompt",))):
        raise RowError(f"{field if name == 'prompt' else name} {problem}")
    if not is_conversation:
        assert isinstance(prompt, str)
        return Question(prompt, {})
    if not PROTOCOLS[protocol].takes_conversations:
        raise RowError(
            f"{field} is a conversation, and the protocol {protocol} takes text; ask with openai_chat"
        )
    more = {name: row[name] for name in _MORE if row.get(name) is not None}
    if isinstance(more.get("tools"), str):  # as TRL takes it
        more["tools"] = parse_json(more["tools"])
    return Question(with_text_content(prompt), more)
