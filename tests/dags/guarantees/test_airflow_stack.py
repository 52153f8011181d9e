"""The fixture itself: what other tests rely on when they say that something happened in a real Airflow."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing

import pytest
from _processes import marked_processes
from airflow_stack import RealAirflow

WAIT_DAG = """
import datetime

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, task


class Wait(BaseOperator):
    def execute(self, context):
        seconds = context["params"]["seconds"]
        self.log.info("deferring for %s s", seconds)
        self.defer(
            trigger=TimeDeltaTrigger(datetime.timedelta(seconds=seconds)), method_name="resume"
        )

    def resume(self, context, event=None):
        return {"resumed": True}


with DAG("waits", schedule=None, params={"seconds": 3}):
    Wait(task_id="wait")
"""

SLEEP_DAG = """
import time

from airflow.sdk import DAG, task

with DAG("sleeps", schedule=None):

    @task(retries=1, retry_delay=0.5)
    def sleep(ti=None):
        if ti.try_number == 1:
            time.sleep(600)
        return ti.try_number

    sleep()
"""


def test_deferred_task_resumes_through_the_triggerer(real_airflow: RealAirflow) -> None:
    real_airflow.add_dag("waits", WAIT_DAG)
    run_id = real_airflow.trigger("waits")
    assert real_airflow.wait_for_task("waits", run_id, "wait", "deferred") == "deferred"
    assert real_airflow.wait("waits", run_id) == "success"
    assert real_airflow.xcom("waits", run_id, "wait") == {"resumed": True}
    assert "deferring for 3 s" in real_airflow.log("waits", run_id, "wait")


def test_deferred_task_survives_a_killed_triggerer(real_airflow: RealAirflow) -> None:
    real_airflow.add_dag("waits", WAIT_DAG)
    run_id = real_airflow.trigger("waits", {"seconds": 5})
    real_airflow.wait_for_task("waits", run_id, "wait", "deferred")
    real_airflow.kill("triggerer")
    real_airflow.restart("triggerer")
    assert real_airflow.wait("waits", run_id) == "success"


def test_killed_task_is_retried(real_airflow: RealAirflow) -> None:
    real_airflow.add_dag("sleeps", SLEEP_DAG)
    run_id = real_airflow.trigger("sleeps")
    real_airflow.wait_for_task("sleeps", run_id, "sleep", "running")
    real_airflow.wait_until(lambda: _kill(real_airflow, run_id), "the task's process")
    assert real_airflow.wait("sleeps", run_id) == "success"
    assert real_airflow.xcom("sleeps", run_id, "sleep") == 2


def test_every_process_of_the_stack_listens_on_loopback_only(real_airflow: RealAirflow) -> None:
    listening = {
        connection.laddr.ip
        for process in marked_processes(real_airflow.stack.directory)
        for connection in process.net_connections("inet")
        if connection.status == "LISTEN"
    }
    assert listening == {"127.0.0.1"}


def _kill(airflow: RealAirflow, run_id: str) -> bool:
    try:
        airflow.kill_task("sleeps", run_id, "sleep")
    except LookupError:
        return False
    return True


def test_database_that_is_busy_for_longer_than_sqlite_waits_by_itself_refuses_nothing(
    real_airflow: RealAirflow,
) -> None:
    if real_airflow.stack.on_postgresql:
        pytest.skip("PostgreSQL has no lock that one of its users could hold for all")
    real_airflow.add_dag("waits", WAIT_DAG)
    started = time.monotonic()
    with closing(
        sqlite3.connect(real_airflow.stack.database, isolation_level=None, check_same_thread=False)
    ) as busy:
        busy.execute("BEGIN IMMEDIATE")
        release = threading.Timer(8, busy.rollback)
        release.start()
        try:
            run_id = real_airflow.api.trigger("waits", {"seconds": 1})
        finally:
            release.join()
    assert time.monotonic() - started > 8
    assert real_airflow.wait("waits", run_id) == "success"
