"""Calls of tools in what a model says: read where the form that its chat template writes them in is known, and required.

Which form that is, the template itself shows: it renders a call of a function that nobody has.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmops_components.serving.predictor.generation import length_of_begun
from llmops_components.serving.predictor.grammars import JSON_OPTIONS
from llmops_components.serving.predictor.messages import Tool

_PROBE = "probe_nobody_has"
_PROBED = (
    r'\{"name": ?"' + _PROBE + r'", ?"(arguments|parameters)": ?\{"key": ?"value"\}(?:, ?"id": ?"[^"]*")?\}'
)
# Some templates take ids of nine letters only.
PROBE_MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "x"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "callprobe",
                "type": "function",
                "function": {"name": _PROBE, "arguments": {"key": "value"}},
            }
        ],
    },
    {"role": "tool", "name": _PROBE, "content": "x", "tool_call_id": "callprobe"},
]
PROBE_TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": _PROBE,
            "description": "x",
            "parameters": {"type": "object", "properties": {"key": {"type": "string", "description": "x"}}},
        },
    }
]


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes calls of tools.

    Args:
        family: Who does.
        rendered: What its template makes of the call of the function that nobody has, as a regular expression.
        begins: What begins a call, one of these; the first one where a call is required.
        end: What ends it; nothing where only the end of the answer does.
        is_list: Whether what stands between is a list of calls.
        key: Name of the arguments.
        only_first: Whether an answer has calls at its beginning, or none.
    """

    family: str
    rendered: str
    begins: tuple[str, ...]
    end: str = ""
    is_list: bool = False
    key: str = "arguments"
    only_first: bool = False


FORMATS = (
    ToolFormat(
        "Hermes and Qwen",
        rf"<tool_call>\s*{_PROBED}\s*</tool_call>",
        begins=("<tool_call>",),
        end="</tool_call>",
    ),
    ToolFormat("Mistral", rf"\[TOOL_CALLS\] ?\[{_PROBED}\]", begins=("[TOOL_CALLS]",), is_list=True),
    ToolFormat(
        "Llama 3",
        rf"<\|end_header_id\|>\s*{_PROBED}",
        begins=("", "<|python_tag|>"),
        key="parameters",
        only_first=True,
    ),
)


def format_in(rendered: str) -> ToolFormat | None:
    """The form in which a chat template wrote the call of :data:`PROBE_MESSAGES`; None where it is not known.

    Args:
        rendered: What the template made of them.
    """
    return next((each for each in FORMATS if re.search(each.rendered, rendered)), None)


@dataclass(frozen=True)
class Call:
    """A call of a tool.

    Args:
        name: Name of the function.
        arguments: Its arguments, as JSON.
    """

    name: str
    arguments: str

    def written(self) -> dict[str, Any]:
        """As OpenAI's API has it, with an id of its own."""
        return {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


class CallReader:
    """Tells the calls in an answer from its text, as it comes.

    What looks like a call and is none (no JSON, or of a function that nobody has) is text.

    Args:
        form: How the model writes calls.
        names: Names of the functions that there are.
        several: Whether there may be several calls; all but the first are dropped otherwise.
    """

    def __init__(self, form: ToolFormat, names: Sequence[str], *, several: bool = True) -> None:
        self._form = form
        self._names = frozenset(names)
        self._kept = ""  # what is not decided yet
        self._several = several
        self._found = 0  # calls so far
        self._is_inside = False
        self._is_text = False  # whether nothing but text can come
        self._begins = tuple(each or "{" for each in form.begins)

    def read(self, text: str) -> tuple[str, list[Call]]:
        """What is sure when more of the answer is there.

        Args:
            text: What came.

        Returns:
            Text to show, and calls that are complete.
        """
        self._kept += text
        said, calls = "", []
        while True:
            if not self._is_inside:
                said += self._text_before_call()
                if not self._is_inside:
                    return said, calls
            found = self._calls_inside()
            if found is None:
                return said, calls
            calls += self._wanted(found)

    def finish(self) -> tuple[str, list[Call]]:
        """What the rest is when nothing more comes, in the same form."""
        rest, self._kept = self._kept, ""
        if (
            self._is_inside
            and not self._form.end
            and (calls := self._parsed(self._without_begin(rest))) is not None
        ):
            return "", self._wanted(calls)
        return "" if self._found and not rest.strip() else rest, []

    def _wanted(self, calls: list[Call]) -> list[Call]:
        wanted = calls if self._several else calls[: max(1 - self._found, 0)]
        self._found += len(wanted)
        return wanted

    def _text_before_call(self) -> str:
        if self._form.only_first:
            start = self._kept.lstrip()
            if not self._is_text and start.startswith(self._begins):
                self._is_inside, self._kept = True, start
                return ""
            if not self._is_text and any(begin.startswith(start) for begin in self._begins):
                return ""
            self._is_text = True
            text, self._kept = self._kept, ""
            return text
        (begin,) = self._begins
        if (at := self._kept.find(begin)) < 0:
            blank = len(self._kept) - len(self._kept.rstrip())  # it may stand before a call
            keep = max(length_of_begun(self._kept, (begin,)), blank)
            if keep > blank:
                head = self._kept[: len(self._kept) - keep]
                keep += len(head) - len(head.rstrip())
            text, self._kept = self._kept[: len(self._kept) - keep], self._kept[len(self._kept) - keep :]
            return text
        text, self._kept = self._kept[:at].rstrip(), self._kept[at:]
        self._is_inside = True
        return text

    def _calls_inside(self) -> list[Call] | None:
        """The calls up to an end; None where there is none yet."""
        end = self._form.end
        at = self._kept.find(end) if end else -1
        while at >= 0:
            calls = self._parsed(self._without_begin(self._kept[:at]))
            if calls is not None:
                self._kept = self._kept[at + len(end) :]
                self._is_inside = False
                return calls
            at = self._kept.find(end, at + 1)  # the end may stand in an argument
        return None

    def _without_begin(self, text: str) -> str:
        begin = next((each for each in self._form.begins if each and text.startswith(each)), "")
        return text[len(begin) :]

    def _parsed(self, text: str) -> list[Call] | None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        rows = value if self._form.is_list and isinstance(value, list) else [value]
        calls = [self._call(row) for row in rows]
        return [call for call in calls if call] if calls and all(calls) else None

    def _call(self, row: Any) -> Call | None:
        if not isinstance(row, dict) or row.get("name") not in self._names:
            return None
        arguments = row.get(self._form.key, {})
        return (
            Call(row["name"], json.dumps(arguments, ensure_ascii=False))
            if isinstance(arguments, dict)
            else None
        )


def required_calls(form: ToolFormat, tools: Sequence[Tool], *, several: bool, special: dict[str, int]) -> str:
    """The grammar, in llguidance's dialect of Lark, of answers that call tools and say nothing else.

    Args:
        form: How the model writes calls.
        tools: The tools that may be called.
        several: Whether an answer may have several calls.
        special: Ids of the model's special tokens.
    """

    def marker(text: str) -> str:
        return f"<[{special[text]}]>" if text in special else json.dumps(text)

    lines = ["%llguidance {}"]
    begin, end = (marker(each) if each else "" for each in (form.begins[0], form.end))
    one = f'{begin} "\\n" call "\\n" {end}' if form.end else "call"
    if form.is_list:
        more = ' (", " call)*' if several else ""
        lines.append(f'start: {begin} "[" call{more} "]"')
    else:
        more = f' ("\\n" {one})*' if several and form.end else ""
        lines.append(f"start: {one}{more}")
    lines.append("call: " + " | ".join(f"tool_{index}" for index in range(len(tools))))
    for index, tool in enumerate(tools):
        head = json.dumps(f'{{"name": "{tool.function.name}", "{form.key}": ')
        schema = {"type": "object", **tool.function.schema_of_arguments(), "x-guidance": JSON_OPTIONS}
        lines.append(f'tool_{index}: {head} arguments_{index} "}}"')
        lines.append(f"arguments_{index}: %json {json.dumps(schema)}")
    return "\n".join(lines)
