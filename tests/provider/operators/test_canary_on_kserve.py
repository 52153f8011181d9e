"""Canaries on KServe: brought in step by step by the routes' weights, promoted, or taken back, with the same operator as on this machine."""

from __future__ import annotations

from datetime import timedelta

import pytest
from airflow.sdk.exceptions import TaskDeferralError, TaskDeferred
from attempts import clear, retry
from kserve_deployments import LIMITS, deploy, finished, fired, resumed, serving

from airflow_provider_llmops.exceptions import ConfigurationError, QualityGateFailed, RunFailedError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.operators.canary import CanaryOperator
from airflow_provider_llmops.operators.rollback import RollbackOperator


@pytest.fixture
def cluster(gateway_kserve):
    return gateway_kserve


def canary(version: str = "2", **arguments) -> CanaryOperator:
    return CanaryOperator(
        **{
            "task_id": "canary",
            "service_name": "chat",
            "namespace": "team",
            "model": f"hf://org/model-{version}",
            "poll_interval": 0.05,
            "deferrable": False,
            "predictor_resources": LIMITS,
            "steps": [20, 50],
            "step_duration": timedelta(0),
            "max_latency_ratio": None,
            "min_requests": 30,
            **arguments,
        }
    )


def to_the_end(task, context):
    """Run a task, each time that it defers in the triggerer."""
    try:
        return task.execute(context)
    except TaskDeferred as deferred:
        while True:
            try:
                return go_on(task, deferred, context)
            except TaskDeferred as again:
                deferred = again


def go_on(task, deferred, context):
    """Wait in the triggerer, and go on with what Airflow has stored beside the trigger."""
    method = getattr(task, deferred.method_name)
    stored = deferred.kwargs or {}

    class Resumed:
        @staticmethod
        def go(context, event):
            return method(context, event=event, **stored)

    return resumed(Resumed, type("Deferred", (), {"trigger": deferred.trigger, "method_name": "go"}), context)


def shared_out(cluster) -> list[int]:
    """The shares that the canary was given, one after the other."""
    given = [entry["trafficPercent"] for sent in cluster.applied for entry in sent["spec"].get("canary", [])]
    return list(dict.fromkeys(given))


@pytest.mark.parametrize("deferrable", [True, False])
def test_good_canary_gets_more_in_each_step_and_becomes_the_stable_revision(cluster, context, deferrable):
    deploy("1", context)
    facts = to_the_end(canary(deferrable=deferrable), clear(context))
    assert serving() == {facts["revision"]: 100}
    assert shared_out(cluster) == [0, 20, 50, 100]
    assert "canary" not in cluster.services["chat"]["spec"]
    assert [each["outcome"] for each in context["ti"].xcom["decisions"]] == ["pass", "pass"]
    assert cluster.lost == []


def test_canary_with_errors_of_its_own_is_taken_back_with_the_figures(cluster, context):
    first = deploy("1", context)["revision"]
    cluster.failing = {"hf://org/model-2"}
    with pytest.raises(QualityGateFailed, match=rf"requests failed \(50%\).* Serving as before: {first}"):
        to_the_end(canary(), clear(context))
    assert serving() == {first: 100}
    assert cluster.lost == []


def test_canary_that_crashes_never_gets_requests(cluster, context):
    first = deploy("1", context)["revision"]
    cluster.crashing = {"hf://org/model-2"}
    with pytest.raises(RunFailedError, match=rf"ended with exit code 1.* Serving as before: {first}"):
        to_the_end(canary(), clear(context))
    assert shared_out(cluster) == [0]
    assert serving() == {first: 100}


def test_cluster_with_a_plain_ingress_is_refused_before_anything_is_applied(cluster, context):
    deploy("1", context)
    cluster.ingress = {"enableGatewayApi": False}
    with pytest.raises(
        ConfigurationError, match=r"gets? .*none of the requests.*Set enableGatewayApi to true"
    ):
        canary().execute(clear(context))
    assert len(cluster.applied) == 1


def test_first_model_of_a_service_gets_everything(cluster, context):
    facts = to_the_end(canary("1"), context)
    assert serving() == {facts["revision"]: 100}
    assert shared_out(cluster) == []


def test_retry_goes_on_with_the_share_that_the_canary_has(cluster, context):
    deploy("1", context)
    task = canary(deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(clear(context))
    with pytest.raises(TaskDeferred):
        go_on(task, deferred.value, context)
    assert shared_out(cluster) == [0, 20]
    to_the_end(canary(deferrable=True), retry(context))
    assert shared_out(cluster) == [0, 20, 50, 100]


def test_retry_goes_on_with_a_promotion(cluster, context):
    first = deploy("1", context)["revision"]
    task = canary(deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(clear(context))
    while deferred.value.method_name != "promotion_complete":
        with pytest.raises(TaskDeferred) as again:
            go_on(task, deferred.value, context)
        deferred = again
    assert not KServeHook().get_service("chat", "team").is_settled
    deferred.value.trigger.cancel(
        KServeHook().backend
    )  # what a person's mark comes to: it is the one that serves
    assert first not in serving()
    facts = to_the_end(canary(deferrable=True), retry(context))
    assert serving() == {facts["revision"]: 100}
    assert "canary" not in cluster.services["chat"]["spec"]


def test_task_that_is_marked_in_a_step_gives_the_requests_back(cluster, context):
    first = deploy("1", context)["revision"]
    task = canary(deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(clear(context))
    with pytest.raises(TaskDeferred) as step:
        go_on(task, deferred.value, context)
    step.value.trigger.cancel(KServeHook().backend)
    assert serving() == {first: 100}
    assert "canary" not in cluster.services["chat"]["spec"]


@pytest.mark.parametrize("retries", [0, 1])
def test_trigger_that_fails_leaves_the_canary_only_to_an_attempt_that_follows(cluster, context, retries):
    """As when a connection cannot be read while the triggerer is restarted."""
    first = deploy("1", context)["revision"]
    task = canary(deferrable=True)
    with pytest.raises(TaskDeferred) as ready:
        task.execute(clear(context))
    with pytest.raises(TaskDeferred) as step:
        go_on(task, ready.value, context)
    second = step.value.trigger.revision
    context["ti"].max_tries = context["ti"].try_number - 1 + retries
    with pytest.raises(TaskDeferralError, match="Trigger failure"):
        canary(deferrable=True).resume_execution("__fail__", {"error": "Trigger failure"}, context)
    assert serving() == ({first: 80, second: 20} if retries else {first: 100})


def test_canary_that_somebody_deletes_is_given_up(cluster, context):
    first = deploy("1", context)["revision"]
    task = canary(deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(clear(context))
    with pytest.raises(TaskDeferred) as step:
        go_on(task, deferred.value, context)
    cluster.services["chat"]["spec"].pop("canary")
    cluster.reconcile("chat")
    with pytest.raises(QualityGateFailed, match="Somebody has taken it out of the service's specification"):
        go_on(task, step.value, context)
    assert serving() == {first: 100}


def roll_back(context) -> str:
    """Roll the service back by another task; the revision that came back."""
    back = RollbackOperator(
        task_id="back", service_name="chat", namespace="team", poll_interval=0.05, deferrable=False
    )
    facts = finished(back, {**context, "task_state_store": type(context["task_state_store"])()})
    return facts["revision"]


@pytest.mark.parametrize("promoted", [True, False])
def test_rollback_brings_back_what_served_before_a_canary(cluster, context, promoted):
    first = deploy("1", context)["revision"]
    if promoted:
        to_the_end(canary(), clear(context))
    else:
        task = canary(deferrable=True)
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(clear(context))
        with pytest.raises(TaskDeferred):
            go_on(task, deferred.value, context)
    assert roll_back(context) == first
    assert serving() == {first: 100}
    assert "canary" not in cluster.services["chat"]["spec"]


def test_canary_that_is_rolled_back_between_two_steps_is_not_started_again(cluster, context):
    first = deploy("1", context)["revision"]
    task = canary(deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(clear(context))
    with pytest.raises(TaskDeferred) as step:
        go_on(task, deferred.value, context)
    event = fired(step.value.trigger)
    roll_back(context)
    with pytest.raises(QualityGateFailed, match=rf"was given up by somebody else.* as before: {first}"):
        task.step_complete(context, event=event, **step.value.kwargs)
    assert serving() == {first: 100}


@pytest.mark.parametrize("is_deleted", [False, True])
def test_canary_that_is_rolled_back_or_deleted_in_its_promotion_is_not_started_again(
    cluster, context, is_deleted
):
    first = deploy("1", context)["revision"]
    task = canary(deferrable=True, steps=[20])
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(clear(context))
    while deferred.value.method_name != "promotion_complete":
        with pytest.raises(TaskDeferred) as again:
            go_on(task, deferred.value, context)
        deferred = again
    if is_deleted:
        KServeHook().backend.delete("team", "chat")
    else:
        roll_back(context)
    with pytest.raises(QualityGateFailed, match="could not be made the stable one"):
        go_on(task, deferred.value, context)
    assert cluster.services.keys() == (set() if is_deleted else {"chat"})
    if not is_deleted:
        assert serving() == {first: 100}
