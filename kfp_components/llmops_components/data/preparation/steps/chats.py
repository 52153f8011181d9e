"""Conversations in the formats that other projects write, as messages.

- ShareGPT: ``{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}``
- Alpaca: ``{"instruction": "...", "input": "...", "output": "..."}``
- OpenAI: ``{"messages": [{"role": "user", "content": [{"type": "text", "text": "..."}]}]}``
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from llmops_components.data.content import content_problem, with_text_content
from llmops_components.data.preparation.step import KEPT, Changed, Dropped, Inputs, Outcome, Row, RowStep

_ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function_response": "tool",
    "observation": "tool",
}
_OPENAI_ROLES = ("system", "developer", "user", "assistant", "tool")
_LISTS = ("messages", "conversations", "conversation")
_ALPACA = ("instruction", "input", "output", "system", "history")


class _Unusable(Exception):
    """Why a row holds no conversation."""


@dataclass(kw_only=True)
class ConvertChat(RowStep):
    """Write conversations as messages with a role and text. A row that holds none is dropped.

    Args:
        chat_format: What the rows are in; ``auto`` looks at each.
        to: ``messages``, or ``prompt_completion``, where the last answer is the completion and what leads to it the prompt.
        system: A system message for conversations that have none.
    """

    step: ClassVar[str] = "convert_chat"
    chat_format: Literal["auto", "sharegpt", "alpaca", "openai"] = "auto"
    to: Literal["messages", "prompt_completion"] = "messages"
    system: str | None = None

    def start(self, inputs: Inputs) -> Callable[[Row], Outcome]:
        def judge(row: Row) -> Outcome:
            try:
                messages, taken = self._messages(row.value)
                new = self._target(messages)
            except _Unusable as error:
                return Dropped(str(error))
            value = {**{name: each for name, each in row.value.items() if name not in taken}, **new}
            return KEPT if value == row.value else Changed(value, "conversation was converted")

        return judge

    def _messages(self, value: dict[str, Any]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
        """The conversation of a row, and the columns that it was in."""
        column = next((name for name in _LISTS if isinstance(value.get(name), list)), None)
        found = self.chat_format
        if found == "auto":
            if column is not None:
                found = "sharegpt" if any(_is_sharegpt(each) for each in value[column]) else "openai"
            elif "instruction" in value:
                found = "alpaca"
            else:
                raise _Unusable("holds no conversation of a known format")
        if found == "alpaca":
            return _of_alpaca(value), _ALPACA
        if column is None:
            raise _Unusable(f"holds no conversation of the format {found}")
        messages = _of_sharegpt(value[column]) if found == "sharegpt" else _of_openai(value[column])
        if found != "sharegpt" or messages[0]["role"] in ("system", "developer"):
            return messages, (column,)
        return [*_of_system(value), *messages], (column, "system")

    def _target(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        if self.system is not None and messages[0]["role"] not in ("system", "developer"):
            messages = [{"role": "system", "content": self.system}, *messages]
        if self.to == "messages":
            return {"messages": messages}
        if messages[-1]["role"] != "assistant" or len(messages) < 2:
            raise _Unusable("does not end with an answer to something")
        return {"prompt": messages[:-1], "completion": messages[-1:]}


def _is_sharegpt(message: Any) -> bool:
    return isinstance(message, dict) and "from" in message and "value" in message


def _of_sharegpt(turns: list[Any]) -> list[dict[str, Any]]:
    messages = []
    for turn in turns:
        if not _is_sharegpt(turn) or not isinstance(turn["value"], str):
            raise _Unusable("has a turn without from and a text as value")
        role = _ROLES.get(str(turn["from"]).strip().lower())
        if role is None:
            raise _Unusable(f"has a turn from {str(turn['from'])[:40]!r}, which is no known role")
        others = {name: each for name, each in turn.items() if name not in ("from", "value")}
        messages.append({"role": role, "content": turn["value"], **others})
    return _some(messages)


def _of_openai(given: list[Any]) -> list[dict[str, Any]]:
    for message in given:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _Unusable("has a message without a role")
        if message["role"] not in _OPENAI_ROLES:
            raise _Unusable(f"has a message from {message['role'][:40]!r}, which is no known role")
        if message.get("content") is None:
            if not message.get("tool_calls"):
                raise _Unusable("has a message without content")
        elif problem := content_problem(message["content"]):
            raise _Unusable(problem)
    return _some(with_text_content(given))


def _of_alpaca(value: dict[str, Any]) -> list[dict[str, Any]]:
    instruction, further, output = (value.get(name) or "" for name in ("instruction", "input", "output"))
    if not all(isinstance(each, str) for each in (instruction, further, output)):
        raise _Unusable("has an instruction, input or output that is no text")
    if not instruction or not output:
        raise _Unusable("has no instruction or no output")
    messages = _of_system(value)
    for turn in value.get("history") or []:
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(each, str) for each in turn):
            raise _Unusable("has a history that is no list of pairs of texts")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    question = f"{instruction}\n\n{further}" if further else instruction
    return [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": output}]


def _of_system(value: dict[str, Any]) -> list[dict[str, Any]]:
    system = value.get("system") or ""
    if not isinstance(system, str):
        raise _Unusable("has a system message that is no text")
    return [{"role": "system", "content": system}] if system else []


def _some(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not messages:
        raise _Unusable("has a conversation without messages")
    return messages
