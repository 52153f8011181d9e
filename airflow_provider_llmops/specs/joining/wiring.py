"""Where each input of a joined step comes from: an input of the pipeline, or another step, perhaps through groups."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow_provider_llmops.specs.joining.groups import NO_GATES, Gates, Groups
from airflow_provider_llmops.specs.joining.steps import PASSED, JoinedStep, OutputOf

# What a task's input comes from: an input of the pipeline by its name, or another step's output.
Origin = str | OutputOf
# What goes into or out of a group: "parameters" or "artifacts", what it is, and its definition.
Passed = tuple[str, Origin, Mapping[str, Any]]


class PipelineInputs:
    """The inputs that a joined pipeline has: those of its steps that no other step makes. An address is imported once.

    A parameter that is null reaches the tasks of a pipeline, and those of a group in it do not find it: its driver leaves
    it out ("parent DAG does not have input parameter"). So a group is handed no parameter that nobody gives.

    :param steps: the steps, in the order in which they run
    :param gates: of each step, the gates that it is behind
    """

    def __init__(self, steps: Sequence[JoinedStep], gates: Mapping[str, Gates]) -> None:
        self.arguments: dict[str, Any] = {}
        self.names: dict[tuple[str, str], str] = {}
        self._parameters: dict[str, Any] = {}
        self._artifacts: dict[str, Any] = {}
        for step in steps:
            self._declare(step, is_in_a_group=bool(gates[step.name]))

    @property
    def definitions(self) -> dict[str, Any]:
        """The inputs as a specification declares them."""
        declared = {"parameters": self._parameters, "artifacts": self._artifacts}
        return {group: items for group, items in declared.items() if items}

    def _declare(self, step: JoinedStep, *, is_in_a_group: bool) -> None:
        by_address = {
            (address, self._artifacts[name]["artifactType"].get("schemaTitle")): name
            for name, address in self.arguments.items()
            if name in self._artifacts
        }
        for name, declared in step.spec.inputs.items():
            is_absent = name not in step.values and (
                "artifactType" in declared or (is_in_a_group and "defaultValue" not in declared)
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
            self.names[step.name, name] = own
            if name in step.values:
                self.arguments[own] = step.values[name]


class Wiring:
    """Says where a step, or a group, finds what it takes.

    :param steps: the steps by name
    :param groups: the groups that they are in
    :param inputs: the pipeline's inputs
    """

    def __init__(self, steps: Mapping[str, JoinedStep], groups: Groups, inputs: PipelineInputs) -> None:
        self._steps = steps
        self._groups = groups
        self._inputs = inputs

    def source(self, step: JoinedStep, group: str, compiled: Mapping[str, Any]) -> dict[str, Any] | None:
        """Where a task's input comes from in the joined pipeline; ``None`` for one that nobody gives.

        :param step: the step
        :param group: ``parameters`` or ``artifacts``
        :param compiled: where it comes from in the component's own pipeline
        """
        kind = "componentInputParameter" if group == "parameters" else "componentInputArtifact"
        name = compiled.get(kind)
        if name is None:
            return copy.deepcopy(dict(compiled))
        origin = self._origin(step, name)
        if origin is None:
            return None
        others = {key: value for key, value in compiled.items() if key != kind}
        return {**others, **self.reference(group, origin, gates=self._groups.gates[step.name])}

    def reference(self, group: str, origin: Origin, *, gates: Gates) -> dict[str, Any]:
        """Where something is found by what is behind some gates.

        :param group: ``parameters`` or ``artifacts``
        :param origin: what it is
        :param gates: the gates
        """
        kind = "Parameter" if group == "parameters" else "Artifact"
        theirs = self._groups.gates[origin.step] if isinstance(origin, OutputOf) else None
        if not isinstance(origin, OutputOf) or theirs is None or gates not in (theirs, NO_GATES):
            return {f"componentInput{kind}": channel(origin)}
        producer, key = origin.step, origin.name
        if theirs != gates:
            producer, key = self._groups.task(theirs), channel(origin)
        return {f"taskOutput{kind}": {f"output{kind}Key": key, "producerTask": producer}}

    def handed_in(self, gates: Gates) -> Iterator[Passed]:
        """What a group takes from outside of it: the verdicts of its gates, and inputs of its steps.

        :param gates: the group's
        """
        for name in self._groups.members(gates):
            for group, origin, declared in self._taken_by(self._steps[name]):
                if not isinstance(origin, OutputOf):
                    yield group, origin, declared
                elif self._groups.gates[origin.step] != gates:
                    yield group, origin, self._steps[origin.step].outputs[origin.name]
        for gate in self._groups.in_order(gates):
            yield "parameters", OutputOf(gate, PASSED), self._steps[gate].outputs[PASSED]

    def handed_out(self, gates: Gates) -> Iterator[tuple[str, OutputOf, Mapping[str, Any]]]:
        """What a group gives to others, and to the pipeline's outputs.

        :param gates: the group's
        """
        for name in self._groups.members(gates):
            for output, declared in self._steps[name].outputs.items():
                if "parameterType" in declared:
                    yield "parameters", OutputOf(name, output), declared
        for others in self._groups:
            if others and others != gates:
                for group, origin, taken in self.handed_in(others):
                    if isinstance(origin, OutputOf) and self._groups.gates[origin.step] == gates:
                        yield group, origin, taken

    def _origin(self, step: JoinedStep, name: str) -> Origin | None:
        return step.sources.get(name) or self._inputs.names.get((step.name, name))

    def _taken_by(self, step: JoinedStep) -> Iterator[Passed]:
        """What a step takes from elsewhere."""
        for name, declared in step.spec.inputs.items():
            if (origin := self._origin(step, name)) is not None:
                yield ("artifacts" if "artifactType" in declared else "parameters"), origin, declared


def channel(origin: Origin) -> str:
    """Name under which a group gets something, as the KFP compiler calls what comes from another step.

    :param origin: what it is
    """
    return origin if isinstance(origin, str) else f"pipelinechannel--{origin.step}-{origin.name}"
