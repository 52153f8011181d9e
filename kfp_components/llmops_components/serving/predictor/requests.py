"""What a request may ask for, in all three protocols: every field is honoured, or refused by its name.

Fields are those of OpenAI's API and of vLLM's extensions to it, by the same names and with the same meaning. Those that
ask for nothing here (who asks, what to bill it to, a default value) are taken; everything else is an error, since an
option that changes nothing looks like one that does not work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from llmops_components.data.content import content_problem, content_text
from llmops_components.serving.http.refusals import RequestError, bad_request
from llmops_components.serving.predictor.batching import Batcher
from llmops_components.serving.predictor.fields import (
    OF_MESSAGES,
    OF_REQUESTS,
    OF_STREAM_OPTIONS,
    refuse_unknown,
)
from llmops_components.serving.predictor.generation import Generation
from llmops_components.serving.predictor.grammars import check_schema
from llmops_components.serving.predictor.messages import Message, NamedTool, Tool, chosen_tool
from llmops_components.serving.predictor.sampling import Sampling
from llmops_components.serving.predictor.settings import CompletionSettings, Settings

_MAX_LOGPROBS = 200_000  # each is about a hundred bytes of JSON

_TEMPLATE_ARGUMENTS = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "messages",
        "raise_exception",
        "return_dict",
        "strftime_now",
        "tokenize",
        "tools",
    }
)


def _prompts(value: Any) -> Any:
    """One prompt or several, each as text or as token ids, as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return value
        if all(_is_token(item) for item in value):
            return [value]
        if all(isinstance(item, list) and item and all(map(_is_token, item)) for item in value):
            return value
    raise ValueError(
        "takes text, a list of texts, a list of token ids, or a list of such lists, none of them empty"
    )


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class ChatRequest(CompletionSettings):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    logprobs: bool | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None  # OpenAI's limit
    tool_choice: Annotated[str | NamedTool | None, BeforeValidator(chosen_tool)] = None
    parallel_tool_calls: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None  # OpenAI's limit

    @property
    def wanted_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def texts(self) -> list[str]:
        """What the messages say, and the tools."""
        said = [content_text(message.content) for message in self.messages if message.content is not None]
        return [*said, *(json.dumps(tool) for tool in self.tools_for_template())]

    def usable_tools(self) -> list[Tool]:
        """The tools that the answer may call."""
        if not self.tools or self.tool_choice == "none":
            return []
        if isinstance(self.tool_choice, NamedTool):
            return [tool for tool in self.tools if tool.function.name == self.tool_choice.function.name]
        return self.tools

    @property
    def must_call(self) -> bool:
        """Whether the answer must call a tool."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    def tools_for_template(self) -> list[dict[str, Any]]:
        """The tools as chat templates take them."""
        return [tool.model_dump(exclude_none=True) for tool in self.tools or [] if self.usable_tools()]

    def check(self) -> None:
        super().check()
        self._check_tools()
        for index, message in enumerate(self.messages):
            where = f"messages[{index}]"
            refuse_unknown(message, OF_MESSAGES, where)
            if message.content is None and not message.tool_calls and message.role != "assistant":
                raise bad_request(
                    f"{where}.content is missing: a {message.role} message needs text.", f"{where}.content"
                )
            problem = None if message.content is None else content_problem(message.content)
            if problem:
                raise bad_request(f"{where} {problem}.", f"{where}.content")
            if message.tool_calls and message.role != "assistant":
                raise bad_request(
                    f"{where}.tool_calls: only an assistant message has tool calls.", f"{where}.tool_calls"
                )
        if self.add_generation_prompt and self.continue_final_message:
            raise bad_request(
                "continue_final_message and add_generation_prompt exclude each other: the answer goes on with the last "
                "message, or begins a new one.",
                "continue_final_message",
            )
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise bad_request(
                f"max_tokens={self.max_tokens} and max_completion_tokens={self.max_completion_tokens} contradict each "
                "other; max_tokens is the old name of the same.",
                "max_tokens",
            )
        if self.top_logprobs and not self.logprobs:
            raise bad_request(
                f"top_logprobs={self.top_logprobs} is for log probabilities: set logprobs to true.",
                "top_logprobs",
            )
        if reserved := sorted(set(self.chat_template_kwargs or {}) & _TEMPLATE_ARGUMENTS):
            raise bad_request(
                f"chat_template_kwargs has {reserved[0]!r}, which is no variable of the template's own.",
                f"chat_template_kwargs.{reserved[0]}",
            )

    def _check_tools(self) -> None:
        tools = self.tools or []
        for index, tool in enumerate(tools):
            refuse_unknown(tool, {}, f"tools[{index}]")
            refuse_unknown(tool.function, {}, f"tools[{index}].function")
        names = [tool.function.name for tool in tools]
        if twice := [name for index, name in enumerate(names) if name in names[:index]]:
            raise bad_request(f"tools has {twice[0]!r} twice.", "tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise bad_request(
                f"tool_choice: there is no tool {self.tool_choice.function.name!r}.", "tool_choice"
            )
        if self.tool_choice == "required" and not tools:
            raise bad_request("tool_choice is 'required', and there are no tools.", "tool_choice")
        if not self.usable_tools():
            return
        check_schema({"tools": [tool.model_dump() for tool in tools]}, "tools")
        for index, tool in enumerate(tools):
            if "x-guidance" in (tool.function.parameters or {}):
                raise bad_request(f"tools[{index}].function.parameters has x-guidance.", "tools")
            if tool.function.strict and not self.must_call:
                raise bad_request(
                    f"tools[{index}].function.strict=true needs a tool_choice of 'required' or of a function: otherwise "
                    "nothing holds the model to the schema.",
                    f"tools[{index}].function.strict",
                    "unsupported_value",
                )
        if self.schema_of_answer() is not None:
            raise bad_request(
                "response_format and tools exclude each other: a call of a tool has another form. Set tool_choice to "
                "'none', or leave response_format out.",
                "response_format",
            )
        if self.must_call:
            self.check_can_end("tool_choice")
        if self.continue_final_message:
            raise bad_request(
                "continue_final_message and tools exclude each other.", "continue_final_message"
            )


class CompletionRequest(CompletionSettings):
    prompt: Annotated[list[str] | list[list[int]], BeforeValidator(_prompts)]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None  # OpenAI's limit

    @property
    def wanted_logprobs(self) -> int | None:
        return self.logprobs


_Asked = TypeVar("_Asked", bound=BaseModel)


def parse(kind: type[_Asked], given: bytes | Mapping[str, Any], where: str = "") -> _Asked:
    """Validate what a client sent.

    Args:
        kind: The request's type.
        given: JSON, or what it says.
        where: Where in the request the fields are.
    """
    try:
        asked = kind.model_validate_json(given) if isinstance(given, bytes) else kind.model_validate(given)
    except ValidationError as error:
        raise _in_own_terms(error, where) from None
    refuse_unknown(asked, OF_REQUESTS, where)
    if isinstance(asked, CompletionSettings):
        if asked.stream_options is not None:
            if not asked.stream:
                raise bad_request("stream_options is for streams: set stream to true.", "stream_options")
            refuse_unknown(asked.stream_options, OF_STREAM_OPTIONS, "stream_options")
        asked.check()
    return asked


def ask(
    batcher: Batcher,
    prompts: list[list[int]],
    asked: Settings,
    *,
    temperature: float = 1.0,
    max_tokens: int | None,
    default_tokens: int | None = None,
    prompt_field: str = "prompt",
    limit_field: str = "max_tokens",
    **more: Any,
) -> list[Generation]:
    """Queue prompts, each as often as the request wants it answered.

    Args:
        batcher: What answers.
        prompts: Token ids of each prompt.
        asked: How to answer.
        temperature: Where the request has none.
        max_tokens: Most tokens of an answer, where the request says so.
        default_tokens: The same where it does not; never more than there is room for, which is the default.
        prompt_field: What the request calls the prompt.
        limit_field: What the request calls the most tokens of an answer.
        more: Settings that stand instead of the request's own.

    Returns:
        The answers to the first prompt, then those to the second, and so on.
    """
    repeated, settings = [], []
    for prompt in prompts:
        room = max(batcher.max_model_len - len(prompt), 1)
        limit = max_tokens or min(default_tokens or room, room)
        for how in asked.samplings(limit, temperature=temperature, vocabulary=batcher.vocabulary, **more):
            repeated.append(prompt)
            settings.append(how)
    _check_logprobs(settings)
    return batcher.submit(repeated, settings, prompt_field=prompt_field, limit_field=limit_field)


def _check_logprobs(settings: list[Sampling]) -> None:
    named = sum(how.max_tokens * (how.logprobs + 1) for how in settings if how.logprobs is not None)
    if named > _MAX_LOGPROBS:
        raise bad_request(
            f"The request asks for up to {named} log probabilities; this server gives {_MAX_LOGPROBS} at once. Ask for "
            "fewer tokens, fewer answers or fewer log probabilities of each.",
            "logprobs",
        )


def _in_own_terms(error: ValidationError, where: str) -> RequestError:
    first = error.errors(include_url=False, include_context=False)[0]
    param = where
    for part in first["loc"]:
        if isinstance(part, int):
            param += f"[{part}]"
        else:
            param += f".{part}" if param else part
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return bad_request(f"The body is not JSON: {message.removeprefix('Invalid JSON: ')}", None)
    if first["type"] == "missing":
        return bad_request(f"{param} is missing.", param)
    return bad_request(f"{param}: {message}" if param else message, param or None)
