"""Binding arguments to compiled components."""

from __future__ import annotations

import pytest

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.specs import PipelineSpec


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
        ({"dataset": "/d", "model": "/m", "batch_size": "4"}, "render_template_as_native_obj=True"),
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


def test_unknown_component_is_named_with_the_nearest():
    with pytest.raises(
        ConfigurationError, match=r"no packaged component 'train_stf' \(did you mean 'train_sft'\?\)"
    ):
        PipelineSpec.packaged("train_stf")
