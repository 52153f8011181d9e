"""What pods and events say about why something does not run, and refusals with their reason first."""

from __future__ import annotations

import pytest

from airflow_provider_llmops.backends.kubernetes.messages import reason_of, sentence
from airflow_provider_llmops.backends.kubernetes.pods import (
    PodProblem,
    has_run,
    is_creation_failure,
    is_live,
    is_scheduled,
    problems_in_events,
    problems_of_pod,
)
from airflow_provider_llmops.exceptions import shortened, shown_value


def pod(*, deleted=False, **status):
    metadata = {"name": "p", **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {})}
    return {"metadata": metadata, "status": status}


def container(state, last=None, name="node"):
    return {"name": name, "state": state, "lastState": last or {}}


def ended(code=1, reason="Error", **more):
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": "1970-01-01T00:01:00Z", **more}}


def waiting(reason, message=None):
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


FINAL = '{"type": "DataError", "message": "no rows", "retryable": false}'


@pytest.mark.parametrize(
    ("document", "trouble"),
    [
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]),
            PodProblem("p", "Unschedulable: 0/1 nodes", "Unschedulable"),
        ),
        (
            pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
            PodProblem("p", "Evicted: The node was low on resource: memory.", "Evicted", has_ended=True),
        ),
        (
            pod(containerStatuses=[container(waiting("ErrImagePull", 'failed to pull "a:1": not found'))]),
            PodProblem("p", 'ErrImagePull: failed to pull "a:1": not found', "ImagePullBackOff", container="node"),
        ),
        (
            pod(containerStatuses=[container(waiting("CreateContainerConfigError", 'secret "hub" not found'))]),
            PodProblem(
                "p", 'CreateContainerConfigError: secret "hub" not found', "CreateContainerConfigError", container="node"
            ),
        ),
        (
            pod(containerStatuses=[container(ended(137, "OOMKilled"))]),
            PodProblem("p", "ended with exit code 137, OOMKilled", "OOMKilled", has_ended=True, container="node", at=60.0),
        ),
        (
            pod(containerStatuses=[container(waiting("CrashLoopBackOff"), ended(message=FINAL))]),
            PodProblem(
                "p", "DataError: no rows (exit code 1)", "Error", is_final=True, has_ended=True,
                was_restarted=True, container="node", at=60.0,
            ),
        ),
        (
            pod(initContainerStatuses=[container(ended(2), name="download")]),
            PodProblem(
                "p", "ended with exit code 2", "Error", has_ended=True, is_unexplained=True, container="download", at=60.0
            ),
        ),
        (
            pod(deleted=True, containerStatuses=[container(ended(143))]),
            PodProblem(
                "p", "ended with exit code 143", "Error", has_ended=True, was_told_to_end=True, container="node", at=60.0
            ),
        ),
    ],
)  # fmt: skip
def test_status_of_a_pod_says_why_it_does_not_run(document, trouble):
    assert problems_of_pod(document) == [trouble]


def test_eviction_is_the_reason_and_the_exit_code_that_follows_from_it_none():
    evicted, killed = problems_of_pod(
        pod(phase="Failed", reason="Evicted", containerStatuses=[container(ended(137))])
    )
    assert (evicted.message, evicted.has_ended, evicted.at) == ("Evicted", True, 60.0)
    assert killed.was_told_to_end


def test_pod_that_failed_is_left_behind_and_one_on_a_node_is_scheduled():
    assert not is_live(pod(phase="Failed"))
    assert not is_live(pod(deleted=True, phase="Running"))
    assert is_live(pod(phase="Pending"))
    assert is_scheduled(pod(conditions=[{"type": "PodScheduled", "status": "True"}]))
    assert not is_scheduled(pod(conditions=[{"type": "PodScheduled", "status": "False"}]))


@pytest.mark.parametrize(
    "document",
    [
        {"metadata": {"name": "p"}},
        pod(phase="Pending", containerStatuses=[container(waiting("ContainerCreating"))]),
        pod(phase="Running", containerStatuses=[container({"running": {}})]),
        pod(phase="Succeeded", containerStatuses=[container(ended(0, "Completed"))]),
        pod(conditions=[{"type": "PodScheduled", "status": "True"}]),
    ],
)
def test_pod_that_starts_runs_or_has_succeeded_is_no_trouble(document):
    assert problems_of_pod(document) == []


@pytest.mark.parametrize(
    ("code", "reason", "is_told"), [(143, "Error", True), (137, "Error", True), (137, "OOMKilled", False), (1, "Error", False)]
)  # fmt: skip
def test_end_of_a_deleted_pod_is_a_consequence_but_for_what_ended_it_by_itself(code, reason, is_told):
    (trouble,) = problems_of_pod(pod(deleted=True, containerStatuses=[container(ended(code, reason))]))
    assert trouble.was_told_to_end == is_told
    (trouble,) = problems_of_pod(pod(containerStatuses=[container(ended(code, reason))]))
    assert not trouble.was_told_to_end


def test_pod_has_run_once_its_container_did():
    assert not has_run(pod(phase="Running", containerStatuses=[container(waiting("ErrImagePull"))]))
    assert not has_run(pod(initContainerStatuses=[container(ended(0))]))
    assert has_run(pod(containerStatuses=[container({"running": {}})]))
    assert has_run(pod(containerStatuses=[container(waiting("CrashLoopBackOff"), ended())]))


def event(message, *, kind="Job", name="j-node-0", reason="FailedCreate", at="1970-01-01T00:00:09Z", **more):
    about = {"kind": kind, "name": name}
    return {
        "type": "Warning",
        "reason": reason,
        "message": message,
        "involvedObject": about,
        "lastTimestamp": at,
        **more,
    }


def test_events_say_why_no_pod_is_made_once_for_all_pods_and_the_last_first():
    quota = 'Error creating: pods "j-node-0-0-{}" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0'
    limits = (
        'Error creating: Pod "j-node-0-0-c" is invalid: spec.containers[0].resources.requests: Invalid value: "128Mi": must '
        "be less than or equal to memory limit of 64Mi"
    )
    job_set = 'TrainJob resources reconciliation failed: jobsets.jobset.x-k8s.io "j" is forbidden: exceeded quota: q'
    job = 'job "j-node-0" creation failed with error: jobs.batch "j-node-0" is forbidden: exceeded quota: q'
    found = problems_in_events(
        [
            event(job, kind="JobSet", name="j", reason="JobCreationFailed", at="1970-01-01T00:00:00Z"),
            event(quota.format("a")),
            event(quota.format("b"), at="1970-01-01T00:00:10Z"),
            event(limits, at=None, eventTime="1970-01-01T00:00:12.000000Z"),
            event(job_set, kind="TrainJob", name="j", reason="TrainJobResourcesCreationFailed", at="1970-01-01T00:00:01Z"),
            {**event("Created pod: j-node-0-0-d"), "type": "Normal"},
        ]
    )  # fmt: skip
    assert [(trouble.message, trouble.at) for trouble in found] == [
        (
            'must be less than or equal to memory limit of 64Mi (spec.containers[0].resources.requests is "128Mi") (Job '
            "j-node-0: FailedCreate)",
            12.0,
        ),
        ("exceeded quota: q, requested: pods=1, used: pods=0 (Job j-node-0: FailedCreate)", 10.0),
        ("exceeded quota: q (TrainJob j: TrainJobResourcesCreationFailed)", 1.0),
        ("exceeded quota: q (JobSet j: JobCreationFailed)", 0.0),
    ]
    assert all(is_creation_failure(trouble) for trouble in found)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: spec.RuntimeRef: Invalid value: '
            '{"name":"nosuch","apiGroup":"trainer.kubeflow.org","kind":"ClusterTrainingRuntime"}: ClusterTrainingRuntime.trainer'
            '.kubeflow.org "nosuch" not found: specified clusterTrainingRuntime must be created before the TrainJob is created',
            'ClusterTrainingRuntime.trainer.kubeflow.org "nosuch" not found: specified clusterTrainingRuntime must be created '
            'before the TrainJob is created (spec.RuntimeRef is {"name":"nosuch","apiGroup":"trainer.kubeflow.org","kind":"…)',
        ),
        (
            'TrainJob.trainer.kubeflow.org "j" is invalid: spec.activeDeadlineSeconds: Invalid value: 0: '
            "spec.activeDeadlineSeconds in body should be greater than or equal to 1",
            "spec.activeDeadlineSeconds in body should be greater than or equal to 1 (spec.activeDeadlineSeconds is 0)",
        ),
        (
            'TrainJob.trainer.kubeflow.org "aa" is invalid: <nil>: Invalid value: metadata.name must be no more than 63 '
            "characters",
            "metadata.name must be no more than 63 characters",
        ),
        (
            'trainjobs.trainer.kubeflow.org is forbidden: User "u" cannot create resource "trainjobs"',
            'User "u" cannot create resource "trainjobs"',
        ),
        (
            'trainjobs.trainer.kubeflow.org "j" is forbidden: exceeded quota: q, requested: a=1',
            "exceeded quota: q, requested: a=1",
        ),
        ("something\n  else", "something else"),
    ],
)
def test_refusal_has_its_reason_before_the_value(message, reason):
    assert reason_of(message) == reason


def test_text_that_is_cut_is_marked_and_ends_with_one_stop():
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefg", 6) == "abcde…"
    assert (shown_value("abc", 5), shown_value("abcd", 5)) == ("'abc'", "'abc…")
    assert [sentence(text) for text in ("a", "a.", "a ...", "a…")] == ["a.", "a.", "a.", "a…"]
