"""The tests' MLflow server, and a client of it."""

from __future__ import annotations

import pytest


@pytest.fixture
def server(mlflow_port) -> str:
    return f"http://127.0.0.1:{mlflow_port}"


@pytest.fixture
def client(server):
    import mlflow

    return mlflow.MlflowClient(server, server)
