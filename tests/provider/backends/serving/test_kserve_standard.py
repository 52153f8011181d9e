"""Services in KServe's standard mode, through the official client and against what real controllers and a real API server answered."""

from __future__ import annotations

import json

import pytest
from kube_services import FakeKServe

from airflow_provider_llmops.backends.kubernetes.asking import FieldConflictError, ForbiddenError
from airflow_provider_llmops.backends.serving.kserve import standard
from airflow_provider_llmops.backends.serving.kserve.cluster import KServeCluster
from airflow_provider_llmops.backends.serving.kserve.rules import on_cluster, revision_of
from airflow_provider_llmops.backends.serving.kserve.standard import StandardServingBackend
from airflow_provider_llmops.backends.serving.manifest import inference_service
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    LLMOpsError,
    RunNotFoundError,
)

LIMITS = {"limits": {"cpu": "2", "memory": "8Gi"}}


def manifest(version: str = "1", name: str = "chat", **settings) -> dict:
    settings = {"resources": LIMITS, "namespace": "team", **settings}
    return inference_service(name, settings.pop("uri", f"hf://org/model-{version}"), **settings)


@pytest.fixture
def cluster():
    with FakeKServe() as fake:
        yield fake


@pytest.fixture
def backend(cluster) -> StandardServingBackend:
    from kubernetes.client import ApiClient, Configuration

    configuration = Configuration(host=cluster.url)
    configuration.retries = False
    return StandardServingBackend(KServeCluster(ApiClient(configuration), conn_id="k8s", namespace="team"))


def deployed(backend, cluster, version: str, as_of: str | None = None) -> str:
    """A revision that has the traffic."""
    revision = backend.apply(manifest(version))[0].revision
    cluster.becomes("chat", "ready_gateway")
    backend.set_traffic("team", "chat", {revision: 100}, as_of=as_of)
    return revision


def test_service_is_applied_in_standard_mode_with_its_revision_on_the_pods(backend, cluster):
    revision, is_new = backend.apply(manifest(model_digest="sha256:1"))
    (sent,) = cluster.applied
    assert sent["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": "Standard"}
    assert sent["spec"]["predictor"]["labels"] == {"llmops/revision": revision.revision}
    assert sent["spec"]["predictor"]["model"]["resources"] == {**LIMITS, "requests": LIMITS["limits"]}
    assert (str(revision.state), is_new) == ("STARTING", True)


def test_same_manifest_changes_a_service_once(backend, cluster):
    first, _ = backend.apply(manifest(model_digest="sha256:1"))
    second, is_new = backend.apply(manifest(model_digest="sha256:1"))
    assert (second, is_new, len(cluster.applied)) == (first, False, 1)


def test_revision_that_is_ready_is_asked_through_its_own_pod(backend, cluster):
    revision = backend.apply(manifest())[0].revision
    cluster.becomes("chat", "ready_gateway")
    assert str(backend.get("team", "chat").revisions[revision].state) == "READY"
    assert backend.ask("team", "chat", revision, "Who are you?", 8) == "An answer."
    ((pod, body),) = cluster.proxied
    assert pod.endswith(":8080/openai/v1/chat/completions")
    assert body == {
        "model": "chat",
        "max_tokens": 8,
        "messages": [{"role": "user", "content": "Who are you?"}],
    }


@pytest.mark.parametrize(
    "answer", [{"predictions": []}, {"choices": []}, {"choices": [{"message": {"content": None}}]}]
)
def test_pod_that_does_not_answer_as_a_language_model_does(backend, cluster, answer):
    revision = backend.apply(manifest())[0].revision
    cluster.becomes("chat", "ready_gateway")
    cluster.answers = answer
    with pytest.raises(ApiUnavailableError, match="did not answer as a language model does"):
        backend.ask("team", "chat", revision, "Who are you?", 8)


def test_service_is_told_with_the_address_that_its_route_gives_it(backend, cluster, monkeypatch):
    monkeypatch.setattr(standard, "ADDRESS_SECONDS", 0.2)
    monkeypatch.setattr(standard, "ADDRESS_LOOK_SECONDS", 0.02)
    revision = backend.apply(manifest())[0].revision
    cluster.becomes("chat", "gateway_without_controller")
    with pytest.raises(ApiUnavailableError, match=r"has no address after 0\.2 s.*IngressReady"):
        backend.set_traffic("team", "chat", {revision: 100})
    monkeypatch.setattr(standard, "ADDRESS_SECONDS", 30.0)
    monkeypatch.setattr(standard.time, "sleep", lambda _: cluster.becomes("chat", "ready_gateway"))
    assert backend.set_traffic("team", "chat", {revision: 100}).url == "http://g-ks-a.example.com"


def test_revision_without_a_ready_pod_is_not_asked(backend, cluster):
    deployed(backend, cluster, "1")
    second = backend.apply(manifest("2"))[0].revision
    cluster.becomes("chat", "update_crash_t45")
    with pytest.raises(RunNotFoundError, match="No pod of the revision is seen to be ready"):
        backend.ask("team", "chat", second, "Who are you?", 8)
    assert cluster.proxied == []


def test_revision_that_crashes_is_given_up_for_the_one_that_served(backend, cluster):
    first = deployed(backend, cluster, "1", as_of="2026-01")
    second, is_new = backend.apply(manifest("2"))
    cluster.becomes("chat", "update_crash_t45")
    service = backend.get("team", "chat")
    assert is_new
    assert service.as_of == "2026-01"
    seen = {name: (str(each.state), each.traffic, each.error) for name, each in service.revisions.items()}
    assert seen == {first: ("READY", 100, None), second.revision: ("FAILED", 0, "ended with exit code 1.")}
    backend.withdraw("team", "chat", second.revision)
    assert cluster.applied[-1] == cluster.applied[0]
    cluster.becomes("chat", "rollback_image")
    assert backend.get("team", "chat").revisions[first].traffic == 100
    assert str(backend.get("team", "chat").revisions[second.revision].state) == "STOPPED"


def test_first_revision_that_fails_is_stopped_and_may_be_deployed_again(backend, cluster):
    revision = backend.apply(manifest())[0].revision
    cluster.becomes("chat", "first_crash_fast")
    backend.withdraw("team", "chat", revision)
    assert cluster.applied[-1]["metadata"]["annotations"]["serving.kserve.io/stop"] == "true"
    cluster.becomes("chat", "stopped")
    assert str(backend.get("team", "chat").revisions[revision].state) == "STOPPED"
    again, is_new = backend.apply(manifest())
    assert (again.revision, is_new) == (revision, True)
    assert "serving.kserve.io/stop" not in cluster.services["chat"]["metadata"]["annotations"]


def test_revision_that_was_given_the_traffic_is_not_withdrawn(backend, cluster):
    deployed(backend, cluster, "1")
    second = deployed(backend, cluster, "2")
    backend.withdraw("team", "chat", second)
    assert len(cluster.applied) == 2


def test_revision_that_somebody_has_replaced_is_not_withdrawn(backend, cluster):
    first = backend.apply(manifest("1"))[0].revision
    backend.apply(manifest("2"))
    backend.withdraw("team", "chat", first)
    assert len(cluster.applied) == 2


def test_former_revision_that_fails_at_its_second_deployment_is_withdrawn(backend, cluster):
    first, second = deployed(backend, cluster, "1"), deployed(backend, cluster, "2")
    assert backend.apply(manifest("1"))[0].revision == first
    backend.withdraw("team", "chat", first)
    assert revision_of(cluster.applied[-1]) == second


def test_newer_model_keeps_the_traffic(backend, cluster):
    first = deployed(backend, cluster, "1", as_of="2026-01")
    deployed(backend, cluster, "2", as_of="2026-02")
    service = backend.set_traffic("team", "chat", {first: 100}, as_of="2026-01")
    assert service.is_newer_than("2026-01")
    assert len(cluster.applied) == 2


def test_traffic_that_would_be_split_is_refused_by_name(backend, cluster):
    first, second = deployed(backend, cluster, "1"), deployed(backend, cluster, "2")
    with pytest.raises(ConfigurationError, match="cannot be shared out"):
        backend.set_traffic("team", "chat", {first: 80, second: 20})


def test_service_that_was_deleted_is_made_anew_with_no_history(backend, cluster):
    first, _ = backend.apply(manifest())
    backend.delete("team", "chat")
    backend.delete("team", "chat")
    with pytest.raises(RunNotFoundError):
        backend.get("team", "chat")
    again, is_new = backend.apply(manifest())
    assert is_new
    assert again.revision == first.revision
    assert [record["revision"] for record in cluster.revisions.values()] == [1]


def test_last_lines_are_of_the_container_that_failed(backend, cluster):
    revision = backend.apply(manifest())[0].revision
    cluster.becomes("chat", "s3_without_credentials")
    (pod, *_) = [
        pod
        for pod in cluster.world["chat"]["pods"]
        if pod["metadata"]["labels"]["llmops/revision"] == revision
    ]
    cluster.logs[f"{pod['metadata']['name']}/storage-initializer/True"] = "one\ntwo\n"
    assert backend.logs("team", "chat", revision, 5) == ["one", "two"]


def test_field_that_somebody_else_sets_is_named_with_its_owner(backend, cluster):
    cluster.refusals["PATCH"] = "api: apply by another manager without force"
    with pytest.raises(
        FieldConflictError, match=r'^Somebody else sets these fields: conflict with "llmops-airflow" \.spec'
    ):
        backend.apply(manifest())


@pytest.mark.parametrize(
    ("case", "kind", "text"),
    [
        ("admission: no impl", ConfigurationError, "panic"),
        ("admission: min>max", ConfigurationError, "'MinReplicas' cannot be greater than MaxReplicas"),
        ("admission: label 64", ConfigurationError, "must be no more than 63 bytes"),
        ("admission: no namespace", ConfigurationError, 'namespaces "nope" not found'),
        ("api: SSA an unknown field, Strict", ConfigurationError, "field not declared in schema"),
        ("api: limited: delete", ForbiddenError, "cannot delete resource"),
        ("api: bad token", ConfigurationError, "Unauthorized. Renew the connection's credentials"),
    ],
)
def test_refusals_of_a_real_server_are_final(backend, cluster, case, kind, text):
    cluster.refusals["PATCH"] = case
    with pytest.raises(kind, match=text):
        backend.apply(manifest())
    assert sum(method == "PATCH" for method, _ in cluster.requests) == 1


def test_webhook_that_is_down_is_an_outage(backend, cluster):
    cluster.refusals["inferenceservices"] = "api: webhook of KServe is down"
    with pytest.raises(ApiUnavailableError, match="failed calling webhook"):
        backend.check()


def test_what_may_not_be_read_is_said_where_it_is_waited_for(backend, cluster):
    revision = backend.apply(manifest())[0].revision
    cluster.becomes("chat", "update_crash_t45")
    for part in ("/deployments/", "/replicasets", "/pods", "/events"):
        cluster.refusals[part] = "api: limited: pods"
    seen = backend.get("team", "chat").revisions[revision]
    assert str(seen.state) == "STARTING"
    assert seen.error.startswith("More cannot be seen: the connection's user may not read deployments;")


def test_rights_that_are_missing_are_named(backend, cluster):
    expected = "KServe answers through connection 'k8s', with every right in namespace 'team'. Traffic cannot be split here: "
    assert backend.check().startswith(f"{expected}KServe uses a plain Ingress")
    cluster.missing_rights = {("watch", "pods"), ("list", "deployments")}
    each_asks = (
        ". Each task that waits asks for itself, since the user may not list deployments.apps, watch pods. "
    )
    assert backend.check().startswith(expected.replace(". ", each_asks, 1))
    cluster.missing_rights = {("create", "pods/proxy"), ("delete", "inferenceservices")}
    with pytest.raises(
        ConfigurationError,
        match=r"may not delete inferenceservices.serving.kserve.io, create pods/proxy in namespace 'team'",
    ):
        backend.check()


def test_cluster_without_kserve_is_said(backend):
    class Nothing(FakeKServe):
        def _answer(self, *request):
            return 404, "404 page not found\n"

    from kubernetes.client import ApiClient, Configuration

    with Nothing() as fake:
        empty = StandardServingBackend(KServeCluster(ApiClient(Configuration(host=fake.url)), conn_id="k8s"))
        with pytest.raises(ConfigurationError, match=r"does not know .* Install KServe"):
            empty.check()


@pytest.mark.parametrize(
    ("name", "namespace"),
    [("7b", "team"), ("a" * 49, "team"), ("a" * 40, "n" * 13), ("a.b", "team"), ("a-", "team")],
)
def test_name_that_kserve_would_never_deploy_is_refused(name, namespace):
    written = manifest()
    written["metadata"] |= {"name": name, "namespace": namespace}
    with pytest.raises(ConfigurationError, match="KServe cannot deploy a service called"):
        on_cluster(written)


def test_longest_name_is_taken():
    written = manifest()
    written["metadata"] |= {"name": "a" * 48, "namespace": "team"}
    assert on_cluster(written)["metadata"]["name"] == "a" * 48


@pytest.mark.parametrize(
    "uri", ["minio://bucket/x", "models:/name/1", "relative/path", "file:///models/x", "ftp://x/y"]
)
def test_address_that_kserve_cannot_fetch_from_is_refused(uri):
    written = manifest()
    written["spec"]["predictor"]["model"]["storageUri"] = uri
    with pytest.raises(ConfigurationError, match="KServe cannot fetch a model from"):
        on_cluster(written)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("canaryTrafficPercent", 20, "it is ignored"),
        ("name", "v2", "part of the service's address"),
        ("minReplicas", 0, "takes for 1"),
        ("scaleMetric", "concurrency", "is ignored"),
        ("autoScaling", {"metrics": [{"type": "External"}]}, "External in autoScaling .* without KEDA"),
        ("autoScaling", {"behavior": {}}, "behavior in autoScaling .* without KEDA"),
        ("annotations", {"serving.kserve.io/autoscalerClass": "keda"}, "by KEDA, which is not built"),
        ("storageUris", [{"uri": "/models/x"}], "KServe cannot fetch a model from"),
        ("storageUris", [{"uri": "oci://models/x"}], "images beside other addresses are not built"),
    ],
)
def test_what_standard_mode_ignores_is_refused(field, value, text):
    written = manifest()
    written["spec"]["predictor"][field] = value
    with pytest.raises(ConfigurationError, match=text):
        on_cluster(written)


def test_what_a_transformer_is_scaled_by_is_refused_as_well():
    written = manifest(spec_overrides={"transformer": {"scaleMetric": "rps"}})
    with pytest.raises(ConfigurationError, match=r"scaleMetric 'rps' .* is ignored"):
        on_cluster(written)


def test_autoscaling_that_an_annotation_switches_off_is_refused():
    annotation = {"serving.kserve.io/autoscalerClass": "none"}
    on_cluster(manifest(annotations=annotation))
    scaled = manifest(annotations=annotation, max_replicas=2, autoscaling={"metric": "cpu", "target": 50})
    with pytest.raises(
        ConfigurationError, match="autoscaling of service 'chat' is ignored with the annotation"
    ):
        on_cluster(scaled)


def test_each_adapter_is_asked_after_the_model(backend, cluster):
    adapters = {"sql": "hf://org/sql", "law": "s3://models/law"}
    revision = backend.apply(manifest(lora_adapters=adapters))[0].revision
    cluster.becomes("chat", "ready_gateway")
    assert backend.ask("team", "chat", revision, "Who are you?", 8) == "An answer."
    assert [body["model"] for _, body in cluster.proxied] == ["chat", "sql", "law"]
    cluster.answer_codes = [200, 404]
    with pytest.raises(ConfigurationError, match="Adapter 'sql' does not answer"):
        backend.ask("team", "chat", revision, "Who are you?", 8)


def test_canary_of_ones_own_is_refused():
    written = manifest()
    written["spec"]["canary"] = [{"trafficPercent": 5}]
    with pytest.raises(ConfigurationError, match="is written by CanaryOperator"):
        on_cluster(written)


@pytest.mark.parametrize(
    "resources", [None, {"limits": {"cpu": "2"}}, {"requests": {"cpu": "2", "memory": "8Gi"}}]
)
def test_limits_that_kserve_would_set_by_itself_have_to_be_given(resources):
    with pytest.raises(ConfigurationError, match="KServe would allow its container 1 CPU and 2 GiB"):
        on_cluster(manifest(resources=resources))


def test_other_mode_is_refused_as_not_built():
    with pytest.raises(ConfigurationError, match="Deployment mode 'Knative' is not built"):
        on_cluster(manifest(annotations={"serving.kserve.io/deploymentMode": "Knative"}))


def test_every_failure_is_one_of_ours(backend, cluster):
    cluster.refusals["GET"] = "api: bad token"
    for call in (
        lambda: backend.get("team", "chat"),
        lambda: backend.apply(manifest()),
        lambda: backend.withdraw("team", "chat", "x"),
        lambda: backend.logs("team", "chat", "x", 3),
    ):
        with pytest.raises(LLMOpsError):
            call()


def test_revision_goes_back_to_what_serves_though_nobody_has_noted_that(backend, cluster):
    first = backend.apply(manifest("1"))[0].revision  # whose task died before it could say so
    second = backend.apply(manifest("2"))[0].revision
    cluster.becomes("chat", "update_crash_t45")
    assert backend.withdraw("team", "chat", second) == first
    assert revision_of(cluster.applied[-1]) == first


def test_revision_that_has_served_before_and_does_is_left_alone(backend, cluster):
    first = deployed(backend, cluster, "1")
    backend.apply(manifest("2"))
    assert backend.apply(manifest("1"))[1]
    cluster.becomes("chat", "rollback_image")
    assert backend.withdraw("team", "chat", first) is None
    assert revision_of(cluster.applied[-1]) == first


def test_revision_that_was_given_up_is_nothing_to_go_back_to(backend, cluster):
    first = deployed(backend, cluster, "1")
    bad = backend.apply(manifest("2"))[0].revision
    cluster.becomes("chat", "update_crash_t45")
    backend.withdraw("team", "chat", bad)
    cluster.becomes("chat", "rollback_image")
    third = backend.apply(manifest("3"))[0].revision
    cluster.becomes("chat", "first_crash_fast")
    assert backend.withdraw("team", "chat", third) == first


def test_what_somebody_else_deployed_cannot_be_gone_back_to_and_is_said(backend, cluster):
    revision = backend.apply(manifest())[0].revision
    cluster.becomes("chat", "update_crash_t45")  # what serves has a label that nothing is kept of
    with pytest.raises(
        ConfigurationError, match="stays as it is: what served before it, former, was not deployed from here"
    ):
        backend.withdraw("team", "chat", revision)
    assert len(cluster.applied) == 1


def test_service_that_a_person_has_stopped_stays_stopped(backend, cluster):
    deployed(backend, cluster, "1")
    cluster.annotations_of_others["chat"] = {"serving.kserve.io/stop": "true"}
    with pytest.raises(ConfigurationError, match="Somebody has stopped service 'chat'"):
        backend.apply(manifest("2"))


def test_specification_that_was_refused_is_nothing_to_go_back_to(backend, cluster):
    first = backend.apply(manifest("1"))[0].revision
    cluster.refusals["PATCH /apis/serving"] = "api: apply by another manager without force"
    with pytest.raises(FieldConflictError):
        backend.apply(manifest("2"))
    cluster.refusals.clear()
    third = backend.apply(manifest("3"))[0].revision
    cluster.becomes("chat", "first_crash_fast")
    assert backend.withdraw("team", "chat", third) == first


def test_revision_that_was_replaced_is_not_given_the_traffic(backend, cluster):
    second = backend.apply(manifest("2"))[0].revision
    third = backend.apply(manifest("3"))[0].revision
    cluster.becomes("chat", "update_never_ready_t45")
    with pytest.raises(
        ConfigurationError, match=f"not the one that was asked for last: {third} has replaced it"
    ):
        backend.set_traffic("team", "chat", {second: 100})
    with pytest.raises(ConfigurationError, match="has no pod that is ready"):
        backend.set_traffic("team", "chat", {third: 100})


def test_date_of_a_model_counts_from_when_it_is_asked_for(backend, cluster):
    deployed(backend, cluster, "1", as_of="2026-01")
    backend.apply(manifest("2"), as_of="2026-03")
    cluster.becomes("chat", "update_never_ready_t45")
    service = backend.get("team", "chat")
    assert (service.as_of, service.is_newer_than("2026-02")) == ("2026-03", True)


def test_other_weights_at_the_same_address_are_another_revision(backend, cluster):
    first = backend.apply(manifest(model_digest="sha256:1"))[0].revision
    second, is_new = backend.apply(manifest(model_digest="sha256:2"))
    assert (second.revision != first, is_new) == (True, True)
    assert "llmops/model-digest" not in json.dumps(cluster.applied)


def test_service_that_somebody_edited_is_applied_again(backend, cluster):
    deployed(backend, cluster, "1")
    cluster.services["chat"]["spec"]["predictor"]["model"]["storageUri"] = "hf://org/other"
    backend.apply(manifest("1"))
    assert cluster.services["chat"]["spec"]["predictor"]["model"]["storageUri"] == "hf://org/model-1"


def test_pod_for_which_the_cluster_adds_a_node_is_waited_for(backend, cluster):
    revision = backend.apply(manifest())[0].revision
    cluster.becomes("chat", "first_gpu")
    assert str(backend.get("team", "chat").revisions[revision].state) == "FAILED"
    (pod,) = cluster.world["chat"]["pods"]
    cluster.events[pod["metadata"]["name"]] = [{"type": "Normal", "reason": "TriggeredScaleUp"}]
    assert str(backend.get("team", "chat").revisions[revision].state) == "STARTING"


def test_pod_that_was_busy_once_is_asked_again(backend, cluster):
    revision = backend.apply(manifest())[0].revision
    cluster.becomes("chat", "ready_gateway")
    cluster.answer_codes = [503]
    assert backend.ask("team", "chat", revision, "Who are you?", 8) == "An answer."


def test_refusal_of_a_pod_is_said_to_be_the_pods(backend, cluster):
    revision = backend.apply(manifest())[0].revision
    cluster.becomes("chat", "ready_gateway")
    cluster.answer_codes, cluster.answers = [404], {"error": {"message": "no such model"}}
    with pytest.raises(ConfigurationError, match=r"^The pod answered 404: .*no such model"):
        backend.ask("team", "chat", revision, "Who are you?", 8)


def test_records_of_a_former_service_of_the_name_are_not_its_own(backend, cluster):
    cluster.collects_garbage = False  # it comes seconds later
    deployed(backend, cluster, "1", as_of="2026-01")
    backend.delete("team", "chat")
    revision = backend.apply(manifest("2"))[0].revision
    assert list(backend.get("team", "chat").revisions) == [revision]


def test_service_that_is_being_deleted_is_waited_for(backend, cluster):
    backend.apply(manifest())
    cluster.services["chat"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    with pytest.raises(ApiUnavailableError, match="is being deleted"):
        backend.apply(manifest())


def test_first_revision_of_which_nothing_can_be_kept_is_stopped(backend, cluster):
    cluster.refusals["POST /apis/apps"] = "api: limited: pods"
    with pytest.raises(ForbiddenError):
        backend.apply(manifest())
    assert cluster.services["chat"]["metadata"]["annotations"]["serving.kserve.io/stop"] == "true"


def test_ten_specifications_are_kept_and_the_one_that_served_last_is_among_them(backend, cluster):
    first = deployed(backend, cluster, "0")
    for number in range(1, 14):
        backend.apply(manifest(str(number)))
    kept = {item["metadata"]["labels"]["llmops/revision"] for item in cluster.revisions.values()}
    assert (len(kept), first in kept) == (10, True)
