"""A failing task rolls back what its DAG run has deployed, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from airflow.sdk import DAG, BaseOperator
from attempts import clear, dag_run
from kserve_deployments import connect, deploy, operator, serving
from kube_services import FakeKServe

from airflow_provider_llmops.delivery.as_of import as_of
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.notifications.rollback import RollbackNotifier, roll_back_on_failure


@pytest.fixture
def cluster(monkeypatch):
    connect(monkeypatch, {"kubernetes_conn_id": "cluster"})
    monkeypatch.setattr(
        "airflow_provider_llmops.backends.serving.kserve.standard.StandardServingBackend.poll_interval", 0.05
    )
    with FakeKServe() as fake:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", fake.connection(namespace="team"))
        yield fake


def day(number: int):
    date = datetime(2026, 11, number, tzinfo=UTC)
    return dag_run(run_type="scheduled", data_interval_end=date, logical_date=date, run_after=date)


def deployed(cluster, context, *days: int) -> list[str]:
    """Revisions that DAG runs of these days have deployed."""
    cluster.plan = ["ready_gateway", *["update_good_t12"] * (len(days) - 1)]
    found = []
    for number in days:
        context["dag_run"] = day(number)
        found.append(deploy(str(number), clear(context))["revision"])
    return found


def asked_for(cluster) -> list[str]:
    return [sent["spec"]["predictor"]["labels"]["llmops/revision"] for sent in cluster.applied]


def test_what_the_run_has_deployed_is_rolled_back_and_the_log_says_so(cluster, context, capsys):
    first, second = deployed(cluster, context, 24, 25)
    cluster.plan = ["rollback_image"]
    context["params"] = {"service": "chat"}
    notifier = roll_back_on_failure(service_name="{{ params.service }}", namespace="team")
    assert notifier(context) is None
    assert serving() == {first: 100}
    assert KServeHook().get_service("chat", "team").revisions[second].is_given_up
    assert (
        f"Service chat serves revision {first} again; {second} was rolled back, and is given up"
        in capsys.readouterr().out
    )
    notifier(context)
    assert asked_for(cluster) == [first, second, first]
    assert f"is left as it is: revision {first} was not deployed by this DAG run" in capsys.readouterr().out


def test_service_of_another_run_is_left_alone(cluster, context, capsys):
    first, second = deployed(cluster, context, 24, 25)
    context["dag_run"] = day(26)  # whose deployment has failed, and has given its revision up itself
    RollbackNotifier(service_name="chat", namespace="team")(context)
    assert asked_for(cluster) == [first, second]
    assert f"revision {second} was not deployed by this DAG run" in capsys.readouterr().out


def test_deployment_whose_worker_was_killed_is_rolled_back(cluster, context):
    (first,) = deployed(cluster, context, 24)
    context["dag_run"] = day(25)
    KServeHook().backend.apply(operator("25").manifest(), as_of=as_of(context))
    cluster.becomes("chat", "update_crash_t45")
    cluster.plan = ["rollback_image"]
    RollbackNotifier(service_name="chat", namespace="team")(context)
    assert asked_for(cluster)[-1] == first
    assert serving() == {first: 100}


def test_rollback_that_fails_is_told_and_never_raised(cluster, context, capsys):
    deployed(cluster, context, 25)
    RollbackNotifier(service_name="chat", namespace="team")(context)
    assert "Service team/chat was not rolled back: There is no good revision" in capsys.readouterr().out
    RollbackNotifier(service_name="other", namespace="team")(context)
    assert (
        "Service team/other was not rolled back: There is no service of this name" in capsys.readouterr().out
    )
    RollbackNotifier(service_name="chat", namespace="team", kserve_conn_id="none_such")(context)
    assert "Service team/chat was not rolled back: " in capsys.readouterr().out
    RollbackNotifier(service_name="chat", namespace="team")({})
    assert "was not deployed by this DAG run" in capsys.readouterr().out


def test_revision_that_takes_longer_than_a_callback_may_is_left_to_kserve(
    cluster, context, capsys, monkeypatch
):
    first, second = deployed(cluster, context, 24, 25)
    monkeypatch.setenv("AIRFLOW__CORE__TASK_SUCCESS_OVERTIME", "5.2")
    cluster.plan = ["update_never_ready_t45"]
    RollbackNotifier(service_name="chat", namespace="team")(context)
    assert asked_for(cluster) == [first, second, first]
    assert f"Revision {first} is not ready yet, and KServe gives it the requests when it is; {second} is" in (
        capsys.readouterr().out
    )
    assert KServeHook().get_service("chat", "team").revisions[second].is_given_up


def test_former_revision_that_crashes_leaves_what_serves(cluster, context, capsys):
    first, second = deployed(cluster, context, 24, 25)
    cluster.plan = ["update_crash_t45", "rollback_image"]
    RollbackNotifier(service_name="chat", namespace="team")(context)
    assert asked_for(cluster) == [first, second, first, second]
    assert (
        "was not rolled back: The former revision failed: ended with exit code 1" in capsys.readouterr().out
    )


def test_airflow_takes_it_for_a_callback():
    with DAG("d", schedule=None):
        task = BaseOperator(task_id="t", on_failure_callback=roll_back_on_failure(service_name="chat"))
    assert [type(each) for each in task.on_failure_callback] == [RollbackNotifier]
