"""On Kubeflow Pipelines: one run for each scheduled run of a task, in a real Airflow, whatever is killed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from airflow_stack import RealAirflow
from kfp_api import Fault, Reset, Status, Truncated
from kubeflow_cluster import Cluster

TOY = """
import time
from datetime import timedelta
from functools import cached_property
from pathlib import Path

from airflow.sdk import DAG
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.operators.kubeflow import KubeflowComponentOperator


class ToyHook(KubeflowPipelinesHook):
    def submit(self, request):
        self.reach("before_post")
        run_id = super().submit(request)
        self.reach("after_post")
        return run_id


class Toy(KubeflowComponentOperator):
    '''Waits at a point, the first time that it gets there, until it is killed.'''

    def __init__(self, *, stop_at="", **kwargs):
        super().__init__(component={spec!r}, **kwargs)
        self.stop_at = stop_at

    def reach(self, point):
        ti = self._context["ti"]
        mark = Path({marks!r}, f"{{ti.dag_id}}.{{ti.task_id}}.{{ti.map_index}}")
        if point == self.stop_at and not mark.exists():
            mark.touch()
            time.sleep(600)

    @cached_property
    def hook(self):
        hook = ToyHook(self.kubeflow_conn_id)
        hook.reach = self.reach
        return hook

    def make(self, context):
        self.reach("before_intent")
        return super().make(context)

    def defer(self, **kwargs):
        self.reach("before_defer")
        super().defer(**kwargs)

    def execute_complete(self, context, event):
        self._context = context
        self.reach("resumed")
        return super().execute_complete(context, event)

    def outcome(self, context, run):
        value = super().outcome(context, run)
        self.reach("before_return")
        return value


defaults = dict(
    kubeflow_conn_id="kubeflow_cluster",
    poll_interval=1,
    retries=1,
    retry_delay=timedelta(seconds=1),
)
"""

KILLED = """
with DAG("killed", schedule=None, default_args=defaults):
    Toy(task_id="undisturbed")
    for deferrable, suffix in ((True, ""), (False, "_in_sync")):
        for point in ("before_post", "after_post", "before_return"):
            Toy(task_id=point + suffix, stop_at=point, deferrable=deferrable)
    for point in ("before_intent", "before_defer", "resumed"):
        Toy(task_id=point, stop_at=point)
    ending = "{{ 'crash' if ti.try_number == 1 else 'well' }}"
    Toy(task_id="failed_meanwhile", stop_at="after_post", arguments={"ending": ending})
    Toy(task_id="while_waiting", deferrable=False, arguments={"seconds": 3600})
    Toy.partial(task_id="mapped", stop_at="after_post").expand(arguments=[{"text": "a" * n} for n in (1, 2, 3)])

for answered in ("lost", "late"):
    with DAG(f"killed_in_post_{answered}", schedule=None, default_args=defaults):
        Toy(task_id="toy")
"""

AGAIN = """
with DAG("again", schedule=None, default_args=defaults):
    Toy(task_id="cleared")
    Toy.partial(task_id="mapped").expand(arguments=[{"text": "a" * n} for n in (1, 2, 3)])
    ending = "{{ 'crash' if ti.try_number == 1 else 'well' }}"
    Toy(task_id="failing", arguments={"ending": ending})
"""

OUTAGE = """
with DAG("outage", schedule=None, default_args={**defaults, "retries": 0}):
    Toy(task_id="deferred", arguments={"seconds": 3600})
    Toy(task_id="in_sync", arguments={"seconds": 3600}, deferrable=False)
    Toy.partial(task_id="mapped").expand(arguments=[{"text": "a" * n, "seconds": 3600} for n in (1, 2, 3)])
"""


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with a file for each task that has got to the point where it waits to be killed."""
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def airflow(real_airflow: RealAirflow, toy_spec: Path, marks: Path) -> RealAirflow:
    toy = TOY.format(spec=str(toy_spec), marks=str(marks))
    for dag_id, tasks in (("killed", KILLED), ("again", AGAIN), ("outage", OUTAGE)):
        (real_airflow.stack.dags_folder / f"{dag_id}.py").write_text(toy + tasks)
    for dag_id in ("killed", "again", "outage"):
        real_airflow.api.wait_for_dag(dag_id)
    return real_airflow


def without_ids(value: Any) -> Any:
    """The value with every random id, of runs and of attempts of steps, replaced."""
    return json.loads(re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", json.dumps(value)))


def test_worker_killed_at_any_point_is_followed_by_one_that_brings_the_same_outcome(
    airflow: RealAirflow, cluster: Cluster, marks: Path
) -> None:
    dag_runs = {}
    for answered, after_effect in (("lost", False), ("late", True)):
        dag_id = f"killed_in_post_{answered}"
        with cluster.held_post(after_effect=after_effect) as held:
            dag_runs[dag_id] = airflow.trigger(dag_id)
            airflow.wait_until(held.is_set, "the request for a run")
            airflow.kill_task(dag_id, dag_runs[dag_id], "toy")
        assert cluster.runs(dag_id).keys() == ({"toy"} if after_effect else set())

    dag_run = dag_runs["killed"] = airflow.trigger("killed")
    task_ids = {ti["task_id"] for ti in airflow.api.task_instances("killed", dag_run)}
    stopped = sorted(task_ids - {"undisturbed", "while_waiting", "mapped", "failed_meanwhile"})
    victims = [
        *((task_id, -1) for task_id in (*stopped, "failed_meanwhile")),
        *(("mapped", index) for index in range(3)),
    ]
    waiting = {f"killed.{task_id}.{index}" for task_id, index in victims}
    airflow.wait_until(
        lambda: (
            {path.name for path in marks.iterdir()} >= waiting and "while_waiting" in cluster.runs("killed")
        ),
        "every task to be where it is to be killed",
        describe=lambda: waiting - {path.name for path in marks.iterdir()},
    )
    for task_id, index in [*victims, ("while_waiting", -1)]:
        airflow.kill_task("killed", dag_run, task_id, index)
    (run_id,) = cluster.runs("killed")["while_waiting"]
    cluster.finish(run_id)

    assert {dag_id: airflow.wait(dag_id, run) for dag_id, run in dag_runs.items()} == dict.fromkeys(
        dag_runs, "success"
    )
    made = {dag_id: cluster.runs(dag_id) for dag_id in dag_runs}
    expected = airflow.xcoms("killed", dag_run, "undisturbed")
    links = airflow.links("killed", dag_run, "undisturbed")
    assert expected["return_value"]["run_id"] == made["killed"]["undisturbed"][0]
    assert links == {"Pipeline run": expected["run_url"]}
    for dag_id, task_id in [
        ("killed_in_post_lost", "toy"),
        ("killed_in_post_late", "toy"),
        *(("killed", task_id) for task_id in (*stopped, "while_waiting")),
    ]:
        where = f"{dag_id}.{task_id}"
        (only,) = made[dag_id][task_id]
        xcoms = airflow.xcoms(dag_id, dag_runs[dag_id], task_id)
        assert without_ids(xcoms) == without_ids(expected), where
        assert xcoms["return_value"]["run_id"] == only, where
        assert without_ids(airflow.links(dag_id, dag_runs[dag_id], task_id)) == without_ids(links), where
        assert airflow.task(dag_id, dag_runs[dag_id], task_id)["try_number"] == 2, where
    for index in range(3):
        (only,) = made["killed"][f"mapped[{index}]"]
        value = airflow.xcoms("killed", dag_run, "mapped", index)["return_value"]
        assert (value["run_id"], value["metrics"]) == (only, {"length": index + 1})
    failed, only = made["killed"]["failed_meanwhile"]
    assert [cluster.state(failed), cluster.state(only)] == ["FAILED", "SUCCEEDED"]
    assert airflow.xcom("killed", dag_run, "failed_meanwhile")["run_id"] == only
    assert len(made["killed"]) == len(task_ids) + 2  # of the mapped task three
    assert cluster.terminated() == []


def test_clearing_a_finished_task_and_retrying_a_failed_run_each_make_one_new_run(
    airflow: RealAirflow, cluster: Cluster
) -> None:
    dag_run = airflow.trigger("again")
    assert airflow.wait("again", dag_run) == "success"
    first = cluster.runs("again")
    assert {task: len(runs) for task, runs in first.items()} == {
        "cleared": 1,
        "failing": 2,
        "mapped[0]": 1,
        "mapped[1]": 1,
        "mapped[2]": 1,
    }
    failed, good = first["failing"]
    assert [cluster.state(failed), cluster.state(good)] == ["FAILED", "SUCCEEDED"]
    assert airflow.xcom("again", dag_run, "failing")["run_id"] == good

    airflow.clear("again", dag_run, "cleared", "mapped")
    airflow.wait_until(lambda: sum(map(len, cluster.runs("again").values())) == 10, "four new runs")
    assert airflow.wait("again", dag_run) == "success"
    second = cluster.runs("again")
    assert second["failing"] == first["failing"]
    (_, new) = second["cleared"]
    assert airflow.xcom("again", dag_run, "cleared")["run_id"] == new
    for index in range(3):
        (_, new) = second[f"mapped[{index}]"]
        value = airflow.xcoms("again", dag_run, "mapped", index)["return_value"]
        assert (value["run_id"], value["metrics"]) == (new, {"length": index + 1})
    assert cluster.terminated() == []


def test_outages_while_runs_are_submitted_awaited_and_finished_fail_no_task_and_make_no_second_run(
    airflow: RealAirflow, cluster: Cluster
) -> None:
    faults = cluster.api.faults
    tasks = {"deferred", "in_sync", "mapped[0]", "mapped[1]", "mapped[2]"}
    before: list[Fault] = [Status(503), Status(429, retry_after=1), Reset(), Truncated()]
    after: list[Fault] = [Status(502), Reset(), Truncated()]
    for fault in before:
        faults.add(fault)
    for fault in after:  # the answers to three requests for a run are lost
        faults.add(fault, method="POST", path=r"/runs$", after_effect=True)
    faults.random(0.3, before, seed=1)
    faults.random(0.3, after, seed=2, after_effect=True)

    def unanswered() -> int:
        return airflow.log("outage", dag_run, "in_sync").count("Kubeflow Pipelines does not answer")

    with cluster.api.pause():
        dag_run = airflow.trigger("outage")
        airflow.wait_until(lambda: unanswered() > 0, "a task to find no server")
    airflow.wait_for_task("outage", dag_run, "deferred", "deferred")
    airflow.wait_until(lambda: cluster.runs("outage").keys() == tasks, "every task to have a run")
    with cluster.api.pause():
        for runs in cluster.runs("outage").values():
            for run_id in runs:
                cluster.finish(run_id)
        before_the_second = unanswered()
        airflow.wait_until(lambda: unanswered() > before_the_second, "a second outage")
    assert airflow.wait("outage", dag_run) == "success"
    made = cluster.runs("outage")
    values = {
        "deferred": airflow.xcom("outage", dag_run, "deferred"),
        "in_sync": airflow.xcom("outage", dag_run, "in_sync"),
        **{f"mapped[{i}]": airflow.xcoms("outage", dag_run, "mapped", i)["return_value"] for i in range(3)},
    }
    assert {task: [value["run_id"]] for task, value in values.items()} == made
    answers = {request.status for request in cluster.api.requests}
    assert {0, 200, 429, 502, 503} <= answers
    assert cluster.terminated() == []
