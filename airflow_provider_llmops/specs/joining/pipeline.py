"""Make one pipeline of compiled components: what one step makes is another's input, with no importer between them.

What one group of steps behind gates, see :mod:`~airflow_provider_llmops.specs.joining.groups`, makes for another is an output
of it.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.specs.ir import set_caching, unused_name
from airflow_provider_llmops.specs.joining.groups import NO_GATES, Gates, Groups
from airflow_provider_llmops.specs.joining.steps import (
    MAX_NAME_LENGTH,
    PASSED,
    JoinedStep,
    OutputOf,
    check_component,
    check_order,
    check_types,
)
from airflow_provider_llmops.specs.joining.wiring import PipelineInputs, Wiring, channel
from airflow_provider_llmops.specs.pipeline import PipelineSpec


@dataclass(frozen=True)
class Joined:
    """Components as one pipeline.

    :param spec: the pipeline
    :param arguments: values of its inputs
    :param paths: path of each step's task in it, by the step's name, in the order in which they run
    :param gates: of each step, the gates that have to be passed for it to run
    :param inputs: name of the pipeline's input by step and its input, of those that no other step makes
    """

    spec: PipelineSpec
    arguments: Mapping[str, Any]
    paths: Mapping[str, str]
    gates: Mapping[str, frozenset[str]]
    inputs: Mapping[tuple[str, str], str]


def output_parameter(step: str, name: str) -> str:
    """Name of a step's output parameter among those of the joined pipeline.

    :param step: name of the step, which has no underscore
    :param name: name of its output
    """
    return f"{step}_{name}"


def join(steps: Iterable[JoinedStep]) -> Joined:
    """Make one pipeline of components.

    :param steps: the steps, in any order
    :raises ConfigurationError: they do not fit together
    """
    by_name = {step.name: step for step in steps}
    order = check_order({name: step.needs for name, step in by_name.items()})
    for step in by_name.values():
        check_component(step.spec, step.name)
    check_types(by_name)
    groups = Groups(by_name, order)
    inputs = PipelineInputs([by_name[name] for name in order], groups.gates)
    spec = _Pipeline(by_name, groups, inputs).spec(order)
    paths = {name: groups.path(name) for name in order}
    return Joined(spec, inputs.arguments, paths, groups.gates, inputs.names)


class _Pipeline:
    """Writes the tasks, groups and components of the joined pipeline."""

    def __init__(self, steps: Mapping[str, JoinedStep], groups: Groups, inputs: PipelineInputs) -> None:
        self._steps = steps
        self._groups = groups
        self._inputs = inputs
        self._wiring = Wiring(steps, groups, inputs)
        self._components: dict[str, Any] = {}
        self._executors: dict[str, Any] = {}
        self._platforms: dict[str, Any] = {}

    def spec(self, order: list[str]) -> PipelineSpec:
        tasks: dict[str, Any] = {}
        for gates in self._groups:
            members = {name: self._task(self._steps[name]) for name in self._groups.members(gates)}
            if not gates:
                tasks.update(members)
            else:
                tasks[self._groups.task(gates)] = self._group(gates, members)
        outputs, output_definitions = self._root_outputs()
        first = self._steps[order[0]].spec.ir
        ir = {
            "components": self._components,
            "deploymentSpec": {"executors": self._executors},
            "pipelineInfo": {"name": "-".join(self._steps)[:MAX_NAME_LENGTH].rstrip("-")},
            "root": {
                "dag": {"tasks": tasks, **outputs},
                "inputDefinitions": self._inputs.definitions,
                **output_definitions,
            },
            "schemaVersion": first["schemaVersion"],
            "sdkVersion": first.get("sdkVersion", ""),
        }
        set_caching(ir, False)  # what may be reused is decided by the operator
        platform = {"platforms": self._platforms} if self._platforms else None
        digest = hashlib.sha256(json.dumps([ir, platform], sort_keys=True).encode()).hexdigest()
        return PipelineSpec(
            name=ir["pipelineInfo"]["name"], ir=ir, digest=f"sha256:{digest}", platform=platform
        )

    def _task(self, step: JoinedStep) -> dict[str, Any]:
        label = f"exec-{step.name}"
        self._components[f"comp-{step.name}"] = {**copy.deepcopy(step.component), "executorLabel": label}
        executor = step.spec.ir["deploymentSpec"]["executors"][step.component["executorLabel"]]
        self._executors[label] = copy.deepcopy(executor)
        self._write_platform(step)
        inputs: dict[str, Any] = {}
        for group in ("parameters", "artifacts"):
            for name, compiled in step.task.get("inputs", {}).get(group, {}).items():
                if (written := self._wiring.source(step, group, compiled)) is not None:
                    inputs.setdefault(group, {})[name] = written
        task = {**copy.deepcopy(step.task), "componentRef": {"name": f"comp-{step.name}"}, "inputs": inputs}
        gates = self._groups.gates[step.name]
        needs = {name for name in step.needs if self._groups.gates[name] == gates}
        return {**task, **_waiting_for(needs), "taskInfo": {"name": step.name}}

    def _group(self, gates: Gates, members: dict[str, Any]) -> dict[str, Any]:
        """A task that holds others, and runs if the gates were passed."""
        key = self._groups.task(gates)
        kept = ("artifactType", "isArtifactList", "parameterType", "isOptional", "defaultValue")
        definitions: dict[str, Any] = {}
        inputs: dict[str, Any] = {}
        for group, origin, given in self._wiring.handed_in(gates):
            passed_in = channel(origin)
            definitions.setdefault(group, {})[passed_in] = {
                part: given[part] for part in kept if part in given
            }
            found = self._wiring.reference(group, origin, gates=NO_GATES)
            inputs.setdefault(group, {})[passed_in] = found
        outputs: dict[str, Any] = {}
        output_definitions: dict[str, Any] = {}
        for group, output, declared in self._wiring.handed_out(gates):
            output_definitions.setdefault(group, {})[channel(output)] = dict(declared)
            outputs.setdefault(group, {})[channel(output)] = _given_by(group, output.step, output.name)
        component = unused_name(f"comp-{key}", {f"comp-{name}": None for name in self._steps})
        self._components[component] = {
            "dag": {"tasks": members, **({"outputs": outputs} if outputs else {})},
            "inputDefinitions": definitions,
            **({"outputDefinitions": output_definitions} if outputs else {}),
        }
        conditions = [
            f"inputs.parameter_values['{channel(OutputOf(gate, PASSED))}'] == true"
            for gate in self._groups.in_order(gates)
        ]
        outside = {need for name in members for need in self._steps[name].needs} - members.keys()
        needs = {self._groups.task(self._groups.gates[name]) or name for name in outside | gates}
        return {
            "componentRef": {"name": component},
            **_waiting_for(needs),
            "inputs": inputs,
            "taskInfo": {"name": key},
            "triggerPolicy": {"condition": " && ".join(conditions)},
        }

    def _root_outputs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The output parameters of all steps as those of the pipeline: in its dag, and their definitions."""
        given: dict[str, Any] = {}
        definitions: dict[str, Any] = {}
        for gates in self._groups:
            for name in self._groups.members(gates):
                for output, declared in self._steps[name].outputs.items():
                    if "parameterType" in declared:
                        own = output_parameter(name, output)
                        key = self._groups.task(gates)
                        source = (key, channel(OutputOf(name, output))) if key else (name, output)
                        definitions[own] = declared
                        given[own] = _given_by("parameters", *source)
        if not given:
            return {}, {}
        return {"outputs": {"parameters": given}}, {"outputDefinitions": {"parameters": definitions}}

    def _write_platform(self, step: JoinedStep) -> None:
        for platform, document in (step.spec.platform or {}).get("platforms", {}).items():
            if others := sorted(document.keys() - {"deploymentSpec", "platform"}):
                raise ConfigurationError(
                    f"Step {step.name!r} has settings for a whole pipeline ({', '.join(others)}), which cannot be joined. Compile "
                    "the component without them."
                )
            executors = document.get("deploymentSpec", {}).get("executors", {})
            config = executors.get(step.component["executorLabel"])
            if config is not None:
                target = self._platforms.setdefault(platform, {}).setdefault("deploymentSpec", {})
                moved = self._with_own_inputs(config, step)
                target.setdefault("executors", {})[f"exec-{step.name}"] = moved

    def _with_own_inputs(self, value: Any, step: JoinedStep) -> Any:
        """Settings of a platform that name inputs of the component's own pipeline, with those of this one."""
        if isinstance(value, list):
            return [self._with_own_inputs(item, step) for item in value]
        if not isinstance(value, dict):
            return value
        if "componentInputParameter" in value:
            return self._wiring.source(step, "parameters", value)
        return {key: self._with_own_inputs(item, step) for key, item in value.items()}


def _given_by(group: str, task: str, key: str) -> dict[str, Any]:
    """An output of a dag that a task in it gives."""
    if group == "artifacts":
        return {"artifactSelectors": [{"outputArtifactKey": key, "producerSubtask": task}]}
    return {"valueFromParameter": {"outputParameterKey": key, "producerSubtask": task}}


def _waiting_for(needs: Collection[str]) -> dict[str, Any]:
    return {"dependentTasks": sorted(needs)} if needs else {}
