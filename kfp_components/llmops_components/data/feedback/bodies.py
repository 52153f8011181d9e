"""Bodies of OpenAI's API as a log keeps them: what was asked, and what was answered.

The forms are those of chat completions and of completions
(https://platform.openai.com/docs/api-reference/chat), a stream of their events included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmops_components.data.content import content_problem, content_text
from llmops_components.data.feedback.times import time_of
from llmops_components.data.lines import kind_of
from llmops_components.json_text import parse_json

ROLES = ("system", "developer", "user", "assistant")
# With them an answer is more, or less, than what follows the prompt.
_NOT_TAKEN = ("tools", "functions", "suffix", "echo", "chat_template_kwargs", "documents")
_DONE = "[DONE]"


class UnreadableBodyError(ValueError):
    """A body is none of OpenAI's, or has what no row is made of; goes on from the name of the line."""


@dataclass(frozen=True)
class Answer:
    """One answer to a request.

    Args:
        text: What it says; None where it is no text.
        finish_reason: Why it ended there, in the server's word.
    """

    text: str | None
    finish_reason: str | None = None


@dataclass(frozen=True)
class Reply:
    """What a service sent back.

    Args:
        answers: The answers, by the index of their choice.
        id: The reply's id.
        model: Name of the model.
        time: When it was made.
    """

    answers: tuple[Answer, ...]
    id: str | None = None
    model: str | None = None
    time: datetime | None = None


def prompt_of(body: Mapping[str, Any]) -> str | list[dict[str, str]]:
    """What a request asks: text, or messages with role and text.

    Args:
        body: The request's body, or a record that has the same fields.

    Raises:
        UnreadableBodyError: It has neither, or asks for what no row is made of.
    """
    if taken := next((name for name in _NOT_TAKEN if body.get(name)), None):
        raise UnreadableBodyError(f"asks with {taken}, of which no row is made")
    if "messages" not in body:
        prompt = body.get("prompt")
        if isinstance(prompt, list) and prompt and all(isinstance(each, Mapping) for each in prompt):
            return _messages(prompt)
        if not isinstance(prompt, str) or not prompt:
            raise UnreadableBodyError("has neither messages nor a prompt that is text")
        return prompt
    return _messages(body["messages"])


def _messages(given: Any) -> list[dict[str, str]]:
    if not isinstance(given, list) or not given:
        raise UnreadableBodyError("has messages that are no list of messages")
    messages = [_message(number, each) for number, each in enumerate(given, start=1)]
    if messages[-1]["role"] == "assistant":
        raise UnreadableBodyError("ends with a message of the assistant, which the answer goes on with")
    return messages


def _message(number: int, message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise UnreadableBodyError(f"has {kind_of(message)} as message {number}")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES or message.get("tool_calls"):
        what = "calls of tools" if message.get("tool_calls") else f"the role {role!r:.40}"
        raise UnreadableBodyError(f"has a message with {what} (message {number}), of which no row is made")
    if problem := content_problem(content):
        raise UnreadableBodyError(f"has a message that {problem} (message {number})")
    return {"role": role, "content": content_text(content)}  # type: ignore[arg-type]  # content_problem has looked


def body_in(value: Any) -> Mapping[str, Any]:
    """A body as an object.

    Args:
        value: The object, or its text as JSON.

    Raises:
        UnreadableBodyError: It is neither.
    """
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            raise UnreadableBodyError(
                "has a body that is no JSON, perhaps since the log cut it off"
            ) from None
    if not isinstance(value, Mapping):
        raise UnreadableBodyError(f"has a body that is no object but {kind_of(value)}")
    return value


def reply_in(value: Any) -> Reply:
    """What a response says.

    Args:
        value: The response's body: an object, its text as JSON, or the text of a stream of events.

    Raises:
        UnreadableBodyError: It is no answer.
    """
    if isinstance(value, str) and value.lstrip().startswith(("data:", ":")):
        return _from_events(value)
    body = body_in(value)
    if body.get("error"):
        raise UnreadableBodyError("was answered by an error")
    choices = _choices(body)
    if not choices:
        raise UnreadableBodyError("has a response without choices")
    answers = {_index(choice, place): _answer(choice) for place, choice in enumerate(choices)}
    return _reply(body, answers)


def _choices(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The choices of a body; none where there are none, as in the last event of a stream that tells of its usage."""
    choices = body.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(each, Mapping) for each in choices):
        raise UnreadableBodyError("has choices that are no list of objects")
    return choices


def _index(choice: Mapping[str, Any], place: int) -> int:
    index = choice.get("index", place)
    return index if isinstance(index, int) else place


def _answer(choice: Mapping[str, Any]) -> Answer:
    reason = choice.get("finish_reason")
    message = choice.get("message")
    if not isinstance(message, Mapping):
        return Answer(_text(choice.get("text")), reason)
    if message.get("tool_calls") or message.get("function_call") or message.get("refusal"):
        return Answer(None, reason)
    content = message.get("content")
    return Answer(None if content is None or content_problem(content) else content_text(content), reason)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _from_events(text: str) -> Reply:
    """A stream's answers: its pieces of text put together."""
    first: Mapping[str, Any] | None = None
    texts: dict[int, list[str]] = {}
    ended: dict[int, str | None] = {}
    is_done, has_calls = False, set()
    for line in text.split("\n"):
        name, _, data = line.strip().partition(":")
        if name != "data":
            continue
        if is_done := data.strip() == _DONE:
            break
        event = body_in(data.strip())
        if event.get("error"):
            raise UnreadableBodyError("was answered by an error")
        first = first or event
        for place, choice in enumerate(_choices(event)):
            index, delta = _index(choice, place), choice.get("delta") or {}
            piece = delta.get("content") or choice.get("text") or "" if isinstance(delta, Mapping) else None
            if not isinstance(piece, str):
                raise UnreadableBodyError("has a stream with a piece that is no text")
            texts.setdefault(index, []).append(piece)
            if delta.get("tool_calls") or delta.get("refusal"):
                has_calls.add(index)
            if choice.get("finish_reason"):
                ended[index] = choice["finish_reason"]
    if first is None or not texts or not (is_done or texts.keys() == ended.keys()):
        raise UnreadableBodyError("has a stream that was cut off before its end")
    answers = {
        index: Answer(None if index in has_calls else "".join(pieces), ended.get(index))
        for index, pieces in texts.items()
    }
    return _reply(first, answers)


def _reply(body: Mapping[str, Any], answers: Mapping[int, Answer]) -> Reply:
    if sorted(answers) != list(range(len(answers))):
        raise UnreadableBodyError("has a response whose choices are not numbered from 0")
    try:
        time = time_of(body.get("created") or None)
    except ValueError:
        raise UnreadableBodyError(
            f"has a response with a time that is none: {body.get('created')!r:.40}"
        ) from None
    return Reply(
        tuple(answers[index] for index in range(len(answers))),
        _text(body.get("id")),
        _text(body.get("model")),
        time,
    )
