"""Walk a compiled pipeline: which step is next, what it gets, whether it runs at all, what the pipeline gives.

``kfp.local`` does this as well, but evaluates a condition that it cannot read as false, names outputs after the component
(so that two uses of it overwrite each other), ignores retries, and shows whole numbers as fractions. What is done here follows
the driver of Kubeflow Pipelines (``backend/src/v2/driver``), with one step at a time: each may use every core.
"""

from __future__ import annotations

import contextlib
import graphlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmops_components.errors import InputError
from llmops_components.json_text import parse_json
from llmops_components.local.conditions import is_true
from llmops_components.local.inputs import Artifact, Inputs, NotAvailable, Values, with_defaults
from llmops_components.local.values import constant, refuse_placeholders, typed
from llmops_components.uris import file_path, scheme_of


@dataclass(frozen=True)
class Step:
    """One execution of a component that is no pipeline itself.

    Args:
        name: Path of the task: the names of the tasks and the numbers of the loop items that lead to it.
        component: Its definition: inputs and outputs.
        container: Image, command, arguments and variables.
        parameters: Values of its input parameters; those that nobody gave are left out.
        artifacts: Its input artifacts.
        retry: How often it is tried again, as compiled.
    """

    name: str
    component: Mapping[str, Any]
    container: Mapping[str, Any]
    parameters: Mapping[str, Any]
    artifacts: Mapping[str, list[Artifact]]
    retry: Mapping[str, Any] = field(default_factory=dict)


class StepFailed(Exception):
    """A step has failed.

    Args:
        step: Its name.
        reason: ``type``, ``message`` and ``retryable``.
    """

    def __init__(self, step: str, reason: Mapping[str, Any]) -> None:
        super().__init__(f"{step}: {reason['type']}: {reason['message']}")
        self.step = step
        self.reason = dict(reason)


class Pipeline:
    """A compiled pipeline, ready to be carried out.

    Args:
        spec: Its specification.
        facts: What the placeholders of the run stand for, ``pipeline_job_name`` and so on.
        run_step: Carries out one step and gives its outputs; raises :class:`StepFailed`.
        on_state: Is told the state of each step that is left out.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        *,
        facts: Mapping[str, str],
        run_step: Callable[[Step], Values],
        on_state: Callable[[str, str], None],
    ) -> None:
        self._components = spec.get("components", {})
        self._executors = spec["deploymentSpec"].get("executors", {})
        self._root = spec["root"]
        self._inputs = Inputs(self._components, facts)
        self._run_step = run_step
        self._on_state = on_state

    def run(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Carry it out; returns its output parameters.

        Args:
            arguments: Value of each input parameter.

        Raises:
            StepFailed: The first step that failed.
            InputError: An argument has placeholders in it.
        """
        for name, value in arguments.items():
            refuse_placeholders(value, f"Input {name!r}")
        outputs = self._dag(self._root, Values(parameters=dict(arguments)), "", {})
        declared = self._root.get("outputDefinitions", {}).get("parameters", {})
        for name, value in outputs.parameters.items():
            with contextlib.suppress(InputError):  # the compiler declares some as what they are not
                outputs.parameters[name] = typed(value, declared.get(name, {}), f"Output {name!r}")
        return outputs.parameters

    def _dag(
        self, component: Mapping[str, Any], inputs: Values, path: str, retry: Mapping[str, Any]
    ) -> Values:
        inputs = with_defaults(component, inputs, path)
        tasks = component["dag"]["tasks"]
        done: dict[str, Values] = {}
        states: dict[str, str] = {}
        failure: StepFailed | None = None
        went_on: set[str] = set()  # after a failure
        for name in _in_order(tasks):
            task, step = tasks[name], f"{path}{name}"
            needs = [need for need in task.get("dependentTasks", ()) if need in tasks]
            is_broken = any(states[need] in ("FAILED", "LEFT_OUT") for need in needs)
            if _runs_always(task):
                went_on |= {name} if failure else set()
            elif is_broken or (failure and not went_on & set(needs)):
                states[name] = "LEFT_OUT"
                self._on_state(step, "SKIPPED")
                continue
            elif failure:
                went_on.add(name)
            try:
                given = self._inputs.of(task, step, inputs, done, states)
                condition = task.get("triggerPolicy", {}).get("condition")
                if condition and not is_true(condition, given.parameters):
                    raise NotAvailable
                done[name] = self._task(task, given, step, task.get("retryPolicy") or retry)
                states[name] = "SUCCEEDED"
            except NotAvailable:
                states[name] = "SKIPPED"
                self._on_state(step, "SKIPPED")
            except InputError as error:
                states[name] = "FAILED"
                self._on_state(step, "FAILED")
                reason = {
                    "type": type(error).__name__,
                    "message": str(error),
                    "retryable": False,
                    "traceback": None,
                }
                failure = failure or StepFailed(step, reason)
            except StepFailed as error:
                states[name] = "FAILED"
                failure = failure or error
        if failure:
            raise failure
        return _outputs_of(component["dag"].get("outputs", {}), done)

    def _task(self, task: Mapping[str, Any], given: Values, step: str, retry: Mapping[str, Any]) -> Values:
        """A task: its component once, or once for each item."""
        component = self._components[task["componentRef"]["name"]]
        items = _items_of(task, given, step)
        if items is None:
            return self._component(component, given, step, retry)
        collected = Values()
        for name in component.get("outputDefinitions", {}).get("parameters", {}):
            collected.parameters[name] = []
        for name in component.get("outputDefinitions", {}).get("artifacts", {}):
            collected.artifacts[name] = []
        for index, item in enumerate(items):
            outputs = self._component(component, item, f"{step}/{index}", retry)
            for name, value in outputs.parameters.items():
                collected.parameters.setdefault(name, []).append(value)
            for name, artifacts in outputs.artifacts.items():
                collected.artifacts.setdefault(name, []).extend(artifacts)
        return collected

    def _component(
        self, component: Mapping[str, Any], given: Values, step: str, retry: Mapping[str, Any]
    ) -> Values:
        if "dag" in component:
            return self._dag(component, given, f"{step}/", retry)
        executor = self._executors[component["executorLabel"]]
        given = with_defaults(component, given, step)
        if "importer" in executor:
            return self._import(executor["importer"], given, step)
        return self._run_step(
            Step(
                name=step,
                component=component,
                container=executor["container"],
                parameters=given.parameters,
                artifacts=given.artifacts,
                retry=retry,
            )
        )

    def _import(self, importer: Mapping[str, Any], given: Values, step: str) -> Values:
        uri = importer["artifactUri"]
        address = uri.get("constant") if "constant" in uri else given.parameters.get("uri")
        if not isinstance(address, str) or not address:
            raise InputError(f"Importer {step} has no address of an artifact.")
        if scheme_of(address) == "file":
            address = file_path(address, f"The importer {step}")
        artifact = {
            "name": "artifact",
            "type": importer.get("typeSchema", {}),
            "uri": address,
            "metadata": self._inputs.filled(constant(importer.get("metadata", {})), step, given),
        }
        self._on_state(step, "SUCCEEDED")
        return Values(artifacts={"artifact": [artifact]})


def _in_order(tasks: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    graph = {
        name: [need for need in task.get("dependentTasks", ()) if need in tasks]
        for name, task in tasks.items()
    }
    return iter(tuple(graphlib.TopologicalSorter(graph).static_order()))


def _runs_always(task: Mapping[str, Any]) -> bool:
    """Exit handlers, and tasks that ignore a failure before them."""
    return task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"


def _items_of(task: Mapping[str, Any], given: Values, step: str) -> list[Values] | None:
    """What each turn of a loop gets; ``None`` for a task that is no loop."""
    if iterator := task.get("artifactIterator"):
        artifacts = given.artifacts.get(iterator["items"]["inputArtifact"], [])
        return [
            Values(given.parameters, {**given.artifacts, iterator["itemInput"]: [artifact]})
            for artifact in artifacts
        ]
    iterator = task.get("parameterIterator")
    if iterator is None:
        return None
    source = iterator["items"]
    items = source["raw"] if "raw" in source else given.parameters.get(source["inputParameter"])
    if isinstance(items, str):
        with contextlib.suppress(ValueError):
            items = constant(parse_json(items))
    if not isinstance(items, list):
        raise InputError(f"Loop {step} goes over a list and got {type(items).__name__} {items!r:.80}.")
    return [Values({**given.parameters, iterator["itemInput"]: item}, given.artifacts) for item in items]


def _outputs_of(outputs: Mapping[str, Any], done: Mapping[str, Values]) -> Values:
    """What a pipeline gives of what its tasks gave; nothing for what did not run."""
    given = Values()
    for name, source in outputs.get("parameters", {}).items():
        selectors = source.get("valueFromOneof", {}).get("parameterSelectors") or [
            source.get("valueFromParameter", {})
        ]
        for selector in selectors:
            found = done.get(selector.get("producerSubtask", ""), Values()).parameters
            if selector.get("outputParameterKey") in found:
                given.parameters[name] = found[selector["outputParameterKey"]]
                break
    for name, source in outputs.get("artifacts", {}).items():
        for selector in source.get("artifactSelectors", ()):
            artifacts = done.get(selector.get("producerSubtask", ""), Values()).artifacts
            if selector.get("outputArtifactKey") in artifacts:
                given.artifacts[name] = artifacts[selector["outputArtifactKey"]]
                break
    return given
