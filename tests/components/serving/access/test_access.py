"""Who may ask a service: the access file, quotas, the audit log, and all of them over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
import uvicorn
from llmops_components.errors import SettingError
from llmops_components.serving.access.__main__ import add_key, main, remove_key
from llmops_components.serving.access.admission import Admission
from llmops_components.serving.access.asgi import USAGE_PATH, AccessControl, AuditTrail, GatewayOnly
from llmops_components.serving.access.audit import AuditLog
from llmops_components.serving.access.quotas import Exceeded, Quotas
from llmops_components.serving.access.renewal import renewed_context
from llmops_components.serving.access.secret import GATEWAY_HEADER
from llmops_components.serving.access.settings import (
    Access,
    Key,
    Tls,
    digest_of_key,
    of_environment,
    read_access_file,
)
from llmops_components.serving.access.usage import (
    StreamUsage,
    Usage,
    note_usage,
    tokens_asked,
    usage_comment,
)
from llmops_components.serving.http.bodies import Bodies
from llmops_components.serving.http.connections import LimitedProtocol
from llmops_components.serving.http.door import ROUTES, Door, Policy
from llmops_components.serving.predictor.answers import ChatForm, TextForm
from llmops_components.serving.predictor.generation import Piece
from llmops_components.serving.predictor.openai import event
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"


def access_file(path: Path, **content: Any) -> Path:
    path.write_text(json.dumps(content))
    path.chmod(0o600)
    return path


def entry(name: str, key: str, **quotas: int) -> dict[str, Any]:
    return {"name": name, "sha256": digest_of_key(key).hex(), **quotas}


# --- The access file


def test_a_key_is_made_printed_once_kept_as_its_digest_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "access.json"
    assert main(["add", str(file), "alice", "--requests-per-minute", "60"]) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("sk-llmops-")
    assert len(key) == len("sk-llmops-") + 43
    assert json.loads(file.read_text()) == {"keys": [entry("alice", key, requests_per_minute=60)]}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    access = Access(file)
    bob = add_key(file, "bob")
    found = access.settings().identify(f"Bearer {bob}")
    assert found == Key("bob", digest_of_key(bob))
    assert main(["list", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "alice    60 requests per minute",
        "bob    no quota",
    ]
    remove_key(file, "alice")
    assert access.settings().identify(f"Bearer {key}") is None
    assert main(["remove", str(file), "alice"]) == 1
    assert capsys.readouterr().err.startswith("There is no key named 'alice'")
    assert main(["add", str(file), "bob"]) == 1
    assert main(["add", str(file), "../bob"]) == 1


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", ALICE, f"Basic {ALICE}", f"Bearer {ALICE}x", "Bearer \udcff"]
)
def test_only_a_bearer_with_a_known_key_is_somebody(tmp_path: Path, header: str | None) -> None:
    settings = read_access_file(access_file(tmp_path / "a.json", keys=[entry("alice", ALICE)]))
    assert settings.identify(header) is None
    assert settings.identify(f"bearer {ALICE}") == Key("alice", digest_of_key(ALICE))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "The access file is not JSON"),
        ("[" * 100_000, "The access file is not JSON"),
        ("[]", "is not a JSON object"),
        ({"kyes": []}, "did you mean 'keys'"),
        ({"keys": {}}, "'keys' of the access file is not a list"),
        ({"keys": ["x" * 20]}, "Not an object"),
        ({"keys": [{"name": "a"}]}, "Either 'sha256' or 'key' is needed"),
        ({"keys": [{"name": "a", "sha256": "12"}]}, "sha256 is not 64 digits"),
        ({"keys": [{"name": "a\n", "sha256": "0" * 64}]}, "The name of a key has"),
        ({"keys": [{"name": "a", "key": "short-secret"}]}, "A key has at least 16 visible ASCII characters"),
        ({"keys": [{"name": "a", "key": "secret with space"}]}, "A key has at least 16"),
        ({"keys": [entry("a", ALICE), entry("b", ALICE)]}, "the name or the key of another one"),
        ({"keys": [entry("a", ALICE), entry("a", BOB)]}, "the name or the key of another one"),
        ({"keys": [entry("a", ALICE, requests_per_minute=0)]}, "A quota is a whole number from 1 on"),
        ({"keys": [{**entry("a", ALICE), "tokens_per_minute": True}]}, "A quota is a whole number"),
        ({"tls": {"certificate": "tls.crt", "key": "/k"}}, "Expected an absolute path: certificate in tls"),
        ({"tls": {"certificate": "/no.crt", "key": "/no.key"}}, "Cannot use the TLS certificate"),
        ({"audit": {"content": "yes"}}, "neither true nor false"),
    ],
)
def test_an_access_file_that_is_wrong_is_refused_by_what_is_wrong_without_repeating_a_key(
    tmp_path: Path, content: Any, message: str
) -> None:
    file = tmp_path / "access.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    file.chmod(0o600)
    with pytest.raises(SettingError) as refused:
        read_access_file(file)
    assert message in str(refused.value)
    assert str(file) in str(refused.value)
    assert "secret" not in str(refused.value)
    assert ALICE not in str(refused.value)


def test_keys_as_they_are_must_be_readable_by_their_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    file = access_file(tmp_path / "a.json", keys=[{"name": "alice", "key": ALICE}])
    assert read_access_file(file).keys == (Key("alice", digest_of_key(ALICE)),)
    file.chmod(0o640)
    with pytest.raises(SettingError, match="Others than its owner may read the access file"):
        read_access_file(file)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")  # where it is a mounted secret
    assert read_access_file(file).identify(f"Bearer {ALICE}") is not None


def test_without_a_file_vllms_variable_is_the_one_key() -> None:
    settings = of_environment({"VLLM_API_KEY": ALICE})
    assert settings.keys == (Key("default", digest_of_key(ALICE)),)
    assert of_environment({}).keys is None
    with pytest.raises(SettingError, match="VLLM_API_KEY") as refused:
        of_environment({"VLLM_API_KEY": "short"})
    assert "short" not in str(refused.value)


def test_keys_show_in_no_representation() -> None:
    assert "digest" not in repr(Key("alice", digest_of_key(ALICE)))


def test_the_controllers_part_imports_only_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import llmops_components.serving.access.__main__;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names) - {'llmops_components'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


# --- Quotas


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_requests_are_counted_in_any_minute() -> None:
    clock = Clock()
    quotas, key = Quotas(clock), Key("a", b"", requests_per_minute=3)
    for _ in range(3):
        assert isinstance(quotas.take(key, 0), int)
        clock.now += 10
    assert quotas.take(key, 0) == Exceeded("requests per minute", 3, 30)
    clock.now += 29.5
    assert quotas.take(key, 0) == Exceeded("requests per minute", 3, 1)
    clock.now += 0.5
    assert isinstance(quotas.take(key, 0), int)  # the first one is a minute ago
    assert quotas.take(key, 0) == Exceeded("requests per minute", 3, 10)
    assert isinstance(quotas.take(Key("b", b"", requests_per_minute=3), 0), int)
    assert isinstance(quotas.take(Key("c", b""), 0), int)


def test_tokens_count_when_they_are_known_and_by_a_guess_until_then() -> None:
    clock = Clock()
    quotas, key = Quotas(clock), Key("a", b"", tokens_per_minute=100)
    first = quotas.take(key, 40)
    assert first == 10 + 64
    second = quotas.take(key, 40)  # less than the limit is under way
    assert isinstance(second, int)
    assert quotas.take(key, 40) == Exceeded("tokens per minute", 100, 1)
    quotas.settle(key, first, 10, 4)
    quotas.settle(key, second, 10, 4)
    clock.now += 20
    third = quotas.take(key, 40)
    assert isinstance(third, int)
    assert third < first  # its answers are short
    quotas.settle(key, third, 10, 70)
    assert quotas.take(key, 40) == Exceeded("tokens per minute", 100, 40)
    clock.now += 40
    assert isinstance(quotas.take(key, 40), int)


# --- The audit log


def test_the_audit_log_is_its_owners_and_turns_over(tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        log = AuditLog(tmp_path / "new/a.jsonl", max_bytes=180)
        for number in range(30):
            log.write({"number": number, "key": None})
        log.close()
    finally:
        os.umask(former)
    files = sorted((tmp_path / "new").iterdir())
    assert [file.name for file in files] == ["a.jsonl", *(f"a.jsonl.{n}" for n in range(1, 3))]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    lines = [json.loads(line) for file in reversed(files) for line in file.read_text().splitlines()]
    assert lines == [{"number": number} for number in range(30)]


def test_a_flood_of_refused_requests_leaves_the_lines_about_answered_ones(tmp_path: Path) -> None:
    clock = Clock()
    log = AuditLog(tmp_path / "a.jsonl", clock=clock)
    for number in range(1000):
        log.write({"number": number}, refused=True)
    log.write({"number": "answered"})
    clock.now += 60
    log.write({"number": "refused again"}, refused=True)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert lines[:60] == [{"number": number} for number in range(60)]
    assert lines[60:] == [
        {"number": "answered", "refused_and_not_noted": 940},
        {"number": "refused again"},
    ]


def test_what_a_request_asks_for_is_read_in_every_protocol() -> None:
    assert tokens_asked(b'{"max_tokens": 100, "prompt": "max_tokens"}') == 100
    assert tokens_asked(b'{"instances": [{"max_tokens":490}, {"max_tokens":490}]}') == 980
    assert tokens_asked(b'{"max_completion_tokens" : 7, "min_tokens": 9}') == 7
    assert tokens_asked(b"{}") == 0


# --- Over HTTP


async def left(scope: Any, receive: Any, send: Any) -> None:
    """Like a gateway: what its client leaves is not answered."""
    if scope["path"] != "/slow":
        await application()(scope, receive, send)
        return
    while (await receive())["type"] != "http.disconnect":
        pass


def test_a_request_that_is_left_before_it_is_answered_counts_for_what_it_asked(tmp_path: Path) -> None:
    file = access_file(tmp_path / "access.json", keys=[entry("alice", ALICE, tokens_per_minute=1000)])
    admission = Admission(Access(file), directory=tmp_path, service="m")
    with (
        served(AuditTrail(AccessControl(left, admission), admission)) as url,
        httpx.Client(base_url=url) as client,
    ):
        with pytest.raises(httpx.ReadTimeout):
            client.post("/slow", json={"max_tokens": 1000}, headers=bearer(ALICE), timeout=0.3)
        while not (tmp_path / "m.audit.jsonl").exists():
            time.sleep(0.01)
        assert client.post("/stream", headers=bearer(ALICE)).status_code == 429


async def answer(request: Request) -> JSONResponse:
    asked = await request.body()
    note_usage(len(asked), 3)
    return JSONResponse({"said": asked.decode()}, headers={"x-llmops-revision": "00001"})


async def stream(request: Request) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        for word in ("one", "two"):
            yield f"data: {json.dumps(word)}\n\n"
        note_usage(7, 2)
        if comment := usage_comment():
            yield comment
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def fails(request: Request) -> JSONResponse:
    note_usage(5, 0)
    raise RuntimeError("broken")


def application() -> Starlette:
    paths = ("/", "/v2/health/live", "/v2/health/ready", "/v1/models/m", "/v2/models/m/ready")
    opened = [Route(path, lambda _: PlainTextResponse("yes")) for path in paths]
    return Starlette(
        routes=[
            *opened,
            Route("/openai/v1/chat/completions", answer, methods=["POST"]),
            Route("/v1/models/m:predict", answer, methods=["POST"]),
            Route("/stream", stream, methods=["POST"]),
            Route("/fails", fails, methods=["POST"]),
        ]
    )


@contextmanager
def served(app: Any, **options: Any) -> Iterator[str]:
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off", **options)
    )
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http{'s' if 'ssl_certfile' in options or 'ssl_context_factory' in options else ''}://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def audited(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "m.audit.jsonl").read_text().splitlines()]


@contextmanager
def guarded(tmp_path: Path, **content: Any) -> Iterator[tuple[httpx.Client, Path]]:
    file = access_file(tmp_path / "access.json", **content)
    admission = Admission(Access(file), directory=tmp_path / "audit", service="m")
    app = Door(
        AccessControl(Bodies(application()), admission), policy=Policy, routes=(*ROUTES, ("POST", "/\\w+"))
    )
    protocol = partial(LimitedProtocol, refused=admission.note_refused)
    with (
        served(AuditTrail(app, admission), http=protocol) as url,
        httpx.Client(base_url=url, headers={"content-type": "application/json"}) as client,
    ):
        yield client, file


def test_who_asks_with_a_key_is_answered_and_noted_and_everybody_else_is_refused(tmp_path: Path) -> None:
    with guarded(tmp_path, keys=[entry("alice", ALICE), entry("bob", BOB)]) as (client, _):
        good = client.post("/openai/v1/chat/completions?token=secret", content="hello", headers=bearer(ALICE))
        assert (good.status_code, good.json()) == (200, {"said": "hello"})
        none = client.post("/openai/v1/chat/completions", content="hello")
        wrong = client.post("/v1/models/m:predict", content="hello", headers=bearer("x" * 30))
        assert client.get("/v1/models").status_code == 401
        for path in ("/", "/v2/health/live", "/v2/health/ready", "/v1/models/m", "/v2/models/m/ready"):
            assert client.get(path).text == "yes"
        for path in ("/v2/models/org:m/ready", "/v1/models/org:m"):  # whatever a model is called
            assert client.get(path).status_code == 404
    assert (none.status_code, none.headers["www-authenticate"], none.json()) == (
        401,
        "Bearer",
        {
            "error": {
                "message": "You sent no API key: send it in the header 'Authorization: Bearer KEY'.",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_api_key",
            }
        },
    )
    assert (wrong.status_code, wrong.json()) == (
        401,
        {
            "error": "The API key is not one of this service. It goes into the header 'Authorization: Bearer KEY'."
        },
    )
    lines = audited(tmp_path / "audit")
    assert lines[0].pop("time").endswith("+00:00")
    assert lines[0].pop("seconds") > 0
    assert lines[0] == {
        "id": good.headers["x-request-id"],
        "key": "alice",
        "method": "POST",
        "route": "/openai/v1/chat/completions",
        "status": 200,
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "revision": "00001",
    }
    assert [(line.get("key"), line["route"], line["status"]) for line in lines[1:4]] == [
        (None, "/openai/v1/chat/completions", 401),
        (None, "/v1/models/m:predict", 401),
        (None, "/v1/models", 401),
    ]
    text = (tmp_path / "audit/m.audit.jsonl").read_text()
    assert "hello" not in text
    assert "secret" not in text
    assert ALICE not in text


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (("POST", "/stream", {"host": "attacker.example"}), 421),
        (("POST", "/stream", {"origin": "https://attacker.example"}), 403),
        (("GET", "/", {"host": "attacker.example"}), 421),
        (("GET", "/openapi.json?token=secret", {}), 404),
        (("DELETE", "/v1/models/m", {}), 405),
        (("POST", "/stream", {"content-type": "text/plain"}), 415),
        (("POST", "/stream", {"x-large": "yes"}), 413),
    ],
)
def test_what_is_refused_is_noted_with_whose_key_it_came_and_counts_as_a_request(
    tmp_path: Path, asked: tuple[str, str, dict[str, str]], status: int
) -> None:
    method, path, headers = asked
    with guarded(tmp_path, keys=[entry("alice", ALICE, requests_per_minute=1)]) as (client, _):
        body = b" " * (2 << 20) if "x-large" in headers else None
        got = client.request(method, path, content=body, headers=headers | bearer(ALICE))
        again = client.post("/stream", headers=bearer(ALICE))
        nobody = client.post("/stream", headers={"host": "attacker.example"})
    counted = path != "/"  # what needs no key is nobody's
    assert (got.status_code, again.status_code, nobody.status_code) == (status, 429 if counted else 200, 421)
    assert [
        (line["id"], line.get("key"), line["method"], line["route"], line["status"])
        for line in audited(tmp_path / "audit")
    ] == [
        (got.headers["x-request-id"], "alice" if counted else None, method, path.partition("?")[0], status),
        (again.headers["x-request-id"], "alice", "POST", "/stream", again.status_code),
        (nobody.headers["x-request-id"], None, "POST", "/stream", 421),
    ]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"what?\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_noted_with_the_id_that_its_answer_has(
    tmp_path: Path, sent: bytes, status: int
) -> None:
    with (
        guarded(tmp_path, keys=[]) as (client, _),
        socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=5) as raw,
    ):
        raw.sendall(sent)
        answer = raw.makefile("rb").read().decode()
    (line,) = audited(tmp_path / "audit")
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert f"\r\nx-request-id: {line['id']}\r\n" in answer
    assert (line["status"], "key" in line, "route" in line) == (status, False, False)


def test_a_flood_of_what_the_door_refuses_fills_no_log(tmp_path: Path) -> None:
    with guarded(tmp_path) as (client, _):
        for _ in range(70):
            assert client.post("/stream", headers={"host": "attacker.example"}).status_code == 421
        assert client.post("/stream").status_code == 200
    *refused, answered = audited(tmp_path / "audit")
    assert len(refused) <= 60 * 2  # the minute may end in between
    assert (answered["status"], len(refused) + answered.get("refused_and_not_noted", 0)) == (200, 70)


def test_a_used_up_quota_is_a_429_with_the_time_to_wait(tmp_path: Path) -> None:
    keys = [entry("alice", ALICE, requests_per_minute=2), entry("bob", BOB, tokens_per_minute=10)]
    with guarded(tmp_path, keys=keys) as (client, file):
        asked = [
            client.post("/openai/v1/chat/completions", content="hello", headers=bearer(key))
            for key in (ALICE, ALICE, ALICE, BOB, BOB, BOB)
        ]
        assert [each.status_code for each in asked] == [200, 200, 429, 200, 200, 429]
        assert 58 <= int(asked[2].headers["retry-after"]) <= 60
        error = asked[2].json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert error["message"].startswith("The key 'alice' has used up its 2 requests per minute. Ask again")
        assert (
            asked[5]
            .json()["error"]["message"]
            .startswith("The key 'bob' has used up its 10 tokens per minute.")
        )
        access_file(file, keys=[entry("alice", ALICE, requests_per_minute=20)])
        assert client.post("/stream", headers=bearer(ALICE)).status_code == 200
        assert client.post("/stream", headers=bearer(BOB)).status_code == 401
    assert [line["status"] for line in audited(tmp_path / "audit")] == [
        200,
        200,
        429,
        200,
        200,
        429,
        200,
        401,
    ]


def test_nobody_gets_in_while_the_access_file_cannot_be_read(tmp_path: Path) -> None:
    with guarded(tmp_path, keys=[entry("alice", ALICE)]) as (client, file):
        for breaking in (lambda: file.write_text('{"keys": ['), file.unlink):
            breaking()
            for _ in range(2):
                refused = client.post("/stream", headers=bearer(ALICE))
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
                assert str(file) not in refused.text
            assert client.get("/v2/health/ready").status_code == 200
        access_file(file, keys=[entry("alice", ALICE)])
        assert client.post("/stream", headers=bearer(ALICE)).status_code == 200


def test_content_is_noted_only_where_the_access_file_says_so(tmp_path: Path) -> None:
    with guarded(tmp_path, keys=[entry("alice", ALICE)], audit={"content": True}) as (client, _):
        client.post("/v1/models/m:predict", content="hello", headers=bearer(ALICE))
        client.post("/v1/models/m:predict", content="x" * 100_000, headers=bearer(ALICE))
        client.post("/v1/models/m:predict", content="refused", headers=bearer("x" * 30))
    lines = audited(tmp_path / "audit")
    assert (lines[0]["request"], lines[0]["answer"]) == ("hello", '{"said":"hello"}')
    assert len(lines[1]["request"]) == 65536
    assert "request" not in lines[2]


def test_a_failure_is_noted_with_what_it_took(tmp_path: Path) -> None:
    with guarded(tmp_path, keys=[entry("alice", ALICE)]) as (client, _):
        assert client.post("/fails", headers=bearer(ALICE)).status_code == 500
    (line,) = audited(tmp_path / "audit")
    assert (line["status"], line["prompt_tokens"], line["completion_tokens"]) == (500, 5, 0)


def test_without_keys_everybody_is_answered_and_noted(tmp_path: Path) -> None:
    with guarded(tmp_path) as (client, _):
        assert client.post("/stream").status_code == 200
    (line,) = audited(tmp_path / "audit")
    assert (line["status"], "key" in line) == (200, False)


def test_a_predictor_behind_its_gateway_answers_nobody_else_and_tells_it_the_tokens() -> None:
    secret = "s" * 43
    with served(GatewayOnly(application(), secret)) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v2/health/ready").text == "yes"
        for headers in ({}, {GATEWAY_HEADER: "s" * 42}, bearer(secret)):
            refused = client.post("/openai/v1/chat/completions", content="hello", headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "not_the_gateway")
        through = {GATEWAY_HEADER: secret}
        told = client.post("/openai/v1/chat/completions", content="hello", headers=through).headers
        assert (told["x-llmops-prompt-tokens"], told["x-llmops-completion-tokens"]) == ("5", "3")
        assert client.post("/stream", headers=through).text == (
            'data: "one"\n\ndata: "two"\n\n: usage {"prompt_tokens": 7, "completion_tokens": 2}\n\ndata: [DONE]\n\n'
        )


def test_a_predictor_tells_its_gateway_what_a_request_took_that_was_left() -> None:
    secret, through = "s" * 43, {GATEWAY_HEADER: "s" * 43, "x-request-id": "a1"}
    noted = Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        note_usage(5, 0)
        noted.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        await asyncio.sleep(0.1)
        note_usage(5, 3)

    with served(GatewayOnly(slow, secret)) as url, httpx.Client(base_url=url) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/models/m:predict", headers=through, timeout=0.3)
        noted.wait(5)
        told = client.get(f"{USAGE_PATH}a1", headers=through)
        assert (told.headers["x-llmops-prompt-tokens"], told.headers["x-llmops-completion-tokens"]) == (
            "5",
            "3",
        )
        assert client.get(f"{USAGE_PATH}b2", headers=through).status_code == 404
        assert client.get(f"{USAGE_PATH}a1").status_code == 401


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_tokens_of_a_stream_are_read_however_it_is_cut(size: int) -> None:
    whole = (
        b'data: "one"\n\ndata: "\\n: usage {\\"prompt_tokens\\": 9, \\"completion_tokens\\": 9}"\n\n'
        b': usage {"prompt_tokens": 7, "completion_tokens": 2}\n\ndata: [DONE]\n\n'
    )
    usage = Usage()
    seen = StreamUsage(usage)
    for start in range(0, len(whole), size):
        seen.see(whole[start : start + size])
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 2)


@pytest.mark.parametrize("chat", [True, False])
def test_a_stream_that_ends_early_counts_its_events_with_text(chat: bool) -> None:
    form = ChatForm("m") if chat else TextForm("m")
    texts = ["one", ' said "content":"x" and "text":"y"', "\n: usage {}"]
    said = [choice for text in texts for choice in form.go_on(0, Piece(text, []))]
    events = [event(form.chunk([choice])) for choice in [*form.begin(0), *said, *form.end(0, "stop")]]
    usage = Usage()
    StreamUsage(usage).see("".join([*events, "data: [DONE]\n\n"]).encode())
    assert (usage.prompt_tokens, usage.completion_tokens) == (0, 3)


def test_tls_is_offered_with_the_certificate_of_the_access_file(tmp_path: Path) -> None:
    from tls_front import sign

    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    sign(certificate, key)
    file = access_file(tmp_path / "a.json", tls={"certificate": str(certificate), "key": str(key)})
    tls = read_access_file(file).tls
    assert tls is not None
    options = {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key}
    with served(application(), **options) as url:
        assert httpx.get(f"{url}/", verify=tls.own_client_context()).text == "yes"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{url}/", verify=ssl.create_default_context())


def test_a_renewed_certificate_is_shown_in_the_next_handshake_and_half_of_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tls_front import sign

    tls, new = (
        Tls(tmp_path / "tls.crt", tmp_path / "tls.key"),
        Tls(tmp_path / "new.crt", tmp_path / "new.key"),
    )
    sign(tls.certificate, tls.key)
    sign(new.certificate, new.key)
    with served(application(), ssl_context_factory=lambda *_: renewed_context(tls)) as url:
        address = httpx.URL(url).host, httpx.URL(url).port
        former, renewed = tls.certificate.read_text(), new.certificate.read_text()
        assert ssl.get_server_certificate(address) == former
        new.certificate.rename(tls.certificate)
        assert [ssl.get_server_certificate(address) for _ in range(2)] == [former] * 2
        new.key.rename(tls.key)
        assert ssl.get_server_certificate(address) == renewed
        assert httpx.get(f"{url}/", verify=tls.own_client_context()).text == "yes"
        tls.certificate.unlink()
        assert [ssl.get_server_certificate(address) for _ in range(2)] == [renewed] * 2
    assert caplog.text.count("The certificate stays as it was") == 2
