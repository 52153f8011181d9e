"""Deleting a service: nothing of it is left, and what somebody else deployed stays."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from airflow.sdk.exceptions import TaskDeferred
from attempts import retry
from kserve_deployments import connect, deploy, finished, resumed
from kube_services import FakeKServe

from airflow_provider_llmops.exceptions import ConfigurationError, RunFailedError
from airflow_provider_llmops.operators.delete_service import DeleteServiceOperator

GONE = {"name": "chat", "namespace": "team", "deleted": True}


@pytest.fixture
def cluster(monkeypatch, context):
    connect(monkeypatch, {"kubernetes_conn_id": "cluster"})
    with FakeKServe() as fake:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", fake.connection(namespace="team"))
        fake.plan = ["ready_gateway"]
        deploy("1", context)
        yield fake


def delete(**arguments) -> DeleteServiceOperator:
    return DeleteServiceOperator(
        task_id="delete",
        service_name="chat",
        namespace="team",
        **{"deferrable": False, "poll_interval": 0.05, **arguments},
    )


def test_service_is_deleted_with_its_history_and_once_more_is_no_failure(cluster, context):
    assert finished(delete(), context) == GONE
    assert (cluster.services, cluster.revisions) == ({}, {})
    assert finished(delete(), retry(context)) == {**GONE, "deleted": False}


def test_everything_that_is_left_is_waited_for(cluster, context):
    cluster.finalizers = ["inferenceservice.finalizers"]
    task = delete(deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    scaler = {"metadata": {"name": "chat-predictor"}}

    def go_on() -> None:
        cluster.forget("chat")
        cluster.world["chat"] = {"pods": [], "autoscalers": [scaler]}
        threading.Timer(0.2, cluster.world.clear).start()

    threading.Timer(0.2, go_on).start()
    assert resumed(task, deferred.value, context) == GONE
    assert cluster.world == {}


def test_what_is_left_at_the_deadline_is_named_and_a_retry_waits_on(cluster, context):
    cluster.finalizers = ["inferenceservice.finalizers"]
    (pod, *_) = [item["metadata"]["name"] for item in cluster.world["chat"]["pods"]]
    with pytest.raises(
        RunFailedError, match=r"^The service was not gone within its delete_timeout of 0:00:00"
    ) as failed:
        finished(delete(delete_timeout=timedelta(seconds=0.1)), context)
    assert f"the InferenceService (finalizers: inferenceservice.finalizers), pod {pod}" in str(failed.value)
    cluster.forget("chat")
    cluster.world["chat"] = {"pods": [{"metadata": {"name": "last"}}]}
    with pytest.raises(RunFailedError, match="Left of it: pod last"):
        finished(delete(delete_timeout=timedelta(seconds=0.1)), retry(context))


def test_service_that_somebody_else_deployed_is_left_unless_told_otherwise(cluster, context):
    fields = cluster.services["chat"]["metadata"]["managedFields"]
    fields[0]["manager"] = "kubectl"
    with pytest.raises(
        ConfigurationError, match=r"^Service 'chat' was not deployed by this provider, and is"
    ):
        finished(delete(), context)
    with pytest.raises(ConfigurationError, match="force must be true or false, got the text 'yes'"):
        finished(delete(force="yes"), context)
    assert cluster.services
    assert finished(delete(force=True), context) == GONE


def test_service_that_was_made_anew_meanwhile_is_not_waited_for(cluster, context):
    cluster.finalizers = ["inferenceservice.finalizers"]
    task = delete(deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    cluster.finalizers = []
    cluster.forget("chat")
    cluster.plan = ["ready_gateway"]
    deploy("2", retry(context))
    assert resumed(task, deferred.value, context) == GONE
    assert cluster.services["chat"]


def test_right_that_is_missing_for_what_is_left_is_no_obstacle(cluster, context):
    cluster.refusals["horizontalpodautoscalers"] = "api: limited: pods"
    assert finished(delete(), context) == GONE
