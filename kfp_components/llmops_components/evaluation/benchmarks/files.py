"""Files that declare tasks as lm-evaluation-harness reads them: YAML, of which nothing is run while it is read.

Its own reader imports what ``!function`` names. Here that is text with a type of its own, so that a task with code is known before
anything of it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from llmops_components.errors import DataError
from llmops_components.uris import scheme_of

_ROWS = ("data_files", "data_dir")


class Code(str):
    """What a file names to be run."""


class _Reader(yaml.SafeLoader):
    """YAML without objects."""


_Reader.add_constructor("!function", lambda loader, node: Code(loader.construct_scalar(node)))


def read_task_file(path: Path, root: Path) -> dict[str, Any]:
    """What a file declares, with what it includes.

    Args:
        path: The file.
        root: Directory that nothing may be read from outside of.

    Raises:
        DataError: It cannot be read, declares nothing, or includes what lies elsewhere.
    """
    return _read(path, root.resolve(), ())


def _read(path: Path, root: Path, including: tuple[Path, ...]) -> dict[str, Any]:
    file = path.resolve()
    name = path.name
    if not file.is_relative_to(root):
        raise DataError(
            f"Task file {name} lies outside of the directory of tasks. Put it into the directory."
        )
    if file in including:
        raise DataError(f"Task file {name} includes itself. Leave out one of its includes.")
    try:
        found = yaml.load(file.read_bytes(), Loader=_Reader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"Task file {name} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(found, dict):
        raise DataError(f"Task file {name} declares nothing. Give a mapping with task or group.")
    included = found.pop("include", [])
    whole: dict[str, Any] = {}
    for each in included if isinstance(included, list) else [included]:
        part = _read(path.parent / str(each), root, (*including, file))
        whole |= {key: value for key, value in part.items() if key != "task_list"}
    return whole | found


def read_task_files(directory: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """What the files of a directory declare, by name of the task or group; rows are those beside the file.

    Args:
        directory: The directory.

    Raises:
        DataError: There is no such file, one cannot be read, two have one name, or rows lie elsewhere.
    """
    if not directory.is_dir():
        raise DataError(f"The directory of task files does not exist: {directory}. Give one with YAML files.")
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in sorted(directory.rglob("*.yaml")):
        config = read_task_file(path, directory)
        name = config.get("group", config.get("task"))
        if not isinstance(name, str):
            continue  # other files include it
        if name in found:
            raise DataError(
                f"Task files {found[name][0].name} and {path.name} declare the same name, {name}. Rename one."
            )
        found[name] = path, _with_own_rows(config, path, directory.resolve())
    if not found:
        raise DataError(
            f"No file in {directory} declares a task. Give YAML files whose names end with .yaml."
        )
    return found


def code_in(value: Any) -> Iterator[str]:
    """What a declaration names to be run.

    Args:
        value: The declaration, or a part of it.
    """
    if isinstance(value, Code):
        yield str(value)
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from code_in(each)


def addresses_in(value: Any) -> Iterator[str]:
    """Addresses that a declaration has.

    Args:
        value: The declaration, or a part of it.
    """
    if isinstance(value, str) and _is_address(value):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from addresses_in(each)


def _is_address(value: str) -> bool:
    """Whether fsspec takes it for one: with a scheme, or several behind each other (``zip::https``)."""
    return bool(scheme_of(value)) or "::" in value


def _with_own_rows(config: dict[str, Any], path: Path, root: Path) -> dict[str, Any]:
    """The declaration with whole paths of its rows."""

    def whole(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: whole(each) for key, each in value.items()}
        if isinstance(value, list):
            return [whole(each) for each in value]
        if not isinstance(value, str) or _is_address(value):
            return value
        file = (path.parent / value).resolve()
        if not file.is_relative_to(root):
            raise DataError(
                f"Task file {path.name}: its rows, {value}, lie outside of the directory of tasks. Put them into the directory."
            )
        return str(file)

    arguments = config.get("dataset_kwargs")
    if isinstance(arguments, Mapping):
        own = {key: whole(value) if key in _ROWS else value for key, value in arguments.items()}
        config = config | {"dataset_kwargs": own}
    source = config.get("dataset_path")
    if isinstance(source, str) and not _is_address(source) and (path.parent / source).exists():
        config = config | {"dataset_path": whole(source)}
    return config
