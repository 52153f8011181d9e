"""On Kubeflow Trainer: one TrainJob for each scheduled run of a task, in a real Airflow, whatever is killed."""

from __future__ import annotations

import re
from typing import Any

from airflow_stack import RealAirflow
from kube_trainjobs import FakeTrainJobs

DAG = """
from datetime import timedelta

from airflow.sdk import DAG
from airflow_provider_llmops.settings.kubernetes import StepSettings
from airflow_provider_llmops.operators.train_job import TrainJobOperator

training = dict(
    component="train_sft",
    arguments={"dataset": "/mnt/shared/rows.jsonl", "base_model": "/mnt/shared/base"},
    output_path="/mnt/shared/out",
    step_settings=StepSettings(env={"RUN": "{{ run_id }}"}, persistent_volume_claims={"shared": "/mnt/shared"}),
    kubernetes_conn_id="kubernetes_cluster",
)

with DAG("train_jobs", schedule=None):
    for task_id, deferrable in {"deferred": True, "in_sync": False, "marked": True, "marked_in_sync": False}.items():
        TrainJobOperator(
            task_id=task_id,
            deferrable=deferrable,
            poll_interval=1,
            retries=1,
            retry_delay=timedelta(seconds=1),
            **training,
        )

with DAG("no_room", schedule=None):
    TrainJobOperator(task_id="train", poll_interval=300, run_timeout=timedelta(seconds=20), **training)
    TrainJobOperator(task_id="wrong_runtime", runtime="deepspeed-distributed", **training)
"""
TASKS = {"deferred", "in_sync", "marked", "marked_in_sync"}


def test_killed_triggerer_and_worker_leave_one_train_job_and_a_marked_task_leaves_none(
    real_airflow: RealAirflow, train_jobs: FakeTrainJobs
) -> None:
    airflow = real_airflow
    airflow.add_dag("train_jobs", DAG)
    dag_run = airflow.trigger("train_jobs")

    def looks_at(task_id: str, try_number: int = 1) -> int:
        """How often somebody has begun to watch a task's TrainJob."""
        return len(
            re.findall(r"TrainJob \S+ is PENDING", airflow.log("train_jobs", dag_run, task_id, try_number))
        )

    airflow.wait_until(lambda: all(map(looks_at, TASKS)), "every TrainJob to be watched")
    jobs = {job["metadata"]["annotations"]["llmops/task-id"]: job for job in train_jobs.jobs.values()}
    assert jobs.keys() == TASKS
    for job in jobs.values():
        assert {"name": "RUN", "value": dag_run} in job["spec"]["trainer"]["env"]

    marked = {name_of(jobs[task_id]) for task_id in ("marked", "marked_in_sync")}
    for task_id in ("marked", "marked_in_sync"):
        airflow.set_state("train_jobs", dag_run, task_id, "failed")
    airflow.wait_until(
        lambda: deleted_of(train_jobs) == marked, "the TrainJobs of marked tasks to be deleted"
    )

    airflow.kill("triggerer")
    airflow.kill_task("train_jobs", dag_run, "in_sync")
    airflow.restart("triggerer")
    airflow.wait_until(
        lambda: looks_at("deferred") == 2 and looks_at("in_sync", 2) == 1,
        "both TrainJobs to be watched again",
        describe=lambda: airflow.tasks("train_jobs", dag_run),
    )
    for task_id in ("deferred", "in_sync"):
        train_jobs.run(jobs[task_id], 100, loss="0.5")
        train_jobs.complete(jobs[task_id])

    assert airflow.wait("train_jobs", dag_run) == "failed"
    assert airflow.tasks("train_jobs", dag_run) == {
        "deferred": "success",
        "in_sync": "success",
        "marked": "failed",
        "marked_in_sync": "failed",
    }
    assert len(train_jobs.created) == len(TASKS)
    assert deleted_of(train_jobs) == marked
    for task_id in ("deferred", "in_sync"):
        name = name_of(jobs[task_id])
        assert f"TrainJob team/{name} is SUCCEEDED" in airflow.log(
            "train_jobs", dag_run, task_id, 2 if task_id == "in_sync" else 1
        )
        xcoms = airflow.xcoms("train_jobs", dag_run, task_id)
        value = xcoms["return_value"]
        assert (value["namespace"], value["name"], value["state"]) == ("team", name, "SUCCEEDED")
        assert value["artifacts"] == {kind: f"/mnt/shared/out/{name}/{kind}" for kind in ("model", "adapter")}
        assert (xcoms["model"], xcoms["metrics"]) == (value["artifacts"]["model"], {"loss": 0.5})


def name_of(job: dict[str, Any]) -> str:
    return str(job["metadata"]["name"])


def deleted_of(train_jobs: FakeTrainJobs) -> set[str]:
    return {name for _, name, _ in train_jobs.deleted}


def test_quota_that_keeps_pods_from_being_made_is_the_error_and_a_runtime_that_cannot_work_is_refused(
    real_airflow: RealAirflow, train_jobs: FakeTrainJobs
) -> None:
    airflow = real_airflow
    airflow.add_dag("no_room", DAG)
    before = set(train_jobs.jobs)
    dag_run = airflow.trigger("no_room")
    airflow.wait_until(lambda: bool(set(train_jobs.jobs) - before), "the TrainJob to be made")
    ((_, name),) = set(train_jobs.jobs) - before
    job = train_jobs.jobs["team", name]
    train_jobs.accept(job)
    train_jobs.begin(job)
    pod = f'pods "{name}-node-0-0-abcde" is forbidden'
    quota = "exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"
    train_jobs.warn(job, f"Error creating: {pod}: {quota}")

    assert airflow.wait("no_room", dag_run) == "failed"
    assert (
        f"{quota} (Job {name}-node-0: FailedCreate). So the training was not done within its run_timeout of"
        in airflow.log("no_room", dag_run, "train", 1)
    )
    refused = "Runtime 'deepspeed-distributed' starts the training in its job 'launcher'"
    assert refused in airflow.log("no_room", dag_run, "wrong_runtime", 1)
    assert len(set(train_jobs.jobs) - before) == 0
