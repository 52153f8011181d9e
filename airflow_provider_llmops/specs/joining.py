"""Join compiled components into one pipeline: what one step makes is another's input, with no importer between them.

A step after gates (components with the output parameter ``passed``) runs if those were passed that it needs itself or through
others: the steps behind the same gates are put into a conditional group, as the KFP compiler does with ``dsl.If``. What one
group makes for another is an output of it. A condition at the steps themselves is not enough: Kubeflow Pipelines looks for a
step's inputs before it looks at its condition, and fails for those that were not made. A group that waits for one that was
skipped does not begin.
"""

from __future__ import annotations

import copy
import graphlib
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value
from airflow_provider_llmops.specs.ir import set_caching, unused_name
from airflow_provider_llmops.specs.pipeline import PipelineSpec

PASSED = "passed"

_STEP_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_MAX_NAME_LENGTH = 63
_ANYTHING = "system.Artifact"


@dataclass(frozen=True)
class OutputOf:
    """What a step takes from another one.

    :param step: name of the other step
    :param name: name of its output
    """

    step: str
    name: str


@dataclass(frozen=True)
class JoinedStep:
    """A step of the pipeline.

    :param name: its name there
    :param spec: its component
    :param values: values of its inputs, checked
    :param sources: inputs that other steps make
    :param after: names of steps that it waits for besides
    """

    name: str
    spec: PipelineSpec
    values: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, OutputOf] = field(default_factory=dict)
    after: Collection[str] = ()

    @property
    def needs(self) -> set[str]:
        """Names of the steps that it waits for."""
        return {source.step for source in self.sources.values()} | set(self.after)

    @property
    def task(self) -> dict[str, Any]:
        """The task of the compiled component's own pipeline."""
        task: dict[str, Any] = next(iter(self.spec.ir["root"]["dag"]["tasks"].values()))
        return task

    @property
    def component(self) -> dict[str, Any]:
        """The component's definition."""
        component: dict[str, Any] = self.spec.ir["components"][self.task["componentRef"]["name"]]
        return component

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """Its declared outputs by name; artifacts have ``artifactType``, parameters ``parameterType``."""
        declared = self.component.get("outputDefinitions", {})
        return {**declared.get("parameters", {}), **declared.get("artifacts", {})}

    @property
    def artifacts(self) -> set[str]:
        """Names of its output artifacts."""
        return set(self.component.get("outputDefinitions", {}).get("artifacts", {}))

    @property
    def is_gate(self) -> bool:
        """Whether it says if what comes after it is to run."""
        return bool(self.outputs.get(PASSED, {}).get("parameterType") == "BOOLEAN")


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


def check_order(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """Names of steps, each after those that it waits for.

    :param needs: of each step by its name, those that it waits for
    :raises ConfigurationError: a name is not fit, a step is unknown, or they wait for each other
    """
    if not needs:
        raise ConfigurationError("There are no steps. Give at least one in 'steps'.")
    for name, others in needs.items():
        if not isinstance(name, str) or not _STEP_NAME.fullmatch(name) or len(name) > _MAX_NAME_LENGTH:
            raise ConfigurationError(
                f"Step {shown_value(name)} cannot be called so: lower-case letters, digits and '-' make a task's name, at most "
                f"{_MAX_NAME_LENGTH}, the first one a letter."
            )
        if unknown := describe_unknown(others, needs):
            raise ConfigurationError(
                f"Step {name!r} waits for a step that there is not: {unknown}. There are: {', '.join(needs)}."
            )
    try:
        return list(graphlib.TopologicalSorter({name: sorted(needs[name]) for name in needs}).static_order())
    except graphlib.CycleError as error:
        raise ConfigurationError(f"Steps wait for each other: {' -> '.join(error.args[1])}.") from error


def check_types(steps: Mapping[str, JoinedStep]) -> None:
    """Raise :class:`ConfigurationError` unless each step takes what the other makes.

    :param steps: by name; those that are not there are not looked at
    """
    for step in steps.values():
        for name, source in step.sources.items():
            if name not in step.spec.inputs:
                raise ConfigurationError(
                    f"Step {step.name!r} has no input {describe_unknown([name], step.spec.inputs)}. Its inputs: "
                    f"{', '.join(sorted(step.spec.inputs))}."
                )
            if source.step in steps:
                _check_source(step, name, source, steps[source.step])


def _check_source(step: JoinedStep, name: str, source: OutputOf, producer: JoinedStep) -> None:
    if source.name not in producer.outputs:
        raise ConfigurationError(
            f"Step {producer.name!r} has no output {describe_unknown([source.name], producer.outputs)}. Its outputs: "
            f"{', '.join(sorted(producer.outputs)) or 'none'}."
        )
    given, taken = producer.outputs[source.name], step.spec.inputs[name]
    if not _fits(given, taken):
        raise ConfigurationError(
            f"Input {name!r} of step {step.name!r} is {_type_of(taken)}, and output {source.name!r} of step {producer.name!r} "
            f"is {_type_of(given)}."
        )


def _fits(given: Mapping[str, Any], taken: Mapping[str, Any]) -> bool:
    if "artifactType" in given and "artifactType" in taken:
        if bool(given.get("isArtifactList")) != bool(taken.get("isArtifactList")):
            return False
        titles = {given["artifactType"].get("schemaTitle"), taken["artifactType"].get("schemaTitle")}
        return len(titles) == 1 or _ANYTHING in titles
    kinds = (given.get("parameterType"), taken.get("parameterType"))
    return None not in kinds and (kinds[0] == kinds[1] or kinds == ("NUMBER_INTEGER", "NUMBER_DOUBLE"))


def _type_of(declared: Mapping[str, Any]) -> str:
    if "artifactType" in declared:
        kind = declared["artifactType"].get("schemaTitle", _ANYTHING)
        return f"{'a list of artifacts' if declared.get('isArtifactList') else 'an artifact'} ({kind})"
    return f"a parameter ({declared.get('parameterType')})"


def check_component(spec: PipelineSpec, step: str) -> None:
    """Raise :class:`ConfigurationError` unless a specification is that of one component.

    :param spec: the specification
    :param step: the step that it is for
    """
    tasks = spec.ir["root"]["dag"]["tasks"]
    (task, *_) = tasks.values()
    if len(tasks) != 1 or "dag" in spec.ir["components"][task["componentRef"]["name"]]:
        raise ConfigurationError(
            f"Step {step!r} is a pipeline, and components are joined here: {spec.name} has {len(tasks)} steps or groups of "
            "them. Run it with KubeflowPipelineOperator, or give its components as steps."
        )


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
    return _Joining(by_name, order).joined()


def _gates_of(steps: Mapping[str, JoinedStep], order: Iterable[str]) -> dict[str, frozenset[str]]:
    """The gates that each step needs, directly or through others."""
    gates: dict[str, frozenset[str]] = {}
    for name in order:
        needs = steps[name].needs
        own = frozenset(need for need in needs if steps[need].is_gate)
        gates[name] = own.union(*(gates[need] for need in needs))
    return gates


# What a task's input comes from: an input of the pipeline by its name, or another step's output.
_Origin = str | OutputOf


class _Joining:
    def __init__(self, steps: Mapping[str, JoinedStep], order: list[str]) -> None:
        self._steps = steps
        self._order = order
        self._gates = _gates_of(steps, order)
        self._groups = self._named_groups()
        self._parameters: dict[str, Any] = {}
        self._artifacts: dict[str, Any] = {}
        self._arguments: dict[str, Any] = {}
        self._inputs: dict[tuple[str, str], str] = {}
        self._components: dict[str, Any] = {}
        self._executors: dict[str, Any] = {}
        self._platforms: dict[str, Any] = {}

    def joined(self) -> Joined:
        for name in self._order:
            self._declare_inputs(self._steps[name])
        tasks: dict[str, Any] = {}
        for gates, key in self._groups.items():
            members = {name: self._task(self._steps[name]) for name in self._members(gates)}
            if not gates:
                tasks.update(members)
            else:
                tasks[key] = self._group(gates, members)
        outputs, output_definitions = self._root_outputs()
        first = self._steps[self._order[0]].spec.ir
        declared = {"parameters": self._parameters, "artifacts": self._artifacts}
        ir = {
            "components": self._components,
            "deploymentSpec": {"executors": self._executors},
            "pipelineInfo": {"name": "-".join(self._steps)[:_MAX_NAME_LENGTH].rstrip("-")},
            "root": {
                "dag": {"tasks": tasks, **outputs},
                "inputDefinitions": {group: items for group, items in declared.items() if items},
                **output_definitions,
            },
            "schemaVersion": first["schemaVersion"],
            "sdkVersion": first.get("sdkVersion", ""),
        }
        set_caching(ir, False)  # what may be reused is decided by the operator
        platform = {"platforms": self._platforms} if self._platforms else None
        digest = hashlib.sha256(json.dumps([ir, platform], sort_keys=True).encode()).hexdigest()
        spec = PipelineSpec(
            name=ir["pipelineInfo"]["name"], ir=ir, digest=f"sha256:{digest}", platform=platform
        )
        return Joined(
            spec, self._arguments, {name: self._path(name) for name in self._order}, self._gates, self._inputs
        )

    def _named_groups(self) -> dict[frozenset[str], str]:
        """Key of the task for each set of gates, in the order in which they run; there is none for the root."""
        groups: dict[frozenset[str], str] = {frozenset(): ""}
        for name in self._order:
            if (gates := self._gates[name]) not in groups:
                named = "-".join(gate for gate in self._order if gate in gates)
                taken = dict.fromkeys((*self._steps, *groups.values()))
                groups[gates] = unused_name(f"{named}-{PASSED}", taken)
        return groups

    def _members(self, gates: frozenset[str]) -> list[str]:
        return [name for name in self._order if self._gates[name] == gates]

    def _path(self, name: str) -> str:
        group = self._groups[self._gates[name]]
        return f"{group}/{name}" if group else name

    def _declare_inputs(self, step: JoinedStep) -> None:
        """Make inputs of the pipeline of a step's inputs that no other step makes; an address is imported once.

        A parameter that is null reaches the tasks of a pipeline, and those of a group in it do not find it: its driver leaves
        it out ("parent DAG does not have input parameter"). So a group is handed no parameter that nobody gives.
        """
        by_address = {
            (address, self._artifacts[name]["artifactType"].get("schemaTitle")): name
            for name, address in self._arguments.items()
            if name in self._artifacts
        }
        for name, declared in step.spec.inputs.items():
            is_absent = name not in step.values and (
                "artifactType" in declared or (self._gates[step.name] and "defaultValue" not in declared)
            )
            if name in step.sources or is_absent:
                continue
            own = f"{step.name}_{name}"  # a step's name has no underscore
            if "artifactType" in declared:
                content = (step.values[name], declared["artifactType"].get("schemaTitle"))
                own = by_address.setdefault(content, own)
                self._artifacts.setdefault(own, {"artifactType": declared["artifactType"]})
            else:
                self._parameters[own] = declared
            self._inputs[step.name, name] = own
            if name in step.values:
                self._arguments[own] = step.values[name]

    def _task(self, step: JoinedStep) -> dict[str, Any]:
        label = f"exec-{step.name}"
        self._components[f"comp-{step.name}"] = {**copy.deepcopy(step.component), "executorLabel": label}
        executor = step.spec.ir["deploymentSpec"]["executors"][step.component["executorLabel"]]
        self._executors[label] = copy.deepcopy(executor)
        self._write_platform(step)
        inputs: dict[str, Any] = {}
        for group in ("parameters", "artifacts"):
            for name, source in step.task.get("inputs", {}).get(group, {}).items():
                if (written := self._source(step, group, source)) is not None:
                    inputs.setdefault(group, {})[name] = written
        task = {**copy.deepcopy(step.task), "componentRef": {"name": f"comp-{step.name}"}, "inputs": inputs}
        gates = self._gates[step.name]
        needs = {name for name in step.needs if self._gates[name] == gates}
        return {**task, **_waiting_for(needs), "taskInfo": {"name": step.name}}

    def _source(self, step: JoinedStep, group: str, source: Mapping[str, Any]) -> dict[str, Any] | None:
        """Where a task's input comes from, in the pipeline; nothing for an artifact that nobody gives."""
        kind = "componentInputParameter" if group == "parameters" else "componentInputArtifact"
        name = source.get(kind)
        if name is None:
            return copy.deepcopy(dict(source))
        origin = self._origin(step, name)
        others = {key: value for key, value in source.items() if key != kind}
        if origin is None:
            return None
        return {**others, **self._reference(origin, group, self._gates[step.name])}

    def _origin(self, step: JoinedStep, name: str) -> _Origin | None:
        return step.sources.get(name) or self._inputs.get((step.name, name))

    def _origins(self, step: JoinedStep) -> Iterator[tuple[str, _Origin, Mapping[str, Any]]]:
        """What a step takes from elsewhere: group, origin and definition of each input."""
        for name, declared in step.spec.inputs.items():
            if (origin := self._origin(step, name)) is not None:
                yield ("artifacts" if "artifactType" in declared else "parameters"), origin, declared

    def _reference(self, origin: _Origin, group: str, gates: frozenset[str]) -> dict[str, Any]:
        """Where something is found by what is behind some gates."""
        kind = "Parameter" if group == "parameters" else "Artifact"
        if not isinstance(origin, OutputOf) or gates not in (
            (theirs := self._gates[origin.step]),
            frozenset(),
        ):
            return {f"componentInput{kind}": _channel(origin)}
        producer, key = origin.step, origin.name
        if theirs != gates:
            producer, key = self._groups[theirs], _channel(origin)
        return {f"taskOutput{kind}": {f"output{kind}Key": key, "producerTask": producer}}

    def _handed_in(self, gates: frozenset[str]) -> Iterator[tuple[str, _Origin, Mapping[str, Any]]]:
        """What a group takes from outside of it: the verdicts of its gates, and inputs of its steps."""
        for name in self._members(gates):
            for group, origin, declared in self._origins(self._steps[name]):
                if not isinstance(origin, OutputOf):
                    yield group, origin, declared
                elif self._gates[origin.step] != gates:
                    yield group, origin, self._steps[origin.step].outputs[origin.name]
        for gate in self._order:
            if gate in gates:
                yield "parameters", OutputOf(gate, PASSED), self._steps[gate].outputs[PASSED]

    def _handed_out(self, gates: frozenset[str]) -> Iterator[tuple[str, OutputOf, Mapping[str, Any]]]:
        """What a group gives to others, and to the pipeline's outputs."""
        for name in self._members(gates):
            for output, declared in self._steps[name].outputs.items():
                if "parameterType" in declared:
                    yield "parameters", OutputOf(name, output), declared
        for others in self._groups:
            if others and others != gates:
                for group, origin, taken in self._handed_in(others):
                    if isinstance(origin, OutputOf) and self._gates[origin.step] == gates:
                        yield group, origin, taken

    def _group(self, gates: frozenset[str], members: dict[str, Any]) -> dict[str, Any]:
        """A task that holds others, and runs if the gates were passed."""
        key = self._groups[gates]
        kept = ("artifactType", "isArtifactList", "parameterType", "isOptional", "defaultValue")
        definitions: dict[str, Any] = {}
        inputs: dict[str, Any] = {}
        for group, origin, given in self._handed_in(gates):
            passed_in = _channel(origin)
            definitions.setdefault(group, {})[passed_in] = {
                part: given[part] for part in kept if part in given
            }
            inputs.setdefault(group, {})[passed_in] = self._reference(origin, group, frozenset())
        outputs: dict[str, Any] = {}
        output_definitions: dict[str, Any] = {}
        for group, output, declared in self._handed_out(gates):
            output_definitions.setdefault(group, {})[_channel(output)] = dict(declared)
            outputs.setdefault(group, {})[_channel(output)] = _given_by(group, output.step, output.name)
        component = unused_name(f"comp-{key}", {f"comp-{name}": None for name in self._steps})
        self._components[component] = {
            "dag": {"tasks": members, **({"outputs": outputs} if outputs else {})},
            "inputDefinitions": definitions,
            **({"outputDefinitions": output_definitions} if outputs else {}),
        }
        conditions = [
            f"inputs.parameter_values['{_channel(OutputOf(gate, PASSED))}'] == true"
            for gate in self._order
            if gate in gates
        ]
        outside = {need for name in members for need in self._steps[name].needs} - members.keys()
        needs = {self._groups[self._gates[name]] or name for name in outside | gates}
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
        for gates, key in self._groups.items():
            for name in self._members(gates):
                for output, declared in self._steps[name].outputs.items():
                    if "parameterType" in declared:
                        own = output_parameter(name, output)
                        definitions[own] = declared
                        source = (key, _channel(OutputOf(name, output))) if key else (name, output)
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
            return self._source(step, "parameters", value)
        return {key: self._with_own_inputs(item, step) for key, item in value.items()}


def _channel(origin: _Origin) -> str:
    """Name under which a group gets it, as the KFP compiler calls what comes from another step."""
    return origin if isinstance(origin, str) else f"pipelinechannel--{origin.step}-{origin.name}"


def _given_by(group: str, task: str, key: str) -> dict[str, Any]:
    """An output of a dag that a task in it gives."""
    if group == "artifacts":
        return {"artifactSelectors": [{"outputArtifactKey": key, "producerSubtask": task}]}
    return {"valueFromParameter": {"outputParameterKey": key, "producerSubtask": task}}


def _waiting_for(needs: Collection[str]) -> dict[str, Any]:
    return {"dependentTasks": sorted(needs)} if needs else {}
