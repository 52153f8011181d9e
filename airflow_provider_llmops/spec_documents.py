"""Reading the text of a specification, and saying what it is when it is not one."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import yaml

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown

SCHEMA_VERSION = "2.1.0"  # the only one that the API server of Kubeflow Pipelines 2 takes
MAX_NODES = 1_000_000
MAX_DEPTH = 100
# Numbers travel as IEEE doubles (google.protobuf.Value): beyond this, an integer arrives as another one.
MAX_INTEGER = 2**53 - 1

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_AGAIN = "Compile it again with kfp 2: compiler.Compiler().compile(pipeline, 'pipeline.yaml')."


def parse_documents(content: bytes, where: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Read a pipeline specification and, where there is one, its platform specification.

    :param content: YAML of one or two documents, or JSON
    :param where: what to call it in messages
    :raises ConfigurationError: it is something else, or its parts do not fit together
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{where} is not text in UTF-8: {error}. {_AGAIN}") from error
    pipelines: list[dict[str, Any]] = []
    platforms: list[dict[str, Any]] = []
    for document in _documents(text, where):
        if not isinstance(document, dict):
            raise ConfigurationError(
                f"{where} holds a {type(document).__name__}, not a pipeline specification: {document!r:.60}. {_AGAIN}"
            )
        _refuse_other_kinds(document, where)
        check_json(document, f"{where}: $")
        is_platform = "platforms" in document and "root" not in document
        (platforms if is_platform else pipelines).append(document)
    if len(pipelines) > 1 and not _is_pipeline(pipelines[1]):
        raise ConfigurationError(
            f"{where}: the second document is no platform specification (it has no 'platforms:'). {_AGAIN}"
        )
    if len(pipelines) > 1 or len(platforms) > 1:
        raise ConfigurationError(
            f"{where} holds {len(pipelines)} pipeline and {len(platforms)} platform specifications. Put each pipeline into "
            "a file of its own."
        )
    if not pipelines:
        raise ConfigurationError(
            f"{where} {'holds a platform specification alone' if platforms else 'is empty'}. {_AGAIN}"
        )
    _check_pipeline(pipelines[0], where)
    if platforms:
        _check_platform(platforms[0], where)
    return pipelines[0], platforms[0] if platforms else None


def check_json(value: Any, path: str) -> Any:
    """Copy a value, making sure that JSON and protobuf carry it unchanged.

    :param value: what somebody gave
    :param path: its name in messages
    :return: the same in dicts, lists, text, numbers, booleans and ``None``
    :raises ConfigurationError: naming the part that cannot be carried
    """
    return _copy(value, path, 0)


def _copy(value: Any, path: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ConfigurationError(f"{path:.200}... is nested deeper than {MAX_DEPTH} levels.")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ConfigurationError(f"{path} has the key {key!r:.80}; JSON has only text as keys.")
        return {key: _copy(item, f"{path}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise ConfigurationError(
                f"{path} is {value!r:.40}; integers beyond 2**53 - 1 arrive changed. Pass it as text."
            )
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigurationError(f"{path} is {value}, which JSON cannot carry. Leave it out.")
        return value
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ConfigurationError(f"{path} holds half a surrogate pair, which is no valid text.")
        return value
    raise ConfigurationError(
        f"{path} is a {type(value).__module__}.{type(value).__name__}, which JSON cannot carry: {value!r:.80}. Convert it to "
        "text or a number."
    )


def _documents(text: str, where: str) -> list[Any]:
    start = text.lstrip()[:15].lower()
    if start.startswith(("<!doctype html", "<html", "<?xml", "<head", "<body")):
        raise ConfigurationError(
            f"{where} holds a web page, not a specification: perhaps a login page, or the view of a file instead of its raw "
            "text. Use an address that answers with the YAML itself."
        )
    if start.startswith("{"):
        try:
            return [json.loads(text)]
        except (
            ValueError,
            RecursionError,
        ):  # YAML may start like this as well, and its parser has the better words
            pass
    try:
        _refuse_bombs(text, where)
        return [document for document in yaml.load_all(text, Loader=_LOADER) if document is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigurationError(f"{where}{place}: not valid YAML: {error.problem}. {_AGAIN}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a timestamp such as 2024-13-13
        raise ConfigurationError(
            f"{where} is not valid YAML: {str(error).replace(chr(10), ' ')}. {_AGAIN}"
        ) from error


def _refuse_bombs(text: str, where: str) -> None:
    """Stop before anything is built: a few lines of aliases expand to gigabytes, deep nesting overflows the stack."""
    depth = 0
    for nodes, event in enumerate(yaml.parse(text, Loader=_LOADER)):
        place = f"{where}, line {event.start_mark.line + 1}" if event.start_mark else where
        if isinstance(event, yaml.AliasEvent):
            raise ConfigurationError(
                f"{place}: YAML aliases (*{event.anchor}) are not accepted; the KFP compiler writes none. {_AGAIN}"
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise ConfigurationError(f"{place}: more than {MAX_DEPTH} levels or {MAX_NODES} values. {_AGAIN}")


def _is_pipeline(document: dict[str, Any]) -> bool:
    return "root" in document or "pipelineInfo" in document


def _check_pipeline(ir: dict[str, Any], where: str) -> None:
    missing = [key for key in ("pipelineInfo", "root", "deploymentSpec") if key not in ir]
    if missing:
        raise ConfigurationError(
            f"{where} is no pipeline specification: it has no {', '.join(missing)}. {_AGAIN}"
        )
    if ir.get("schemaVersion") != SCHEMA_VERSION:
        raise ConfigurationError(
            f"{where} has schemaVersion {ir.get('schemaVersion')!r}; Kubeflow Pipelines 2 takes {SCHEMA_VERSION}. {_AGAIN}"
        )
    name = _mapping(ir, "pipelineInfo", where).get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name):
        raise ConfigurationError(
            f"{where}: pipelineInfo.name is {name!r}; it must be lower-case letters, digits, '-' and '.'. {_AGAIN}"
        )
    components = _mapping(ir, "components", where)
    executors = _mapping(_mapping(ir, "deploymentSpec", where), "executors", f"{where}: deploymentSpec")
    for key in executors:
        _mapping(executors, key, f"{where}: deploymentSpec.executors")
    if "dag" not in _mapping(ir, "root", where):
        raise ConfigurationError(f"{where}: root has no dag. {_AGAIN}")
    _check_component(ir["root"], components, executors, f"{where}: root")
    for key in components:
        component = _mapping(components, key, f"{where}: components")
        _check_component(component, components, executors, f"{where}: components.{key}")
    _check_acyclic(ir, where)


def _refuse_other_kinds(document: dict[str, Any], where: str) -> None:
    kind, version = document.get("kind"), str(document.get("apiVersion", ""))
    if kind == "Workflow" and version.startswith("argoproj.io/"):
        what = "an Argo Workflow, which is what KFP v1 compiled to"
    elif version.startswith("pipelines.kubeflow.org/"):
        what = (
            f"a Kubernetes manifest ({kind}) around a pipeline; compile it without kubernetes_manifest_format"
        )
    elif kind is not None and version:
        what = f"a Kubernetes manifest ({version} {kind})"
    elif "implementation" in document:
        what = "a component of KFP v1; load it with kfp.components.load_component_from_file and compile that"
    elif "pipelineSpec" in document and "root" not in document:
        what = "a pipeline job; its specification is the part under 'pipelineSpec'"
    else:
        return
    raise ConfigurationError(f"{where} is {what}, not a pipeline specification of KFP 2. {_AGAIN}")


def _check_component(
    component: dict[str, Any], components: dict[str, Any], executors: dict[str, Any], where: str
) -> None:
    for group in ("parameters", "artifacts"):
        declared = _mapping(
            _mapping(component, "inputDefinitions", where), group, f"{where}.inputDefinitions"
        )
        for name in declared:
            _mapping(declared, name, f"{where}.inputDefinitions.{group}")
            needed = "parameterType" if group == "parameters" else "artifactType"
            if needed not in declared[name]:
                raise ConfigurationError(f"{where}.inputDefinitions.{group}.{name} has no {needed}. {_AGAIN}")
    if "dag" not in component:
        label = str(component.get("executorLabel"))
        if label not in executors:
            raise ConfigurationError(
                f"{where} refers to an executor that is not there: {describe_unknown([label], executors)}. {_AGAIN}"
            )
        return
    tasks = _mapping(_mapping(component, "dag", where), "tasks", f"{where}.dag")
    if not tasks:
        raise ConfigurationError(f"{where}.dag has no tasks. {_AGAIN}")
    for name in tasks:
        task = _mapping(tasks, name, f"{where}.dag.tasks")
        place = f"{where}.dag.tasks.{name}"
        target = str(_mapping(task, "componentRef", place).get("name"))
        if target not in components:
            raise ConfigurationError(
                f"{place} refers to a component that is not there: {describe_unknown([target], components)}. {_AGAIN}"
            )
        for group in ("parameters", "artifacts"):
            sources = _mapping(_mapping(task, "inputs", place), group, f"{place}.inputs")
            for key in sources:
                _mapping(sources, key, f"{place}.inputs.{group}")


def _check_acyclic(ir: dict[str, Any], where: str) -> None:
    done: set[str] = set()

    def visit(component: dict[str, Any], above: tuple[str, ...]) -> None:
        for task in component.get("dag", {}).get("tasks", {}).values():
            name = task["componentRef"]["name"]
            if name in above or len(above) > MAX_DEPTH:
                raise ConfigurationError(f"{where}: component {name!r} contains itself. {_AGAIN}")
            if name not in done:
                visit(ir["components"][name], (*above, name))
                done.add(name)

    visit(ir["root"], ())


def _check_platform(platform: dict[str, Any], where: str) -> None:
    platforms = _mapping(platform, "platforms", f"{where}, platform specification")
    for name in platforms:
        place = f"{where}: platforms.{name}"
        deployment = _mapping(_mapping(platforms, name, place), "deploymentSpec", place)
        executors = _mapping(deployment, "executors", f"{place}.deploymentSpec")
        for key in executors:
            _mapping(executors, key, f"{place}.deploymentSpec.executors")


def _mapping(parent: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """A part that must be a mapping; an empty one where it is missing."""
    value = parent.get(key, {})
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where}.{key} is a {type(value).__name__}, not a mapping. {_AGAIN}")
    return value
