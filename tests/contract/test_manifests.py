"""Manifests against KServe's own models."""

from __future__ import annotations

import json
import subprocess

import pytest
from planes import DATA_PYTHON

from airflow_provider_llmops.backends.serving.manifest import inference_service, manifest_digest
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
        raise ValueError(f"{name} has no {', '.join(unknown)}")
    return model(**{attributes[key]: build(model.openapi_types[attributes[key]], item) for key, item in value.items()})

for line in sys.stdin:
    try:
        service = build("V1beta1InferenceService", json.loads(line))
        answer = {"read": kubernetes.client.ApiClient().sanitize_for_serialization(service)}
    except ValueError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def through_the_sdk():
    """Has the SDK read a manifest; one process does so for all tests, since it imports for several seconds."""
    command = [DATA_PYTHON, "-c", THROUGH_THE_SDK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(manifest):
            process.stdin.write(json.dumps(manifest) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            if "error" in answer:
                raise ValueError(answer["error"])
            # The SDK fills in the container's name.
            assert answer["read"]["spec"]["predictor"]["model"].pop("name") == ""
            return answer["read"]

        yield ask


def test_manifest_is_what_kserves_models_know(through_the_sdk):
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


def test_what_is_set_beyond_the_arguments_is_what_kserves_models_know(through_the_sdk):
    manifest = inference_service(
        "helper",
        "pvc://models/helper",
        runtime="kserve-huggingfaceserver",
        service_account="reader",
        min_replicas=2,
        max_replicas=4,
        spec_overrides={
            "predictor": {
                "nodeSelector": {"pool": "gpu"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}}],
                "model": {
                    "env": [
                        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
                    ],
                    "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                },
            }
        },
    )
    assert through_the_sdk(manifest) == manifest


def test_typed_settings_are_what_kserves_models_know(through_the_sdk):
    manifest = inference_service(
        "helper",
        "s3://models/helper",
        args={"max_lora_rank": 64},
        gpus="2",
        max_replicas=4,
        autoscaling={"metric": "cpu", "target": "70"},
        logger={"url": "http://events.team.svc/x", "metadataHeaders": ["x-request-id"]},
        lora_adapters={"sql": "hf://org/sql", "law": "pvc://claim/law/2"},
    )
    assert through_the_sdk(manifest) == manifest
    assert manifest["spec"] == {
        "predictor": {
            "minReplicas": 1,
            "maxReplicas": 4,
            "autoScaling": {
                "metrics": [
                    {
                        "type": "Resource",
                        "resource": {
                            "name": "cpu",
                            "target": {"type": "Utilization", "averageUtilization": 70},
                        },
                    }
                ]
            },
            "logger": {"mode": "all", "url": "http://events.team.svc/x", "metadataHeaders": ["X-Request-Id"]},
            "storageUris": [
                {"uri": "s3://models/helper", "mountPath": "/mnt/models"},
                {"uri": "hf://org/sql", "mountPath": "/mnt/adapters/sql"},
                {"uri": "pvc://claim/law/2", "mountPath": "/claims/law"},
            ],
            "model": {
                "modelFormat": {"name": "huggingface"},
                "args": [
                    "--model_name=helper",
                    "--max_lora_rank=64",
                    "--enable-lora",
                    "--lora-modules",
                    "sql=/mnt/adapters/sql",
                    "law=/claims/law/law/2",
                ],
                "resources": {"limits": {"nvidia.com/gpu": "2"}},
            },
        }
    }


def test_memory_on_average_is_what_kserves_models_know(through_the_sdk):
    manifest = inference_service(
        "helper", "hf://a/b", max_replicas=2, autoscaling={"metric": "memory", "target": "8Gi"}
    )
    assert through_the_sdk(manifest) == manifest
    metrics = manifest["spec"]["predictor"]["autoScaling"]["metrics"]
    assert metrics[0]["resource"] == {
        "name": "memory",
        "target": {"type": "AverageValue", "averageValue": "8Gi"},
    }


def test_local_path_becomes_a_file_address():
    assert (
        inference_service("helper", "/models/a")["spec"]["predictor"]["model"]["storageUri"]
        == "file:///models/a"
    )


def test_the_sdk_refuses_what_kserve_does_not_know(through_the_sdk):
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
    "address", ["s3://models/$(AWS_SECRET_ACCESS_KEY)", "s3://models/{{.Name}}", "s3://m/$$"]
)
def test_address_that_would_be_changed_on_its_way_is_refused(address):
    with pytest.raises(ConfigurationError, match=r"^model_uri of service 'llm' has "):
        inference_service("llm", address)


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


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ({"trust_remote_cod": "true"}, "trust_remote_code"),
        ({"--Trust-Remote": ""}, "trust_remote_code"),
        ({"tool_parser": "/m/p.py"}, "tool_parser_plugin"),
        ({"reasoning_parser_": "/m/p.py"}, "reasoning_parser_plugin"),
        ({"speculative_config": '{"model": "x", "trust_remote_code": true}'}, "trust_remote_code"),
        ({"speculative_config": {"model": "x", "trust-remote-code": True}}, "trust_remote_code"),
        ({"kv_transfer_config": '{"kv_connector_module_path": "a.b"}'}, "kv_connector_module_path"),
        ({"kv-transfer-config.kv_connector_module_path": "a.b"}, "kv_connector_module_path"),
        ({"ec_transfer_config": '[{"ec_connector_module_path": "a.b"}]'}, "ec_connector_module_path"),
        ({"distributed_executor_backend": "a.Executor"}, "distributed_executor_backend"),
        ({"distributed_exec": "a.Executor"}, "distributed_executor_backend"),
        ({"compilation_config": '{"backend": "a.b"}'}, "backend"),
        ({"O.backend=a.b": ""}, "backend"),
        ({"compilation_config.pass_config": '{"inductor_passes": {"post": "a.b"}}'}, "inductor_passes"),
        ({"config": "/m/serve.yaml"}, "config"),
        ({"log_config_file": "/m/log.json"}, "log_config_file"),
        ({"io_processor_plugin": "mine"}, "io_processor_plugin"),
    ],
    ids=str,
)
def test_arguments_that_choose_code_are_found_shortened_and_inside_values(args, name, monkeypatch):
    with pytest.raises(ConfigurationError, match=rf"^args of service 'llm': {name} .*not allowed here"):
        inference_service("llm", "/m", args=args)
    monkeypatch.setenv("AIRFLOW__LLMOPS__ALLOWED_CODE", name)
    inference_service("llm", "/m", args=args)


@pytest.mark.parametrize(
    "args",
    [
        {"reasoning_parser": "deepseek_r1", "tool_call_parser": "hermes", "config_format": "hf"},
        {"distributed_executor_backend": "ray", "backend": "vllm", "workers": 1, "tp": 2},
        {"kv_transfer_config": '{"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}'},
        {"compilation_config": '{"backend": "inductor", "level": 3}', "limit_mm_per_prompt": '{"image": 2}'},
        {
            "chat_template": "{% if x %}[",
            "api_server_count": 2,
            "speculative_config": '{"num_speculative_tokens": 2.5}',
        },
    ],
    ids=str,
)
def test_usual_arguments_of_a_server_need_no_leave(args):
    inference_service("llm", "/m", args=args)


@pytest.mark.parametrize("argument", ["api_key", "api-key", "api_ke", "--api"])
def test_an_api_key_as_an_argument_is_refused_and_not_told(argument):
    with pytest.raises(ConfigurationError, match=r"^args of service 'helper' have an API key") as caught:
        inference_service("helper", "/m", args={argument: "top-secret"})
    assert "top-secret" not in str(caught.value)


def test_digest_of_a_manifest_is_the_one_that_its_revision_has():
    manifest = inference_service("helper", "/m", args={"dtype": "bfloat16"}, labels={"team": "größe"})
    code = (
        "import json, sys; from llmops_components.serving.local.manifest import manifest_digest; "
        "print(manifest_digest(json.load(sys.stdin)))"
    )
    answer = subprocess.run(
        [DATA_PYTHON, "-c", code], input=json.dumps(manifest), capture_output=True, text=True, check=True
    )
    assert manifest_digest(manifest) == answer.stdout.strip()
