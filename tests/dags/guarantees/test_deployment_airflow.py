"""Deployments and canaries: one revision for each scheduled run of a task, in a real Airflow, whatever is killed."""

from __future__ import annotations

import json
from pathlib import Path

from airflow_stack import RealAirflow

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
CANARIES = """
from datetime import timedelta

from airflow.sdk import DAG
from airflow_provider_llmops.operators.canary import CanaryOperator
from airflow_provider_llmops.operators.serving import DeployModelOperator

with DAG("canaries", schedule=None):
    for task_id, deferrable in {{"canary_deferred": True, "canary_in_sync": False}}.items():
        service = dict(service_name=task_id.replace("_", "-"), model={model!r}, retry_delay=timedelta(seconds=1))
        DeployModelOperator(task_id="before_" + task_id, **service) >> CanaryOperator(
            task_id=task_id,
            predictor_args={{"max_model_len": 256}},
            steps=[20, 50],
            step_duration=timedelta(seconds=25),  # in which it has to be seen and killed, on a busy machine too
            undecided_timeout=0,
            on_undecided="go_on",  # nobody asks
            deferrable=deferrable,
            retries=2,
            **service,
        )
"""
SERVICES = {"deferred": "deferred", "in_sync": "in-sync"}


def test_killed_triggerer_and_worker_leave_one_revision_that_serves(
    real_airflow: RealAirflow, tiny_model: Path
) -> None:
    airflow = real_airflow
    airflow.add_dag("deployments", DAG.format(model=str(tiny_model)))
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


def test_canary_goes_on_with_its_step_whatever_is_killed_in_each(
    real_airflow: RealAirflow, tiny_model: Path
) -> None:
    airflow = real_airflow
    airflow.add_dag("canaries", CANARIES.format(model=str(tiny_model)))
    dag_run = airflow.trigger("canaries")

    def wait_for_share(task_id: str, share: int, try_number: int = 1) -> None:
        said = f"has {share}% of the requests"
        airflow.wait_until(
            lambda: said in airflow.log("canaries", dag_run, task_id, try_number), f"{task_id} at {share}%"
        )

    for attempt, share in enumerate((20, 50), start=1):
        wait_for_share("canary_in_sync", share, attempt)
        airflow.kill_task("canaries", dag_run, "canary_in_sync")
        wait_for_share("canary_deferred", share)
        airflow.kill("triggerer")
        airflow.restart("triggerer")
    assert airflow.wait("canaries", dag_run, timeout=600) == "success"

    for task_id, tries in {"canary_in_sync": 3, "canary_deferred": 1}.items():
        assert airflow.task("canaries", dag_run, task_id)["try_number"] == tries
        assert airflow.xcom("canaries", dag_run, task_id)["revision"] == "00002"
        home = airflow.root / "services" / "default" / task_id.replace("_", "-")
        assert sorted(path.name for path in (home / "revisions").iterdir()) == ["00001", "00002"]
        routes = json.loads((home / "routes.json").read_text())["routes"]
        assert [(each["revision"], each["weight"]) for each in routes if each["weight"]] == [("00002", 100)]
    for attempt, share in ((2, 20), (3, 50)):
        log = airflow.log("canaries", dag_run, "canary_in_sync", attempt)
        assert "Reconnected to revision 00002" in log
        first = next(line for line in log.splitlines() if "of the requests for" in line)
        assert f"has {share}% of the requests" in first
