"""Canaries on KServe whose answers are compared by a pipeline on the same cluster: each revision is asked at its own address."""

from __future__ import annotations

import json
import logging
from datetime import timedelta

import certifi
import pytest
from airflow.sdk.exceptions import TaskDeferred
from attempts import clear, retry
from comparisons import comparison, metric
from kserve_deployments import connect, deploy, serving
from test_canary_on_kserve import canary, go_on, to_the_end

from airflow_provider_llmops.delivery.probes import CanaryProbes
from airflow_provider_llmops.exceptions import ConfigurationError, QualityGateFailed
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.kinds.probes import ProbeRuns

PROBES = {
    "dataset": "s3://data/questions.jsonl",
    "min_difference": -0.1,
    "arguments": {"request": {"max_tokens": 8}, "protocol": "v2"},
}


@pytest.fixture
def pipelines(api, tmp_path, monkeypatch):
    """A server of Kubeflow Pipelines, on which comparisons end with what a test wants."""
    extra = {"pipeline_root": f"file://{tmp_path}/root", "patience": 10}
    connection = {"conn_type": "kubeflow", "host": api.url, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_KUBEFLOW_DEFAULT", json.dumps(connection))

    def answer(difference):
        result = {
            "schema_version": 1,
            "component": "compare_revisions",
            "passed": True,
            "findings": [],
            "artifacts": {},
            "metrics": {"rows": 6, "candidate_unanswered": 0},
            "details": {},
            "resources": {},
            "comparison": comparison(rougeL=metric(0.8 + difference, 0.8, rows=6)),
        }

        def carry_out(run):
            place = tmp_path / "root" / "compare-revisions-run" / run["run_id"] / "compare-revisions" / "salt"
            place.mkdir(parents=True)
            (place / "result").write_text(json.dumps(result))
            api.finish(run["run_id"], tasks={"compare-revisions": "SUCCEEDED"})

        api.on_run_created = carry_out

    return answer


def asked(api) -> list[dict]:
    """Whom the comparisons were to ask, one after the other."""
    names = ("url", "revision", "baseline_url", "baseline_revision", "model_name", "protocol")
    runs = sorted(api.runs.values(), key=lambda run: run["created_at"])
    return [{name: run["runtime_config"]["parameters"].get(name) for name in names} for run in runs]


@pytest.mark.parametrize("deferrable", [True, False])
def test_each_revision_is_asked_at_the_address_of_its_own_predictor(
    gateway_kserve, pipelines, api, context, deferrable
):
    deploy("1", context)
    pipelines(0.0)
    facts = to_the_end(canary(probes=PROBES, deferrable=deferrable), clear(context))
    assert serving() == {facts["revision"]: 100}
    own = {
        "url": f"http://chat-c{facts['revision'][:5]}-predictor.team.svc.cluster.local",
        "revision": None,
        "baseline_url": "http://chat-predictor.team.svc.cluster.local",
        "baseline_revision": None,
        "model_name": "chat",
        "protocol": "v2",
    }
    assert asked(api) == [own, own]
    decisions = context["ti"].xcom["decisions"]
    assert [each["outcome"] for each in decisions] == ["pass", "pass"]
    assert decisions[0]["evidence"]["answers"]["rows"] == 6


def test_retry_counts_the_questions_that_the_attempt_before_has_put(gateway_kserve, pipelines, api, context):
    """They are not put again: without users there would be no requests at all."""
    deploy("1", context)
    pipelines(0.0)
    task, steps = canary(probes=PROBES, deferrable=True), []
    for attempt in (clear(context), context):
        with pytest.raises(TaskDeferred) as ready:
            task.execute(attempt)
        with pytest.raises(TaskDeferred) as step:
            go_on(task, ready.value, context)
        steps.append(step.value)
        retry(context)
        task = canary(probes=PROBES, deferrable=True)
    first, again = (each.trigger for each in steps)
    assert first.probe["run_id"] == again.probe["run_id"]
    assert first.since == again.since
    with pytest.raises(TaskDeferred) as following:  # which has questions of its own
        go_on(task, steps[1], context)
    assert following.value.trigger.since != first.since
    assert len(api.runs) == 2


def test_names_of_services_without_an_address_lead_to_the_ports_of_the_pods(
    gateway_kserve, pipelines, api, context
):
    deploy("1", context)
    gateway_kserve.service_settings = {"serviceClusterIPNone": True}
    pipelines(0.0)
    to_the_end(canary(probes=PROBES, steps=[20]), clear(context))
    (found,) = asked(api)
    assert found["url"].endswith("-predictor.team.svc.cluster.local:8080")
    assert found["baseline_url"] == "http://chat-predictor.team.svc.cluster.local:8080"


def test_canary_that_answers_worse_is_taken_back_on_a_cluster(gateway_kserve, pipelines, context):
    first = deploy("1", context)["revision"]
    pipelines(-0.3)
    long = {"step_duration": timedelta(hours=1)}  # a breach does not wait for its end
    with pytest.raises(
        QualityGateFailed,
        match=rf"The canary's answers are worse: rougeL 0\.5 against 0\.8 .* Serving as before: {first}",
    ):
        to_the_end(canary(probes=PROBES, **long), clear(context))
    assert serving() == {first: 100}
    assert gateway_kserve.lost == []


def test_api_key_of_a_service_comes_from_a_secret_or_nothing_is_applied(
    gateway_kserve, pipelines, api, monkeypatch, context
):
    deploy("1", context)
    key = "sk-of-nobody"
    connect(monkeypatch, {"kubernetes_conn_id": "cluster", "ca_file": certifi.where()}, password=key)
    with pytest.raises(
        ConfigurationError, match=r"^The steps of probes need LLMOPS_SERVICE_KEY in their environment"
    ):
        canary(probes=PROBES).execute(clear(context))
    assert len(gateway_kserve.applied) == 1
    secret = {"secrets_as_env": {"team-keys": {"api-key": "LLMOPS_SERVICE_KEY"}}}
    probes = CanaryProbes.of({**PROBES, "step_settings": json.dumps(secret)})
    runs = ProbeRuns(probes, KServeHook(), "chat", logging.getLogger("test"))
    runs.check()
    runs.start(clear(context), "two", "one", 20, lambda name: (f"http://{name}", None))
    (version,) = api.state.versions.values()
    sent = f"{api.runs} {version.spec_text}"
    assert "team-keys" in sent and key not in sent


def test_comparison_that_could_reach_no_revision_is_refused_before_anything_is_applied(
    gateway_kserve, connections, monkeypatch, context
):
    connect(monkeypatch, {"kubernetes_conn_id": "cluster"})
    deploy("1", context)
    with pytest.raises(
        ConfigurationError,
        match=r"^The answers would be compared on this machine \(connection 'kubeflow_default' has no host\)",
    ):
        canary(probes=PROBES).execute(clear(context))
    assert len(gateway_kserve.applied) == 1


def test_service_of_this_machine_is_not_compared_on_a_cluster(connections, monkeypatch, context, api):
    monkeypatch.setenv(
        "AIRFLOW_CONN_KUBEFLOW_DEFAULT",
        json.dumps(
            {"conn_type": "kubeflow", "host": api.url, "extra": {"pipeline_root": "s3://bucket/runs"}}
        ),
    )
    with pytest.raises(
        ConfigurationError, match=r"^The answers would be compared on a cluster .* no pod reaches"
    ):
        canary(probes=PROBES).execute(context)
    assert not api.runs
