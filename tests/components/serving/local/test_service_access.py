"""A predictor that stands alone, and a service with gateway and predictor, as OpenAI's client meets them with keys."""

from __future__ import annotations

import json
import os
import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from llmops_components.errors import SettingError
from llmops_components.serving.access.__main__ import add_key, remove_key
from llmops_components.serving.local.controller import LocalServing
from llmops_components.serving.local.manifest import read_manifest
from running_services import Predictor, manifest_for, processes_below, running_predictor, wait
from tls_front import sign

QUESTION: list[Any] = [{"role": "user", "content": "What colour is the sky?"}]


def client_of(url: str, key: str, certificate: Path) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{url}/openai/v1",
        api_key=key,
        max_retries=0,
        http_client=httpx.Client(verify=str(certificate), timeout=60),
    )


def certificate_of(url: str) -> str:
    """What a server shows in a handshake."""
    return ssl.get_server_certificate((httpx.URL(url).host, httpx.URL(url).port or 443))


def audited(file: Path) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [
        (line.get("key"), line["route"], line["status"], line["prompt_tokens"], line["completion_tokens"])
        for line in lines
    ]


def access_with_tls(directory: Path, **quotas: int) -> tuple[Path, Path, str]:
    """An access file with a certificate and one key."""
    certificate, key_file, file = directory / "tls.crt", directory / "tls.key", directory / "access.json"
    sign(certificate, key_file)
    file.write_text(json.dumps({"tls": {"certificate": str(certificate), "key": str(key_file)}}))
    file.chmod(0o600)
    return file, certificate, add_key(file, "alice", **quotas)


@pytest.fixture(scope="module")
def guarded(
    talkative_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Path, str]]:
    directory = tmp_path_factory.mktemp("guarded")
    file, certificate, key = access_with_tls(directory, tokens_per_minute=1000)
    arguments = ("--model_name=tiny", f"--access_file={file}", f"--audit_directory={directory / 'audit'}")
    made: Iterator[Predictor] = running_predictor(talkative_model, directory, *arguments)
    predictor = next(made)
    try:
        yield predictor.url, directory, certificate, key
    finally:
        for _ in made:
            pass


def test_a_predictor_alone_offers_tls_and_answers_keys_of_its_access_file(
    guarded: tuple[str, Path, Path, str],
) -> None:
    url, directory, certificate, key = guarded
    assert url.startswith("https://")
    client = client_of(url, key, certificate)
    whole = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=5, temperature=0)
    *_, last = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        max_tokens=5,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert last.usage == whole.usage
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, verify=str(certificate), timeout=60) as plain:
        assert plain.get("/v2/health/ready").json() == {"ready": True}
        assert plain.get("/v2/models/tiny/ready").status_code == 200
        # Whoever reads them through the API server of a cluster cannot send a key.
        assert "llmops_requests_total" in plain.get("/metrics").text
        assert plain.post("/metrics", json={}).status_code == 405
        body = {"instances": ["Hello"], "parameters": {"max_tokens": 3}}
        assert plain.post("/v1/models/tiny:predict", json=body).json() == {
            "error": "You sent no API key: send it in the header 'Authorization: Bearer KEY'."
        }
        assert plain.post("/v1/models/tiny:predict", json=body, headers=headers).status_code == 200
    with pytest.raises(openai.AuthenticationError, match="invalid_api_key"):
        client_of(url, "sk-wrong-0123456789abcdef", certificate).models.list()

    assert whole.usage is not None
    took = (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    first, second, *rest = audited(directory / "audit/tiny.audit.jsonl")
    assert first == second == ("alice", "/openai/v1/chat/completions", 200, *took)
    assert [line[:3] for line in rest] == [
        (None, "/metrics", 405),
        (None, "/v1/models/tiny:predict", 401),
        ("alice", "/v1/models/tiny:predict", 200),
        (None, "/openai/v1/models", 401),
    ]
    assert rest[2][3] > 0
    assert 0 < rest[2][4] <= 3
    assert key not in (directory / "log.txt").read_text()


def test_a_used_up_quota_is_a_rate_limit_error_of_openais_client(
    guarded: tuple[str, Path, Path, str],
) -> None:
    url, directory, certificate, _ = guarded
    key = add_key(directory / "access.json", "bob", requests_per_minute=1)
    client = client_of(url, key, certificate)
    client.models.list()
    with pytest.raises(openai.RateLimitError, match="'bob' has used up its 1 requests per minute") as refused:
        client.models.list()
    assert 55 <= int(refused.value.response.headers["retry-after"]) <= 60


def test_a_predictor_alone_shows_a_renewed_certificate_in_the_next_handshake(
    guarded: tuple[str, Path, Path, str],
) -> None:
    url, directory, certificate, key = guarded
    assert certificate_of(url) == certificate.read_text()
    former = certificate.read_text()
    sign(certificate, directory / "tls.key")
    assert certificate_of(url) == certificate.read_text() != former
    assert client_of(url, key, certificate).models.list().data


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[LocalServing]:
    made = LocalServing(tmp_path / "root")
    yield made
    for home in (made.root / "services").glob("*/*"):
        made.delete(home.name, namespace=home.parent.name)
    assert processes_below(made.root) == []


def test_a_request_to_a_service_is_checked_counted_and_noted_once_at_its_gateway(
    serving: LocalServing, talkative_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, certificate, key = access_with_tls(tmp_path)
    manifest = manifest_for(talkative_model)
    revision = serving.apply(manifest)["revision"]
    direct = wait(serving, "helper", revision, "READY")["url"]
    url = serving.traffic("helper", {revision: 100})["url"]
    assert url.startswith("http://")
    assert httpx.get(f"{url}/openai/v1/models").status_code == 200  # without an access file everybody may ask
    # Nobody goes round the gateway.
    refused = httpx.post(f"{direct}/openai/v1/completions", json={"model": "helper", "prompt": "Hi"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "not_the_gateway")
    assert httpx.get(f"{direct}/v2/health/ready").status_code == 200
    assert httpx.get(f"{direct}/metrics").status_code == 401

    manifest["spec"]["predictor"]["model"]["args"].append(f"--access_file={file}")
    revision = serving.apply(manifest)["revision"]
    direct = wait(serving, "helper", revision, "READY")["url"]
    assert serving.ask("helper", revision, "Hello", max_tokens=4).strip()
    url = serving.traffic("helper", {revision: 100})["url"]
    assert url.startswith("https://")
    client = client_of(url, key, certificate)
    whole = client.chat.completions.create(model="helper", messages=QUESTION, max_tokens=5, temperature=0)
    pieces = list(
        client.chat.completions.create(
            model="helper", messages=QUESTION, max_tokens=5, temperature=0, stream=True
        )
    )
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == (
        whole.choices[0].message.content
    )
    with httpx.Client(base_url=url, verify=str(certificate), timeout=60) as plain:
        headers = {"Authorization": f"Bearer {key}"}
        body = {"instances": ["Hello"], "parameters": {"max_tokens": 3}}
        assert plain.post("/v1/models/helper:predict", json=body, headers=headers).status_code == 200
        assert plain.post("/v1/models/helper:predict", json=body).status_code == 401
        assert plain.get("/gateway/status", headers=headers).status_code == 401
        assert plain.get("/v2/health/ready").status_code == 200
        forged = {"x-llmops-gateway": "s" * 43, "content-type": "application/json"}
        assert plain.post("/v1/models/helper:predict", json=body, headers=forged).status_code == 401
    # Left before their end, with no word of how long they may become.
    asked = {"model": "helper", "messages": QUESTION, "ignore_eos": True, "n": 64}  # seconds, however fast
    with httpx.Client(base_url=url, verify=str(certificate), headers=headers) as leaving:
        with pytest.raises(httpx.ReadTimeout):
            leaving.post("/openai/v1/chat/completions", json=asked, timeout=0.6)
        path = "/openai/v1/chat/completions"
        with leaving.stream("POST", path, json=asked | {"stream": True}, timeout=60) as pieces:
            for line in pieces.iter_lines():
                if '"content":"' in line and '"content":""' not in line:
                    break
    log = serving.root / "services/default/helper/gateway/default.helper.audit.jsonl"
    deadline = time.monotonic() + 20
    while len(audited(log)) < 9 and time.monotonic() < deadline:
        time.sleep(0.05)
    unread, unended = sorted(audited(log)[7:], key=lambda line: -line[2])

    sign(certificate, tmp_path / "tls.key")  # renewed
    assert certificate_of(url) == certificate.read_text()
    remove_key(file, "alice")
    with pytest.raises(openai.AuthenticationError):
        client.models.list()

    home = serving.root / "services/default/helper"
    assert whole.usage is not None
    took = (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    assert (unread[:4], unended[:4]) == (
        ("alice", path, 499, took[0]),
        ("alice", path, 200, took[0]),
    )
    assert unread[4] >= 1
    assert unended[4] >= 1
    opened, first, second, third, *rest = audited(home / "gateway/default.helper.audit.jsonl")
    assert opened == (None, "/openai/v1/models", 200, 0, 0)
    assert first == second == ("alice", "/openai/v1/chat/completions", 200, *took)
    assert third[:3] == ("alice", "/v1/models/helper:predict", 200)
    assert 0 < third[4] <= 3
    assert sorted(line[2] for line in rest) == [200, 401, 401, 401, 401, 499]
    assert not list(home.glob("revisions/*/*.audit.jsonl"))

    secret = (home / "secret").read_text().strip()
    assert len(secret) == 43
    assert {stat.S_IMODE((home / path).stat().st_mode) & 0o077 for path in ("secret", "service.json")} == {0}
    for path in home.rglob("*"):
        if path.is_file():
            assert key.encode() not in path.read_bytes(), path
            assert path.name == "secret" or secret.encode() not in path.read_bytes(), path
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        assert key not in line
        assert secret not in line


def test_the_gateway_passes_no_key_on(tmp_path: Path) -> None:
    from llmops_components.serving.local.gateway import _passed_on

    sent = [(b"authorization", b"Bearer k"), (b"x-llmops-gateway", b"forged"), (b"accept", b"*/*")]
    assert _passed_on({"headers": sent}, "own") == [("accept", "*/*"), ("x-llmops-gateway", "own")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"args": ["--access_file=access.json"]}, "is no absolute path"),
        ({"args": ["--access_file=/no/such/file"]}, "Cannot read the access file: No such file"),
        (
            {"env": [{"name": "VLLM_API_KEY", "value": "top-secret-0123456789"}]},
            "would put an API key into the manifest",
        ),
        ({"args": ["--api_key=top-secret-0123456789"]}, "Unknown argument in spec.predictor.model.args"),
    ],
)
def test_a_manifest_with_a_key_or_without_its_access_file_is_refused(
    talkative_model: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError) as refused:
        read_manifest(manifest_for(talkative_model, **change))
    assert message in str(refused.value)
    assert "top-secret" not in str(refused.value)
    assert os.environ.get("VLLM_API_KEY") is None
