"""Changes to a pipeline's IR, in place, that make it runnable from parameters alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any


def dags(ir: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every component with tasks: the root and the nested pipelines, loops and conditions.

    :param ir: pipeline IR
    """
    for component in (ir["root"], *ir.get("components", {}).values()):
        if "dag" in component:
            yield component


def needs_of(task: Mapping[str, Any]) -> set[str]:
    """Names of the tasks that a task waits for, or takes something from.

    :param task: the task
    """
    needs = set(task.get("dependentTasks", ()))
    inputs = task.get("inputs", {})
    for source in (*inputs.get("parameters", {}).values(), *inputs.get("artifacts", {}).values()):
        for kind in ("taskOutputParameter", "taskOutputArtifact", "taskFinalStatus"):
            if producer := source.get(kind, {}).get("producerTask"):
                needs.add(producer)
    return needs


def unused_name(name: str, taken: Mapping[str, Any]) -> str:
    """A name that is not taken, made as the KFP compiler makes them: ``name``, ``name-2``, ``name-3``.

    :param name: the name that it would have
    :param taken: the names that there are
    """
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def component_key(name: str) -> str:
    """Key of the component that ``kfp`` takes a file for, if the file's pipeline has its name.

    :param name: of the pipeline
    """
    return f"comp-{name.replace('.', '-')}"


def name_apart(ir: Mapping[str, Any]) -> str:
    """The pipeline's name, made unlike those of its components.

    A pipeline that is named like one of its components is read back by ``kfp`` as that component, importers left out.

    :param ir: pipeline IR
    """
    name: str = ir["pipelineInfo"]["name"]
    while component_key(name) in ir["components"]:
        name += "-run"
    return name


def rename_apart(ir: dict[str, Any]) -> None:
    """Give the pipeline a name unlike those of its components, see :func:`name_apart`.

    :param ir: pipeline IR
    """
    ir["pipelineInfo"]["name"] = name_apart(ir)


def set_caching(ir: dict[str, Any], enabled: bool) -> None:
    """Switch caching on or off for every task; keys of the cache stay when it is on.

    :param ir: pipeline IR
    :param enabled: whether steps may take results of earlier runs
    """
    for component in dags(ir):
        for task in component["dag"]["tasks"].values():
            if not enabled:
                task["cachingOptions"] = {}
            else:
                task["cachingOptions"] = {**(task.get("cachingOptions") or {}), "enableCache": True}


def add_importer(ir: dict[str, Any], name: str, declared: Mapping[str, Any]) -> str:
    """Put an importer in front of an artifact input, and a parameter for its URI in the input's place.

    :param ir: pipeline IR
    :param name: name of the input
    :param declared: its definition
    :return: name of the parameter
    """
    tasks = ir["root"]["dag"]["tasks"]
    executors = ir["deploymentSpec"]["executors"]
    declared_inputs = ir["root"]["inputDefinitions"]
    parameters = declared_inputs.setdefault("parameters", {})
    key = unused_name(f"import-{name.replace('_', '-')}", tasks)
    component = unused_name(f"comp-{key}", ir["components"])
    label = unused_name(f"exec-{key}", executors)
    parameter = unused_name(f"{name}_uri", parameters)
    artifact_type = declared["artifactType"]
    ir["components"][component] = {
        "executorLabel": label,
        "inputDefinitions": {"parameters": {"uri": {"parameterType": "STRING"}}},
        "outputDefinitions": {"artifacts": {"artifact": {"artifactType": artifact_type}}},
    }
    executors[label] = {"importer": {"artifactUri": {"runtimeParameter": "uri"}, "typeSchema": artifact_type}}
    for task in tasks.values():
        for source in task.get("inputs", {}).get("artifacts", {}).values():
            if source.get("componentInputArtifact") == name:
                del source["componentInputArtifact"]
                source["taskOutputArtifact"] = {"outputArtifactKey": "artifact", "producerTask": key}
                task["dependentTasks"] = sorted({*task.get("dependentTasks", []), key})
    tasks[key] = {
        "cachingOptions": {},
        "componentRef": {"name": component},
        "inputs": {"parameters": {"uri": {"componentInputParameter": parameter}}},
        "taskInfo": {"name": key},
    }
    del declared_inputs["artifacts"][name]
    parameters[parameter] = {"parameterType": "STRING"}
    return parameter


def translate_imports(
    ir: dict[str, Any], parameters: Mapping[str, Any], translate: Callable[[str, str], str]
) -> None:
    """Change the addresses of the pipeline's importers, where they are known before it runs.

    :param ir: pipeline IR
    :param parameters: values of the pipeline's inputs
    :param translate: is given the importer's step and its address; returns another address, or raises
    """
    executors = ir.get("deploymentSpec", {}).get("executors", {})
    for component in dags(ir):
        declared = component.get("inputDefinitions", {}).get("parameters", {})
        for name, task in component["dag"]["tasks"].items():
            label = ir["components"][task["componentRef"]["name"]].get("executorLabel")
            if (importer := executors.get(label, {}).get("importer")) is None:
                continue
            source = importer.get("artifactUri", {})
            if "constant" in source:
                source["constant"] = translate(name, source["constant"])
                continue
            given = task.get("inputs", {}).get("parameters", {})
            value = given.get(source.get("runtimeParameter"), {})
            address = value.get("runtimeValue", {}).get("constant")
            if (parameter := value.get("componentInputParameter")) and component is ir["root"]:
                address = parameters.get(parameter, declared.get(parameter, {}).get("defaultValue"))
            if isinstance(address, str) and (other := translate(name, address)) != address:
                given[source["runtimeParameter"]] = {"runtimeValue": {"constant": other}}


def drop_absent_artifacts(ir: dict[str, Any], component: dict[str, Any], given: Set[str]) -> None:
    """Take optional artifacts out that nobody gave.

    The server passes on no artifact that is not there: its driver fails with "parent DAG does not have input artifact", where
    it hands on an absent parameter as null. So parameters stay as they were compiled.

    :param ir: pipeline IR
    :param component: its root, or a pipeline in it
    :param given: names of its input artifacts that there are
    """
    declared = component.get("inputDefinitions", {})
    artifacts = declared.get("artifacts", {})
    absent = artifacts.keys() - given
    for name in absent:
        del artifacts[name]
    if not artifacts:
        declared.pop("artifacts", None)
    for task in component["dag"]["tasks"].values():
        sources = task.get("inputs", {}).get("artifacts", {})
        for key in [key for key, source in sources.items() if source.get("componentInputArtifact") in absent]:
            del sources[key]
        target = ir["components"][task["componentRef"]["name"]]
        passed = {*sources, task.get("artifactIterator", {}).get("itemInput")}
        if "dag" in target and target.get("inputDefinitions", {}).get("artifacts", {}).keys() - passed:
            drop_absent_artifacts(ir, _component_of_its_own(ir, task), passed)


def handed_into_groups_as_null(ir: dict[str, Any], given: Set[str]) -> list[tuple[str, str]]:
    """Groups of tasks (nested pipelines, conditions, loops) that are handed an input that nobody gave and that has no default.

    :param ir: pipeline IR
    :param given: names of the parameters that were given
    :return: of each the name of its task, and of the input
    """
    declared = ir["root"].get("inputDefinitions", {}).get("parameters", {})
    absent = {name for name, of in declared.items() if name not in given and "defaultValue" not in of}
    found = []
    for name, task in ir["root"]["dag"]["tasks"].items():
        if "dag" in ir["components"][task["componentRef"]["name"]]:
            sources = task.get("inputs", {}).get("parameters", {}).values()
            found += [
                (name, source["componentInputParameter"])
                for source in sources
                if source.get("componentInputParameter") in absent
            ]
    return found


def _component_of_its_own(ir: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """The component of a task; a copy of it if other tasks have it, too."""
    name = task["componentRef"]["name"]
    component: dict[str, Any] = ir["components"][name]
    uses = [
        other
        for dag in dags(ir)
        for other in dag["dag"]["tasks"].values()
        if other["componentRef"]["name"] == name
    ]
    if len(uses) > 1:
        own = unused_name(name, ir["components"])
        component = ir["components"][own] = copy.deepcopy(component)
        task["componentRef"] = {**task["componentRef"], "name": own}
    return component
