"""Airflow on PostgreSQL, as an Airflow for several people has it: the guarantees hold where transactions meet.

``LLMOPS_TEST_DATABASE=postgresql dev/test tests/dags`` has all tests of this folder use it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import _postgres
import pytest
from airflow_stack import RealAirflow, free_environment
from kubeflow_cluster import Cluster

from airflow_provider_llmops.cli import main

REASON = _postgres.missing()
pytestmark = pytest.mark.skipif(REASON is not None and "CI" not in os.environ, reason=str(REASON))

RUNS = 10
DAYS = ("2026-11-01", "2026-11-02", "2026-11-03")
FILE_OF_DAGS = """
from airflow.sdk import DAG, CronPartitionTimetable
from airflow_provider_llmops.operators.kubeflow import KubeflowComponentOperator

def toy(**kwargs):
    KubeflowComponentOperator(
        task_id="toy", component={spec!r}, kubeflow_conn_id="kubeflow_cluster", poll_interval=1, **kwargs
    )

with DAG("at_once", schedule=None, max_active_runs={runs}):
    toy(arguments={{"seconds": 3600}})

DAYS = CronPartitionTimetable("0 0 * * *", timezone="UTC", key_format="%Y-%m-%d")
with DAG("by_day", schedule=DAYS, catchup=False):
    toy(arguments={{"text": "{{{{ dag_run.partition_key }}}}"}})
"""


@pytest.fixture(scope="module")
def airflow(
    tmp_path_factory: pytest.TempPathFactory, kubeflow_cluster: Cluster, toy_spec: Path
) -> Iterator[RealAirflow]:
    directory = tmp_path_factory.mktemp("on-postgresql")
    (directory / "dags").mkdir()
    (directory / "dags/dags.py").write_text(FILE_OF_DAGS.format(spec=str(toy_spec), runs=RUNS))
    airflow = RealAirflow(
        directory / "stack",
        dags_folder=directory / "dags",
        environment={
            **free_environment(),
            "AIRFLOW_CONN_KUBEFLOW_CLUSTER": kubeflow_cluster.connection(),
        },
        settings={"core": {"parallelism": "8"}},
        database="postgresql",
    )
    airflow.start()
    try:
        for dag_id in ("at_once", "by_day"):
            airflow.api.wait_for_dag(dag_id)
        yield airflow
    finally:
        airflow.stop()


def test_runs_at_once_make_one_run_each(airflow: RealAirflow, cluster: Cluster) -> None:
    with ThreadPoolExecutor(RUNS) as pool:
        run_ids = list(pool.map(lambda _: airflow.api.trigger("at_once"), range(RUNS)))
    made = lambda: cluster.runs("at_once").get("toy", [])  # noqa: E731
    airflow.wait_until(lambda: len(made()) >= RUNS, "the runs", 120, made)
    airflow.wait_until(
        lambda: all(airflow.task("at_once", each, "toy")["state"] == "deferred" for each in run_ids),
        "all of them to wait at once",
        120,
        lambda: [airflow.tasks("at_once", each) for each in run_ids],
    )
    for run_id in made():
        cluster.finish(run_id)
    assert [airflow.wait("at_once", each) for each in run_ids] == ["success"] * RUNS
    assert len(made()) == RUNS
    names = [cluster.api.runs[each]["display_name"] for each in made()]
    assert len(set(names)) == RUNS


def test_backfill_fills_what_is_missing_once(
    airflow: RealAirflow, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = {"URL": airflow.stack.airflow_url, "USERNAME": "admin", "PASSWORD": airflow.stack.password}
    for name, value in login.items():
        monkeypatch.setenv(f"LLMOPS_AIRFLOW_{name}", value)
    command = ["backfill", "--dag", "by_day", "--from", DAYS[0], "--to", DAYS[-1], "--poll", "0.3", "--yes"]
    assert main(command) == 0
    assert main(command) == 0
    answer = airflow.api.call("GET", "/dags/by_day/dagRuns", params={"limit": 90})
    found = sorted((each["partition_key"], each["state"]) for each in answer["dag_runs"])
    assert [each for each in found if each[0] in DAYS] == [(day, "success") for day in DAYS]
    texts = [
        cluster.api.runs[each]["runtime_config"]["parameters"]["text"]
        for each in cluster.runs("by_day")["toy"]
    ]
    assert sorted(text for text in texts if text in DAYS) == list(DAYS)
