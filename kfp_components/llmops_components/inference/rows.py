"""Rows of a dataset as questions to a model, and what became of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmops_components.data.content import with_text_content
from llmops_components.data.files import raise_problems
from llmops_components.data.formats import DatasetFormat, with_our_names
from llmops_components.data.lines import Line
from llmops_components.data.valid_rows import row_problems
from llmops_components.errors import check_known
from llmops_components.inference.protocols import PROTOCOL_NAMES, PROTOCOLS, ProtocolName, Question
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


def check_questions(path: str | os.PathLike[str], lines: Sequence[Line], protocol: ProtocolName) -> None:
    """Raise :class:`DataError` for rows that ask nothing: they would count against whoever is asked.

    Args:
        path: The dataset.
        lines: Its lines, each with a row.
        protocol: The protocol that they will be asked in.
    """
    check_known([protocol], PROTOCOL_NAMES, "protocol")
    problems = []
    for line in lines:
        try:
            question_of(line.row or {}, protocol)
        except RowError as error:
            problems.append(f"line {line.number}: {error}")
    raise_problems(path, problems)


def read_outcomes(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a file that ``batch_inference`` has written; answers may have characters that others take for the end of a line.

    Args:
        path: Its answered rows, or the other ones.
    """
    text = Path(path).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def answer_text(answer: Any) -> str:
    """An answer as text: what is none, as what a model of KServe's predicts, is its JSON.

    Args:
        answer: The answer.
    """
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, sort_keys=True)
