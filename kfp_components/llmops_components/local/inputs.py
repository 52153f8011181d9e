"""What a task of a pipeline gets: constants, inputs of its pipeline, outputs of tasks before it, defaults.

Placeholders are filled in, values have the types that are declared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmops_components.errors import InputError
from llmops_components.local.values import constant, fill, refuse_placeholders, select, typed

Artifact = dict[str, Any]


@dataclass(frozen=True)
class Values:
    """Parameters and artifacts by name: of the inputs of a task, or of its outputs."""

    parameters: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, list[Artifact]] = field(default_factory=dict)


class NotAvailable(Exception):
    """An input comes from a step that did not run."""


class Inputs:
    """Finds what the tasks of a pipeline get.

    Args:
        components: The components of its specification.
        facts: What the placeholders of the run stand for.
    """

    def __init__(self, components: Mapping[str, Any], facts: Mapping[str, str]) -> None:
        self._components = components
        self._facts = facts

    def of(
        self,
        task: Mapping[str, Any],
        step: str,
        outer: Values,
        done: Mapping[str, Values],
        states: Mapping[str, str],
    ) -> Values:
        """What a task gets, from constants, from the inputs of its pipeline and from tasks before it.

        Args:
            task: The task, as compiled.
            step: Its path.
            outer: What its pipeline gets.
            done: What the tasks before it gave.
            states: How these ended.

        Raises:
            NotAvailable: It comes from a task that did not run.
            InputError: It cannot be had at all.
        """
        component = self._components[task["componentRef"]["name"]]
        declared = component.get("inputDefinitions", {})
        inputs = task.get("inputs", {})
        given = Values()
        texts: dict[str, Any] = {}
        for name, source in inputs.get("parameters", {}).items():
            if "runtimeValue" in source:
                texts[name] = constant(source["runtimeValue"]["constant"])
            elif "componentInputParameter" in source:
                value = outer.parameters.get(source["componentInputParameter"])
                if (selector := source.get("parameterExpressionSelector")) and value is not None:
                    value = select(value, selector)
                given.parameters[name] = value
            elif "taskOutputParameter" in source:
                origin = source["taskOutputParameter"]
                found = done.get(origin["producerTask"], Values()).parameters
                if origin["outputParameterKey"] in found:
                    given.parameters[name] = found[origin["outputParameterKey"]]
                    made_by = f"Output {origin['outputParameterKey']!r} of task {origin['producerTask']}"
                    refuse_placeholders(given.parameters[name], made_by)
                elif not _may_be_absent(declared.get("parameters", {}).get(name, {})):
                    raise _missing(origin["producerTask"], origin["outputParameterKey"], states)
            elif "taskFinalStatus" in source:
                producer = source["taskFinalStatus"]["producerTask"]
                given.parameters[name] = self._final_status(producer, states.get(producer, "SUCCEEDED"))
        for name, source in inputs.get("artifacts", {}).items():
            if "componentInputArtifact" in source:
                key = source["componentInputArtifact"]
                if key in outer.artifacts:
                    given.artifacts[name] = outer.artifacts[key]
            elif origin := source.get("taskOutputArtifact"):
                artifacts = done.get(origin["producerTask"], Values()).artifacts
                if origin["outputArtifactKey"] in artifacts:
                    given.artifacts[name] = artifacts[origin["outputArtifactKey"]]
                elif not declared.get("artifacts", {}).get(name, {}).get("isOptional"):
                    raise _missing(origin["producerTask"], origin["outputArtifactKey"], states)
        for name, text in texts.items():
            given.parameters[name] = self.filled(text, step, given)
        return given

    def filled(self, value: Any, step: str, given: Values) -> Any:
        """The value with its placeholders replaced.

        Args:
            value: As compiled.
            step: The step that it is for.
            given: What the step gets.
        """

        def look(path: str, keys: list[str]) -> Any:
            if path == "inputs.parameters" and keys:
                return given.parameters.get(keys[0])
            if path == "inputs.artifacts" and keys and given.artifacts.get(keys[0]):
                artifact = given.artifacts[keys[0]][0]
                return artifact.get("uri" if keys[1:] == ["path"] else keys[-1], artifact)
            facts = {
                **self._facts,
                "pipeline_task_name": step.rpartition("/")[2],
                "pipeline_task_uuid": f"{self._facts['pipeline_job_uuid']}/{step}",
            }
            if path not in facts:
                raise InputError(f"Step {step}: the placeholder {path!r} cannot be filled in here.")
            return facts[path]

        return fill(value, look)

    def _final_status(self, producer: str, state: str) -> dict[str, Any]:
        failed = state in ("FAILED", "LEFT_OUT")
        return {
            "state": "FAILED"
            if failed
            else "COMPLETE",  # what the server says, whatever the SDK's documentation does
            "pipelineJobResourceName": self._facts["pipeline_job_resource_name"],
            "pipelineTaskName": producer,
            "error": {"code": 1, "message": f"Task {producer} failed."} if failed else {},
        }


def with_defaults(component: Mapping[str, Any], given: Values, step: str) -> Values:
    """The inputs that a component declares, in their types, defaults for those that nobody gave.

    Args:
        component: Its definition.
        given: What it was given.
        step: Path of its task, for messages; empty for the pipeline's own.

    Raises:
        InputError: One has no value, or one of another type.
    """
    declared = component.get("inputDefinitions", {})
    where = f"Step {step.rstrip('/')}: input" if step else "Input"
    parameters = {}
    for name, definition in declared.get("parameters", {}).items():
        value = given.parameters.get(name)
        if value is None:
            value = constant(definition.get("defaultValue"))
        if value is not None:
            parameters[name] = typed(value, definition, f"{where} {name!r}")
        elif "dag" not in component and not definition.get("isOptional"):
            raise InputError(f"{where} {name!r} has no value.")
    artifacts = {}
    for name, definition in declared.get("artifacts", {}).items():
        if name in given.artifacts:
            some = given.artifacts[name]
            artifacts[name] = some if definition.get("isArtifactList") else some[:1]
        elif "dag" not in component and not definition.get("isOptional"):
            raise InputError(f"{where} {name!r} has no artifact.")
    return Values(parameters, artifacts)


def _may_be_absent(definition: Mapping[str, Any]) -> bool:
    return bool(definition.get("isOptional")) or "defaultValue" in definition


def _missing(producer: str, output: str, states: Mapping[str, str]) -> Exception:
    if states.get(producer) == "SUCCEEDED":
        return InputError(f"Task {producer} succeeded but left nothing at its output {output!r}.")
    return NotAvailable()
