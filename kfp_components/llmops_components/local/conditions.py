"""Conditions of tasks: the part of the Common Expression Language that the KFP compiler writes."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from llmops_components.errors import SettingError

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<input>inputs\.parameter_values\[(?:'[^']*'|"[^"]*")\])
    | (?P<text>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")
    | (?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)
    | (?P<name>[A-Za-z_]+)
    | (?P<sign>&&|\|\||[=!<>]=|[<>!()])
    )""",
    re.VERBOSE,
)
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONSTANTS = {"true": True, "false": False, "null": None}
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "int": int,
    "double": float,
    "string": str,
    "bool": bool,
}


def is_true(condition: str, inputs: Mapping[str, Any]) -> bool:
    """Whether a condition holds.

    Args:
        condition: The expression.
        inputs: Values of the task's input parameters.

    Raises:
        SettingError: It cannot be evaluated.
    """
    try:
        reader = _Reader(condition, inputs)
        value = reader.alternatives()
        if not reader.is_done or not isinstance(value, bool):
            raise ValueError("it is no comparison")
    except (ValueError, TypeError, SyntaxError) as error:
        raise SettingError(f"The condition {condition!r:.200} cannot be evaluated: {error}.") from error
    return value


class _Reader:
    """Evaluates while it reads, from the weakest binding to the strongest."""

    def __init__(self, condition: str, inputs: Mapping[str, Any]) -> None:
        self._tokens: list[tuple[str, str]] = []
        self._inputs = inputs
        position, end = 0, len(condition.rstrip())
        while position < end:
            match = _TOKEN.match(condition, position)
            if match is None:
                raise ValueError(f"{condition[position : position + 20]!r} is unknown")
            self._tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
            position = match.end()
        self._tokens.reverse()

    @property
    def is_done(self) -> bool:
        return not self._tokens

    def alternatives(self) -> Any:
        value = self._all_of()
        while self._take("||"):
            other = self._all_of()
            value = value or other
        return value

    def _all_of(self) -> Any:
        value = self._comparison()
        while self._take("&&"):
            other = self._comparison()
            value = value and other
        return value

    def _comparison(self) -> Any:
        value = self._operand()
        if self._tokens and (compare := _COMPARISONS.get(self._tokens[-1][1])):
            self._tokens.pop()
            return compare(value, self._operand())
        return value

    def _operand(self) -> Any:
        if not self._tokens:
            raise ValueError("it ends too early")
        kind, text = self._tokens.pop()
        if text == "!":
            return not self._operand()
        if text == "(":
            return self._closed()
        if kind == "input":
            name = text.partition("[")[2][1:-2]
            if name not in self._inputs:
                raise ValueError(f"there is no value for {name!r}")
            return self._inputs[name]
        if kind in ("text", "number"):
            return ast.literal_eval(text)
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if text in _CONVERSIONS and self._take("("):
            return _CONVERSIONS[text](self._closed())
        raise ValueError(f"{text!r} is unknown")

    def _closed(self) -> Any:
        value = self.alternatives()
        if not self._take(")"):
            raise ValueError("a bracket is not closed")
        return value

    def _take(self, sign: str) -> bool:
        if self._tokens and self._tokens[-1][1] == sign and self._tokens[-1][0] in ("sign", "name"):
            self._tokens.pop()
            return True
        return False
