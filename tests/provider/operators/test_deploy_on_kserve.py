"""Deploying on KServe: what serves is the new revision, or the one before it."""

from __future__ import annotations

import json

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from attempts import retry
from kserve_deployments import connect, deploy, operator, serving
from kube_services import FakeKServe

from airflow_provider_llmops.exceptions import ConfigurationError, RunFailedError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.triggers.service import RevisionReadyTrigger


@pytest.fixture
def cluster(monkeypatch):
    connect(monkeypatch, {"kubernetes_conn_id": "cluster"})
    with FakeKServe() as fake:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", fake.connection(namespace="team"))
        yield fake


@pytest.mark.parametrize("deferrable", [True, False])
def test_revision_that_serves_is_told_with_its_answer(cluster, context, deferrable):
    cluster.plan = ["ready_gateway"]
    facts = deploy("1", context, deferrable=deferrable)
    assert serving() == {facts["revision"]: 100}
    assert (facts["namespace"], facts["smoke_answer"]) == ("team", "An answer.")
    assert facts["url"] == cluster.services["chat"]["status"]["url"]


@pytest.mark.parametrize("deferrable", [True, False])
def test_new_version_that_crashes_while_the_old_one_serves_is_a_failure(cluster, context, deferrable):
    cluster.plan = ["ready_gateway", "update_crash_t45", "rollback_image"]
    first = deploy("1", context)["revision"]
    with pytest.raises(
        RunFailedError,
        match=rf"^The new revision failed: ended with exit code 1\.+ (Started again: {first}, which|Serving as before: {first} )",
    ):
        deploy("2", retry(context), deferrable=deferrable)
    assert cluster.applied[-1] == cluster.applied[0]


def test_new_version_without_an_answer_gives_the_requests_back(cluster, context):
    cluster.plan = ["ready_gateway", "update_good_t12", "rollback_image"]
    first = deploy("1", context)["revision"]
    cluster.answers = {"choices": [{"message": {"content": " "}}]}
    with pytest.raises(RunFailedError, match="answered the smoke question with nothing") as failed:
        deploy("2", retry(context))
    assert f"Started again: {first}, which served before." in str(failed.value)
    assert cluster.applied[-1] == cluster.applied[0]
    cluster.becomes("chat", "rollback_image")
    assert serving() == {first: 100}


def test_first_version_that_fails_is_stopped(cluster, context):
    cluster.plan = ["first_gpu", "stopped"]
    with pytest.raises(
        RunFailedError,
        match=r"^The new revision failed: Unschedulable: .*nvidia.com/gpu\.+ Nothing is serving",
    ):
        deploy("1", context)
    assert cluster.services["chat"]["metadata"]["annotations"]["serving.kserve.io/stop"] == "true"


def test_retry_goes_on_with_the_revision_of_the_attempt_before(cluster, context):
    task = operator("1", deferrable=True)
    with pytest.raises(TaskDeferred):
        task.execute(context)
    cluster.plan = ["ready_gateway"]
    cluster.becomes("chat", "ready_gateway")
    facts = deploy("1", retry(context))
    assert (len(cluster.applied), serving()) == (1, {facts["revision"]: 100})


def test_task_that_is_marked_while_it_waits_leaves_what_served(cluster, context):
    cluster.plan = ["ready_gateway", "update_never_ready_t45", "rollback_image"]
    deploy("1", context)
    task = operator("2", deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(retry(context))
    _, arguments = deferred.value.trigger.serialize()
    RevisionReadyTrigger(**arguments).cancel(KServeHook().backend)  # what a person's mark comes to
    assert cluster.applied[-1] == cluster.applied[0]


def test_same_model_again_changes_nothing(cluster, context):
    cluster.plan = ["ready_gateway"]
    first = deploy("1", context)
    assert deploy("1", retry(context))["revision"] == first["revision"]
    assert len(cluster.applied) == 1


def test_resources_are_wanted_on_a_cluster(cluster, context):
    with pytest.raises(ConfigurationError, match="KServe would allow its container 1 CPU and 2 GiB"):
        deploy("1", context, predictor_resources=None)
    assert cluster.applied == []


@pytest.mark.parametrize("as_text", [True, False])
def test_connection_says_what_services_get_whose_task_says_nothing(cluster, context, monkeypatch, as_text):
    cluster.plan = ["ready_gateway"]
    usual = {"limits": {"cpu": "2", "memory": "3Gi"}}
    extra = {"predictor_resources": json.dumps(usual) if as_text else usual, "service_account": "reader"}
    connect(monkeypatch, {"kubernetes_conn_id": "cluster", **extra})
    deploy("1", context, predictor_resources=None)
    predictor = cluster.applied[-1]["spec"]["predictor"]
    assert (predictor["model"]["resources"]["limits"], predictor["serviceAccountName"]) == (
        usual["limits"],
        "reader",
    )
    own = {"limits": {"cpu": "4", "memory": "5Gi"}}
    manifest = operator("1", predictor_resources=own, service_account="other").manifest()["spec"]["predictor"]
    assert (manifest["model"]["resources"], manifest["serviceAccountName"]) == (own, "other")


def test_gpus_of_a_task_take_the_place_of_the_connections(cluster, monkeypatch):
    usual = {"limits": {"cpu": "2", "memory": "3Gi", "nvidia.com/gpu": "1"}}
    connect(monkeypatch, {"kubernetes_conn_id": "cluster", "predictor_resources": usual})

    def resources(**given):
        return operator("1", predictor_resources=None, **given).manifest()["spec"]["predictor"]["model"][
            "resources"
        ]

    assert resources() == usual
    assert resources(gpus="2") == {"limits": {**usual["limits"], "nvidia.com/gpu": "2"}}
    assert resources(gpus=0) == {"limits": {"cpu": "2", "memory": "3Gi"}}
    with pytest.raises(ConfigurationError, match="gpus and the resources of service 'chat' both say"):
        operator("1", predictor_resources=usual, gpus=1).manifest()


def test_resources_of_the_connection_have_to_be_an_object(cluster, context, monkeypatch):
    connect(monkeypatch, {"kubernetes_conn_id": "cluster", "predictor_resources": "4 CPUs"})
    with pytest.raises(ConfigurationError, match="'predictor_resources' in extra must be an object such as"):
        deploy("1", context, predictor_resources=None)
    assert cluster.applied == []


@pytest.mark.parametrize(
    ("extra", "fields", "text"),
    [
        (
            {"kubernetes_conn_id": "cluster", "python": "/x"},
            {},
            "has a cluster, and python of services on this machine",
        ),
        ({"kubernetes_conn_id": "cluster", "access_file": "/x"}, {}, "has a cluster, and access_file"),
        ({"kubernetes_conn_id": 3}, {}, "must be the id of a connection"),
        (
            {"kserve_namespace": "kubeflow", "kubernetes_conn_id": ""},
            {},
            "'kserve_namespace' in extra, which is of a cluster",
        ),
        ({"service_account": "reader"}, {}, "'service_account' in extra, which is of a cluster"),
        ({}, {"host": "kserve.example.com"}, "names the host 'kserve.example.com'"),
    ],
)
def test_connection_that_means_two_things_is_refused(cluster, monkeypatch, extra, fields, text):
    connect(monkeypatch, extra, **fields)
    with pytest.raises(ConfigurationError, match=text):
        KServeHook().backend  # noqa: B018
    assert KServeHook().test_connection()[0] is False


def test_connection_is_tested_with_its_rights(cluster):
    is_healthy, said = KServeHook().test_connection()
    assert is_healthy
    expected = "KServe answers through connection 'cluster', with every right in namespace 'team'. "
    assert said.startswith(f"{expected}Traffic cannot be split here: KServe uses a plain Ingress")


def test_newer_model_is_left_alone(cluster, context, monkeypatch):
    cluster.plan = ["ready_gateway"]
    first = deploy("1", context)["revision"]
    record = cluster.revisions[f"chat-{first}"]["metadata"]["annotations"]
    record["llmops/as-of"] = "9999-01-01T00:00:00+00:00"
    with pytest.raises(AirflowSkipException, match="has a newer model"):
        deploy("2", retry(context))
    assert len(cluster.applied) == 1


def test_revision_is_given_up_though_its_log_cannot_be_read(cluster, context):
    cluster.plan = ["ready_gateway", "update_bad_image_t45", "rollback_image"]
    deploy("1", context)
    with pytest.raises(RunFailedError, match=r"^The new revision failed: ErrImagePull"):
        deploy("2", retry(context))
    assert any(path.endswith("/log") for _, path in cluster.requests)
    assert cluster.applied[-1] == cluster.applied[0]


def test_trigger_of_a_task_that_only_found_the_revision_gives_nothing_up(cluster, context):
    cluster.plan = ["ready_gateway", "update_never_ready_t45"]
    deploy("1", context)
    task = operator("2", deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(retry(context))
    _, arguments = deferred.value.trigger.serialize()
    RevisionReadyTrigger(**{**arguments, "is_ours": False}).cancel(KServeHook().backend)
    assert len(cluster.applied) == 2


def test_attempt_that_could_not_give_its_revision_up_leaves_it_to_the_next(cluster, context):
    cluster.plan = ["ready_gateway", "update_crash_t45"]
    first = deploy("1", context)["revision"]
    task, attempt = operator("2", deferrable=True), retry(context)
    with pytest.raises(TaskDeferred):
        task.execute(attempt)
    event = {
        "revision": task.kind.rollout.find_service(),
        "state": "FAILED",
        "error": "x",
        "timed_out": False,
    }
    event["revision"] = next(name for name in event["revision"].revisions if name != first)
    cluster.refusals["PATCH"] = "api: limited: delete"
    with pytest.raises(RunFailedError, match="Whether it was given up, and what serves, is not known"):
        task.execute_complete(attempt, event=event)
    cluster.refusals.clear()
    cluster.becomes("chat", "update_crash_t45")
    with pytest.raises(RunFailedError, match=r"Serving as before|Started again"):
        deploy("2", retry(attempt))
    assert cluster.applied[-1] == cluster.applied[0]
