"""The Kubeflow backend against the fake API server, over HTTP and through the official client."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from executor_logs import leave_log
from kfp_api import FakeKfpApi, LoginPage
from kube_pods import FakePods, pod
from pipelines import task, two_steps

from airflow_provider_llmops.backends.pipelines.base import RunRequest
from airflow_provider_llmops.backends.pipelines.ending import failure_of
from airflow_provider_llmops.backends.pipelines.kubeflow import places, root, why_waiting
from airflow_provider_llmops.backends.pipelines.kubeflow.backend import KubeflowPipelineBackend
from airflow_provider_llmops.backends.pipelines.kubeflow.runs import MAX_DESCRIPTION
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.backends.pipelines.kubeflow.versions import PipelineVersions, as_yaml
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    ResultError,
    RunNotFoundError,
)
from airflow_provider_llmops.settings.kubernetes import StepSettings
from airflow_provider_llmops.settings.steps import apply_settings
from airflow_provider_llmops.specs.pipeline import PipelineSpec
from airflow_provider_llmops.states import RunState


@pytest.fixture
def settings(api, tmp_path):
    return KfpSettings(
        conn_id="kubeflow_default", endpoint=api.url, pipeline_root=f"file://{tmp_path}/root", patience=5.0
    )


@pytest.fixture
def backend(settings):
    return KubeflowPipelineBackend(settings)


@pytest.fixture
def spec():
    return PipelineSpec.parse(json.dumps(two_steps()).encode(), where="two_steps.yaml")


@pytest.fixture
def request_of(spec):
    return lambda name="dag.task 1", steps=3, **fields: RunRequest(
        display_name=name, pipeline=spec.bind({"steps": steps}), **fields
    )


def paths(api):
    return [f"{request.method} {request.path.removeprefix('/apis/v2beta1/')}" for request in api.requests]


# Submitting


def test_an_input_without_a_value_that_a_group_of_tasks_takes_is_named(backend, caplog):
    ir = two_steps()
    text = {"inputDefinitions": {"parameters": {"text": {"isOptional": True, "parameterType": "STRING"}}}}
    passed = {"parameters": {"text": {"componentInputParameter": "text"}}}
    ir["components"]["comp-inner"] = {"dag": {"tasks": {"report": task("comp-report", **passed)}}, **text}
    ir["root"] = {"dag": {"tasks": {"inner": task("comp-inner", **passed)}}, **text}
    spec = PipelineSpec("p", ir, "sha256:x")
    for given in ({"text": "a"}, {}):
        bound = spec.bind(given)
        assert backend.place(bound, {}) is bound
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "Input 'text' has no value and no default, and task 'inner', a group of tasks, takes it"
    ]


def test_a_specification_is_uploaded_once_and_runs_refer_to_it(api, backend, request_of):
    first, second = (backend.submit(request_of(name, steps)) for name, steps in (("a 1", 3), ("a 2", 4)))
    assert paths(api) == [
        "GET pipelines/names/two-steps",
        "POST pipelines",
        f"GET pipelines/{api.runs[first]['pipeline_version_reference']['pipeline_id']}/versions",
        "POST pipelines/upload_version",
        "POST runs",
        "GET pipelines/names/two-steps",
        f"GET pipelines/{api.runs[first]['pipeline_version_reference']['pipeline_id']}/versions",
        "POST runs",
    ]
    assert api.runs[first]["pipeline_version_reference"] == api.runs[second]["pipeline_version_reference"]
    assert api.runs[second]["runtime_config"]["parameters"] == {"steps": 4}


def test_another_content_is_another_version_of_the_same_pipeline(api, backend, spec, request_of):
    first = backend.submit(request_of())
    changed = apply_settings(spec.bind({}), StepSettings(memory_limit="2Gi", labels={"a": "b"}))
    second = backend.submit(RunRequest("dag.task 2", changed))
    one, two = (api.runs[run_id]["pipeline_version_reference"] for run_id in (first, second))
    assert one["pipeline_id"] == two["pipeline_id"]
    assert one["pipeline_version_id"] != two["pipeline_version_id"]
    held = backend.read_version(two)
    assert held == {"pipeline_spec": changed.spec, "platform_spec": changed.platform}


def test_a_version_says_what_it_holds(api, backend, request_of):
    labels = {"dag_id": "my_dag", "dag_version": "v7", "component_digest": "sha256:abc"}
    backend.submit(request_of(labels=labels))
    (upload,) = [request for request in api.requests if request.path.endswith("upload_version")]
    digest = json.loads(upload.query["tags"])["digest"]
    assert upload.query["name"] == f"sha256-{digest[:24]}"
    assert upload.query["description"].splitlines()[1:] == [
        "component_digest: sha256:abc",
        "dag_id: my_dag",
        "dag_version: v7",
    ]


def test_specification_can_be_sent_with_every_run_instead(api, settings, spec):
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, upload_versions=False))
    plain = backend.submit(RunRequest("dag.task 1", spec.bind({})))
    bound = apply_settings(spec.bind({}), StepSettings(labels={"a": "b"}))
    both = backend.submit(RunRequest("dag.task 2", bound))
    assert paths(api) == ["POST runs", "POST runs"]
    assert api.runs[plain]["pipeline_spec"]["pipelineInfo"] == {"name": "two-steps"}
    assert api.runs[both]["pipeline_spec"]["platform_spec"] == bound.platform


def test_a_run_says_where_it_comes_from_in_the_room_that_there_is(api, backend, request_of):
    labels = {
        "dag_id": "d" * 200,
        "dag_run_id": "scheduled__2026-11-21T00:00:00+00:00",
        "task_id": "train",
        "dag_version": str(uuid.uuid4()),
        "component_digest": "sha256:" + "a" * 64,
        "fingerprint": "f" * 32,
    }
    run_id = backend.submit(request_of(labels=labels))
    description = api.runs[run_id]["description"]
    assert len(description) <= MAX_DESCRIPTION
    assert description.splitlines() == [
        f"fingerprint: {'f' * 32}",
        f"component_digest: sha256:{'a' * 16}",
        f"dag_version: {labels['dag_version']}",
        "dag_run_id: scheduled__2026-11-21T00:00:00+00:00",
        "task_id: train",
    ]


def test_experiment_is_made_once_and_survives_a_race(api, settings, request_of):
    settings = dataclasses.replace(settings, experiment="post-training")
    first, second = (KubeflowPipelineBackend(settings).submit(request_of(f"dag.task {n}")) for n in (1, 2))
    assert api.runs[first]["experiment_id"] == api.runs[second]["experiment_id"]
    assert api.count("POST", "/experiments$") == 1


def test_multi_user_runs_belong_to_the_namespace(settings, request_of):
    with FakeKfpApi(multi_user=True) as api:
        settings = dataclasses.replace(settings, endpoint=api.url, namespace="team-a")
        backend = KubeflowPipelineBackend(settings)
        run_id = backend.submit(request_of())
        assert backend.find("dag.task 1").run_id == run_id
        assert api.runs[run_id]["experiment_id"]
        other = KubeflowPipelineBackend(dataclasses.replace(settings, namespace="team-b"))
        assert other.find("dag.task 1") is None


def test_secrets_do_not_travel_as_parameters(api, backend, spec):
    secret = {"MLFLOW_TRACKING_TOKEN": "hunter2"}
    with pytest.raises(ConfigurationError, match="need MLFLOW_TRACKING_TOKEN in their environment") as caught:
        backend.submit(RunRequest("dag.task 1", spec.bind({}), environment=secret))
    assert "hunter2" not in str(caught.value)
    assert paths(api) == []
    bound = apply_settings(
        spec.bind({}), StepSettings(secrets_as_env={"mlflow": {"token": "MLFLOW_TRACKING_TOKEN"}})
    )
    run_id = backend.submit(RunRequest("dag.task 1", bound, environment=secret))
    assert "hunter2" not in json.dumps([request.body for request in api.requests if request.body])
    assert run_id in api.runs


def test_specification_that_the_server_refuses_is_not_sent_again(api, settings, request_of):
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, upload_versions=False))
    request = request_of()
    request.pipeline.spec["schemaVersion"] = "9.9.9"
    with pytest.raises(ConfigurationError, match=r"only supports schema version 2\.1\.0"):
        backend.submit(request)
    assert api.count("POST", "/runs$") == 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"text": "a\x00"},
            "Parameter 'text' has a control character in it, U+0000 at position 2, which cannot",
        ),
        (
            {"text": "a\x1b[0m"},
            "Parameter 'text' has a control character in it, U+001B at position 2, which cannot",
        ),
        (
            {"text": "\ud83d"},
            "Parameter 'text' has a half of a surrogate pair in it, U+D83D at position 1, which cannot",
        ),
        (
            {"rows": [{"a\udcff": 1}]},
            "Parameter 'rows' has a half of a surrogate pair in it, U+DCFF at position 2",
        ),
        ({"rows": [["\x07"]]}, "Parameter 'rows' has a control character in it, U+0007 at position 1"),
        (
            {"text": "x" * 1_500_000},
            "The run is too large: 1.5 MB with its parameters, of 1.5 MB that Kubernetes keeps as one object; parameter 'text' has 1.5 MB: "
            "pass it in a file, by its address.",
        ),
        ({"text": "\u20ac" * 700_000}, "The run is too large: 2.1 MB with its parameters"),
    ],
    ids=["NUL", "escape", "surrogate", "surrogate in a key", "in a list", "too large", "too large in UTF-8"],
)
@pytest.mark.parametrize("uploads", [True, False])
def test_what_the_server_cannot_take_is_not_sent(api, settings, spec, parameters, message, uploads):
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, upload_versions=uploads))
    pipeline = dataclasses.replace(spec.bind({}), parameters=parameters)
    with pytest.raises(ConfigurationError) as caught:
        backend.submit(RunRequest("dag.task 1", pipeline))
    assert str(caught.value).startswith(message)
    assert paths(api) == []


def test_texts_that_the_server_takes_are_sent_as_they_are(api, settings, spec):
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, upload_versions=False))
    text = 'a\tb\r\nc "quoted" \u00e9 \u2028 \x85 \\ 100%'
    pipeline = dataclasses.replace(spec.bind({}), parameters={"text": text})
    pipeline.spec["root"]["inputDefinitions"] = {"parameters": {"text": {"parameterType": "STRING"}}}
    run_id = backend.submit(RunRequest("dag.task 1", pipeline))
    assert api.runs[run_id]["runtime_config"]["parameters"] == {"text": text}


def test_character_that_the_database_does_not_hold_is_told_at_once_and_leaves_one_workflow(
    api, settings, spec
):
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, upload_versions=False))
    pipeline = dataclasses.replace(spec.bind({}), parameters={"text": "well done \U0001f642"})
    pipeline.spec["root"]["inputDefinitions"] = {"parameters": {"text": {"parameterType": "STRING"}}}
    with pytest.raises(
        ConfigurationError, match="The server's connection to its database does not take such"
    ):
        backend.submit(RunRequest("dag.task 1", pipeline))
    assert (paths(api), len(api.state.orphans)) == (["POST runs"], 1)


def test_specification_with_half_a_character_or_too_much_is_not_sent(api, backend, spec):
    odd, large = spec.bind({}), spec.bind({})
    odd.spec["sdkVersion"] = "\ud83d"
    large.spec["sdkVersion"] = "x" * 2_000_000
    for pipeline, message in (
        (
            odd,
            "The specification has a half of a surrogate pair in it, U+D83D at position 1, which cannot be sent.",
        ),
        (
            large,
            "The run is too large: 2.0 MB with its parameters, of 1.5 MB that Kubernetes keeps as one object; the specification has "
            "2.0 MB: make it smaller.",
        ),
    ):
        with pytest.raises(ConfigurationError) as caught:
            backend.submit(RunRequest("dag.task 1", pipeline))
        assert str(caught.value).startswith(message)
    assert paths(api) == []


@pytest.mark.parametrize(
    "name", ["Two-Steps", "two steps", "-two", "two-", "tw\u00f6", "", "a" * 129, "two.steps"]
)
def test_name_that_the_server_refuses_is_not_sent(api, backend, spec, name):
    pipeline = spec.bind({})
    pipeline.spec["pipelineInfo"]["name"] = name
    with pytest.raises(ConfigurationError, match=r"^The server refuses the pipeline's name "):
        backend.submit(RunRequest("dag.task 1", pipeline))
    assert paths(api) == []


def test_name_with_a_dot_is_taken_where_no_version_is_made(api, settings, spec):
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, upload_versions=False))
    pipeline = spec.bind({})
    pipeline.spec["pipelineInfo"]["name"] = "two.steps"
    assert backend.submit(RunRequest("dag.task 1", pipeline)) in api.runs


@pytest.mark.parametrize("name", ["", "n" * 256, "dag.task\n1", "dag.task \ud83d"])
def test_name_of_a_run_that_the_server_refuses_is_not_sent(api, backend, request_of, name):
    with pytest.raises(ConfigurationError, match=r"^The run's name has "):
        backend.submit(request_of(name))
    assert paths(api) == []


# Reading


def test_steps_are_those_of_the_pipeline_not_the_nodes_of_the_workflow(api, backend, request_of):
    run_id = backend.submit(request_of())
    api.advance(run_id, "RUNNING", tasks={"train": "SUCCEEDED", "report": "RUNNING"})
    assert backend.get(run_id).tasks == {"train": "SUCCEEDED", "report": "RUNNING"}


def test_a_failed_run_names_the_step_and_what_is_known_of_why(api, backend, request_of):
    run_id = backend.submit(request_of())
    api.finish(run_id, "FAILED", tasks={"train": "FAILED", "report": ""})
    run = backend.get(run_id)
    assert (run.error, run.failed_steps) == (None, ("train",))
    assert run.reason == "Step 'train' failed; its log says why"
    assert run.tasks == {"train": "FAILED", "report": "OMITTED"}
    other = backend.submit(request_of("dag.task 2"))
    api.finish(other, "FAILED", tasks={"train": "FAILED"}, task_errors={"train": "OOMKilled"})
    failed = backend.get(other)
    assert (failed.error, failed.failed_steps) == ("OOMKilled", ("train",))


def test_an_unfinished_run_has_no_end_although_the_server_sends_the_epoch(api, backend, request_of):
    run_id = backend.submit(request_of())
    assert api.runs[run_id]["finished_at"] == "1970-01-01T00:00:00Z"
    assert backend.get(run_id).finished_at is None
    assert backend.last_finished_at().year == 1970


def test_finished_runs_are_listed_page_after_page(api, backend, request_of):
    ids = [backend.submit(request_of(f"dag.task {n}")) for n in range(230)]
    now = datetime.now(UTC).replace(microsecond=0)
    for n, run_id in enumerate(ids[:-5]):
        api.finish(run_id, finished_at=now - timedelta(seconds=n % 7))
    api.clear_requests()
    found = [run.run_id for run in backend.list_finished(now - timedelta(seconds=10))]
    assert sorted(found) == sorted(ids[:-5])
    assert len(api.requests) == 3
    assert backend.last_finished_at() == now
    assert set(backend.read_many([*ids[:99], "gone"])) == set(ids[:99])


def test_name_that_needs_escaping_is_found(api, backend, request_of):
    name = 'dag.task[3] 100% +1 "quoted" é'
    run_id = backend.submit(request_of(name))
    assert backend.find(name).run_id == run_id
    assert backend.find("dag.task[3] 100% +1") is None


@pytest.mark.parametrize("name", ["50% of a_b", "a\\b", 'a"b', "it's", "\u00e9 +1 & more"])
def test_experiment_whose_name_has_signs_of_its_own_in_filters_is_made_once(api, settings, request_of, name):
    settings = dataclasses.replace(settings, experiment=name)
    for number in range(2):
        KubeflowPipelineBackend(settings).submit(request_of(f"dag.task {number}"))
    assert [e.display_name for e in api.state.experiments.values()] == ["Default", name]


def test_of_two_runs_with_one_name_the_older_stays(api, backend, request_of):
    request = request_of()
    first, second = (
        backend._api.call(backend._api.runs.run_service_create_run, backend._submission.body(request))[
            "run_id"
        ]
        for _ in range(2)
    )
    kept = backend.find(request.display_name).run_id
    assert kept in (first, second)
    assert api.count("POST", ":terminate$") == 1
    assert backend.get(kept).state == "PENDING"


def test_reusable_run_is_the_newest_that_succeeded(api, backend, request_of):
    labels = {"fingerprint": "abc"}
    ids = [backend.submit(request_of(f"dag.task {n}", labels=labels)) for n in range(3)]
    assert backend.find_reusable("abc") is None
    api.finish(ids[0])
    api.finish(ids[1], "FAILED")
    assert backend.find_reusable("abc").run_id == ids[0]
    assert backend.find_reusable("ab d") is None


@pytest.mark.parametrize("other", ["ABC", "abcd", "a%c", "_bc"])
def test_run_of_another_fingerprint_is_not_reused_although_the_filter_finds_it(
    api, backend, request_of, other
):
    api.finish(backend.submit(request_of(labels={"fingerprint": "abcd"})))
    newer = backend.submit(request_of("dag.task 2", labels={"fingerprint": "abc"}))
    api.finish(newer)
    assert backend.find_reusable("abc").run_id == newer
    assert backend.find_reusable(other) == (None if other != "abcd" else backend.find_reusable("abcd"))


# Ending


def test_cancelling_terminates_once(api, backend, request_of):
    api.terminate_seconds = 0.3
    run_id = backend.submit(request_of())
    for _ in range(3):
        backend.cancel(run_id)
    assert api.count("POST", ":terminate$") == 1
    assert backend.get(run_id).state.is_canceled


def history(*states):
    return [
        {"update_time": "2026-01-01T00:00:00Z", **({"state": state} if state else {})} for state in states
    ]


@pytest.mark.parametrize(
    ("state", "seen", "expected"),
    [
        ("FAILED", ["PENDING", "RUNNING", "CANCELING", "FAILED"], RunState.CANCELED),
        ("FAILED", ["PENDING", None, "CANCELING", "FAILED"], RunState.CANCELED),
        ("SUCCEEDED", ["RUNNING", "CANCELING", "SUCCEEDED"], RunState.SUCCEEDED),  # it was faster
        ("FAILED", ["CANCELING", "FAILED", "RUNNING", "FAILED"], RunState.FAILED),  # retried since
        ("FAILED", ["PENDING", "RUNNING", "FAILED"], RunState.FAILED),
    ],
)
def test_run_that_a_person_terminated_is_cancelled(backend, state, seen, expected):
    raw = {"run_id": "r", "state": state, "state_history": history(*seen)}
    assert backend._reader.read(raw).state is expected


def test_terminated_run_is_cancelled_as_the_server_shows_it(api, backend, request_of):
    run_id = backend.submit(request_of())
    backend.cancel(run_id)
    deadline = time.monotonic() + 10
    while not (run := backend.get(run_id)).state.is_terminal and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (run.state, run.error) == (RunState.CANCELED, None)


@pytest.mark.parametrize("twin", ["DAG.task 1", "dag.tásk 1", "dag.task 1 "])
def test_run_whose_name_only_the_database_takes_for_the_same_is_left_alone(api, backend, request_of, twin):
    other = backend.submit(request_of(twin))
    assert backend.find("dag.task 1") is None
    run_id = backend.submit(request_of("dag.task 1"))
    assert backend.find("dag.task 1").run_id == run_id
    assert api.count("POST", ":terminate$") == 0
    assert api.runs[other]["state"] == "PENDING"


def test_no_version_is_added_to_a_pipeline_whose_name_only_the_database_takes_for_ours(
    api, backend, request_of
):
    request = request_of()
    name = request.pipeline.name
    theirs = PipelineVersions(backend._api)._create(name.upper())
    with pytest.raises(ConfigurationError, match=f"^Pipeline '{name}' cannot be told from '{name.upper()}'"):
        backend.submit(request)
    assert [v for v in api.state.versions.values() if v.pipeline_id == theirs] == []


def test_specification_is_uploaded_as_it_is_in_every_plane_of_unicode(api, backend, request_of):
    text = "".join(map(chr, (*range(0x20, 0xD800), *range(0xE000, 0x10000)))) + "".join(
        chr(plane << 16 | character) for plane in range(1, 17) for character in (0, 0x41, 0xF600, 0xFFFD)
    )
    document = {"description": text, "\U0001f600": ["\u2028", "\x85", "\ufeff"]}
    written = as_yaml(document)
    assert yaml.load(written, Loader=yaml.CSafeLoader) == document
    assert json.loads(written) == document
    assert "\U0001f600" in written


def test_experiment_that_only_the_database_takes_for_ours_gets_no_run(api, settings, request_of):
    KubeflowPipelineBackend(dataclasses.replace(settings, experiment="Tuning")).submit(request_of())
    with pytest.raises(ConfigurationError, match=r"^Experiment 'tuning' cannot be told from 'Tuning'"):
        KubeflowPipelineBackend(dataclasses.replace(settings, experiment="tuning")).submit(
            request_of("dag.task 2")
        )
    assert len(api.runs) == 1


def test_version_is_found_by_its_exact_name(api, backend, request_of):
    run_id = backend.submit(request_of())
    made = api.runs[run_id]["pipeline_version_reference"]
    version = api.state.versions[made["pipeline_version_id"]]
    assert backend.find_version("two-steps", version.name) == made
    assert backend.find_version("two-steps", None) == made
    where = f"Pipeline 'two-steps' on {api.url} has no version"
    with pytest.raises(ConfigurationError) as other:
        backend.find_version("two-steps", version.name.upper())
    assert str(other.value) == f"{where} '{version.name.upper()}'. It has: {version.name}."
    api.state.delete_version(made["pipeline_version_id"])
    with pytest.raises(ConfigurationError) as empty:
        backend.find_version("two-steps", None)
    assert str(empty.value) == f"{where} at all."


def test_cancelling_lets_go_of_a_run_whose_workflow_is_gone(api, backend, request_of, caplog):
    run_id = backend.submit(request_of())
    api.lose_workflow(run_id)
    backend.cancel(run_id)
    backend.cancel(run_id)
    assert api.count("POST", ":terminate$") == 1
    assert backend.get(run_id).state is RunState.CANCELING
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith(
        f"Run {run_id} is let go, since nothing of it runs: Refused with 500: Failed to terminate run "
    )
    assert "not found" in said


def test_cancelling_a_finished_run_does_nothing(api, backend, request_of):
    run_id = backend.submit(request_of())
    api.finish(run_id)
    backend.cancel(run_id)
    assert api.count("POST", ":terminate$") == 0


def test_a_run_that_is_gone_is_told_from_other_refusals(api, backend):
    with pytest.raises(RunNotFoundError, match=r"^Refused with 404"):
        backend.get(str(uuid.uuid4()))
    api.token = "something"  # noqa: S105
    with pytest.raises(ConfigurationError, match=r"^Refused with 401") as caught:
        backend.get(str(uuid.uuid4()))
    assert not isinstance(caught.value, RunNotFoundError)


def test_failed_run_goes_on_when_it_is_retried(api, backend, request_of):
    run_id = backend.submit(request_of())
    api.finish(run_id, "FAILED", tasks={"train": "FAILED"})
    backend.retry(run_id)
    assert backend.get(run_id).state == "RUNNING"
    backend.retry(run_id)  # as after a lost answer
    api.finish(run_id)
    with pytest.raises(ConfigurationError, match=r"^Refused with 409: .* retry_run at"):
        backend.retry(run_id)


# What steps leave behind


def write(root: Path, *parts: str, text: str = "{}", at: float | None = None) -> Path:
    path = root.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if at is not None:
        os.utime(path, (at, at))
    return path


def test_result_of_the_newest_attempt_is_read(backend, tmp_path):
    write(tmp_path, "root/two-steps/r1/train/salt-1/result", text="old", at=1000)
    write(tmp_path, "root/two-steps/r1/train/salt-2/result", text="new", at=2000)
    write(tmp_path, "root/two-steps/r1/train/salt-2/model")
    text, address = backend.read_result("r1", "two-steps", "train")
    assert (text, address) == ("new", f"file://{tmp_path}/root/two-steps/r1/train/salt-2/result")
    assert backend.list_outputs("r1", "two-steps", "train") == {
        "result": f"file://{tmp_path}/root/two-steps/r1/train/salt-2/result",
        "model": f"file://{tmp_path}/root/two-steps/r1/train/salt-2/model",
    }


def test_pipeline_name_may_be_qualified_by_the_server(backend, tmp_path):
    write(tmp_path, "root/pipeline/two-steps/r1/train/salt/result", text="x")
    assert backend.read_result("r1", "two-steps", "train")[0] == "x"


def test_missing_result_is_named(backend, tmp_path):
    with pytest.raises(
        ResultError,
        match=f"(?s)^Step train succeeded and left no result.*file://{tmp_path}/root/two-steps/r1/train",
    ):
        backend.read_result("r1", "two-steps", "train")
    assert backend.list_outputs("r1", "two-steps", "train") == {}


def test_storage_without_a_provider_says_what_to_install(settings):
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, pipeline_root="gs://mlpipeline/v2"))
    with pytest.raises(ConfigurationError, match="Install the Airflow provider of that storage"):
        backend.read_result("r1", "two-steps", "train")


def test_digest_of_an_input_is_that_of_its_component_or_of_its_file(backend, tmp_path):
    uri = f"file://{tmp_path}/root/p/r/t/salt/model"
    write(tmp_path, "root/p/r/t/salt/model/config.json")
    result = {
        "schema_version": 1,
        "component": "train_sft",
        "passed": True,
        "findings": [],
        "artifacts": {"model": {"uri": uri, "digest": "sha256:1", "bytes": 2}},
        "metrics": {},
        "details": {},
        "resources": {},
    }
    write(tmp_path, "root/p/r/t/salt/result", text=json.dumps(result))
    assert backend.input_digest(uri) == "sha256:1"
    lone = write(tmp_path, "data/train.jsonl", text="a", at=1000)
    before = backend.input_digest(f"file://{lone}")
    assert before and before == backend.input_digest(f"file://{lone}")
    write(tmp_path, "data/train.jsonl", text="ab", at=2000)
    assert backend.input_digest(f"file://{lone}") != before
    assert backend.input_digest(f"file://{tmp_path}/data") is None
    assert backend.input_digest("s3://bucket/train.jsonl") is None


@pytest.mark.parametrize("nodes", ["with retries", "without retries"])
def test_step_whose_pod_has_not_begun_is_pending(api, backend, request_of, nodes):
    api.nodes = nodes
    run_id = backend.submit(request_of())
    states = {}
    for train, report in [("PENDING", ""), ("RUNNING", ""), ("SUCCEEDED", "PENDING"), ("RUNNING", "PENDING")]:
        api.advance(run_id, "RUNNING", tasks={"train": train, **({"report": report} if report else {})})
        run = backend.get(run_id)
        states[train, report] = (run.tasks["train"], run.waits)
    assert states == {
        ("PENDING", ""): ("PENDING", True),
        ("RUNNING", ""): ("RUNNING", False),
        ("SUCCEEDED", "PENDING"): ("SUCCEEDED", True),
        # The server does not tell pods of two steps apart that began in the same second.
        ("RUNNING", "PENDING"): ("RUNNING", True),
    }
    assert run.tasks["report"] in ("PENDING", "RUNNING")
    api.finish(run_id)
    assert not backend.get(run_id).waits


TRACEBACK = """\
Traceback (most recent call last):
  File "/tmp/step.py", line 3, in train
    raise ValueError("row 3")
ValueError: row 3
"""


@pytest.fixture
def failed(api, backend, request_of):
    """Makes a run that has failed at a step, with what it may have left."""

    def failed(step="train", **details):
        run_id = backend.submit(request_of())
        api.finish(run_id, "FAILED", tasks={step: "FAILED"}, **details)
        return backend.get(run_id)

    return failed


def test_reason_of_a_failed_step_is_read_from_its_output(backend, failed, tmp_path):
    run = failed()
    log = leave_log(tmp_path / "root", "two-steps", run.run_id, "train", "epoch 1\n" + TRACEBACK, retry=1)
    explained = backend.explain_failure(run)
    assert explained.reason == "ValueError: row 3"
    assert explained.retryable
    assert explained.places("a.yaml") == (
        f"Step 'train' (attempt 2) of run {run.run_id} (a.yaml)",
        f"Log: {backend.run_url(run.run_id)}",
        f"Output of the step: file://{log}",
        "It ends with:",
        *(f"  {line}" for line in ("epoch 1", *TRACEBACK.splitlines())[-5:]),
    )


def test_error_that_a_component_raises_on_purpose_is_final_and_says_all(backend, failed, tmp_path):
    run = failed()
    error = {"type": "DataError", "message": "row 3 is empty\nat /data", "retryable": False}
    text = f"working\nLLMOPS_ERROR: {json.dumps(error)}\nDataError: row 3 is empty\n"
    leave_log(tmp_path / "root", "two-steps", run.run_id, "train", text)
    explained = backend.explain_failure(run)
    assert (explained.reason, explained.retryable) == ("row 3 is empty\nat /data", False)
    assert explained.last_lines == ()
    assert explained.failed_steps == ("train",)


def test_output_of_a_pipeline_whose_name_the_server_has_qualified_is_found(backend, failed, tmp_path):
    run = failed()
    leave_log(tmp_path / "root" / "pipeline", "two-steps", run.run_id, "train", "boom")
    assert backend.explain_failure(run).reason == "It printed no error; it last said: boom"


def test_pod_knows_better_than_the_last_line_of_an_output_without_an_error(
    settings, failed, tmp_path, monkeypatch
):
    run = failed()
    leave_log(tmp_path / "root", "two-steps", run.run_id, "train", "epoch 3\n")
    killed = pod("p", run.run_id, "train.executor", exit_code=137, ended={"reason": "OOMKilled"})
    with FakePods([killed], {"p": "epoch 3\n"}) as pods:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", pods.connection())
        backend = KubeflowPipelineBackend(dataclasses.replace(settings, kubernetes_conn_id="cluster"))
        assert backend.explain_failure(run).reason.startswith("Out of memory: its container was killed")
        pods.pods.clear()
        assert backend.explain_failure(run).reason == "It printed no error; it last said: epoch 3"


def test_of_a_loop_the_item_with_an_error_says_why(backend, failed, tmp_path):
    run = failed()
    for text in (TRACEBACK, "done\n", "done as well\n"):
        leave_log(tmp_path / "root", "two-steps", run.run_id, "train", text)
    assert backend.explain_failure(run).reason == "ValueError: row 3"


def test_pod_knows_better_than_the_output_of_an_earlier_attempt(settings, failed, tmp_path, monkeypatch):
    run = dataclasses.replace(failed(), attempts={"train": 2})
    log = leave_log(tmp_path / "root", "two-steps", run.run_id, "train", TRACEBACK)
    killed = pod("p", run.run_id, "train.executor", exit_code=137, ended={"reason": "OOMKilled"})
    with FakePods([killed]) as pods:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", pods.connection())
        backend = KubeflowPipelineBackend(dataclasses.replace(settings, kubernetes_conn_id="cluster"))
        explained = backend.explain_failure(run)
        assert explained.reason.startswith("Out of memory: its container was killed")
        assert explained.places()[0].startswith("Step 'train' (attempt 2) of run ")
        pods.pods.clear()
        explained = backend.explain_failure(run)
    assert (explained.reason, explained.output) == ("ValueError: row 3", f"file://{log}")
    assert explained.places()[0].startswith("Step 'train' (attempt 1) of run ")


def test_pod_knows_better_than_an_output_that_may_be_of_an_item_that_succeeded(
    settings, failed, tmp_path, monkeypatch
):
    tasks = {"loop/0/train": "SUCCEEDED", "loop/1/train": "FAILED"}
    run = dataclasses.replace(failed(), tasks=tasks, failed_steps=("loop/1/train",))
    leave_log(tmp_path / "root", "two-steps", run.run_id, "train", TRACEBACK)
    item = "loop.iteration-iterations(1:1).iteration-item.train.executor"
    with FakePods([pod("p", run.run_id, item, exit_code=137, ended={"reason": "OOMKilled"})]) as pods:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", pods.connection())
        backend = KubeflowPipelineBackend(dataclasses.replace(settings, kubernetes_conn_id="cluster"))
        assert backend.explain_failure(run).reason.startswith("Out of memory: ")
        pods.pods.clear()
        assert backend.explain_failure(run).reason == "ValueError: row 3"


def test_output_of_the_round_before_is_no_reason_after_a_run_was_made_to_go_on(
    api, backend, failed, tmp_path
):
    run = failed()
    log = leave_log(tmp_path / "root", "two-steps", run.run_id, "train", TRACEBACK)
    os.utime(log, (api.now() - 60, api.now() - 60))
    assert backend.explain_failure(run).reason == "ValueError: row 3"
    backend.retry(run.run_id)
    api.finish(run.run_id, "FAILED", tasks={"train": "FAILED"})
    run = backend.get(run.run_id)
    assert backend.explain_failure(run).reason.startswith("Step 'train' failed, and nothing says why. ")
    os.utime(log, (api.now() + 60, api.now() + 60))
    assert backend.explain_failure(run).reason == "ValueError: row 3"


def test_mistake_in_an_explanation_does_not_hide_the_failure(settings, failed, monkeypatch, caplog):
    run = failed()
    with FakePods() as pods:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", pods.connection())
        backend = KubeflowPipelineBackend(dataclasses.replace(settings, kubernetes_conn_id="cluster"))
        pods._answer = lambda parts, query: (200, "application/json", '{"items": [{}], "data": 3}')
        reason = backend.explain_failure(run).reason
        assert reason.startswith(
            "Step 'train' failed, and nothing says why. The pods cannot be read: KeyError:"
        )
    monkeypatch.setattr(places, "root_of", lambda answer, settings: 1 / 0)
    error = failure_of(backend, run, logging.getLogger("test"))
    assert str(error).startswith("Step 'train' failed; its log says why\nStep 'train' of run ")
    assert "Why the run failed cannot be asked" in caplog.text


def test_root_whose_settings_cannot_be_read_soon_stops_no_run(settings, api, request_of, monkeypatch, caplog):
    monkeypatch.setattr(root, "ROOT_SECONDS", 0.1)
    with FakePods() as pods:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", pods.connection())
        backend = KubeflowPipelineBackend(dataclasses.replace(settings, kubernetes_conn_id="cluster"))
        answered = threading.Event()
        pods._answer = lambda parts, query: (200, "application/json", str(answered.wait(5)))
        backend.submit(request_of())
        answered.set()
    assert len(api.runs) == 1
    assert (
        "The settings of pipeline roots cannot be read: TimeoutError: no answer within 0.1 s" in caplog.text
    )


def test_silent_cluster_leaves_the_threads_of_the_event_loop_alone(settings, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent, FakePods() as pods:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", pods.connection().replace(pods.url, address))
        backend = KubeflowPipelineBackend(dataclasses.replace(settings, kubernetes_conn_id="cluster"))

        async def scenario():
            questions = [asyncio.create_task(backend.awhy_waiting(f"r{number}")) for number in range(40)]
            connection, _ = await asyncio.to_thread(silent.accept)
            for _ in range(20):
                await asyncio.to_thread(time.sleep, 0.001)
            answered = [question for question in questions if question.done()]
            for question in questions:
                question.cancel()
            connection.close()
            return answered

        assert asyncio.run(scenario()) == []


def test_question_that_takes_too_long_is_given_up_on(settings, monkeypatch):
    monkeypatch.setattr(why_waiting, "QUESTION_SECONDS", 0.1)
    monkeypatch.setattr(why_waiting, "aconnect", lambda conn_id: asyncio.sleep(5))
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, kubernetes_conn_id="cluster"))
    (wait,) = asyncio.run(backend.awhy_waiting("r"))
    assert wait.reason.startswith("why cannot be told: No answer within")


def test_pod_is_asked_where_the_store_has_nothing(settings, failed, monkeypatch):
    run = failed()
    with FakePods([pod("p", run.run_id, "train.executor", namespace="team")], {"p": TRACEBACK}) as pods:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", pods.connection("team"))
        backend = KubeflowPipelineBackend(dataclasses.replace(settings, kubernetes_conn_id="cluster"))
        explained = backend.explain_failure(run)
        assert (explained.reason, explained.output) == ("ValueError: row 3", "pod p")
        pods.pods.clear()
        assert backend.explain_failure(run).reason.startswith("Step 'train' failed, and nothing says why. ")


def test_nothing_found_says_what_to_do(backend, failed):
    assert backend.explain_failure(failed()).reason == (
        "Step 'train' failed, and nothing says why. Its output is not in the artifact store, where Kubeflow Pipelines leaves "
        "it from 2.16 on. Name a Kubernetes connection in 'kubernetes_conn_id', so that its pod can be looked at."
    )


def test_store_that_cannot_be_read_does_not_hide_the_failure(settings, failed):
    run = failed()
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, pipeline_root="nosuch://bucket"))
    assert backend.explain_failure(run).reason == (
        "Step 'train' failed, and nothing says why. Artifacts cannot be read: Unsupported filesystem: 'nosuch'. Install the "
        "Airflow provider of that storage (pip install 'airflow-provider-llmops[s3]', [gs] for gs://), and name its "
        "connection in 'storage_conn_id'. Name a Kubernetes connection in 'kubernetes_conn_id', so that its pod can be looked at."
    )


def test_root_without_credentials_is_named_when_a_step_leaves_nothing(settings, failed, monkeypatch):
    run = failed()
    with FakePods(config_maps={"kfp-launcher": {}}) as pods:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", pods.connection())
        backend = KubeflowPipelineBackend(dataclasses.replace(settings, kubernetes_conn_id="cluster"))
        monkeypatch.setattr(places, "root_of", lambda answer, settings: "gs://bucket/x")
        assert "failed, and nothing says why. " in (reason := backend.explain_failure(run).reason)
        assert (
            "The steps get no credentials for gs:// from Kubeflow Pipelines: config map kfp-launcher of"
            in reason
        )


def test_root_on_which_no_step_can_write_is_refused_before_a_run_is_made(
    api, settings, request_of, monkeypatch
):
    providers = {"providers": "s3: {default: {endpoint: h}}"}
    with FakePods(config_maps={"kfp-launcher": providers}) as pods:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", pods.connection())
        fields = {"kubernetes_conn_id": "cluster", "pipeline_root": "s3://bucket/llmops"}
        backend = KubeflowPipelineBackend(dataclasses.replace(settings, **fields))
        with pytest.raises(
            ConfigurationError, match=r"^The steps cannot write to s3://: default has no credentials"
        ):
            backend.submit(request_of())
        assert api.runs == {}
        with pytest.raises(ConfigurationError, match=r"^The steps cannot write to s3://: default"):
            backend.check()
        pods.config_maps["kfp-launcher"] = {"providers": "s3: {default: {credentials: {fromEnv: true}}}"}
        backend.submit(request_of())
        pods.forbidden.add("configmaps")
        backend.submit(request_of("dag.task 2"))
    assert len(api.runs) == 2


def test_root_that_needs_credentials_of_the_pods_is_told_before_a_run_is_made(
    api, settings, request_of, monkeypatch, caplog
):
    with FakePods() as pods:
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", pods.connection())
        fields = {"kubernetes_conn_id": "cluster", "pipeline_root": "s3://bucket/llmops"}
        backend = KubeflowPipelineBackend(dataclasses.replace(settings, **fields))
        backend.submit(request_of())
        assert (
            "s3://bucket/llmops. The steps get no credentials for s3:// from Kubeflow Pipelines"
            in backend.check()
        )
    assert "The steps get no credentials for s3:// from Kubeflow Pipelines" in caplog.text
    assert len(api.runs) == 1


def test_page_of_a_run_is_that_of_the_web_interface(api, backend, settings):
    assert backend.run_url("r1") == f"{api.url}/#/runs/details/r1"
    other = KubeflowPipelineBackend(
        dataclasses.replace(settings, ui_url="https://kubeflow.example.com/pipeline/")
    )
    assert other.run_url("r1") == "https://kubeflow.example.com/pipeline/#/runs/details/r1"


# Checking a connection


def test_check_tells_what_was_reached(api, backend, request_of):
    backend.submit(request_of())
    assert backend.check().startswith(
        f"Kubeflow Pipelines 2.17.0 at {api.url}: 1 runs, artifacts under file:///"
    )


@pytest.mark.parametrize(
    ("prepare", "error", "message"),
    [
        (lambda api: api.stop(), ApiUnavailableError, "^Unreachable: Kubeflow Pipelines does not answer"),
        (
            lambda api: setattr(api, "token", "t"),
            ConfigurationError,
            "^Unauthorised: .* are missing, wrong or expired",
        ),
        (
            lambda api: setattr(api, "tag_name", "1.8.22"),
            ConfigurationError,
            "^Wrong version: .* runs Kubeflow Pipelines 1.8.22",
        ),
        (
            lambda api: api.faults.always(LoginPage()),
            ConfigurationError,
            "A web page came back, not JSON",
        ),
        (
            lambda api: api.faults.always(LoginPage(302)),
            ConfigurationError,
            "A web page came back, not JSON",
        ),
    ],
)
def test_check_tells_what_is_wrong(api, settings, prepare, error, message):
    prepare(api)
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, patience=0.2))
    with pytest.raises(error, match=message):
        backend.check()


def test_check_of_a_server_without_the_api(tmp_path, settings):
    with FakePods() as other:  # some web server
        backend = KubeflowPipelineBackend(dataclasses.replace(settings, endpoint=other.url))
        with pytest.raises(ConfigurationError, match=r"^Wrong version: .* has no /apis/v2beta1"):
            backend.check()


def test_check_of_a_multi_user_server_asks_for_the_namespace(settings):
    with FakeKfpApi(multi_user=True) as api:
        backend = KubeflowPipelineBackend(dataclasses.replace(settings, endpoint=api.url))
        with pytest.raises(ConfigurationError, match="is multi-user: set 'namespace'"):
            backend.check()


def test_every_call_to_a_multi_user_server_says_that_the_namespace_is_missing(settings, request_of):
    missing = "multi-user: set 'namespace' of connection 'kubeflow_default' to your profile's"
    with FakeKfpApi(multi_user=True) as api:
        own = KubeflowPipelineBackend(dataclasses.replace(settings, endpoint=api.url, namespace="team-a"))
        run_id = own.submit(request_of())
        without = KubeflowPipelineBackend(dataclasses.replace(settings, endpoint=api.url))
        inline = KubeflowPipelineBackend(
            dataclasses.replace(settings, endpoint=api.url, upload_versions=False)
        )
        other = KubeflowPipelineBackend(
            dataclasses.replace(settings, endpoint=api.url, experiment="E", upload_versions=False)
        )
        for call in (
            lambda: without.submit(request_of("dag.task 2")),
            lambda: inline.submit(request_of("dag.task 2")),
            lambda: other.submit(request_of("dag.task 2")),
            lambda: without.find("dag.task 1"),
            lambda: list(without.list_finished(datetime.now(UTC))),
            lambda: without.last_finished_at(),
            lambda: without.read_many([run_id]),
            lambda: without.find_reusable("abc"),
            lambda: without.find_version("two-steps", None),
        ):
            with pytest.raises(ConfigurationError, match=missing):
                call()
        assert list(api.runs) == [run_id]


def test_pipeline_of_another_namespace_is_never_taken(settings, request_of):
    with FakeKfpApi(multi_user=True) as api:
        theirs, ours = (
            KubeflowPipelineBackend(dataclasses.replace(settings, endpoint=api.url, namespace=namespace))
            for namespace in ("team-a", "team-b")
        )
        theirs.submit(request_of())
        with pytest.raises(
            ConfigurationError, match=r"^There is no pipeline 'two-steps' on .* in namespace team-b"
        ):
            ours.find_version("two-steps", None)
        ours.submit(request_of("dag.task 2"))
        assert {pipeline.namespace for pipeline in api.state.pipelines.values()} == {"team-a", "team-b"}
