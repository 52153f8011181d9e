"""What the pods of a pipeline run say about why a step failed, or why it waits."""

from __future__ import annotations

import contextlib
import socket
from datetime import UTC, datetime

import pytest
from kube_pods import FakePods, pod, waiting

from airflow_provider_llmops.backends.kubernetes.cluster import connect
from airflow_provider_llmops.backends.pipelines.base import Wait
from airflow_provider_llmops.backends.pipelines.kubeflow.backend import KubeflowPipelineBackend
from airflow_provider_llmops.backends.pipelines.kubeflow.pods import (
    MAX_PODS_WITH_EVENTS,
    PodFailure,
    RunPods,
    step_of_node,
)
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError

OUT_OF_MEMORY = (
    "Out of memory: its container was killed at its limit of 2Gi (OOMKilled). Raise memory_limit in step_settings, or give it "
    "less to do."
)


@pytest.fixture
def pods_of(monkeypatch):
    """Reaches a fake cluster."""
    with contextlib.ExitStack() as stack:

        def pods_of(*pods, namespace=None, connections_namespace=None, **cluster):
            fake = stack.enter_context(FakePods(pods, **cluster))
            pods_of.fakes.append(fake)
            monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", fake.connection(connections_namespace))
            return RunPods(connect("cluster"), namespace)

        pods_of.fakes = []
        yield pods_of


@pytest.mark.parametrize(
    ("node", "step"),
    [
        ("fail-pipeline-slmbw.root.fail.executor", "fail"),
        ("fail-pipeline-slmbw(0).root(0).fail(0).executor(1)", "fail"),
        ("a-x1y2z(0).root(0).fail-driver(0)", "fail"),
        ("a-x1y2z(0).root(0).for-loop-2(0).iteration-iterations(1:1)(0).iteration-item(0).print-op(0).executor(0)",
         "for-loop-2/1/print-op"),
        ("a-x1y2z.root.for-loop-2.iteration-iterations(12:12).iteration-item.print-op.executor", "for-loop-2/12/print-op"),
        ("a-x1y2z(0).root(0).for-loop-2(0).iteration-driver(0)", "for-loop-2"),
        ("a-x1y2z.root.inner-pipeline.print-op1.executor", "inner-pipeline/print-op1"),
        ("a-x1y2z(0).root(0).exit-handler-1(0).onExit(0).print-op(0).executor(0)", "print-op"),
        ("a-x1y2z.root-driver", "the run's driver"),
        ("a-x1y2z", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_node_belongs_to_a_step_of_the_specification(node, step):
    assert step_of_node(node) == step


def test_last_attempt_at_the_first_failed_step_says_why(pods_of):
    pods = pods_of(
        pod("first", "r", "train(0).executor(0)", minute=1),
        pod("other", "r", "report.executor", minute=0),
        pod("second", "r", "train(0).executor(1)", minute=2),
        pod("of-another-run", "r2", "train.executor", minute=3),
        logs={"first": "ValueError: first\n", "second": "working\nValueError: second\n", "other": "x\n"},
    )
    assert pods.why_failed("r", ["train", "report"]) == PodFailure(
        "train", "second", "ValueError: second", lines=("working", "ValueError: second")
    )
    assert pods.why_failed("r", []).pod == "other"
    assert pods.why_failed("r3", ["train"]) is None
    assert pods.why_failed("r", ["serve"]) is None


@pytest.mark.parametrize(
    ("made", "log", "reason"),
    [
        (pod("p", "r", "train.executor", exit_code=137, ended={"reason": "OOMKilled"}, memory_limit="2Gi"), "step 3\n",
         OUT_OF_MEMORY),
        (pod("p", "r", "train.executor", exit_code=137, ended={"reason": "OOMKilled"}), "",
         OUT_OF_MEMORY.replace(" at its limit of 2Gi", "")),
        (pod("p", "r", "train.executor", exit_code=None, reason="Evicted", message="The node was low on memory."), "",
         "Evicted: The node was low on memory."),
        (pod("p", "r", "train.executor", exit_code=137), "step 3\n",
         "Its container ended with exit code 137; it last said: step 3"),
        (pod("p", "r", "train.executor", exit_code=3), "", "Its container ended with exit code 3"),
        (pod("p", "r", "train.executor", exit_code=None), "", "Its pod failed"),
        (pod("p", "r", "train.executor", containers=[], initContainerStatuses=[
            {"name": "init", "state": {"terminated": {"exitCode": 2, "reason": "Error"}}}]), "",
         "Container 'init' ended with exit code 2"),
        (waiting("p", "r", "train.executor", "ImagePullBackOff", 'Back-off pulling image "nosuch:1"'), "",
         'ImagePullBackOff: Back-off pulling image "nosuch:1"'),
    ],
)  # fmt: skip
def test_pods_status_says_what_its_log_cannot(pods_of, made, log, reason):
    failure = pods_of(made, logs={"p": log}).why_failed("r", ["train"])
    assert (failure.step, failure.reason) == ("train", reason)


def test_log_that_may_not_be_read_leaves_the_status(pods_of):
    pods = pods_of(pod("p", "r", "train.executor", exit_code=3), logs={"p": "boom"}, forbidden=["log"])
    assert pods.why_failed("r", ["train"]).reason == "Its container ended with exit code 3"


def test_pods_that_are_gone_have_left_what_argo_noted(pods_of):
    nodes = {
        "a": {"type": "Pod", "name": "w.root.train.executor", "phase": "Failed", "message": "OOMKilled (exit code 137)"},
        "b": {"type": "DAG", "name": "w.root.train", "phase": "Failed", "message": "child failed"},
    }  # fmt: skip
    workflow = {"metadata": {"labels": {"pipeline/runid": "r"}}, "status": {"nodes": nodes}}
    pods = pods_of(workflows=[workflow])
    assert pods.why_failed("r", ["train"]) == PodFailure("train", "", "OOMKilled (exit code 137)")
    assert pods_of(workflows=[workflow], forbidden=["workflows"]).why_failed("r", ["train"]) is None
    others = pod("p", "r", "ignored.executor", ended={"reason": "OOMKilled"})
    pods = pods_of(others, workflows=[workflow])
    assert pods.why_failed("r", ["train"]).reason == "OOMKilled (exit code 137)"
    assert pods.why_failed("r", ["report"]) is None
    assert pods.why_failed("r", []).pod == "p"


@pytest.mark.parametrize(
    ("made", "wait"),
    [
        (waiting("p", "r", "train.executor", None, conditions=[
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}]),
         ("Unschedulable", "Unschedulable: 0/1 nodes are available")),
        (waiting("p", "r", "train.executor", "ErrImagePull", "not found"), ("ImagePullBackOff", "ErrImagePull: not found")),
        (waiting("p", "r", "train.executor", "CreateContainerConfigError", 'secret "hub" not found'),
         ("CreateContainerConfigError", 'CreateContainerConfigError: secret "hub" not found')),
        (waiting("p", "r", "train.executor", None), ("Unscheduled", "no scheduler has looked at its pod yet")),
    ],
)  # fmt: skip
def test_pending_pod_says_why_its_step_waits(pods_of, made, wait):
    since = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert pods_of(made).why_waiting("r") == [Wait("train", *wait, since)]


def test_container_that_is_being_made_waits_for_what_the_events_say(pods_of):
    made = waiting("p", "r", "train.executor", "ContainerCreating")
    event = {
        "type": "Warning",
        "reason": "FailedMount",
        "message": 'secret "x" not found',
        "lastTimestamp": None,
    }
    (wait,) = pods_of(made, events={"p": [event]}).why_waiting("r")
    assert (wait.kind, wait.reason) == ("FailedMount", 'secret "x" not found (Pod p: FailedMount)')
    (wait,) = pods_of(made, events={"p": [event]}, forbidden=["events"]).why_waiting("r")
    assert wait.kind == "ContainerCreating"


def test_place_that_a_pod_has_found_is_no_wait_for_one(pods_of):
    scheduled = {"type": "PodScheduled", "status": "True"}
    made = waiting("p", "r", "train.executor", "ContainerCreating", conditions=[scheduled])
    event = {"type": "Warning", "reason": "FailedScheduling", "message": "0/1 nodes", "lastTimestamp": None}
    (wait,) = pods_of(made, events={"p": [event]}).why_waiting("r")
    assert wait.kind == "ContainerCreating"


def test_a_loop_of_hundreds_of_pods_costs_a_few_requests(pods_of):
    items = [f"loop.iteration-iterations({n}:{n}).iteration-item.train.executor" for n in range(300)]
    made = [waiting(f"p{n}", "r", item, "ContainerCreating") for n, item in enumerate(items)]
    event = {"type": "Warning", "reason": "FailedMount", "message": "no volume", "lastTimestamp": None}
    pods = pods_of(*made, *made, events={"p4": [event], "p5": [event]})
    kinds = [(wait.step, wait.kind) for wait in pods.why_waiting("r")]
    assert kinds[4:6] == [("loop/4/train", "FailedMount"), ("loop/5/train", "ContainerCreating")]
    assert len(kinds) == 300
    assert len(pods_of.fakes[-1].requests) == 1 + MAX_PODS_WITH_EVENTS


def test_step_without_a_pod_waits_for_what_argo_noted(pods_of):
    nodes = {
        "a": {
            "type": "Pod",
            "name": "w.root.train.executor",
            "phase": "Pending",
            "message": "exceeded quota: q",
        }
    }
    workflow = {"metadata": {"labels": {"pipeline/runid": "r"}}, "status": {"nodes": nodes}}
    assert pods_of(workflows=[workflow]).why_waiting("r") == [
        Wait("train", "exceeded quota: q", "exceeded quota: q")
    ]
    assert pods_of().why_waiting("r") == []


@pytest.mark.parametrize(
    ("namespace", "connections", "expected"),
    [("team", "other", "team"), (None, "other", "other"), (None, None, "kubeflow")],
)
def test_namespace_is_the_servers_then_the_clusters_then_kubeflows_own(
    pods_of, namespace, connections, expected
):
    pods = pods_of(
        pod("p", "r", "train.executor", namespace=expected),
        logs={"p": "boom"},
        namespace=namespace,
        connections_namespace=connections,
    )
    assert (
        pods.why_failed("r", ["train"]).reason == "Its container ended with exit code 1; it last said: boom"
    )


def test_refusal_and_silence_are_errors_of_their_kind(pods_of):
    with pytest.raises(
        ConfigurationError, match=r"^The cluster answered 403: cannot list .* in namespace kubeflow"
    ):
        pods_of(forbidden=["pods"]).why_failed("r", [])
    with pytest.raises(ConfigurationError, match="answered 403"):
        pods_of(forbidden=["configmaps"]).read_config_map("kfp-launcher")
    pods = pods_of(config_maps={"kfp-launcher": {"a": "b"}})
    assert pods.read_config_map("kfp-launcher") == {"a": "b"}
    assert pods_of().read_config_map("kfp-launcher") is None


@pytest.mark.parametrize("page", ["<html>Sign in</html>", '"ok"', "[]"])
def test_page_of_a_proxy_is_no_answer(pods_of, page):
    pods = pods_of()
    pods_of.fakes[-1]._answer = lambda parts, query: (200, "text/html", page)
    for ask in (
        lambda: pods.why_failed("r", ["train"]),
        lambda: pods.why_waiting("r"),
        lambda: pods.read_config_map("kfp-launcher"),
    ):
        with pytest.raises(ApiUnavailableError, match=r"^The cluster's answer is no document of Kubernetes"):
            ask()


def test_silent_cluster_is_asked_once_and_not_longer_than_the_whole_question_may_take(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent, FakePods() as fake:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", fake.connection().replace(fake.url, address))
        pods = RunPods(connect("cluster"), None, seconds=0.3)
        with pytest.raises(ApiUnavailableError, match=r"^The cluster did not answer: .*[Tt]imed out"):
            pods.why_waiting("r")
        silent.settimeout(0.05)
        silent.accept()
        with pytest.raises(TimeoutError):
            silent.accept()
        with pytest.raises(ApiUnavailableError, match=r"^The cluster did not answer within 0.3 s"):
            pods.why_failed("r", [])


def test_cluster_that_does_not_answer_is_unavailable(monkeypatch):
    with FakePods() as fake:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", fake.connection())
        pods = RunPods(connect("cluster"), None)
    with pytest.raises(ApiUnavailableError, match=r"^The cluster did not answer"):
        pods.why_failed("r", [])


DIGEST = f"sha256:{'a' * 64}"


def ran(name, path, image_id, **more):
    """A pod that has succeeded."""
    containers = [
        {"name": "wait", "imageID": f"argoexec@sha256:{'0' * 64}"},
        {"name": "main", "imageID": image_id},
    ]
    return pod(name, "r", path, phase="Succeeded", containers=containers, **more)


def test_image_of_a_step_is_that_of_its_own_pod(pods_of):
    pods = pods_of(
        ran("driver", "train-driver(0)", f"kfp-driver@sha256:{'d' * 64}"),
        ran("other", "report(0).executor(0)", f"report@sha256:{'e' * 64}"),
        pod("first", "r", "train(0).executor(0)"),
        ran("second", "train(0).executor(1)", f"docker-pullable://ghcr.io/team/components@{DIGEST}"),
        ran("nested", "condition-1(0).score(0).executor(0)", f"score@sha256:{'f' * 64}"),
    )
    assert pods.image_digest("r", "train") == DIGEST
    assert pods.image_digest("r", "score") == f"sha256:{'f' * 64}"
    assert pods.image_digest("r", "gone") is pods.image_digest("r2", "train") is None


# What pods of real clusters have said of their containers: with containerd, with Docker, and twice with containerd of images that were
# loaded from an archive and have no digest of a registry; what one of them has is that of its configuration.
OF_CLUSTERS = {
    "docker.io/library/nginx@sha256:6d75c99af15565a301e48297fa2d121e15d80ad526f8369c526324f0f7ccb750": (
        "sha256:6d75c99af15565a301e48297fa2d121e15d80ad526f8369c526324f0f7ccb750"
    ),
    "docker-pullable://10.212.47.157/cnsi-test/nginx-slim@sha256:f67828dbd791ec61f95ecb37e91caefae32a96a18b78f656e602a4f7fb493409": (
        "sha256:f67828dbd791ec61f95ecb37e91caefae32a96a18b78f656e602a4f7fb493409"
    ),
    "sha256:fa659464a114c340e31c7b7954a1aa679de7e7f5346e4b5804e8422b2596aff9": None,
    "docker.io/library/registry.k8s.io/e2e-test-images/agnhost:2.56": None,
}


@pytest.mark.parametrize("image_id", OF_CLUSTERS)
def test_digest_is_read_as_container_runtimes_tell_it(pods_of, image_id):
    pods = pods_of(ran("p", "train(0).executor(0)", image_id))
    assert pods.image_digest("r", "train") == OF_CLUSTERS[image_id]


@pytest.mark.parametrize(
    "image_ids",
    [[DIGEST], [""], [f"x@{DIGEST}", f"x@sha256:{'b' * 64}"], [f"x@{DIGEST}", ""]],
    ids=["from no registry", "untold", "two of them", "one untold"],
)
def test_digest_that_is_not_told_for_certain_is_none(pods_of, image_ids):
    pods = [ran(f"p{n}", f"train(0).executor({n})", image_id) for n, image_id in enumerate(image_ids)]
    assert pods_of(*pods).image_digest("r", "train") is None


def test_image_is_pinned_where_the_cluster_says_which_it_was_and_left_where_not(pods_of, caplog):
    settings = KfpSettings(conn_id="kubeflow", endpoint="http://127.0.0.1:9", kubernetes_conn_id="cluster")
    backend = KubeflowPipelineBackend(settings)
    pods_of(ran("p", "train(0).executor(0)", f"ghcr.io/c@{DIGEST}"))
    assert backend.pinned("ghcr.io/c:1", "r", "train") == f"ghcr.io/c:1@{DIGEST}"
    asked = len(pods_of.fakes[-1].requests)
    assert backend.pinned("ghcr.io/c@sha256:0", "r", "train") == "ghcr.io/c@sha256:0"
    assert len(pods_of.fakes[-1].requests) == asked > 0
    assert backend.pinned("ghcr.io/c:1", "gone", "train") == "ghcr.io/c:1"
    pods_of(ran("p", "train(0).executor(0)", f"ghcr.io/c@{DIGEST}"), forbidden=["pods"])
    assert backend.pinned("ghcr.io/c:1", "r", "train") == "ghcr.io/c:1"
    assert "The digest of the image of train is not known: The cluster answered 403" in caplog.text
    alone = KubeflowPipelineBackend(KfpSettings(conn_id="kubeflow", endpoint="http://127.0.0.1:9"))
    assert alone.pinned("ghcr.io/c:1", "r", "train") == "ghcr.io/c:1"
