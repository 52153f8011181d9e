"""Compiled component specifications: the only door between the two planes.

A specification is KFP's pipeline IR. A component has typed artifact inputs; an Airflow task has URIs. :meth:`bind`
joins the two: it puts an importer in front of each artifact input and checks every argument against its declared
type, so that a typo is an error before anything is submitted.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list, tuple),
    "STRUCT": (dict,),
}


@dataclass(frozen=True)
class BoundPipeline:
    """A pipeline that is ready to be submitted.

    :param spec: pipeline IR whose inputs are all parameters
    :param parameters: their values
    """

    spec: dict[str, Any]
    parameters: dict[str, Any]


@dataclass(frozen=True)
class PipelineSpec:
    """A compiled component.

    :param name: name of the component, for messages
    :param ir: KFP pipeline IR
    :param digest: digest of the text that it was read from, ``sha256:<hex>``
    """

    name: str
    ir: dict[str, Any]
    digest: str

    @classmethod
    @functools.cache
    def packaged(cls, name: str) -> PipelineSpec:
        """Read a component that this package ships.

        :param name: name of the component, for example ``train_sft``
        :raises ConfigurationError: there is no such component
        """
        import yaml

        directory = resources.files("airflow_provider_llmops") / "components"
        names = sorted(
            file.name.removesuffix(".yaml") for file in directory.iterdir() if file.name.endswith(".yaml")
        )
        if name not in names:
            raise ConfigurationError(
                f"There is no packaged component {describe_unknown([name], names)}. There are: {', '.join(names)}."
            )
        text = (directory / f"{name}.yaml").read_bytes()
        ir = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return cls(name=name, ir=ir, digest=f"sha256:{hashlib.sha256(text).hexdigest()}")

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """Declared inputs by name; artifact inputs have ``artifactType``, parameters ``parameterType``."""
        declared = self.ir["root"].get("inputDefinitions", {})
        return {**declared.get("parameters", {}), **declared.get("artifacts", {})}

    def bind(self, arguments: Mapping[str, Any]) -> BoundPipeline:
        """Check arguments and make the component runnable from parameters alone.

        :param arguments: value of each input; the URI for an artifact input. ``None`` means not given.
        :raises ConfigurationError: an argument is unknown, missing or of the wrong type
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        if unknown := describe_unknown(given, self.inputs):
            raise ConfigurationError(
                f"Component {self.name} has no input {unknown}. Its inputs: {', '.join(sorted(self.inputs))}."
            )
        missing = [
            name
            for name, declared in self.inputs.items()
            if name not in given and not declared.get("isOptional") and "defaultValue" not in declared
        ]
        if missing:
            raise ConfigurationError(f"Component {self.name} needs a value for: {', '.join(missing)}.")

        ir = copy.deepcopy(self.ir)
        # A pipeline named like its only component is read back as that component, importers left out.
        ir["pipelineInfo"]["name"] += "-run"
        # Reuse of earlier results is decided by the operator, not by the cache of whatever backend carries it out.
        for task in ir["root"]["dag"]["tasks"].values():
            task["cachingOptions"] = {}
        parameters = {}
        for name, value in given.items():
            declared = self.inputs[name]
            if "artifactType" in declared:
                parameters[_add_importer(ir, name, declared)] = self._checked_uri(name, value)
            else:
                parameters[name] = self._checked(name, value, declared["parameterType"])
        _drop_absent(ir, parameters)
        return BoundPipeline(spec=ir, parameters=parameters)

    def _checked(self, name: str, value: Any, parameter_type: str) -> Any:
        expected = _PYTHON_TYPES[parameter_type]
        is_number = isinstance(value, bool) and parameter_type.startswith("NUMBER")
        if not isinstance(value, expected) or is_number:
            raise ConfigurationError(
                f"Component {self.name}: input {name!r} must be {' or '.join(t.__name__ for t in expected)}, got "
                f"{type(value).__name__} {value!r:.80}. A templated number stays a number only in a DAG with "
                "render_template_as_native_obj=True."
            )
        if isinstance(value, int) and parameter_type == "NUMBER_DOUBLE":
            return float(value)
        return list(value) if isinstance(value, tuple) else value

    def _checked_uri(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or not value or any(character in value for character in "\0\r\n"):
            raise ConfigurationError(
                f"Component {self.name}: input {name!r} is an artifact and takes its URI as text, got {value!r:.80}."
            )
        return value


def _add_importer(ir: dict[str, Any], name: str, declared: dict[str, Any]) -> str:
    """Feed an artifact input from an importer; returns the name of the new URI parameter."""
    key = f"import-{name.replace('_', '-')}"
    parameter = f"{name}_uri"
    artifact_type = declared["artifactType"]
    ir["components"][f"comp-{key}"] = {
        "executorLabel": f"exec-{key}",
        "inputDefinitions": {"parameters": {"uri": {"parameterType": "STRING"}}},
        "outputDefinitions": {"artifacts": {"artifact": {"artifactType": artifact_type}}},
    }
    ir["deploymentSpec"]["executors"][f"exec-{key}"] = {
        "importer": {"artifactUri": {"runtimeParameter": "uri"}, "typeSchema": artifact_type}
    }
    tasks = ir["root"]["dag"]["tasks"]
    for task in tasks.values():
        for source in task.get("inputs", {}).get("artifacts", {}).values():
            if source.get("componentInputArtifact") == name:
                del source["componentInputArtifact"]
                source["taskOutputArtifact"] = {"outputArtifactKey": "artifact", "producerTask": key}
                task["dependentTasks"] = sorted({*task.get("dependentTasks", []), key})
    tasks[key] = {
        "cachingOptions": {},
        "componentRef": {"name": f"comp-{key}"},
        "inputs": {"parameters": {"uri": {"componentInputParameter": parameter}}},
        "taskInfo": {"name": key},
    }
    declared_inputs = ir["root"]["inputDefinitions"]
    del declared_inputs["artifacts"][name]
    declared_inputs.setdefault("parameters", {})[parameter] = {"parameterType": "STRING"}
    return parameter


def _drop_absent(ir: dict[str, Any], parameters: Mapping[str, Any]) -> None:
    """Take optional inputs out that nobody gave and that have no default; ``kfp.local`` cannot pass on nothing."""
    declared = ir["root"].get("inputDefinitions", {})
    optional = declared.get("parameters", {})
    absent = {
        "componentInputArtifact": list(declared.pop("artifacts", {})),
        "componentInputParameter": [
            name for name, spec in optional.items() if name not in parameters and "defaultValue" not in spec
        ],
    }
    for name in absent["componentInputParameter"]:
        del optional[name]
    for task in ir["root"]["dag"]["tasks"].values():
        for sources in task.get("inputs", {}).values():
            for key, source in list(sources.items()):
                if any(source.get(kind) in names for kind, names in absent.items()):
                    del sources[key]
