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


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: The model's tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

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
        self._check_arguments(arguments)
        goes_on = bool(asked.continue_final_message)
        begins = not goes_on if asked.add_generation_prompt is None else asked.add_generation_prompt
        try:
            text = self._tokenizer.apply_chat_template(
                [message.for_template() for message in asked.messages],
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
        # A template writes the special tokens itself.
        ids: list[int] = self._tokenizer(text, add_special_tokens=bool(asked.add_special_tokens))["input_ids"]
        return ids

    def _check_arguments(self, arguments: dict[str, Any]) -> None:
        for name in arguments:
            if name not in self._variables:
                near = difflib.get_close_matches(name, self._variables, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise RequestError(
                    400,
                    f"chat_template_kwargs: this model's chat template has no variable {name!r}.{hint}",
                    param=f"chat_template_kwargs.{name}",
                    code="unknown_parameter",
                )

    @cached_property
    def _variables(self) -> set[str]:
        """Names that the template reads and does not set."""
        environment = ImmutableSandboxedEnvironment(extensions=[_GenerationTag, "jinja2.ext.loopcontrols"])
        return meta.find_undeclared_variables(environment.parse(self._tokenizer.get_chat_template()))


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
