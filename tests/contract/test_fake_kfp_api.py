"""The fake KFP API server, driven by the official client: what the provider relies on, as upstream answers it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import kfp_server_api
import pytest
import yaml
from kfp_api import FakeKfpApi, Fault, LoginPage, Reset, Status, Timeout, Truncated
from kfp_api.messages import parse
from kfp_server_api.exceptions import ApiException
from urllib3.exceptions import HTTPError, ReadTimeoutError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "pipelineInfo": {"name": "train-sft"},
    "schemaVersion": "2.1.0",
    "sdkVersion": "kfp-2.17.0",
    "deploymentSpec": {"executors": {}},
    "components": {},
    "root": {
        "dag": {"tasks": {}},
        "inputDefinitions": {
            "parameters": {
                "dataset": {"parameterType": "STRING"},
                "steps": {"parameterType": "NUMBER_INTEGER", "defaultValue": 10},
                "shuffle": {"parameterType": "BOOLEAN", "isOptional": True},
                "layers": {"parameterType": "LIST", "isOptional": True},
                "options": {"parameterType": "STRUCT", "isOptional": True},
            }
        },
    },
}
PLATFORM = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {}}}}}
PARAMETERS = {"dataset": "s3://data"}
TOKEN = "not-a-real-one"  # noqa: S105


class Client:
    """The official client, without the retries that urllib3 makes by itself."""

    def __init__(self, url: str, token: str | None = None, retries: Any = False) -> None:
        configuration = kfp_server_api.Configuration(host=url)
        configuration.retries = retries
        api = kfp_server_api.ApiClient(configuration)
        if token:
            api.set_default_header("authorization", f"Bearer {token}")
        self.runs = kfp_server_api.RunServiceApi(api)
        self.pipelines = kfp_server_api.PipelineServiceApi(api)
        self.upload = kfp_server_api.PipelineUploadServiceApi(api)
        self.experiments = kfp_server_api.ExperimentServiceApi(api)
        self.health = kfp_server_api.HealthzServiceApi(api)

    def create(self, name: str = "run", **fields: Any) -> kfp_server_api.V2beta1Run:
        fields.setdefault("pipeline_spec", SPEC)
        fields.setdefault("runtime_config", {"parameters": PARAMETERS})
        return self.runs.run_service_create_run(kfp_server_api.V2beta1Run(display_name=name, **fields))

    def get(self, run_id: str) -> kfp_server_api.V2beta1Run:
        return self.runs.run_service_get_run(run_id)

    def list(self, *predicates: dict[str, Any], **query: Any) -> kfp_server_api.V2beta1ListRunsResponse:
        if predicates:
            query["filter"] = json.dumps({"predicates": predicates})
        return self.runs.run_service_list_runs(**query)

    def listed(self, *predicates: dict[str, Any], **query: Any) -> list[str]:
        return [run.display_name for run in self.list(*predicates, **query).runs or []]


@pytest.fixture
def api() -> Iterator[FakeKfpApi]:
    with FakeKfpApi() as server:
        yield server


@pytest.fixture
def client(api: FakeKfpApi) -> Client:
    return Client(api.url)


def refusal(call: Any, *args: Any, **kwargs: Any) -> tuple[int, int, str]:
    """HTTP status, gRPC code, and the message for users."""
    with pytest.raises(ApiException) as caught:
        call(*args, **kwargs)
    body = json.loads(caught.value.body)
    detail = body.get("details", [{}])[0]
    assert set(body) <= {"code", "message", "details"}
    assert detail.get("code", body["code"]) == body["code"]
    return caught.value.status, body["code"], detail.get("message", body["message"])


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def finished_since(seconds: float, operation: str = "GREATER_THAN_EQUALS") -> dict[str, Any]:
    return {"operation": operation, "key": "finished_at", "timestamp_value": at(seconds)}


def equals(key: str, value: str) -> dict[str, Any]:
    return {"operation": "EQUALS", "key": key, "string_value": value}


# Creating runs


def test_a_created_run_is_pending_and_echoes_its_spec_and_parameters(api: FakeKfpApi, client: Client) -> None:
    run = client.create(
        description="what for",
        service_account="trainer",
        runtime_config={"parameters": PARAMETERS | {"steps": 3}, "pipeline_root": "s3://root"},
    )
    assert run.state == "PENDING"
    assert [status.state for status in run.state_history] == ["PENDING"]
    assert (run.display_name, run.description, run.service_account) == ("run", "what for", "trainer")
    assert run.pipeline_spec == SPEC
    assert run.runtime_config.parameters == {"dataset": "s3://data", "steps": 3}
    assert run.runtime_config.pipeline_root == "s3://root"
    assert run.storage_state == "AVAILABLE"
    assert run.created_at == run.scheduled_at
    assert run.finished_at == EPOCH
    assert run.run_details is None
    assert run.error is None
    assert client.get(run.run_id) == run
    assert api.runs == {run.run_id: api.runs[run.run_id]}
    assert api.runs[run.run_id]["finished_at"] == "1970-01-01T00:00:00Z"


def test_both_documents_of_a_spec_are_kept(client: Client) -> None:
    both = {"pipeline_spec": SPEC, "platform_spec": PLATFORM}
    assert client.create(pipeline_spec=both).pipeline_spec == both


def test_a_pipeline_spec_alone_under_its_name_comes_back_bare(client: Client) -> None:
    assert client.create(pipeline_spec={"pipeline_spec": SPEC}).pipeline_spec == SPEC


def test_a_run_of_a_pipeline_version_has_the_reference_and_no_spec(client: Client, tmp_path: Path) -> None:
    pipeline, version = upload(client, tmp_path)
    reference = kfp_server_api.V2beta1PipelineVersionReference(pipeline_id=pipeline.pipeline_id)
    run = client.create(pipeline_spec=None, pipeline_version_reference=reference)
    assert run.pipeline_spec is None
    assert run.pipeline_version_reference.pipeline_id == pipeline.pipeline_id
    assert run.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id


def test_the_run_id_of_the_client_is_kept_and_refused_a_second_time(client: Client) -> None:
    run_id = "5e4f63ab-8c9a-4b35-92a3-3ad5b3b2b7a1"
    assert client.create(run_id=run_id).run_id == run_id
    assert refusal(client.create, run_id=run_id) == (500, 13, "Internal Server Error")
    assert client.list().total_size == 1


def test_runs_of_one_name_are_not_refused(client: Client) -> None:
    assert client.create("twin").run_id != client.create("twin").run_id


def test_numbers_are_doubles(client: Client) -> None:
    run = client.create(runtime_config={"parameters": PARAMETERS | {"steps": 2**53 + 1}})
    assert run.runtime_config.parameters["steps"] == 2**53


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "parameter dataset is not optional, yet has neither default value nor user provided value"),
        (
            PARAMETERS | {"stepz": 1, "x": 2},
            "parameter(s) provided are not required by pipeline: stepz, x",
        ),
        (
            PARAMETERS | {"steps": "3"},
            "input parameter steps requires type double or integer, but the parameter value is not of number "
            "value type",
        ),
        (
            {"dataset": 3},
            "input parameter dataset requires type string, but the input parameter is not of string value type",
        ),
        (
            PARAMETERS | {"shuffle": 1},
            "input parameter shuffle requires type bool, but the input parameter is not of bool value type",
        ),
        (
            PARAMETERS | {"layers": {}},
            "input parameter layers requires type list, but the input parameter is not of list value type",
        ),
        (
            PARAMETERS | {"options": []},
            "input parameter options requires type struct, but the input parameter is not of struct value type",
        ),
        (
            PARAMETERS | {"steps": None},
            "input parameter steps requires type double or integer, but the parameter value is not of number "
            "value type",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_a_bad_request(
    api: FakeKfpApi, parameters: dict[str, Any], message: str
) -> None:
    # Sent as it is: the client drops what is None.
    body = {"display_name": "x", "pipeline_spec": SPEC, "runtime_config": {"parameters": parameters}}
    status, answer = post(api.url + "/apis/v2beta1/runs", body)
    assert (status, answer["details"][0]["message"]) == (400, message)
    assert api.runs == {}


@pytest.mark.parametrize(
    "spec",
    [
        {"apiVersion": "v1", "kind": "Pod"},
        {"pipeline_spec": {"implementation": {}, "name": "a component"}},
        SPEC | {"schemaVersion": "2.0.0"},
        SPEC | {"surprise": 1},
        {key: value for key, value in SPEC.items() if key != "root"},
        None,
    ],
)
def test_a_bad_spec_is_an_internal_error(api: FakeKfpApi, client: Client, spec: Any) -> None:
    assert refusal(client.create, pipeline_spec=spec) == (500, 13, "Internal Server Error")
    assert api.runs == {}


def test_a_reference_to_an_unknown_version_is_an_internal_error(client: Client) -> None:
    reference = {"pipeline_version_id": "gone"}
    with pytest.raises(ApiException) as caught:
        client.create(pipeline_spec=None, pipeline_version_reference=reference)
    assert caught.value.status == 500
    assert "PipelineVersion gone not found" in json.loads(caught.value.body)["message"]


def test_names_are_required_and_short(client: Client) -> None:
    assert refusal(client.create, "") == (500, 13, "Internal Server Error")
    assert client.create("n" * 255, description="d" * 255).display_name == "n" * 255
    assert refusal(client.create, "n" * 256)[0] == 500
    assert refusal(client.create, "n", description="d" * 256)[0] == 500


def test_an_unknown_experiment_is_not_found(client: Client) -> None:
    assert refusal(client.create, experiment_id="gone") == (404, 5, "Experiment gone not found")


@pytest.mark.parametrize(
    "change",
    [
        {"experimentid": "x"},
        {"display_name": 5},
        {"state": "DONE"},
        {"runtime_config": {"params": {}}},
        {"pipeline_version_reference": {"pipeline_id": "x"}},
    ],
)
def test_a_body_that_is_no_run_is_refused_by_the_gateway(api: FakeKfpApi, change: dict[str, Any]) -> None:
    body = {"display_name": "x", "pipeline_spec": SPEC} | change
    status, answer = post(api.url + "/apis/v2beta1/runs", body)
    assert (status, answer["code"], set(answer)) == (400, 3, {"code", "message"})
    assert answer["message"].startswith("proto: ")


# Reading runs


def test_a_run_that_is_not_there_is_not_found(client: Client) -> None:
    with pytest.raises(ApiException) as caught:
        client.get("gone")
    assert caught.value.status == 404
    assert json.loads(caught.value.body) == {
        "code": 5,
        "message": "Failed to get a run: Failed to fetch run gone: ResourceNotFoundError: Run gone not found",
        "details": [
            {"@type": "type.googleapis.com/google.rpc.Status", "code": 5, "message": "Run gone not found"}
        ],
    }


def test_a_report_writes_states_history_and_one_task_for_each_node(api: FakeKfpApi, client: Client) -> None:
    run_id = client.create().run_id
    api.advance(run_id, "RUNNING", tasks={"train": "RUNNING", "evaluate": ""})
    running = client.get(run_id)
    assert running.state == "RUNNING"
    assert running.finished_at == EPOCH
    nodes = {task.display_name: task for task in running.run_details.task_details}
    workflow = next(name for name in nodes if name.startswith("train-sft-"))
    states = {name.replace(workflow, "WORKFLOW"): task.state for name, task in nodes.items()}
    assert states == {
        "WORKFLOW": "RUNNING",
        "WORKFLOW(0)": "RUNNING",
        "root-driver": "SUCCEEDED",
        "root-driver(0)": "SUCCEEDED",
        "root": "RUNNING",
        "root(0)": "RUNNING",
        "train-driver": "SUCCEEDED",
        "train-driver(0)": "SUCCEEDED",
        "train": "RUNNING",
        "train(0)": "RUNNING",
        "executor": "RUNNING",
        "executor(0)": "RUNNING",
        "evaluate-driver": None,
        "evaluate": None,
    }
    [child] = nodes["train"].child_tasks
    assert child.pod_name.startswith(f"{workflow}-")
    assert {task.run_id for task in nodes.values()} == {run_id}

    api.finish(run_id, "FAILED", tasks={"train": "FAILED"})
    failed = client.get(run_id)
    assert failed.state == "FAILED"
    assert [status.state for status in failed.state_history] == ["PENDING", "RUNNING", "FAILED"]
    assert abs(failed.finished_at.timestamp() - time.time()) < 5
    assert failed.error is None
    task = next(task for task in failed.run_details.task_details if task.display_name == "train")
    assert task.task_id == nodes["train"].task_id
    assert task.state == "FAILED"
    assert [status.state for status in task.state_history] == ["RUNNING", "FAILED"]
    assert task.error is None


def test_errors_are_shown_if_a_test_gives_them(api: FakeKfpApi, client: Client) -> None:
    api.nodes = "steps only"
    run_id = client.create().run_id
    api.finish(
        run_id, "FAILED", tasks={"train": "FAILED"}, error="the run broke", task_errors={"train": "no memory"}
    )
    run = client.get(run_id)
    assert run.error.message == "the run broke"
    assert [(task.display_name, task.error.message) for task in run.run_details.task_details] == [
        ("train", "no memory")
    ]


# Listing runs


def test_an_empty_list_has_none_of_its_fields(api: FakeKfpApi, client: Client) -> None:
    listed = client.list()
    assert (listed.runs, listed.total_size, listed.next_page_token) == (None, None, None)
    assert httpx.get(api.url + "/apis/v2beta1/runs").content == b"{}"


def test_lists_are_ordered_by_creation_and_have_twenty_runs_unless_told(
    api: FakeKfpApi, client: Client
) -> None:
    for number in range(25):
        api.clock_skew = number
        client.create(f"run-{number:02}")
    listed = client.list()
    assert [run.display_name for run in listed.runs] == [f"run-{number:02}" for number in range(20)]
    assert listed.total_size == 25
    assert client.listed(page_token=listed.next_page_token) == [f"run-{number}" for number in range(20, 25)]
    assert client.listed(sort_by="created_at desc", page_size=2) == ["run-24", "run-23"]


def test_a_page_is_no_larger_than_the_limit() -> None:
    with FakeKfpApi(page_limit=3) as api:
        client = Client(api.url)
        for number in range(5):
            client.create(str(number))
        assert len(client.list(page_size=1000).runs) == 3


def test_finished_runs_are_found_by_their_time_in_whole_seconds(api: FakeKfpApi, client: Client) -> None:
    base = 1_700_000_000
    for offset in range(4):
        run = client.create(f"run-{offset}")
        api.finish(run.run_id, finished_at=datetime.fromtimestamp(base + offset + 0.9, UTC))
    client.create("unfinished")
    fraction = finished_since(base + 2) | {"timestamp_value": at(base + 2).replace("Z", ".700Z")}
    by_time = {"sort_by": "finished_at"}
    assert client.listed(finished_since(base + 2), **by_time) == ["run-2", "run-3"]
    assert client.listed(fraction, **by_time) == ["run-2", "run-3"]
    assert client.listed(finished_since(base + 2, "GREATER_THAN"), **by_time) == ["run-3"]
    assert client.listed(finished_since(base + 1), finished_since(base + 2, "LESS_THAN")) == ["run-1"]
    # The time of an unfinished run is zero, and is compared as such.
    assert client.listed(finished_since(base + 1, "LESS_THAN"), **by_time) == ["unfinished", "run-0"]
    assert client.listed(finished_since(0, "EQUALS")) == ["unfinished"]


def test_a_run_reported_late_shows_up_with_a_time_that_lies_back(api: FakeKfpApi, client: Client) -> None:
    run = client.create()
    since = time.time() - 60
    assert client.listed(finished_since(since)) == []
    api.finish(run.run_id, finished_at=datetime.now(UTC) - timedelta(seconds=30))
    assert client.listed(finished_since(since)) == ["run"]


def test_every_time_is_the_servers(client: Client, api: FakeKfpApi) -> None:
    api.clock_skew = 3600
    run_id = client.create().run_id
    api.finish(run_id)
    run = client.get(run_id)
    ahead = [
        value.timestamp() - time.time()
        for value in (run.created_at, run.finished_at, run.state_history[-1].update_time)
    ]
    assert all(3590 < seconds <= 3600 for seconds in ahead)
    assert abs(api.now() - time.time() - 3600) < 5


@pytest.mark.parametrize(
    ("predicate", "found"),
    [
        (equals("display_name", "alpha"), ["alpha"]),
        (equals("name", "alpha"), ["alpha"]),
        (equals("state", "SUCCEEDED"), ["beta"]),
        (equals("storage_state", "AVAILABLE"), ["alpha", "beta"]),
        ({"operation": "NOT_EQUALS", "key": "display_name", "string_value": "alpha"}, ["beta"]),
        ({"operation": "IN", "key": "display_name", "string_values": {"values": ["beta", "x"]}}, ["beta"]),
        ({"operation": "IN", "key": "display_name", "stringValues": {"values": ["beta"]}}, ["beta"]),
        ({"operation": "IS_SUBSTRING", "key": "display_name", "string_value": "lph"}, ["alpha"]),
        ({"operation": "IS_SUBSTRING", "key": "display_name", "string_value": "A_P"}, ["alpha"]),
        ({"operation": "GREATER_THAN", "key": "finished_at", "long_value": "5"}, ["beta"]),
        ({"operation": 1, "key": "display_name", "stringValue": "beta"}, ["beta"]),
    ],
)
def test_filters(api: FakeKfpApi, client: Client, predicate: dict[str, Any], found: list[str]) -> None:
    client.create("alpha")
    api.finish(client.create("beta").run_id)
    assert client.listed(predicate, sort_by="display_name") == found


def test_predicates_are_joined_by_and(api: FakeKfpApi, client: Client) -> None:
    ids = [client.create("same").run_id for _ in range(3)]
    api.finish(ids[1])
    chosen = {"operation": "IN", "key": "run_id", "string_values": {"values": ids[:2]}}
    listed = client.list(chosen, equals("state", "SUCCEEDED"))
    assert [run.run_id for run in listed.runs] == [ids[1]]
    assert listed.total_size == 1


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        (equals("colour", "red"), 'no support for filtering on unrecognized field "colour"'),
        (equals("", "x"), "Predicate key cannot be empty for operation EQUALS and value x"),
        (
            {"operation": "IN", "key": "run_id", "string_value": "x"},
            "cannot use IN operator with scalar type string",
        ),
        (
            {"operation": "EQUALS", "key": "run_id", "string_values": {"values": ["x"]}},
            "cannot use scalar operator EQUALS on array type []string",
        ),
    ],
)
def test_bad_filters_are_refused(client: Client, predicate: dict[str, Any], message: str) -> None:
    assert refusal(client.list, predicate) == (400, 3, message)


@pytest.mark.parametrize(
    "filter_",
    [
        "not json",
        '{"predicates": [{"operation": "LIKE", "key": "run_id", "string_value": "x"}]}',
        '{"predicates": [{"operation": "EQUALS", "key": "run_id"}]}',
        '{"predicates": [{"operation": "EQUALS", "key": "run_id", "value": "x"}]}',
        '{"predicates": [{"key": "run_id", "string_value": "x"}]}',
        '{"predicates": [{"operation": "EQUALS", "key": "finished_at", "timestamp_value": "yesterday"}]}',
    ],
)
def test_filters_that_do_not_parse_are_refused(client: Client, filter_: str) -> None:
    assert refusal(client.runs.run_service_list_runs, filter=filter_)[:2] == (400, 3)


def test_a_filter_is_decoded_twice(client: Client) -> None:
    client.create("100% + more")
    predicate = equals("display_name", "100% + more")
    assert refusal(client.list, predicate)[:2] == (400, 3)
    encoded = quote(json.dumps({"predicates": [predicate]}))
    assert len(client.runs.run_service_list_runs(filter=encoded).runs) == 1
    # The plus sign of "+00:00" becomes a space.
    offset = finished_since(0) | {"timestamp_value": "2026-01-01T00:00:00+00:00"}
    assert refusal(client.list, offset)[0] == 400


def test_a_page_token_stands_for_its_filter_which_must_not_be_given_again(
    api: FakeKfpApi, client: Client
) -> None:
    for number in range(3):
        api.finish(client.create(str(number)).run_id)
    first = client.list(finished_since(1), page_size=2)
    token = first.next_page_token
    rest = client.list(page_token=token, page_size=2)
    names = [run.display_name for run in [*first.runs, *rest.runs]]
    assert sorted(names) == ["0", "1", "2"]
    assert rest.next_page_token is None
    # Times and lists in a token never equal those of a request; text does.
    mismatch = "page token does not match the supplied sort by and/or filtering criteria"
    assert mismatch in refusal(client.list, finished_since(1), page_token=token)[2]
    assert mismatch in refusal(client.list, page_token=token, sort_by="finished_at")[2]
    text = client.list(equals("state", "SUCCEEDED"), page_size=2).next_page_token
    assert len(client.list(equals("state", "SUCCEEDED"), page_token=text).runs) == 1
    assert json.loads(base64.b64decode(token))["Filter"] == {
        "GTE": {"FinishedAtInSec": [1]},
    }


def test_a_row_that_changes_ahead_of_the_cursor_is_not_seen_on_this_walk(
    api: FakeKfpApi, client: Client
) -> None:
    base = 1_700_000_000
    ids = [client.create(str(number)).run_id for number in range(4)]
    for offset in (1, 2, 3):
        api.finish(ids[offset], finished_at=datetime.fromtimestamp(base + offset, UTC))
    first = client.list(finished_since(base), sort_by="finished_at", page_size=2)
    assert [run.display_name for run in first.runs] == ["1", "2"]
    api.finish(ids[0], finished_at=datetime.fromtimestamp(base, UTC))
    rest = client.list(page_token=first.next_page_token, page_size=2)
    assert [run.display_name for run in rest.runs] == ["3"]
    assert rest.total_size == 4


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"sort_by": "colour"}, 'Invalid sorting field: "colour" on listable type Run'),
        ({"sort_by": "created_at down"}, "Received invalid sort by format"),
        ({"page_token": "!"}, "Invalid page token"),
        ({"page_token": base64.b64encode(b"{}").decode()}, "Invalid page token"),
        ({"page_size": -1}, "The page size should be greater than 0. Got -1"),
    ],
)
def test_bad_list_requests_are_refused(client: Client, query: dict[str, Any], message: str) -> None:
    status, code, text = refusal(client.list, **query)
    assert (status, code) == (400, 3)
    assert message in text


def test_runs_of_one_experiment(client: Client) -> None:
    experiment = client.experiments.experiment_service_create_experiment({"display_name": "mine"})
    client.create("inside", experiment_id=experiment.experiment_id)
    client.create("outside")
    assert client.listed(experiment_id=experiment.experiment_id) == ["inside"]
    assert refusal(client.list, experiment_id="gone")[0] == 404
    # Without users there are no namespaces, and a namespace changes nothing.
    assert len(client.listed(namespace="team-a")) == 2


def test_finished_runs_are_found_among_thousands_that_wait(api: FakeKfpApi, client: Client) -> None:
    _, made = post(api.url + "/fake/runs", {"n": 2_000, "run": run_body("waiting")})
    finished = made["run_ids"][::500]
    post(api.url + "/fake/finish", {"run_ids": finished})
    listed = client.list(finished_since(time.time() - 60))
    assert {run.run_id for run in listed.runs} == set(finished)
    assert listed.total_size == len(finished)
    assert client.list().total_size == 2_000


def test_answers_have_no_field_that_the_contract_has_not(api: FakeKfpApi, client: Client) -> None:
    run_id = client.create(pipeline_spec={"pipeline_spec": SPEC, "platform_spec": PLATFORM}).run_id
    api.finish(run_id, "FAILED", tasks={"train": "FAILED"}, error="e", task_errors={"train": "t"})
    listed = httpx.get(api.url + "/apis/v2beta1/runs", params={"page_size": 1}).json()
    assert len(parse("V2beta1ListRunsResponse", listed)["runs"]) == 1


# Ending, retrying, deleting


def test_termination_passes_through_canceling(api: FakeKfpApi, client: Client) -> None:
    api.terminate_seconds = 60
    run_id = client.create().run_id
    assert client.runs.run_service_terminate_run(run_id) == {}
    run = client.get(run_id)
    assert run.state == "CANCELING"
    assert [status.state for status in run.state_history] == ["PENDING"]
    message = f"Failed to terminate a run {run_id}. Row not found"
    assert refusal(client.runs.run_service_terminate_run, run_id) == (400, 3, message)


@pytest.mark.parametrize("final", ["FAILED", "SUCCEEDED"])
def test_a_terminated_run_ends_soon_afterwards(api: FakeKfpApi, client: Client, final: str) -> None:
    api.terminated_state = final
    run_id = client.create().run_id
    client.runs.run_service_terminate_run(run_id)
    run = wait_for(lambda: client.get(run_id), lambda run: run.state == final)
    assert run.finished_at != EPOCH


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"])
def test_a_finished_run_cannot_be_terminated(api: FakeKfpApi, client: Client, state: str) -> None:
    run_id = client.create().run_id
    api.finish(run_id, state)
    assert refusal(client.runs.run_service_terminate_run, run_id)[:2] == (400, 3)
    assert client.get(run_id).state == state


def test_a_failed_run_can_be_retried_and_runs_again(api: FakeKfpApi, client: Client) -> None:
    run_id = client.create().run_id
    api.finish(run_id, "FAILED")
    client.runs.run_service_retry_run(run_id)
    run = client.get(run_id)
    assert (run.state, run.finished_at) == ("RUNNING", EPOCH)
    assert client.list(finished_since(1)).runs is None
    assert [status.state for status in run.state_history] == ["PENDING", "FAILED", "RUNNING"]


def test_a_run_that_has_not_failed_cannot_be_retried(api: FakeKfpApi, client: Client) -> None:
    run_id = client.create().run_id
    unreported = f"Failed to retry run {run_id} due to error fetching workflow manifest"
    assert refusal(client.runs.run_service_retry_run, run_id) == (409, 10, unreported)
    api.finish(run_id)
    assert refusal(client.runs.run_service_retry_run, run_id) == (
        409,
        10,
        "Workflow must be Failed/Error to retry",
    )


def test_runs_are_archived_and_deleted(api: FakeKfpApi, client: Client) -> None:
    run_id = client.create().run_id
    client.runs.run_service_archive_run(run_id)
    assert client.get(run_id).storage_state == "ARCHIVED"
    client.runs.run_service_unarchive_run(run_id)
    assert client.get(run_id).storage_state == "AVAILABLE"
    client.runs.run_service_delete_run(run_id)
    assert api.runs == {}


@pytest.mark.parametrize("verb", ["terminate", "retry", "archive", "unarchive", "delete"])
def test_an_unknown_run_is_not_found(client: Client, verb: str) -> None:
    call = getattr(client.runs, f"run_service_{verb}_run")
    assert refusal(call, "gone") == (404, 5, "Run gone not found")


def test_a_deleted_run_is_in_no_list(api: FakeKfpApi, client: Client) -> None:
    run_id = client.create().run_id
    api.finish(run_id)
    api.delete(run_id)
    assert refusal(client.get, run_id)[0] == 404
    assert client.list(finished_since(1)).runs is None
    with pytest.raises(KeyError):
        api.finish(run_id)


# Pipelines


def upload(client: Client, folder: Path, name: str = "sft", **query: Any) -> tuple[Any, Any]:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump_all([SPEC, PLATFORM]))
    pipeline = client.upload.upload_pipeline(str(path), name=name, **query)
    listed = client.pipelines.pipeline_service_list_pipeline_versions(pipeline.pipeline_id)
    return pipeline, listed.pipeline_versions[0]


def test_an_upload_makes_a_pipeline_and_a_version_of_the_same_name(client: Client, tmp_path: Path) -> None:
    pipeline, version = upload(client, tmp_path, description="what for", tags='{"team": "llm"}')
    assert (pipeline.name, pipeline.display_name, pipeline.description) == ("sft", "sft", "what for")
    assert pipeline.tags == {"team": "llm"}
    assert (version.name, version.tags) == ("sft", None)
    assert version.pipeline_spec == {"pipeline_spec": SPEC, "platform_spec": PLATFORM}
    assert client.pipelines.pipeline_service_get_pipeline(pipeline.pipeline_id) == pipeline
    assert client.pipelines.pipeline_service_get_pipeline_by_name("sft") == pipeline
    got = client.pipelines.pipeline_service_get_pipeline_version(
        pipeline.pipeline_id, version.pipeline_version_id
    )
    assert got == version


def test_a_version_is_uploaded_with_tags_and_found_by_name_and_tag(client: Client, tmp_path: Path) -> None:
    pipeline, _ = upload(client, tmp_path)
    file = str(tmp_path / "spec.yaml")
    digest = "0123456789abcdef"
    version = client.upload.upload_pipeline_version(
        file,
        name="v2",
        pipelineid=pipeline.pipeline_id,
        description="second",
        tags=json.dumps({"digest": digest}),
    )
    assert (version.name, version.description, version.tags) == ("v2", "second", {"digest": digest})

    def found(predicate: dict[str, Any]) -> list[str]:
        listed = client.pipelines.pipeline_service_list_pipeline_versions(
            pipeline.pipeline_id, filter=json.dumps({"predicates": [predicate]})
        )
        return [item.name for item in listed.pipeline_versions or []]

    assert found(equals("name", "v2")) == ["v2"]
    assert found(equals("tags.digest", digest)) == ["v2"]
    assert found(equals("tags.digest", "other")) == []


def test_a_name_that_is_taken_is_a_conflict(client: Client, tmp_path: Path) -> None:
    pipeline, _ = upload(client, tmp_path)
    file = str(tmp_path / "spec.yaml")
    with pytest.raises(ApiException) as caught:
        client.upload.upload_pipeline(file, name="sft")
    message = "Failed to create a pipeline and a pipeline version"
    assert caught.value.status == 409
    error = json.loads(caught.value.body)
    assert set(error) == {"error_message", "error_details"}
    assert error["error_message"] == message
    with pytest.raises(ApiException) as caught:
        client.upload.upload_pipeline_version(file, name="sft", pipelineid=pipeline.pipeline_id)
    assert caught.value.status == 409
    with pytest.raises(ApiException) as caught:
        client.pipelines.pipeline_service_create_pipeline({"name": "sft"})
    assert caught.value.status == 409


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"digest": "0" * 64}, "exceeds maximum length of 63 characters"),
        ({"k" * 64: "v"}, "exceeds maximum length of 63 characters"),
        ({"a.b": "v"}, "must not contain '.' character"),
        ({str(number): "v" for number in range(21)}, "number of tags (21) exceeds maximum of 20 per entity"),
        (["v"], "Failed to parse tags query parameter"),
    ],
)
def test_tags_that_do_not_fit_are_a_bad_request(
    client: Client, tmp_path: Path, tags: Any, message: str
) -> None:
    pipeline, _ = upload(client, tmp_path)
    with pytest.raises(ApiException) as caught:
        client.upload.upload_pipeline_version(
            str(tmp_path / "spec.yaml"), name="v2", pipelineid=pipeline.pipeline_id, tags=json.dumps(tags)
        )
    assert caught.value.status == 400
    assert message in json.loads(caught.value.body)["error_message"]


@pytest.mark.parametrize("text", ["kind: Pod\n", "{", "", yaml.safe_dump(SPEC | {"schemaVersion": "1"})])
def test_an_upload_that_is_no_pipeline_is_a_bad_request(client: Client, tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ApiException) as caught:
        client.upload.upload_pipeline(str(path), name="bad")
    assert caught.value.status == 400
    assert client.pipelines.pipeline_service_list_pipelines().pipelines is None


def test_a_version_of_an_unknown_pipeline_is_a_bad_request(client: Client, tmp_path: Path) -> None:
    upload(client, tmp_path)
    with pytest.raises(ApiException) as caught:
        client.upload.upload_pipeline_version(str(tmp_path / "spec.yaml"), name="v", pipelineid="gone")
    assert caught.value.status == 400


def test_a_pipeline_is_deleted_with_its_versions_only_by_cascade(client: Client, tmp_path: Path) -> None:
    pipeline, _ = upload(client, tmp_path)
    delete = client.pipelines.pipeline_service_delete_pipeline
    assert refusal(delete, pipeline.pipeline_id)[0] == 400
    delete(pipeline.pipeline_id, cascade=True)
    assert refusal(client.pipelines.pipeline_service_get_pipeline, pipeline.pipeline_id)[0] == 404
    assert refusal(client.pipelines.pipeline_service_get_pipeline_by_name, "sft")[0] == 404


def test_a_deleted_version_is_gone(client: Client, tmp_path: Path) -> None:
    pipeline, version = upload(client, tmp_path)
    ids = pipeline.pipeline_id, version.pipeline_version_id
    client.pipelines.pipeline_service_delete_pipeline_version(*ids)
    assert refusal(client.pipelines.pipeline_service_get_pipeline_version, *ids)[0] == 404


def test_tags_of_a_version_are_replaced(client: Client, tmp_path: Path) -> None:
    pipeline, version = upload(client, tmp_path)
    updated = client.pipelines.pipeline_service_update_pipeline_version(
        pipeline.pipeline_id, version.pipeline_version_id, {"display_name": "shown", "tags": {"a": "b"}}
    )
    assert (updated.name, updated.display_name, updated.tags) == ("sft", "shown", {"a": "b"})


def test_a_version_is_created_from_a_package_url(api: FakeKfpApi, client: Client, tmp_path: Path) -> None:
    pipeline = client.pipelines.pipeline_service_create_pipeline({"display_name": "sft"})
    assert pipeline.name == "sft"
    url = "https://packages.example/sft.yaml"
    body = {"pipeline_id": pipeline.pipeline_id, "name": "v1", "package_url": {"pipeline_url": url}}
    create = client.pipelines.pipeline_service_create_pipeline_version
    assert refusal(create, pipeline.pipeline_id, body)[0] == 400
    api.state.packages[url] = yaml.safe_dump(SPEC)
    version = create(pipeline.pipeline_id, body)
    assert (version.pipeline_spec, version.package_url.pipeline_url) == (SPEC, url)


# Experiments, health, users


def test_experiments_are_created_once_by_name_and_found(client: Client) -> None:
    create = client.experiments.experiment_service_create_experiment
    experiment = create({"display_name": "sft", "description": "what for"})
    assert client.experiments.experiment_service_get_experiment(experiment.experiment_id) == experiment
    message = "Failed to create a new experiment. The name sft already exists. Please specify a new name"
    assert refusal(create, {"display_name": "sft"}) == (409, 6, message)
    assert refusal(create, {"display_name": ""})[0] == 500
    named = json.dumps({"predicates": [equals("display_name", "sft")]})
    listed = client.experiments.experiment_service_list_experiments(filter=named)
    assert listed.experiments == [experiment]


def test_runs_without_an_experiment_are_in_the_default_one(client: Client) -> None:
    [default] = client.experiments.experiment_service_list_experiments().experiments
    assert (default.display_name, default.last_run_created_at) == ("Default", EPOCH)
    run = client.create()
    assert run.experiment_id == default.experiment_id
    [default] = client.experiments.experiment_service_list_experiments().experiments
    assert default.last_run_created_at == run.created_at


def test_health(api: FakeKfpApi, client: Client) -> None:
    health = client.health.healthz_service_get_healthz()
    assert health.multi_user is False
    assert httpx.get(api.url + "/apis/v2beta1/healthz").json() == {
        "commit_sha": "7b70c7b95f6832772efd6fd0029a4024491a0f44",
        "tag_name": "2.17.0",
        "multi_user": False,
        "pipeline_store": "database",
    }


def test_users_work_in_namespaces() -> None:
    with FakeKfpApi(multi_user=True) as api:
        client = Client(api.url)
        assert client.health.healthz_service_get_healthz().multi_user is True
        assert refusal(client.create) == (400, 3, "Experiment id can not be empty in multi-user mode")
        assert refusal(client.list) == (400, 3, "A run cannot have an empty namespace in multi-user mode")
        experiment = client.experiments.experiment_service_create_experiment(
            {"display_name": "x", "namespace": "team-a"}
        )
        client.create(experiment_id=experiment.experiment_id)
        assert client.listed(namespace="team-a") == ["run"]
        assert client.listed(namespace="team-b") == []
        api.state.forbidden_namespaces.add("team-a")
        assert refusal(client.list, namespace="team-a")[:2] == (403, 7)


def test_requests_without_the_token_or_the_cookie_are_unauthenticated(api: FakeKfpApi) -> None:
    api.token = TOKEN
    assert refusal(Client(api.url).list)[:2] == (401, 16)
    assert Client(api.url, token=TOKEN).list().runs is None
    api.token, api.cookie = None, "authservice_session=abc"
    assert refusal(Client(api.url).list)[:2] == (401, 16)
    cookie = {"Cookie": "a=b; authservice_session=abc"}
    assert httpx.get(api.url + "/apis/v2beta1/runs", headers=cookie).status_code == 200


def test_what_is_not_there(api: FakeKfpApi) -> None:
    assert post(api.url + "/apis/v2beta1/nothing", {}) == (404, {"code": 5, "message": "Not Found"})
    assert post(api.url + "/apis/v2beta1/runs/x:stop", {}) == (
        501,
        {"code": 12, "message": "Method Not Allowed"},
    )


# What tests do to the server


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_error_status_is_answered_as_often_as_asked(api: FakeKfpApi, client: Client, status: int) -> None:
    api.faults.add(Status(status, retry_after=2), times=2, method="GET", path="/runs$")
    for _ in range(2):
        with pytest.raises(ApiException) as caught:
            client.list()
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (status, "2")
    assert client.list().runs is None
    assert [request.status for request in api.requests] == [status, status, 200]


def test_a_fault_waits_for_its_method_and_path(api: FakeKfpApi, client: Client) -> None:
    api.faults.add(Status(503), method="POST", path=":terminate$")
    run_id = client.create().run_id
    client.list()
    with pytest.raises(ApiException):
        client.runs.run_service_terminate_run(run_id)
    assert client.get(run_id).state == "PENDING"


@pytest.mark.parametrize("after_effect", [False, True])
@pytest.mark.parametrize("fault", [Reset(), Status(504), Truncated()])
def test_a_lost_answer_leaves_a_run_only_after_the_effect(
    api: FakeKfpApi, client: Client, fault: Fault, after_effect: bool
) -> None:
    api.faults.add(fault, after_effect=after_effect)
    with pytest.raises((ApiException, HTTPError)):
        client.create()
    assert len(api.runs) == int(after_effect)
    client.create()
    assert len(api.runs) == int(after_effect) + 1


def test_the_official_client_takes_cut_json_for_an_empty_run(api: FakeKfpApi, client: Client) -> None:
    api.faults.add(Truncated(length_matches=True), after_effect=True)
    assert client.create() == kfp_server_api.V2beta1Run()
    assert len(api.runs) == 1


def test_a_reset_is_a_reset_and_truncation_is_an_incomplete_read(api: FakeKfpApi, client: Client) -> None:
    run_id = client.create().run_id
    api.faults.add(Reset())
    with pytest.raises(HTTPError, match="Connection reset by peer"):
        client.get(run_id)
    api.faults.add(Truncated())
    with pytest.raises(HTTPError) as caught:
        client.get(run_id)
    assert "IncompleteRead" in str(caught.value)
    assert client.get(run_id).run_id == run_id


def test_a_late_answer_has_an_effect_only_if_the_client_still_waits(api: FakeKfpApi, client: Client) -> None:
    api.faults.add(Timeout(0.3))
    body = kfp_server_api.V2beta1Run(**run_body("late"))
    with pytest.raises(ReadTimeoutError):
        client.runs.run_service_create_run(body, _request_timeout=(1, 0.1))
    wait_for(lambda: [request.status for request in api.requests], lambda statuses: statuses == [0])
    assert api.runs == {}
    api.faults.add(Timeout(0.1))
    assert client.runs.run_service_create_run(body).state == "PENDING"


@pytest.mark.parametrize("status", [200, 302])
def test_the_official_client_takes_a_login_page_for_an_empty_run(api: FakeKfpApi, status: int) -> None:
    client = Client(api.url, retries=None)
    run_id = client.create().run_id
    api.faults.always(LoginPage(status), path="/runs/")
    run, code, headers = client.runs.run_service_get_run_with_http_info(run_id)
    assert (run.run_id, code) == (None, 200)
    assert headers["Content-Type"].startswith("text/html")


def test_random_faults_are_the_same_for_a_seed(api: FakeKfpApi, client: Client) -> None:
    def statuses() -> list[int]:
        api.clear_requests()
        api.faults.clear()
        api.faults.random(0.5, [Status(500), Status(503)], seed=7)
        for _ in range(30):
            try:
                client.list()
            except ApiException:
                continue
        return [request.status for request in api.requests]

    first = statuses()
    assert set(first) == {200, 500, 503}
    assert statuses() == first


def test_a_stopped_server_is_unreachable_and_keeps_its_state(api: FakeKfpApi, client: Client) -> None:
    run_id = client.create().run_id
    url = api.url
    with api.pause(), pytest.raises(HTTPError, match="Connection refused"):
        Client(url).get(run_id)
    assert api.url == url
    assert Client(url).get(run_id).run_id == run_id


def test_requests_are_kept_with_what_they_said(api: FakeKfpApi) -> None:
    client = Client(api.url, token=TOKEN)
    before = time.time()
    client.create("a name")
    client.list(page_size=5, sort_by="created_at desc")
    created, listed = api.requests
    assert (created.method, created.path, created.status) == ("POST", "/apis/v2beta1/runs", 200)
    assert created.body["display_name"] == "a name"
    assert created.headers["authorization"] == f"Bearer {TOKEN}"
    assert before <= created.at <= listed.at <= time.time()
    assert listed.query == {"page_size": "5", "sort_by": "created_at desc"}
    assert listed.body is None
    assert (api.count(), api.count("POST"), api.count(path="/runs$"), api.count("GET", "x")) == (2, 1, 2, 0)
    api.clear_requests()
    assert api.requests == []


def test_callbacks_carry_runs_out(api: FakeKfpApi, client: Client) -> None:
    seen: list[str] = []
    done = threading.Event()

    def carry_out(run: dict[str, Any]) -> None:
        seen.append(run["state"])
        api.finish(run["run_id"], tasks={"train": "SUCCEEDED"})

    def end(run: dict[str, Any]) -> None:
        seen.append(run["state"])
        done.set()

    api.on_run_created, api.on_run_terminated = carry_out, end
    run_id = client.create().run_id
    wait_for(lambda: client.get(run_id), lambda run: run.state == "SUCCEEDED")
    api.on_run_created = None
    client.runs.run_service_terminate_run(client.create().run_id)
    assert done.wait(10)
    assert seen == ["PENDING", "CANCELING"]


def test_threads_do_not_get_in_each_others_way(api: FakeKfpApi) -> None:
    def work() -> None:
        client = Client(api.url)
        for _ in range(10):
            run_id = client.create().run_id
            api.finish(run_id)
            client.list(finished_since(1), page_size=1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [run["state"] for run in api.runs.values()] == ["SUCCEEDED"] * 80
    assert Client(api.url).list(finished_since(1)).total_size == 80


def test_one_connection_serves_many_requests(api: FakeKfpApi) -> None:
    client = Client(api.url)
    for _ in range(5):
        client.list()
    pool = client.runs.api_client.rest_client.pool_manager.connection_from_url(api.url)
    assert (pool.num_connections, pool.num_requests) == (1, 5)


def test_a_process_of_its_own_is_driven_over_http() -> None:
    fakes = Path(__file__).parents[1] / "fakes"
    process = subprocess.Popen(
        [sys.executable, "-m", "kfp_api", "--port", "0"],
        env=os.environ | {"PYTHONPATH": str(fakes)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        status, made = post(url + "/fake/runs", {"n": 100, "run": run_body("many")})
        assert (status, len(set(made["run_ids"]))) == (200, 100)
        client = Client(url)
        assert client.list().total_size == 100
        post(url + "/fake/finish", {"run_ids": made["run_ids"][:3], "state": "FAILED"})
        assert client.list(finished_since(1)).total_size == 3
        client.get(made["run_ids"][0])
        assert httpx.get(url + "/fake/requests").json()["counts"] == {
            "GET /apis/v2beta1/runs": 2,
            "GET /apis/v2beta1/runs/{id}": 1,
        }
    finally:
        process.terminate()
        assert process.wait(10) == 0
        assert process.stdout is not None
        process.stdout.close()


def run_body(name: str) -> dict[str, Any]:
    return {"display_name": name, "pipeline_spec": SPEC, "runtime_config": {"parameters": PARAMETERS}}


def post(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    answer = httpx.post(url, json=body)
    return answer.status_code, answer.json()


def wait_for(read: Any, until: Any) -> Any:
    deadline = time.monotonic() + 10
    while not until(value := read()):
        assert time.monotonic() < deadline, f"still {value}"
        time.sleep(0.01)
    return value
