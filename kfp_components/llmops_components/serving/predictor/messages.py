"""The messages of a chat, and the tools that it offers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from llmops_components.data.content import content_text
from llmops_components.json_text import parse_json
from llmops_components.serving.predictor.settings import NAMES


class Message(BaseModel, extra="allow", strict=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Any = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates take it: content is text, tool calls have their arguments as an object."""
        found: dict[str, Any] = {
            "role": self.role,
            "content": "" if self.content is None else content_text(self.content),
        }
        if self.tool_calls:
            found["tool_calls"] = [_with_parsed_arguments(call) for call in self.tool_calls]
        return found | {
            key: value for key in ("name", "tool_call_id") if (value := getattr(self, key)) is not None
        }


def _with_parsed_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        return {**call, "function": {**function, "arguments": parse_json(function["arguments"])}}
    except ValueError:
        return call


class Function(BaseModel, extra="allow", strict=True):
    name: Annotated[str, Field(pattern=NAMES)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def schema_of_arguments(self) -> dict[str, Any]:
        """What its arguments must be: without a word about them, there are none."""
        return (
            {"properties": {}, "additionalProperties": False} if self.parameters is None else self.parameters
        )


class Tool(BaseModel, extra="allow", strict=True):
    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel, extra="forbid", strict=True):
    name: str


class NamedTool(BaseModel, extra="forbid", strict=True):
    type: Literal["function"]
    function: NamedFunction


def chosen_tool(value: Any) -> Any:
    if value is None or value in ("none", "auto", "required"):
        return value
    try:
        return NamedTool.model_validate(value)
    except ValidationError:
        raise ValueError(
            'takes "none", "auto", "required" or {"type": "function", "function": {"name": "..."}}'
        ) from None
