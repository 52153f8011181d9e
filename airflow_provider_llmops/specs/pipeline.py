"""Compiled pipeline specifications: the only door between the two planes.

A specification is KFP's pipeline IR, and perhaps a second document with settings of the platform. Its inputs may be
artifacts; an Airflow task has URIs. :meth:`PipelineSpec.bind` joins the two: it puts an importer in front of each
artifact input and checks every argument against its declared type, so that a typo is an error before anything is
submitted.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value
from airflow_provider_llmops.specs.declared import Kinds, converted
from airflow_provider_llmops.specs.documents import parse_documents, read_stored
from airflow_provider_llmops.specs.files import read_source, shown
from airflow_provider_llmops.specs.ir import (
    add_importer,
    component_key,
    drop_absent_artifacts,
    name_apart,
    rename_apart,
    set_caching,
)
from airflow_provider_llmops.specs.json_values import check_json
from airflow_provider_llmops.specs.placeholders import refuse_placeholders

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list, tuple),
    "STRUCT": (dict,),
}


# The same in the words of :mod:`~airflow_provider_llmops.specs.declared`.
_KINDS: dict[str, Kinds] = {
    "STRING": ["str"],
    "NUMBER_INTEGER": ["int"],
    "NUMBER_DOUBLE": ["float"],
    "BOOLEAN": ["bool"],
    "LIST": [{"list": ["any"]}],
    "STRUCT": [{"dict": ["any"]}],
}


@dataclass(frozen=True)
class BoundPipeline:
    """A pipeline that is ready to be submitted.

    :param spec: pipeline IR whose inputs are all parameters
    :param parameters: their values
    :param platform: platform specification, the second document, if there is one
    :param artifact_parameters: of the parameters that are URIs of artifacts, each with the name of its input
    """

    spec: dict[str, Any]
    parameters: dict[str, Any]
    platform: dict[str, Any] | None = None
    artifact_parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The pipeline's name, by which a backend files its runs."""
        return str(self.spec["pipelineInfo"]["name"])


@dataclass(frozen=True)
class PipelineSpec:
    """A compiled pipeline or component.

    :param name: its name, for messages
    :param ir: KFP pipeline IR
    :param digest: digest of the text that it was read from, ``sha256:<hex>``
    :param platform: platform specification, the second document, if there is one
    """

    name: str
    ir: dict[str, Any]
    digest: str
    platform: dict[str, Any] | None = None

    @classmethod
    @functools.cache
    def packaged(cls, name: str) -> PipelineSpec:
        """Read a component that this package ships.

        Its caching is off: what may be reused is decided by the operator, not by the backend that carries it out.

        :param name: name of the component, for example ``train_sft``
        :raises ConfigurationError: there is no such component
        """
        directory = resources.files("airflow_provider_llmops") / "components"
        names = sorted(
            file.name.removesuffix(".yaml") for file in directory.iterdir() if file.name.endswith(".yaml")
        )
        if name not in names:
            raise ConfigurationError(
                f"There is no packaged component {describe_unknown([name], names)}. There are: {', '.join(names)}."
            )
        content = (directory / f"{name}.yaml").read_bytes()
        spec = cls.parse(content, where=f"{name}.yaml", name=name)
        set_caching(spec.ir, False)
        return spec

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> PipelineSpec:
        """Read what the KFP compiler wrote.

        :param source: path, or URL of scheme http, https, file, or of an object store that Airflow knows (``s3``, ``gs``,
            ...); YAML, JSON, or a ``.zip`` or ``.tar.gz`` package with one YAML in it
        :raises ConfigurationError: there is no such file, or it is no specification that Kubeflow Pipelines 2 takes
        :raises ApiUnavailableError: the server of the address cannot be reached
        """
        return cls.parse(read_source(source), where=shown(source))

    @classmethod
    def parse(cls, content: bytes, *, where: str, name: str | None = None) -> PipelineSpec:
        """Read the text of a specification.

        :param content: YAML or JSON, one document or two
        :param where: where it came from, for messages
        :param name: its name, for messages; its own when ``None``
        :raises ConfigurationError: it is no specification that Kubeflow Pipelines 2 takes
        """
        ir, platform = parse_documents(content, where)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return cls(name=name or ir["pipelineInfo"]["name"], ir=ir, digest=digest, platform=platform)

    @classmethod
    def stored(cls, version: Mapping[str, Any], *, where: str) -> PipelineSpec:
        """Read what a server keeps of a version.

        :param version: its pipeline specification, or that and its platform specification in one object
        :param where: where it came from, for messages
        :raises ConfigurationError: it is no specification of Kubeflow Pipelines 2
        """
        ir, platform = read_stored(version, where)
        digest = hashlib.sha256(json.dumps(version, sort_keys=True).encode()).hexdigest()
        return cls(name=ir["pipelineInfo"]["name"], ir=ir, digest=f"sha256:{digest}", platform=platform)

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """Declared inputs by name; artifact inputs have ``artifactType``, parameters ``parameterType``."""
        declared = self.ir["root"].get("inputDefinitions", {})
        return {**declared.get("parameters", {}), **declared.get("artifacts", {})}

    @property
    def pipeline_name(self) -> str:
        """The name that the pipeline has once it is bound."""
        return name_apart(self.ir)

    @property
    def image(self) -> str:
        """The image that a component was compiled for; that of one of its steps, if it has several."""
        executor: dict[str, Any] = next(iter(self.ir["deploymentSpec"]["executors"].values()), {})
        return str(executor.get("container", {}).get("image", ""))

    def bind(self, arguments: Mapping[str, Any], *, caching: bool | None = None) -> BoundPipeline:
        """Check arguments and make the pipeline runnable from parameters alone.

        Which parameters are given does not change the specification: those that are not, the server passes on as null,
        and a step's own default holds.

        :param arguments: value of each input; the URI for an artifact input. ``None`` means not given.
        :param caching: whether steps may take results of earlier runs from the backend's cache; ``None`` keeps what was
            compiled
        :raises ConfigurationError: an argument is unknown, missing or of the wrong type, or has placeholders in it
        """
        values = self.check(arguments)
        ir = copy.deepcopy(self.ir)
        rename_apart(ir)
        if caching is not None:
            set_caching(ir, caching)
        parameters = {}
        artifact_parameters = {}
        for name, value in values.items():
            declared = self.inputs[name]
            if "artifactType" in declared:
                parameter = add_importer(ir, name, declared)
                artifact_parameters[parameter] = name
                parameters[parameter] = value
            else:
                parameters[name] = value
        drop_absent_artifacts(ir, ir["root"], values.keys())
        return BoundPipeline(
            spec=ir,
            parameters=parameters,
            platform=copy.deepcopy(self.platform),
            artifact_parameters=artifact_parameters,
        )

    def check(self, arguments: Mapping[str, Any], *, elsewhere: Collection[str] = ()) -> dict[str, Any]:
        """Values of the inputs that were given, in their declared types.

        :param arguments: value of each input; the URI for an artifact input. ``None`` means not given.
        :param elsewhere: inputs that get theirs from elsewhere
        :raises ConfigurationError: an argument is unknown, missing or of the wrong type, or has placeholders in it
        """
        inputs = self.inputs
        read = {name: _as_declared(value, inputs.get(name, {})) for name, value in arguments.items()}
        given = {name: value for name, value in read.items() if value is not None}
        if unknown := describe_unknown(given, inputs):
            has = f"Its inputs: {', '.join(sorted(inputs))}." if inputs else "It has none."
            raise ConfigurationError(f"{self._label} has no input {unknown}. {has}")
        missing = [
            name
            for name, declared in inputs.items()
            if name not in given
            and name not in elsewhere
            and not declared.get("isOptional")
            and "defaultValue" not in declared
        ]
        if missing:
            raise ConfigurationError(f"{self._label} needs a value for: {', '.join(missing)}.")
        checked = {
            name: (self._checked_uri if "artifactType" in inputs[name] else self._checked)(
                name, value, inputs[name]
            )
            for name, value in given.items()
        }
        for name, value in checked.items():
            refuse_placeholders(f"{self._label}: input {name!r}", value)
        return checked

    @property
    def _label(self) -> str:
        is_component = component_key(self.ir["pipelineInfo"]["name"]) in self.ir["components"]
        return f"{'Component' if is_component else 'Pipeline'} {self.name}"

    def _checked(self, name: str, value: Any, declared: Mapping[str, Any]) -> Any:
        parameter_type = declared["parameterType"]
        if parameter_type not in _PYTHON_TYPES:  # TASK_FINAL_STATUS, TASK_CONFIG
            raise ConfigurationError(
                f"{self._label}: input {name!r} is of type {parameter_type}, which Kubeflow Pipelines itself fills in. Leave "
                "it out."
            )
        expected = _PYTHON_TYPES[parameter_type]
        is_number = isinstance(value, bool) and parameter_type.startswith("NUMBER")
        if not isinstance(value, expected) or is_number:
            raise ConfigurationError(
                f"{self._label}: input {name!r} must be {' or '.join(t.__name__ for t in expected)}, got "
                f"{type(value).__name__} {shown_value(value)}."
            )
        try:
            checked = check_json(value, name)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self._label}: input {error}") from error
        if parameter_type == "NUMBER_DOUBLE":
            checked = float(checked)
        literals = declared.get("literals")
        if literals and checked not in literals:
            raise ConfigurationError(
                f"{self._label}: input {name!r} is {shown_value(checked)}; it must be one of "
                f"{', '.join(repr(literal) for literal in literals)}."
            )
        return checked

    def _checked_uri(self, name: str, value: Any, declared: Mapping[str, Any]) -> str:
        if declared.get("isArtifactList"):
            raise ConfigurationError(
                f"{self._label}: input {name!r} is a list of artifacts, which cannot be given to a run. Let a step of the "
                "pipeline make it."
            )
        if not isinstance(value, str) or not value or any(character in value for character in "\0\r\n"):
            raise ConfigurationError(
                f"{self._label}: input {name!r} is an artifact and takes its URI as text, got {shown_value(value)}."
            )
        return value


def _as_declared(value: Any, declared: Mapping[str, Any]) -> Any:
    """A value that a template made text, as what the input takes; anything else as it is."""
    kinds = _KINDS.get(declared.get("parameterType", ""))
    if kinds is None or not isinstance(value, str):
        return value
    is_optional = declared.get("isOptional") or "defaultValue" in declared
    return converted(value, [*kinds, "null"] if is_optional else kinds, "", {}, strict=False)
