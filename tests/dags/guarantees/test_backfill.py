"""``llmops backfill`` against a real Airflow: a DAG with partitions by day, and one that its asset starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from airflow_stack import RealAirflow

from airflow_provider_llmops.backfill.api import AirflowApi, RefusedError
from airflow_provider_llmops.cli import main

DAYS = [f"2026-11-0{day}" for day in (1, 2, 3)]
BAD = DAYS[1]
DATA, TRAINING = "backfilled_data", "backfilled_training"
ID = "llmops_backfill_1__"
ARGUMENTS = [
    "backfill",
    "--dag",
    DATA,
    "--dag",
    TRAINING,
    "--from",
    DAYS[0],
    "--to",
    DAYS[-1],
    "--poll",
    "0.3",
]
FILE_OF_DAGS = """
import time
from datetime import timedelta
from pathlib import Path
from airflow.sdk import DAG, Asset, CronPartitionTimetable, PartitionedAssetTimetable, task
from airflow.sdk.exceptions import AirflowFailException

ROWS = Asset("backfilled_rows")
MARKS = Path({marks!r})
AGAIN = {{"retries": 2, "retry_delay": timedelta(0)}}  # where a busy machine has ended a task
DAYS = CronPartitionTimetable("0 0 * * *", timezone="UTC", key_format="%Y-%m-%d")

with DAG("{data}", schedule=DAYS, catchup=False, default_args=AGAIN):

    @task(outlets=[ROWS])
    def make(dag_run=None):
        return {{"resources": {{"cpu_seconds": 1.5}}, "metrics": {{}}}}

    make()

with DAG("{training}", schedule=PartitionedAssetTimetable(assets=ROWS), catchup=False, default_args=AGAIN):

    @task(inlets=[ROWS])
    def train(dag_run, inlet_events):
        assert [each for each in inlet_events[ROWS] if each.partition_key == dag_run.partition_key]
        while (MARKS / f"slow-{{dag_run.partition_key}}").exists():
            time.sleep(0.2)
        if (MARKS / f"bad-{{dag_run.partition_key}}").exists():
            raise AirflowFailException(f"no rows of {{dag_run.partition_key}}")

    train()
"""


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """Directory whose files say for which partitions the training fails or is slow."""
    return tmp_path


@pytest.fixture
def airflow(real_airflow: RealAirflow, marks: Path, monkeypatch: pytest.MonkeyPatch) -> RealAirflow:
    real_airflow.add_dag(DATA, FILE_OF_DAGS.format(marks=str(marks), data=DATA, training=TRAINING))
    real_airflow.api.wait_for_dag(TRAINING)
    for name, value in login(real_airflow).items():
        monkeypatch.setenv(f"LLMOPS_AIRFLOW_{name.upper()}", value)
    return real_airflow


def login(airflow: RealAirflow) -> dict[str, str]:
    return {"url": airflow.stack.airflow_url, "username": "admin", "password": airflow.stack.password}


def runs_of(airflow: RealAirflow, dag_id: str) -> list[tuple[str, str, str]]:
    """Key, state and id of the runs for the days, in the order in which they were made."""
    answer = airflow.api.call("GET", f"/dags/{dag_id}/dagRuns", params={"limit": 90, "order_by": "id"})
    found = [(each["partition_key"], each["state"], each["dag_run_id"]) for each in answer["dag_runs"]]
    return sorted(each for each in found if each[0] in DAYS)


def standings(printed: str) -> dict[str, Any]:
    return {
        each["partition"]: [dag["standing"] for dag in each["dags"].values()]
        for each in json.loads(printed)["partitions"]
    }


def test_a_chain_is_filled_goes_on_after_an_interruption_and_is_left_alone_when_it_is_whole(
    airflow, marks, capsys
):
    assert main([*ARGUMENTS, "--dry-run", "--json"]) == 0
    assert standings(capsys.readouterr().out) == {day: ["would run", "would run"] for day in DAYS}

    (marks / f"bad-{BAD}").touch()
    assert main([*ARGUMENTS, "--yes"]) == 1
    said = capsys.readouterr().out
    assert f"task train: AirflowFailException: no rows of {BAD}" in said.partition("Failed:")[2], said
    assert runs_of(airflow, DATA) == [(day, "success", f"{ID}{day}") for day in DAYS]
    # One run each, by Airflow's own scheduler: this is not the second one.
    trained = runs_of(airflow, TRAINING)
    assert [each[:2] for each in trained] == [(day, "failed" if day == BAD else "success") for day in DAYS]
    assert all(each[2].startswith("asset_triggered__") for each in trained)

    assert main([*ARGUMENTS, "--dry-run", "--json"]) == 0
    printed = capsys.readouterr().out
    assert standings(printed) == {day: ["there", "failed" if day == BAD else "there"] for day in DAYS}
    assert json.loads(printed)["estimate"]["runs"] == 0
    assert main([*ARGUMENTS, "--reprocess", "all", "--dry-run", "--json"]) == 0
    estimate = json.loads(capsys.readouterr().out)["estimate"]
    assert (estimate["runs"], estimate["unknown"], estimate["together"]) == (6, [], {"cpu_seconds": 4.5})
    assert 0 < estimate["seconds"] < 600

    (marks / f"bad-{BAD}").unlink()
    slow = marks / f"slow-{BAD}"
    slow.touch()
    command = [
        sys.executable,
        "-m",
        "airflow_provider_llmops.cli",
        *ARGUMENTS,
        "--reprocess",
        "failed",
        "--yes",
    ]
    going_on = f"{ID}{BAD}"
    # Who runs tests in the background may have a shell that lets them ignore it.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    streams = {"stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **streams, env=dict(os.environ), preexec_fn=heeding) as process:
        airflow.wait_until(
            lambda: (BAD, "running", going_on) in runs_of(airflow, TRAINING), "the run again", 120
        )
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"Going on in Airflow:\n  {BAD} {TRAINING}, run {going_on}\n" in said
    assert main([*ARGUMENTS, "--dry-run", "--json"]) == 0
    assert standings(capsys.readouterr().out)[BAD] == ["there", "running"]
    slow.unlink()
    assert main([*ARGUMENTS, "--yes"]) == 0
    before = [runs_of(airflow, dag_id) for dag_id in (DATA, TRAINING)]
    assert [each[2] for each in before[1] if each[0] == BAD and each[1] == "success"] == [going_on]
    assert [len(each) for each in before] == [3, 4]

    assert main(ARGUMENTS) == 0
    assert [runs_of(airflow, dag_id) for dag_id in (DATA, TRAINING)] == before
    api = AirflowApi(login(airflow)["url"], login=(login(airflow)["username"], login(airflow)["password"]))
    with pytest.raises(RefusedError) as refused:
        api.start(DATA, f"{ID}{DAYS[0]}", DAYS[0], {})
    assert refused.value.status == 409
    with pytest.raises(RefusedError, match="does not match the timetable's key_format") as refused:
        api.start(DATA, "other", "yesterday", {})
    assert refused.value.status == 400
