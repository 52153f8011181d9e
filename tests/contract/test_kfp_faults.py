"""What networks, proxies and overloaded servers do to the calls, and what comes of it. Delays are scaled down."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
from kfp_api import LoginPage, Reset, Status, Timeout, Truncated
from kfp_api.connection import Answer
from pipelines import two_steps
from tls_front import TlsFront

from airflow_provider_llmops.backends import retrying
from airflow_provider_llmops.backends.pipelines.base import RunRequest
from airflow_provider_llmops.backends.pipelines.kubeflow import api as kfp_api
from airflow_provider_llmops.backends.pipelines.kubeflow.backend import KubeflowPipelineBackend
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, RunNotFoundError
from airflow_provider_llmops.specs.pipeline import PipelineSpec

RUNS = "/runs$"
TOKEN = "token-that-nobody-may-read"  # noqa: S105
COOKIE = "session=cookie-that-nobody-may-read"
TIMEOUT_SECONDS = 0.25
SPEC = PipelineSpec.parse(json.dumps(two_steps()).encode(), where="two_steps.yaml")
FAULTS = {
    "429": Status(429),
    "429 with Retry-After": Status(429, retry_after=1),
    "500": Status(500),
    "502": Status(502),
    "503": Status(503),
    "504": Status(504),
    "408": Status(408),
    "reset": Reset(),
    "time-out": Timeout(2 * TIMEOUT_SECONDS),
    "truncated": Truncated(),
    "truncated with its length": Truncated(length_matches=True),
}


@pytest.fixture
def settings(api, tmp_path):
    return KfpSettings(
        conn_id="kfp",
        endpoint=api.url,
        pipeline_root=f"file://{tmp_path}/root",
        timeout=TIMEOUT_SECONDS,
        patience=15.0,
    )


@pytest.fixture
def scaled(monkeypatch):
    """A thousandth of the delays."""
    monkeypatch.setattr(retrying, "FIRST_DELAY_SECONDS", 0.0005)
    monkeypatch.setattr(retrying, "MAX_DELAY_SECONDS", 0.03)
    monkeypatch.setattr(retrying, "MAX_RETRY_AFTER_SECONDS", 0.12)


@pytest.fixture
def slept(monkeypatch):
    """Seconds that would have been waited between attempts; nobody waits."""
    delays: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=delays.append))
    return delays


def request(name: str = "dag.task token") -> RunRequest:
    return RunRequest(display_name=name, pipeline=SPEC.bind({"steps": 3}))


def warm(settings, **changes) -> KubeflowPipelineBackend:
    """A backend whose pipeline version is uploaded."""
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, **changes))
    backend.submit(request("warm-up"))
    return backend


def named(api, name: str = "dag.task token") -> list[str]:
    return [run_id for run_id, run in api.runs.items() if run["display_name"] == name]


def alive(api, name: str) -> list[str]:
    return [run_id for run_id in named(api, name) if api.runs[run_id]["state"] in ("PENDING", "RUNNING")]


# Faults that pass


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("after_effect", [False, True], ids=["lost request", "lost answer"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_submitting_makes_one_run_whatever_happens_to_requests_and_answers(
    api, settings, fault, after_effect
):
    backend = warm(settings)
    api.faults.add(fault, times=2, method="POST", path=RUNS, after_effect=after_effect)
    api.faults.add(fault, times=1, method="GET", path=RUNS)
    run_id = backend.submit(request())
    assert named(api) == [run_id]


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("path", ["/names/", "/pipelines$", "/versions$", "/upload_version$"])
@pytest.mark.parametrize("fault", [Status(503), Reset(), Truncated()], ids=str)
def test_first_submit_uploads_one_version_although_every_request_and_answer_gets_lost_once(
    api, settings, fault, path
):
    backend = KubeflowPipelineBackend(settings)
    api.faults.add(fault, path=path, after_effect=True)
    api.faults.add(fault, path=path)
    run_id = backend.submit(request())
    assert named(api) == [run_id]
    assert (len(api.state.pipelines), len(api.state.versions)) == (1, 1)


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_reading_and_cancelling_outlive_every_fault(api, settings, fault):
    backend = warm(settings)
    run_id = backend.submit(request())
    api.faults.add(fault, times=3, method="GET")
    assert str(backend.get(run_id).state) == "PENDING"
    api.faults.add(fault, times=3, method="GET")
    assert backend.find("dag.task token").run_id == run_id
    api.faults.add(fault, times=3, method="GET")
    assert list(backend.list_finished(datetime.now(UTC))) == []
    api.faults.add(fault, times=3, method="POST")
    backend.cancel(run_id)
    assert backend.get(run_id).state.is_canceled


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("fault", [Reset(), Truncated(), Status(503)], ids=str)
def test_cancelling_whose_answer_was_lost_has_happened(api, settings, fault):
    api.terminate_seconds = 30
    backend = warm(settings)
    run_id = backend.submit(request())
    api.faults.add(fault, method="POST", path=":terminate$", after_effect=True)
    backend.cancel(run_id)
    assert api.runs[run_id]["state"] == "CANCELING"


@pytest.mark.usefixtures("scaled")
def test_stopping_leaves_nothing_behind_and_is_asked_for_as_long_as_there_is_patience(api, settings):
    backend = warm(settings)
    run_id = backend.submit(request())
    api.faults.add(Status(500), times=2 * kfp_api.MAX_SAME_ANSWERS, method="POST", path=":terminate$")
    backend.cancel(run_id)
    assert backend.get(run_id).state.is_canceled


@pytest.mark.usefixtures("scaled")
def test_ten_minutes_of_faults_fail_no_task_and_make_no_duplicate(api, settings):
    """Ten minutes at a thousandth: 0.6 s of an outage, then faults in two of three requests until all is done."""
    backend = warm(settings)
    # What the server answers with the same 500 a few times is given up on, and at random that happens.
    lost = [fault for name, fault in FAULTS.items() if name not in ("time-out", "500")]
    api.faults.random(0.03, [FAULTS["time-out"]], seed=1)
    api.faults.random(0.3, lost, seed=2, method="POST", path=RUNS, after_effect=True)
    api.faults.random(0.5, lost, seed=3)
    names = [f"dag.task token-{number}" for number in range(30)]

    def life(name: str) -> tuple[str, str, str]:
        run_id = backend.submit(request(name))
        found = backend.find(name)
        backend.cancel(run_id)
        return run_id, found.run_id, str(backend.get(run_id).display_name)

    with ThreadPoolExecutor(8) as pool, api_outage(api, 0.6):
        lives = list(pool.map(life, names))
    assert lives == [(run_id, run_id, name) for name in names for run_id in named(api, name)]
    assert sum(request.status in (0, 408, 429, 500, 502, 503, 504) for request in api.requests) > 100


@contextlib.contextmanager
def api_outage(api, seconds: float):
    """The server is gone when this begins, and comes back by itself."""
    api.stop()
    back = threading.Timer(seconds, api.start)
    back.start()
    try:
        yield
    finally:
        back.join()


@pytest.mark.usefixtures("scaled")
def test_of_twins_the_older_is_kept_and_the_younger_stopped(api, settings):
    """The first request is answered by a reset, and takes effect only when the second has been sent."""
    backend = warm(settings)
    answer = api.answer

    def with_a_twin(incoming):
        if incoming.method == "POST" and incoming.path.endswith("/runs"):
            api.answer = answer
            with api.state.lock:
                api.clock_skew -= 5
                answer(incoming)
                api.clock_skew += 5
        return answer(incoming)

    api.faults.add(Reset(), method="POST", path=RUNS)
    api.answer = with_a_twin
    run_id = backend.submit(request())
    older, younger = sorted(named(api), key=lambda run_id: api.runs[run_id]["created_at"])
    assert run_id == older
    assert api.runs[older]["state"] == "PENDING"
    deadline = time.monotonic() + 5
    while api.runs[younger]["state"] == "CANCELING" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert backend.get(younger).state == "CANCELED"


@pytest.mark.usefixtures("scaled")
def test_patience_ends_with_what_was_wrong(api, settings):
    backend = warm(settings, patience=0.2)
    api.faults.always(Status(503))
    with pytest.raises(
        ApiUnavailableError, match=f"^HTTP 503: Service Unavailable. Asked for: get_run at {api.url}.$"
    ):
        backend.get("some-run")
    api.faults.clear()
    with (
        api.pause(),
        pytest.raises(ApiUnavailableError, match="Is the server up, and the connection 'kfp' right"),
    ):
        backend.submit(request())
    assert named(api) == []


def test_waiting_never_outlasts_patience(api, settings, slept):
    backend = warm(settings)
    api.faults.always(Status(429, retry_after=60))
    with pytest.raises(ApiUnavailableError, match=r"^HTTP 429"):
        backend.cancel("some-run", patience=25.0)
    assert slept == []


@pytest.mark.usefixtures("scaled")
def test_error_page_of_a_proxy_may_be_in_any_encoding(api, settings):
    backend = warm(settings)
    run_id = backend.submit(request())
    answer, pages = api.answer, [Answer(502, "Passerelle défaillante".encode("latin-1"))]
    api.answer = lambda incoming: pages.pop() if pages else answer(incoming)
    assert backend.get(run_id).run_id == run_id
    pages.append(Answer(403, "Accès refusé".encode("latin-1")))
    with pytest.raises(ConfigurationError, match=r"^Refused with 403: Acc"):
        backend.get(run_id)


# How long is waited


def test_delays_are_random_below_a_ceiling_that_doubles(api, settings, slept):
    random.seed(20)
    backend = warm(settings, patience=600.0)
    api.faults.add(Status(503), times=40, method="GET")
    with pytest.raises(RunNotFoundError):
        backend.get("some-run")
    ceilings = [min(30.0, 0.5 * 2**attempt) for attempt in range(40)]
    assert len(slept) == 40
    assert all(0 <= delay <= ceiling for delay, ceiling in zip(slept, ceilings, strict=True))
    # At random over all of the range, so that many who wait do not come back together.
    assert min(slept[10:]) < 8
    assert max(slept[10:]) > 22
    assert len(set(slept)) == 40


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [
        ("7", 7.0, 7.5),
        (lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=9), usegmt=True), 7.5, 9.5),
        (lambda: format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True), 0.0, 0.5),
        ("86400", 120.0, 120.5),
        ("soon", 0.0, 0.5),
        ("-5", 0.0, 0.5),
    ],
    ids=["seconds", "date", "date in the past", "a day", "no time", "negative"],
)
def test_server_that_names_a_time_is_left_alone_until_then(
    api, settings, slept, code, retry_after, least, most
):
    backend = warm(settings, patience=600.0)
    api.faults.add(
        Status(code, retry_after=retry_after() if callable(retry_after) else retry_after), method="GET"
    )
    with pytest.raises(RunNotFoundError):
        backend.get("some-run")
    [delay] = slept
    assert least <= delay <= most


# Faults that do not pass

ADVICE = {
    400: "Correct the argument that it names.",
    401: "The credentials of connection 'kfp' are missing, wrong or expired.",
    403: "The account of connection 'kfp' lacks this right in namespace 'team', or there is no such namespace.",
    404: "It was deleted, or the connection points to another server, namespace or experiment.",
    501: "This server does not know the method: Kubeflow Pipelines 2.0 or newer is needed.",
}


@pytest.mark.parametrize("auth", ["token", "cookie"])
@pytest.mark.parametrize("status", ADVICE)
def test_refusal_is_final_says_what_where_why_and_what_to_do_and_tells_no_secret(
    api, settings, slept, status, auth
):
    secret = TOKEN if auth == "token" else COOKIE
    backend = KubeflowPipelineBackend(
        dataclasses.replace(settings, auth=auth, secret=secret, namespace="team")
    )
    api.faults.always(Status(status))
    phrase = {
        400: "Bad Request",
        401: "Unauthorized",
        403: "Forbidden",
        404: "Not Found",
        501: "Not Implemented",
    }
    with pytest.raises(ConfigurationError) as caught:
        backend.get("some-run")
    assert (
        str(caught.value)
        == f"Refused with {status}: {phrase[status]}. {ADVICE[status]} Asked for: get_run at {api.url}."
    )
    assert caught.value.__cause__ is None or secret not in repr(caught.value.__cause__)
    assert (slept, [request.status for request in api.requests]) == ([], [status])
    [sent] = api.requests
    assert sent.headers["authorization" if auth == "token" else "cookie"].endswith(secret)
    assert secret not in repr(backend.settings)


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_refused_run_is_sent_once(api, settings, slept, status):
    backend = warm(settings)
    api.clear_requests()
    api.faults.always(Status(status), method="POST")
    with pytest.raises(
        ConfigurationError,
        match=f"^Refused with {status}",
    ):
        backend.submit(request())
    assert [request.status for request in api.requests if request.method == "POST"] == [status]
    assert (slept, named(api)) == ([], [])


@pytest.mark.parametrize("status", [200, 302])
def test_login_page_is_named_and_nothing_is_submitted(api, settings, slept, status):
    backend = warm(settings)
    api.clear_requests()
    api.faults.always(LoginPage(status), method="POST")
    with pytest.raises(ConfigurationError) as caught:
        backend.submit(request())
    assert str(caught.value) == (
        "A web page came back, not JSON: a login page in front of the server, or an address that is not the API's. Give "
        "connection 'kfp' credentials ('auth': token, token_file or cookie), or an endpoint inside the cluster. Asked for: "
        f"create_run at {api.url}."
    )
    # The redirect is not followed.
    assert [request.path for request in api.requests if request.method == "POST"] == ["/apis/v2beta1/runs"]
    assert {request.path.split("/")[3] for request in api.requests} == {"pipelines", "runs"}
    assert (slept, named(api)) == ([], [])


# 500, which is not always "try again"

GO_STACK = "\n".join(
    f"github.com/kubeflow/pipelines/backend/src/apiserver/resource.(*ResourceManager).CreateRun\n"
    f"\t/go/src/github.com/kubeflow/pipelines/backend/src/apiserver/resource/resource_manager.go:{line}"
    for line in range(500, 600)
)


def internal(message: str, *, details: str = "Internal Server Error", code: int = 13) -> Answer:
    detail = {"@type": "type.googleapis.com/google.rpc.Status", "code": code, "message": details}
    return Answer(500, json.dumps({"code": 13, "message": message, "details": [detail]}).encode())


@contextlib.contextmanager
def creating(api, answer: Answer, *, times: float = float("inf"), after_effect: bool = False):
    """The server answers requests to create a run with ``answer``."""
    genuine, left = api.answer, [times]

    def answering(incoming):
        if incoming.method != "POST" or not incoming.path.endswith("/runs") or left[0] <= 0:
            return genuine(incoming)
        left[0] -= 1
        if after_effect:
            genuine(incoming)
        return answer

    api.answer = answering
    try:
        yield
    finally:
        api.answer = genuine


def sent(api) -> list[str]:
    """What was asked for, from the first request to create a run on."""
    asked = [f"{request.method} {request.path.rpartition('/')[2]}" for request in api.requests]
    return asked[asked.index("POST runs") :]


@pytest.mark.parametrize(
    "message",
    [
        'Internal error: compiling DAG "root": step train is odd\nFailed to compile job\n' + GO_STACK,
        "Failed to create a new run: InternalServerError: Failed to create a workflow for (): rpc error: request is too large",
        "Failed to create a new run: InternalServerError: Failed to create a workflow for (): admission webhook "
        '"policy.example.com" denied the request: no such image',
        "Failed to create a run: InternalServerError: Failed to store run r to table: ERROR: value too long for type "
        "character varying(255) (SQLSTATE 22001)",
        "Failed to create a run: InternalServerError: Failed to store run r to table: Error 1153 (08S01): Got a packet "
        "bigger than 'max_allowed_packet' bytes",
        'header key "authorization" contains value with non-printable ASCII characters',
    ],
    ids=["compile", "too large", "webhook", "postgres", "packet", "header"],
)
def test_internal_error_that_will_be_the_same_next_time_is_final(api, settings, slept, message):
    backend = warm(settings)
    api.clear_requests()
    with creating(api, internal(message)), pytest.raises(ConfigurationError, match=r"^Refused with 500: "):
        backend.submit(request())
    assert (sent(api), slept) == (["POST runs"], [])


def test_message_larger_than_grpc_takes_is_final_although_it_is_429(api, settings, slept):
    backend = warm(settings)
    body = {"code": 8, "message": "grpc: received message larger than max (9000000 vs. 4194304)"}
    with creating(api, Answer(429, json.dumps(body).encode())), pytest.raises(ConfigurationError) as caught:
        backend.submit(request())
    assert str(caught.value) == (
        "Refused with 429: grpc: received message larger than max (9000000 vs. 4194304). Pass large values as files, by their "
        f"address, and make the specification smaller. Asked for: create_run at {api.url}."
    )
    assert slept == []


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize(
    "reason",
    [
        "Failed to store run r to table: dial tcp: i/o timeout",
        # Its workflow is made by then.
        "Failed to create a new transaction to create run: dial tcp 10.0.0.1:3306: connect: connection refused",
        "Failed to create a new transaction to create run: Error 1040 (08004): Too many connections",
    ],
)
def test_same_internal_error_of_a_create_is_given_up_on_after_a_few_with_a_look_before_each(
    api, settings, reason
):
    backend = warm(settings, patience=900.0)
    api.clear_requests()
    message = f"Failed to create a run: InternalServerError: {reason}"
    with creating(api, internal(message)), pytest.raises(ApiUnavailableError) as caught:
        backend.submit(request())
    assert str(caught.value) == (
        f"HTTP 500: {reason}. Asked for: create_run at {api.url}.\nAnswer: {message}"
    )
    assert sent(api) == ["POST runs", "GET runs"] * kfp_api.MAX_SAME_ANSWERS


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize(
    "reason",
    [
        'Post "https://10.96.0.1:443/apis/argoproj.io/v1alpha1/namespaces/kubeflow/workflows": dial tcp 10.96.0.1:443: connect: '
        "connection refused",
        'Internal error occurred: failed calling webhook "w.example.com": no endpoints available',
        "etcdserver: no leader",
        "pods is forbidden: exceeded quota: q",
    ],
)
def test_outage_behind_the_server_is_outlasted(api, settings, reason):
    backend = warm(settings)
    message = f"Failed to create a new run: InternalServerError: Failed to create a workflow for (): {reason}"
    with creating(api, internal(message), times=3 * kfp_api.MAX_SAME_ANSWERS):
        run_id = backend.submit(request())
    assert named(api) == [run_id]


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("times", [1, kfp_api.MAX_SAME_ANSWERS])
def test_run_that_was_made_although_the_answer_was_500_is_found(api, settings, times):
    backend = warm(settings)
    api.clear_requests()
    with creating(api, internal("rpc error: transport is closing"), times=times, after_effect=True):
        run_id = backend.submit(request())
    assert named(api) == [run_id]
    assert sent(api) == ["POST runs", "GET runs"]


@pytest.mark.usefixtures("scaled")
def test_run_that_the_last_request_made_is_found_before_giving_up(api, settings):
    backend = warm(settings)
    api.clear_requests()
    lost = internal("rpc error: transport is closing")
    with (
        creating(api, lost, times=kfp_api.MAX_SAME_ANSWERS, after_effect=True),
        creating(api, lost, times=kfp_api.MAX_SAME_ANSWERS - 1),
    ):
        run_id = backend.submit(request())
    assert named(api) == [run_id]


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("made", [True, False])
def test_run_whose_fate_is_unknown_is_left_to_a_retry(api, settings, made):
    """Rights that end between a request and the look for what became of it."""
    backend = warm(settings)
    api.faults.add(Reset(), method="POST", path=RUNS, after_effect=made)
    api.faults.always(Status(401), method="GET", path=RUNS)
    with pytest.raises(ApiUnavailableError) as caught:
        backend.submit(request())
    said = str(caught.value)
    assert said.startswith("A run may have been made, and cannot be looked for: Refused with 401: ")
    assert "A retry looks for it.\nRun: dag.task token" in said
    api.faults.clear()
    run = backend.find("dag.task token")
    assert (run is not None) is made


@pytest.mark.usefixtures("scaled")
def test_refusal_after_a_lost_request_is_final_where_a_look_finds_no_run(api, settings):
    backend = warm(settings)
    api.faults.add(Reset(), method="POST", path=RUNS)
    with (
        creating(api, Answer(403, b'{"code": 7, "message": "no right"}')),
        pytest.raises(ConfigurationError, match=r"^Refused with 403: no right"),
    ):
        backend.submit(request())


@pytest.mark.usefixtures("scaled")
def test_reading_goes_on_through_the_same_internal_error(api, settings):
    backend = warm(settings)
    run_id = backend.submit(request())
    answer, lost = api.answer, [internal("Failed to get a run: dial tcp: connect: connection refused")] * 20
    api.answer = lambda incoming: lost.pop() if lost else answer(incoming)
    assert backend.get(run_id).run_id == run_id


def test_reason_comes_first_and_stacks_are_left_out(api, settings):
    backend = warm(settings)
    message = f'Internal error: compiling DAG "root": not implemented yet\nFailed to compile job\n{GO_STACK}'
    assert len(message) > 11_000
    with (
        creating(api, internal(message, details=message, code=2)),
        pytest.raises(ConfigurationError) as caught,
    ):
        backend.submit(request())
    assert str(caught.value) == (
        'Refused with 500: compiling DAG "root": not implemented yet. The server will not carry this out as it is. Asked for: '
        f'create_run at {api.url}.\nAnswer: Internal error: compiling DAG "root": not implemented yet Failed to compile job'
    )


def test_long_value_in_a_refusal_hides_no_reason(api, settings):
    backend = warm(settings)
    message = (
        f"Failed to create a run: Invalid input error: parameter t has {'x' * 5000}: it must be a number"
    )
    refused = Answer(400, json.dumps({"code": 3, "message": message}).encode())
    with creating(api, refused), pytest.raises(ConfigurationError) as caught:
        backend.submit(request())
    said = str(caught.value)
    assert said.startswith("Refused with 400: parameter t has xxx")
    assert "x ... x" in said
    assert ": it must be a number. Correct the argument that it names." in said
    assert len(said.splitlines()[0]) < 500


def test_upload_that_is_refused_without_a_reason_says_what_it_may_be(api, settings):
    answer = api.answer
    body = {
        "error_message": "Failed to create a pipeline version",
        "error_details": f"Failed to create a pipeline version\n{GO_STACK}",
    }
    refused = Answer(400, json.dumps(body).encode())
    api.answer = lambda incoming: refused if "upload" in incoming.path else answer(incoming)
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, namespace="team"))
    with pytest.raises(ConfigurationError) as caught:
        backend.submit(request())
    assert str(caught.value) == (
        "Refused with 400: Failed to create a pipeline version. The server does not say why. It says the same when the account of "
        "connection 'kfp' lacks the right to upload in namespace 'team', when its credentials are missing or expired, and when the "
        f"pipeline is gone. Asked for: upload_pipeline_version at {api.url}."
    )


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (403, b"{}", "Forbidden"),
        (403, b"", "Forbidden"),
        (403, b"[]", "Forbidden"),
        (403, b'{"error": {"message": "RBAC: access denied", "code": 403}}', "RBAC: access denied"),
        (403, b"RBAC: access denied", "RBAC: access denied"),
        (403, b'"RBAC: access denied"', "RBAC: access denied"),
        (403, b'{"message": "  \\n "}', "Forbidden"),
    ],
)
def test_answer_in_any_form_has_a_reason(api, settings, status, body, reason):
    backend = warm(settings)
    api.answer = lambda incoming: Answer(status, body)
    with pytest.raises(ConfigurationError) as caught:
        backend.get("some-run")
    assert str(caught.value).startswith(f"Refused with {status}: {reason}. ")


def test_proxy_that_takes_less_than_the_server_is_no_login_page(api, settings, slept):
    backend = warm(settings)
    page = b"<html><head><title>413 Request Entity Too Large</title></head><body><hr>nginx</body></html>"
    too_large = Answer(413, page, (("Content-Type", "text/html"),))
    with creating(api, too_large), pytest.raises(ConfigurationError) as caught:
        backend.submit(request())
    assert str(caught.value) == (
        "Refused with 413: Request Entity Too Large. Pass large values as files, by their address, and make the specification "
        f"smaller. Asked for: create_run at {api.url}."
    )
    assert slept == []


@pytest.mark.usefixtures("scaled")
def test_run_of_a_request_whose_answer_was_lost_is_found_although_the_next_one_is_refused(api, settings):
    """The first request takes effect only when the second has been sent."""
    backend = warm(settings)
    genuine = api.answer

    def late(incoming):
        if incoming.method == "POST" and incoming.path.endswith("/runs"):
            genuine(incoming)
            return Answer(403, b"{}")
        return genuine(incoming)

    api.faults.add(Reset(), method="POST", path=RUNS)
    api.answer = late
    run_id = backend.submit(request())
    assert named(api) == [run_id]


@pytest.mark.usefixtures("scaled")
def test_same_internal_error_of_an_upload_is_given_up_on_after_a_few(api, settings):
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, patience=900.0))
    answer, lost = api.answer, internal("Failed to create a pipeline version: something odd")
    api.answer = lambda incoming: lost if "upload" in incoming.path else answer(incoming)
    with pytest.raises(
        ApiUnavailableError, match=r"^HTTP 500: Failed to create a pipeline version: something odd\."
    ):
        backend.submit(request())
    assert api.count("POST", "upload_version$") == kfp_api.MAX_SAME_ANSWERS


def test_host_that_is_no_address_is_final(settings, slept):
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, endpoint=f"http://{'a' * 80}"))
    with pytest.raises(ConfigurationError, match=r"^The host of connection 'kfp' is no address: "):
        backend.submit(request())
    assert slept == []


def test_web_page_of_a_proxy_is_told_by_its_title(api, settings):
    backend = warm(settings, patience=0.01)
    page = b"<html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>"
    api.answer = lambda incoming: Answer(502, page, (("Content-Type", "text/html"),))
    with pytest.raises(ApiUnavailableError, match=r"^HTTP 502: Bad Gateway\. Asked for: get_run at"):
        backend.get("some-run")


# Tokens from files


def test_token_file_is_read_again_when_it_was_rotated(api, settings, tmp_path):
    file = tmp_path / "token"
    file.write_text("first\n")
    api.token = "first"  # noqa: S105
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, auth="token_file", token_file=str(file)))
    run_id = backend.submit(request())
    api.token = "second"  # noqa: S105
    # As Kubernetes does it: another file takes its place.
    (tmp_path / "new").write_text("second\n")
    (tmp_path / "new").replace(file)
    assert backend.get(run_id).run_id == run_id
    sent = [request.headers["authorization"] for request in api.requests]
    assert (sent[0], sent[-1]) == ("Bearer first", "Bearer second")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (f"{TOKEN}\n{TOKEN}\n", "it has 2 lines"),
        (f"{TOKEN} {TOKEN}", "its character 27 is U+0020, and only visible ASCII can be sent"),
        (f"{TOKEN}\u00e9", "its character 27 is U+00E9, and only visible ASCII can be sent"),
        (f"{TOKEN}\x01", "its character 27 is U+0001, and only visible ASCII can be sent"),
    ],
)
def test_token_that_no_header_takes_is_refused_and_not_told(api, settings, tmp_path, slept, content, why):
    file = tmp_path / "token"
    file.write_text(content)
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, auth="token_file", token_file=str(file)))
    with pytest.raises(ConfigurationError) as caught:
        backend.submit(request())
    assert str(caught.value) == (
        f"The token file of connection 'kfp' holds no token: {why}. It must hold the token alone, on one line.\nFile: {file}"
    )
    assert (slept, api.requests) == ([], [])


@pytest.mark.parametrize("problem", ["missing", "empty", "not text"])
def test_unusable_token_file_is_named_and_nothing_is_sent(api, settings, tmp_path, slept, problem):
    file = tmp_path / "token"
    if problem != "missing":
        file.write_bytes(b"" if problem == "empty" else b"\xff\xfe\x00")
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, auth="token_file", token_file=str(file)))
    with pytest.raises(ConfigurationError) as caught:
        backend.submit(request())
    why = {
        "missing": "cannot be read: No such file or directory.",
        "empty": "is empty.",
        "not text": "cannot be read: 'utf-8' codec can't decode",
    }
    assert str(caught.value).startswith(f"The token file of connection 'kfp' {why[problem]}")
    assert str(caught.value).endswith(f"\nFile: {file}")
    assert (slept, api.requests) == ([], [])


# TLS


@pytest.fixture
def tls(api, tmp_path):
    with TlsFront(api.url, tmp_path) as front:
        yield front


def test_certificate_that_nobody_vouches_for_is_refused_at_once(api, settings, tls, slept):
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, endpoint=tls.url))
    with pytest.raises(ConfigurationError) as caught:
        backend.submit(request())
    message = str(caught.value)
    assert message.startswith("No secure connection: ")
    assert "self-signed certificate" in message
    assert message.endswith(
        "Give the certificate authority in 'ca_file' of connection 'kfp', or correct the address. Asked for: "
        f"get_pipeline_by_name at {tls.url}."
    )
    assert (slept, api.requests) == ([], [])


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("how", ["ca_file", "verify_ssl"])
def test_certificate_is_accepted_with_its_authority_or_unverified(api, settings, tls, how):
    accepting = {"ca_file": str(tls.certificate)} if how == "ca_file" else {"verify_ssl": False}
    backend = KubeflowPipelineBackend(dataclasses.replace(settings, endpoint=tls.url, **accepting))
    run_id = backend.submit(request())
    assert named(api) == [run_id]


def test_certificate_of_another_host_is_refused(api, settings, tls, slept):
    endpoint = tls.url.replace("127.0.0.1", "localhost")
    backend = KubeflowPipelineBackend(
        dataclasses.replace(settings, endpoint=endpoint, ca_file=str(tls.certificate))
    )
    with pytest.raises(ConfigurationError, match=r"^No secure connection: .* Hostname mismatch"):
        backend.get("some-run")
    assert (slept, api.requests) == ([], [])


@pytest.mark.usefixtures("scaled")
def test_secure_connection_that_breaks_is_made_again(api, settings, tls):
    """A proxy that restarts closes connections in the middle of the handshake."""
    backend = KubeflowPipelineBackend(
        dataclasses.replace(settings, endpoint=tls.url, ca_file=str(tls.certificate))
    )
    tls.drop(3)
    run_id = backend.submit(request())
    assert named(api) == [run_id]
    assert tls.dropped == 3


# Large answers


def test_pages_shrink_until_they_can_be_read(api, settings, monkeypatch):
    backend = warm(settings, timeout=5.0)
    with api.state.lock:
        first = api.state.runs[next(iter(api.runs))]
        runs = [run.run_id for run in api.state.copies(first, 60)]
    for run_id in runs:
        api.finish(run_id, tasks={f"step-{number}": "SUCCEEDED" for number in range(3)})
    size = len(api.state.runs[runs[0]].encoded())
    monkeypatch.setattr(kfp_api, "MAX_BODY_BYTES", 30 * size)
    listed = [run.run_id for run in backend.list_finished(datetime.now(UTC) - timedelta(hours=1))]
    assert sorted(listed) == sorted(runs)
    monkeypatch.setattr(kfp_api, "MAX_BODY_BYTES", size // 2)
    with pytest.raises(ConfigurationError, match="is larger than"):
        list(backend.list_finished(datetime.now(UTC) - timedelta(hours=1)))


def test_answers_that_were_read_leave_their_connection_for_the_next_request(api, settings):
    backend = warm(settings)
    run_id = backend.submit(request())
    for _ in range(5):
        backend.get(run_id)
    assert len(api._connections) == 1


def test_line_of_a_repeated_request_says_why_and_when(caplog):
    answers = [ApiUnavailableError("The server answered 503: upstream connect error", "Wanted: a run"), None]
    for attempt in kfp_api.retrying(5.0):
        with attempt:
            if error := answers.pop(0):
                raise error
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"Trying again in \d\.\d s: The server answered 503: upstream connect error", line)


def test_server_on_this_machine_is_asked_past_the_proxy_of_the_environment(settings, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    assert warm(settings)
    elsewhere = kfp_api.KfpApi(dataclasses.replace(settings, endpoint="http://kfp.example"))
    assert elsewhere.runs.api_client.configuration.proxy == "http://127.0.0.1:9"
