"""Manifests against KServe's own models."""

from __future__ import annotations

import json
import subprocess

import pytest
from planes import DATA_PYTHON

from airflow_provider_llmops.backends.serving.manifest import inference_service
from airflow_provider_llmops.exceptions import ConfigurationError

# The SDK reads a manifest into its typed models and writes it out again; what it does not know is lost on the way.
THROUGH_THE_SDK = """
import json, sys
import kubernetes.client
from kserve import models

def build(name, value):
    if name.startswith("list["):
        return [build(name[5:-1], item) for item in value]
    model = getattr(models, name, None) or getattr(kubernetes.client, name, None)
    if model is None:  # a plain value, or a dict of them
        return value
    attributes = {key: attribute for attribute, key in model.attribute_map.items()}
    unknown = sorted(set(value) - set(attributes))
    if unknown:
        sys.exit(f"{name} has no {', '.join(unknown)}")
    return model(**{attributes[key]: build(model.openapi_types[attributes[key]], item) for key, item in value.items()})

service = build("V1beta1InferenceService", json.load(sys.stdin))
json.dump(kubernetes.client.ApiClient().sanitize_for_serialization(service), sys.stdout)
"""


def through_the_sdk(manifest):
    answer = subprocess.run(
        [DATA_PYTHON, "-c", THROUGH_THE_SDK],
        input=json.dumps(manifest),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise ValueError(answer.stderr)
    read = json.loads(answer.stdout)
    assert read["spec"]["predictor"]["model"].pop("name") == ""  # the SDK fills in the container's name
    return read


def test_manifest_is_what_kserves_models_know():
    manifest = inference_service(
        "helper",
        "s3://models/helper",
        namespace="team",
        model_digest="sha256:1",
        args={"dtype": "bfloat16", "max_model_len": 2048},
        resources={"limits": {"nvidia.com/gpu": "1"}},
        annotations={"owner": "us"},
        labels={"app": "helper"},
    )
    assert through_the_sdk(manifest) == manifest
    assert manifest["metadata"]["annotations"] == {"owner": "us", "llmops/model-digest": "sha256:1"}
    assert manifest["spec"]["predictor"]["model"]["args"] == [
        "--model_name=helper",
        "--dtype=bfloat16",
        "--max_model_len=2048",
    ]


def test_local_path_becomes_a_file_address():
    assert (
        inference_service("helper", "/models/a")["spec"]["predictor"]["model"]["storageUri"]
        == "file:///models/a"
    )


def test_the_sdk_refuses_what_kserve_does_not_know():
    manifest = inference_service("helper", "/models/a")
    manifest["spec"]["predictor"]["modle"] = {}
    with pytest.raises(ValueError, match="V1beta1PredictorSpec has no modle"):
        through_the_sdk(manifest)


@pytest.mark.parametrize("name", ["", "Helper", "a_b", "-a", "a" * 64, "../etc"])
def test_name_that_kubernetes_refuses_is_refused_here(name):
    with pytest.raises(ConfigurationError, match="Invalid service name"):
        inference_service(name, "/models/a")


def test_model_without_address_is_refused():
    with pytest.raises(ConfigurationError, match="needs the URI of a model"):
        inference_service("helper", "")


@pytest.mark.parametrize("value", ["{{.Name}}", "$(HF_TOKEN)", "$$"])
def test_arguments_that_would_be_changed_on_their_way_to_the_server_are_refused(value):
    with pytest.raises(ConfigurationError, match=r"^args of service 'llm' ha"):
        inference_service("llm", "/m", args={"chat_template": value})


@pytest.mark.parametrize(
    "args",
    [
        {"trust_remote_code": True},
        {"trust-remote-code": ""},
        {"tool-parser-plugin": "/m/p.py"},
        {"middleware": "my.module"},
    ],
)
def test_arguments_of_a_server_that_choose_code_need_leave(args, monkeypatch):
    with pytest.raises(ConfigurationError, match=r"^args of service 'llm': \w+ \w+ .*not allowed here"):
        inference_service("llm", "/m", args=args)
    monkeypatch.setenv("AIRFLOW__LLMOPS__ALLOWED_CODE", "trust_remote_code,tool_parser_plugin,middleware")
    inference_service("llm", "/m", args=args)
    monkeypatch.undo()
    inference_service("llm", "/m", args={"trust_remote_code": False, "dtype": "bfloat16"})


def test_an_api_key_comes_from_a_secret_of_the_cluster():
    made = inference_service(
        "helper", "s3://models/helper", secrets_as_env={"team-keys": {"api-key": "VLLM_API_KEY"}}
    )
    assert made["spec"]["predictor"]["model"]["env"] == [
        {"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": "team-keys", "key": "api-key"}}}
    ]


@pytest.mark.parametrize("argument", ["api_key", "api-key"])
def test_an_api_key_as_an_argument_is_refused_and_not_told(argument):
    with pytest.raises(ConfigurationError, match=r"^args of service 'helper' have an API key") as caught:
        inference_service("helper", "/m", args={argument: "top-secret"})
    assert "top-secret" not in str(caught.value)
