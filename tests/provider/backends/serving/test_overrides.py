"""What an author sets beyond the arguments is merged as Kubernetes' own library merges it.

``tests/recorded/strategic-merge.json`` has what ``k8s.io/apimachinery``'s ``strategicpatch`` (0.34.5) made of a predictor with a pod's fields.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from planes import REPO

from airflow_provider_llmops.backends.serving.manifest import inference_service
from airflow_provider_llmops.backends.serving.overrides import MERGE_KEYS, merged, overridden
from airflow_provider_llmops.exceptions import ConfigurationError

CASES = json.loads((REPO / "tests" / "recorded" / "strategic-merge.json").read_text())


def in_one_order(value: Any) -> Any:
    """Lists that are merged by a key in the order of the key: upstream puts what a patch names first, here it keeps its place."""
    if isinstance(value, list):
        return [in_one_order(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: sorted(in_one_order(item), key=lambda each, name=name: str(each[MERGE_KEYS[name]]))
        if name in MERGE_KEYS
        else in_one_order(item)
        for name, item in value.items()
    }


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_fields_are_merged_as_kubernetes_merges_them(case):
    before = json.dumps(case["spec"])
    found = merged(case["spec"], case["overrides"])
    assert in_one_order(found) == in_one_order(case["merged"])
    assert json.dumps(case["spec"]) == before


def test_entries_keep_their_place_and_new_ones_come_last():
    spec = {"predictor": {"model": {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}}}
    new = {"predictor": {"model": {"env": [{"name": "C", "value": "$(A)"}, {"name": "B", "value": "3"}]}}}
    assert [each["name"] for each in overridden(spec, new)["predictor"]["model"]["env"]] == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("predictor", "must be a dict"),
        ({"predictr": {}}, r"has no 'predictr' \(did you mean 'predictor'\?\)"),
        ({"predictor": {"model": {"args": ["--trust_remote_code"]}}}, "there is predictor_args"),
        ({"predictor": {"model": {"storageUri": "s3://other"}}}, "there is model"),
        ({"predictor": {"model": {"modelFormat": None}}}, "there is model"),
        ({"predictor": {"canaryTrafficPercent": 5}}, "there is CanaryOperator"),
        ({"canary": []}, "there is CanaryOperator"),
        ({"predictor": {"minReplicas": -3}}, "there is min_replicas"),
        ({"predictor": {"maxReplicas": None}}, "there is max_replicas"),
        ({"predictor": {"autoScaling": {}}}, "there is autoscaling"),
        ({"predictor": {"scaleMetric": "cpu"}}, "there is autoscaling"),
        ({"predictor": {"scaleTarget": 5}}, "there is autoscaling"),
        ({"predictor": {"logger": None}}, "there is logger"),
        ({"predictor": {"storageUris": []}}, "there is model, and lora_adapters"),
        ({"predictor": {"serviceAccountName": "x"}}, "there is service_account"),
        ({"predictor": {"model": {"runtime": "x"}}}, "there is runtime"),
        ({"predictor": {"model": {"resources": {}}}}, "there is predictor_resources"),
        # Otherwise the service would have no model, or no access to it.
        ({"predictor": None}, "predictor must be a dict, got None"),
        ({"predictor": {"model": None}}, r"predictor\.model must be a dict, got None"),
        ({"predictor": {"model": []}}, r"predictor\.model must be a dict"),
        ({"predictor": {"model": {"env": {"name": "A"}}}}, r"predictor\.model\.env must be a list"),
        (
            {"transformer": {"containers": [{"name": "t", "args": ["--api-key=hf_x"]}]}},
            r"args\[0\] gives --api-key a value",
        ),
        (
            {"transformer": {"containers": [{"name": "t", "command": ["run", "--hub_token", "hf_x"]}]}},
            r"command\[1\] gives --hub_token a value",
        ),
        ({"predictor": {"$patch": "replace"}}, r"\$patch"),
        ({"predictor": {"volumes": [{"emptyDir": {}}]}}, r"predictor\.volumes\[0\] has no name"),
        ({"predictor": {"volumes": ["cache"]}}, r"predictor\.volumes\[0\] has no name"),
        ({"predictor": {"model": {"env": [{"name": "HF_TOKEN", "value": "hf_x"}]}}}, "variable HF_TOKEN"),
    ],
)
def test_what_cannot_be_honoured_is_refused(overrides, message):
    with pytest.raises(ConfigurationError, match=message) as failure:
        inference_service(
            "chat",
            "s3://models/chat",
            secrets_as_env={"team": {"key": "VLLM_API_KEY"}},
            spec_overrides=overrides,
        )
    assert "hf_x" not in str(failure.value)


def test_secret_of_a_container_is_named_by_a_variable():
    container = {"name": "t", "args": ["--api-key=$(KEY)", "--hub_token", "$(KEY)", "--max_tokens=5", "-v"]}
    found = overridden({}, {"transformer": {"containers": [container]}})
    assert found == {"transformer": {"containers": [container]}}


def test_settings_of_a_service_are_where_kserve_reads_them():
    manifest = inference_service(
        "chat",
        "s3://models/chat",
        runtime="kserve-huggingfaceserver",
        service_account="models-reader",
        min_replicas="2",  # as a template gives it
        max_replicas=5,
        spec_overrides={"predictor": {"nodeSelector": {"pool": "gpu"}}},
    )
    assert manifest["spec"] == {
        "predictor": {
            "minReplicas": 2,
            "maxReplicas": 5,
            "serviceAccountName": "models-reader",
            "nodeSelector": {"pool": "gpu"},
            "model": {
                "modelFormat": {"name": "huggingface"},
                "storageUri": "s3://models/chat",
                "args": ["--model_name=chat"],
                "runtime": "kserve-huggingfaceserver",
            },
        }
    }


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_replicas": -1},
        {"min_replicas": True},
        {"min_replicas": "two"},
        {"min_replicas": 3, "max_replicas": 2},
        {"min_replicas": 0, "max_replicas": 0},
        {"runtime": "Not a name"},
        {"service_account": "x/y"},
        {"service_account": ""},
    ],
)
def test_settings_that_kubernetes_would_refuse_are_refused(arguments):
    with pytest.raises(ConfigurationError, match="of service 'chat'"):
        inference_service("chat", "s3://models/chat", **arguments)
