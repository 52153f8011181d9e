"""A recipe read from YAML: faults say in which line and column they are, and the nearest name of one that is not known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value
from airflow_provider_llmops.recipes.recipe import Recipe, faults_between

__all__ = ["read_recipe", "recipe_files"]

MAX_BYTES = 64 << 10
_SUFFIXES = (".yaml", ".yml")
_NUMBER = re.compile(
    r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"
)  # which YAML 1.1 takes for text without a point or sign
_TYPES = {"map", "seq", "int", "float", "bool", "null", "str", "timestamp"}


@dataclass(frozen=True)
class _Fault:
    line: int
    column: int
    text: str


class _Faults(Exception):  # they become a ConfigurationError
    def __init__(self, *faults: _Fault) -> None:
        self.faults = faults


class _Loader(yaml.SafeLoader):
    """Notes whether there are aliases: the nodes do not tell."""

    has_aliases = False

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.has_aliases |= self.check_event(yaml.AliasEvent)
        return super().compose_node(parent, index)


def recipe_files(folder: str | Path) -> list[Path]:
    """The recipes in a folder, by name.

    :param folder: the folder
    :raises ConfigurationError: there is no such folder
    """
    root = Path(folder)
    if not root.is_dir():
        raise ConfigurationError(
            "There is no such folder of recipes. Make it, or name another.", f"Folder: {root}"
        )
    return sorted(each for each in root.iterdir() if each.suffix in _SUFFIXES and each.is_file())


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a file, checked.

    :param path: YAML file
    :raises ConfigurationError: names each fault with file, line and column
    """
    file = Path(path)
    try:
        content = file.read_bytes()
        if len(content) > MAX_BYTES:
            raise _Faults(
                _Fault(1, 1, f"The file has {len(content)} bytes; a recipe has {MAX_BYTES} at most")
            )
        return _read(content.decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The recipe cannot be read: {error}.") from error
    except _Faults as error:
        lines = [f"{file.name}:{each.line}:{each.column}: {each.text}." for each in error.faults]
        several = f" ({len(lines)} faults)" if len(lines) > 1 else ""
        raise ConfigurationError(
            f"The recipe is not right{several}: {lines[0]}", *lines[1:], f"File: {file}"
        ) from None


def _read(text: str) -> Recipe:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _Faults(_fault(mark, f"It is no YAML: {error.problem or error.context}")) from None
    except yaml.YAMLError as error:
        raise _Faults(_Fault(1, 1, f"It is no YAML: {error}")) from None
    if node is None:
        raise _Faults(_Fault(1, 1, "The file is empty: it needs name and base_model"))
    if loader.has_aliases:
        raise _Faults(
            _fault(node.start_mark, "A recipe has no anchors and aliases: write out what they stand for")
        )
    places: dict[tuple[Any, ...], yaml.Mark] = {}
    value = _value(node, (), places, loader)
    if not isinstance(value, Mapping):
        raise _Faults(_fault(node.start_mark, "A recipe is a mapping with name and base_model"))
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        faults = [_of(each, places) for each in error.errors(include_url=False)]
        raise _Faults(*sorted(faults, key=lambda each: (each.line, each.column))) from None
    if between := [
        _fault(_place(at, places), f"{'.'.join(at)}: {what}") for at, what in faults_between(recipe)
    ]:
        raise _Faults(*between)
    return recipe


def _value(
    node: yaml.Node, at: tuple[Any, ...], places: dict[tuple[Any, ...], yaml.Mark], loader: yaml.SafeLoader
) -> Any:
    """A node as Python has it; each key and item has its place noted."""
    places.setdefault(at, node.start_mark)
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind not in _TYPES:
        raise _Faults(_fault(node.start_mark, f"The type {node.tag} is none of a recipe"))
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Faults(_fault(key.start_mark, "A key is a name"))
            if key.value in found:
                raise _Faults(_fault(key.start_mark, f"{key.value!r} stands here twice"))
            places[(*at, key.value)] = key.start_mark
            found[key.value] = _value(item, (*at, key.value), places, loader)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*at, number), places, loader) for number, item in enumerate(node.value)]
    is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
    if kind == "str" and is_plain and _NUMBER.fullmatch(node.value):
        return float(node.value)
    if kind in ("str", "timestamp"):  # a date is a text here
        return node.value
    try:
        return loader.construct_object(node)
    except (ValueError, yaml.YAMLError) as error:
        raise _Faults(
            _fault(node.start_mark, f"The value {shown_value(node.value)} cannot be read: {error}")
        ) from None


def _of(error: Any, places: Mapping[tuple[Any, ...], yaml.Mark]) -> _Fault:
    """One of pydantic's faults in words that say what was expected."""
    at = tuple(error["loc"])
    path = ".".join(map(str, at))
    mark = _place(at, places)
    if error["type"] == "extra_forbidden":
        fields = _fields_at(at[:-1])
        where = f" in {'.'.join(map(str, at[:-1]))}" if at[:-1] else ""
        return _fault(
            mark,
            f"Unknown setting{where}: {describe_unknown([str(at[-1])], fields)}. There are: {', '.join(fields)}",
        )
    if error["type"] == "missing":
        return _fault(mark, f"{path} is missing")
    if error["type"] == "model_type":
        return _fault(mark, f"{path}: a mapping is expected, with {', '.join(_fields_at(at))}")
    return _fault(mark, f"{path}: {error['msg']}, got {shown_value(error['input'], 60)}")


def _fields_at(at: tuple[Any, ...]) -> list[str]:
    part: Any = Recipe
    for name in at:
        part = part.model_fields[name].annotation
    return list(part.model_fields)


def _place(at: tuple[Any, ...], places: Mapping[tuple[Any, ...], yaml.Mark]) -> yaml.Mark:
    """Where a setting stands; of one that is missing, where what it belongs to does."""
    while at not in places:
        at = at[:-1]
    return places[at]


def _fault(mark: yaml.Mark | None, text: str) -> _Fault:
    return _Fault(mark.line + 1, mark.column + 1, text) if mark else _Fault(1, 1, text)
