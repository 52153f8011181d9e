"""YAML that people write, with the line of each of its values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmops_components.errors import SettingError
from llmops_components.state_files import StateFileError, read_content

_MAX_DEPTH = 20
Lines = dict[tuple[str | int, ...], int]


def read_yaml(file: Path) -> tuple[Any, Lines]:
    """The value in a file of YAML or JSON, and the line of each value by the keys that lead to it.

    Args:
        file: The file.

    Raises:
        SettingError: It does not exist, is neither, has a key twice, or refers to another place of itself.
    """
    import yaml

    try:
        text = read_content(file).decode("utf-8-sig")
    except FileNotFoundError:
        raise SettingError(f"The policy does not exist: {file}. Check the path.") from None
    except (OSError, StateFileError, UnicodeDecodeError) as error:
        raise SettingError(f"The policy cannot be read: {error}. Policy: {file}.") from error
    if text.lstrip().startswith("{"):
        text = text.replace(
            "\t", " "
        )  # JSON may be indented by tabs, YAML not; a text of JSON has none in it
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise _invalid(file, event.start_mark, "aliases (*name) are not read")
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        lines: Lines = {}
        if root is not None:
            _note(root, (), lines, file)
        return (None if root is None else loader.construct_document(root)), lines
    except yaml.MarkedYAMLError as error:
        raise _invalid(
            file, error.problem_mark or error.context_mark, error.problem or "it is no YAML"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingError(
            f"The policy is neither YAML nor JSON: {' '.join(str(error).split()):.200}. Policy: {file}."
        ) from None


def _note(node: Any, place: tuple[str | int, ...], lines: Lines, file: Path) -> None:
    import yaml

    lines[place] = node.start_mark.line + 1
    if len(place) > _MAX_DEPTH:
        raise _invalid(file, node.start_mark, "it is nested too deeply")
    if isinstance(node, yaml.MappingNode):
        known = set()
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if name in known:
                raise _invalid(file, key.start_mark, f"{name} is there twice")
            known.add(name)
            _note(value, (*place, name), lines, file)
            lines[(*place, name)] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _note(value, (*place, number), lines, file)


def _invalid(file: Path, mark: Any, why: str) -> SettingError:
    line = f"line {mark.line + 1}: " if mark is not None else ""
    return SettingError(f"The policy is not valid: {line}{why}. Policy: {file}.")
