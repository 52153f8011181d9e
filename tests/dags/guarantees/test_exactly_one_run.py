"""One run for each scheduled run of a task, in a real Airflow, whatever is killed."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from airflow_stack import RealAirflow

TOY_DAG = """
from datetime import timedelta

import yaml
from airflow.sdk import DAG
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.specs.pipeline import PipelineSpec


class ToyOperator(ComponentOperator):
    component = "toy"

    def __init__(self, *, seconds, **kwargs):
        super().__init__(**kwargs)
        self.seconds = seconds

    def spec(self):
        with open({spec!r}) as file:
            return PipelineSpec("toy", yaml.safe_load(file), "sha256:toy")


with DAG("toy_{mode}", schedule=None, params={{"seconds": 1}}, render_template_as_native_obj=True):
    ToyOperator(
        task_id="toy",
        seconds="{{{{ params.seconds }}}}",
        deferrable={deferrable},
        retries={retries},
        retry_delay=timedelta(seconds=1),
    )
"""


@pytest.fixture(scope="module")
def toy_dags(real_airflow: RealAirflow, toy_spec: Path) -> RealAirflow:
    for mode, deferrable in (("deferred", True), ("synchronous", False), ("edited", True)):
        source = TOY_DAG.format(spec=str(toy_spec), mode=mode, deferrable=deferrable, retries=1)
        real_airflow.add_dag(f"toy_{mode}", source)
    return real_airflow


def runs_of(airflow: RealAirflow, dag_run_id: str) -> list[str]:
    """Ids of the pipeline runs that a DAG run made, oldest first."""
    requests = [json.loads(path.read_text()) for path in airflow.root.glob("runs/[!.]*/request.json")]
    mine = [request for request in requests if request["labels"]["dag_run_id"] == dag_run_id]
    return [request["run_id"] for request in sorted(mine, key=lambda request: request["created_at"])]


def component_processes(airflow: RealAirflow, run_id: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("LLMOPS_RUN_DIR", "").endswith(run_id):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def wait_until_working(airflow: RealAirflow, dag_run_id: str) -> str:
    """Wait until the component is at work; returns the id of its run."""

    def working() -> bool:  # a run that was just asked for has no log yet
        logs = [airflow.root / "runs" / run_id / "log.txt" for run_id in runs_of(airflow, dag_run_id)]
        return any("working on" in log.read_text() for log in logs if log.exists())

    airflow.wait_until(working, "the component to be at work")
    return runs_of(airflow, dag_run_id)[-1]


@pytest.mark.parametrize("mode", ["deferred", "synchronous"])
def test_undisturbed_task_makes_one_run_and_shows_its_log(toy_dags, mode):
    dag_run = toy_dags.trigger(f"toy_{mode}")
    assert toy_dags.wait(f"toy_{mode}", dag_run) == "success"
    (run_id,) = runs_of(toy_dags, dag_run)
    value = toy_dags.xcom(f"toy_{mode}", dag_run, "toy")
    assert (value["run_id"], value["metrics"]) == (run_id, {"length": 5})
    assert toy_dags.xcom(f"toy_{mode}", dag_run, "toy", "echo") == value["artifacts"]["echo"]["uri"]
    assert "working on hello" in toy_dags.log(f"toy_{mode}", dag_run, "toy")


def test_worker_killed_while_it_waits_is_followed_by_one_that_reconnects(toy_dags):
    dag_run = toy_dags.trigger("toy_synchronous", {"seconds": 25})
    run_id = wait_until_working(toy_dags, dag_run)
    toy_dags.kill_task("toy_synchronous", dag_run, "toy")
    assert toy_dags.wait("toy_synchronous", dag_run) == "success"
    assert runs_of(toy_dags, dag_run) == [run_id]
    assert toy_dags.xcom("toy_synchronous", dag_run, "toy")["run_id"] == run_id
    assert toy_dags.task("toy_synchronous", dag_run, "toy")["try_number"] == 2
    assert f"Reconnected to run {run_id}" in toy_dags.log("toy_synchronous", dag_run, "toy", 2)


def test_killed_triggerer_keeps_the_run(toy_dags):
    dag_run = toy_dags.trigger("toy_deferred", {"seconds": 8})
    run_id = wait_until_working(toy_dags, dag_run)
    toy_dags.wait_for_task("toy_deferred", dag_run, "toy", "deferred")
    toy_dags.kill("triggerer")
    toy_dags.restart("triggerer")
    assert toy_dags.wait("toy_deferred", dag_run) == "success"
    assert runs_of(toy_dags, dag_run) == [run_id]


@pytest.mark.parametrize("mode", ["deferred", "synchronous"])
def test_marking_a_task_failed_stops_its_processes_within_ten_seconds(toy_dags, mode):
    dag_run = toy_dags.trigger(f"toy_{mode}", {"seconds": 120})
    run_id = wait_until_working(toy_dags, dag_run)
    if mode == "deferred":
        # Until the triggerer has taken the trigger up, nobody is there whom Airflow could tell of the mark.
        streamed = "working on hello"
        toy_dags.wait_until(
            lambda: streamed in toy_dags.log("toy_deferred", dag_run, "toy"), "the trigger to run"
        )
    assert component_processes(toy_dags, run_id)
    toy_dags.set_state(f"toy_{mode}", dag_run, "toy", "failed")
    toy_dags.wait_until(lambda: not component_processes(toy_dags, run_id), "the processes to be gone", 60)
    state = json.loads((toy_dags.root / "runs" / run_id / "state.json").read_text())
    assert state["state"] in ("FAILED", "CANCELED")
    assert (toy_dags.root / "runs" / run_id / "cancel").exists()


def test_clearing_a_finished_task_makes_one_new_run(toy_dags):
    dag_run = toy_dags.trigger("toy_deferred")
    assert toy_dags.wait("toy_deferred", dag_run) == "success"
    toy_dags.clear("toy_deferred", dag_run, "toy")
    toy_dags.wait_until(lambda: len(runs_of(toy_dags, dag_run)) == 2, "a second run")
    assert toy_dags.wait("toy_deferred", dag_run) == "success"
    first, second = runs_of(toy_dags, dag_run)
    assert toy_dags.xcom("toy_deferred", dag_run, "toy")["run_id"] == second != first


def test_clearing_a_finished_task_makes_a_new_run_although_its_dag_gives_it_fewer_retries_now(toy_dags):
    dag_run = toy_dags.trigger("toy_edited")
    assert toy_dags.wait("toy_edited", dag_run) == "success"
    before = toy_dags.task("toy_edited", dag_run, "toy")["max_tries"]
    file = toy_dags.stack.dags_folder / "toy_edited.py"
    file.write_text(file.read_text().replace("retries=1", "retries=0"))
    toy_dags.wait_until(
        lambda: toy_dags.api.call("GET", "/dags/toy_edited/tasks/toy")["retries"] == 0,
        "the DAG to be read",
        90,
    )
    toy_dags.clear("toy_edited", dag_run, "toy")
    toy_dags.wait_until(lambda: len(runs_of(toy_dags, dag_run)) == 2, "a second run")
    assert toy_dags.wait("toy_edited", dag_run) == "success"
    assert toy_dags.task("toy_edited", dag_run, "toy")["max_tries"] == before
    assert toy_dags.xcom("toy_edited", dag_run, "toy")["run_id"] == runs_of(toy_dags, dag_run)[1]


def test_clearing_a_waiting_task_replaces_its_run(toy_dags):
    dag_run = toy_dags.trigger("toy_deferred", {"seconds": 120})
    first = wait_until_working(toy_dags, dag_run)
    toy_dags.wait_for_task("toy_deferred", dag_run, "toy", "deferred")
    toy_dags.clear("toy_deferred", dag_run, "toy")
    toy_dags.wait_until(lambda: len(runs_of(toy_dags, dag_run)) == 2, "a second run")
    toy_dags.wait_until(lambda: not component_processes(toy_dags, first), "the first run to be stopped", 60)
    second = runs_of(toy_dags, dag_run)[1]
    toy_dags.wait_until(lambda: bool(component_processes(toy_dags, second)), "the second run to be at work")
    toy_dags.set_state("toy_deferred", dag_run, "toy", "failed")
