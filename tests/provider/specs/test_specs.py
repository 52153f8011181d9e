"""Binding arguments to compiled components."""

from __future__ import annotations

import copy
import datetime
import json
from typing import Any

import pytest
from pipelines import nested, task, two_steps

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.specs.pipeline import PipelineSpec


def test_artifact_inputs_become_uris_behind_importers():
    spec = PipelineSpec.packaged("evaluate_model")
    bound = spec.bind({"model": "/m", "dataset": "s3://b/d", "batch_size": 4, "metric_names": None})
    assert bound.parameters == {"model_uri": "/m", "dataset_uri": "s3://b/d", "batch_size": 4}
    tasks = bound.spec["root"]["dag"]["tasks"]
    assert sorted(tasks) == ["evaluate-model", "import-dataset", "import-model"]
    assert tasks["evaluate-model"]["inputs"]["artifacts"] == {
        "dataset": {
            "taskOutputArtifact": {"outputArtifactKey": "artifact", "producerTask": "import-dataset"}
        },
        "model": {"taskOutputArtifact": {"outputArtifactKey": "artifact", "producerTask": "import-model"}},
    }
    assert tasks["evaluate-model"]["dependentTasks"] == ["import-dataset", "import-model"]
    assert "artifacts" not in bound.spec["root"]["inputDefinitions"]
    assert bound.spec["deploymentSpec"]["executors"]["exec-import-model"] == {
        "importer": {
            "artifactUri": {"runtimeParameter": "uri"},
            "typeSchema": {"schemaTitle": "system.Model", "schemaVersion": "0.0.1"},
        }
    }


def test_binding_leaves_the_packaged_component_alone():
    before = PipelineSpec.packaged("train_sft").ir["root"]["inputDefinitions"].keys()
    PipelineSpec.packaged("train_sft").bind({"dataset": "/d", "base_model": "/m"})
    assert (
        PipelineSpec.packaged("train_sft").ir["root"]["inputDefinitions"].keys()
        == before
        == {"artifacts", "parameters"}
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"datset": "/d"}, r"has no input 'datset' \(did you mean 'dataset'\?\)"),
        ({"dataset": "/d"}, "needs a value for: model"),
        ({"dataset": "/d", "model": 3}, "input 'model' is an artifact and takes its URI as text, got 3"),
        ({"dataset": "/d", "model": "a\nb"}, "input 'model' is an artifact"),
        (
            {"dataset": "/d", "model": "/m", "batch_size": True},
            "input 'batch_size' must be int, got bool True",
        ),
        (
            {"dataset": "/d", "model": "/m", "batch_size": "many"},
            "input 'batch_size' must be int, got str 'many'",
        ),
        (
            {"dataset": "/d", "model": "/m", "batch_size": 4.5},
            "input 'batch_size' must be int, got float 4.5",
        ),
        ({"dataset": "/d", "model": "/m", "generation_args": [1]}, "input 'generation_args' must be dict"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        PipelineSpec.packaged("evaluate_model").bind(arguments)


def test_whole_numbers_are_accepted_where_the_component_takes_fractions():
    bound = PipelineSpec.packaged("validate_dataset").bind({"dataset": "/d", "max_rejected_fraction": 0})
    value = bound.parameters["max_rejected_fraction"]
    assert (value, type(value)) == (0.0, float)


@pytest.mark.parametrize(
    ("parameter_type", "text", "value"),
    [
        ("NUMBER_INTEGER", "20", 20),
        ("NUMBER_INTEGER", "20.0", 20),
        ("NUMBER_DOUBLE", "2", 2.0),
        ("NUMBER_DOUBLE", "2e-4", 2e-4),
        ("BOOLEAN", "False", False),
        ("LIST", "['a', 1]", ["a", 1]),
        ("STRUCT", '{"a": 1}', {"a": 1}),
        ("STRING", "20", "20"),
        ("STRING", "[1]", "[1]"),
        ("STRING", "None", "None"),
    ],
)
def test_text_of_a_template_becomes_what_the_input_takes(parameter_type, text, value):
    found = with_input(parameterType=parameter_type).bind({"value": text}).parameters["value"]
    assert repr(found) == repr(value)


@pytest.mark.parametrize("parameter_type", ["NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN", "LIST", "STRUCT"])
def test_none_of_a_template_is_not_given(parameter_type):
    assert "value" not in with_input(parameterType=parameter_type).bind({"value": "None"}).parameters


def test_unknown_component_is_named_with_the_nearest():
    with pytest.raises(
        ConfigurationError, match=r"no packaged component 'train_stf' \(did you mean 'train_sft'\?\)"
    ):
        PipelineSpec.packaged("train_stf")


DATASET = {"artifactType": {"schemaTitle": "system.Dataset", "schemaVersion": "0.0.1"}}


def spec_of(ir: dict[str, Any]) -> PipelineSpec:
    return PipelineSpec(name=ir["pipelineInfo"]["name"], ir=ir, digest="sha256:x")


def with_input(**declared: Any) -> PipelineSpec:
    """The pipeline with an optional parameter ``value`` more."""
    ir = two_steps()
    ir["root"]["inputDefinitions"]["parameters"]["value"] = {"isOptional": True, **declared}
    return spec_of(ir)


@pytest.mark.parametrize("make", [two_steps, nested])
def test_a_pipeline_without_artifacts_is_bound_as_it_was_compiled(make):
    assert spec_of(make()).bind({}).spec == make()


def test_caching_is_kept_unless_the_caller_says_otherwise():
    def options(bound):
        components = (bound.spec["root"], bound.spec["components"]["comp-two-steps"])
        return [item["cachingOptions"] for dag in components for item in dag["dag"]["tasks"].values()]

    ir = nested()
    ir["components"]["comp-two-steps"]["dag"]["tasks"]["train"]["cachingOptions"] = {"cacheKey": "k"}
    on = {"enableCache": True}
    assert options(spec_of(ir).bind({})) == [on, on, on, on, {"cacheKey": "k"}]
    assert options(spec_of(ir).bind({}, caching=False)) == [{}] * 5
    assert options(spec_of(ir).bind({}, caching=True)) == [on, on, on, on, {**on, "cacheKey": "k"}]


def test_packaged_components_are_never_cached_by_the_backend():
    bound = PipelineSpec.packaged("evaluate_model").bind({"model": "/m", "dataset": "/d"})
    assert [item["cachingOptions"] for item in bound.spec["root"]["dag"]["tasks"].values()] == [{}, {}, {}]


def test_a_pipeline_named_like_one_of_its_components_is_renamed():
    ir = two_steps()
    ir["pipelineInfo"]["name"] = "train"
    ir["components"]["comp-train-run"] = ir["components"]["comp-report"]
    assert spec_of(ir).bind({}).spec["pipelineInfo"]["name"] == "train-run-run"


def test_importers_stay_clear_of_names_that_are_taken():
    ir = two_steps()
    ir["root"]["dag"]["tasks"]["import-data"] = task("comp-report")
    ir["root"]["inputDefinitions"]["parameters"]["data_uri"] = {"parameterType": "STRING"}
    ir["root"]["inputDefinitions"]["artifacts"] = {"data": DATASET}
    bound = spec_of(ir).bind({"data": "s3://b/d", "data_uri": "text"})
    assert bound.parameters == {"data_uri-2": "s3://b/d", "data_uri": "text"}
    assert bound.spec["root"]["dag"]["tasks"]["import-data"] == task("comp-report")
    assert bound.spec["root"]["dag"]["tasks"]["import-data-2"]["inputs"] == {
        "parameters": {"uri": {"componentInputParameter": "data_uri-2"}}
    }


def optional_text(ir: dict[str, Any], **of_task: Any) -> dict[str, Any]:
    """A pipeline that passes an optional text on to a nested pipeline, whose step takes it."""
    text = {"inputDefinitions": {"parameters": {"text": {"isOptional": True, "parameterType": "STRING"}}}}
    passed = {"parameters": {"text": {"componentInputParameter": "text"}}}
    ir["components"]["comp-inner"] = {"dag": {"tasks": {"report": task("comp-report", **passed)}}, **text}
    tasks = {"inner": {**task("comp-inner", **passed), **of_task}}
    ir["root"] = {"dag": {"tasks": tasks}, **text}
    return copy.deepcopy(ir)


def test_a_parameter_that_nobody_gave_leaves_the_specification_as_it_was_compiled():
    ir = optional_text(two_steps())
    conditional = optional_text(
        two_steps(), triggerPolicy={"condition": "inputs.parameter_values['text'] == 'a'"}
    )
    for compiled in (ir, conditional):
        assert [spec_of(compiled).bind(given).spec for given in ({}, {"text": "a"})] == [compiled, compiled]


def with_optional_artifact() -> dict[str, Any]:
    """A pipeline that hands an optional artifact on to two nested ones, the second of which loops."""
    ir = two_steps()
    optional = {"inputDefinitions": {"artifacts": {"data": {**DATASET, "isOptional": True}}}}
    passed = {"artifacts": {"data": {"componentInputArtifact": "data"}}}
    ir["components"]["comp-report"]["inputDefinitions"] = copy.deepcopy(optional["inputDefinitions"])
    ir["components"]["comp-inner"] = {"dag": {"tasks": {"report": task("comp-report", **passed)}}, **optional}
    items = {"items": {"raw": "[1, 2]"}, "itemInput": "item"}
    given = {"artifacts": {"data": {"taskOutputArtifact": {"outputArtifactKey": "o", "producerTask": "x"}}}}
    ir["root"] = {
        "dag": {
            "tasks": {
                "given": task("comp-inner", **given),
                "inner": task("comp-inner", **passed),
                "loop": {**task("comp-inner", **passed), "parameterIterator": items},
                "report": task("comp-report", **passed),
            }
        },
        **optional,
    }
    return json.loads(json.dumps(ir))  # without parts in common


def test_an_artifact_that_nobody_gave_is_taken_out_where_it_would_be_handed_on():
    compiled = with_optional_artifact()
    bound = spec_of(compiled).bind({}).spec
    assert bound["root"]["inputDefinitions"] == {}
    tasks = bound["root"]["dag"]["tasks"]
    assert tasks["given"] == compiled["root"]["dag"]["tasks"]["given"]
    assert [tasks[name]["inputs"] for name in ("inner", "loop", "report")] == [{"artifacts": {}}] * 3
    # The component that has it elsewhere stays as it is.
    components = bound["components"]
    assert components["comp-inner"] == compiled["components"]["comp-inner"]
    for name in ("inner", "loop"):
        component = components[tasks[name]["componentRef"]["name"]]
        assert component["inputDefinitions"] == {}
        assert component["dag"]["tasks"]["report"]["inputs"] == {"artifacts": {}}


def test_an_artifact_that_somebody_gave_stays_at_every_level():
    compiled = with_optional_artifact()
    del compiled["root"]["dag"]["tasks"]["given"]
    bound = spec_of(compiled).bind({"data": "s3://b/d"}).spec
    assert bound["components"]["comp-inner"] == compiled["components"]["comp-inner"]
    for name in ("inner", "loop", "report"):
        assert bound["root"]["dag"]["tasks"][name]["inputs"] == {
            "artifacts": {
                "data": {
                    "taskOutputArtifact": {"outputArtifactKey": "artifact", "producerTask": "import-data"}
                }
            }
        }


@pytest.mark.parametrize(
    ("declared", "value", "message"),
    [
        ({"parameterType": "NUMBER_DOUBLE"}, float("nan"), "input value is nan, which JSON cannot carry"),
        ({"parameterType": "NUMBER_DOUBLE"}, float("inf"), "input value is inf"),
        ({"parameterType": "NUMBER_DOUBLE"}, 10**400, "integers beyond 2"),
        ({"parameterType": "NUMBER_INTEGER"}, 2**53, "integers beyond 2.*Pass it as text"),
        ({"parameterType": "NUMBER_INTEGER"}, 3.0, "must be int, got float"),
        ({"parameterType": "STRING"}, "\ud800", "half a surrogate pair"),
        ({"parameterType": "STRUCT"}, {"foo": [1, 2, {3}]}, r"input value\.foo\[2\] is a builtins\.set"),
        ({"parameterType": "STRUCT"}, {"a": {1: 2}}, r"input value\.a has the key 1"),
        ({"parameterType": "STRUCT"}, {"lr": float("-inf")}, r"input value\.lr is -inf"),
        (
            {"parameterType": "LIST"},
            [datetime.date(2024, 1, 2)],
            r"value\[0\] is a datetime\.date.*Convert it",
        ),
        ({"parameterType": "STRING", "literals": ["a", "b"]}, "c", "is 'c'; it must be one of 'a', 'b'"),
        ({"parameterType": "TASK_FINAL_STATUS"}, {}, "which Kubeflow Pipelines itself fills in"),
    ],
)
def test_values_that_would_not_arrive_are_refused_naming_their_place(declared, value, message):
    with pytest.raises(
        ConfigurationError, match=f"Pipeline two-steps: input .*{message.removeprefix('input ')}"
    ):
        with_input(**declared).bind({"value": value})


def test_values_in_themselves_are_refused():
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ConfigurationError, match="nested deeper than 100 levels"):
        with_input(parameterType="LIST").bind({"value": loop})


def test_values_are_copied_and_literals_compared_as_numbers():
    value = {"a": (1, 2.5, None, True, "x")}
    bound = with_input(parameterType="STRUCT").bind({"value": value})
    assert bound.parameters == {"value": {"a": [1, 2.5, None, True, "x"]}}
    literals = with_input(parameterType="NUMBER_INTEGER", literals=[1.0, 2.0])
    assert literals.bind({"value": 2}).parameters == {"value": 2}


def test_lists_of_artifacts_cannot_be_given():
    ir = two_steps()
    ir["root"]["inputDefinitions"]["artifacts"] = {"data": {**DATASET, "isArtifactList": True}}
    with pytest.raises(ConfigurationError, match="input 'data' is a list of artifacts"):
        spec_of(ir).bind({"data": "s3://b/d"})
