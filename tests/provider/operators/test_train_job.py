"""TrainJobs: the operator, its trigger and the sensor against a Kubernetes API server over HTTP."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import subprocess
import sys
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout, TaskDeferred
from attempts import clear, clear_other, clear_running, retry
from kube_trainjobs import FakeTrainJobs, status

from airflow_provider_llmops.backends.kubernetes.pods import MAX_PODS, PodProblem, problems_of_pod
from airflow_provider_llmops.backends.kubernetes.requests import MAX_LOG_BYTES
from airflow_provider_llmops.backends.trainjobs import api as trainer
from airflow_provider_llmops.backends.trainjobs import pod_watch
from airflow_provider_llmops.backends.trainjobs import watch as watching
from airflow_provider_llmops.backends.trainjobs.job import TrainJob, training_jobs
from airflow_provider_llmops.backends.trainjobs.watch import TrainJobWatch
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    InvalidInputError,
    ResultError,
    RunCanceledError,
    RunFailedError,
    RunNotFoundError,
)
from airflow_provider_llmops.hooks.trainer import KubeflowTrainerHook
from airflow_provider_llmops.kinds import train_job
from airflow_provider_llmops.operators.train_job import TrainJobOperator
from airflow_provider_llmops.remote import intent as once
from airflow_provider_llmops.remote import settle
from airflow_provider_llmops.remote.intent import attempts_key
from airflow_provider_llmops.remote.origin import code_of
from airflow_provider_llmops.sensors.train_job import TrainJobSensor
from airflow_provider_llmops.triggers.train_job import TrainJobTrigger

ARGUMENTS = {"dataset": "/mnt/shared/rows.jsonl", "base_model": "file:///mnt/shared/base"}
SETTINGS = {"persistent_volume_claims": {"shared": "/mnt/shared"}}
CHECKPOINTS = "/mnt/shared/out/checkpoints/" + attempts_key(
    {"ti": SimpleNamespace(dag_id="dag", run_id="manual", task_id="task", map_index=-1)}, began=1
)
CLOCK = "2026-01-01T00:00:00Z"


@pytest.fixture
def cluster(monkeypatch):
    """A cluster that the default connection leads to."""
    with FakeTrainJobs() as fake:
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", fake.connection(namespace="team"))
        monkeypatch.setattr(once, "IN_FLIGHT_SECONDS", 0.0)
        monkeypatch.setattr(settle, "MARGIN_SECONDS", 0.0)
        yield fake


def task(**changed):
    arguments = {
        "task_id": "task",
        "component": "train_sft",
        "arguments": ARGUMENTS,
        "output_path": "/mnt/shared/out",
        "step_settings": SETTINGS,
        "num_nodes": 2,
        "poll_interval": 0.01,
    }
    return TrainJobOperator(**{**arguments, **changed})


def start(operator, context):
    """Let the operator make its TrainJob, and return the trigger that it defers to."""
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    assert deferred.value.method_name == "execute_complete"
    return deferred.value.trigger


def events(trigger):
    async def collect():
        return [event.payload async for event in trigger.run()]

    return asyncio.run(collect())


def event_of(trigger, **changed):
    usual = {"timed_out": False, "error": None, "final_error": None, "trouble": None}
    return {"namespace": trigger.namespace, "name": trigger.name, **usual, **changed}


def resume(operator, context, trigger):
    (event,) = events(trigger)
    return operator.execute_complete(context, event)


def said(capsys, level):
    """Lines of one level in the log of task and trigger, which goes to stdout here."""
    lines = re.findall(r"^\S+ \[(\w+) *\] (.*?) *\[airflow\S*\] loc=", capsys.readouterr().out, re.MULTILINE)
    return [text for name, text in lines if name == level]


def test_training_on_two_nodes_is_made_waited_for_and_its_result_pushed(cluster, context):
    trigger = start(task(), context)
    job = cluster.only
    assert trigger.name == job["metadata"]["name"]
    assert trigger.name.startswith("dag-task-")
    cluster.run(job, 99, loss="0.25", device="cuda", grad_norm="NaN")
    cluster.complete(job)
    assert events(trigger) == [event_of(trigger)]
    value = task().execute_complete(context, event_of(trigger))
    out = f"/mnt/shared/out/{trigger.name}"
    assert value == {
        "component": "train_sft",
        "namespace": "team",
        "name": trigger.name,
        "state": "SUCCEEDED",
        "artifacts": {"model": f"{out}/model", "adapter": f"{out}/adapter"},
        "result": f"{out}/result.json",
        "checkpoints": CHECKPOINTS,
        "metrics": {"loss": 0.25},
    }
    assert context["ti"].xcom == {
        "model": f"{out}/model",
        "adapter": f"{out}/adapter",
        "metrics": {"loss": 0.25},
        "code": code_of(context),
    }
    assert len(cluster.created) == 1
    assert cluster.deleted == []


def test_request_is_what_the_entry_point_reads(cluster, context):
    trigger = start(task(arguments={**ARGUMENTS, "training_args": {"max_steps": 3}}, preset="fsdp2"), context)
    out = f"/mnt/shared/out/{trigger.name}"
    trainer_spec = cluster.created[0]["spec"]["trainer"]
    assert trainer_spec["command"] == ["python", "-m", "llmops_components.training.launch"]
    assert trainer_spec["args"] == ["env:LLMOPS_REQUEST"]
    variables = {item["name"]: item["value"] for item in trainer_spec["env"]}
    assert json.loads(variables["LLMOPS_REQUEST"]) == {
        "component": "train_sft",
        "arguments": {
            "dataset": "/mnt/shared/rows.jsonl",
            "base_model": "/mnt/shared/base",
            "training_args": {"max_steps": 3},
            "checkpoints": CHECKPOINTS,
            "model": f"{out}/model",
            "adapter": f"{out}/adapter",
        },
        "result": f"{out}/result.json",
        "preset": "fsdp2",
    }


def test_kubernetes_finds_no_variable_to_expand_in_the_request(cluster, context):
    tricky = {"chat_template_path": "$(HOME)/$$x"}
    start(task(arguments={**ARGUMENTS, "training_args": tricky}), context)
    (text,) = [
        item["value"]
        for item in cluster.created[0]["spec"]["trainer"]["env"]
        if item["name"] == "LLMOPS_REQUEST"
    ]
    assert "$" not in text
    assert json.loads(text)["arguments"]["training_args"] == tricky


def test_origin_is_on_the_job_whole_in_annotations_and_cut_in_labels(cluster, context):
    context["ti"].run_id = "manual__2026-01-01T00:00:00+00:00_" + "x" * 60
    start(task(), context)
    metadata = cluster.created[0]["metadata"]
    assert metadata["annotations"]["llmops/dag-run-id"] == context["ti"].run_id
    assert metadata["annotations"]["llmops/component"] == "train_sft"
    label = metadata["labels"]["llmops/dag-run-id"]
    assert label == "manual__2026-01-01T00_00_00_00_00_" + "x" * 29
    assert metadata["labels"]["llmops/dag-id"] == "dag"


@pytest.mark.parametrize(("map_index", "label"), [(-1, None), (0, "0"), (12, "12")])
def test_only_a_mapped_task_has_its_index_among_the_labels(cluster, context, map_index, label):
    context["ti"].map_index = map_index
    start(task(), context)
    metadata = cluster.created[0]["metadata"]
    assert metadata["labels"].get("llmops/map-index") == label
    assert metadata["annotations"]["llmops/map-index"] == str(map_index)


@pytest.mark.parametrize("dies_before", ["the answer", "noting the answer"])
def test_retry_after_a_worker_died_while_it_submitted_finds_the_one_job(
    cluster, context, monkeypatch, dies_before
):
    class Death(BaseException):
        pass

    def die(*args, **kwargs):
        raise Death

    operator = task()
    with monkeypatch.context() as patch:
        if dies_before == "the answer":
            patch.setattr(trainer.TrainJobs, "create", die)
        else:
            patch.setattr(TrainJob, "read", die)
        with pytest.raises(Death):
            operator.execute(context)
    trigger = start(task(), retry(context))
    assert len(cluster.created) == 1
    assert trigger.name == cluster.only["metadata"]["name"]


def test_lost_answer_to_the_creation_makes_no_second_job(cluster, context, monkeypatch):
    monkeypatch.setattr("airflow_provider_llmops.backends.retrying.FIRST_DELAY_SECONDS", 0.01)
    backend = KubeflowTrainerHook().backend
    operator = task()
    manifest = operator.manifest(context, "f" * 32)
    cluster.lose_answers = 1
    job = backend.create(manifest)
    assert [method for method, _ in cluster.requests] == ["POST", "POST", "GET"]
    assert len(cluster.created) == 1
    assert job.uid == cluster.only["metadata"]["uid"]


def test_job_of_another_task_with_the_same_name_is_not_taken_over(cluster, context):
    operator = task()
    manifest = operator.manifest(context, "f" * 32)
    KubeflowTrainerHook().backend.create(manifest)
    manifest["metadata"]["labels"]["llmops/token"] = "e" * 32
    with pytest.raises(
        ConfigurationError, match=r"^There is a TrainJob of this name that this task has not made"
    ):
        KubeflowTrainerHook().backend.create(manifest)


def test_retry_reconnects_to_a_job_that_runs(cluster, context):
    first = start(task(), context)
    cluster.run(cluster.only, 10)
    assert start(task(), retry(context)).name == first.name
    assert len(cluster.created) == 1


def test_retry_after_a_failed_job_makes_a_new_one_that_goes_on_from_the_same_checkpoints(cluster, context):
    first = start(task(), context)
    cluster.fail(cluster.only)
    second = start(task(), retry(context))
    assert second.name != first.name
    requests = [json.loads(job["spec"]["trainer"]["env"][0]["value"]) for job in cluster.created]
    assert len({request["arguments"]["checkpoints"] for request in requests}) == 1
    # The component refuses to write over what is there.
    assert len({request["arguments"]["model"] for request in requests}) == 2


def let_pods_end_after(cluster, looks):
    """What is asked of the cluster, while the pods of a deleted TrainJob end at that look at them."""
    cluster.pods_end_at_once = False
    seen = []

    def notice(method, path):
        if "runtimes" in path:
            return
        seen.append(f"{method} {path.split('/')[-1] if path.endswith('/pods') else 'trainjob'}")
        if seen.count("GET pods") == looks:
            cluster.end_pods()

    cluster.faults = notice
    return seen


@pytest.mark.parametrize("attempt", [retry, clear])
def test_former_job_that_failed_is_deleted_and_its_pods_awaited_before_the_next_is_made(
    cluster, context, attempt
):
    start(task(), context)
    former = cluster.only
    cluster.start_pod(former, "p-0")
    cluster.fail(former)
    seen = let_pods_end_after(cluster, 2)
    start(task(), attempt(context))
    assert seen == [
        *("GET trainjob", "DELETE trainjob", "GET trainjob", "GET pods", "GET trainjob", "GET pods"),
        "POST trainjob",
    ]
    assert cluster.deleted == [("team", former["metadata"]["name"], "Background")]


def test_clearing_deletes_the_former_job_waits_for_its_pods_and_starts_from_scratch(cluster, context):
    start(task(), context)
    former = cluster.only
    cluster.run(former, 10)
    cluster.start_pod(former, "p-0")
    seen = let_pods_end_after(cluster, 1)
    start(task(), clear(context))
    assert cluster.deleted == [("team", former["metadata"]["name"], "Background")]
    assert seen == ["GET trainjob", "DELETE trainjob", "GET trainjob", "GET pods", "POST trainjob"]
    requests = [json.loads(job["spec"]["trainer"]["env"][0]["value"]) for job in cluster.created]
    assert len({request["arguments"]["checkpoints"] for request in requests}) == 2


@pytest.mark.parametrize("by", ["run_timeout", "somebody else"])
def test_retry_waits_for_the_pods_of_a_job_that_is_gone_already(cluster, context, by):
    trigger = start(task(run_timeout=timedelta(hours=1)), context)
    former = cluster.only
    cluster.run(former, 10)
    cluster.start_pod(former, "p-0")
    seen = let_pods_end_after(cluster, 3)
    KubeflowTrainerHook().backend.delete("team", former["metadata"]["name"])
    with pytest.raises(RunFailedError if by == "run_timeout" else RunCanceledError):
        task(run_timeout=timedelta(hours=1)).execute_complete(
            context, event_of(trigger, timed_out=by == "run_timeout")
        )
    seen.clear()
    start(task(), retry(context))
    assert seen == ["GET trainjob", *(["GET trainjob", "GET pods"] * 3), "POST trainjob"]


def test_pods_that_ended_and_stay_to_be_read_are_not_waited_for(cluster, context):
    start(task(), context)
    cluster.end_pod(cluster.only, "p-0", code=1, message=RETRYABLE)
    cluster.fail(cluster.only)
    seen = let_pods_end_after(cluster, 9)
    start(task(), retry(context))
    assert seen.count("GET pods") == 1


def test_where_pods_cannot_be_listed_their_whole_grace_is_waited(cluster, context, monkeypatch, caplog):
    start(task(), context)
    monkeypatch.setattr(trainer, "GRACE_SECONDS", 1.0)
    no_rights = status(403, "Forbidden", "pods is forbidden: User cannot list resource")
    cluster.faults = lambda method, path: no_rights if path.endswith("/pods") else None
    before = time.monotonic()
    start(task(), clear(context))
    assert time.monotonic() - before >= 1.0
    assert "Waiting 1 s for the pods of TrainJob" in caplog.text


def test_credentials_that_are_just_renewed_are_no_missing_right_to_list_pods(
    cluster, context, monkeypatch, caplog
):
    start(task(), context)
    cluster.start_pod(cluster.only, "p-0")
    monkeypatch.setattr(trainer, "GRACE_SECONDS", 0.0)  # waited only where pods may not be listed
    seen = let_pods_end_after(cluster, 3)
    ends, refused = cluster.faults, []

    def refuse_once(method, path):
        answer = ends(method, path)
        if path.endswith("/pods") and not refused:
            refused.append(path)
            return status(401, "Unauthorized", "Unauthorized")
        return answer

    cluster.faults = refuse_once
    start(task(), clear(context))
    assert seen.count("GET pods") == 3
    assert "which cannot be seen" not in caplog.text


def test_creation_that_was_still_on_its_way_when_the_task_was_cleared_is_caught(
    cluster, context, monkeypatch
):
    monkeypatch.setattr(once, "IN_FLIGHT_SECONDS", 10.0)
    operator = task()
    manifest = operator.manifest(context, "f" * 32)
    once.Intent(name="f" * 32, cycle=once.cycle_of(context)).store(context)
    monkeypatch.setattr(once.time, "sleep", lambda seconds: KubeflowTrainerHook().backend.create(manifest))
    start(task(), clear(context))
    assert [name for _, name, _ in cluster.deleted] == [manifest["metadata"]["name"]]
    assert len(cluster.jobs) == 1


def test_job_that_failed_before_it_was_noted_is_followed_by_a_new_one(cluster, context):
    operator = task()
    manifest = operator.manifest(context, "f" * 32)
    once.Intent(name="f" * 32, cycle=once.cycle_of(context)).store(context)
    KubeflowTrainerHook().backend.create(manifest)
    cluster.fail(cluster.only)
    assert start(task(), retry(context)).name != manifest["metadata"]["name"]
    assert len(cluster.created) == 2


def test_clearing_a_finished_task_leaves_its_job_and_makes_a_new_one(cluster, context):
    start(task(), context)
    cluster.complete(cluster.only)
    start(task(), clear(context))
    assert cluster.deleted == []
    assert len(cluster.jobs) == 2


@pytest.mark.parametrize("retries", [0, 1])
def test_clearing_a_finished_task_trains_from_scratch_whatever_airflow_makes_of_max_tries(
    cluster, context, retries
):
    trigger = start(task(), context)
    cluster.complete(cluster.only)
    resume(task(), context, trigger)
    start(task(), clear(context, retries))
    assert len({path_of(job, "checkpoints") for job in cluster.created}) == len(cluster.created) == 2


def test_clearing_a_task_at_work_trains_from_scratch_although_max_tries_stays(cluster, context):
    killed(task(), context, "restarting")
    start(task(), clear_running(context))
    assert len({path_of(job, "checkpoints") for job in cluster.created}) == len(cluster.created) == 2


def test_clearing_another_task_costs_no_training(cluster, context):
    first = start(task(), context)
    cluster.run(cluster.only)
    assert start(task(), retry(clear_other(context))).name == first.name
    cluster.fail(cluster.only)
    start(task(), retry(clear_other(context)))
    assert len({path_of(job, "checkpoints") for job in cluster.created}) == 1
    cluster.remove(cluster.only)
    with pytest.raises(RunCanceledError):
        resume(task(), clear_other(context), TrainJobTrigger(**first.serialize()[1]))
    start(task(), retry(context))
    assert len({path_of(job, "checkpoints") for job in cluster.created}) == 1


def path_of(job, name):
    return json.loads(job["spec"]["trainer"]["env"][0]["value"])["arguments"][name]


def test_result_names_what_was_submitted_although_the_dag_has_changed_since(cluster, context):
    trigger = start(task(), context)
    cluster.complete(cluster.only)
    out = f"/mnt/shared/out/{trigger.name}"
    changed = task(
        component="train_reward", output_path="/mnt/shared/elsewhere", arguments={}, step_settings={}
    )
    value = changed.execute_complete(context, event_of(trigger))
    assert (value["component"], value["artifacts"], value["result"], value["checkpoints"]) == (
        "train_sft",
        {"model": f"{out}/model", "adapter": f"{out}/adapter"},
        f"{out}/result.json",
        CHECKPOINTS,
    )


def test_job_that_has_lost_its_request_has_no_result(cluster, context):
    trigger = start(task(), context)
    cluster.only["spec"]["trainer"]["env"] = []
    cluster.complete(cluster.only)
    with pytest.raises(
        ResultError, match=r"(?s)has no variable LLMOPS_REQUEST .*Look below: /mnt/shared/out"
    ):
        task().execute_complete(context, event_of(trigger))


def test_former_pods_that_do_not_end_keep_a_second_training_from_starting(cluster, context, monkeypatch):
    start(task(), context)
    cluster.start_pod(cluster.only, "p-0")
    cluster.pods_end_at_once = False
    monkeypatch.setattr(train_job, "GONE_SECONDS", 0.0)
    with pytest.raises(
        RunFailedError,
        match=r"^Pods of a former TrainJob still write to the same place(?s:.*)/mnt/shared/out",
    ):
        start(task(), clear(context))
    assert len(cluster.created) == 1


def test_job_that_somebody_deleted_fails_the_attempt_and_a_retry_makes_a_new_one(cluster, context):
    trigger = start(task(), context)
    cluster.remove(cluster.only)
    with pytest.raises(
        RunCanceledError, match=f"^The TrainJob was deleted by somebody else(?s:.*){trigger.name} .train_sft."
    ):
        resume(task(), context, trigger)
    assert start(task(), retry(context)).name != trigger.name


def test_progress_and_state_go_to_the_log_as_they_change(cluster, caplog):
    job = cluster.add("j")
    watch = TrainJobWatch(KubeflowTrainerHook().backend, "team", "j", trainer.log)
    caplog.set_level("INFO", logger=trainer.log.name)
    watch.look()
    cluster.suspend(job)
    watch.look()
    cluster.resume(job)
    cluster.run(job, 10, loss="2.5", step="10")
    watch.look()
    watch.look()
    for progress in (11, 14, 20, 21):
        cluster.run(job, progress, loss="2.25")
        watch.look()
    cluster.complete(job)
    watch.look()
    assert told(caplog) == [
        "TrainJob team/j is PENDING",
        "TrainJob team/j is PAUSED (Suspended: TrainJob is suspended)",
        "TrainJob team/j is RUNNING",
        "Job node: 1 active, 1 ready",
        "Progress: 10 %, 1 min left; loss = 2.5; step = 10",
        "Progress: 20 %, 1 min left; loss = 2.25",
        "TrainJob team/j is SUCCEEDED (AllJobsCompleted: jobset completed successfully)",
        "Job node: 1 succeeded",
    ]


def test_a_job_that_trains_costs_one_request_a_look_and_once_a_minute_two(cluster, monkeypatch):
    job = cluster.add("j")
    watch = TrainJobWatch(KubeflowTrainerHook().backend, "team", "j", trainer.log)
    cluster.run(job)
    cluster.start_pod(job, "p-0")
    watch.look()
    cluster.requests.clear()
    for _ in range(3):
        watch.look()
    assert [path.rpartition("/")[2] for _, path in cluster.requests] == ["j"] * 3
    monkeypatch.setattr(watching, "PODS_SECONDS", 0.0)
    watch.look()
    assert [path.rpartition("/")[2] for _, path in cluster.requests[3:]] == ["j", "pods"]


def test_crash_is_seen_although_the_status_says_that_all_are_ready(cluster, watch):
    job = cluster.add("j")
    cluster.run(job)
    cluster.start_pod(job, "p-0")
    watch.look()
    cluster.begin(job)
    cluster.run(job)
    cluster.end_pod(job, "p-0", code=1, message=FINAL, restarted=True, log="boom")
    cluster.start_pod(job, "p-0")
    cluster.update(job, jobsStatus=[{"name": "node", "active": 1, "ready": 1, "failed": 1}])
    watch.look()
    assert watch.final_error == "SettingError: no argument 'lr' (exit code 1)"


@pytest.fixture
def watch(cluster, caplog):
    """A watch over TrainJob ``j``, and what it tells with the levels of it."""
    caplog.set_level("INFO", logger=trainer.log.name)
    return TrainJobWatch(KubeflowTrainerHook().backend, "team", "j", trainer.log)


def told(caplog, *levels):
    """What the watch told since this was last asked; Airflow warns, once in a process, of what it masks."""
    lines = [
        record.getMessage()
        for record in caplog.records
        if record.name == trainer.log.name and (not levels or record.levelname in levels)
    ]
    caplog.clear()
    return lines


def warned(caplog):
    return told(caplog, "WARNING")


def log_is_gone(method, path):
    return status(404, "NotFound", "pod not found") if path.endswith("/log") else None


NO_PLACE = "0/{} nodes are available: {} Insufficient nvidia.com/gpu."


def test_why_a_pod_does_not_start_is_told_once(cluster, watch, caplog):
    job = cluster.add("j")
    for nodes in (3, 4):
        cluster.hold_pod(job, "j-node-0-0-abcde", NO_PLACE.format(nodes, nodes))
        watch.look()
    reason = "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu (pod j-node-0-0-abcde)"
    assert warned(caplog) == [f"TrainJob team/j is PENDING ({reason})"]
    assert watch.trouble == reason


def test_image_that_cannot_be_pulled_is_one_reason_and_not_two_in_turn(cluster, watch, caplog):
    job = cluster.add("j")
    cluster.begin(job)
    not_found = 'failed to pull and unpack image "nosuch/image:1": not found'
    for _ in range(3):
        cluster.block_pod(job, "p-0", "ErrImagePull", not_found)
        watch.look()
        cluster.block_pod(job, "p-0", "ImagePullBackOff", 'Back-off pulling image "nosuch/image:1"')
        watch.look()
    assert warned(caplog) == [f"TrainJob team/j is PENDING (ErrImagePull: {not_found} (pod p-0))"]
    cluster.start_pod(job, "p-0")
    assert watch.look().state == "RUNNING"
    assert watch.trouble is None


QUOTA = 'Error creating: pods "j-node-0-0-{}" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0'


def test_why_no_pod_can_be_made_stands_in_the_events_and_is_told(cluster, watch, caplog):
    job = cluster.add("j")
    cluster.accept(job)
    cluster.begin(job)
    for pod in ("abcde", "fghij"):
        cluster.warn(job, QUOTA.format(pod))
        assert watch.look().state == "PENDING"
    reason = (
        "exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0 (Job j-node-0: FailedCreate)"
    )
    assert warned(caplog) == [f"TrainJob team/j is PENDING ({reason})"]
    assert watch.trouble == reason


def test_quota_on_job_sets_is_told_of_a_job_that_has_no_status(cluster, watch):
    cluster.warn(
        cluster.add("j"),
        'TrainJob resources reconciliation failed: jobsets.jobset.x-k8s.io "j" is forbidden: exceeded quota: q',
        kind="TrainJob",
        reason="TrainJobResourcesCreationFailed",
    )
    watch.look()
    assert watch.trouble == "exceeded quota: q (TrainJob j: TrainJobResourcesCreationFailed)"


def test_pod_that_waits_without_saying_why_is_explained_by_its_events(cluster, watch):
    job = cluster.add("j")
    cluster.block_pod(job, "p-0", "ContainerCreating", "")
    missing = 'MountVolume.SetUp failed for volume "templates" : configmap "templates" not found'
    cluster.warn(job, missing, kind="Pod", name="p-0", reason="FailedMount")
    watch.look()
    assert watch.trouble == f"{missing} (Pod p-0: FailedMount)"


def test_node_that_waits_while_another_runs_is_told(cluster, watch, caplog):
    job = cluster.add("j", nodes=2)
    cluster.begin(job)
    cluster.start_pod(job, "p-0")
    cluster.hold_pod(job, "p-1", NO_PLACE.format(3, 3))
    for _ in range(2):
        assert watch.look().state == "RUNNING"
    reason = "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu (pod p-1)"
    assert warned(caplog) == [f"Not all nodes run: {reason}"]
    assert watch.trouble == reason


def test_job_whose_pods_are_gone_and_cannot_be_made_again_is_pending(cluster, watch):
    job = cluster.add("j")
    cluster.warn(job, QUOTA, at=time.time() - 5)
    cluster.start_pod(job, "p-0")
    cluster.run(job)
    watch.look()
    cluster.pods.clear()
    cluster.begin(job)
    seen = watch.look()
    assert (seen.state, watch.trouble) == ("RUNNING", None)  # what was said before it ran is over
    cluster.warn(job, QUOTA, at=time.time() + 5)
    assert watch.look().state == "PENDING"
    assert watch.trouble.startswith("exceeded quota: q")


def test_pod_that_was_evicted_is_no_reason_once_another_took_its_place(cluster, watch, caplog):
    job = cluster.add("j")
    cluster.end_pod(job, "p-0", code=137, at="2026-01-01T00:01:00Z")
    evicted = {"reason": "Evicted", "message": "The node was low on resource: memory."}
    cluster.pods["p-0"]["document"]["status"] |= evicted
    cluster.begin(job)
    watch.look()
    assert watch.trouble == "Evicted: The node was low on resource: memory (pod p-0)"
    cluster.start_pod(job, "p-1")
    cluster.run(job)
    assert (watch.look().state, watch.trouble) == ("RUNNING", None)
    cluster.end_pod(job, "p-1", code=1, message=RETRYABLE, at="2026-01-01T05:00:00Z")
    cluster.fail(job)
    watch.look()
    assert watch.trouble == "TrainingInterrupted: saved (exit code 1) (pod p-1)"
    assert [line for line in warned(caplog) if line.startswith("Pod p-0")] == [
        "Pod p-0: Evicted: The node was low on resource: memory."
    ]


def test_pod_that_failed_and_was_left_behind_hides_no_node_that_waits(cluster, watch):
    job = cluster.add("j")
    cluster.end_pod(job, "p-0", code=1)
    cluster.begin(job)
    cluster.hold_pod(job, "p-1", NO_PLACE.format(3, 3))
    seen = watch.look()
    assert (seen.state, watch.trouble.partition(":")[0]) == ("PENDING", "Unschedulable")
    assert seen.reason == watch.trouble
    cluster.start_pod(job, "p-1")
    assert (watch.look().state, watch.trouble) == ("RUNNING", None)


def initialise(cluster, job, **node):
    """The initializer is done, and its pod is still there."""
    done = {"name": "dataset-initializer", "active": 0, "ready": 0, "succeeded": 1}
    cluster.update(job, jobsStatus=[done, {"name": "node", "active": 1, **node}])
    cluster.end_pod(job, "j-dataset-initializer-0-0-a", code=0)
    labels = cluster.pods["j-dataset-initializer-0-0-a"]["document"]["metadata"]["labels"]
    labels["jobset.sigs.k8s.io/replicatedjob-name"] = "dataset-initializer"


def test_job_whose_data_is_prepared_and_whose_node_cannot_be_made_is_pending_with_the_reason(cluster, watch):
    job = cluster.add("j")
    initialise(cluster, job)
    for _ in range(2):
        cluster.warn(job, QUOTA)
        assert watch.look().state == "PENDING"
        assert watch.trouble.startswith("exceeded quota: q")
    cluster.make_pod(job, "j-node-0-0-a")
    assert (watch.look().state, watch.trouble) == ("PENDING", None)
    cluster.start_pod(job, "j-node-0-0-a")
    initialise(cluster, job, ready=1)
    assert (watch.look().state, watch.trouble) == ("RUNNING", None)


def test_second_node_that_cannot_be_made_is_told_while_the_first_runs(cluster, watch):
    job = cluster.add("j", nodes=2)
    cluster.begin(job)
    cluster.start_pod(job, "j-node-0-0-a")
    cluster.warn(job, QUOTA)
    assert watch.look().state == "RUNNING"
    assert watch.trouble.startswith("exceeded quota: q")


def test_job_of_several_of_one_name_that_has_no_pod_is_told_by_its_own_events(cluster, watch):
    job = cluster.add("j")
    counts = {"active": 2, "ready": 2, "succeeded": 0, "failed": 0, "suspended": 0}
    cluster.update(job, jobsStatus=[{"name": "node", **counts, "active": 1}, {"name": "data", **counts}])
    cluster.start_pod(job, "j-node-0-0-a")
    for index in (0, 1):
        name = f"j-data-{index}-0-a"
        cluster.start_pod(job, name)
        cluster.pods[name]["document"]["metadata"]["labels"] |= {
            "jobset.sigs.k8s.io/replicatedjob-name": "data",
            "jobset.sigs.k8s.io/replicatedjob-replicas": "3",
            "jobset.sigs.k8s.io/job-index": str(index),
        }
    cluster.warn(job, QUOTA, name="j-data-2")
    assert watch.look().state == "RUNNING"
    assert watch.trouble.startswith("exceeded quota: q")
    assert "(Job j-data-2: FailedCreate)" in watch.trouble


@pytest.mark.parametrize(
    ("names", "training"),
    [
        (["node"], ["node"]),
        (["dataset-initializer", "model-initializer", "node"], ["node"]),
        (["node", "launcher"], ["launcher"]),
        (["model-initializer", "own"], ["own"]),
        ([], []),
    ],
)
def test_jobs_that_train_are_those_that_the_command_runs_in(names, training):
    assert training_jobs(names) == training


def test_place_that_a_pod_found_is_no_reason_any_more(cluster, watch):
    job = cluster.add("j")
    cluster.hold_pod(job, "p-0", NO_PLACE.format(3, 3))
    cluster.warn(job, NO_PLACE.format(3, 3), kind="Pod", name="p-0", reason="FailedScheduling")
    watch.look()
    assert watch.trouble.startswith("Unschedulable: 0/3 nodes")
    cluster.block_pod(job, "p-0", "ContainerCreating", "")
    scheduled = {"type": "PodScheduled", "status": "True"}
    cluster.pods["p-0"]["document"]["status"]["conditions"] = [scheduled]
    assert (watch.look().state, watch.trouble) == ("PENDING", None)


def test_what_events_said_long_ago_is_no_reason(cluster, watch):
    job = cluster.add("j")
    cluster.warn(job, QUOTA, at=time.time() - 3000)
    watch.look()
    assert watch.trouble is None


def test_job_is_running_once_a_pod_runs_and_not_because_it_has_jobs(cluster, watch):
    job = cluster.add("j", nodes=2)
    states = [watch.look().state]
    cluster.accept(job)
    cluster.begin(job)
    states.append(watch.look().state)
    cluster.make_pod(job, "p-0")
    states.append(watch.look().state)
    cluster.start_pod(job, "p-0")
    states.append(watch.look().state)
    cluster.end_pod(job, "p-0", code=1, restarted=True)
    states.append(watch.look().state)
    cluster.suspend(job)
    states.append(watch.look().state)
    cluster.resume(job)
    cluster.begin(job)
    states.append(watch.look().state)
    assert states == ["PENDING", "PENDING", "PENDING", "RUNNING", "RUNNING", "PAUSED", "PENDING"]


@pytest.mark.parametrize(
    ("kind", "what"), [("pods", "Why pods do not run"), ("events", "Why pods are not made")]
)
def test_pods_and_events_that_may_not_be_read_are_told_once_and_do_not_end_the_wait(
    cluster, watch, caplog, kind, what
):
    job = cluster.add("j")
    cluster.accept(job)
    no_rights = status(403, "Forbidden", f'{kind} is forbidden: User "u" cannot list resource "{kind}"')
    cluster.faults = lambda method, path: no_rights if path.endswith(f"/{kind}") else None
    watch.look()
    watch.look()
    (line,) = warned(caplog)
    assert line.startswith(
        f'{what} cannot be told: User "u" cannot list resource "{kind}". Let the connection'
    )
    assert "list pods and events and get pods/log" in line
    cluster.run(job)
    assert watch.look().state == "RUNNING"


@pytest.mark.parametrize(("code", "seconds"), [(401, 0.0), (403, pod_watch.REFUSED_SECONDS)])
def test_what_was_refused_once_is_asked_again_and_told_once(
    cluster, watch, caplog, monkeypatch, code, seconds
):
    now = [0.0]
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    cluster.hold_pod(cluster.add("j"), "p-0", NO_PLACE.format(3, 3))
    refused = status(code, "Refused", "not you")
    cluster.faults = lambda method, path: refused if path.endswith("/pods") else None
    for _ in range(2):
        watch.look()
        now[0] += pod_watch.REFUSED_SECONDS
    cluster.faults = lambda method, path: None
    now[0] += seconds - pod_watch.REFUSED_SECONDS
    watch.look()
    assert watch.trouble.startswith("Unschedulable: 0/3 nodes")
    refusals = [line for line in warned(caplog) if "cannot be told" in line]
    assert [line.partition(". ")[0] for line in refusals] == ["Why pods do not run cannot be told: not you"]


def test_an_outage_is_told_once_and_waited_out(cluster, context, capsys):
    trigger = start(task(), context)
    left = [503, 503, 503]

    def down(method, path):
        return (left.pop(), "upstream connect error") if left else cluster.complete(cluster.only)

    cluster.faults = down
    assert events(trigger) == [event_of(trigger)]
    told = [line for line in said(capsys, "warning") if "Waiting on: " in line]
    assert len(told) == 1
    assert "answered 503: upstream connect error" in told[0]


def test_failed_job_names_its_reason_and_shows_the_end_of_the_failed_pods_log(cluster, context, capsys):
    trigger = start(task(), context)
    job = cluster.only
    log = "\n".join(f"line {n}" for n in range(100))
    cluster.end_pod(job, "p-0", code=137, reason="OOMKilled", log=log)
    cluster.fail(job)
    with pytest.raises(RunFailedError) as caught:
        resume(task(), context, trigger)
    assert str(caught.value) == (
        "ended with exit code 137, OOMKilled (pod p-0). FailedJobs: jobset failed due to one or more job failures (first "
        f"failed job: {trigger.name}-node-0). A retry goes on from its checkpoints.\n"
        f"TrainJob: team/{trigger.name} (train_sft)"
    )
    assert said(capsys, "warning")[1:] == [
        "Pod p-0: ended with exit code 137, OOMKilled",
        "Last lines of pod p-0:",
        *(f"  line {n}" for n in range(80, 100)),
    ]


def test_log_of_a_crash_is_read_while_there_is_a_pod_and_its_reason_kept(cluster, context, capsys):
    trigger = start(task(), context)
    job = cluster.only
    cluster.begin(job)
    cluster.end_pod(job, "p-0", code=1, restarted=True, log="CUDA error")
    looks = []

    def give_up(method, path):
        looks.append(path)
        if len(looks) == 8:
            cluster.fail(job)
            cluster.pods.clear()

    cluster.faults = give_up
    (event,) = events(trigger)
    assert event == event_of(trigger, trouble="ended with exit code 1 (pod p-0)")
    assert said(capsys, "warning")[1:] == [
        "Pod p-0: ended with exit code 1",
        "Last lines of pod p-0:",
        "  CUDA error",
    ]
    with pytest.raises(
        RunFailedError, match=r"^ended with exit code 1 \(pod p-0\)\. FailedJobs: jobset failed"
    ):
        task().execute_complete(context, event)


def test_node_that_fails_first_is_the_reason_whatever_its_name(cluster, watch, caplog):
    job = cluster.add("j", nodes=2)
    cluster.begin(job)
    lost = "connection closed by peer"
    cluster.end_pod(job, "p-0", code=1, message=lost, restarted=True, log="0", at="2026-01-01T00:11:20Z")
    cluster.end_pod(
        job, "p-1", code=137, reason="OOMKilled", restarted=True, log="1", at="2026-01-01T00:11:12Z"
    )
    watch.look()
    assert watch.trouble == "ended with exit code 137, OOMKilled (pod p-1)"
    assert warned(caplog) == [
        "Pod p-1: ended with exit code 137, OOMKilled",
        "Last lines of pod p-1:",
        "  1",
        f"Pod p-0: {lost} (exit code 1)",
        "Last lines of pod p-0:",
        "  0",
    ]


def test_crash_that_was_overcome_is_not_the_reason_of_the_next(cluster, watch):
    job = cluster.add("j", nodes=2)
    cluster.begin(job)
    cluster.end_pod(job, "p-0", code=1, restarted=True, at="2026-01-01T00:01:00Z")
    cluster.start_pod(job, "p-1")
    watch.look()
    assert watch.trouble == "ended with exit code 1 (pod p-0)"
    cluster.start_pod(job, "p-0")
    cluster.run(job)
    watch.look()
    assert watch.trouble is None
    cluster.begin(job)
    cluster.end_pod(job, "p-1", code=139, restarted=True, at="2026-01-01T05:00:00Z")
    watch.look()
    assert watch.trouble == "ended with exit code 139 (pod p-1)"


def test_crash_that_is_repeated_shows_its_log_once(cluster, watch, caplog):
    job = cluster.add("j")
    cluster.begin(job)
    for minute in (1, 2, 3):
        at = f"2026-01-01T00:0{minute}:00Z"
        cluster.end_pod(job, "p-0", code=1, restarted=True, log="boom", at=at)
        watch.look()
    crash = "Pod p-0: ended with exit code 1"
    assert warned(caplog) == [crash, "Last lines of pod p-0:", "  boom", crash, crash]


def test_crash_that_is_repeated_in_another_pod_shows_its_log_once(cluster, watch, caplog):
    job = cluster.add("j")
    cluster.begin(job)
    for pod in ("j-node-0-0-abcde", "j-node-0-0-fghij"):
        at = f"2026-01-01T00:0{len(cluster.pods) + 1}:00Z"
        cluster.end_pod(job, pod, code=1, log=f"OSError: no disk on {pod}", at=at)
        watch.look()
    assert warned(caplog) == [
        "Pod j-node-0-0-abcde: OSError: no disk on j-node-0-0-abcde (exit code 1)",
        "Last lines of pod j-node-0-0-abcde:",
        "  OSError: no disk on j-node-0-0-abcde",
        "Pod j-node-0-0-fghij: OSError: no disk on j-node-0-0-fghij (exit code 1)",
    ]


def test_log_of_a_container_that_was_started_again_meanwhile_is_the_previous_one(cluster):
    job = cluster.add("j")
    cluster.end_pod(job, "p-0", code=1, restarted=True, log="boom")
    cluster.logs["p-0", False] = ""
    trouble = PodProblem("p-0", "ended with exit code 1", has_ended=True, container="node")
    backend = KubeflowTrainerHook().backend
    assert backend.log_of("team", trouble, lines=20) == ["boom"]


def test_log_that_breaks_off_is_told_and_ends_no_wait(cluster, watch, caplog):
    cluster.end_pod(cluster.add("j"), "p-0", code=1, restarted=True, log="boom")
    cluster.breaks_off = lambda path: path.endswith("/log")
    assert [watch.look().state for _ in range(2)] == ["RUNNING", "RUNNING"]
    crash, log = warned(caplog)[-2:]
    assert crash == "Pod p-0: ended with exit code 1"
    assert log.startswith(
        "(could not be read: The API server did not answer: ('Connection broken: IncompleteRead("
    )


def test_page_of_a_proxy_in_place_of_a_job_is_no_answer_and_ends_no_wait(cluster, watch, caplog):
    cluster.add("j")
    cluster.faults = lambda method, path: (200, "<html>Sign in</html>")
    assert watch.look() is None
    assert warned(caplog) == [
        "Waiting on: The API server did not answer: No document of Kubernetes: line 1 column 1 (char 0)"
    ]


def test_line_of_a_log_is_what_a_progress_bar_showed_last_and_is_cut(cluster, watch, caplog):
    cluster.end_pod(cluster.add("j"), "p-0", code=1, log="0")
    bar = "".join(f"\r{percent}%" for percent in range(101))
    cluster.faults = lambda method, path: (
        (200, f"begins\r\n{bar}\n{'x' * 600}\n") if path.endswith("/log") else None
    )
    watch.look()
    assert warned(caplog)[-4:] == ["Last lines of pod p-0:", "  begins", "  100%", f"  {'x' * 499}…"]


def test_crash_without_last_words_has_its_reason_from_the_log(cluster, context, capsys):
    trigger = start(task(), context)
    log = "loading\nTraceback (most recent call last):\n  File 'x', line 1\nOSError: [Errno 28] No space left"
    cluster.end_pod(cluster.only, "p-0", code=1, log=log)
    cluster.fail(cluster.only)
    with pytest.raises(
        RunFailedError, match=r"^OSError: \[Errno 28\] No space left \(exit code 1\) \(pod p-0\)\. "
    ):
        resume(task(), context, trigger)
    assert said(capsys, "warning")[1:] == [
        "Pod p-0: OSError: [Errno 28] No space left (exit code 1)",
        "Last lines of pod p-0:",
        *(f"  {line}" for line in log.split("\n")),
    ]


@pytest.mark.parametrize(
    "ended",
    [{"code": 137}, {"code": 143}, {"code": 137, "reason": "OOMKilled"}, {"code": 1, "message": "no GPU"}],
)
def test_log_is_not_the_reason_of_what_was_killed_or_has_said_why(cluster, watch, ended):
    cluster.end_pod(cluster.add("j"), "p-0", log="Error: tried again", **ended)
    watch.look()
    assert "tried again" not in watch.trouble


def test_crash_for_another_reason_shows_its_log_too(cluster, watch, caplog):
    job = cluster.add("j")
    cluster.begin(job)
    for minute, log in enumerate(
        ("Error: link 0 is down", "Error: link 1 is down", "Error: disk is full"), 1
    ):
        cluster.end_pod(job, "p-0", code=1, restarted=True, log=log, at=f"2026-01-01T00:0{minute}:00Z")
        watch.look()
    assert warned(caplog) == [
        "Pod p-0: Error: link 0 is down (exit code 1)",
        "Last lines of pod p-0:",
        "  Error: link 0 is down",
        "Pod p-0: Error: link 1 is down (exit code 1)",
        "Pod p-0: Error: disk is full (exit code 1)",
        "Last lines of pod p-0:",
        "  Error: disk is full",
    ]


def test_log_that_could_not_be_read_is_shown_of_the_next_crash(cluster, watch, caplog):
    job = cluster.add("j")
    cluster.begin(job)
    for minute, fault in ((1, status(500, "InternalError", "no kubelet")), (2, None)):
        cluster.faults = lambda method, path, fault=fault: fault if path.endswith("/log") else None
        at = f"2026-01-01T00:0{minute}:00Z"
        cluster.end_pod(job, "p-0", code=1, restarted=True, log="boom", at=at)
        watch.look()
    crash = "Pod p-0: ended with exit code 1"
    unread = "(could not be read: The API server answered 500: no kubelet)"
    assert warned(caplog) == [crash, unread, crash, "Last lines of pod p-0:", "  boom"]


def test_last_crash_whose_pod_is_gone_with_its_log_has_the_reason_of_those_before(cluster, watch):
    job = cluster.add("j")
    cluster.end_pod(job, "p-0", code=1, restarted=True, log="Error: disk is full", at="2026-01-01T00:01:00Z")
    watch.look()
    cluster.run(job)
    cluster.start_pod(job, "p-0")
    watch.look()
    assert watch.trouble is None
    cluster.begin(job)
    cluster.end_pod(job, "p-0", code=1, restarted=True, at="2026-01-01T00:02:00Z")
    cluster.faults = log_is_gone
    watch.look()
    assert watch.trouble == "Error: disk is full (exit code 1) (pod p-0)"


@pytest.mark.parametrize(
    ("pod", "ended", "trouble"),
    [
        ("p-1", {"code": 1}, "ended with exit code 1 (pod p-1)"),
        ("p-0", {"code": 139}, "ended with exit code 139 (pod p-0)"),
        ("p-0", {"code": 1, "message": "no GPU"}, "no GPU (exit code 1) (pod p-0)"),
    ],
)
def test_crash_that_ends_otherwise_and_has_no_log_has_no_former_reason(cluster, watch, pod, ended, trouble):
    job = cluster.add("j", nodes=2)
    cluster.end_pod(job, "p-0", code=1, restarted=True, log="Error: disk is full", at="2026-01-01T00:01:00Z")
    cluster.start_pod(job, "p-1")
    watch.look()
    cluster.run(job)
    cluster.start_pod(job, "p-0")
    watch.look()
    cluster.begin(job)
    cluster.end_pod(job, pod, restarted=True, at="2026-01-01T00:02:00Z", **ended)
    cluster.faults = log_is_gone
    watch.look()
    assert watch.trouble == trouble


def test_long_log_is_read_from_its_end(cluster):
    cluster.end_pod(cluster.add("j"), "p-0", code=1)
    cluster.faults = lambda method, path: (200, "x" * MAX_LOG_BYTES + "\nError: disk is full\n")
    trouble = PodProblem("p-0", "ended with exit code 1", has_ended=True, container="node")
    lines = KubeflowTrainerHook().backend.log_of("team", trouble, lines=20)
    assert lines[-1] == "Error: disk is full"
    assert len("\n".join(lines)) < MAX_LOG_BYTES


def test_logs_of_a_few_pods_are_read_where_all_fail_together(cluster, watch):
    job = cluster.add("j", nodes=8)
    cluster.begin(job)
    for node in range(8):
        cluster.end_pod(job, f"p-{node}", code=1, log="boom")
    read = []
    cluster.faults = lambda method, path: read.append(path) if path.endswith("/log") else None
    watch.look()
    assert len(read) == MAX_PODS


def test_failed_job_whose_pods_are_gone_says_so(cluster, context, capsys):
    trigger = start(task(), context)
    cluster.fail(cluster.only)
    with pytest.raises(RunFailedError, match="FailedJobs: jobset failed"):
        resume(task(), context, trigger)
    (line,) = said(capsys, "error")
    assert line.startswith("(No failed pod is left to read.")
    assert line.endswith("a runtime with restartPolicy: Never and backoffLimit: 0 keeps them.)")


FINAL = json.dumps(
    {"type": "SettingError", "message": "no argument 'lr'", "retryable": False, "traceback": None}
)
RETRYABLE = json.dumps({"type": "TrainingInterrupted", "message": "saved", "retryable": True})


def test_error_that_will_happen_again_ends_the_job_before_its_restarts_are_used_up(cluster, context, capsys):
    trigger = start(task(), context)
    job = cluster.only
    cluster.update(job, jobsStatus=[{"name": "node", "active": 1}])
    cluster.end_pod(job, "p-1", code=1, message=FINAL, restarted=True, log="traceback")
    message = "SettingError: no argument 'lr' (exit code 1)"
    assert events(trigger) == [event_of(trigger, final_error=message, trouble=f"{message} (pod p-1)")]
    assert "  traceback" in said(capsys, "warning")
    with pytest.raises(InvalidInputError, match=f"^{re.escape(message)}. Correct the task's arguments"):
        task().execute_complete(context, event_of(trigger, final_error=message))
    assert cluster.deleted == [("team", trigger.name, "Background")]


def test_error_that_may_pass_is_left_to_the_runtimes_restarts(cluster, context):
    trigger = start(task(), context)
    job = cluster.only
    cluster.end_pod(job, "p-0", code=143, message=RETRYABLE, restarted=True)
    looks = []

    def recover(method, path):
        looks.append(path)
        if len(looks) > 6:
            cluster.complete(job)

    cluster.faults = recover
    assert events(trigger) == [event_of(trigger)]


def test_failed_job_is_not_retried_when_the_training_says_so(cluster, context):
    trigger = start(task(), context)
    cluster.end_pod(cluster.only, "p-0", code=1, message=FINAL, log="x")
    cluster.fail(cluster.only)
    with pytest.raises(InvalidInputError):
        task().execute_complete(context, event_of(trigger))


def test_last_words_that_are_no_json_are_shown_as_they_are(cluster):
    job = cluster.add("j")
    cluster.end_pod(job, "p-0", code=1, message='{"type": "Sett')
    (pod,) = KubeflowTrainerHook().backend.pods("team", "j")
    assert [trouble.message for trouble in problems_of_pod(pod)] == ['{"type": "Sett (exit code 1)']


def test_deadline_deletes_a_waiting_job(cluster, context):
    operator = task(run_timeout=timedelta(hours=2), execution_timeout=timedelta(hours=1))
    before = time.time()
    trigger = start(operator, context)
    assert before + 3600 <= trigger.deadline <= time.time() + 3600
    assert trigger.run_timeout == cluster.only["spec"]["activeDeadlineSeconds"] == 7200
    trigger.deadline = time.time()
    assert events(trigger) == [event_of(trigger, timed_out=True)]
    assert cluster.deleted == [("team", trigger.name, "Background")]
    with pytest.raises(
        RunFailedError,
        match="longer than its run_timeout of 2:00:00 or its execution_timeout of 1:00:00 and was stopped",
    ):
        operator.execute_complete(context, event_of(trigger, timed_out=True))


def test_time_that_a_job_waits_for_its_turn_does_not_count(cluster, context):
    trigger = start(task(run_timeout=timedelta(hours=1)), context)
    job = cluster.only
    cluster.created_at(job, time.time() - 7200)
    cluster.suspend(job)
    looks = []

    def go_on(method, path):
        looks.append(path)
        if len(looks) == 6:
            cluster.resume(job)
            cluster.run(job)
        if len(looks) == 9:
            cluster.complete(job)

    cluster.faults = go_on
    assert events(trigger) == [event_of(trigger)]
    assert len(looks) >= 9


@pytest.mark.parametrize("deferrable", [True, False])
def test_attempt_that_takes_a_job_over_gives_it_no_more_time(cluster, context, deferrable):
    operator = task(run_timeout=timedelta(hours=1), deferrable=deferrable)
    start(task(run_timeout=timedelta(hours=1)), context)
    cluster.created_at(cluster.only, time.time() - 3601)
    cluster.run(cluster.only)
    with pytest.raises(RunFailedError, match="longer than its run_timeout of 1:00:00 and was stopped"):
        if deferrable:
            resume(operator, context, start(operator, retry(context)))
        else:
            operator.execute(retry(context))
    assert len(cluster.created) == 1
    assert cluster.jobs == {}


def test_deadline_that_the_cluster_kept_is_told_as_one(cluster, context):
    operator = task(run_timeout=timedelta(minutes=1))
    trigger = start(operator, context)
    cluster.exceed_deadline(cluster.only)
    with pytest.raises(RunFailedError, match="took longer than its run_timeout of 0:01:00 and was stopped"):
        resume(operator, context, trigger)


def test_why_no_pod_ran_is_carried_into_the_error_of_the_deadline(cluster, context):
    operator = task(run_timeout=timedelta(minutes=1))
    trigger = start(operator, context)
    job = cluster.only
    cluster.accept(job)
    cluster.begin(job)
    cluster.warn(job, QUOTA)
    looks = []

    def end(method, path):
        looks.append(path)
        if len(looks) == 9:
            cluster.exceed_deadline(job)

    cluster.faults = end
    (event,) = events(trigger)
    with pytest.raises(RunFailedError) as caught:
        operator.execute_complete(context, event)
    assert str(caught.value) == (
        f"exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0 (Job {trigger.name}-node-0: FailedCreate). So "
        "the training was not done within its run_timeout of 0:01:00, and was stopped. Put that right and retry; what it has "
        f"saved it goes on from.\nTrainJob: team/{trigger.name} (train_sft)"
    )


def test_run_timeout_counts_from_when_the_job_was_made_whatever_the_cluster_makes_of_it(cluster, context):
    trigger = start(task(run_timeout=timedelta(minutes=1)), context)
    cluster.created_at(cluster.only, time.time() - 61)
    cluster.warn(cluster.only, QUOTA, kind="TrainJob")
    (event,) = events(trigger)
    assert (event["timed_out"], cluster.jobs) == (True, {})


def test_end_of_its_time_is_noticed_between_two_looks(cluster, context):
    trigger = start(task(run_timeout=timedelta(seconds=100), poll_interval=60), context)
    cluster.created_at(cluster.only, time.time() - 99)
    before = time.monotonic()
    assert [event["timed_out"] for event in events(trigger)] == [True]
    assert time.monotonic() - before < 10


def test_job_that_finished_at_its_deadline_counts(cluster, context):
    trigger = start(task(run_timeout=timedelta(minutes=1)), context)
    cluster.complete(cluster.only)
    value = task().execute_complete(context, event_of(trigger, timed_out=True))
    assert value["state"] == "SUCCEEDED"


def test_waiting_in_the_worker_gives_the_same_result(cluster, context):
    def finish(method, path):
        if method == "GET" and cluster.jobs:
            cluster.complete(cluster.only)

    cluster.faults = finish
    value = task(deferrable=False).execute(context)
    assert value["artifacts"]["model"] == f"/mnt/shared/out/{value['name']}/model"


def test_deadline_holds_in_the_worker(cluster, context):
    cluster.faults = lambda method, path: cluster.run(cluster.only) if cluster.jobs else None
    with pytest.raises(RunFailedError, match="took longer than its run_timeout of 0:00:00"):
        task(deferrable=False, run_timeout=timedelta(microseconds=1)).execute(context)
    assert len(cluster.deleted) == 1


def killed(operator, context, state, error=None):
    """What a worker does that is told to end while it waits."""
    context["ti"].get_task_states = lambda **kwargs: {"manual": {"task": state}}
    start(operator, context)
    try:
        if error:
            raise error
    except AirflowTaskTimeout:
        operator.on_kill()
    else:
        operator.on_kill()


@pytest.mark.parametrize(
    ("state", "settings", "deleted"),
    [
        ("failed", {}, 1),
        ("restarting", {}, 1),
        ("running", {}, 0),
        ("running", {"cancel_on_eviction": True}, 1),
        ("failed", {"cancel_on_kill": False}, 0),
    ],
)
def test_killed_worker_deletes_the_job_only_when_the_task_is_given_up(
    cluster, context, state, settings, deleted
):
    killed(task(**settings), context, state)
    assert len(cluster.deleted) == deleted


def test_task_that_is_ended_while_it_waits_says_so_and_blames_nobody_else(cluster, context):
    operator = task(deferrable=False)
    get = operator.hook.backend.get

    def marked_meanwhile(*place, **how):
        if cluster.jobs:
            mark(operator, context, "failed")
        return get(*place, **how)

    operator.hook.backend.get = marked_meanwhile
    ended = "^The task was ended while it waited, and its TrainJob was cancelled. Clear it to run it.\nTrainJob team/"
    with pytest.raises(RunCanceledError, match=ended):
        operator.execute(context)
    assert (len(cluster.created), cluster.jobs) == (1, {})


def test_worker_that_timed_out_deletes_the_job(cluster, context):
    killed(task(), context, "running", error=AirflowTaskTimeout())
    assert len(cluster.deleted) == 1


def mark(operator, context, state):
    """End the task from outside, as Airflow does: its signal handler calls ``on_kill`` and goes back to work."""
    context["ti"].get_task_states = lambda **kwargs: {"manual": {"task": state}}
    operator.on_kill()
    if state == "restarting":  # the task instance has another id now
        context["task_state_store"].set = refuse


def refuse(*args):
    raise RuntimeError("404: Task instance not found")


@pytest.mark.parametrize("state", ["failed", "restarting"])
@pytest.mark.parametrize("cancel_on_kill", [True, False])
def test_task_that_is_given_up_before_its_request_makes_no_job(cluster, context, state, cancel_on_kill):
    operator = task(cancel_on_kill=cancel_on_kill)
    make_manifest = operator.manifest

    def marked_meanwhile(*args, **kwargs):
        mark(operator, context, state)
        return make_manifest(*args, **kwargs)

    operator.manifest = marked_meanwhile
    with pytest.raises((RunCanceledError, RuntimeError)):
        operator.execute(context)
    assert cluster.created == []


@pytest.mark.parametrize(
    ("state", "settings", "deleted"),
    [
        ("failed", {}, 1),
        ("restarting", {}, 1),
        ("failed", {"cancel_on_kill": False}, 0),
        ("running", {}, 0),
        ("running", {"cancel_on_eviction": True}, 1),
    ],
)
def test_job_of_a_task_that_is_given_up_as_it_is_requested_is_deleted(
    cluster, context, state, settings, deleted
):
    operator = task(**settings)
    create = operator.hook.backend.create

    def marked_meanwhile(manifest):
        mark(operator, context, state)
        return create(manifest)

    operator.hook.backend.create = marked_meanwhile
    with pytest.raises(RunCanceledError if deleted else TaskDeferred):
        operator.execute(context)
    assert (len(cluster.created), len(cluster.jobs)) == (1, 1 - deleted)


def test_job_that_a_task_was_finding_again_when_it_was_given_up_is_deleted(cluster, context):
    start(task(), context)
    operator = task()
    find = operator.hook.backend.find

    def marked_meanwhile(*place):
        mark(operator, context, "failed")
        return find(*place)

    operator.hook.backend.find = marked_meanwhile
    with pytest.raises(RunCanceledError, match="was ended while it submitted its run, which was cancelled"):
        operator.execute(retry(context))
    assert cluster.jobs == {}


@pytest.mark.parametrize(("delete_on_kill", "deleted"), [(True, 1), (False, 0)])
def test_killed_trigger_deletes_the_job(cluster, context, delete_on_kill, deleted):
    trigger = start(task(cancel_on_kill=delete_on_kill), context)
    asyncio.run(trigger.on_kill())
    assert len(cluster.deleted) == deleted


def test_trigger_survives_serialisation(cluster, context):
    trigger = start(task(run_timeout=timedelta(hours=1)), context)
    path, arguments = trigger.serialize()
    assert path == f"{TrainJobTrigger.__module__}.{TrainJobTrigger.__qualname__}"
    assert json.loads(json.dumps(arguments)) == arguments
    assert TrainJobTrigger(**arguments).serialize() == (path, arguments)


def refusal(cluster, context, code, body):
    cluster.faults = lambda method, path: (code, body) if method == "POST" else None
    with pytest.raises(ConfigurationError) as caught:
        task().execute(context)
    return str(caught.value)


def test_missing_permission_names_what_is_needed(cluster, context):
    _, body = status(403, "Forbidden", 'trainjobs is forbidden: User "u" cannot create resource "trainjobs"')
    message = refusal(cluster, context, 403, body)
    assert "\nWanted: create TrainJob team/dag-task-" in message
    assert message.partition("\n")[0] == (
        'User "u" cannot create resource "trainjobs". Let the connection\'s user create, get and delete trainjobs.trainer.'
        "kubeflow.org, list pods and events and get pods/log in that namespace, and get clustertrainingruntimes and "
        "trainingruntimes."
    )


def test_cluster_without_kubeflow_trainer_is_told(cluster, context):
    message = refusal(cluster, context, 404, "404 page not found\n")
    assert message.partition("\n")[0] == (
        "The cluster does not know trainjobs.trainer.kubeflow.org. Install Kubeflow Trainer 2.2 or later."
    )


def test_what_the_webhook_says_is_passed_on(cluster, context):
    cluster.admits = lambda manifest: (
        'spec.trainer.env: Invalid value: [{"name":"A"}]: must not have reserved envs'
    )
    with pytest.raises(
        ConfigurationError,
        match=r'^must not have reserved envs \(spec.trainer.env is \[{"name":"A"}\]\)\. Kubeflow Trainer refuses it',
    ):
        task().execute(context)


def test_quota_that_is_used_up_is_no_missing_permission_and_may_pass(cluster, context):
    quota = 'trainjobs.trainer.kubeflow.org "j" is forbidden: exceeded quota: q, requested: count/trainjobs=1'
    cluster.faults = lambda method, path: status(403, "Forbidden", quota) if method == "POST" else None
    with pytest.raises(
        RunFailedError, match=r"^exceeded quota: q, requested: count/trainjobs=1\. Retry when"
    ) as caught:
        task().execute(context)
    assert not isinstance(caught.value, AirflowFailException)
    cluster.faults = lambda method, path: None
    start(task(), retry(context))
    assert len(cluster.created) == 1


@pytest.mark.parametrize(
    ("runtime", "problem"),
    [
        ("deepspeed-distributed", "starts the training in its job 'launcher' and not on its nodes"),
        ("mlx-distributed", "starts the training in its job 'launcher' and not on its nodes"),
        ("torchtune-llama3.2-1b", "is one of torchtune's"),
        ("torchtune-qwen2.5-1.5b", "is one of torchtune's"),
        ("jax-distributed", "is for jax (mlPolicy), and does not tell torchrun about nodes and processes"),
        ("xgboost-distributed", "is for xgboost (mlPolicy), and does not tell torchrun"),
        ("torch-distributed-with-cache", "wants to be told what its job 'dataset-initializer' fetches"),
    ],
)
def test_runtime_that_cannot_run_the_training_is_refused_by_name(cluster, context, runtime, problem):
    with pytest.raises(ConfigurationError) as caught:
        task(runtime=runtime).execute(context)
    assert str(caught.value).startswith(f"Runtime {runtime!r} {problem}")
    assert "Name one that starts torchrun's nodes, as torch-distributed does" in str(caught.value)
    assert (cluster.created, context["task_state_store"].values) == ([], {})


def own_runtime(change, **spec):
    """A runtime of the namespace, after the pattern of torch-distributed but for what is changed in its job."""
    labels = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    pod = {"containers": [{"name": "node", "image": "i"}]}
    job = {"name": "node", "template": {"metadata": {"labels": labels}, "spec": {"template": {"spec": pod}}}}
    change(job)
    template = {"spec": {"replicatedJobs": [job]}}
    return {
        "kind": "TrainingRuntime",
        "metadata": {"name": "own", "namespace": "team"},
        "spec": {"mlPolicy": {"numNodes": 1, "torch": {}}, "template": template, **spec},
    }


@pytest.mark.parametrize(
    ("runtime", "problem"),
    [
        (own_runtime(lambda job: job.update(name="worker")), "starts the training in its job 'worker'"),
        (own_runtime(lambda job: job["template"].pop("metadata")), "does not give the command to its job 'node'"),
        (
            own_runtime(lambda job: job["template"]["spec"]["template"]["spec"]["containers"][0].update(name="main")),
            "has no container 'node' in its job 'node'",
        ),
        (own_runtime(lambda job: None, mlPolicy={"numNodes": 1}), "has no mlPolicy.torch, so its nodes and processes"),
    ],
)  # fmt: skip
def test_own_runtime_is_checked_alike(cluster, context, runtime, problem):
    cluster.runtimes.append(runtime)
    with pytest.raises(ConfigurationError, match=f"^Runtime 'own' {problem}"):
        task(runtime="own", runtime_kind="TrainingRuntime").execute(context)


def test_own_runtime_after_the_pattern_is_taken_and_one_process_needs_no_torchrun(cluster, context):
    cluster.runtimes = [own_runtime(lambda job: None), own_runtime(lambda job: None, mlPolicy=None)]
    cluster.runtimes[1]["metadata"]["name"] = "plain"
    start(task(runtime="own", runtime_kind="TrainingRuntime"), context)
    start(task(runtime="plain", runtime_kind="TrainingRuntime", num_nodes=1), clear(context))
    assert len(cluster.created) == 2


def test_runtime_that_is_missing_is_named_with_those_that_are_there(cluster, context):
    with pytest.raises(
        ConfigurationError,
        match=r"^There is no ClusterTrainingRuntime 'torch-distribted' \(did you mean 'torch-distributed'\?\)\. There are: "
        "deepspeed-distributed, jax-distributed,",
    ):
        task(runtime="torch-distribted").execute(context)


def test_runtime_that_may_not_be_read_is_left_to_kubeflow_trainer(cluster, context):
    no_rights = status(403, "Forbidden", "clustertrainingruntimes is forbidden")
    cluster.faults = lambda method, path: no_rights if "runtimes" in path else None
    start(task(runtime="deepspeed-distributed"), context)
    assert len(cluster.created) == 1


def test_namespace_that_is_missing_is_no_missing_job(cluster, context):
    message = refusal(cluster, context, *status(404, "NotFound", 'namespaces "team" not found'))
    assert 'namespaces "team" not found. Correct the task' in message


def test_job_whose_name_speaks_of_namespaces_may_be_missing_too(cluster):
    assert KubeflowTrainerHook().backend.find("team", "clean-namespaces-train") is None


@pytest.mark.parametrize("code", [401, 403])
def test_refusal_while_the_job_goes_on_fails_the_attempt_and_a_retry_reconnects(cluster, context, code):
    trigger = start(task(), context)
    cluster.run(cluster.only)
    cluster.faults = lambda method, path: status(code, "Unauthorized", "Unauthorized")
    (event,) = events(trigger)
    assert event["error"].startswith("The TrainJob cannot be watched any more: ")
    goes_on = f"TrainJob team/{trigger.name} goes on; a retry reconnects to it.$"
    with pytest.raises(ApiUnavailableError, match=goes_on) as caught:
        task().execute_complete(context, event)
    assert not isinstance(caught.value, AirflowFailException)
    with pytest.raises(ApiUnavailableError, match=goes_on):
        task().execute(retry(context))
    cluster.faults = lambda method, path: None
    with pytest.raises(ApiUnavailableError, match=goes_on):
        task().execute_complete(context, event)
    assert start(task(), retry(context)).name == trigger.name
    assert (len(cluster.created), cluster.deleted) == (1, [])
    cluster.complete(cluster.only)
    assert task().execute_complete(context, event)["state"] == "SUCCEEDED"


def test_refusal_while_the_worker_waits_may_be_retried(cluster, context):
    start(task(), context)
    looks = []

    def refuse_the_second(method, path):
        looks.append(path)
        return status(401, "Unauthorized", "Unauthorized") if len(looks) > 1 else None

    cluster.faults = refuse_the_second
    with pytest.raises(ApiUnavailableError, match="goes on; a retry reconnects to it"):
        task(deferrable=False).execute(retry(context))
    assert (len(cluster.created), cluster.deleted) == (1, [])


def test_api_server_that_does_not_answer_is_asked_again(cluster, monkeypatch):
    monkeypatch.setattr("airflow_provider_llmops.backends.retrying.FIRST_DELAY_SECONDS", 0.01)
    backend = KubeflowTrainerHook().backend
    cluster.faults = lambda method, path: (500, "etcd")
    with pytest.raises(ApiUnavailableError, match="answered 500: etcd"):
        backend.get("team", "j", patience=0.2)
    assert len(cluster.requests) > 1


def test_connection_that_names_no_cluster_is_told(monkeypatch, context):
    monkeypatch.setenv(
        "AIRFLOW_CONN_KUBERNETES_DEFAULT",
        json.dumps({"conn_type": "kubernetes", "extra": {"kube_config_path": "/nowhere", "namespace": "n"}}),
    )
    with pytest.raises(ConfigurationError, match="Kubernetes connection 'kubernetes_default' cannot be used"):
        task().execute(context)


def test_missing_provider_names_the_extra(monkeypatch, context):
    monkeypatch.setitem(sys.modules, "airflow.providers.cncf.kubernetes.hooks", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'airflow-provider-llmops\[kubernetes\]'"):
        task(namespace="n").execute(context)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"component": "train_stf"}, "no component 'train_stf' (did you mean 'train_sft'?)"),
        ({"component": "evaluate_model"}, "There is no component 'evaluate_model'"),
        ({"preset": "zero4"}, "no preset 'zero4' (did you mean 'zero"),
        ({"arguments": {**ARGUMENTS, "trainnig_args": {}}}, "(did you mean 'training_args'?)"),
        ({"arguments": {"base_model": "/mnt/shared/base"}}, "needs a value for: dataset"),
        ({"arguments": {**ARGUMENTS, "training_args": 3}}, "'training_args' must be dict"),
        ({"arguments": ["dataset"]}, "arguments must be a dict"),
        ({"arguments": {**ARGUMENTS, "dataset": "s3://b/rows"}}, "The nodes cannot read dataset"),
        ({"arguments": {**ARGUMENTS, "dataset": "/mnt/shared/../x"}}, "must be a path below /mnt/shared,"),
        ({"arguments": {**ARGUMENTS, "checkpoints": "/data/c"}}, "checkpoints must be a path below"),
        ({"output_path": "/mnt/sharedx/out"}, "output_path: '/mnt/sharedx/out'"),
        ({"output_path": "/mnt/shared"}, "output_path: '/mnt/shared'"),
        ({"output_path": "out"}, "output_path: 'out'"),
        ({"step_settings": {}}, "mount one with step_settings={'persistent_volume_claims'"),
        ({"step_settings": {**SETTINGS, "gpus": 1}}, "have no 'gpus'"),
        ({"num_nodes": 0}, "num_nodes must be a whole number from 1 on, got 0"),
        ({"num_nodes": "two"}, "num_nodes must be a whole number from 1 on, got 'two'"),
        ({"processes_per_node": 0}, "processes_per_node must be a whole number from 1 on"),
        ({"namespace": "Team"}, "Invalid namespace 'Team'"),
        ({"runtime": ""}, "runtime must be the name of a ClusterTrainingRuntime"),
        ({"runtime_kind": "Runtime"}, "runtime_kind must be ClusterTrainingRuntime or TrainingRuntime"),
        ({"arguments": {**ARGUMENTS, "training_args": {"run_name": "y" * 100_000}}}, "at most 98304 fit"),
    ],
)  # fmt: skip
def test_bad_setting_is_refused_before_anything_is_made(cluster, context, changed, message):
    with pytest.raises(ConfigurationError) as caught:
        task(**changed).execute(context)
    assert message in str(caught.value)
    assert [method for method, _ in cluster.requests if method == "POST"] == []
    assert context["task_state_store"].values == {}


def requested(operator, context):
    return operator.training.request.document("j", attempts_key(context))


@pytest.mark.parametrize("name", ["dag_id", "run_id", "task_id"])
def test_checkpoints_of_another_run_are_not_gone_on_from(cluster, context, name):
    def directory():
        return requested(task(), context)["arguments"]["checkpoints"]

    mine = directory()
    assert directory() == mine
    setattr(context["ti"], name, "other")
    theirs = directory()
    context["ti"].map_index = 1
    assert len({mine, theirs, directory()}) == 3


def test_hub_addresses_are_left_to_the_component(cluster, context):
    hub = "hf://datasets/org/rows@main"
    request = requested(task(arguments={**ARGUMENTS, "dataset": hub, "eval_dataset": None}), context)
    assert request["arguments"]["dataset"] == hub
    assert "eval_dataset" not in request["arguments"]


def test_numbers_of_templates_are_numbers_in_the_request_and_wrong_fields_are_named(cluster, context):
    given = {"training_args": {"max_steps": "20", "learning_rate": "2e-4"}, "save_minutes": "5"}
    sent = task(arguments={**ARGUMENTS, **given}, num_nodes="2", processes_per_node="3")
    arguments = requested(sent, context)["arguments"]
    assert (arguments["training_args"], arguments["save_minutes"]) == (
        {"max_steps": 20, "learning_rate": 2e-4},
        5.0,
    )
    trainer = sent.manifest(context, "f" * 32)["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 3)
    for wrong, message in (
        ({"learning_rate": "fast"}, r"^training_args: learning_rate is 'fast', and takes a number"),
        ({"lora_r": 8}, r"^training_args: 'lora_r' .* Put it into peft_args as `r`"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            requested(task(arguments={**ARGUMENTS, "training_args": wrong}), context)
    newer = {**SETTINGS, "image": "registry/components:9.0"}
    own = task(arguments={**ARGUMENTS, "training_args": {"a_new_one": 1}}, step_settings=newer)
    assert requested(own, context)["arguments"]["training_args"] == {"a_new_one": 1}


def test_xcom_keeps_below_its_limit(cluster, context):
    trigger = start(task(), context)
    metrics = {f"{n:03}_{'m' * 60}": "1.23456789012345678" for n in range(256)}
    cluster.run(cluster.only, 100, **metrics)
    cluster.complete(cluster.only)
    value = task().execute_complete(context, event_of(trigger))
    assert 15_000 < len(json.dumps(value)) <= 16 * 1024


@pytest.mark.parametrize("operator", [TrainJobOperator, TrainJobSensor])
def test_every_parameter_is_documented_and_every_setting_of_what_runs_templated(operator):
    own = set(inspect.signature(operator.__init__).parameters) - {"self", "kwargs", "poke_interval"}
    assert [name for name in own if f":param {name}:" not in operator.__doc__] == []
    how = {"deferrable", "poll_interval", "run_timeout", "cancel_on_kill", "cancel_on_eviction"}
    assert own - how == set(operator.template_fields)


def test_kubernetes_is_loaded_only_when_it_is_asked():
    code = (
        "import airflow_provider_llmops.operators.train_job, airflow_provider_llmops.sensors.train_job, "
        "airflow_provider_llmops.triggers.train_job, sys; print('kubernetes' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip().endswith("False")


def sensor(**changed):
    return TrainJobSensor(**{"task_id": "wait", "name": "j", "poke_interval": 0.01, **changed})


def test_sensor_defers_until_the_job_is_complete(cluster, context):
    job = cluster.add("j")
    with pytest.raises(TaskDeferred) as deferred:
        sensor().execute(context)
    trigger = deferred.value.trigger
    assert (trigger.namespace, trigger.name, trigger.delete_on_kill) == ("team", "j", False)
    cluster.complete(job)
    (event,) = events(trigger)
    assert sensor().execute_complete(context, event) is None


def test_sensor_of_a_complete_job_does_not_defer(cluster, context):
    cluster.complete(cluster.add("j", namespace="other"))
    assert sensor(namespace="other").execute(context) is None


def test_sensor_in_a_worker_waits_too(cluster, context):
    job = cluster.add("j")
    looks = []

    def finish(method, path):
        looks.append(path)
        if len(looks) == 4:
            cluster.complete(job)

    cluster.faults = finish
    sensor(deferrable=False).execute(context)
    assert len(looks) >= 4


def test_sensor_of_a_failed_job_whose_pods_are_gone_says_so(cluster, context, capsys):
    cluster.fail(cluster.add("j"))
    with pytest.raises(RunFailedError, match="FailedJobs: jobset failed"):
        sensor().execute(context)
    (line,) = said(capsys, "error")
    assert line.startswith("(No failed pod is left to read.")


def test_sensor_fails_with_its_job_and_never_touches_it(cluster, context):
    cluster.fail(cluster.add("j"))
    with pytest.raises(RunFailedError, match=r"(?s)^FailedJobs: jobset failed.*TrainJob: team/j"):
        sensor().execute(context)
    job = cluster.add("k")
    job["metadata"]["deletionTimestamp"] = CLOCK
    with pytest.raises(RunCanceledError, match=r"^The TrainJob was deleted.\nTrainJob: team/k"):
        sensor(name="k").execute(context)
    with pytest.raises(RunNotFoundError, match="was deleted, or is in another namespace"):
        sensor(name="l").execute(context)
    assert {method for method, _ in cluster.requests} == {"GET"}


def test_sensor_waits_for_a_job_that_will_fail_until_it_has(cluster, context):
    """Somebody else's job is theirs: it is not called failed before it is."""
    job = cluster.add("j")
    cluster.end_pod(job, "p-0", code=1, message=FINAL, restarted=True)
    looks = []

    def give_up(method, path):
        looks.append(path)
        if len(looks) == 6:
            cluster.fail(job)

    cluster.faults = give_up
    with pytest.raises(TaskDeferred) as deferred:
        sensor().execute(context)
    seen = "SettingError: no argument 'lr' (exit code 1) (pod p-0)"
    (event,) = events(deferred.value.trigger)
    assert event == event_of(deferred.value.trigger, trouble=seen)
    assert job["status"]["conditions"][0]["type"] == "Failed"
    with pytest.raises(RunFailedError, match=rf"^{re.escape(seen)}\. FailedJobs: jobset failed"):
        sensor().execute_complete(context, event)


ENDED = {
    "namespace": "team",
    "name": "j",
    "timed_out": False,
    "error": None,
    "final_error": None,
    "trouble": None,
}


def test_sensor_does_not_take_silence_for_success(cluster, context, monkeypatch):
    monkeypatch.setattr("airflow_provider_llmops.backends.retrying.FIRST_DELAY_SECONDS", 0.01)
    cluster.fail(cluster.add("j"))
    left = [503, 503]
    cluster.faults = lambda method, path: (left.pop(), "upstream connect error") if left else None
    with pytest.raises(RunFailedError, match=r"^FailedJobs"):
        sensor().execute_complete(context, ENDED)
    monkeypatch.setattr(trainer.TrainJobs.get, "__kwdefaults__", {"patience": 0.1})
    cluster.faults = lambda method, path: (503, "upstream connect error")
    with pytest.raises(ApiUnavailableError, match="answered 503"):
        sensor().execute_complete(context, ENDED)


def test_sensor_waits_for_a_job_of_the_same_name_that_has_taken_the_place_of_the_one_that_ended(
    cluster, context
):
    cluster.run(cluster.add("j"))
    with pytest.raises(TaskDeferred) as deferred:
        sensor().execute_complete(context, ENDED)
    assert (deferred.value.trigger.name, deferred.value.method_name) == ("j", "execute_complete")


def test_sensor_that_is_refused_while_it_waits_may_be_retried(cluster, context):
    cluster.run(cluster.add("j"))
    with pytest.raises(ApiUnavailableError, match=r"^no rights\nTrainJob team/j goes on; a retry reconnects"):
        sensor().execute_complete(context, {**ENDED, "error": "no rights"})
