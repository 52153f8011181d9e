"""Requests that a Kubeflow Pipelines server 2.17 answered, sent again: to the fake server in their order, and its answers to the client.

In the recording ids, tokens and times are ``{run-1}``, ``{token-2}``, ``{time}`` and so on: what takes their place is the same wherever
the name is. What was done between two recorded requests is done by the preparations below.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from kfp_api import FakeKfpApi, User
from kfp_api.connection import Answer
from kfp_api.errors import STACK

from airflow_provider_llmops.backends.pipelines.kubeflow.api import (
    KfpApi,
    RefusedError,
    UnansweredError,
    WorkflowGoneError,
)
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.specs.pipeline import PipelineSpec

EXCHANGES = json.loads((Path(__file__).parents[1] / "recorded" / "kfp-exchanges.json").read_text())
NAMED = {exchange["name"]: exchange for exchange in EXCHANGES}
PLACEHOLDER = re.compile(r"\{[a-z]+(?:-\d+)?\}")


def echo(**changes: Any) -> dict[str, Any]:
    """The pipeline ``echo``: one container step and no parameter."""
    return {
        "components": {"comp-echo": {"executorLabel": "exec-echo"}},
        "deploymentSpec": {
            "executors": {
                "exec-echo": {
                    "container": {
                        "args": ["hello world"],
                        "command": ["echo"],
                        "image": "registry.access.redhat.com/ubi9/python-311:latest",
                    }
                }
            }
        },
        "pipelineInfo": {"name": "echo"},
        "root": {
            "dag": {
                "tasks": {
                    "echo": {
                        "cachingOptions": {"enableCache": True},
                        "componentRef": {"name": "comp-echo"},
                        "taskInfo": {"name": "echo"},
                    }
                }
            }
        },
        "schemaVersion": "2.1.0",
        "sdkVersion": "kfp-2.14.6",
        **changes,
    }


def taking(**parameters: str) -> dict[str, Any]:
    """The same with parameters; only ``t`` has to be given."""
    root = echo()["root"]
    root["inputDefinitions"] = {
        "parameters": {
            name: {"parameterType": kind, **({"isOptional": True} if name != "t" else {})}
            for name, kind in parameters.items()
        }
    }
    return echo(root=root)


def looping_over_artifacts() -> dict[str, Any]:
    root = echo()["root"]
    root["dag"]["tasks"]["echo"]["artifactIterator"] = {"items": {"inputArtifact": "a"}, "itemInput": "b"}
    return echo(root=root)


def with_unknown_task_field() -> dict[str, Any]:
    root = echo()["root"]
    root["dag"]["tasks"]["echo"]["nope"] = 1
    return echo(root=root)


SPECS = {
    "{spec-hello}": echo(),
    "{spec-hello} with an unknown field in a task": with_unknown_task_field(),
    "{spec-hello} with schemaVersion 2.0.0": echo(schemaVersion="2.0.0"),
    "{spec-hello} whose pipelineInfo.name has a dot": echo(pipelineInfo={"name": "my.pipe"}),
    "{spec-one-parameter}": taking(t="STRING"),
    "{spec-params}": taking(
        t="STRING", n="NUMBER_INTEGER", b="BOOLEAN", l="LIST", d="STRUCT", f="NUMBER_DOUBLE"
    ),
    "{spec of test_data/sdk_compiled_pipelines/valid/pipeline_with_parallelfor_list_artifacts_GH-12033.yaml}": (
        looping_over_artifacts()
    ),
}
# How the recording shows a specification that it names with a change.
SHOWN = {json.dumps(SPECS["{spec-hello} whose pipelineInfo.name has a dot"], sort_keys=True): "{spec-hello}"}
SHOWN |= {
    json.dumps(spec, sort_keys=True): words
    for words, spec in SPECS.items()
    if words in ("{spec-hello}", "{spec-params}", "{spec-one-parameter}")
}
SHOWN_TEXTS = {"{stack}": STACK, "{spec-hello}": json.dumps(SPECS["{spec-hello}"])}
USERS = {
    "af": User("system:serviceaccount:lab-a:af", writes=frozenset({"lab-a"})),
    "other": User("system:serviceaccount:lab-b:af", writes=frozenset({"lab-b"})),
    "reader": User("system:serviceaccount:lab-a:reader", reads=frozenset({"lab-a"})),
}
AUDIENCE = (
    '[invalid bearer token, token audiences ["https://kubernetes.default.svc"] is invalid for the target audiences '
    '["pipelines.kubeflow.org"]]'
)


class Replay:
    """Sends what was recorded, and remembers what stands for the names in it."""

    def __init__(self, api: FakeKfpApi) -> None:
        self.api = api
        self.known: dict[str, str] = {}

    def send(
        self, method: str, path: str, query: Any = None, body: Any = None, token: str = ""
    ) -> tuple[int, Any]:
        headers = {"Authorization": token} if token else {}
        payload = None
        if isinstance(body, dict) and set(body) == {"content_type", "raw"}:
            payload, kind = body["raw"], body["content_type"]
            headers["Content-Type"] = f"{kind}; boundary=XX" if "multipart" in kind else kind
        elif body is not None:
            payload, headers["Content-Type"] = json.dumps(body), "application/json"
        connection = HTTPConnection(self.api.url.removeprefix("http://"), timeout=10)
        try:
            connection.request(
                method,
                path + (f"?{urlencode(query)}" if query else ""),
                None if payload is None else payload.encode(),
                headers,
            )
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text

    def create(self, name: str, **fields: Any) -> str:
        body = {"display_name": name, "pipeline_spec": SPECS["{spec-hello}"], **fields}
        status, answer = self.send("POST", "/apis/v2beta1/runs", body=body)
        assert status == 200, answer
        return answer["run_id"]

    def token(self, **query: Any) -> str:
        return self.send("GET", "/apis/v2beta1/runs", {"page_size": 1, **query})[1]["next_page_token"]

    def filled(self, value: Any) -> Any:
        """A recorded request with what stands for its names."""
        if isinstance(value, dict):
            return {key: self.filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.filled(item) for item in value]
        if not isinstance(value, str):
            return value
        if value in SPECS:
            return SPECS[value]
        for name, text in (SHOWN_TEXTS | self.known).items():
            value = value.replace(name, text)
        assert not PLACEHOLDER.search(value), f"nothing stands for {value}"
        return value

    def named(self, actual: Any, recorded: Any) -> Any:
        """An actual answer in the words of the recorded one: learns what stands for names that are new."""
        if isinstance(actual, dict):
            if words := SHOWN.get(json.dumps(actual, sort_keys=True)):
                return words
            if not isinstance(recorded, dict):
                return actual
            return {key: self.named(item, recorded.get(key)) for key, item in actual.items()}
        if isinstance(actual, list) and isinstance(recorded, list):
            recorded = recorded + [None] * (len(actual) - len(recorded))
            return [self.named(item, like) for item, like in zip(actual, recorded, strict=False)]
        if not isinstance(actual, str) or not isinstance(recorded, str):
            return actual
        return self._named_text(actual, recorded)

    def _named_text(self, actual: str, recorded: str) -> str:
        pattern = ""
        for part in re.split(f"({PLACEHOLDER.pattern})", recorded):
            if not PLACEHOLDER.fullmatch(part):
                # Where in a message something stood depends on how the client has written it.
                pattern += re.sub(r"line\\ 1:\d+", r"line\\ 1:\\d+", re.escape(part))
            elif part == "{time}":
                pattern += r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"
            elif part in SHOWN_TEXTS or part in self.known:
                pattern += re.escape((SHOWN_TEXTS | self.known)[part])
            elif f"(?P<{_group(part)}>" in pattern:
                pattern += f"(?P={_group(part)})"
            else:
                pattern += f"(?P<{_group(part)}>.+?)"
        found = re.fullmatch(pattern, actual, re.DOTALL)
        if found is None:
            return actual
        self.known |= {"{" + name.replace("_", "-") + "}": text for name, text in found.groupdict().items()}
        return recorded


def _group(placeholder: str) -> str:
    return placeholder[1:-1].replace("-", "_")


# What happened before a recorded request.
Preparation = Callable[[Replay], None]


def finish(run: str, state: str) -> Preparation:
    return lambda replay: replay.api.advance(replay.known[run], state)


def start(name: str, run: str, *states: str) -> Preparation:
    def prepare(replay: Replay) -> None:
        replay.known[run] = replay.create(name)
        for state in states:
            replay.api.advance(replay.known[run], state)

    return prepare


def described(*texts: str) -> Preparation:
    return lambda replay: [replay.create(text, description=text) for text in texts] and None


def learn_token(name: str, **query: Any) -> Preparation:
    return lambda replay: replay.known.update({name: replay.token(**query)})


def twins_of_names(replay: Replay) -> None:
    for name in ("x3", "x4", "x5"):
        replay.create(name)


def odd_token(replay: Replay) -> None:
    fields = json.loads(base64.b64decode(replay.token()))
    fields |= {"SortByFieldName": "a;drop table", "SortBySQLColumn": "a;drop"}
    name = NAMED["token with SQL"]["request"]["query"]["page_token"]
    replay.known[name] = base64.b64encode(json.dumps(fields).encode()).decode()


def only_five_runs(replay: Replay) -> None:
    replay.api.state.runs.clear()
    replay.api.state._named.clear()
    replay.api.state._finished.clear()
    experiment = replay.api.state.create_experiment({"display_name": "pages"}).experiment_id
    for name in "abcde":
        replay.create(name, experiment_id=experiment)


def ended(replay: Replay) -> None:
    for seconds, (run, state) in enumerate((("{run-22}", "SUCCEEDED"), ("{run-23}", "FAILED"))):
        replay.api.advance(replay.known[run], "RUNNING")
        at = datetime.fromtimestamp(replay.api.now() + seconds, UTC)
        replay.api.advance(replay.known[run], state, finished_at=at)


def lose(run: str) -> Preparation:
    return lambda replay: replay.api.lose_workflow(replay.known[run])


def later(version: str) -> Preparation:
    def prepare(replay: Replay) -> None:
        replay.api.state.versions[replay.known[version]].created += 1

    return prepare


def in_turn(*preparations: Preparation) -> Preparation:
    return lambda replay: [prepare(replay) for prepare in preparations] and None


def query_of(name: str, *fields: str) -> dict[str, Any]:
    return {field: NAMED[name]["request"]["query"][field] for field in fields}


PREPARED: dict[str, Preparation] = {
    "token with other sort": in_turn(twins_of_names, learn_token("{token-3}")),
    "token with SQL": odd_token,
    "second page, IN filter repeated": learn_token(
        "{token-4}", **query_of("second page, IN filter repeated", "filter", "sort_by")
    ),
    "second page, time filter repeated": learn_token(
        "{token-5}", **query_of("second page, time filter repeated", "filter")
    ),
    "terminate finished": finish("{run-1}", "SUCCEEDED"),
    "terminate running": start("f", "{run-4}", "RUNNING"),
    "get terminated and ended": finish("{run-4}", "FAILED"),
    "retry failed": start("g", "{run-5}", "FAILED"),
    "substring 50%": described("50% of it", "50x of it", 'a"b', "axb", "a_b", "it's", "back\\slash"),
    "run of latest version": later("{version-2}"),
    "page 1 of 3": only_five_runs,
    "finished since": ended,
    "terminate, workflow gone from the cluster": lose("{run-24}"),
}


def bearer(name: str) -> str:
    """With which token a request of the multi-user part was sent."""
    if not name.startswith("mu ") or "no token" in name:
        return "Bearer \u00e9".encode().decode("latin-1") if name == "header not printable" else ""
    if name == "mu token without Bearer":
        return "af"
    for words, token in (
        ("wrong token", "wrong"),
        ("wrong audience", "cluster"),
        ("other user", "other"),
        ("reader", "reader"),
    ):
        if words in name:
            return f"Bearer {token}"
    return "Bearer af"


def is_of_several_users(number: int) -> bool:
    return number >= [exchange["name"] for exchange in EXCHANGES].index("mu healthz")


@pytest.fixture(scope="module")
def answers() -> Iterator[dict[str, tuple[int, Any]]]:
    """What the fake answers to each request, in the words of the recording."""
    found = {}
    with FakeKfpApi() as single, FakeKfpApi(multi_user=True) as several:
        several.users, several.token_faults = USERS, {"cluster": AUDIENCE}
        several.state.own_namespace = "team-a"
        replay = Replay(single)
        for number, exchange in enumerate(EXCHANGES):
            request, name = exchange["request"], exchange["name"]
            if name.startswith("task_details"):
                continue
            replay.api = several if is_of_several_users(number) else single
            PREPARED.get(name, lambda _: None)(replay)
            path, query, body = (replay.filled(request[part]) for part in ("path", "query", "body"))
            status, answer = replay.send(request["method"], path, query, body, bearer(name))
            found[name] = (status, replay.named(answer, exchange["response"]["body"]))
        yield found


def test_recording_is_whole():
    assert len(EXCHANGES) == len(NAMED) == 196
    assert set(PREPARED) <= set(NAMED)


@pytest.mark.parametrize("name", [name for name in NAMED if not name.startswith("task_details")])
def test_fake_answers_as_the_server_did(answers, name):
    response = NAMED[name]["response"]
    assert answers[name] == (response["status"], response["body"])


# The client. Of the internal errors, what is made of each.
LOOKED_FOR_FIRST = {"client run_id again"}
LET_GO = {"terminate, workflow gone from the cluster"}
NO_REASON = {"mu upload version no token", "mu other user: upload version", "mu upload pipeline forbidden"}
NO_REASON |= {"duplicate version", "upload pipeline twice", "upload_version unknown pipeline"}


def refused_with(api: FakeKfpApi, exchange: dict[str, Any], **settings: Any) -> Exception | None:
    """What the client raises when the server answers as it did."""
    status, body = exchange["response"]["status"], exchange["response"]["body"]
    text = body if isinstance(body, str) else json.dumps(body).replace("{stack}", json.dumps(STACK)[1:-1])
    api.answer = lambda incoming: Answer(status, text.encode())
    client = KfpApi(KfpSettings(conn_id="kfp", endpoint=api.url, patience=0.01, **settings))
    method = client.runs.run_service_list_runs
    try:
        client.call_once(method)
    except (RefusedError, UnansweredError) as error:
        return error
    return None


@pytest.mark.parametrize("name", [name for name in NAMED if NAMED[name]["response"]["status"] != 200])
def test_client_takes_what_will_be_the_same_next_time_as_final(api, name):
    exchange = NAMED[name]
    error = refused_with(api, exchange)
    kind = (
        UnansweredError if name in LOOKED_FOR_FIRST else WorkflowGoneError if name in LET_GO else RefusedError
    )
    assert type(error) is kind
    assert error.status == exchange["response"]["status"]
    if kind is UnansweredError:
        assert error.may_have_happened


@pytest.mark.parametrize("name", [name for name in NAMED if NAMED[name]["response"]["status"] != 200])
def test_reason_stands_in_the_first_characters_and_no_stack_anywhere(api, name):
    said = str(refused_with(api, NAMED[name]))
    assert not re.search(r"\.go:\d|github\.com/|goroutine", said)
    first = said[:80]
    layers = (
        "Failed to create a new run",
        "InternalServerError",
        "Invalid input error",
        "Failed to list",
        "Check if",
    )
    assert not any(layer in first for layer in layers), first


REASONS = {
    "spec the server cannot compile": 'compiling DAG "root": artifact iterator not implemented yet',
    "platform spec with unknown field": 'error processing component name="comp-echo": failed to add Kubernetes spec for comp-echo: ',
    "run name 256": "Failed to store run nnn",
    "run of unknown version": "PipelineVersion nope not found",
    "empty name": "Run name cannot be empty",
    "unknown nested spec field": "unknown template format: pipeline spec is invalid",
    "mu list runs forbidden": "User 'system:serviceaccount:lab-a:af' is not authorized with reason",
    "mu wrong token": "Review.Status.Authenticated is false. Error invalid bearer token",
    "upload long name": "Pipeline.Name length cannot exceed 128",
    "retry succeeded": "Workflow must be Failed/Error to retry",
}


@pytest.mark.parametrize("name", REASONS)
def test_reason_is_that_of_the_innermost_layer(api, name):
    said = str(refused_with(api, NAMED[name]))
    status = NAMED[name]["response"]["status"]
    assert said.startswith(f"Refused with {status}: {REASONS[name]}")


def test_what_the_database_does_not_hold_is_named_at_the_end_of_a_long_reason(api):
    said = str(refused_with(api, NAMED["run name 256"]))
    assert (
        "Data too long for column 'DisplayName' at row 1. The server will not carry this out as it is."
        in said
    )
    said = str(refused_with(api, NAMED["emoji parameter"]))
    assert "does not take such characters (emoji, for example): leave them out, pass them in a file" in said
    # Tried on such a server. Its tables have utf8mb4 in any case; it is the connection that has not.
    assert """DBCONFIG_MYSQLCONFIG_EXTRAPARAMS='{"charset": "utf8mb4"}'.""" in said


@pytest.mark.parametrize("name", sorted(NO_REASON))
def test_upload_without_a_reason_says_what_it_may_be(api, name):
    said = str(refused_with(api, NAMED[name], namespace="lab-a"))
    assert ("lacks the right to upload in namespace 'lab-a'" in said) == (
        NAMED[name]["response"]["status"] == 400
    )


WITHOUT_NAMESPACE = [
    "mu no token, no namespace",
    "mu list runs no namespace",
    "mu list experiments no namespace",
    "mu create experiment no namespace",
    "mu create run no experiment",
    "mu create pipeline shared",
]


@pytest.mark.parametrize("name", WITHOUT_NAMESPACE)
def test_missing_namespace_is_named(api, name):
    said = str(refused_with(api, NAMED[name]))
    assert "The server is multi-user: set 'namespace' of connection 'kfp' to your profile's." in said


def recorded_specification(name: str) -> list[Any]:
    """The documents that were sent with a run."""
    sent = NAMED[name]["request"]["body"]["pipeline_spec"]
    documents = [sent["pipeline_spec"], sent["platform_spec"]] if isinstance(sent, dict) else [sent]
    return [
        SPECS.get(document, document) if isinstance(document, str) else document for document in documents
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("unknown nested spec field", "There is no field 'nope' in a PipelineTaskSpec"),
        ("spec schemaVersion 2.0.0", "has schemaVersion '2.0.0'"),
        ("platform spec with unknown field", "There is no field 'nope' in a KubernetesExecutorConfig"),
        ("run dotted pipeline name inline", None),
        ("create run", None),
        ("parameters: good parameters", None),
    ],
)
def test_a_specification_is_read_if_the_server_took_it_and_refused_if_not(name, reason):
    content = yaml.safe_dump_all(recorded_specification(name)).encode()
    refused = NAMED[name]["response"]["status"] != 200
    assert refused is bool(reason)
    if not refused:
        assert PipelineSpec.parse(content, where="p.yaml").ir == recorded_specification(name)[0]
        return
    with pytest.raises(ConfigurationError, match=reason):
        PipelineSpec.parse(content, where="p.yaml")


def test_both_documents_that_the_server_answers_with_are_read():
    answer = NAMED["versions of that"]["response"]["body"]["pipeline_versions"][0]["pipeline_spec"]
    assert answer["pipeline_spec"] == "{spec-hello}"
    spec = PipelineSpec.stored({**answer, "pipeline_spec": echo()}, where="a version")
    assert (spec.ir, spec.platform) == (echo(), answer["platform_spec"])
