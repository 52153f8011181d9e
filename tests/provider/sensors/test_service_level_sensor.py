"""The sensor for a service level, over what a real Prometheus has answered."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta

import pytest
from airflow.sdk.exceptions import TaskDeferred
from recorded_prometheus import RecordedPrometheus
from test_component_operator import events_of

from airflow_provider_llmops.exceptions import ConfigurationError, QualityGateFailed, RunFailedError
from airflow_provider_llmops.sensors.service_level import ServiceLevelSensor
from airflow_provider_llmops.triggers.service_level import ServiceLevelTrigger


@pytest.fixture
def prometheus(monkeypatch):
    with RecordedPrometheus() as fake:
        connection = {"conn_type": "prometheus", "host": fake.url}
        monkeypatch.setenv("AIRFLOW_CONN_PROMETHEUS_DEFAULT", json.dumps(connection))
        yield fake


def sensor(revision="00002", **arguments):
    """Of a service whose 00002 has 5 percent of errors and a 95th percentile of 4.9 s, and whose 00001 is quick; see the recording."""
    settings = {
        "service_name": "chat",
        "namespace": "team",
        "on_no_data": "fail",
        "max_error_rate": 0.06,
        "max_latency_seconds": 5.0,
        "window": timedelta(seconds=60),
        "prometheus_conn_id": "prometheus_default",
        "prometheus_labels": f'namespace="team", revision="{revision}"',
        "poke_interval": 0.05,
    }
    return ServiceLevelSensor(task_id="level", **{**settings, **arguments})


def deferral(sensor, context, **change):
    """The trigger that a sensor waits with, as the triggerer builds it."""
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context)
    assert deferred.value.method_name == "execute_complete"
    _, arguments = deferred.value.trigger.serialize()
    return ServiceLevelTrigger(**{**json.loads(json.dumps(arguments)), **change})


def fired(trigger):
    (event,) = asyncio.run(asyncio.wait_for(events_of(trigger), 20))
    return event.payload


@pytest.mark.parametrize("deferrable", [True, False])
def test_level_that_is_kept_needs_no_waiting(prometheus, context, deferrable):
    assert sensor(deferrable=deferrable).execute(context) is None
    decision = context["ti"].xcom["decision"]
    assert decision["outcome"] == "pass"
    assert decision["evidence"]["requests"] > 1000
    assert decision["evidence"]["p95_seconds"] == pytest.approx(4.87, rel=0.01)
    asked = prometheus.asked[0]
    assert '{namespace="team", revision="00002"}' in asked["query"]
    assert "[60s]" in asked["query"]
    assert abs(float(asked["time"]) - time.time()) < 20


@pytest.mark.parametrize(
    ("limits", "finding"),
    [
        ({"max_error_rate": "0.04"}, r"5\d of 11\d\d requests failed \(5%\), at most 4% may"),
        (
            {"max_error_rate": "", "max_latency_seconds": "4.5"},
            r"95 percent of the answers took up to 4\.87 s, at most",
        ),
    ],
)
def test_broken_level_fails_for_good_where_it_is_asked_to(prometheus, context, limits, finding):
    with pytest.raises(QualityGateFailed, match=f"^The service does not keep to its level: {finding}"):
        sensor(**limits, on_breach="fail").execute(context)
    assert context["ti"].xcom["decision"]["outcome"] == "fail"
    trigger = deferral(sensor(**limits), context, waits_for_level=False)
    event = fired(trigger)
    with pytest.raises(QualityGateFailed, match=finding):
        sensor(**limits).execute_complete(context, event)


def test_broken_level_is_waited_for_until_it_is_kept(prometheus, context):
    waiting = sensor(max_latency_seconds=1.0)
    trigger = deferral(waiting, context)

    async def run():
        firing = asyncio.ensure_future(events_of(trigger))
        await asyncio.sleep(0.5)
        assert not firing.done()
        slow = dict(prometheus.answers)
        for query in slow:  # what the quick revision has answered
            other = query.replace("00002", "00001")
            if "00002" in query and other in slow:
                prometheus.answers[query] = slow[other]
        return await asyncio.wait_for(firing, 20)

    (event,) = asyncio.run(run())
    assert (event.payload["decision"]["outcome"], event.payload["error"]) == ("pass", None)
    assert waiting.execute_complete(context, event.payload) is None
    assert len(prometheus.asked) > 4


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        ({"revision": "none"}, "Prometheus has no counters of requests and errors"),
        ({"revision": "00003"}, "0 requests in the window, of 50"),
        ({"min_requests": "100000"}, "requests in the window, of 100000"),
    ],
)
def test_no_data_is_what_the_author_says_and_never_a_level_that_is_kept(
    prometheus, context, arguments, finding
):
    trigger = deferral(sensor(**arguments), context)
    assert 50 < trigger.no_data_until - time.time() <= 60  # for a window it may still come
    trigger.no_data_until = time.time()
    event = fired(trigger)
    assert event["decision"]["outcome"] == "undecided"
    with pytest.raises(QualityGateFailed, match=rf"^There is no data to decide on, .*{finding}"):
        sensor(**arguments).execute_complete(context, event)
    assert sensor(**arguments, on_no_data="go_on").execute_complete(context, event) is None
    assert context["ti"].xcom["decision"]["outcome"] == "undecided"
    assert deferral(sensor(**arguments, on_no_data="wait"), context).no_data_until is None


def test_prometheus_that_does_not_answer_is_no_data_and_one_that_refuses_fails(prometheus, context):
    prometheus.refusal = (503, "busy")
    trigger = deferral(sensor(), context)
    trigger.no_data_until = time.time()
    with pytest.raises(QualityGateFailed, match=r"There is no data to decide on, .*HTTP 503"):
        sensor().execute_complete(context, fired(trigger))
    prometheus.refusal = (401, "no")
    with pytest.raises(ConfigurationError, match=r"cannot be watched any more: HTTP 401"):
        sensor().execute_complete(context, fired(trigger))
    with pytest.raises(ConfigurationError, match="HTTP 401"):
        sensor().execute(context)


@pytest.mark.parametrize("on_no_data", ["fail", "go_on"])
def test_one_look_that_is_not_answered_is_no_window_without_data(
    prometheus, context, monkeypatch, on_no_data
):
    waiting = sensor(max_latency_seconds=1.0, on_no_data=on_no_data)  # which is broken all the time
    trigger = deferral(waiting, context)
    watch = trigger.watch(trigger.connect_here(), waiting.log)
    began = trigger.no_data_until + 600

    def look(later):
        monkeypatch.setattr(time, "time", lambda: began + later)
        return watch.look(), watch.decision.outcome

    assert look(0) == (False, "fail")
    prometheus.refusal = (503, "busy")
    assert look(20) == look(59) == (False, "undecided")
    assert look(60) == (True, "undecided")
    assert "HTTP 503" in watch.decision.findings[0]


def test_revision_that_is_lost_fails_the_sensor(context):
    event = {"decision": {}, "lost": "Revision 2 of service chat is STOPPED", "error": None}
    with pytest.raises(RunFailedError, match=r"^Revision 2 of service chat is STOPPED"):
        sensor().execute_complete(context, event)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_no_data": "succeed"}, "on_no_data is one of wait, fail, go_on, got 'succeed'"),
        ({"on_breach": "stop"}, "on_breach is one of wait, fail"),
        ({"max_error_rate": None, "max_latency_seconds": None}, "A service level has a limit"),
        ({"max_error_rate": "much"}, "max_error_rate must be a number, got 'much'"),
        ({"max_error_rate": True}, "max_error_rate must be a number"),
        ({"min_requests": "0"}, "min_requests must be from 1 on"),
        ({"min_requests": "-1"}, "min_requests must be a whole number"),
        ({"prometheus_labels": None}, "as PromQL has them between braces"),
        ({"prometheus_conn_id": None}, "prometheus_labels without prometheus_conn_id"),
        ({"revision": None, "prometheus_labels": 'a="b"} or {c="d"'}, "as PromQL has them between braces"),
        ({"window": timedelta(0)}, "A window of 0 s"),
        ({"poke_interval": 61}, "A window of 60 s and a look every 61 s"),
        ({"deferrable": False, "mode": "reschedule"}, "mode='reschedule' forgets"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_before_anything_is_asked(
    prometheus, context, arguments, message
):
    with pytest.raises(ConfigurationError, match=message):
        sensor(**arguments).execute(context)
    assert prometheus.asked == []


def test_revision_beside_labels_is_refused(prometheus, context):
    refused = sensor()
    refused.revision = "00002"
    with pytest.raises(ConfigurationError, match="leave revision out"):
        refused.execute(context)
