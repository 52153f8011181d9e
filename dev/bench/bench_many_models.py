#!/usr/bin/env python3
"""Many models as one DAG with a mapped task over a table, against a DAG for each, in a real Airflow.

    .venv/control/bin/python dev/bench/bench_many_models.py [--models 1000] [--rounds 3]

Parsing is what a DAG file takes in a fresh interpreter, over bare airflow.sdk. Scheduling is the time from the start of a run, or of a run of each
DAG, until the task of every model waits for a slot; the pool has none, so that no model's own work is in it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.5
POOL = "no_slots"
MAPPED = """
from airflow.sdk import DAG, task
from airflow_provider_llmops.operators.training import TrainSFTOperator

with DAG("mapped", schedule=None, catchup=False, max_active_tasks={models}):

    @task
    def table():
        return [{{"dataset": f"/data/{{number}}.jsonl"}} for number in range({models})]

    TrainSFTOperator.partial(task_id="train", pool="no_slots", base_model="/models/base").expand_kwargs(table())
"""
EACH = """
from airflow.sdk import DAG
from airflow_provider_llmops.operators.training import TrainSFTOperator

for number in range({models}):
    with DAG(f"model_{{number}}", schedule=None, catchup=False) as dag:
        TrainSFTOperator(task_id="train", pool="no_slots", base_model="/models/base", dataset=f"/data/{{number}}.jsonl")
    globals()[dag.dag_id] = dag
"""
PARSED = """
import sys, time
import airflow.sdk; airflow.sdk.DAG, airflow.sdk.task
from airflow_provider_llmops.operators.training import TrainSFTOperator
source = open(sys.argv[1]).read()
started = time.perf_counter()
exec(compile(source, sys.argv[1], "exec"), globals())
print(time.perf_counter() - started)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sys.path[:0] = [str(REPO), *(str(REPO / "tests" / folder) for folder in ("dags", "fakes"))]
    from airflow_stack import RealAirflow

    sources = {
        "one mapped task": MAPPED.format(models=options.models),
        "a DAG for each": EACH.format(models=options.models),
    }
    with tempfile.TemporaryDirectory() as directory:
        os.environ["AIRFLOW_HOME"] = f"{directory}/home"
        tell("parsed", parsed(sources, Path(directory), options.rounds))
        airflow = RealAirflow(Path(directory) / "stack", dags_folder=Path(directory) / "dags")
        airflow.start()
        try:
            tell("scheduled", scheduled(airflow, sources, options.models, options.rounds))
        finally:
            airflow.stop()


def tell(what: str, took: dict[str, list[float]]) -> None:
    """Print medians, and how many times as long the second takes."""
    medians = [statistics.median(seconds) for seconds in took.values()]
    for name, seconds in zip(took, medians, strict=True):
        print(f"{name:<16} {what} in {seconds:7.2f} s")
    print(f"ratio: {medians[1] / medians[0]:.1f}", flush=True)


def parsed(sources: dict[str, str], directory: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way to make its DAGs, in turns; the first turn fills caches."""
    took: dict[str, list[float]] = {name: [] for name in sources}
    for turn in range(rounds + 1):
        for name, source in sources.items():
            file = directory / "parsed.py"
            file.write_text(source)
            command = [sys.executable, "-c", PARSED, str(file)]
            answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPO)
            if turn:
                took[name].append(float(answer.stdout.split()[-1]))
    return took


def scheduled(airflow, sources: dict[str, str], models: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way until every model's task waits for a slot, in turns."""
    airflow.api.call("POST", "/pools", json={"name": POOL, "slots": 0, "include_deferred": False})
    airflow.add_dag("mapped", sources["one mapped task"])
    dag_ids = [f"model_{number}" for number in range(models)]
    began = time.monotonic()
    (airflow.stack.dags_folder / "each.py").write_text(sources["a DAG for each"])
    await_count(airflow, "/dags?dag_id_pattern=model_", models)
    print(
        f"{models} DAGs are known to Airflow {time.monotonic() - began:.0f} s after their file is there",
        flush=True,
    )
    for dag_id in dag_ids:
        airflow.api.call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def start(dag_ids: list[str]) -> Callable[[], None]:
        return lambda: [
            airflow.api.call("POST", f"/dags/{each}/dagRuns", json={"logical_date": None}) for each in dag_ids
        ]

    ways = {"one mapped task": ("mapped", start(["mapped"])), "a DAG for each": ("model_", start(dag_ids))}
    took: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(1, rounds + 1):
        for name, (dag_ids_begin, begin) in ways.items():
            began = time.monotonic()
            begin()
            waiting = f"/dags/~/dagRuns/~/taskInstances?task_id=train&state=scheduled&dag_id_pattern={dag_ids_begin}"
            await_count(airflow, waiting, models * turn)
            took[name].append(time.monotonic() - began)
    return took


def await_count(airflow, path: str, count: int) -> None:
    """Wait until a list has so many entries."""
    while airflow.api.call("GET", f"{path}&limit=1")["total_entries"] < count:
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
