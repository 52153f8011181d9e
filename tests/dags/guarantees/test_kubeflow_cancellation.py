"""On Kubeflow Pipelines: a run that nobody wants any more is terminated, and only that; in a real Airflow."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow_stack import RealAirflow
from kubeflow_cluster import Cluster

# Each run takes an hour unless the test ends it.
DAGS = """
from datetime import timedelta

from airflow.sdk import DAG
from airflow_provider_llmops.operators.kubeflow import KubeflowComponentOperator


def toy(task_id, **kwargs):
    KubeflowComponentOperator(
        task_id=task_id,
        component={spec!r},
        arguments={{"seconds": 3600}},
        kubeflow_conn_id="kubeflow_cluster",
        poll_interval=1,
        retry_delay=timedelta(seconds=1),
        **kwargs,
    )


modes = {{"deferred": True, "in_sync": False}}

with DAG("unwanted", schedule=None):
    for mode, deferrable in modes.items():
        for fate in ("failed", "success", "cleared", "untouched"):
            toy(f"{{fate}}_{{mode}}", deferrable=deferrable)

with DAG("overdue", schedule=None, dagrun_timeout=timedelta(seconds=20)):
    for mode, deferrable in modes.items():
        toy(mode, deferrable=deferrable)

with DAG("submitting", schedule=None):
    toy("toy")

with DAG("slow", schedule=None):
    for mode, deferrable in modes.items():
        for limit in ("run_timeout", "execution_timeout"):
            toy(f"{{limit}}_{{mode}}", deferrable=deferrable, **{{limit: timedelta(seconds=8)}})

with DAG("evicted", schedule=None):
    toy("deferred", retries=1)
    toy("kept", deferrable=False, retries=1)
    toy("given_up", deferrable=False, retries=1, cancel_on_eviction=True)
"""
MODES = ("deferred", "in_sync")


@pytest.fixture(scope="module")
def airflow(real_airflow: RealAirflow, toy_spec: Path) -> RealAirflow:
    source = DAGS.format(spec=str(toy_spec))
    (real_airflow.stack.dags_folder / "cancellation.py").write_text(source)
    for dag_id in ("unwanted", "overdue", "submitting", "slow", "evicted"):
        real_airflow.api.wait_for_dag(dag_id)
    return real_airflow


def wait_until_awaited(airflow: RealAirflow, cluster: Cluster, dag_id: str, dag_run: str) -> dict[str, str]:
    """Wait until somebody watches the run of every task; returns the ids of the runs."""
    tasks = {ti["task_id"] for ti in airflow.api.task_instances(dag_id, dag_run)}
    airflow.wait_until(
        # Until the triggerer has taken a trigger up, nobody is there whom Airflow could tell of a mark.
        lambda: all("Step toy: RUNNING" in airflow.log(dag_id, dag_run, task) for task in tasks),
        "every run to be watched",
        describe=lambda: airflow.tasks(dag_id, dag_run),
    )
    made = cluster.runs(dag_id)
    assert {task: len(runs) for task, runs in made.items()} == dict.fromkeys(tasks, 1)
    return {task: runs[0] for task, runs in made.items()}


def end_all(airflow: RealAirflow, cluster: Cluster, dag_id: str, dag_run: str) -> None:
    """Let all runs of a DAG end well, and wait for the tasks that follow them."""
    for runs in cluster.runs(dag_id).values():
        for run_id in runs:
            cluster.finish(run_id)
    airflow.wait(dag_id, dag_run)


def test_marking_clearing_and_a_dag_run_that_times_out_terminate_the_run_and_no_other(
    airflow: RealAirflow, cluster: Cluster
) -> None:
    with cluster.held_post(after_effect=True) as held:
        submitting = airflow.trigger("submitting")
        airflow.wait_until(held.is_set, "the request for a run")
        airflow.set_state("submitting", submitting, "toy", "failed")
    (submitted,) = cluster.runs("submitting")["toy"]
    overdue = airflow.trigger("overdue")
    dag_run = airflow.trigger("unwanted")
    runs = wait_until_awaited(airflow, cluster, "unwanted", dag_run)
    overdue_runs = [cluster.runs("overdue")[mode][0] for mode in MODES]
    for mode in MODES:
        airflow.set_state("unwanted", dag_run, f"failed_{mode}", "failed")
        airflow.set_state("unwanted", dag_run, f"success_{mode}", "success")
        airflow.clear("unwanted", dag_run, f"cleared_{mode}")
    marked = {runs[f"{fate}_{mode}"] for fate in ("failed", "success", "cleared") for mode in MODES}
    unwanted = {submitted, *marked}
    airflow.wait_until(
        lambda: set(cluster.terminated()) >= unwanted,
        "the runs of marked and cleared tasks to be terminated",
        180,
        lambda: {task: cluster.state(run_id) for task, run_id in runs.items()},
    )
    assert airflow.wait("overdue", overdue) == "failed"
    airflow.wait_until(
        lambda: set(cluster.terminated()) >= {*unwanted, *overdue_runs},
        "the runs of a DAG run that timed out to be terminated",
        180,
        lambda: [cluster.state(run_id) for run_id in overdue_runs],
    )

    airflow.wait_until(
        lambda: all(len(cluster.runs("unwanted")[f"cleared_{mode}"]) == 2 for mode in MODES),
        "a second run of each cleared task",
    )
    airflow.wait_for_task("unwanted", dag_run, "cleared_deferred", "deferred")
    end_all(airflow, cluster, "unwanted", dag_run)
    assert airflow.tasks("unwanted", dag_run) == {
        f"{fate}_{mode}": "failed" if fate == "failed" else "success"
        for fate in ("failed", "success", "cleared", "untouched")
        for mode in MODES
    }
    for mode in MODES:
        second = cluster.runs("unwanted")[f"cleared_{mode}"][1]
        assert airflow.xcom("unwanted", dag_run, f"cleared_{mode}")["run_id"] == second
        assert cluster.state(second) == cluster.state(runs[f"untouched_{mode}"]) == "SUCCEEDED"
    assert sorted(cluster.terminated()) == sorted({*unwanted, *overdue_runs})


def test_time_limits_hold_while_a_task_is_deferred_and_while_it_is_not(
    airflow: RealAirflow, cluster: Cluster
) -> None:
    dag_run = airflow.trigger("slow")
    assert airflow.wait("slow", dag_run) == "failed"
    assert set(airflow.tasks("slow", dag_run).values()) == {"failed"}
    made = cluster.runs("slow")
    assert {task: [cluster.state(run_id) for run_id in runs] for task, runs in made.items()} == {
        task: ["FAILED"] for task in airflow.tasks("slow", dag_run)
    }
    assert sorted(cluster.terminated()) == sorted(run_id for runs in made.values() for run_id in runs)
    for task, (run_id,) in made.items():
        limit = task.removesuffix("_deferred").removesuffix("_in_sync")
        log = airflow.log("slow", dag_run, task)
        assert f"The run took longer than its {limit} of 0:00:08 and was cancelled." in log
        assert f"Run: {run_id}" in log


def test_restarted_triggerer_and_evicted_worker_keep_the_run_unless_told_otherwise(
    airflow: RealAirflow, cluster: Cluster
) -> None:
    dag_run = airflow.trigger("evicted")
    runs = wait_until_awaited(airflow, cluster, "evicted", dag_run)
    assert airflow.task("evicted", dag_run, "deferred")["state"] == "deferred"
    # The button is there while the run goes on.
    assert airflow.links("evicted", dag_run, "deferred") == {
        "Pipeline run": f"{cluster.api.url}/#/runs/details/{runs['deferred']}"
    }

    airflow.evict_task("evicted", dag_run, "kept")
    airflow.evict_task("evicted", dag_run, "given_up")
    airflow.terminate("triggerer")
    airflow.restart("triggerer")
    airflow.wait_until(
        lambda: (
            f"Run {runs['kept']} goes on" in airflow.log("evicted", dag_run, "kept")
            and cluster.terminated() == [runs["given_up"]]
        ),
        "the workers to have been told",
    )
    # What is left when the grace period of a pod is over is killed.
    airflow.kill_task("evicted", dag_run, "kept")
    airflow.wait_until(lambda: watched_again(airflow, dag_run, 1), "the restarted triggerer to watch the run")
    airflow.kill("triggerer")
    airflow.restart("triggerer")

    airflow.wait_until(lambda: len(cluster.runs("evicted")["given_up"]) == 2, "a new run of the evicted task")
    end_all(airflow, cluster, "evicted", dag_run)
    assert airflow.tasks("evicted", dag_run) == dict.fromkeys(runs, "success")
    made = cluster.runs("evicted")
    assert (made["deferred"], made["kept"]) == ([runs["deferred"]], [runs["kept"]])
    assert [cluster.state(run_id) for run_id in made["given_up"]] == ["FAILED", "SUCCEEDED"]
    assert cluster.terminated() == [runs["given_up"]]


def watched_again(airflow: RealAirflow, dag_run: str, times: int) -> bool:
    """Whether triggerers have said more than a number of times what the run's step does."""
    return airflow.log("evicted", dag_run, "deferred").count("Step toy: RUNNING") > times
