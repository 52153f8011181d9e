"""A tiny model and a service, for operators over the real local backend."""

from __future__ import annotations

import subprocess

import pytest
from kserve_deployments import connect
from kube_canaries import FakeGatewayKServe
from planes import DATA_PYTHON, REPO

from airflow_provider_llmops.backends.serving.kserve import shifting
from airflow_provider_llmops.hooks.kserve import KServeHook


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    target = tmp_path_factory.mktemp("model") / "tiny"
    subprocess.run([DATA_PYTHON, REPO / "tests" / "fakes" / "tiny_model.py", target], check=True)
    return target


@pytest.fixture(scope="session")
def probing(tiny_model, tmp_path_factory):
    """Questions with the tiny model's answers, as the library gives them, and a model that answers other rubbish."""
    directory = tmp_path_factory.mktemp("probing")
    questions, other = directory / "probes.jsonl", directory / "bad"
    command = [DATA_PYTHON, REPO / "tests" / "fakes" / "tiny_probes.py", tiny_model, questions, other]
    subprocess.run(command, check=True)
    return questions, other


@pytest.fixture
def service(connections):
    """The hook's view of the service ``tiny``, which is removed at the end."""
    yield lambda: KServeHook().get_service("tiny")
    KServeHook().backend.delete("default", "tiny")


@pytest.fixture
def gateway_kserve(monkeypatch):
    """A fake cluster with KServe whose Gateway shares requests out, as the default connection."""
    for name, seconds in (("SETTLE_SECONDS", 0.5), ("DRAIN_SECONDS", 0.0), ("_LOOK_SECONDS", 0.02)):
        monkeypatch.setattr(shifting, name, seconds)
    connect(monkeypatch, {"kubernetes_conn_id": "cluster"})
    with FakeGatewayKServe() as fake:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", fake.connection(namespace="team"))
        yield fake
