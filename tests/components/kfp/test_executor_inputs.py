"""What Kubeflow Pipelines' driver hands to our components, read by KFP's own executor.

The recorded inputs were written by the driver of Kubeflow Pipelines 2.17 on a cluster. It gives artifacts no type but
``{"instanceSchema": ""}``, so the executor falls back to the component's annotation. The other inputs follow its pattern.
"""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl.executor import Executor
from llmops_components.kfp import COMPONENTS

RECORDED = json.loads(
    (Path(__file__).resolve().parents[2] / "recorded" / "kfp-executor-inputs.json").read_text(
        encoding="utf-8"
    )
)


def arguments_of(component, executor_input: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """What the executor calls the component's function with."""
    received = {}

    def record(**arguments):
        received.update(arguments)

    record.__annotations__ = component.python_func.__annotations__
    record.__signature__ = inspect.signature(component.python_func)
    outputs = executor_input.get("outputs", {})
    placed = {**executor_input, "outputs": {**outputs, "outputFile": str(tmp_path / "executor_output.json")}}
    Executor(json.loads(json.dumps(placed).replace("minio://", f"{tmp_path}/")), record).execute()
    return received


def as_the_driver_writes(component, *, optional: bool) -> dict[str, Any]:
    """Executor input with every required artifact, and every optional one or none."""

    def given(name: str) -> dict[str, Any]:
        artifact = {"name": "65", "type": {"instanceSchema": ""}, "uri": f"minio://bucket/{name}"}
        return {"artifacts": [{**artifact, "metadata": {"store_session_info": '{"Provider":"minio"}'}}]}

    def made(name: str, schema: str) -> dict[str, Any]:
        kind = {"schemaTitle": schema, "schemaVersion": "0.0.1"}
        return {"artifacts": [{"name": name, "type": kind, "uri": f"minio://bucket/out/{name}"}]}

    spec = component.component_spec
    inputs = {name: item for name, item in spec.inputs.items() if item.type.startswith("system.")}
    chosen = [name for name, item in inputs.items() if optional or not item.optional]
    made_artifacts = {
        name: made(name, item.type.split("@")[0])
        for name, item in spec.outputs.items()
        if item.type.startswith("system.")
    }
    parameters = {
        name: {"outputFile": f"minio://outputs/{name}"}
        for name in spec.outputs.keys() - made_artifacts.keys()
    }
    return {
        "inputs": {"artifacts": {name: given(name) for name in chosen}},
        "outputs": {"artifacts": made_artifacts, **({"parameters": parameters} if parameters else {})},
    }


# What inputs were called when the driver was recorded.
RENAMED = {
    "register-model": {"name": "model_name", "params": "params_to_log", "metrics": "model_metrics"},
}


@pytest.mark.parametrize("optional", [True, False], ids=["every optional artifact", "none"])
@pytest.mark.parametrize("name", COMPONENTS)
def test_component_takes_what_the_driver_writes(name, optional, tmp_path):
    component = COMPONENTS[name]
    given = as_the_driver_writes(component, optional=optional)
    received = arguments_of(component, given, tmp_path)
    artifacts = {
        key: value.path if value else None
        for key, value in received.items()
        if component.component_spec.inputs.get(key)
        and component.component_spec.inputs[key].type.startswith("system.")
    }
    inputs = component.component_spec.inputs
    assert artifacts == {
        key: f"{tmp_path}/bucket/{key}" if key in given["inputs"]["artifacts"] else None
        for key, item in inputs.items()
        if item.type.startswith("system.")
    }
    assert {
        key: type(value).schema_title for key, value in received.items() if value and key in artifacts
    } == {key: inputs[key].type.split("@")[0] for key in given["inputs"]["artifacts"]}


@pytest.mark.parametrize(
    "recorded", RECORDED, ids=[f"{index} {case['component']}" for index, case in enumerate(RECORDED)]
)
def test_component_takes_a_recorded_input(recorded, tmp_path):
    component = COMPONENTS[recorded["component"].replace("-", "_")]
    given = copy.deepcopy(recorded["executor_input"])
    inputs = given["inputs"]
    new_names = RENAMED.get(recorded["component"], {})
    values = inputs.get("parameterValues", {})
    inputs["parameterValues"] = {new_names.get(name, name): value for name, value in values.items()}
    received = arguments_of(component, given, tmp_path)
    expected = {name: item["artifacts"][0]["uri"] for name, item in inputs.get("artifacts", {}).items()}
    assert {name: received[name].uri.replace(f"{tmp_path}/", "minio://") for name in expected} == expected
    parameters = inputs.get("parameterValues", {})
    assert {name: received[name] for name in parameters} == parameters
