"""Steps as the author of a DAG gives them, and what they become: components that take from each other, joined into one pipeline."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value
from airflow_provider_llmops.specs.joining.pipeline import Joined, join
from airflow_provider_llmops.specs.joining.steps import (
    JoinedStep,
    OutputOf,
    check_component,
    check_order,
    check_types,
)
from airflow_provider_llmops.specs.pipeline import PipelineSpec
from airflow_provider_llmops.uris import ANY_ARTIFACT, Address

__all__ = ["Plan", "check_plan"]

_STEP_KEYS = {"component", "arguments", "after"}
_OUTPUT_KEYS = {"output_of", "name"}
_TEMPLATE = "{{"

Steps = Mapping[str, Mapping[str, Any]]


class Plan:
    """The steps of one run, each by its name.

    :param steps: the steps, as their author gives them
    :param checked: gives the arguments of a component of this provider, checked as its own operator does it: takes the step's
        name, the component, and its arguments
    """

    def __init__(
        self, steps: Steps, checked: Callable[[str, PipelineSpec, dict[str, Any]], dict[str, Any]]
    ) -> None:
        self._given = steps
        self._checked = checked

    @property
    def packaged(self) -> list[str]:
        """Names of the steps whose component is this provider's own."""
        return [name for name, given in self._given.items() if not _is_file(given["component"])]

    @cached_property
    def joined(self) -> Joined:
        """The pipeline that the steps become."""
        return join(self.steps.values())

    @cached_property
    def steps(self) -> dict[str, JoinedStep]:
        """The steps with the values of their inputs, checked."""
        check_plan(self._given)
        specs = {name: _spec_of(given["component"]) for name, given in self._given.items()}
        for name, spec in specs.items():
            check_component(spec, name)
        steps = {name: _joined_step(name, given, specs[name]) for name, given in self._given.items()}
        check_types(steps)
        return {
            name: _joined_step(name, given, specs[name], self._values(name, specs[name], steps[name].sources))
            for name, given in self._given.items()
        }

    def addresses(self, of_component: Callable[[str], Mapping[str, Address]]) -> dict[str, Address]:
        """Inputs of the pipeline that name places, with what each may be for every step that takes it.

        :param of_component: what a component of this provider says of its inputs
        """
        found: dict[str, Address] = {}
        for (name, key), own in self.joined.inputs.items():
            component = self._given[name]["component"]
            expected = None if _is_file(component) else of_component(component).get(key)
            if expected is None and "artifactType" in self.steps[name].spec.inputs[key]:
                expected = ANY_ARTIFACT
            if expected is not None:
                found[own] = found[own].and_also(expected) if own in found else expected
        return found

    def inputs_called(self, key: str) -> set[str]:
        """Inputs of the pipeline that are an input of this name for a component of this provider.

        :param key: the component's input
        """
        packaged = self.packaged
        return {own for (name, of), own in self.joined.inputs.items() if of == key and name in packaged}

    def _values(self, name: str, spec: PipelineSpec, sources: Collection[str]) -> dict[str, Any]:
        """Values of a step's inputs, checked as the component's own operator does it."""
        given = self._given[name].get("arguments", {})
        arguments = {key: value for key, value in given.items() if key not in sources}
        try:
            if name in self.packaged:
                arguments = self._checked(name, spec, arguments)
            return spec.check(arguments, elsewhere=sources)
        except ConfigurationError as error:
            raise ConfigurationError(f"Step {name!r}: {error}") from error


def check_plan(steps: Steps) -> None:
    """Say what can be said of steps when the DAG is read: names, what waits for what, and types of this provider's own.

    :param steps: the steps, as their author gives them
    :raises ConfigurationError: they cannot be joined
    """
    needs: dict[str, set[str]] = {}
    for name, given in steps.items():
        _check_form(name, given)
        sources = _sources_of(given)
        needs[name] = {source.step for source in sources.values()} | set(given.get("after", ()))
    check_order(needs)
    known = {
        name: _joined_step(name, given, PipelineSpec.packaged(given["component"]))
        for name, given in steps.items()
        if isinstance(given["component"], str)  # not what another task makes
        and not _is_file(given["component"])
        and _TEMPLATE not in given["component"]
    }
    for name, joined in known.items():
        if unknown := describe_unknown(steps[name].get("arguments", {}), joined.spec.inputs):
            raise ConfigurationError(
                f"Step {name!r} has no input {unknown}. Its inputs: {', '.join(sorted(joined.spec.inputs))}."
            )
    check_types(known)


def _check_form(name: str, given: Mapping[str, Any]) -> None:
    if not isinstance(given, Mapping) or not given.get("component"):
        raise ConfigurationError(
            f"Step {shown_value(name)} must be made by step(component, arguments), got {shown_value(given)}."
        )
    if unknown := describe_unknown(given, _STEP_KEYS):
        raise ConfigurationError(f"Step {name!r} has {unknown}; it may have {', '.join(sorted(_STEP_KEYS))}.")
    for key, value in given.get("arguments", {}).items():
        if not _is_output(value) and any(map(_is_output, _parts(value))):
            raise ConfigurationError(
                f"Step {name!r}: output_of stands for a whole input, and {key!r} has it inside: {shown_value(value)}."
            )


def _joined_step(
    name: str, given: Mapping[str, Any], spec: PipelineSpec, values: Mapping[str, Any] | None = None
) -> JoinedStep:
    return JoinedStep(name, spec, values or {}, _sources_of(given), tuple(given.get("after", ())))


def _sources_of(given: Mapping[str, Any]) -> dict[str, OutputOf]:
    return {
        key: OutputOf(value["output_of"], value["name"])
        for key, value in given.get("arguments", {}).items()
        if _is_output(value)
    }


def _is_output(value: Any) -> bool:
    """Whether it stands for what another step makes."""
    return isinstance(value, Mapping) and value.keys() == _OUTPUT_KEYS


def _parts(value: Any) -> Iterator[Any]:
    """What is in a value, at every depth."""
    inside = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    )
    for part in inside:
        yield part
        yield from _parts(part)


def _spec_of(component: str) -> PipelineSpec:
    return PipelineSpec.load(component) if _is_file(component) else PipelineSpec.packaged(component)


def _is_file(component: str) -> bool:
    """Whether it is the address of a file, and not the name of a component."""
    return "/" in component or "." in component
