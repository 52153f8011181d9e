"""Whether the parts of a specification fit together: what has to be there, which names there may be, what refers to what."""

from __future__ import annotations

import graphlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown
from airflow_provider_llmops.specs.ir import needs_of
from airflow_provider_llmops.specs.json_values import MAX_DEPTH

SCHEMA_VERSION = "2.1.0"  # the only one that the API server of Kubeflow Pipelines 2 takes
MAX_NAME_LENGTH = 128
COMPILE_AGAIN = "Compile it again with kfp 2: compiler.Compiler().compile(pipeline, 'pipeline.yaml')."

_PIPELINE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
# The compiler gives a task these, besides its component's inputs, where a pipeline's input or a task's output says them.
_OF_CONTAINERS = {
    "accelerator_count",
    "accelerator_type",
    "base_image",
    "cpu_limit",
    "cpu_request",
    "memory_limit",
    "memory_request",
}


def require_parts(ir: Mapping[str, Any], where: str) -> None:
    """Refuse what lacks a part that every specification has.

    :param ir: pipeline IR
    :param where: what to call it in messages
    :raises ConfigurationError: a part is missing
    """
    missing = [key for key in ("pipelineInfo", "root", "deploymentSpec") if key not in ir]
    if missing:
        raise ConfigurationError(
            f"{where} is no pipeline specification: it has no {', '.join(missing)}. {COMPILE_AGAIN}"
        )


def check_pipeline(ir: dict[str, Any], where: str) -> None:
    """Refuse a pipeline specification whose parts do not fit together, which the descriptors do not say.

    :param ir: pipeline IR
    :param where: what to call it in messages
    :raises ConfigurationError: naming the part
    """
    require_parts(ir, where)
    if ir.get("schemaVersion") != SCHEMA_VERSION:
        raise ConfigurationError(
            f"{where} has schemaVersion {ir.get('schemaVersion')!r}; Kubeflow Pipelines 2 takes {SCHEMA_VERSION}. {COMPILE_AGAIN}"
        )
    name = ir["pipelineInfo"].get("name", "")
    if not _PIPELINE_NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        raise ConfigurationError(
            f"{where}: pipelineInfo.name is {name!r:.200}; it must be lower-case letters, digits and '-', with one of the former "
            f"at both ends ('.' may join such names), and at most {MAX_NAME_LENGTH} characters. {COMPILE_AGAIN}"
        )
    if "dag" not in ir["root"]:
        raise ConfigurationError(f"{where}: root has no dag. {COMPILE_AGAIN}")
    components = ir.get("components", {})
    parts = _Parts(components, ir["deploymentSpec"].get("executors", {}))
    parts.check_component(ir["root"], f"{where}: root")
    for key, component in components.items():
        parts.check_component(component, f"{where}: components.{key}")
    _check_acyclic(ir, where)


def check_platform(platform: Mapping[str, Any], ir: Mapping[str, Any], where: str) -> None:
    """Refuse settings for executors that there are not: nobody would miss them.

    :param platform: platform specification
    :param ir: pipeline IR
    :param where: what to call them in messages
    :raises ConfigurationError: naming the executor
    """
    executors = ir["deploymentSpec"].get("executors", {})
    for name, document in platform.get("platforms", {}).items():
        labels = document.get("deploymentSpec", {}).get("executors", {})
        if unknown := describe_unknown(labels, executors):
            raise ConfigurationError(
                f"{where}: platforms.{name} has settings for an executor that is not there: {unknown}. {COMPILE_AGAIN}"
            )


@dataclass(frozen=True)
class _Parts:
    """The components and executors of a specification, to which its tasks refer."""

    components: Mapping[str, Any]
    executors: Mapping[str, Any]

    def check_component(self, component: Mapping[str, Any], where: str) -> None:
        inputs = component.get("inputDefinitions", {})
        for group, needed in (("parameters", "parameterType"), ("artifacts", "artifactType")):
            for name, declared in inputs.get(group, {}).items():
                if needed not in declared:
                    raise ConfigurationError(
                        f"{where}.inputDefinitions.{group}.{name} has no {needed}. {COMPILE_AGAIN}"
                    )
        if "dag" in component:
            self._check_dag(component["dag"], inputs, f"{where}.dag")
            return
        label = str(component.get("executorLabel"))
        if label not in self.executors:
            raise ConfigurationError(
                f"{where} refers to an executor that is not there: {describe_unknown([label], self.executors)}. {COMPILE_AGAIN}"
            )

    def _check_dag(self, dag: Mapping[str, Any], inputs: Mapping[str, Any], where: str) -> None:
        """The tasks of a pipeline, whose own inputs are given."""
        tasks = dag.get("tasks", {})
        if not tasks:
            raise ConfigurationError(f"{where} has no tasks. {COMPILE_AGAIN}")
        for name, task in tasks.items():
            self._check_task(task, tasks, inputs, f"{where}.tasks.{name}")
        for name, task in tasks.items():
            self._check_given(task, tasks, f"{where}.tasks.{name}")
        self._check_outputs(dag, where)
        try:
            graphlib.TopologicalSorter({name: needs_of(task) for name, task in tasks.items()}).prepare()
        except graphlib.CycleError as error:
            raise ConfigurationError(
                f"{where}: tasks wait for each other: {' -> '.join(error.args[1])}. {COMPILE_AGAIN}"
            ) from error

    def _check_task(
        self, task: Mapping[str, Any], tasks: Mapping[str, Any], inputs: Mapping[str, Any], where: str
    ) -> None:
        """A task is of a component, waits for tasks and takes inputs of its pipeline that there are."""
        target = str(task.get("componentRef", {}).get("name"))
        if target not in self.components:
            raise ConfigurationError(
                f"{where} refers to a component that is not there: {describe_unknown([target], self.components)}. {COMPILE_AGAIN}"
            )
        if unknown := describe_unknown(needs_of(task), tasks):
            raise ConfigurationError(
                f"{where} depends on a task that is not there: {unknown}. {COMPILE_AGAIN}"
            )
        for group, kind in (
            ("parameters", "componentInputParameter"),
            ("artifacts", "componentInputArtifact"),
        ):
            sources = task.get("inputs", {}).get(group, {}).values()
            taken = [source[kind] for source in sources if kind in source]
            if unknown := describe_unknown(taken, inputs.get(group, {})):
                raise ConfigurationError(
                    f"{where} takes an input that its pipeline does not have: {unknown}. {COMPILE_AGAIN}"
                )

    def _check_given(self, task: Mapping[str, Any], tasks: Mapping[str, Any], where: str) -> None:
        """What a task is given goes to inputs of its component, and comes from outputs of the others'."""
        component = self.components[task["componentRef"]["name"]]
        declared = component.get("inputDefinitions", {})
        executor = self.executors.get(component.get("executorLabel"), {})
        for group, kind in (("parameters", "Parameter"), ("artifacts", "Artifact")):
            given = task.get("inputs", {}).get(group, {})
            known = [
                *declared.get(group, {}),
                *(name for name in given if _fills_placeholders(name, task, executor)),
            ]
            if unknown := describe_unknown(given, known):
                raise ConfigurationError(
                    f"{where}.inputs.{group} has an input that its component does not have: {unknown}. {COMPILE_AGAIN}"
                )
            for name, source in given.items():
                if taken := source.get(f"taskOutput{kind}"):
                    producer, key = taken.get("producerTask"), taken.get(f"output{kind}Key")
                    self._check_output(producer, key, tasks, f"{where}.inputs.{group}.{name}", group=group)

    def _check_outputs(self, dag: Mapping[str, Any], where: str) -> None:
        """What a pipeline gives comes from outputs of its tasks."""
        outputs = dag.get("outputs", {})
        for name, output in outputs.get("parameters", {}).items():
            one = [output["valueFromParameter"]] if "valueFromParameter" in output else []
            for selector in (*one, *output.get("valueFromOneof", {}).get("parameterSelectors", ())):
                producer, key = selector.get("producerSubtask"), selector.get("outputParameterKey")
                place = f"{where}.outputs.parameters.{name}"
                self._check_output(producer, key, dag["tasks"], place, group="parameters")
        for name, output in outputs.get("artifacts", {}).items():
            for selector in output.get("artifactSelectors", ()):
                producer, key = selector.get("producerSubtask"), selector.get("outputArtifactKey")
                place = f"{where}.outputs.artifacts.{name}"
                self._check_output(producer, key, dag["tasks"], place, group="artifacts")

    def _check_output(
        self, task: str | None, key: str | None, tasks: Mapping[str, Any], where: str, *, group: str
    ) -> None:
        """A task has an output.

        :param group: ``parameters`` or ``artifacts``
        """
        if task is None or task not in tasks:
            raise ConfigurationError(
                f"{where} comes from a task that is not there: {describe_unknown([str(task)], tasks)}. {COMPILE_AGAIN}"
            )
        component = self.components[tasks[task]["componentRef"]["name"]]
        declared = component.get("outputDefinitions", {}).get(group, {})
        if key not in declared:
            raise ConfigurationError(
                f"{where} takes an output that task {task!r} does not have: {describe_unknown([str(key)], declared)}. {COMPILE_AGAIN}"
            )


def _fills_placeholders(name: str, task: Mapping[str, Any], executor: Mapping[str, Any]) -> bool:
    """Whether the compiler has given a task an input for placeholders, or for the settings of its container."""
    is_of_container = "container" in executor and name in _OF_CONTAINERS
    return (
        is_of_container
        or name.startswith("pipelinechannel--")
        or f"['{name}']" in json.dumps([task, executor])
    )


def _check_acyclic(ir: dict[str, Any], where: str) -> None:
    """No pipeline contains itself, however deep."""
    done: set[str] = set()

    def visit(component: dict[str, Any], above: tuple[str, ...]) -> None:
        for task in component.get("dag", {}).get("tasks", {}).values():
            name = task["componentRef"]["name"]
            if name in above or len(above) > MAX_DEPTH:
                raise ConfigurationError(f"{where}: component {name!r} contains itself. {COMPILE_AGAIN}")
            if name not in done:
                visit(ir["components"][name], (*above, name))
                done.add(name)

    visit(ir["root"], ())
