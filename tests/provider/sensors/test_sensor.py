"""The sensor watches runs that something else started."""

from __future__ import annotations

import asyncio
import time

import pytest
from airflow.sdk.exceptions import TaskDeferred
from test_component_operator import events_of
from test_local_backend import finished, request, working

from airflow_provider_llmops.exceptions import ApiUnavailableError, RunCanceledError, RunFailedError
from airflow_provider_llmops.remote.settle import MARGIN_SECONDS
from airflow_provider_llmops.sensors.pipeline_run import PipelineRunSensor
from airflow_provider_llmops.triggers.pipeline_run import PipelineRunTrigger

pytestmark = pytest.mark.usefixtures("connections")


def test_succeeded_run_needs_no_waiting(backend, toy_spec, context):
    run_id = backend.submit(request(toy_spec))
    finished(backend, run_id)
    assert PipelineRunSensor(task_id="wait", run_id=run_id).execute(context) is None


def test_running_run_is_waited_for_in_the_triggerer_and_never_cancelled(backend, toy_spec, context):
    run_id = backend.submit(request(toy_spec, seconds=1))
    sensor = PipelineRunSensor(task_id="wait", run_id=run_id, poke_interval=0.1)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context)
    _, arguments = deferred.value.trigger.serialize()
    trigger = PipelineRunTrigger(**arguments)
    asyncio.run(trigger.on_kill())
    events = asyncio.run(events_of(trigger))
    assert [event.payload["error"] for event in events] == [None]
    assert backend.get(run_id).state.is_successful
    assert sensor.execute_complete(context, events[0].payload) is None


def test_run_that_goes_on_is_never_taken_for_one_that_succeeded(backend, toy_spec, context):
    run_id = backend.submit(request(toy_spec, seconds=60))
    sensor = PipelineRunSensor(task_id="wait", run_id=run_id)
    ended = {"run_id": run_id, "timed_out": False, "error": None, "log_offset": 0}
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute_complete(context, ended)
    assert (deferred.value.trigger.run_id, deferred.value.method_name) == (run_id, "execute_complete")
    with pytest.raises(ApiUnavailableError, match=f"^no rights\nRun {run_id} goes on; a retry reconnects"):
        sensor.execute_complete(context, {**ended, "error": "no rights"})


def test_worker_waits_when_it_is_told_to(backend, toy_spec, context):
    run_id = backend.submit(request(toy_spec, seconds=0.5))
    PipelineRunSensor(task_id="wait", run_id=run_id, deferrable=False, poke_interval=0.1).execute(context)
    assert backend.get(run_id).state.is_successful


def test_failed_and_cancelled_runs_fail_the_sensor(backend, toy_spec, context):
    failed = backend.submit(request(toy_spec, name="failed", ending="crash"))
    finished(backend, failed)
    with pytest.raises(
        RunFailedError, match=r"^RuntimeError: something broke\nStep 'toy' of run .* \(failed\)"
    ):
        PipelineRunSensor(task_id="wait", run_id=failed).execute(context)
    canceled = backend.submit(request(toy_spec, name="canceled", seconds=60))
    working(backend, canceled)
    backend.cancel(canceled)
    with pytest.raises(RunCanceledError, match=r"^The run was cancelled.\nRun .* \(canceled\)"):
        PipelineRunSensor(task_id="wait", run_id=canceled).execute(context)


def test_trigger_does_not_fire_before_airflow_has_seen_the_worker_leave(backend, toy_spec, monkeypatch):
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "2")
    run_id = backend.submit(request(toy_spec))
    finished(backend, run_id)
    trigger = PipelineRunTrigger(kubeflow_conn_id="kubeflow_default", run_id=run_id, poll_interval=0.1)
    started = time.monotonic()
    asyncio.run(events_of(trigger))
    assert 2 + MARGIN_SECONDS <= time.monotonic() - started < 10
