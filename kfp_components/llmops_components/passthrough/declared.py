"""A caller's values in the types that a library declares for them.

Values arrive as JSON, and lose their type on the way: a template gives ``"20"`` for 20, KFP's ``Struct`` gives 20.0. The
declared types give it back. They are written so that they fit in JSON, as a list of alternatives::

    ["int", "null"]                    int | None
    ["str", {"list": ["str"]}]         str | list[str]
    ["int", "auto"]                    int, or the word auto
    [{"fields": ["peft.LoraConfig"]}]  an object with the fields of a class
    ["any"]                            whatever the library makes of it

The provider reads the same lists, and has the same rules (``airflow_provider_llmops/specs/declared.py``); a test compares them.
"""

from __future__ import annotations

import ast
import enum
import inspect
import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from llmops_components.errors import SettingError

Kinds = list[Any]
Fields = Mapping[str, Kinds]
_SCALARS = {bool: "bool", int: "int", float: "float", str: "str", type(None): "null"}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "auto": "auto",
    "null": "null",
}
_TRUTH = {"true": True, "false": False}
_DOCUMENTED = re.compile(r"^ +(\w+) \((`.*?)(?:, \*optional\*|, default| *\)*:)", re.MULTILINE)


def kinds_of(annotation: Any) -> Kinds:
    """The alternatives that an annotation allows."""
    if annotation in _SCALARS:
        return [_SCALARS[annotation]]
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds: Kinds = []
        for part in parts:
            kinds += [kind for kind in kinds_of(part) if kind not in kinds]
        # Python gives the parts of equal unions in the order of whichever it saw first.
        return sorted(kinds, key=lambda kind: (kind == "null", isinstance(kind, dict), str(kind)))
    if origin is typing.Literal:
        return sorted({_SCALARS[type(part)] for part in parts})
    plain = origin or annotation
    if not isinstance(plain, type):
        return ["any"]
    if issubclass(plain, enum.Enum):
        return ["str"]
    if issubclass(plain, Mapping):
        return [{"dict": kinds_of(parts[1]) if len(parts) == 2 else ["any"]}]
    if issubclass(plain, list | set | tuple) or plain is Sequence:
        same = parts[:1] if issubclass(plain, list | set) or parts[1:] == (...,) else ()
        return [{"list": kinds_of(same[0]) if same else ["any"]}]
    return ["any"]


def fields_of(declared: type) -> dict[str, Kinds]:
    """What a class declares of the arguments that it takes: a dataclass, a signature, or a documented ``**kwargs``.

    Args:
        declared: The class, or a typed dict.
    """
    if typing.is_typeddict(declared):
        return {name: kinds_of(hint) for name, hint in typing.get_type_hints(declared).items()}
    hints = _hints(declared) | _hints(declared.__init__)
    found = {}
    for name, parameter in list(inspect.signature(declared.__init__).parameters.items())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        default = parameter.default
        said_by_default = ["any"] if default in (None, parameter.empty) else kinds_of(type(default))
        found[name] = kinds_of(hints[name]) if name in hints else said_by_default
    return found or {
        name: _kinds_in_words(words) for name, words in _DOCUMENTED.findall(declared.__doc__ or "")
    }


def _hints(declared: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(declared)
    except NameError:  # a class that is only imported for type checkers
        return {}


def _kinds_in_words(words: str) -> Kinds:
    """The types that a docstring names, as in "`Union[int, list[int]]`" or "`bool` or `str`"."""
    inner = re.findall(r"list\[(?!list)(\w+)\]", words, re.IGNORECASE)
    outer = re.findall(
        r"\b(?:int|float|bool|str|dict|tuple|list)\b",
        re.sub(r"list\[.*?\]+", "list", words, flags=re.IGNORECASE),
    )
    kinds: Kinds = [kind for kind in outer if kind in ("int", "float", "bool", "str")]
    if "list" in outer:
        kinds.append({"list": inner[:1] if inner and inner[0] in ("int", "float", "str") else ["any"]})
    if "dict" in outer or "tuple" in outer or not kinds:
        kinds = ["any"]
    return kinds if "any" in kinds else [*kinds, "null"]


def converted(value: Any, kinds: Kinds, name: str, classes: Mapping[str, Fields]) -> Any:
    """A value in the type that is declared for it.

    Text is read as the number, truth value, list or object that is declared, and a whole number becomes an int or a
    float. What only the library can judge is left as it is.

    Args:
        value: A value as JSON has it.
        kinds: The alternatives.
        name: What it is called, for messages: ``training_args: learning_rate``.
        classes: Fields by class, for alternatives that name one.

    Raises:
        SettingError: It is certainly not what is declared: text or a truth value for a number, 2.5 for a whole one.
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
        return _object(value, nested, name, classes)
    if isinstance(value, list | tuple):
        inner = nested.get("list", ["any"])
        return [converted(item, inner, f"{name}[{i}]", classes) for i, item in enumerate(value)]
    if nested or not names & {"int", "float", "bool"}:
        return value
    if (number := _number(value, names)) is not None:
        return number
    if value is None or (isinstance(value, str) and "str" in names):
        return value
    expected = " or ".join(_WORDS[kind] for kind in _WORDS if kind in names)
    raise SettingError(f"{name} is {value!r:.80}, and takes {expected}. Give it as such, without quotes.")


def whole_numbers(value: Any) -> Any:
    """Give integers back that lost their type on the way here.

    KFP hands an object over as protobuf's ``Struct``, whose only number is the double: 40 arrives as 40.0, which
    ``range(40.0)`` and most libraries refuse. Where a library declares a float, :func:`converted` makes it one again.

    Args:
        value: A parameter of type object or list; anything else is returned as it is.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    return value


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
    """The value that a text stands for, where another type than text is declared."""
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
    value: Mapping[str, Any], nested: Mapping[str, Any], name: str, classes: Mapping[str, Fields]
) -> dict[str, Any]:
    fields: dict[str, Kinds] = {}
    for of in nested.get("fields", ()):
        for field, kinds in classes[of].items():
            fields[field] = fields.get(field, []) + kinds
    inner = nested.get("dict", ["any"])
    separator = ": " if ":" not in name else "."
    return {
        key: converted(item, fields.get(key, inner), f"{name}{separator}{key}", classes)
        for key, item in value.items()
    }
