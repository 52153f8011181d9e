"""The sensors for services see what serves, and leave it alone."""

from __future__ import annotations

import asyncio
import json

import pytest
from airflow.sdk.exceptions import TaskDeferred
from kserve_deployments import connect, deploy, fired, operator
from kube_services import FakeKServe

from airflow_provider_llmops.backends.serving.base import Revision, Service
from airflow_provider_llmops.delivery.wanted import WantedService
from airflow_provider_llmops.exceptions import ConfigurationError, RunFailedError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.sensors.service import ServiceReadySensor, ServiceTrafficSensor
from airflow_provider_llmops.states import ServiceState
from airflow_provider_llmops.triggers.service import ServiceTrigger

CHAT = {"task_id": "wait", "service_name": "chat", "namespace": "team", "poke_interval": 0.05}


@pytest.fixture
def cluster(monkeypatch):
    connect(monkeypatch, {"kubernetes_conn_id": "cluster"})
    with FakeKServe() as fake:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", fake.connection(namespace="team"))
        yield fake


def deferral(sensor, context) -> ServiceTrigger:
    """The trigger that a sensor waits with, as the triggerer builds it."""
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context)
    assert deferred.value.method_name == "execute_complete"
    _, arguments = deferred.value.trigger.serialize()
    return ServiceTrigger(**json.loads(json.dumps(arguments)))


def test_service_that_comes_later_is_waited_for_and_needs_no_waiting_then(cluster, context):
    sensor = ServiceReadySensor(**CHAT)
    trigger = deferral(sensor, context)
    cluster.plan = ["ready_gateway"]
    revision = deploy("1", context)["revision"]
    event = fired(trigger)
    assert event == {"error": None}
    assert sensor.execute_complete(context, event) is None
    for each in (
        ServiceReadySensor(**CHAT),
        ServiceReadySensor(**CHAT, revision=revision, deferrable=False),
        ServiceTrafficSensor(**CHAT, revision=revision),
        ServiceTrafficSensor(**CHAT, revision=revision, percent="100", deferrable=False),
    ):
        assert each.execute(context) is None


def test_old_version_that_serves_is_no_evidence_for_the_new_one(cluster, context):
    cluster.plan = ["ready_gateway"]
    first = deploy("1", context)["revision"]
    second = KServeHook().backend.apply(operator("2").manifest())[0].revision
    cluster.becomes("chat", "update_never_ready_t45")
    assert cluster.services["chat"]["status"]["conditions"]
    assert ServiceReadySensor(**CHAT).execute(context) is None
    assert ServiceTrafficSensor(**CHAT, revision=first, percent=100).execute(context) is None
    sensor = ServiceTrafficSensor(**CHAT, revision=second, percent=1)
    trigger = deferral(sensor, context)
    cluster.becomes("chat", "update_crash_t45")
    event = fired(trigger)
    with pytest.raises(
        RunFailedError, match=rf"^Revision {second} of service chat is FAILED: ended with exit code 1\."
    ):
        sensor.execute_complete(context, event)
    before = len(cluster.applied)
    asyncio.run(trigger.on_kill())
    assert len(cluster.applied) == before


@pytest.mark.parametrize(
    ("traffic", "state", "is_reachable", "percent", "expected"),
    [
        (25, "READY", True, 25, True),
        (24, "READY", True, 25, False),
        (100, "READY", False, 25, False),  # nobody listens at the address
        (100, "STARTING", True, 25, False),
        (0, "READY", True, None, True),
        (0, "STARTING", True, None, False),
    ],
)
def test_share_counts_where_the_revision_is_ready_and_reached(
    traffic, state, is_reachable, percent, expected
):
    service = Service(
        name="chat",
        namespace="team",
        url=None,
        revisions={"2": Revision("2", ServiceState(state), traffic=traffic)},
        is_reachable=is_reachable,
    )
    assert WantedService("team", "chat", revision="2", percent=percent).is_met_by(service) is expected


@pytest.mark.parametrize("percent", [0, 101, "half", "", 1.5, True])
def test_share_that_is_none_is_refused_before_anything_is_asked(context, percent):
    with pytest.raises(ConfigurationError, match="percent must be a whole number from 1 to 100, got"):
        ServiceTrafficSensor(**CHAT, revision="2", percent=percent).execute(context)


def test_share_of_no_revision_is_refused(context):
    with pytest.raises(ConfigurationError, match=r"^revision of ServiceTrafficSensor is empty"):
        ServiceTrafficSensor(**CHAT, revision="").execute(context)


def test_cluster_that_refuses_fails_the_sensor(cluster, context):
    trigger = deferral(ServiceReadySensor(**CHAT), context)
    cluster.refusals["GET"] = "api: bad token"
    event = fired(trigger)
    with pytest.raises(ConfigurationError, match="cannot be watched any more"):
        ServiceReadySensor(**CHAT).execute_complete(context, event)
