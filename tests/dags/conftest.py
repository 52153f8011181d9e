"""One real Airflow for all tests of a session that ask for it, and the servers that it can reach."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflow_stack import RealAirflow, free_environment
from kfp_api import FakeKfpApi
from kube_trainjobs import FakeTrainJobs
from kubeflow_cluster import Cluster
from planes import DATA_PYTHON, REPO


@pytest.fixture(scope="session")
def kubeflow_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A fake API server with a cluster behind it, at the connection ``kubeflow_cluster`` of ``real_airflow``."""
    with FakeKfpApi() as api:
        yield Cluster(api, tmp_path_factory.mktemp("pipeline-root"))


@pytest.fixture
def cluster(kubeflow_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster without what a former test left."""
    kubeflow_cluster.reset()
    yield kubeflow_cluster
    kubeflow_cluster.api.faults.clear()


@pytest.fixture(scope="session")
def train_jobs() -> Iterator[FakeTrainJobs]:
    """A fake Kubernetes API server with Kubeflow Trainer, at the connection ``kubernetes_cluster`` of ``real_airflow``."""
    with FakeTrainJobs() as api:
        yield api


@pytest.fixture(scope="session")
def real_airflow(
    tmp_path_factory: pytest.TempPathFactory, kubeflow_cluster: Cluster, train_jobs: FakeTrainJobs
) -> Iterator[RealAirflow]:
    """A running Airflow with MLflow; its DAGs folder is empty at first."""
    directory = tmp_path_factory.mktemp("airflow")
    airflow = RealAirflow(
        directory / "stack",
        dags_folder=directory / "dags",
        with_mlflow=True,
        environment={
            **free_environment(),
            "AIRFLOW_CONN_KUBEFLOW_CLUSTER": kubeflow_cluster.connection(),
            "AIRFLOW_CONN_KUBERNETES_CLUSTER": train_jobs.connection(namespace="team"),
        },
    )
    airflow.start()
    try:
        yield airflow
    finally:
        airflow.stop()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny model."""
    target = tmp_path_factory.mktemp("model") / "tiny"
    subprocess.run([DATA_PYTHON, REPO / "tests" / "fakes" / "tiny_model.py", target], check=True)
    return target


@pytest.fixture(scope="session")
def toy_spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy component, compiled."""
    spec = tmp_path_factory.mktemp("toy") / "toy.yaml"
    subprocess.run([DATA_PYTHON, REPO / "tests" / "fakes" / "toy_component.py", spec], check=True)
    return spec
