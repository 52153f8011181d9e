"""What an author sets of a service by arguments of their own is checked before anything is applied."""

from __future__ import annotations

import pytest

from airflow_provider_llmops.backends.serving.adapters import adapter_names
from airflow_provider_llmops.backends.serving.manifest import inference_service
from airflow_provider_llmops.exceptions import ConfigurationError

URL = {"url": "http://events"}


def predictor(**settings) -> dict:
    uri = settings.pop("uri", "s3://models/chat")
    return inference_service("chat", uri, **settings)["spec"]["predictor"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"autoscaling": "cpu"}, "must be a dict such as"),
        ({"autoscaling": {"metric": "cpu", "tarjet": 5}}, r"has no 'tarjet' \(did you mean 'target'\?\)"),
        ({"autoscaling": {"metric": "cpu", "max": 5}}, "are min_replicas and max_replicas"),
        ({"autoscaling": {"metric": "rps", "target": 5}}, "standard mode ignores: .* KEDA is not built"),
        ({"autoscaling": {"metric": "gpu", "target": 5}}, "There are: cpu, memory"),
        ({"autoscaling": {"metric": "cpu"}}, "needs a target: percent .* got None"),
        ({"autoscaling": {"metric": "cpu", "target": 0}}, "from 1 to 100"),
        ({"autoscaling": {"metric": "cpu", "target": 101}}, "from 1 to 100"),
        ({"autoscaling": {"metric": "cpu", "target": True}}, "from 1 to 100"),
        (
            {"autoscaling": {"metric": "cpu", "target": "2Gi"}},
            "from 1 to 100",
        ),  # KServe would take 80 percent
        ({"autoscaling": {"metric": "memory", "target": "8GB"}}, "such as '8Gi'"),
        ({"autoscaling": {"metric": "cpu", "target": 50}, "max_replicas": 1}, "max_replicas must be above"),
        ({"autoscaling": {"metric": "cpu", "target": 50}, "max_replicas": None}, "nothing to choose from"),
        ({"logger": "http://events"}, "must be a dict with a url"),
        ({"logger": {**URL, "modes": "all"}}, r"has no 'modes' \(did you mean 'mode'\?\)"),
        ({"logger": {**URL, "storage": {}}}, "storage of logger of service 'chat' is not built"),
        ({"logger": {**URL, "mode": "none"}}, "must be one of all, request, response"),
        ({"logger": {}}, "must be the http:// or https:// address"),
        ({"logger": {"url": "s3://bucket"}}, "must be the http:// or https:// address"),
        ({"logger": {"url": "http://me:hunter2@events"}}, "with a login in them"),
        ({"logger": {"url": "http://events/?api_key=hunter2"}}, "has api_key in it"),
        ({"logger": {**URL, "metadataHeaders": "x-a"}}, "list with names of headers"),
        ({"logger": {**URL, "metadataHeaders": ["a,b"]}}, "list with names of headers"),
        (
            {"logger": {**URL, "metadataHeaders": ["authorization"]}},
            "has authorization: what logs a client in",
        ),
        ({"logger": {**URL, "metadataHeaders": ["X-Api-Key"]}}, "has X-Api-Key"),
        ({"gpus": -1}, "gpus of service 'chat' must be a whole number"),
        ({"gpus": True}, "must be a whole number"),
        ({"gpus": "one"}, "must be a whole number"),
        ({"gpus": 1, "resources": {"requests": {"nvidia.com/gpu": 1}}}, "both say how many GPUs"),
        ({"lora_adapters": {}}, "must be a dict with the address of each"),
        ({"lora_adapters": ["hf://a"]}, "must be a dict with the address of each"),
        ({"lora_adapters": {"My_Sql": "hf://a"}}, "is no name of an adapter"),
        ({"lora_adapters": {"a" * 49: "hf://a"}}, "is no name of an adapter: 1 to 48"),
        ({"lora_adapters": {"chat": "hf://a"}}, "is the name of the model itself"),
        ({"lora_adapters": {"sql": "org/sql"}}, "needs an address such as"),
        ({"lora_adapters": {"sql": None}}, "needs an address such as"),
        ({"lora_adapters": {"sql": "pvc://claim/step=3"}}, "has '=' or ',' in it"),
        ({"lora_adapters": {"sql": "https://me:hunter2@host/x"}}, "with a login in them"),
        ({"lora_adapters": {"sql": "s3://AKIA:hunter2@b/x"}}, "with a login in them"),
        (
            {"lora_adapters": {"sql": "https://host/x?token=hunter2"}},
            "lora_adapters of service 'chat' has token in it",
        ),
        ({"uri": "https://host/x?api_key=hunter2"}, "model_uri of service 'chat' has api_key in it"),
        ({"lora_adapters": {"sql": "s3://b/$(KEY)"}}, r"^lora_adapters of service 'chat' has "),
        ({"lora_adapters": {"sql": "hf://a"}, "args": {"lora-modules": "x=/y"}}, "say the same"),
        ({"lora_adapters": {"sql": "hf://a"}, "args": {"enable_lora": True}}, "say the same"),
        (
            {"lora_adapters": {"sql": "hf://a"}, "args": {"backend": "huggingface"}},
            "vLLM alone serves adapters",
        ),
        (
            {"lora_adapters": {"sql": "hf://a"}, "args": {"model_dir": "/x"}, "uri": "pvc://c/base"},
            "set model_dir, .* already: /mnt/models/base",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message) as failure:
        predictor(**{"max_replicas": 3, **settings})
    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize("target", [1, 100, "100"])
def test_percent_that_kserve_takes(target):
    found = predictor(max_replicas="2", autoscaling={"metric": "memory", "target": target})
    (metric,) = found["autoScaling"]["metrics"]
    assert metric["resource"]["target"] == {"type": "Utilization", "averageUtilization": int(target)}


def test_model_in_a_claim_is_where_its_address_says():
    found = predictor(uri="pvc://claim/base/7", lora_adapters={"sql": "pvc://claim", "law": "hf://org/law"})
    assert found["storageUris"] == [
        {
            "uri": "pvc://claim/base/7",
            "mountPath": "/mnt/models",
        },  # KServe mounts the claim, whatever stands behind it
        {"uri": "pvc://claim", "mountPath": "/claims/sql"},
        {"uri": "hf://org/law", "mountPath": "/mnt/adapters/law"},
    ]
    arguments = found["model"]["args"]
    assert arguments[1:] == [
        "--model_dir=/mnt/models/base/7",
        "--enable-lora",
        "--lora-modules",
        "sql=/claims/sql",
        "law=/mnt/adapters/law",
    ]
    assert adapter_names(arguments) == ["sql", "law"]
    assert "storageUri" not in found["model"]


def test_without_them_a_service_is_as_before():
    assert predictor() == {
        "minReplicas": 1,
        "model": {
            "modelFormat": {"name": "huggingface"},
            "storageUri": "s3://models/chat",
            "args": ["--model_name=chat"],
        },
    }
    assert adapter_names(predictor()["model"]["args"]) == []
