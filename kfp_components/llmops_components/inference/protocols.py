"""The protocols that served models speak: how a question is put, and where in the reply its answer stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import quote

from llmops_components.state_files import why_unusable

ProtocolName = Literal["openai_chat", "openai_completions", "openai", "v1", "v2"]
PROTOCOL_NAMES: tuple[ProtocolName, ...] = get_args(ProtocolName)
# What a question, or the protocol itself, says: no setting may say it, too.
_OF_OPENAI = frozenset({"model", "stream", "stream_options"})
_MAX_SHOWN = 200


@dataclass(frozen=True)
class Question:
    """What a model is asked.

    Args:
        prompt: Text, or a conversation.
        more: What else a conversation has: ``tools``, ``chat_template_kwargs``.
    """

    prompt: str | list[dict[str, Any]]
    more: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a model answered.

    Args:
        value: Its text, or whatever else a model of KServe's predicts; None beside tool calls.
        finish_reason: Why it ended there, in the server's word.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        tool_calls: Functions that the model wants called.
        kept: What else was asked to be kept of the reply, by name.
    """

    value: Any
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tool_calls: list[Any] | None = None
    kept: Mapping[str, Any] | None = None


class NotAnAnswerError(ValueError):
    """A reply is JSON, and no answer of the protocol."""


class DeclinedAnswerError(NotAnAnswerError):
    """The model declines to answer, in the place that the protocol has for it."""


class Protocol:
    """How one protocol asks for one answer."""

    takes_conversations = False
    reserved = _OF_OPENAI

    def of(self, question: Question) -> Protocol:
        """The protocol in which a question is put.

        Args:
            question: The question.
        """
        return self

    def path(self, model_name: str) -> str:
        """Where questions are sent, below the service's address.

        Args:
            model_name: Name of the model.
        """
        raise NotImplementedError

    def body(self, model_name: str, question: Question, request: Mapping[str, Any]) -> dict[str, Any]:
        """What is sent.

        Args:
            model_name: Name of the model.
            question: The question.
            request: Further settings.
        """
        raise NotImplementedError

    def answer(self, reply: Any) -> Answer:
        """The answer in a reply.

        Args:
            reply: The reply's JSON.

        Raises:
            NotAnAnswerError: It has none.
        """
        try:
            found = self._read(reply)
        except (LookupError, TypeError, AttributeError):
            raise NotAnAnswerError(
                f"the reply is no answer of this protocol: {reply!r:.{_MAX_SHOWN}}"
            ) from None
        if why := why_unusable([found.value, found.tool_calls, found.finish_reason]):
            raise NotAnAnswerError(f"the answer cannot be written down: {why}")
        return found

    def _read(self, reply: Any) -> Answer:
        raise NotImplementedError


class _OpenAI(Protocol):
    """One choice of OpenAI's API."""

    route: str

    def path(self, model_name: str) -> str:
        return self.route

    def _read(self, reply: Any) -> Answer:
        (choice,) = _list(reply["choices"])
        usage = reply.get("usage") or {}
        value, calls = self._value(choice)
        return Answer(
            value=value,
            finish_reason=_text_or_none(choice.get("finish_reason")),
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
            tool_calls=calls,
        )

    def _value(self, choice: dict[str, Any]) -> tuple[str | None, list[Any] | None]:
        raise NotImplementedError


class _OpenAIChat(_OpenAI):
    takes_conversations = True
    reserved = _OF_OPENAI | {"messages"}
    route = "/chat/completions"

    def body(self, model_name: str, question: Question, request: Mapping[str, Any]) -> dict[str, Any]:
        prompt = question.prompt
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return {"model": model_name, "messages": messages, **request, **question.more}

    def _value(self, choice: dict[str, Any]) -> tuple[str | None, list[Any] | None]:
        message = choice["message"]
        text, calls = message.get("content"), message.get("tool_calls") or None
        if calls is not None:
            _list(calls)
        if text is None and calls is None:
            if isinstance(refusal := message.get("refusal"), str):
                raise DeclinedAnswerError(f"the model declines to answer: {refusal:.{_MAX_SHOWN}}")
            raise LookupError
        return (text if text is None else _text(text)), calls


class _OpenAICompletions(_OpenAI):
    reserved = _OF_OPENAI | {"prompt"}
    route = "/completions"

    def body(self, model_name: str, question: Question, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": model_name, "prompt": question.prompt, **request}

    def _value(self, choice: dict[str, Any]) -> tuple[str | None, list[Any] | None]:
        return _text(choice["text"]), None


class _OpenAIAsItStands(_OpenAI):
    """A conversation as one, a text as a text to go on with: what ``evaluate_model`` gives a model to read, too."""

    takes_conversations = True
    reserved = _OpenAIChat.reserved | _OpenAICompletions.reserved
    route = ""

    def of(self, question: Question) -> Protocol:
        return PROTOCOLS["openai_completions" if isinstance(question.prompt, str) else "openai_chat"]


class _OpenAIEmbeddings(Protocol):
    """A text as numbers."""

    reserved = _OF_OPENAI | {"input"}

    def path(self, model_name: str) -> str:
        return "/embeddings"

    def body(self, model_name: str, question: Question, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": model_name, "input": question.prompt, "encoding_format": "float", **request}

    def _read(self, reply: Any) -> Answer:
        (found,) = _list(reply["data"])
        numbers = [float(each) for each in _list(found["embedding"])]
        if not numbers or not all(map(math.isfinite, numbers)):
            raise LookupError
        return Answer(numbers, prompt_tokens=_count((reply.get("usage") or {}).get("prompt_tokens")))


class _V1(Protocol):
    """KServe's first protocol. https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol"""

    reserved = frozenset({"instances", "prompt"})

    def path(self, model_name: str) -> str:
        return f"/v1/models/{quote(model_name, safe='/')}:predict"

    def body(self, model_name: str, question: Question, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"instances": [question.prompt]} | ({"parameters": dict(request)} if request else {})

    def _read(self, reply: Any) -> Answer:
        (value,) = _list(reply["predictions"])
        return Answer(value)


class _V2(Protocol):
    """The Open Inference Protocol. https://github.com/kserve/open-inference-protocol"""

    reserved = frozenset({"inputs", "outputs", "binary_data_output"})

    def path(self, model_name: str) -> str:
        return f"/v2/models/{quote(model_name, safe='/')}/infer"

    def body(self, model_name: str, question: Question, request: Mapping[str, Any]) -> dict[str, Any]:
        tensor = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": [question.prompt]}
        return {"inputs": [tensor]} | ({"parameters": dict(request)} if request else {})

    def _read(self, reply: Any) -> Answer:
        values = {output["name"]: _tensor(output) for output in _list(reply["outputs"])}
        if not values:
            raise LookupError
        return Answer(next(iter(values.values())) if len(values) == 1 else values)


def _tensor(output: dict[str, Any]) -> Any:
    """What an output holds for the one question: its only element, or all of them."""
    data = _list(output["data"])
    if math.prod(output["shape"]) == len(data) == 1:
        return data[0]
    return data[0] if len(data) == 1 and isinstance(data[0], list) else data


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**53 else None


PROTOCOLS: dict[ProtocolName, Protocol] = {
    "openai_chat": _OpenAIChat(),
    "openai_completions": _OpenAICompletions(),
    "openai": _OpenAIAsItStands(),
    "v1": _V1(),
    "v2": _V2(),
}
OPENAI_EMBEDDINGS: Protocol = _OpenAIEmbeddings()  # of a text there is no answer, so it is none of those
