"""Reading the text of a specification, and saying what it is when it is not one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from airflow_provider_llmops.exceptions import ConfigurationError, shown_value
from airflow_provider_llmops.specs.checking import (
    COMPILE_AGAIN,
    check_pipeline,
    check_platform,
    require_parts,
)
from airflow_provider_llmops.specs.json_values import MAX_DEPTH, check_json
from airflow_provider_llmops.specs.messages import read_pipeline, read_platform

MAX_NODES = 1_000_000

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_documents(content: bytes, where: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Read a pipeline specification and, where there is one, its platform specification.

    :param content: YAML of one or two documents, or JSON
    :param where: what to call it in messages
    :raises ConfigurationError: it is something else, or its parts do not fit together
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{where} is not text in UTF-8: {error}. {COMPILE_AGAIN}") from error
    pipeline, platform = _sorted_out(_documents(text, where), where)
    ir = read_pipeline(pipeline, where)
    check_pipeline(ir, where)
    if platform is None:
        return ir, None
    platform = read_platform(platform, where)
    check_platform(platform, ir, where)
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
    require_parts(ir, where)
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
                f"{where} holds a {type(document).__name__}, not a pipeline specification: {shown_value(document, 60)}. {COMPILE_AGAIN}"
            )
        _refuse_other_kinds(document, where)
        check_json(document, f"{where}: $")
        is_platform = "platforms" in document and "root" not in document
        (platforms if is_platform else pipelines).append(document)
    if len(pipelines) > 1 and not _is_pipeline(pipelines[1]):
        raise ConfigurationError(
            f"{where}: the second document is no platform specification (it has no 'platforms:'). {COMPILE_AGAIN}"
        )
    if len(pipelines) > 1 or len(platforms) > 1:
        raise ConfigurationError(
            f"{where} holds {len(pipelines)} pipeline and {len(platforms)} platform specifications. Put each pipeline into "
            "a file of its own."
        )
    if not pipelines:
        raise ConfigurationError(
            f"{where} {'holds a platform specification alone' if platforms else 'is empty'}. {COMPILE_AGAIN}"
        )
    if not _is_pipeline(pipelines[0]):
        raise ConfigurationError(
            f"{where} is no pipeline specification: it has no pipelineInfo and no root. {COMPILE_AGAIN}"
        )
    return pipelines[0], platforms[0] if platforms else None


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
        raise ConfigurationError(
            f"{where}{place}: not valid YAML: {error.problem}. {COMPILE_AGAIN}"
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a timestamp such as 2024-13-13
        raise ConfigurationError(
            f"{where} is not valid YAML: {str(error).replace(chr(10), ' ')}. {COMPILE_AGAIN}"
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
                f"{place}: YAML aliases (*{event.anchor}) are not accepted; the KFP compiler writes none. {COMPILE_AGAIN}"
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise ConfigurationError(
                f"{place}: more than {MAX_DEPTH} levels or {MAX_NODES} values. {COMPILE_AGAIN}"
            )


def _is_pipeline(document: dict[str, Any]) -> bool:
    return any(key in document for key in ("root", "pipelineInfo", "pipeline_info"))


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
    raise ConfigurationError(f"{where} is {what}, not a pipeline specification of KFP 2. {COMPILE_AGAIN}")
