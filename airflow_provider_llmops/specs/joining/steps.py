"""The steps of a joined pipeline, and whether they fit together."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value
from airflow_provider_llmops.specs.pipeline import PipelineSpec

PASSED = "passed"  # the output of a gate that says whether what comes after it is to run
MAX_NAME_LENGTH = 63

_STEP_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
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


def check_order(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """Names of steps, each after those that it waits for.

    :param needs: of each step by its name, those that it waits for
    :raises ConfigurationError: a name is not fit, a step is unknown, or they wait for each other
    """
    if not needs:
        raise ConfigurationError("There are no steps. Give at least one in 'steps'.")
    for name, others in needs.items():
        if not isinstance(name, str) or not _STEP_NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
            raise ConfigurationError(
                f"Step {shown_value(name)} cannot be called so: lower-case letters, digits and '-' make a task's name, at most "
                f"{MAX_NAME_LENGTH}, the first one a letter."
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
