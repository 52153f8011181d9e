"""Canaries in KServe's standard mode, against a cluster that does what KServe's real controllers were recorded to do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from kube_canaries import GATEWAY, FakeGatewayKServe, deployed, weights
from kube_services import REVISION_LABEL, carried_out, recorded, recorded_names

from airflow_provider_llmops.backends.serving.kserve import shifting
from airflow_provider_llmops.backends.serving.kserve.addresses import own_address
from airflow_provider_llmops.backends.serving.kserve.canaries import (
    canary_entry,
    check_canary,
    predictor_name,
    shared_revisions,
)
from airflow_provider_llmops.backends.serving.kserve.cluster import KServeCluster
from airflow_provider_llmops.backends.serving.kserve.gateway import Routes
from airflow_provider_llmops.backends.serving.kserve.reading import ServiceObjects, as_its_own
from airflow_provider_llmops.backends.serving.kserve.rules import on_cluster
from airflow_provider_llmops.backends.serving.kserve.standard import StandardServingBackend
from airflow_provider_llmops.backends.serving.manifest import inference_service
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, RunFailedError

LIMITS = {"limits": {"cpu": "2", "memory": "8Gi"}}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in (("SETTLE_SECONDS", 0.2), ("DRAIN_SECONDS", 0.0), ("_LOOK_SECONDS", 0.02)):
        monkeypatch.setattr(shifting, name, seconds)


@pytest.fixture
def cluster():
    with FakeGatewayKServe() as fake:
        yield fake


@pytest.fixture
def backend(cluster) -> StandardServingBackend:
    from kubernetes.client import ApiClient, Configuration

    configuration = Configuration(host=cluster.url)
    configuration.retries = False
    return StandardServingBackend(KServeCluster(ApiClient(configuration), conn_id="k8s", namespace="team"))


def manifest(version: str = "1", name: str = "chat", **settings) -> dict:
    settings = {"resources": LIMITS, "namespace": "team", **settings}
    return inference_service(name, f"hf://org/model-{version}", **settings)


def serving(backend, version: str = "1") -> str:
    revision = backend.apply(manifest(version))[0].revision
    backend.set_traffic("team", "chat", {revision: 100})
    return revision


def beside(backend, version: str = "2", **settings) -> str:
    return backend.apply(manifest(version, **settings), beside=True)[0].revision


def shares(backend) -> dict[str, int]:
    revisions = backend.get("team", "chat").revisions
    return {name: each.traffic for name, each in revisions.items() if each.traffic}


def promote(backend, revision: str, looks: int = 5) -> int:
    """Give a canary everything; after how many looks that was done."""
    for look in range(1, looks + 1):
        if backend.set_traffic("team", "chat", {revision: 100}, only_if_newer=False).is_settled:
            return look
    raise AssertionError("it never ends")


GATEWAY_CASES = [name for name in recorded_names() if recorded(name).get("routes")]


@pytest.mark.parametrize("case", GATEWAY_CASES)
def test_fake_gives_routes_the_weights_that_the_real_controller_gave(case):
    document = recorded(case)
    (name, _) = sorted(document["routes"])
    ready = {each["name"] for each in document["isvc_status"].get("canaryStatuses") or [] if each["ready"]}
    assert weights(name, document["isvc_spec"], ready) == document["routes"]


@pytest.mark.parametrize("case", ["canary_20_gateway", "canary_starting_gateway"])
def test_address_of_a_revision_is_that_of_the_service_to_which_the_real_routes_lead(case):
    document = recorded(case)
    (name, _) = sorted(document["routes"])
    told = document["isvc_status"]["address"]["url"]
    namespace = told.partition(".")[2].partition(".svc")[0]
    service = {"metadata": {"namespace": namespace, "name": name}, "status": document["isvc_status"]}
    spec = document["isvc_spec"]
    entry = spec["canary"][0]
    for predictor, revision in ((spec["predictor"], "one"), (entry["predictor"], "two")):
        predictor["labels"] = {REVISION_LABEL: revision}
    pod = carried_out("ready_gateway", "one")["pods"][0]
    other = {**pod, "metadata": {**pod["metadata"], "labels": {REVISION_LABEL: "two"}}}
    canary = ServiceObjects(as_its_own({**service, "spec": spec}, entry), pods=[other])
    objects = ServiceObjects({**service, "spec": spec}, pods=[pod], canary=canary)
    assert own_address(objects, "one", lambda: False) == told
    found = own_address(objects, "two", lambda: False)
    names = [f"{name}-predictor", f"{name}-{entry['predictor']['name']}-predictor"]
    assert found == told.replace(names[0], names[1])
    assert {backend for backend, _ in document["routes"][name]} <= set(names)
    for revision, message in (("three", "has no address"), ("two", "has no pod that is ready")):
        with pytest.raises(ConfigurationError, match=message):
            own_address(replace(objects, canary=replace(canary, pods=[])), revision, lambda: False)


@pytest.mark.parametrize("namespace", ["svc", "svc-team", "team"])
def test_address_of_a_revision_has_the_namespace_once(namespace):
    pod = carried_out("ready_gateway", "one")["pods"][0]
    told = f"http://chat-predictor.{namespace}.svc.cluster.local"
    service = {
        "metadata": {"namespace": namespace, "name": "chat"},
        "spec": {"predictor": {"labels": {REVISION_LABEL: "one"}}},
        "status": {"address": {"url": told}},
    }
    assert own_address(ServiceObjects(service, pods=[pod]), "one", lambda: False) == told


DEPLOYED_CASES = [name for name in GATEWAY_CASES if recorded(name)["routes"].get("g")]


# A canary of 0 percent that had pods before kept one, by its autoscaler.
@pytest.mark.parametrize("case", [name for name in DEPLOYED_CASES if name != "canary_0_gateway"])
def test_fake_deploys_what_the_real_controller_deployed(case):
    document = recorded(case)
    found = {each["name"]: each["replicas"] for each in document["deployments"]}
    assert deployed("g", document["isvc_spec"]) == found


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("canary_20_gateway", {"old": ("READY", 80), "new": ("READY", 20)}),
        ("canary_bad_gateway", {"old": ("READY", 100), "new": ("FAILED", 0)}),
        ("canary_0_gateway", {"old": ("READY", 100), "new": ("READY", 0)}),
        ("canary_20_plain_ingress", {"old": ("READY", 100), "new": ("READY", 0)}),
        ("canary_20_no_ingress", {"old": ("READY", 100), "new": ("READY", 0)}),
        ("canary_starting_gateway", {"old": ("READY", 100), "new": ("STARTING", 0)}),
        ("canary_0_with_a_pod_gateway", {"old": ("READY", 100), "new": ("READY", 0)}),
        ("promotion_rolling_gateway", {"new": ("READY", 100), "old": ("READY", 0)}),
        ("promotion_rolled_out_gateway", {"new": ("READY", 100)}),
        ("promotion_0_gateway", {"new": ("READY", 100)}),
    ],
)
def test_recorded_canary_has_the_state_of_its_pods_and_the_share_of_its_routes(case, expected):
    document = recorded(case)
    spec = document["isvc_spec"]
    is_promoted = case.startswith("promotion")
    spec["predictor"]["labels"] = {REVISION_LABEL: "new" if is_promoted else "old"}
    spec["canary"][0]["predictor"]["labels"] = {REVISION_LABEL: "new"}
    name = document["deployments"][0]["name"].split("-")[0]
    whole = {"metadata": {"name": name}, "spec": spec, "status": document["isvc_status"]}
    routes = document.get("routes") or {}
    made = [
        {"metadata": {"generation": 1}, "spec": {"rules": [{"backendRefs": refs}]}}
        for refs in (
            [{"name": backend, "weight": weight} for backend, weight in routes[route]]
            for route in sorted(routes)
        )
    ]

    def behind(of: dict, which: str, *revisions: str) -> ServiceObjects:
        world = carried_out(case, *revisions, which=which)
        return ServiceObjects(of, world["deployment"], world["replica_sets"], world["pods"])

    stable = behind(whole, "predictor", "new" if is_promoted else "old", "old")
    canary = behind(as_its_own(whole, spec["canary"][0]), "canary", "new")
    objects = replace(stable, canary=canary, routes=Routes.read(*made) if made else Routes())
    found = shared_revisions(objects, now=4e9)
    assert {each: (str(seen.state), seen.traffic) for each, seen in found.items()} == expected


@pytest.mark.parametrize("case", [name for name in DEPLOYED_CASES if name.startswith("promotion")])
def test_promotion_leaves_the_canarys_pods_alone_and_no_autoscaler_on_real_controllers(case):
    document = recorded(case)
    assert [each["generation"] for each in document["deployments"][1:]] in ([], [1])
    assert document["autoscalers"] == ["g-predictor"]


def test_canary_starts_beside_what_serves_without_requests(backend, cluster):
    first = serving(backend)
    second = beside(backend)
    entry = cluster.applied[-1]["spec"]["canary"][0]
    assert (entry["trafficPercent"], entry["predictor"]["minReplicas"]) == (0, 1)
    assert cluster.applied[-1]["spec"]["predictor"] == cluster.applied[0]["spec"]["predictor"]
    service = backend.get("team", "chat")
    seen = {name: (str(each.state), each.traffic) for name, each in service.revisions.items()}
    assert seen == {first: ("READY", 100), second: ("READY", 0)}
    assert (service.stable, service.wanted, service.is_settled) == (first, second, True)


def test_share_is_what_the_routes_say_and_never_what_was_asked_for(backend, cluster):
    first, second = serving(backend), beside(backend)
    backend.set_traffic("team", "chat", {second: 20, first: 80})
    assert shares(backend) == {first: 80, second: 20}
    cluster.routes["chat"] = cluster.routes["chat-predictor"] = [["chat-predictor", 1]]
    assert shares(backend) == {first: 100}


def test_share_that_never_comes_to_be_is_an_outage_with_what_is_seen(backend, cluster):
    first, second = serving(backend), beside(backend)
    cluster.is_idle = True
    with pytest.raises(ApiUnavailableError, match=r"not shared out .* chat-predictor 100%"):
        backend.set_traffic("team", "chat", {second: 20, first: 80})


def test_each_revision_has_the_answers_of_its_own_pods(backend, cluster):
    first, second = serving(backend), beside(backend)
    cluster.failing = {"hf://org/model-2"}
    backend.get("team", "chat")
    answered = {
        name: each.answered.error_rate for name, each in backend.get("team", "chat").revisions.items()
    }
    assert answered == {first: 0.0, second: 0.5}


def test_revision_is_asked_through_a_pod_of_its_own(backend, cluster):
    serving(backend)
    second = beside(backend)
    assert backend.ask("team", "chat", second, "Who are you?", 8) == "An answer."
    ((pod, _),) = cluster.proxied
    own = cluster.world[f"chat-{predictor_name(second)}"]["pods"]
    assert pod.partition(":")[0] == own[0]["metadata"]["name"]


def test_canary_that_crashes_has_failed_and_none_of_the_requests(backend, cluster):
    cluster.crashing = {"hf://org/model-2"}
    first, second = serving(backend), beside(backend)
    seen = backend.get("team", "chat").revisions[second]
    assert (str(seen.state), seen.traffic, seen.error) == ("FAILED", 0, "ended with exit code 1.")
    assert backend.withdraw("team", "chat", second) is None
    assert shares(backend) == {first: 100}
    assert "canary" not in cluster.services["chat"]["spec"]
    assert backend.get("team", "chat").revisions[second].is_given_up


def test_no_request_meets_a_service_that_is_gone(backend, cluster):
    first = serving(backend)
    for version in ("2", "3"):
        canary = beside(backend, version)
        backend.set_traffic("team", "chat", {canary: 20, first: 80})
        backend.withdraw("team", "chat", canary)
    last = beside(backend, "4")
    promote(backend, last)
    assert cluster.lost == []
    assert cluster.kept_autoscalers == []


def test_fake_tells_of_a_service_that_is_gone_too_early(backend, cluster):
    """The check above can fail."""
    first, second = serving(backend), beside(backend)
    backend.set_traffic("team", "chat", {second: 20, first: 80})
    backend._cluster.apply(on_cluster(manifest("1")))
    assert cluster.lost == [f"chat-{predictor_name(second)}-predictor"]


def test_canary_becomes_the_stable_revision_in_steps_that_leave_nothing(backend, cluster):
    serving(backend)
    second = beside(backend)
    number = len(cluster.applied)
    assert promote(backend, second) == 2
    steps = [
        (
            sent["spec"]["predictor"]["model"]["storageUri"][-1],
            [entry["trafficPercent"] for entry in sent["spec"].get("canary", [])],
        )
        for sent in cluster.applied[number:]
    ]
    assert steps == [("1", [100]), ("2", [100]), ("2", [0]), ("2", [])]
    service = backend.get("team", "chat")
    assert (service.stable, shares(backend), service.is_settled) == (second, {second: 100}, True)
    assert sorted(cluster.world) == ["chat"]


@pytest.mark.parametrize("writes", [1, 2, 3])
def test_promotion_goes_on_from_wherever_it_was_left(backend, cluster, writes):
    serving(backend)
    second = beside(backend)
    patch, number = cluster._service, len(cluster.applied)

    def dies(method, *rest):
        if method == "PATCH" and len(cluster.applied) - number >= writes:
            return 503, "busy"
        return patch(method, *rest)

    cluster._service = dies
    backend._cluster._ask = unpatient(backend._cluster._ask)
    for _ in range(2):
        with pytest.raises(ApiUnavailableError):
            promote(backend, second)
    cluster._service = patch
    assert shares(backend) == {second: 100}
    assert backend.apply(manifest("2"), beside=True)[0].revision == second
    promote(backend, second)
    assert shares(backend) == {second: 100}
    assert cluster.lost == []


def unpatient(ask):
    return lambda what, call, patience=0.0, **options: ask(what, call, 0.0, **options)


def test_revision_that_is_being_made_the_stable_one_is_not_taken_back(backend, cluster):
    serving(backend)
    second = beside(backend)
    assert not backend.set_traffic("team", "chat", {second: 100}).is_settled
    applied = len(cluster.applied)
    assert backend.withdraw("team", "chat", second) is None
    assert len(cluster.applied) == applied
    assert shares(backend) == {second: 100}


def test_stable_pods_that_fail_in_a_promotion_are_said_while_the_canary_serves(backend, cluster):
    serving(backend)
    second = beside(backend)
    backend.set_traffic("team", "chat", {second: 100})
    world = cluster.world["chat"]
    cluster.crashing = {"hf://org/model-2"}
    canary = dict(cluster.world)
    cluster.reconcile("chat")
    cluster.world |= {key: value for key, value in canary.items() if key != "chat"}
    cluster.routes["chat"] = cluster.routes["chat-predictor"] = [
        ["chat-predictor", 0],
        [f"chat-{predictor_name(second)}-predictor", 100],
    ]
    with pytest.raises(RunFailedError, match=r"stable pods .* fail: ended with exit code 1"):
        backend.set_traffic("team", "chat", {second: 100})
    assert shares(backend) == {second: 100}
    cluster.world["chat"] = world
    promote(backend, second)


def test_promotion_is_rolled_back_to_what_served(backend, cluster):
    first = serving(backend)
    second = beside(backend)
    backend.set_traffic("team", "chat", {second: 100})
    _, is_new = backend.bring_back("team", "chat", first, replacing=second)
    assert is_new
    assert shares(backend) == {second: 100}
    backend.set_traffic("team", "chat", {first: 100})
    assert shares(backend) == {first: 100}
    assert cluster.lost == []


def test_promotion_does_not_undo_a_rollback_that_is_under_way(backend, cluster):
    first = serving(backend)
    second = beside(backend)
    backend.set_traffic("team", "chat", {second: 100})
    backend.bring_back("team", "chat", first, replacing=second)
    applied = len(cluster.applied)
    with pytest.raises(ConfigurationError, match=f"Revision {first} was asked for since canary {second} was"):
        backend.set_traffic("team", "chat", {second: 100}, only_if_newer=False)
    assert len(cluster.applied) == applied
    backend.set_traffic("team", "chat", {first: 100})
    assert shares(backend) == {first: 100}


def test_canary_that_has_crashed_since_its_last_step_is_not_promoted(backend, cluster):
    first, second = serving(backend), beside(backend)
    backend.set_traffic("team", "chat", {second: 50, first: 50})
    cluster.crashing = {"hf://org/model-2"}
    cluster.reconcile("chat")
    applied = len(cluster.applied)
    with pytest.raises(ConfigurationError, match=rf"Canary {second} is FAILED: ended with exit code 1"):
        backend.set_traffic("team", "chat", {second: 100})
    assert len(cluster.applied) == applied


def test_canary_is_rolled_back_without_anything_being_started(backend, cluster):
    first, second = serving(backend), beside(backend)
    backend.set_traffic("team", "chat", {second: 20, first: 80})
    _, is_new = backend.bring_back("team", "chat", first, replacing=second)
    assert not is_new
    assert shares(backend) == {first: 80, second: 20}
    backend.set_traffic("team", "chat", {first: 100})
    backend.give_up("team", "chat", second)
    assert shares(backend) == {first: 100}


def test_canary_that_somebody_has_deleted_is_said_to_be_gone(backend, cluster):
    serving(backend)
    second = beside(backend)
    cluster.services["chat"]["spec"].pop("canary")
    cluster.reconcile("chat")
    seen = backend.get("team", "chat").revisions[second]
    assert (str(seen.state), seen.error) == (
        "STOPPED",
        "Somebody has taken it out of the service's specification.",
    )


def test_retry_finds_the_canary_as_it_is(backend, cluster):
    first, second = serving(backend), beside(backend)
    backend.set_traffic("team", "chat", {second: 20, first: 80})
    revision, is_new = backend.apply(manifest("2"), beside=True)
    assert (revision.revision, is_new) == (second, False)
    assert shares(backend) == {first: 80, second: 20}


@pytest.mark.parametrize("is_beside", [True, False])
def test_second_canary_and_a_deployment_over_one_are_refused(backend, cluster, is_beside):
    serving(backend)
    second = beside(backend)
    applied = len(cluster.applied)
    with pytest.raises(ConfigurationError, match=rf"has a canary: revision {second} with 0% of the requests"):
        backend.apply(manifest("3"), beside=is_beside)
    assert len(cluster.applied) == applied


def test_deployment_over_a_promotion_that_has_stopped_says_how_it_ends(backend, cluster):
    serving(backend)
    second = beside(backend)
    backend.set_traffic("team", "chat", {second: 100})
    with pytest.raises(
        ConfigurationError, match=r"being made the stable one: .* clear that where it has failed"
    ):
        backend.apply(manifest("3"))


def test_nothing_that_serves_is_replaced_by_a_deployment_as_before(backend, cluster):
    backend.apply(manifest(), beside=True)
    assert "canary" not in cluster.applied[-1]["spec"]


def test_newer_model_is_left_alone_by_a_canary(backend, cluster):
    revision = backend.apply(manifest())[0].revision
    backend.set_traffic("team", "chat", {revision: 100}, as_of="2026-02")
    second = beside(backend)
    assert backend.get("team", "chat").as_of == "2026-02"
    backend.set_traffic("team", "chat", {second: 100}, as_of="2026-01")
    assert shares(backend) == {revision: 100}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"enableGatewayApi": False}, r"plain Ingress.*Set enableGatewayApi to true in 'ingress'"),
        ({"disableIngressCreation": True}, "Set disableIngressCreation to false"),
        ({"ingressDomain": "svc.cluster.local"}, "Give ingressDomain another domain"),
        ({"kserveIngressGateway": ""}, "names no Gateway"),
        ({"kserveIngressGateway": "kserve/other"}, "no Gateway kserve/other"),
        (None, "Name the namespace of KServe's controller as kserve_namespace"),
    ],
)
def test_cluster_on_which_a_canary_would_get_nothing_says_what_to_set(backend, cluster, change, text):
    assert backend.reason_not_to_split("team") is None
    assert backend.check().endswith("Traffic can be split.")
    cluster.ingress = None if change is None else {**cluster.ingress, **change}
    assert re.search(text, backend.reason_not_to_split("team"))
    assert re.search(f"Traffic cannot be split here: .*{text}", backend.check())


def test_gateway_that_nothing_programs_is_said(backend, cluster):
    condition = {"type": "Programmed", "status": "Unknown", "message": "Waiting for controller"}
    cluster.gateways[GATEWAY] = {"status": {"conditions": [condition]}}
    assert "does not work (Waiting for controller)" in backend.reason_not_to_split("team")


@pytest.mark.parametrize(
    ("part", "case", "text"),
    [
        ("configmaps", "api: limited: config map of kserve", "get configmaps in namespace 'kserve'"),
        ("gateways", "api: limited: pods", "get gateways.gateway.networking.k8s.io in namespace 'kserve'"),
    ],
)
def test_right_that_is_missing_is_named(backend, cluster, part, case, text):
    cluster.refusals[part] = case
    assert text in backend.reason_not_to_split("team")


def test_right_to_read_routes_is_asked_for(backend, cluster):
    cluster.missing_rights = {("get", "httproutes")}
    assert "may not get httproutes.gateway.networking.k8s.io in namespace 'team'" in backend.check()


def test_right_to_read_answers_is_asked_for_before_a_canary_starts(backend, cluster):
    cluster.missing_rights = {("get", "pods/proxy")}
    assert "may not get pods/proxy in namespace 'team'" in backend.reason_not_to_split("team")


@pytest.mark.parametrize("routes", [{}, {"chat": [["other", 1]], "chat-predictor": [["other", 1]]}])
def test_service_to_which_no_route_leads_gets_no_canary(backend, cluster, routes):
    serving(backend)
    cluster.routes = routes
    applied = len(cluster.applied)
    with pytest.raises(ConfigurationError, match="No route leads to service 'chat'"):
        beside(backend)
    assert len(cluster.applied) == applied


def test_route_that_the_gateway_does_not_take_is_said(backend, cluster):
    serving(backend)
    cluster.taken = {"type": "Accepted", "status": "False", "message": "no matching listener"}
    with pytest.raises(ConfigurationError, match=r"does not take the route .* no matching listener"):
        beside(backend)


def test_service_whose_route_no_gateway_has_taken_gets_no_canary(backend, cluster):
    serving(backend)
    cluster.taken = {"type": "Accepted", "status": "True", "observedGeneration": 0}
    applied = len(cluster.applied)
    with pytest.raises(ConfigurationError, match="No Gateway has taken the routes of service 'chat'"):
        beside(backend)
    assert len(cluster.applied) == applied


@pytest.mark.parametrize(
    ("stable", "new", "text"),
    [
        ({"serviceAccountName": "s3"}, {}, r"hand serviceAccountName .* on to the canary"),
        ({"nodeSelector": {"gpu": "a"}}, {"nodeSelector": {"zone": "b"}}, "hand nodeSelector.gpu"),
        ({"maxReplicas": 3}, {}, "maxReplicas of the service that serves is 3"),
        ({}, {"minReplicas": 2}, "minReplicas of the new revision is 2"),
        ({}, {"storageUris": [{"uri": "hf://a"}]}, "KServe ignores lora_adapters of a canary"),
        ({}, {"logger": {"url": "http://events"}}, "KServe ignores logger of a canary"),
    ],
)
def test_canary_that_would_be_another_than_what_serves_afterwards_is_refused(stable, new, text):
    first, second = on_cluster(manifest("1")), on_cluster(manifest("2"))
    first["spec"]["predictor"] |= stable
    second["spec"]["predictor"] |= new
    with pytest.raises(ConfigurationError, match=text):
        check_canary(first["spec"]["predictor"], second)


def test_what_both_have_is_no_reason():
    first, second = (on_cluster(manifest(version, args={"dtype": version})) for version in ("1", "2"))
    for each in (first, second):
        each["spec"]["predictor"]["serviceAccountName"] = "s3"
    check_canary(first["spec"]["predictor"], second)
    assert canary_entry(second, 7)["trafficPercent"] == 7


@pytest.mark.parametrize(("length", "is_taken"), [(41, True), (42, False)])
def test_longest_name_of_a_service_with_a_canary(length, is_taken):
    first, second = (on_cluster(manifest(version, "a" * length)) for version in ("1", "2"))
    if is_taken:
        check_canary(first["spec"]["predictor"], second)
    else:
        with pytest.raises(ConfigurationError, match="at most 41 characters"):
            check_canary(first["spec"]["predictor"], second)


def test_routes_that_the_gateway_has_not_seen_are_no_evidence():
    def route(generation: int, *backends: tuple[str, int]) -> dict:
        conditions = [{"type": "Accepted", "status": "True", "observedGeneration": 1}]
        refs = [{"name": name, "weight": weight} for name, weight in backends]
        return {
            "metadata": {"generation": generation},
            "spec": {"rules": [{"backendRefs": refs}]},
            "status": {"parents": [{"conditions": conditions}]},
        }

    old, new = route(1, ("a", 80), ("b", 20)), route(2, ("a", 80), ("b", 20))
    wanted = {"a": 80, "b": 20}
    assert Routes.read(old, old).are(wanted)
    assert not Routes.read(new, old).are(wanted)
    assert not Routes.read(old, route(1, ("a", 100))).are(wanted)
    assert not Routes.read(old, None).are(wanted)
    assert Routes.read(None, old) == Routes()
