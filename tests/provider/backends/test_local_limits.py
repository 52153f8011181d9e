"""What the local backend refuses before a run, by name."""

import copy

import pytest
from pipelines import two_steps

from airflow_provider_llmops.backends.pipelines.local.limits import kubernetes_settings, require_runnable
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.specs.pipeline import BoundPipeline

PYTHON = {
    "container": {
        "args": ["--executor_input", "{{$}}", "--function_to_execute", "f"],
        "command": ["sh", "-ec", "python3 -m kfp.dsl.executor_main", "def f(): ..."],
        "image": "python:3.11",
    }
}


def bound(report=PYTHON, **changes):
    ir = two_steps()
    ir["deploymentSpec"]["executors"] = {
        "exec-report": copy.deepcopy(report),
        "exec-train": copy.deepcopy(PYTHON),
    }
    ir["components"]["comp-report"].update(changes)
    return BoundPipeline(spec=ir, parameters={})


def test_python_components_and_importers_may_run():
    require_runnable(bound())
    require_runnable(bound({"importer": {"artifactUri": {"constant": "/data"}}}))


@pytest.mark.parametrize(
    ("pipeline", "reason"),
    [
        (
            bound({"container": {"image": "alpine:3", "command": ["echo"]}}),
            "Step report is a container component (image alpine:3), which",
        ),
        (
            bound(
                {
                    "container": {
                        "image": "mine:1",
                        "command": ["python3", "-m", "kfp.dsl.executor_main"],
                        "args": PYTHON["container"]["args"],
                    }
                }
            ),
            "Step report keeps its Python code in the image mine:1, which",
        ),
        (bound({"customJob": {}}), "Step report is carried out by customJob, which"),
        (
            bound(
                outputDefinitions={
                    "artifacts": {"parts": {"artifactType": {}, "isArtifactList": True}},
                }
            ),
            "Step report writes lists of artifacts (parts), which",
        ),
    ],
)
def test_what_needs_a_cluster_is_refused_by_name(pipeline, reason):
    with pytest.raises(ConfigurationError) as caught:
        require_runnable(pipeline)
    assert str(caught.value).startswith(f"{reason} the local backend cannot run. It runs ")
    assert str(caught.value).endswith("Pipeline: two-steps")


def test_placeholder_that_nobody_fills_in_is_refused():
    pipeline = bound()
    inputs = pipeline.spec["root"]["dag"]["tasks"]["report"]["inputs"]["parameters"]
    inputs["text"] = {"runtimeValue": {"constant": "in {{$.workspace_path}} as {{$.json_escape[0]}}"}}
    with pytest.raises(ConfigurationError, match=r"^Step report takes the placeholder 'json_escape', which"):
        require_runnable(pipeline)


def test_every_obstacle_is_named_once():
    ir = bound({"container": {"image": "alpine", "command": ["echo"]}}).spec
    ir["deploymentSpec"]["executors"]["exec-train"] = {"container": {"image": "jq", "command": ["jq"]}}
    with pytest.raises(ConfigurationError) as caught:
        require_runnable(BoundPipeline(spec=ir, parameters={}))
    assert "(image alpine), which the local backend cannot run; nor: step train is a container" in str(
        caught.value
    )


def test_settings_that_a_step_may_miss_are_listed_by_executor():
    platform = {
        "platforms": {
            "kubernetes": {
                "deploymentSpec": {
                    "executors": {
                        "exec-train": {"secretAsEnv": [], "pvcMount": [], "nodeSelector": {}},
                        "exec-report": {"tolerations": []},
                    }
                }
            }
        }
    }
    assert kubernetes_settings(platform) == {"exec-train": ["pvcMount", "secretAsEnv"]}
    assert kubernetes_settings(None) == {}
