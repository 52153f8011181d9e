"""Reading the text of a specification, and saying what it is when it is not one."""

from __future__ import annotations

import graphlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value
from airflow_provider_llmops.specs.ir import needs_of
from airflow_provider_llmops.specs.messages import read_pipeline, read_platform

SCHEMA_VERSION = "2.1.0"  # the only one that the API server of Kubeflow Pipelines 2 takes
MAX_NAME_LENGTH = 128
MAX_NODES = 1_000_000
MAX_DEPTH = 100
# Numbers travel as IEEE doubles (google.protobuf.Value): beyond this, an integer arrives as another one.
MAX_INTEGER = 2**53 - 1

_PIPELINE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
# The compiler gives a task these, besides its component's inputs, where a pipeline's input or a task's output says them.
_OF_CONTAINERS = {
    "accelerator_count",
    "accelerator_type",
    "base_image",
    "cpu_limit",
    "cpu_request",
    "memory_limit",
    "memory_request",
}
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
    pipeline, platform = _sorted_out(_documents(text, where), where)
    ir = read_pipeline(pipeline, where)
    _check_pipeline(ir, where)
    if platform is None:
        return ir, None
    platform = read_platform(platform, where)
    _check_platform(platform, ir["deploymentSpec"].get("executors", {}), where)
    return ir, platform


def read_stored(stored: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Read what the server keeps of a version: its specification, or both documents in one object.

    The server has checked it, and may know fields that this provider does not.

    :param stored: as the server answers
    :param where: what to call it in messages
    :raises ConfigurationError: it is no specification of Kubeflow Pipelines 2
    """
    documents: list[Any] = [stored]
    if "pipeline_spec" in stored:
        documents = [stored["pipeline_spec"], stored.get("platform_spec")]
    pipeline, platform = _sorted_out([document for document in documents if document], where)
    ir = read_pipeline(pipeline, where, strict=False)
    _require_parts(ir, where)
    if platform:
        platform = read_platform(platform, where, strict=False)
    return ir, platform


def _sorted_out(documents: list[Any], where: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The pipeline's document, and its platform's if there is one."""
    pipelines: list[dict[str, Any]] = []
    platforms: list[dict[str, Any]] = []
    for document in documents:
        if not isinstance(document, dict):
            raise ConfigurationError(
                f"{where} holds a {type(document).__name__}, not a pipeline specification: {shown_value(document, 60)}. {_AGAIN}"
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
    if not _is_pipeline(pipelines[0]):
        raise ConfigurationError(
            f"{where} is no pipeline specification: it has no pipelineInfo and no root. {_AGAIN}"
        )
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
                raise ConfigurationError(
                    f"{path} has the key {shown_value(key)}; JSON has only text as keys."
                )
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
        f"{path} is a {type(value).__module__}.{type(value).__name__}, which JSON cannot carry: {shown_value(value)}. Convert it to "
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
    text = _without_header(text)
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


def _without_header(text: str) -> str:
    """The text without the comments before it, line for line.

    KFP's compiler writes descriptions and defaults into them as they are, and the line separators of Unicode, which YAML breaks
    lines at, end a comment.
    """
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if line and not line.startswith("#"):
            break
        lines[index] = ""
    return "\n".join(lines)


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
    return any(key in document for key in ("root", "pipelineInfo", "pipeline_info"))


def _require_parts(ir: dict[str, Any], where: str) -> None:
    missing = [key for key in ("pipelineInfo", "root", "deploymentSpec") if key not in ir]
    if missing:
        raise ConfigurationError(
            f"{where} is no pipeline specification: it has no {', '.join(missing)}. {_AGAIN}"
        )


def _check_pipeline(ir: dict[str, Any], where: str) -> None:
    """What the descriptors do not say: what has to be there, which names there may be, and what refers to what."""
    _require_parts(ir, where)
    if ir.get("schemaVersion") != SCHEMA_VERSION:
        raise ConfigurationError(
            f"{where} has schemaVersion {ir.get('schemaVersion')!r}; Kubeflow Pipelines 2 takes {SCHEMA_VERSION}. {_AGAIN}"
        )
    name = ir["pipelineInfo"].get("name", "")
    if not _PIPELINE_NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        raise ConfigurationError(
            f"{where}: pipelineInfo.name is {name!r:.200}; it must be lower-case letters, digits and '-', with one of the former "
            f"at both ends ('.' may join such names), and at most {MAX_NAME_LENGTH} characters. {_AGAIN}"
        )
    components = ir.get("components", {})
    executors = ir["deploymentSpec"].get("executors", {})
    if "dag" not in ir["root"]:
        raise ConfigurationError(f"{where}: root has no dag. {_AGAIN}")
    _check_component(ir["root"], components, executors, f"{where}: root")
    for key, component in components.items():
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
    inputs = component.get("inputDefinitions", {})
    for group, needed in (("parameters", "parameterType"), ("artifacts", "artifactType")):
        for name, declared in inputs.get(group, {}).items():
            if needed not in declared:
                raise ConfigurationError(f"{where}.inputDefinitions.{group}.{name} has no {needed}. {_AGAIN}")
    if "dag" not in component:
        label = str(component.get("executorLabel"))
        if label not in executors:
            raise ConfigurationError(
                f"{where} refers to an executor that is not there: {describe_unknown([label], executors)}. {_AGAIN}"
            )
        return
    tasks = component["dag"].get("tasks", {})
    if not tasks:
        raise ConfigurationError(f"{where}.dag has no tasks. {_AGAIN}")
    for name, task in tasks.items():
        place = f"{where}.dag.tasks.{name}"
        target = str(task.get("componentRef", {}).get("name"))
        if target not in components:
            raise ConfigurationError(
                f"{place} refers to a component that is not there: {describe_unknown([target], components)}. {_AGAIN}"
            )
        if unknown := describe_unknown(needs_of(task), tasks):
            raise ConfigurationError(f"{place} depends on a task that is not there: {unknown}. {_AGAIN}")
        for group, kind in (
            ("parameters", "componentInputParameter"),
            ("artifacts", "componentInputArtifact"),
        ):
            sources = task.get("inputs", {}).get(group, {}).values()
            taken = [source[kind] for source in sources if kind in source]
            if unknown := describe_unknown(taken, inputs.get(group, {})):
                raise ConfigurationError(
                    f"{place} takes an input that its pipeline does not have: {unknown}. {_AGAIN}"
                )
    for name, task in tasks.items():
        _check_given(task, tasks, components, executors, f"{where}.dag.tasks.{name}")
    _check_outputs(component["dag"], components, where)
    try:
        graphlib.TopologicalSorter({name: needs_of(task) for name, task in tasks.items()}).prepare()
    except graphlib.CycleError as error:
        raise ConfigurationError(
            f"{where}.dag: tasks wait for each other: {' -> '.join(error.args[1])}. {_AGAIN}"
        ) from error


def _check_given(
    task: dict[str, Any],
    tasks: dict[str, Any],
    components: dict[str, Any],
    executors: dict[str, Any],
    place: str,
) -> None:
    """What a task is given goes to inputs of its component, and comes from outputs of the others'."""
    component = components[task["componentRef"]["name"]]
    declared = component.get("inputDefinitions", {})
    executor = executors.get(component.get("executorLabel"), {})
    for group, kind in (("parameters", "Parameter"), ("artifacts", "Artifact")):
        given = task.get("inputs", {}).get(group, {})
        known = [
            *declared.get(group, {}),
            *(name for name in given if _fills_placeholders(name, task, executor)),
        ]
        if unknown := describe_unknown(given, known):
            raise ConfigurationError(
                f"{place}.inputs.{group} has an input that its component does not have: {unknown}. {_AGAIN}"
            )
        for name, source in given.items():
            if taken := source.get(f"taskOutput{kind}"):
                _check_output(
                    taken.get("producerTask"),
                    taken.get(f"output{kind}Key"),
                    tasks,
                    components,
                    group,
                    f"{place}.inputs.{group}.{name}",
                )


def _fills_placeholders(name: str, task: dict[str, Any], executor: dict[str, Any]) -> bool:
    """Whether the compiler has given a task an input for placeholders, or for the settings of its container."""
    is_of_container = "container" in executor and name in _OF_CONTAINERS
    return (
        is_of_container
        or name.startswith("pipelinechannel--")
        or f"['{name}']" in json.dumps([task, executor])
    )


def _check_outputs(dag: dict[str, Any], components: dict[str, Any], where: str) -> None:
    """What a pipeline gives comes from outputs of its tasks."""
    outputs = dag.get("outputs", {})
    for name, output in outputs.get("parameters", {}).items():
        one = [output["valueFromParameter"]] if "valueFromParameter" in output else []
        for selector in (*one, *output.get("valueFromOneof", {}).get("parameterSelectors", ())):
            _check_output(
                selector.get("producerSubtask"),
                selector.get("outputParameterKey"),
                dag["tasks"],
                components,
                "parameters",
                f"{where}.dag.outputs.parameters.{name}",
            )
    for name, output in outputs.get("artifacts", {}).items():
        for selector in output.get("artifactSelectors", ()):
            _check_output(
                selector.get("producerSubtask"),
                selector.get("outputArtifactKey"),
                dag["tasks"],
                components,
                "artifacts",
                f"{where}.dag.outputs.artifacts.{name}",
            )


def _check_output(
    task: str | None,
    key: str | None,
    tasks: dict[str, Any],
    components: dict[str, Any],
    group: str,
    place: str,
) -> None:
    if task not in tasks:
        raise ConfigurationError(
            f"{place} comes from a task that is not there: {describe_unknown([str(task)], tasks)}. {_AGAIN}"
        )
    component = components[tasks[task]["componentRef"]["name"]]
    declared = component.get("outputDefinitions", {}).get(group, {})
    if key not in declared:
        raise ConfigurationError(
            f"{place} takes an output that task {task!r} does not have: {describe_unknown([str(key)], declared)}. {_AGAIN}"
        )


def _check_platform(platform: dict[str, Any], executors: dict[str, Any], where: str) -> None:
    """Settings are for executors that there are: nobody would miss those of another one."""
    for name, document in platform.get("platforms", {}).items():
        labels = document.get("deploymentSpec", {}).get("executors", {})
        if unknown := describe_unknown(labels, executors):
            raise ConfigurationError(
                f"{where}: platforms.{name} has settings for an executor that is not there: {unknown}. {_AGAIN}"
            )


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
