"""Values on their way between steps: their declared types, and text with placeholders.

A specification is JSON, in which 7 and 7.0 are the same number. What a step gets is what its input declares, and a number
inside text reads as it does on Kubeflow, where 7.0 is written "7".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from llmops_components.errors import InputError
from llmops_components.json_text import parse_json

_PLACEHOLDER = re.compile(
    r"\{\{\$\.(?P<path>[A-Za-z_.]+)(?P<keys>(?:\[['\"][^'\"]+['\"]\]|\.[A-Za-z_]+)*)\}\}"
)
_KEY = re.compile(r"\[['\"]([^'\"]+)['\"]\]|\.([A-Za-z_]+)")
_SELECTOR = re.compile(r"parseJson\(string_value\)((?:\[\"[^\"]*\"\])+)")
# What Kubeflow Pipelines replaces in the JSON of a step's inputs: as in the provider's ``specs/placeholders.py``.
_REPLACED = re.compile(r"\{\{(?:\$|channel:)[^{}]*(?:\}\})?")
# Loops decode text as JSON, and what was escaped in it is a placeholder then, however often it was escaped.
_ESCAPED = re.compile(r"\\(?:\\|u005[cC])*(?:u([0-9a-fA-F]{4})|([fnrt]))?")


def refuse_placeholders(value: Any, what: str) -> None:
    """Refuse a value in which Kubeflow Pipelines would replace something, and so rewrite the other inputs of a step.

    Placeholders that a specification's author wrote are meant; in what comes from elsewhere they are not. Here they would stay
    as they are, and the same pipeline would do something else on a cluster.

    Args:
        value: What somebody gave, or another step made; keys and values inside it count as well.
        what: Its name, for messages.

    Raises:
        InputError: There is one in it.
    """
    if isinstance(value, str):
        if match := _REPLACED.search(value) or _REPLACED.search(_ESCAPED.sub(_decoded, value)):
            raise InputError(
                f"{what} has {match[0]!r:.60} in it, which Kubeflow Pipelines replaces on its way to a step: it would rewrite the "
                "step's inputs. Hand text that must have it, such as a prompt or a template, on in a file, as an artifact."
            )
    elif isinstance(value, Mapping):
        for key, item in value.items():
            refuse_placeholders(key, what)
            refuse_placeholders(item, what)
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_placeholders(item, what)


def _decoded(escaped: re.Match[str]) -> str:
    if escaped[1]:
        return chr(int(escaped[1], 16))
    return " " if escaped[2] else "\\"


def typed(value: Any, declared: Mapping[str, Any], what: str) -> Any:
    """The value in its declared type, where that changes nothing but its form.

    Args:
        value: What a constant, a default or another step gave.
        declared: Definition of the input or output, with ``parameterType``.
        what: Its name, for messages.

    Raises:
        InputError: It is of another type.
    """
    if value is None:
        return None
    kind = declared.get("parameterType", "")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match kind:
        case "NUMBER_INTEGER" if is_number and float(value).is_integer():
            return int(value)
        case "NUMBER_DOUBLE" if is_number:
            return float(value)
        case "STRING" if isinstance(value, str):
            return value
        case "STRING":
            return as_text(value)
        case "BOOLEAN" if isinstance(value, bool):
            return value
        case "LIST" if isinstance(value, list):
            return value
        case "STRUCT" if isinstance(value, dict):
            return value
    if kind in ("NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN", "LIST", "STRUCT") and isinstance(value, str):
        try:  # a loop over JSON text, or a number that went through text
            return typed(parse_json(value.lower() if kind == "BOOLEAN" else value), declared, what)
        except ValueError:
            pass
    if kind in ("NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN", "LIST", "STRUCT"):
        raise InputError(f"{what} is declared as {kind} and got {type(value).__name__} {value!r:.80}.")
    return value


def as_text(value: Any) -> str:
    """How a value reads inside text, as Kubeflow Pipelines writes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return json.dumps(value)


def constant(value: Any) -> Any:
    """A constant of a specification, its whole numbers as integers: inside lists and dicts nothing declares them."""
    if isinstance(value, dict):
        return {key: constant(item) for key, item in value.items()}
    if isinstance(value, list):
        return [constant(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fill(value: Any, lookup: Callable[[str, list[str]], Any]) -> Any:
    """Replace the placeholders in every text of a value.

    Args:
        value: Text, or a list or dict with text in it.
        lookup: Gives the value of a placeholder from its path (``inputs.parameters``) and its keys.
    """
    if isinstance(value, dict):
        return {fill(key, lookup): fill(item, lookup) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, lookup) for item in value]
    if not isinstance(value, str) or "{{$." not in value:
        return value

    def replaced(match: re.Match[str]) -> str:
        keys = [quoted or plain for quoted, plain in _KEY.findall(match["keys"])]
        found = lookup(match["path"], keys)
        return "" if found is None else as_text(found)

    return _PLACEHOLDER.sub(replaced, value)


def select(value: Any, selector: str) -> Any:
    """The part of a loop's item that a task asks for: ``parseJson(string_value)["a"]``."""
    match = _SELECTOR.fullmatch(selector)
    if match is None:
        raise InputError(f"The selector {selector!r} of a loop's item cannot be read here.")
    try:
        item = parse_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise InputError(f"A loop's item cannot be read: {error}.") from None
    for key in re.findall(r'\["([^"]*)"\]', match[1]):
        if not isinstance(item, Mapping) or key not in item:
            raise InputError(f"A loop's item has no {key!r}: {json.dumps(item):.200}.")
        item = item[key]
    return item
