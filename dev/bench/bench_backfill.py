#!/usr/bin/env python3
"""A backfill of 10 partitions by `llmops backfill`, against 10 runs started by hand and against Airflow's own backfill, in a real Airflow.

    .venv/control/bin/python dev/bench/bench_backfill.py [--partitions 10] [--rounds 3]

The DAG has one task that does nothing, so that all that is measured is what a run costs beside its work. The ways take turns, each on partitions
that nobody has run so far.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
DAG_ID = "nothing"
POLL_SECONDS = 0.5
SOURCE = f"""
from airflow.sdk import DAG, CronPartitionTimetable, task

timetable = CronPartitionTimetable("0 0 * * *", timezone="UTC", key_format="%Y-%m-%d")
with DAG("{DAG_ID}", schedule=timetable, catchup=False, max_active_runs=64):

    @task
    def nothing():
        pass

    nothing()
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--partitions", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sys.path[:0] = [str(REPO), *(str(REPO / "tests" / folder) for folder in ("dags", "fakes"))]
    from airflow_stack import RealAirflow

    with tempfile.TemporaryDirectory() as directory:
        os.environ["AIRFLOW_HOME"] = f"{directory}/home"
        airflow = RealAirflow(Path(directory) / "stack", dags_folder=Path(directory) / "dags")
        airflow.start()
        try:
            airflow.add_dag(DAG_ID, SOURCE)
            measure(airflow, options.partitions, options.rounds)
        finally:
            airflow.stop()


def measure(airflow, partitions: int, rounds: int) -> None:
    """Take turns, print medians."""
    ways: dict[str, Callable[[list[str]], None]] = {
        "by hand, one after the other": lambda keys: by_hand(airflow, keys, at_once=False),
        "llmops backfill --parallel 1": lambda keys: by_command(airflow, keys, 1),
        "by hand, all at once": lambda keys: by_hand(airflow, keys, at_once=True),
        "airflow backfill": lambda keys: by_airflow(airflow, keys),
        f"llmops backfill --parallel {partitions}": lambda keys: by_command(airflow, keys, partitions),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    first = date(2020, 1, 1)
    by_hand(airflow, ["2019-12-31"], at_once=True)  # whatever is read for the first time
    for _ in range(rounds):
        for name, way in ways.items():
            keys = [f"{first + timedelta(days=day)}" for day in range(partitions)]
            first += timedelta(days=partitions)
            began = time.monotonic()
            way(keys)
            took[name].append((time.monotonic() - began) / partitions)
            assert all(is_done(airflow, key) for key in keys), name
    for name, seconds in took.items():
        print(f"{name:<34} {statistics.median(seconds):6.2f} s a run")


def by_hand(airflow, keys: list[str], *, at_once: bool) -> None:
    """Trigger runs by the API, and wait for each."""

    def start(key: str) -> str:
        body = {"logical_date": None, "partition_key": key}
        return airflow.api.call("POST", f"/dags/{DAG_ID}/dagRuns", json=body)["dag_run_id"]

    def wait(run_id: str) -> None:
        while airflow.api.dag_run(DAG_ID, run_id)["state"] not in ("success", "failed"):
            time.sleep(POLL_SECONDS)

    if at_once:
        for run_id in [start(key) for key in keys]:
            wait(run_id)
    else:
        for key in keys:
            wait(start(key))


def by_airflow(airflow, keys: list[str]) -> None:
    """Airflow's own backfill, until the last of its runs has ended."""
    body = {
        "dag_id": DAG_ID,
        "from_date": f"{keys[0]}T00:00:00Z",
        "to_date": f"{keys[-1]}T00:00:00Z",
        "max_active_runs": len(keys),
    }
    number = airflow.api.call("POST", "/backfills", json=body)["id"]
    while not all(is_done(airflow, key) for key in keys):
        time.sleep(POLL_SECONDS)
    # The next one is refused before the scheduler has seen that this one is done, which is none of what a run costs.
    airflow.api.call("PUT", f"/backfills/{number}/cancel")


def by_command(airflow, keys: list[str], parallel: int) -> None:
    """What this project has for it."""
    from airflow_provider_llmops.cli import main as llmops

    os.environ |= {
        "LLMOPS_AIRFLOW_URL": airflow.stack.airflow_url,
        "LLMOPS_AIRFLOW_USERNAME": "admin",
        "LLMOPS_AIRFLOW_PASSWORD": airflow.stack.password,
    }
    command = ["backfill", "--dag", DAG_ID, "--from", keys[0], "--to", keys[-1], "--yes"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = llmops([*command, "--parallel", str(parallel), "--poll", str(POLL_SECONDS)])
    assert status == 0, said.getvalue()


def is_done(airflow, key: str) -> bool:
    """Whether a run for a partition has succeeded."""
    query = {"partition_key_prefix_pattern": key, "state": "success"}
    return bool(airflow.api.call("GET", f"/dags/{DAG_ID}/dagRuns", params=query)["dag_runs"])


if __name__ == "__main__":
    main()
