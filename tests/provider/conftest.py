"""Fixtures for tests of the provider: Airflow without a database, a toy component, a task's context."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attempts import dag_run
from fresh_kfp_api import fresh_kfp_api
from planes import DATA_PYTHON, REPO

# What tests take from those of another folder is found also where that folder's are not run.
sys.path += [str(Path(__file__).parent / folder) for folder in ("backends", "operators")]

# Before Airflow is imported: it reads its configuration, and makes its home, at import.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-home-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL"] = "0"  # triggers wait for it before they fire


@pytest.fixture(scope="session")
def toy_spec(tmp_path_factory):
    """The compiled toy component."""
    import yaml

    from airflow_provider_llmops.specs.pipeline import PipelineSpec

    target = tmp_path_factory.mktemp("toy") / "toy.yaml"
    subprocess.run([DATA_PYTHON, REPO / "tests" / "fakes" / "toy_component.py", target], check=True)
    text = target.read_bytes()
    return PipelineSpec(
        name="toy", ir=yaml.safe_load(text), digest=f"sha256:{hashlib.sha256(text).hexdigest()}"
    )


@pytest.fixture
def root(tmp_path) -> Path:
    """Directory of the local backend."""
    return tmp_path / "llmops"


@pytest.fixture
def connections(monkeypatch, root) -> None:
    """Connections that choose the local backends."""
    local = {"python": str(DATA_PYTHON), "root": str(root)}
    for conn_type in ("kubeflow", "kserve"):
        monkeypatch.setenv(
            f"AIRFLOW_CONN_{conn_type.upper()}_DEFAULT", json.dumps({"conn_type": conn_type, "extra": local})
        )


@pytest.fixture
def backend(root):
    """The local pipeline backend; what it started is stopped at the end."""
    from airflow_provider_llmops.backends.pipelines.local.backend import LocalPipelineBackend

    backend = LocalPipelineBackend(python=DATA_PYTHON, root=root)
    yield backend
    for directory in (root / "runs").glob("[!.]*"):
        backend.cancel(directory.name)


@pytest.fixture
def api():
    """A fake API server of Kubeflow Pipelines."""
    with fresh_kfp_api() as api:
        yield api


class MemoryStore:
    """Task state store in memory; what is stored must be JSON, as in Airflow."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any) -> None:
        self.values[key] = json.dumps(value)

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


class TaskInstance(SimpleNamespace):
    """As much of a task instance as operators use."""

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcom[key] = json.loads(json.dumps(value))


@pytest.fixture
def context() -> dict[str, Any]:
    """Context of a first attempt."""
    ti = TaskInstance(
        dag_id="dag", run_id="manual", task_id="task", map_index=-1, try_number=1, max_tries=1, xcom={}
    )
    return {"ti": ti, "task_state_store": MemoryStore(), "dag_run": dag_run()}
