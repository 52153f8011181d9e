"""A canary on KServe that keeps its share until somebody has decided: all of the requests, or none."""

from __future__ import annotations

from datetime import timedelta

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferralError, TaskDeferred
from attempts import clear, dag_run, retry
from kserve_deployments import deploy, finished, fired, resumed, serving
from test_canary_on_kserve import canary, roll_back, shared_out, to_the_end

from airflow_provider_llmops.exceptions import ConfigurationError, QualityGateFailed, RunFailedError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.operators.promote import PromoteOperator
from airflow_provider_llmops.sensors.service import ServiceTrafficSensor


@pytest.fixture
def cluster(gateway_kserve):
    return gateway_kserve


@pytest.fixture
def kept(cluster, context):
    """The stable revision, and a canary whose task has ended with half of the requests."""
    first = deploy("1", context)["revision"]
    facts = to_the_end(canary(promote=False), clear(context))
    return first, facts


def promote(**arguments) -> PromoteOperator:
    return PromoteOperator(
        task_id="promote",
        service_name="chat",
        namespace="team",
        poll_interval=0.05,
        **{"deferrable": False, **arguments},
    )


def of_another_task(context):
    """The context of another task of the same run."""
    return {**context, "task_state_store": type(context["task_state_store"])()}


def test_canary_keeps_its_share_when_its_task_ends_and_a_retry_starts_no_other(cluster, context, kept):
    first, facts = kept
    second = facts["revision"]
    assert facts["shares"] == serving() == {first: 50, second: 50}
    assert shared_out(cluster) == [0, 20, 50]
    assert [each["outcome"] for each in context["ti"].xcom["decisions"]] == ["pass", "pass"]
    # Airflow did not learn of it: the last step is judged once more.
    assert to_the_end(canary(promote=False, deferrable=True), retry(context))["shares"] == facts["shares"]
    assert shared_out(cluster) == [0, 20, 50]
    sensor = ServiceTrafficSensor(
        task_id="wait", service_name="chat", namespace="team", revision=second, percent=50, deferrable=False
    )
    assert sensor.execute(context) is None


def test_first_model_of_a_service_has_everything_and_is_promoted_already(cluster, context, capsys):
    facts = to_the_end(canary("1", promote=False), context)
    assert facts["shares"] == {facts["revision"]: 100}
    promoted = finished(promote(revision=facts["revision"]), of_another_task(context))
    assert (promoted["shares"], promoted["replaced"]) == (facts["shares"], None)
    assert len(cluster.applied) == 1
    assert "has all of the requests already, and nothing is changed" in capsys.readouterr().out


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize("is_named", [True, False])
def test_canary_gets_everything_and_becomes_the_stable_revision(cluster, context, kept, deferrable, is_named):
    first, facts = kept
    named = {"revision": facts["revision"]} if is_named else {}
    store = of_another_task(context)
    promoted = finished(promote(deferrable=deferrable, **named), store)
    assert (promoted["revision"], promoted["replaced"]) == (facts["revision"], first)
    assert (
        promoted["shares"]
        == serving()
        == {
            facts["revision"]: 100,
        }
    )
    assert promoted["url"] == cluster.services["chat"]["status"]["url"] == context["ti"].xcom["url"]
    assert "canary" not in cluster.services["chat"]["spec"]
    assert shared_out(cluster) == [0, 20, 50, 100]
    assert cluster.lost == []
    # Airflow did not learn of it.
    sent = len(cluster.applied)
    assert finished(promote(deferrable=deferrable, **named), retry(store)) == promoted
    assert len(cluster.applied) == sent


def test_date_of_the_model_is_the_canarys_whenever_it_is_promoted(cluster, context, kept):
    _, facts = kept
    of_canary = KServeHook().get_service("chat", "team").revisions[facts["revision"]].as_of
    later = dag_run(logical_date=context["dag_run"].logical_date + timedelta(days=9))
    finished(promote(), {**of_another_task(context), "dag_run": later})
    assert KServeHook().get_service("chat", "team").as_of == of_canary


def test_promotion_is_gone_on_with_by_the_next_attempt_and_by_a_cleared_task(cluster, context, kept):
    first, _ = kept
    store = of_another_task(context)
    with pytest.raises(TaskDeferred) as deferred:
        promote(deferrable=True).execute(store)
    assert deferred.value.trigger.watch(KServeHook().backend, promote().log).look() is False
    assert not KServeHook().get_service("chat", "team").is_settled  # and the triggerer dies
    deferred.value.trigger.cancel(KServeHook().backend)  # a person's mark: it is the one that serves
    assert first not in serving()
    facts = finished(promote(), clear(store))
    assert serving() == {facts["revision"]: 100}
    assert "canary" not in cluster.services["chat"]["spec"]


def test_promotion_that_ends_before_it_has_begun_leaves_the_share(cluster, context, kept):
    first, facts = kept
    cluster.taken = {"type": "Accepted", "status": "False", "reason": "NotAllowed"}
    store = of_another_task(context)
    task = promote(deferrable=True, ready_timeout=timedelta(seconds=1.5))
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(store)
    event = fired(deferred.value.trigger)
    assert event["timed_out"]
    assert cluster.services["chat"]["spec"]["canary"][0]["trafficPercent"] == 50
    cluster.taken = {"type": "Accepted", "status": "True", "reason": "Accepted"}
    with pytest.raises(
        RunFailedError,
        match=rf"^Revision {facts['revision']} could not be given all of the requests: It took longer than its ready_timeout of 0:00:01",
    ):
        task.execute_complete(store, event=event)
    assert serving() == {first: 50, facts["revision"]: 50}
    retried = promote(deferrable=True, ready_timeout=timedelta(seconds=30))
    assert finished(retried, retry(store))["shares"] == {facts["revision"]: 100}


@pytest.mark.parametrize("retries", [0, 1])
def test_trigger_that_fails_leaves_the_requests_only_to_an_attempt_that_follows(
    cluster, context, kept, retries
):
    cluster.taken = {
        "type": "Accepted",
        "status": "False",
        "reason": "NotAllowed",
    }  # it does not come to an end
    store = of_another_task(context)
    task = promote(deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(store)
    assert deferred.value.trigger.watch(KServeHook().backend, task.log).look() is False
    assert cluster.services["chat"]["spec"]["canary"][0]["trafficPercent"] == 100
    store["ti"].max_tries = store["ti"].try_number - 1 + retries
    with pytest.raises(TaskDeferralError, match="Trigger failure"):
        promote(deferrable=True).resume_execution("__fail__", {"error": "Trigger failure"}, store)
    share = cluster.services["chat"]["spec"]["canary"][0]["trafficPercent"]
    assert share == (100 if retries else 50)


def test_task_that_a_person_ends_before_the_promotion_gives_the_share_back(cluster, context, kept):
    first, facts = kept
    store = of_another_task(context)
    with pytest.raises(TaskDeferred) as deferred:
        promote(deferrable=True).execute(store)
    KServeHook().backend.set_traffic("team", "chat", {facts["revision"]: 90, first: 10})  # as on its way
    deferred.value.trigger.cancel(KServeHook().backend)
    assert serving() == {first: 50, facts["revision"]: 50}


def test_stable_pods_that_fail_leave_the_canary_with_the_requests(cluster, context, kept):
    _, facts = kept
    store = of_another_task(context)
    task = promote(deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(store)
    deferred.value.trigger.watch(KServeHook().backend, task.log).look()
    cluster.becomes("chat", "update_crash_t45")
    with pytest.raises(RunFailedError, match=r"The stable pods of revision .* fail"):
        resumed(task, deferred.value, store)
    assert serving()[facts["revision"]] == 100
    cluster.reconcile("chat")
    assert finished(promote(), retry(store))["shares"] == {facts["revision"]: 100}


def test_canary_that_is_rolled_back_is_not_promoted_and_its_name_keeps_another_from_it(
    cluster, context, kept
):
    first, facts = kept
    assert roll_back(context) == first
    assert serving() == {first: 100}
    store = of_another_task(context)
    with pytest.raises(
        ConfigurationError,
        match=rf"^Revision {facts['revision']} is STOPPED, and was not given the requests: Revision {first} has replaced it",
    ):
        finished(promote(revision=facts["revision"]), store)
    with pytest.raises(
        ConfigurationError, match=rf"^No canary has any of the requests\. .*{first} \(has 100%"
    ):
        finished(promote(), of_another_task(context))
    assert serving() == {first: 100}


def test_canary_that_is_rolled_back_while_it_is_promoted_is_given_up_by_the_task(cluster, context, kept):
    first, _ = kept
    store = of_another_task(context)
    task = promote(deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(store)
    deferred.value.trigger.watch(KServeHook().backend, task.log).look()
    roll_back(context)
    with pytest.raises(QualityGateFailed, match=r"could not be given all of the requests"):
        resumed(task, deferred.value, store)
    assert serving() == {first: 100}


def test_canary_that_has_failed_since_is_refused(cluster, context, kept):
    first, facts = kept
    cluster.crashing = {"hf://org/model-2"}
    cluster.reconcile("chat")
    with pytest.raises(
        ConfigurationError, match=rf"^Revision {facts['revision']} is FAILED, and was not given"
    ):
        finished(promote(revision=facts["revision"]), of_another_task(context))
    assert serving() == {first: 100}


def test_stable_revision_is_not_promoted_over_its_canary(cluster, context, kept):
    first, facts = kept
    with pytest.raises(
        ConfigurationError, match=rf"^Revision {first} is the stable one, and {facts['revision']} beside it"
    ):
        finished(promote(revision=first), of_another_task(context))
    with pytest.raises(ConfigurationError, match=r"^Service 'chat' has no revision 'nothing'\. It has "):
        finished(promote(revision="nothing"), of_another_task(context))
    assert serving() == {first: 50, facts["revision"]: 50}


def test_deployment_beside_a_canary_that_waits_is_told_what_decides_on_it(cluster, context, kept):
    for task in (deploy, lambda version, context: to_the_end(canary(version), context)):
        with pytest.raises(
            ConfigurationError,
            match=r"where it has, decide on the canary with PromoteOperator, or take it back",
        ):
            task("3", clear(context))
    assert set(serving().values()) == {50}


def test_newer_model_that_serves_is_left_alone(cluster, context):
    newer = dag_run(logical_date=context["dag_run"].logical_date + timedelta(days=9))
    first = deploy("1", {**of_another_task(context), "dag_run": newer})["revision"]
    facts = to_the_end(canary(promote=False, only_if_newer=False), clear(context))
    with pytest.raises(AirflowSkipException, match="has a newer model"):
        finished(promote(), of_another_task(context))
    assert serving() == {first: 50, facts["revision"]: 50}
    with pytest.raises(ConfigurationError, match="only_if_newer must be true or false"):
        finished(promote(only_if_newer="no"), of_another_task(context))
    promoted = finished(promote(only_if_newer=False), of_another_task(context))
    assert promoted["shares"] == {facts["revision"]: 100}


def test_revision_of_digits_that_a_template_has_made_a_number_of_is_found():
    """A DAG of native objects makes one of 0.9 percent of all revisions."""
    assert promote(revision=1234567890).kind._revision == "1234567890"
    assert promote(revision="").kind._revision is None
