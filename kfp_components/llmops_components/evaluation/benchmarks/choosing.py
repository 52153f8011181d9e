"""Which tasks were asked for, and whether they may be run here: by what their files say, before anything of them is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.errors import SettingError, named
from llmops_components.evaluation.benchmarks.files import (
    addresses_in,
    code_in,
    read_task_file,
    read_task_files,
)
from llmops_components.passthrough.code import ALLOWED_ENVIRONMENT, is_allowed, refuse_code

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

PACKAGE = "lm_eval"
_MEDIA = ("doc_to_image", "doc_to_audio")


def choose_tasks(names: Sequence[str], directory: Path | None, *, download: bool) -> TaskManager:
    """What loads the tasks, once it is known that all of them may be run.

    Args:
        names: Tasks, groups or tags.
        directory: Files with tasks of the caller's, which take precedence over the package's own.
        download: Whether rows may come from the network.

    Raises:
        SettingError: A name is unknown, or a task is refused.
        DataError: A file of the directory cannot be used.
    """
    own = read_task_files(directory) if directory is not None else {}
    manager = _manager(own, include_defaults=False)
    try:
        chosen = [each for name in names for each in _declared(name, manager)]
    except _UnknownError:
        print("reading the tasks of lm_eval, which are thousands", flush=True)
        manager = _manager(own, include_defaults=True)
        chosen = [each for name in names for each in _declared(name, manager)]
    for name, config in chosen:
        check_task(name, config, is_own=name in own, download=download)
    return manager


class _UnknownError(SettingError):
    """There is no task of a name."""


def _manager(own: Mapping[str, tuple[Path, dict[str, Any]]], *, include_defaults: bool) -> TaskManager:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import (
        TaskIndex,  # whose entries may be declared without a file that it reads again
    )

    manager = TaskManager(include_defaults=include_defaults)
    index: dict[str, Any] = {}
    for path, config in own.values():
        TaskIndex.process_cfg(config, path, index)
    for entry in index.values():
        entry.yaml_path = None
    manager.task_index.update(index)
    return manager


def _declared(name: str, manager: TaskManager) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each declaration that a name stands for: of a group its own, too, since its members take values from it."""
    entry = manager.task_index.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, manager.all_tasks or list(manager.task_index), n=3)
        raise _UnknownError(
            f"Unknown task_names: {name!r}{f' (did you mean {named(near)}?)' if near else ''}. Give names of tasks, groups or tags of "
            "lm_eval, or of the task files."
        )
    if entry.yaml_path is None and entry.cfg is None:  # a tag
        for each in sorted(entry.tags):
            yield from _declared(each, manager)
        return
    config = entry.cfg if entry.yaml_path is None else _packaged(entry.yaml_path)
    yield name, config
    yield from _members(name, config, manager)


def _members(
    name: str, config: Mapping[str, Any], manager: TaskManager
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    members = config.get("task")
    for member in members if isinstance(members, list) else ():
        if not isinstance(member, Mapping):
            yield from _declared(str(member), manager)
            continue
        yield name, member
        below = member.get("group", member.get("task"))
        if isinstance(below, str) and below in manager.task_index:
            yield from _declared(below, manager)
        else:
            yield from _members(name, member, manager)


def _packaged(path: Path) -> dict[str, Any]:
    import lm_eval.tasks

    return read_task_file(path, Path(lm_eval.tasks.__file__).parent)


def check_task(name: str, config: Mapping[str, Any], *, is_own: bool, download: bool) -> None:
    """Raise :class:`SettingError` for a task that may not be run here.

    Args:
        name: Its name.
        config: Its declaration, or a part of it.
        is_own: Whether a task file of the caller's declares it.
        download: Whether rows may come from the network.
    """
    from lm_eval.api.registry import metric_registry

    where = f"The task {name}"
    if is_own:
        refuse_code("task_files", config)
    code = [*code_in(config), *([str(config["class"])] if "class" in config else [])]
    if code and is_own:
        raise SettingError(
            f"{where} needs code of its own, {code[0]}, and task files are data here. Say it without: with templates, filters and the "
            "metrics of lm_eval; or score answers with evaluate_model, whose metrics may be functions."
        )
    if code and not is_allowed(PACKAGE, ALLOWED_ENVIRONMENT):
        raise SettingError(
            f"{where} runs functions of the package lm_eval, such as {code[0]}, which is not allowed here. Choose another task, or let "
            f"whoever runs the component add {PACKAGE!r} to the environment variable {ALLOWED_ENVIRONMENT}."
        )
    if config.get("unsafe_code"):
        raise SettingError(
            f"{where} runs code that the model writes, outside of a sandbox. Leave it out; evaluate_model tests code with code_tests."
        )
    if media := [each for each in _MEDIA if config.get(each)]:
        raise SettingError(f"{where} has {media[0]}: models are asked with text here. Leave it out.")
    for metric in config.get("metric_list") or ():
        given = metric.get("metric") if isinstance(metric, Mapping) else metric
        is_known = isinstance(given, str) and given in metric_registry
        if not config.get("process_results") and (not is_known or metric.get("hf_evaluate")):
            raise SettingError(
                f"{where} has the metric {given!r:.60}, whose code would come from the Hugging Face hub. Give one of lm_eval's own: "
                f"{', '.join(sorted(metric_registry.keys()))}."
            )
    addresses = [
        *addresses_in(config.get("dataset_path")),
        *addresses_in(config.get("dataset_kwargs")),
    ]
    if addresses and not download:
        raise SettingError(
            f"{where} takes its rows from the network, and download is false. Put them beside the task file, or set download."
        )
