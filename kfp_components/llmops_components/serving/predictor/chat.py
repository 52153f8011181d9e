"""Chat messages as the tokens of a prompt, by the model's own chat template."""

from __future__ import annotations

import difflib
from functools import cached_property
from typing import Any

from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmops_components.serving.http.refusals import RequestError
from llmops_components.serving.predictor.requests import ChatRequest
from llmops_components.serving.predictor.tools import (
    FORMATS,
    PROBE_MESSAGES,
    PROBE_TOOLS,
    ToolFormat,
    format_in,
)


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: The model's tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._variables: dict[str, set[str]] = {}

    def render(self, asked: ChatRequest) -> list[int]:
        """Token ids of the prompt.

        Args:
            asked: The request.
        """
        if not self._tokenizer.chat_template:
            raise RequestError(
                400,
                "This model has no chat template, as base models have none: ask it at /completions with a prompt.",
                param="messages",
                code="no_chat_template",
            )
        arguments = asked.chat_template_kwargs or {}
        tools = asked.tools_for_template() or None
        variables = self._variables_of(tools)
        _check_arguments(arguments, variables)
        if tools and "tools" not in variables:
            raise RequestError(
                400,
                "The model's chat template takes no tools, so the model would not see them. Leave tools out, or serve a "
                "model that was trained to call tools.",
                param="tools",
                code="unsupported_value",
            )
        goes_on = bool(asked.continue_final_message)
        begins = not goes_on if asked.add_generation_prompt is None else asked.add_generation_prompt
        try:
            text = self._tokenizer.apply_chat_template(
                self._messages(asked, tools),
                tools=tools,
                add_generation_prompt=begins,
                continue_final_message=goes_on,
                tokenize=False,
                **arguments,
            )
        except Exception as error:  # templates are the model author's code and raise what they like
            raise RequestError(
                400, f"The model's chat template refused the messages: {error}", param="messages"
            ) from None
        _check_tool_calls(asked, text)
        for tool in tools or []:
            if tool["function"]["name"] not in text:
                raise RequestError(
                    400,
                    f"The model's chat template leaves the tool {tool['function']['name']!r} out, so the model would not "
                    "see it.",
                    param="tools",
                    code="unsupported_value",
                )
        # A template writes the special tokens itself.
        ids: list[int] = self._tokenizer(text, add_special_tokens=bool(asked.add_special_tokens))["input_ids"]
        return ids

    def tool_format(self) -> ToolFormat:
        """How the model writes calls of tools, so that they can be read in its answers."""
        if self._tool_format is None:
            raise RequestError(
                400,
                "The model's chat template writes calls of tools in a form that this server cannot read. Known are those of "
                f"{', '.join(each.family for each in FORMATS)}.",
                param="tools",
                code="unsupported_value",
            )
        return self._tool_format

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the tokens that are left out of texts."""
        found = self._tokenizer.added_tokens_decoder.items()
        return {token.content: number for number, token in found if token.special}

    def _messages(self, asked: ChatRequest, tools: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
        """The messages; those of a developer are a system's where the template does not know one."""
        knows_developers = "developer" in self._tokenizer.get_chat_template(tools=tools)
        messages = [message.for_template() for message in asked.messages]
        if not knows_developers:
            for message in messages:
                message["role"] = "system" if message["role"] == "developer" else message["role"]
        return messages

    @cached_property
    def _tool_format(self) -> ToolFormat | None:
        try:
            text = self._tokenizer.apply_chat_template(PROBE_MESSAGES, tools=PROBE_TOOLS, tokenize=False)
        except Exception:  # templates are the model author's code and raise what they like
            return None
        return format_in(text)

    def _variables_of(self, tools: list[dict[str, Any]] | None) -> set[str]:
        """Names that the template reads and does not set."""
        template = self._tokenizer.get_chat_template(tools=tools)
        if template not in self._variables:
            environment = ImmutableSandboxedEnvironment(
                extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
            )
            self._variables[template] = meta.find_undeclared_variables(environment.parse(template))
        return self._variables[template]


def _check_arguments(arguments: dict[str, Any], variables: set[str]) -> None:
    for name in arguments:
        if name not in variables:
            near = difflib.get_close_matches(name, variables, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise RequestError(
                400,
                f"chat_template_kwargs: this model's chat template has no variable {name!r}.{hint}",
                param=f"chat_template_kwargs.{name}",
                code="unknown_parameter",
            )


class _GenerationTag(Extension):
    """Transformers' tag around what an assistant says; nothing but its inside matters here."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _check_tool_calls(asked: ChatRequest, text: str) -> None:
    for index, message in enumerate(asked.messages):
        for call in message.tool_calls or []:
            name = str((call.get("function") or {}).get("name", ""))
            if name not in text:
                raise RequestError(
                    400,
                    f"messages[{index}].tool_calls: the model's chat template leaves tool calls out, so the model would "
                    f"not see {name!r}.",
                    param=f"messages[{index}].tool_calls",
                    code="unsupported_value",
                )
