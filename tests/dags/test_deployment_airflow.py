"""Deployments: one revision for each scheduled run of a task, in a real Airflow, whatever is killed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from airflow_stack import RealAirflow
from planes import DATA_PYTHON, REPO

DAG = """
from datetime import timedelta

from airflow.sdk import DAG
from airflow_provider_llmops.operators.serving import DeployModelOperator

with DAG("deployments", schedule=None):
    for task_id, deferrable in {{"deferred": True, "in_sync": False}}.items():
        DeployModelOperator(
            task_id=task_id,
            service_name=task_id.replace("_", "-"),
            model={model!r},
            deferrable=deferrable,
            retries=1,
            retry_delay=timedelta(seconds=1),
        )
"""
SERVICES = {"deferred": "deferred", "in_sync": "in-sync"}


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("model") / "tiny"
    subprocess.run([DATA_PYTHON, REPO / "tests" / "fakes" / "tiny_model.py", target], check=True)
    return target


def test_killed_triggerer_and_worker_leave_one_revision_that_serves(
    real_airflow: RealAirflow, model: Path
) -> None:
    airflow = real_airflow
    airflow.add_dag("deployments", DAG.format(model=str(model)))
    dag_run = airflow.trigger("deployments")
    airflow.wait_until(
        lambda: all("is starting" in airflow.log("deployments", dag_run, task_id) for task_id in SERVICES),
        "the revisions to start",
    )
    airflow.kill_task("deployments", dag_run, "in_sync")
    airflow.wait_for_task("deployments", dag_run, "deferred", "deferred")
    airflow.kill("triggerer")
    airflow.restart("triggerer")
    assert airflow.wait("deployments", dag_run) == "success"

    assert airflow.task("deployments", dag_run, "in_sync")["try_number"] == 2
    assert "Reconnected to revision 00001" in airflow.log("deployments", dag_run, "in_sync", 2)
    for task_id, name in SERVICES.items():
        assert airflow.xcom("deployments", dag_run, task_id)["revision"] == "00001"
        home = airflow.root / "services" / "default" / name
        assert [path.name for path in (home / "revisions").iterdir()] == ["00001"]
        routes = json.loads((home / "routes.json").read_text())
        assert json.dumps(routes).count("00001") == 1
