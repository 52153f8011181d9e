"""The example NetworkPolicies are what Kubernetes takes, and let through what the page says and no more."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kubernetes import client
from planes import REPO

POLICIES = list(
    yaml.safe_load_all((REPO / "docs/kubernetes/network-policies.yaml").read_text(encoding="utf-8"))
)
STEP = {"pipeline/runid": "1"}
PREDICTOR = {"serving.kserve.io/inferenceservice": "llm"}
TRAINING = {"jobset.sigs.k8s.io/jobset-name": "train"}
OTHER = {"app": "notebook"}
PAGES = {"app": "ml-pipeline-ui-artifact"}


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy["metadata"]["name"])
def test_every_field_is_one_of_kubernetes(policy: dict[str, Any]) -> None:
    api = client.ApiClient()
    answer = SimpleNamespace(data=json.dumps(policy))
    read = api.deserialize(answer, "V1NetworkPolicy")
    written = api.sanitize_for_serialization(read)
    # The client leaves out what it does not know.
    assert written == policy


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(
        found["key"] in labels and labels[found["key"]] in found.get("values", [labels[found["key"]]])
        for found in selector.get("matchExpressions", [])
    )


def allowed(
    direction: str, pod: dict[str, str], peer: dict[str, Any], port: int, protocol: str = "TCP"
) -> bool:
    """Whether a policy lets a pod's traffic through, as Kubernetes reads them: they add up, and a rule without ports has all."""
    side = {"Ingress": "from", "Egress": "to"}[direction]
    for policy in POLICIES:
        spec = policy["spec"]
        if not selects(spec["podSelector"], pod):
            continue
        for rule in spec.get(direction.lower(), []):
            ports = rule.get("ports")
            if ports and {"port": port, "protocol": protocol} not in ports:
                continue
            if any(_is_peer(found, peer) for found in rule[side]):
                return True
    return False


def _is_peer(rule: dict[str, Any], peer: dict[str, Any]) -> bool:
    if "ipBlock" in rule:
        return rule["ipBlock"]["cidr"] == peer.get("cidr")
    # Without a selector of namespaces it is the policy's own.
    namespace = rule.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": "team"}})
    where = {"kubernetes.io/metadata.name": peer.get("namespace")}
    return selects(namespace, where) and selects(rule.get("podSelector", {}), peer.get("labels", {}))


STORE, API = {"cidr": "192.0.2.10/32"}, {"cidr": "192.0.2.1/32"}
KUBEFLOW, MLFLOW = {"namespace": "kubeflow"}, {"namespace": "mlflow"}
GATEWAY, AIRFLOW = {"namespace": "kserve-gateway"}, {"namespace": "airflow"}
DNS = {"namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
IN_TEAM = {"namespace": "team"}


def test_each_pod_reaches_what_it_needs() -> None:
    needed = [
        *[(pod, DNS, 53) for pod in (STEP, PREDICTOR, TRAINING, OTHER)],
        *[
            (STEP, *to)
            for to in ((KUBEFLOW, 8888), (KUBEFLOW, 9000), (MLFLOW, 5000), (STORE, 443), (API, 6443))
        ],
        *[(TRAINING, *to) for to in ((MLFLOW, 5000), (STORE, 443), ({**IN_TEAM, "labels": TRAINING}, 29500))],
        (PREDICTOR, STORE, 443),
        (PAGES, STORE, 443),
    ]
    assert [found for found in needed if not allowed("Egress", *found)] == []
    assert all(allowed("Ingress", PREDICTOR, peer, 8080) for peer in (GATEWAY, AIRFLOW))
    assert allowed("Ingress", PAGES, KUBEFLOW, 3000)
    assert allowed("Ingress", TRAINING, {**IN_TEAM, "labels": TRAINING}, 29500)


def test_nothing_else_is_let_through() -> None:
    anywhere = {"cidr": "0.0.0.0/0"}
    out = [
        *[(pod, anywhere, 443) for pod in (STEP, PREDICTOR, TRAINING, OTHER)],
        *[(PREDICTOR, *to) for to in ((MLFLOW, 5000), (API, 6443), ({**IN_TEAM, "labels": STEP}, 8080))],
        *[(OTHER, *to) for to in ((STORE, 443), (MLFLOW, 5000), ({**IN_TEAM, "labels": PREDICTOR}, 8080))],
        (STEP, {**IN_TEAM, "labels": PREDICTOR}, 8080),
        (TRAINING, API, 6443),
    ]
    assert [found for found in out if allowed("Egress", *found)] == []
    inwards = [
        *[(PREDICTOR, {**IN_TEAM, "labels": labels}, 8080) for labels in (STEP, TRAINING, OTHER)],
        *[(PREDICTOR, GATEWAY, port) for port in (22, 8081, 9000)],
        *[(pod, peer, 8080) for pod in (STEP, OTHER) for peer in (GATEWAY, AIRFLOW, KUBEFLOW, IN_TEAM)],
        (TRAINING, {**IN_TEAM, "labels": STEP}, 29500),
        (PAGES, IN_TEAM, 3000),
    ]
    assert [found for found in inwards if allowed("Ingress", *found)] == []


def test_default_denies_both_directions_for_every_pod() -> None:
    first = POLICIES[0]["spec"]
    assert (first["podSelector"], sorted(first["policyTypes"])) == ({}, ["Egress", "Ingress"])
    assert "ingress" not in first
