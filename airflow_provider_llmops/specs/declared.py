"""A caller's values in the types that are declared for them.

A template gives ``"20"`` for 20; the declared type gives the number back. Types are lists of alternatives, as in the index
that lies beside the compiled components::

    ["int", "null"]                    int | None
    ["str", {"list": ["str"]}]         str | list[str]
    ["int", "auto"]                    int, or the word auto
    [{"fields": ["peft.LoraConfig"]}]  an object with the fields of a class
    ["any"]                            whatever the library makes of it

The data plane writes the lists, and has the same rules (``llmops_components/passthrough/declared.py``); a test compares them.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, shown_value

Kinds = list[Any]
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "auto": "auto",
    "null": "null",
}
_TRUTH = {"true": True, "false": False}


def converted(
    value: Any, kinds: Kinds, name: str, classes: Mapping[str, Mapping[str, Kinds]], *, strict: bool = True
) -> Any:
    """A value in the type that is declared for it.

    Text is read as the number, truth value, list or object that is declared, and a whole number becomes an int or a
    float. What only the library can judge is left as it is.

    :param value: a value as JSON has it
    :param kinds: the alternatives
    :param name: what it is called, for messages: ``training_args: learning_rate``
    :param classes: fields by class, for alternatives that name one
    :param strict: whether what is certainly not declared is an error; otherwise it is left as it is
    :raises ConfigurationError: text or a truth value for a number, 2.5 for a whole one
    """
    if "any" in kinds or value is None:
        return value
    names = {kind for kind in kinds if isinstance(kind, str)}
    nested = {key: inner for kind in kinds if isinstance(kind, dict) for key, inner in kind.items()}
    if isinstance(value, str):
        value = _read(value, names, nested)
    if value == "auto" and value in names:
        return value
    if isinstance(value, Mapping):
        return _object(value, nested, name, classes, strict)
    if isinstance(value, list | tuple):
        inner = nested.get("list", ["any"])
        return [
            converted(item, inner, f"{name}[{i}]", classes, strict=strict) for i, item in enumerate(value)
        ]
    if nested or not names & {"int", "float", "bool"}:
        return value
    if (number := _number(value, names)) is not None:
        return number
    if value is None or (isinstance(value, str) and "str" in names):
        return value
    if not strict:
        return value
    expected = " or ".join(_WORDS[kind] for kind in _WORDS if kind in names)
    raise ConfigurationError(
        f"{name} is {shown_value(value)}, and takes {expected}. Give it as such, without quotes."
    )


def _number(value: Any, names: set[str]) -> Any:
    if isinstance(value, bool):
        return value if "bool" in names else None
    if isinstance(value, float) and "float" not in names and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        if "int" in names:
            return value
        if "float" in names:
            return float(value)
        return bool(value) if "bool" in names and value in (0, 1) else None
    return value if isinstance(value, float) and "float" in names else None


def _read(text: str, names: set[str], nested: Mapping[str, Any]) -> Any:
    """What text stands for, where it is not text that is wanted."""
    stripped = text.strip()
    if nested and stripped[:1] in ("[", "{"):
        return _literal(stripped, text)
    if "str" in names:
        return text
    if "null" in names and stripped.lower() in ("", "none", "null"):
        return None
    if "auto" in names and stripped.lower() == "auto":
        return "auto"
    if "bool" in names and stripped.lower() in _TRUTH:
        return _TRUTH[stripped.lower()]
    if names & {"int", "float"}:
        for kind in (int, float):
            try:
                number = kind(stripped)
            except ValueError:
                continue
            return number if math.isfinite(number) else text
    return text


def _literal(stripped: str, text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(stripped)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, list | tuple | dict):
            return found
    return text  # a regular expression


def _object(
    value: Mapping[str, Any],
    nested: Mapping[str, Any],
    name: str,
    classes: Mapping[str, Mapping[str, Kinds]],
    strict: bool,
) -> dict[str, Any]:
    fields: dict[str, Kinds] = {}
    for of in nested.get("fields", ()):
        for field, kinds in classes[of].items():
            fields[field] = fields.get(field, []) + kinds
    inner = nested.get("dict", ["any"])
    separator = ": " if ":" not in name else "."
    return {
        key: converted(item, fields.get(key, inner), f"{name}{separator}{key}", classes, strict=strict)
        for key, item in value.items()
    }
