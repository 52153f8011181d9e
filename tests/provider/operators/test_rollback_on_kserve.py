"""Going back on KServe: the last good revision serves again by its own pods, once, and the bad one never comes back."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import TaskDeferred
from attempts import clear, retry
from kserve_deployments import connect, deploy, finished, operator, resumed, serving
from kube_services import FakeKServe

from airflow_provider_llmops.exceptions import ConfigurationError, RunFailedError, RunNotFoundError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.operators.rollback import RollbackOperator


@pytest.fixture
def cluster(monkeypatch):
    connect(monkeypatch, {"kubernetes_conn_id": "cluster"})
    with FakeKServe() as fake:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", fake.connection(namespace="team"))
        yield fake


def rollback(**arguments) -> RollbackOperator:
    return RollbackOperator(
        task_id="back",
        service_name="chat",
        namespace="team",
        poll_interval=0.05,
        **{"deferrable": False, **arguments},
    )


def deployed(cluster, context, *versions: str) -> list[str]:
    """Revisions that were given the requests one after the other."""
    cluster.plan = ["ready_gateway", *["update_good_t12"] * (len(versions) - 1)]
    return [deploy(version, clear(context))["revision"] for version in versions]


def asked_for(cluster) -> list[str]:
    return [sent["spec"]["predictor"]["labels"]["llmops/revision"] for sent in cluster.applied]


@pytest.mark.parametrize("deferrable", [True, False])
def test_last_good_revision_serves_again_and_what_it_replaced_is_told(cluster, context, deferrable):
    first, second = deployed(cluster, context, "1", "2")
    cluster.plan = ["rollback_image"]
    facts = finished(rollback(deferrable=deferrable), clear(context))
    assert (facts["revision"], facts["replaced"], facts["smoke_answer"]) == (first, second, "An answer.")
    assert facts["url"] == cluster.services["chat"]["status"]["url"] == context["ti"].xcom["url"]
    assert serving() == {first: 100}
    assert asked_for(cluster) == [first, second, first]
    revisions = KServeHook().get_service("chat", "team").revisions
    assert {name: each.is_given_up for name, each in revisions.items()} == {first: False, second: True}


def test_second_rollback_goes_further_back_and_never_to_what_was_rolled_back(cluster, context):
    first, second, third = deployed(cluster, context, "1", "2", "3")
    cluster.plan = ["rollback_image", "rollback_image"]
    assert finished(rollback(), clear(context))["revision"] == second
    assert finished(rollback(), clear(context))["revision"] == first
    with pytest.raises(
        ConfigurationError,
        match=rf"^There is no good revision of service 'chat' to go back to: none has served before {first} and",
    ) as failed:
        finished(rollback(), clear(context))
    for said in (f"{first} (has 100% of the requests)", f"{second} (given up)", f"{third} (given up)"):
        assert said in str(failed.value)
    assert asked_for(cluster) == [first, second, third, second, first]


def test_retry_never_goes_back_twice(cluster, context):
    first, second, third = deployed(cluster, context, "1", "2", "3")
    task = rollback(deferrable=True)
    with pytest.raises(TaskDeferred):
        task.execute(clear(context))  # and the triggerer dies
    cluster.plan = []
    cluster.becomes("chat", "rollback_image")
    assert finished(rollback(deferrable=True), retry(context))["revision"] == second
    # Airflow did not learn of it.
    facts = finished(rollback(deferrable=True), retry(context))
    assert (facts["revision"], facts["replaced"]) == (second, third)
    assert asked_for(cluster) == [first, second, third, second]


def test_worker_that_dies_before_it_asks_has_decided(cluster, context):
    _, second, third = deployed(cluster, context, "1", "2", "3")
    cluster.refusals["PATCH"] = "api: limited: delete"
    with pytest.raises(ConfigurationError):
        finished(rollback(), clear(context))
    cluster.refusals.clear()
    name = context["task_state_store"].get("llmops_run")["name"]
    assert name.partition(" ")[2].partition(" ")[2].startswith(f"{third}>{second}@")
    cluster.plan = ["rollback_image"]
    assert finished(rollback(), retry(context))["revision"] == second


def test_retry_leaves_a_revision_alone_that_was_deployed_since(cluster, context):
    deployed(cluster, context, "1", "2")
    with pytest.raises(TaskDeferred):
        rollback(deferrable=True).execute(clear(context))
    fourth = KServeHook().backend.apply(operator("4").manifest())[0].revision
    with pytest.raises(
        ConfigurationError, match=rf"^Revision {fourth} was asked for since, and nothing was changed"
    ):
        finished(rollback(), retry(context))
    assert asked_for(cluster)[-1] == fourth


def test_deployment_on_its_way_is_rolled_back_to_what_serves(cluster, context):
    (first,) = deployed(cluster, context, "1")
    second = KServeHook().backend.apply(operator("2").manifest())[0].revision
    cluster.becomes("chat", "update_crash_t45")
    cluster.plan = ["rollback_image"]
    facts = finished(rollback(), clear(context))
    assert (facts["revision"], facts["replaced"]) == (first, second)


@pytest.mark.parametrize("deferrable", [True, False])
def test_former_revision_that_crashes_by_now_leaves_what_served(cluster, context, deferrable):
    first, second = deployed(cluster, context, "1", "2")
    cluster.plan = ["update_crash_t45", "rollback_image"]
    with pytest.raises(
        RunFailedError,
        match=rf"^The former revision failed: ended with exit code 1\.+ (Started again: {second}, which|Serving as before: {second} )",
    ):
        finished(rollback(deferrable=deferrable), clear(context))
    assert asked_for(cluster) == [first, second, first, second]
    cluster.becomes("chat", "rollback_image")
    with pytest.raises(ConfigurationError, match=r"^There is no good revision"):
        finished(rollback(), retry(context))
    assert serving() == {second: 100}


def test_former_revision_without_an_answer_leaves_what_served(cluster, context):
    first, second = deployed(cluster, context, "1", "2")
    cluster.plan = ["rollback_image", "update_good_t12"]
    cluster.answers = {"choices": [{"message": {"content": " "}}]}
    with pytest.raises(
        RunFailedError, match=r"^The former revision answered the smoke question with nothing"
    ):
        finished(rollback(), clear(context))
    assert asked_for(cluster) == [first, second, first, second]


def test_rollback_that_a_person_ends_restores_what_served_and_may_be_asked_for_again(cluster, context):
    first, second = deployed(cluster, context, "1", "2")
    with pytest.raises(TaskDeferred) as deferred:
        rollback(deferrable=True).execute(clear(context))
    _, arguments = deferred.value.trigger.serialize()
    type(deferred.value.trigger)(**arguments).cancel(KServeHook().backend)
    assert asked_for(cluster) == [first, second, first, second]
    cluster.becomes("chat", "update_good_t12")
    cluster.plan = ["rollback_image"]
    assert finished(rollback(), clear(context))["revision"] == first


def test_revision_that_is_chosen_comes_back_and_one_that_serves_is_left(cluster, context):
    first, second, third = deployed(cluster, context, "1", "2", "3")
    cluster.plan = ["rollback_image"]
    facts = finished(rollback(to_revision=first), clear(context))
    assert (facts["revision"], facts["replaced"]) == (first, third)
    facts = finished(rollback(to_revision=first), clear(context))
    assert (facts["revision"], facts["replaced"]) == (first, None)
    assert asked_for(cluster) == [first, second, third, first]
    with pytest.raises(ConfigurationError, match=r"^Service 'chat' has no revision 'nothing'\. It has "):
        finished(rollback(to_revision="nothing"), clear(context))


def test_date_of_the_model_is_that_of_what_serves(cluster, context):
    deployed(cluster, context, "1", "2")
    dates = {name: each.as_of for name, each in KServeHook().get_service("chat", "team").revisions.items()}
    cluster.plan = ["rollback_image"]
    facts = finished(rollback(), clear(context))
    assert KServeHook().get_service("chat", "team").as_of == dates[facts["revision"]]


def test_service_that_is_not_there_or_somebody_elses_is_no_place_to_go_back_in(cluster, context):
    with pytest.raises(RunNotFoundError, match="There is no service of this name"):
        finished(rollback(), context)
    deployed(cluster, context, "1", "2")
    del cluster.services["chat"]["spec"]["predictor"]["labels"]
    with pytest.raises(ConfigurationError, match="was changed by somebody else since it was deployed"):
        finished(rollback(), clear(context))


def test_deadline_passes_on_to_the_former_state(cluster, context):
    from datetime import timedelta

    first, second = deployed(cluster, context, "1", "2")
    task = rollback(deferrable=True, ready_timeout=timedelta(seconds=0.2))
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(clear(context))
    with pytest.raises(
        RunFailedError, match=r"^The former revision was not ready within its ready_timeout of 0:00:00"
    ):
        resumed(task, deferred.value, context)
    assert asked_for(cluster) == [first, second, first, second]
