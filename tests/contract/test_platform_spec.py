"""What is submitted, read strictly by the SDK's own protobuf classes: an unknown or misspelt field is an error."""

from __future__ import annotations

import json
import subprocess
from importlib import resources

import pytest
from pipelines import nested, two_steps
from planes import DATA_PYTHON

from airflow_provider_llmops.operators.joined import KubeflowJoinedOperator, output_of, step
from airflow_provider_llmops.settings.steps import apply_settings
from airflow_provider_llmops.specs.messages import DESCRIPTORS
from airflow_provider_llmops.specs.pipeline import BoundPipeline, PipelineSpec

PARSE = """
import json, sys
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2 as pb

for document in json.load(sys.stdin):
    spec = json_format.ParseDict(document["spec"], pb.PipelineSpec())
    json_format.ParseDict(json_format.MessageToDict(spec.deployment_spec), pb.PipelineDeploymentConfig())
    json_format.ParseDict(document["platform"], pb.PlatformSpec())
"""

SETTINGS = {
    "image": "x:1",
    "cpu_request": 1,
    "memory_limit": "2Gi",
    "accelerator_type": "nvidia.com/gpu",
    "env": {"A": "b"},
    "shared_memory": "1Gi",
    "tolerations": [{"operator": "Exists"}],
}


def parse(*pipelines: BoundPipeline) -> str:
    """Read specifications with the SDK; returns what it complained about."""
    documents = [{"spec": bound.spec, "platform": bound.platform} for bound in pipelines]
    answer = subprocess.run(
        [DATA_PYTHON, "-c", PARSE], input=json.dumps(documents), capture_output=True, text=True, check=False
    )
    return answer.stderr


def test_bound_pipelines_with_settings_are_what_the_sdk_knows(monkeypatch):
    here = {"python": str(DATA_PYTHON)}
    monkeypatch.setenv("AIRFLOW_CONN_KUBEFLOW_DEFAULT", json.dumps({"conn_type": "kubeflow", "extra": here}))
    packaged = PipelineSpec.packaged("evaluate_model").bind({"model": "/m", "dataset": "/d"}, caching=True)
    pipelines = [packaged, *(BoundPipeline(spec=ir, parameters={}) for ir in (two_steps(), nested()))]
    steps = {
        "validate": step("validate_dataset", {"dataset": "/d"}),
        "train": step("train_sft", {"dataset": output_of("validate", "validated"), "base_model": "/m"}),
    }
    pipelines.append(KubeflowJoinedOperator(task_id="task", steps=steps).bind())
    assert parse(*(apply_settings(pipeline, SETTINGS) for pipeline in pipelines)) == ""


@pytest.mark.parametrize("field", ["resourceCpuLimits", "limit"])
def test_the_sdk_would_notice_a_misspelt_field(field):
    ir = two_steps()
    ir["deploymentSpec"]["executors"]["exec-train"]["container"]["resources"] = {field: "1"}
    assert f'no field named "{field}"' in parse(BoundPipeline(spec=ir, parameters={}, platform={}))


DESCRIBE = """
import sys
from google.protobuf import descriptor_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

shipped = descriptor_pb2.FileDescriptorSet.FromString(open(sys.argv[1], "rb").read()).file
own = descriptor_pb2.FileDescriptorProto()
pipeline_spec_pb2.DESCRIPTOR.CopyToProto(own)
print([file.name for file in shipped], own in shipped)
"""


def test_the_descriptors_that_the_provider_reads_with_are_those_of_the_sdk():
    file = resources.files("airflow_provider_llmops") / "components" / DESCRIPTORS
    answer = subprocess.run(
        [DATA_PYTHON, "-c", DESCRIBE, str(file)], capture_output=True, text=True, check=True
    )
    files = [
        "google/protobuf/struct.proto",
        "google/protobuf/duration.proto",
        "google/protobuf/any.proto",
        "google/rpc/status.proto",
        "pipeline_spec.proto",
        "kubernetes_executor_config.proto",
    ]
    assert answer.stdout.strip() == f"{files} True"
