"""What a Prometheus server says that a revision has answered."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from recorded_prometheus import RECORDED, VERSIONS, RecordedPrometheus

from airflow_provider_llmops.backends.serving.prometheus import PrometheusServer, check_labels
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError
from airflow_provider_llmops.hooks.prometheus import PrometheusHook


def connect(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> PrometheusHook:
    monkeypatch.setenv("AIRFLOW_CONN_PROMETHEUS_DEFAULT", json.dumps({"conn_type": "prometheus", **fields}))
    return PrometheusHook()


def labels(revision: str) -> str:
    return f'namespace="team", revision="{revision}"'


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("revision", ["00001", "00002", "00003", "00004", "00005"])
def test_requests_and_errors_are_those_that_the_servers_have_counted(version: str, revision: str) -> None:
    """One of two pods was started anew, one is new, one idle; vLLM's had its first error in the window."""
    with RecordedPrometheus(version) as fake:
        server = PrometheusServer(fake.url)
        found = server.answers(labels(revision), RECORDED["window"], RECORDED["at"])
    requests, errors = RECORDED["counted"][revision]
    assert found is not None
    assert found.requests == pytest.approx(requests, rel=0.02, abs=1)
    assert found.errors == pytest.approx(errors, rel=0.05, abs=1)
    assert (found.errors == 0) is (errors == 0)
    assert sum(found.seconds.values()) == pytest.approx(requests - errors, rel=0.02, abs=2)
    # Of the medians of both models that were driven.
    median = {"00003": None, "00004": 1.3}.get(
        revision, math.exp(-1.0) if revision == "00001" else math.exp(1.0)
    )
    assert found.percentile(0.5) == (None if median is None else pytest.approx(median, rel=0.25))


@pytest.mark.parametrize("version", VERSIONS)
def test_series_that_are_not_there_are_not_zero(version: str) -> None:
    with RecordedPrometheus(version) as fake:
        assert PrometheusServer(fake.url).answers(labels("none"), RECORDED["window"], RECORDED["at"]) is None


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (
            200,
            {"status": "success", "warnings": ["partial"], "data": {}},
            ApiUnavailableError,
            "perhaps in part",
        ),
        (
            200,
            {"status": "success", "data": {"resultType": "scalar", "result": []}},
            ApiUnavailableError,
            "no Prom",
        ),
        (200, {"status": "success"}, ApiUnavailableError, "What answers is no Prometheus"),
        (200, {"status": "error", "error": "x"}, ApiUnavailableError, "What answers is no Prometheus"),
        (200, "<html>", ApiUnavailableError, "What answers is no Prometheus"),
        (200, [], ApiUnavailableError, "What answers is no Prometheus"),
        (503, {"status": "error", "error": "query timed out"}, ApiUnavailableError, "HTTP 503 .*timed out"),
        (400, {"status": "error", "error": "parse error"}, ConfigurationError, "HTTP 400 .*parse error"),
        (401, "who are you?", ConfigurationError, "HTTP 401"),
    ],
)
def test_an_answer_that_is_none_is_no_data_and_says_why(
    status: int, body: Any, error: type[Exception], message: str
) -> None:
    with RecordedPrometheus() as fake:
        fake.refusal = (status, body)
        with pytest.raises(error, match=message):
            PrometheusServer(fake.url).answers(labels("00001"), 60, 0.0)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1"])
def test_a_value_that_counts_nothing_is_no_data(value: str) -> None:
    with RecordedPrometheus() as fake:
        result = [{"metric": {"code": "200", "le": "+Inf"}, "value": [0, value]}]
        fake.refusal = (200, {"status": "success", "data": {"resultType": "vector", "result": result}})
        server = PrometheusServer(fake.url)
        if value == "NaN":
            assert server.answers(labels("00001"), 60, 0.0) is None
        else:
            with pytest.raises(ApiUnavailableError, match="what counts nothing"):
                server.answers(labels("00001"), 60, 0.0)


@pytest.mark.parametrize(
    "given",
    ['a="b"', ' a = "b" , c=~"d.*" ', 'a!="b",c!~"d"', 'a="b",', r'pod=~"chat-\\d+-\"x\"", namespace="t"'],
)
def test_labels_as_promql_has_them_are_taken(given: str) -> None:
    assert check_labels(given) == given.strip().rstrip(",")


@pytest.mark.parametrize(
    "given",
    [
        "",
        "a",
        'a="b"}',
        '{a="b"}',
        "a='b'",
        'a="b" or vector(1)',
        'a="b"} or {c="d"',
        '__name__="up"',
        "a=b",
        None,
        {"a": "b"},
    ],
)
def test_labels_that_are_none_are_refused(given: object) -> None:
    with pytest.raises(ConfigurationError, match="as PromQL has them between braces"):
        check_labels(given)


@pytest.mark.parametrize(
    ("fields", "header"),
    [
        ({}, None),
        ({"password": "secret-token"}, "Bearer secret-token"),
        ({"login": "ops", "password": "secret word"}, "Basic b3BzOnNlY3JldCB3b3Jk"),
        ({"login": "ops"}, "Basic b3BzOg=="),
    ],
)
def test_connection_sends_its_credentials_and_never_tells_them(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], header: str | None
) -> None:
    with RecordedPrometheus() as fake:
        hook = connect(monkeypatch, host=fake.url, **fields)
        assert hook.test_connection() == (True, f"Prometheus at {fake.url} answers queries")
        assert fake.keys == [header]
        assert "secret" not in repr(hook.get_conn())
        fake.refusal = (403, "no")
        ok, message = hook.test_connection()
    assert not ok
    assert message.startswith("HTTP 403 Forbidden: no")
    assert "secret" not in message
    assert "b3Bz" not in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "the host must be an http or https address"),
        ({"host": "http://ops:secret@prometheus"}, "user and password have fields of their own"),
        ({"host": "prometheus", "password": "secret\nline"}, "which cannot hold it: it has 2 lines"),
        ({"host": "prometheus", "login": "o:ps", "password": "secret"}, "the login has a colon"),
        (
            {"host": "prometheus", "extra": {"verify_ssl": "perhaps"}},
            "'verify_ssl' in extra must be true or false",
        ),
        ({"host": "prometheus", "extra": {"ca_file": "/no/such"}}, "does not exist or cannot be read"),
    ],
)
def test_connection_that_cannot_be_used_is_refused_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], message: str
) -> None:
    ok, said = connect(monkeypatch, **fields).test_connection()
    assert (ok, message in said, "secret" in said) == (False, True, False)


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"schema": "https"}, "https://prometheus:9090"),
        ({}, "http://prometheus:9090"),
        ({"schema": "https", "host": "http://prometheus"}, "http://prometheus:9090"),
    ],
)
def test_schema_of_the_connection_is_that_of_the_address(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], address: str
) -> None:
    assert connect(monkeypatch, **{"host": "prometheus", "port": 9090, **fields}).server.address == address
