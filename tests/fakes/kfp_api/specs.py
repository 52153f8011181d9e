"""Pipeline specs: what is refused, and how the two documents are kept.

Upstream: ``template/template.go``, ``template/v2_template.go`` and ``server/api_util.go``. Upstream reads a spec
into protocol buffers; here its first level is checked by name and type, which tells every kind of file that
is no pipeline spec.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import yaml

from .errors import ApiError, invalid, invalid_details

_INVALID_SPEC = "pipeline spec is invalid"
_FIELDS = {
    "pipelineInfo": dict,
    "deploymentSpec": dict,
    "schemaVersion": str,
    "sdkVersion": str,
    "components": dict,
    "root": dict,
    "defaultPipelineRoot": str,
}
_SNAKE = {re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name): name for name in _FIELDS}
_TYPES: dict[str, tuple[str, Any]] = {
    "NUMBER_DOUBLE": (
        "type double or integer, but the parameter value is not of number value type",
        (int, float),
    ),
    "NUMBER_INTEGER": (
        "type double or integer, but the parameter value is not of number value type",
        (int, float),
    ),
    "STRING": ("type string, but the input parameter is not of string value type", str),
    "BOOLEAN": ("type bool, but the input parameter is not of bool value type", bool),
    "LIST": ("type list, but the input parameter is not of list value type", list),
    "STRUCT": ("type struct, but the input parameter is not of struct value type", dict),
}


_SURROGATE_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F]")
_TASK_FIELDS = frozenset(
    [
        "taskInfo",
        "inputs",
        "dependentTasks",
        "cachingOptions",
        "componentRef",
        "triggerPolicy",
        "artifactIterator",
        "parameterIterator",
        "retryPolicy",
        "iteratorPolicy",
    ]
)
# KubernetesExecutorConfig of kubernetes_platform/proto/kubernetes_executor_config.proto
_EXECUTOR_FIELDS = frozenset(
    [
        "secretAsVolume",
        "secretAsEnv",
        "pvcMount",
        "nodeSelector",
        "podMetadata",
        "imagePullSecret",
        "imagePullPolicy",
        "configMapAsVolume",
        "configMapAsEnv",
        "activeDeadlineSeconds",
        "fieldPathAsEnv",
        "tolerations",
        "genericEphemeralVolume",
        "nodeAffinity",
        "podAffinity",
        "enabledSharedMemory",
        "emptyDirMounts",
        "securityContext",
    ]
)


class Spec:
    """A pipeline spec with its platform spec."""

    def __init__(self, documents: list[Any]) -> None:
        self.documents = documents
        pipelines = [document for document in documents if _is_pipeline(document)]
        self.argo = not pipelines and any(_is_argo(document) for document in documents)
        if self.argo:
            # Upstream runs Argo workflows (KFP v1 packages) from this API too, unless an administrator forbids it.
            self.pipeline: dict[str, Any] = {}
            return
        if not pipelines:
            raise invalid_details(_INVALID_SPEC, "unknown template format")
        if len(pipelines) > 1:
            raise invalid_details(_INVALID_SPEC, "multiple pipeline specs provided")
        self.pipeline = _canonical(pipelines[0])
        version = self.pipeline.get("schemaVersion", "")
        if version != "2.1.0":
            raise invalid_details(
                _INVALID_SPEC,
                f"KFP only supports schema version 2.1.0, but the pipeline spec has version {version}",
            )

    @classmethod
    def from_text(cls, text: str) -> Spec:
        try:
            documents = [document for document in yaml.safe_load_all(text) if document is not None]
        except yaml.YAMLError as error:
            raise invalid_details(
                _INVALID_SPEC, f"failed to parse pipeline spec YAML: yaml: {_as_go_says(error)}"
            ) from error
        if _SURROGATE_ESCAPE.search(text):
            # The reader of the tests takes such pairs, that of upstream (go-yaml) none of them.
            raise invalid_details(
                _INVALID_SPEC,
                "failed to parse pipeline spec YAML: yaml: found invalid Unicode character escape code",
            )
        return cls(documents)

    @classmethod
    def from_struct(cls, struct: dict[str, Any]) -> Spec:
        """The field ``pipeline_spec`` of a run: the bare spec, or both documents under their names."""
        if "pipeline_spec" not in struct:
            return cls([struct])
        documents = [struct["pipeline_spec"]]
        if "platform_spec" in struct:
            documents.append(struct["platform_spec"])
        return cls(documents)

    @property
    def name(self) -> str:
        return str(self.pipeline.get("pipelineInfo", {}).get("name", "workflow"))

    @cached_property
    def encoded(self) -> bytes:
        return json.dumps(self.struct, separators=(",", ":")).encode()

    @cached_property
    def struct(self) -> dict[str, Any]:
        """How answers show it (``YamlStringToPipelineSpecStruct``): both documents only if the second names
        the platform ``kubernetes``; any other second document takes the place of the first."""
        pipeline: dict[str, Any] = {}
        platform = None
        for document in self.documents:
            if _is_platform(document):
                platform = document
            else:
                pipeline = document
        if platform is None:
            return pipeline
        return {"pipeline_spec": pipeline, "platform_spec": platform}

    def compile_fault(self) -> str | None:
        """What the compiler, which runs after all else was found to be right, says of the specification."""
        for name, dag in self._dags():
            if any("artifactIterator" in task for task in dag.get("tasks", {}).values()):
                return f'compiling DAG "{name}": artifact iterator not implemented yet'
        for document in self.documents:
            if _is_platform(document):
                executors = document["platforms"]["kubernetes"].get("deploymentSpec", {}).get("executors", {})
                for label, settings in executors.items():
                    if unknown := next((key for key in settings if key not in _EXECUTOR_FIELDS), None):
                        component = f"comp-{label.removeprefix('exec-')}"
                        return (
                            f'error processing component name="{component}": failed to add Kubernetes spec for {component}: failed to '
                            f'unmarshal kubernetes spec for component "{component}": proto: (line 1:2): unknown field "{unknown}"'
                        )
        return None

    def _dags(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if self.argo:
            return
        for name, component in {"root": self.pipeline["root"], **self.pipeline.get("components", {})}.items():
            yield name, component.get("dag") or {}

    def check_parameters(self, given: dict[str, Any]) -> None:
        """``validatePipelineJobInputs``."""
        if self.argo:
            return
        definitions = (self.pipeline["root"].get("inputDefinitions") or {}).get("parameters") or {}
        for name, definition in definitions.items():
            if name in given:
                _check_type(name, definition.get("parameterType", ""), given[name])
                literals = definition.get("literals")
                if literals and given[name] not in literals:
                    raise invalid(
                        f'input parameter "{name}" value {given[name]} does not match any of the allowed literal '
                        f"values: {literals}"
                    )
            elif not definition.get("isOptional") and "defaultValue" not in definition:
                raise invalid(
                    f"parameter {name} is not optional, yet has neither default value nor user provided value"
                )
        extra = [name for name in given if name not in definitions]
        if extra:
            raise invalid(f"parameter(s) provided are not required by pipeline: {', '.join(extra)}")


def check_pipeline_name(name: str) -> None:
    """``common.ValidatePipelineName``: for the name inside an uploaded spec."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,127}", name):
        raise invalid(
            "pipeline's name must contain only lowercase alphanumeric characters or '-' and must start with "
            "alphanumeric characters"
        )


def check_tags(tags: dict[str, str]) -> None:
    """``model.ValidateTags``: a hex SHA-256 is one character too long for a value."""
    if len(tags) > 20:
        raise invalid(f"number of tags ({len(tags)}) exceeds maximum of 20 per entity")
    for key, value in tags.items():
        if not key:
            raise invalid("tag key cannot be empty")
        if "." in key:
            raise invalid(f"tag key \"{key}\" must not contain '.' character")
        if len(key) > 63:
            raise invalid(f'tag key "{key}" exceeds maximum length of 63 characters')
        if len(value) > 63:
            raise invalid(f'tag value "{value}" for key "{key}" exceeds maximum length of 63 characters')


def _as_go_says(error: yaml.YAMLError) -> str:
    """In the words of go-yaml, which are those of libyaml."""
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or error)
    if "expected the node content" in problem:
        problem = "did not find expected node content"
    return f"line {mark.line + 1}: {problem}" if mark else problem


def _check_type(name: str, kind: str, value: Any) -> None:
    if kind not in _TYPES:
        raise invalid(f"input parameter {name} requires type {kind or 'unknown'}")
    description, types = _TYPES[kind]
    if not isinstance(value, types) or (isinstance(value, bool) and kind != "BOOLEAN"):
        raise invalid(f"input parameter {name} requires {description}")


def _is_pipeline(document: Any) -> bool:
    try:
        spec = _canonical(document)
    except ApiError:
        return False
    return bool((spec.get("pipelineInfo") or {}).get("name")) and "root" in spec


def _canonical(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise invalid("not a mapping")
    spec: dict[str, Any] = {}
    for key, value in document.items():
        name = _SNAKE.get(key, key)
        if name not in _FIELDS or not isinstance(value, _FIELDS[name]):
            raise invalid(f'unknown field "{key}"')
        spec[name] = value
    for component in (spec.get("root") or {}, *(spec.get("components") or {}).values()):
        for task in (component.get("dag") or {}).get("tasks", {}).values():
            if unknown := set(task) - _TASK_FIELDS:
                raise invalid(f'unknown field "{min(unknown)}"')
    return spec


def _is_platform(document: Any) -> bool:
    return (
        isinstance(document, dict)
        and set(document) == {"platforms"}
        and isinstance(document["platforms"], dict)
        and "kubernetes" in document["platforms"]
    )


def _is_argo(document: Any) -> bool:
    return (
        isinstance(document, dict)
        and str(document.get("apiVersion", "")).startswith("argoproj.io/")
        and document.get("kind") == "Workflow"
    )
