"""What is said of a revision, against what KServe's real controllers made of one."""

from __future__ import annotations

import pytest
from kube_services import REVISION_LABEL, carried_out, recorded, recorded_names

from airflow_provider_llmops.backends.serving.base import Revision
from airflow_provider_llmops.backends.serving.kserve.reading import (
    PATIENCE_SECONDS,
    ServiceObjects,
    revisions_of,
)

LATER = 4e9
# 2026-01-01, when all of it happened.
THEN = 1767225600.0
READY = ("READY", 100, None)
NO_MODEL = "The model cannot be fetched: Storage initialization failed: Failed to fetch model. No model found in ks-models/missing."
NO_IMAGE = 'ErrImagePull: failed to pull and unpack image "registry.local/does-not-exist:9": not found.'
# What becomes of the revision that is wanted: state, share of the requests, reason. None: it is about a canary, see test_kserve_canaries.
EXPECTED: dict[str, tuple[str, int, str | None] | None] = {
    "no_runtime": (
        "FAILED",
        0,
        "no runtime found to support predictor with model type: {huggingface <nil>} (InternalError).",
    ),
    "knative_mode_without_knative": (
        "FAILED",
        0,
        "It is not possible to use Knative deployment mode when Knative Services are not available (ServerlessModeRejected).",
    ),
    "s3_without_credentials": (
        "FAILED",
        0,
        "The model cannot be fetched: Storage initialization failed: S3 authentication failed. Set "
        "AWS_ACCESS_KEY_ID/AWS_SECRET_ACCESS_KEY or use awsAnonymousCredential=true.",
    ),
    "ready_plain_ingress": READY,
    "ready_no_ingress": READY,
    "gateway_without_controller": READY,
    "ready_gateway": READY,
    "ready_custom_container_s3": READY,
    "ready_storage_uris": READY,
    "ready_pvc": READY,
    "own_runtime_ready": READY,
    "update_good_before": READY,
    "update_good_t3": READY,
    "update_good_t12": READY,
    "update_bad_image_t3": ("FAILED", 0, NO_IMAGE),
    "update_bad_image_t45": ("FAILED", 0, NO_IMAGE),
    "update_crash_t45": ("FAILED", 0, "ended with exit code 1."),
    "update_oom_t45": ("FAILED", 0, "ended with exit code 137, OOMKilled."),
    "update_gpu_t45": (
        "FAILED",
        0,
        "Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    ),
    "update_store_t12": ("FAILED", 0, NO_MODEL),
    "update_store_t45": ("FAILED", 0, NO_MODEL),
    "update_never_ready_t45": ("STARTING", 0, None),
    "update_never_ready_600s": ("FAILED", 0, "ended with exit code 137, OOMKilled."),
    "rollback_image": READY,
    "rollback_store": READY,
    "recovered_after_kill": READY,
    "first_crash_own_predictor": ("FAILED", 0, "ended with exit code 1."),
    "first_crash_fallback_to_logs": (
        "FAILED",
        0,
        "The predictor failed: Model directory /nope does not exist. Check the path or the step that writes it (exit code 1).",
    ),
    "first_crash_fast": ("FAILED", 0, "ended with exit code 2."),
    "first_gpu": ("FAILED", 0, "Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
    "pvc_missing": (
        "FAILED",
        0,
        'Unschedulable: 0/1 nodes are available: persistentvolumeclaim "nope" not found.',
    ),
    "service_account_missing": (
        "FAILED",
        0,
        'error looking up service account ks-a/nosuch: serviceaccount "nosuch" not found.',
    ),
    "uri_minio": ("FAILED", 0, "StorageURI not supported: storageUri, must be one of: [gs://, s3://,"),
    "uri_relative": (
        "FAILED",
        0,
        "The model cannot be fetched: Unexpected error during storage initialization: Cannot recognize storage type for relative/path",
    ),
    "runtime_unknown": (
        "FAILED",
        0,
        "No ServingRuntimes or ClusterServingRuntimes with the name: nope (InternalError).",
    ),
    "runtime_wrong_format": (
        "FAILED",
        0,
        "specified runtime llmops does not support specified framework/version (InternalError).",
    ),
    "mode_unknown": (
        "FAILED",
        0,
        "fails to create NewRawKubeReconciler for predictor: unsupported deployment mode for workload: Banana.",
    ),
    "container_without_image": (
        "FAILED",
        0,
        'fails to reconcile predictor: Deployment.apps "t-noimg-predictor" is invalid: spec.template.spec.containers[0].image: '
        "Required value.",
    ),
    "limit_below_request": (
        "FAILED",
        0,
        'fails to reconcile predictor: Deployment.apps "t-lim-predictor" is invalid: '
        'spec.template.spec.containers[0].resources.requests: Invalid value: "4": must be less than or equal to cpu limit of 1.',
    ),
    "keda_missing": (
        "FAILED",
        100,
        'fails to reconcile predictor: failed to get existing KEDA autoscaler: no matches for kind "ScaledObject" in version '
        '"keda.sh/v1alpha1".',
    ),
    "logger": (
        "FAILED",
        0,
        'ErrImagePull: failed to pull and unpack image "kserve/agent:latest": not found.',
    ),
    "name_63": ("FAILED", 0, "fails to create NewRawKubeReconciler for predictor: failed creating host name"),
    "quota_create": ("FAILED", 0, "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1."),
    "quota_update": ("FAILED", 0, "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1."),
    "min_replicas_0": READY,
    "stopped": ("STOPPED", 0, "The service is stopped."),
    "started_again": READY,
    "canary_traffic_percent": READY,
    "canary_20_gateway": None,
    "canary_bad_gateway": None,
    "canary_0_gateway": None,
    "canary_rolled_back": READY,
    "promotion_done_gateway": READY,
    "canary_starting_gateway": None,
    "canary_0_with_a_pod_gateway": None,
    "promotion_rolling_gateway": None,
    "promotion_rolled_out_gateway": None,
    "promotion_0_gateway": None,
    "promoted": READY,
    "canary_20_plain_ingress": None,
    "canary_20_no_ingress": None,
}
OLD_SERVES = {name for name in EXPECTED if name.startswith("update_") and "good" not in name} | {
    "quota_update"
}


def service(case: str, *, at: float | None = None, **changes) -> ServiceObjects:
    """A recorded case of which revision ``new`` is wanted."""
    document = recorded(case)
    world = carried_out(case, "new")
    metadata = {"name": case, "annotations": document["isvc_annotations"]}
    if at is not None:
        from datetime import UTC, datetime

        metadata["managedFields"] = [{"time": datetime.fromtimestamp(at, UTC).isoformat()}]
    spec = document["isvc_spec"]
    spec["predictor"]["labels"] = {REVISION_LABEL: "new"}
    fields = {
        "service": {"metadata": metadata, "spec": spec, "status": world["status"]},
        "deployment": world["deployment"],
        "replica_sets": world["replica_sets"],
        "pods": world["pods"],
        "warnings": world["events"],
    }
    return ServiceObjects(**{**fields, **changes})


def wanted(objects: ServiceObjects, now: float = LATER) -> Revision:
    return revisions_of(objects, now=now)["new"]


def test_each_recorded_case_is_judged():
    assert sorted(EXPECTED) == sorted(recorded_names())


@pytest.mark.parametrize("case", [name for name, expected in EXPECTED.items() if expected])
def test_revision_is_what_its_own_deployment_and_pods_say(case):
    state, traffic, reason = EXPECTED[case]
    seen = wanted(service(case))
    assert (str(seen.state), seen.traffic) == (state, traffic)
    if reason is None:
        assert seen.error is None
    else:
        assert seen.error.startswith(reason)


@pytest.mark.parametrize("case", sorted(OLD_SERVES))
def test_former_revision_still_serves_all_requests(case):
    found = revisions_of(service(case), now=LATER)
    assert (str(found["former"].state), found["former"].traffic) == ("READY", 100)


@pytest.mark.parametrize("case", ["update_bad_image_t3", "update_gpu_t45", "quota_update"])
def test_fresh_trouble_is_told_and_waited_for(case):
    seen = wanted(service(case), now=THEN + PATIENCE_SECONDS - 1)
    assert (str(seen.state), seen.error) == ("STARTING", EXPECTED[case][2])
    assert str(wanted(service(case), now=THEN + PATIENCE_SECONDS).state) == "FAILED"


def test_crash_that_came_again_is_not_waited_for():
    assert str(wanted(service("update_crash_t45"), now=THEN).state) == "FAILED"


def test_container_that_runs_again_after_one_crash_may_become_ready():
    objects = service("update_never_ready_600s")
    objects.deployment["status"]["conditions"][1]["reason"] = "ReplicaSetUpdated"
    assert (str(wanted(objects).state), wanted(objects).error) == (
        "STARTING",
        "ended with exit code 137, OOMKilled.",
    )


def test_pod_for_which_a_node_is_added_is_waited_for():
    objects = service("first_gpu")
    scaling = frozenset(pod["metadata"]["name"] for pod in objects.pods)
    seen = wanted(service("first_gpu", scaling_up=scaling))
    assert (str(seen.state), seen.error) == ("STARTING", EXPECTED["first_gpu"][2])


def test_old_status_says_nothing_of_a_specification_that_came_after_it():
    for case in ("mode_unknown", "runtime_unknown", "uri_minio"):
        fresh = service(case, at=THEN + 100)
        for event in fresh.warnings:
            event["lastTimestamp"] = "2026-01-01T00:00:00Z"
        assert str(wanted(fresh, now=THEN + 101).state) == "STARTING"
        assert str(wanted(fresh, now=THEN + 100 + PATIENCE_SECONDS).state) == "FAILED"


def test_deployment_of_the_former_specification_says_nothing_of_the_new_one():
    objects = service("ready_pvc")
    objects.deployment["spec"]["template"]["metadata"]["labels"][REVISION_LABEL] = "former"
    assert str(wanted(objects).state) == "STARTING"


def test_deployment_whose_status_is_of_a_former_generation_says_nothing():
    objects = service("update_good_t12")
    objects.deployment["metadata"]["generation"] = 3
    assert str(wanted(objects).state) == "STARTING"


def test_without_rights_the_condition_of_the_predictor_decides():
    unseen = {
        "deployment": None,
        "replica_sets": (),
        "pods": (),
        "warnings": (),
        "refused": ("may not read deployments",),
    }
    assert str(wanted(service("update_good_t12", **unseen)).state) == "READY"
    rolling = wanted(service("update_crash_t45", **unseen))
    assert (str(rolling.state), rolling.error) == (
        "STARTING",
        "More cannot be seen: may not read deployments.",
    )
    quota = wanted(service("quota_update", **unseen))
    assert (str(quota.state), quota.error) == ("FAILED", EXPECTED["quota_update"][2])


def test_container_that_ends_without_an_error_again_and_again_has_failed():
    objects = service("update_never_ready_t45")
    (pod,) = [pod for pod in objects.pods if pod["metadata"]["labels"][REVISION_LABEL] == "new"]
    (container,) = pod["status"]["containerStatuses"]
    container |= {"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {}}
    seen = wanted(objects)
    assert (str(seen.state), seen.error) == (
        "FAILED",
        "Its container ends by itself, without an error, and was started 3 times.",
    )
