"""What others send is read up to a limit, and what goes to XCom fits into it."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
import time
from typing import ClassVar

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_llmops import http as own_http
from airflow_provider_llmops.backends.pipelines import artifacts as artifact_store
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, ResultTooLargeError
from airflow_provider_llmops.http import request
from airflow_provider_llmops.specs import files
from airflow_provider_llmops.specs.files import read_source
from airflow_provider_llmops.xcom import MAX_XCOM_BYTES, cut_to_fit, states_that_fit


class Answers(http.server.BaseHTTPRequestHandler):
    """Sends as many bytes as the path says, and announces as many as its query says."""

    def do_GET(self) -> None:
        path, _, announced = self.path[1:].partition("?")
        status, size = map(int, path.split("/"))
        self.send_response(status)
        if announced != "-":
            self.send_header("Content-Length", announced or str(size))
        self.end_headers()
        try:
            for _ in range(size // 1000):
                self.wfile.write(b"x" * 1000)
        except ConnectionError:
            self.server.was_left = True  # type: ignore[attr-defined]

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("announced", ["", "?-"])
def test_answer_of_a_server_is_read_up_to_a_limit(server, monkeypatch, announced):
    monkeypatch.setattr(own_http, "MAX_ANSWER_BYTES", 1 << 20)
    assert len(request(f"{server}/200/1000000{announced}", timeout=5)) == 1_000_000
    with pytest.raises(ConfigurationError, match=r"^The answer is larger than 1 MiB") as refused:
        request(f"{server}/200/50000000{announced}", timeout=5)
    assert f"Address: {server}" in str(refused.value)


def test_answer_that_is_cut_off_is_none(server):
    with pytest.raises(ApiUnavailableError, match="was cut off 1000 bytes before its end"):
        request(f"{server}/200/2000?3000", timeout=5)


def test_words_of_a_refusal_are_read_up_to_a_limit(server):
    with pytest.raises(ConfigurationError, match=r"^HTTP 400") as refused:
        request(f"{server}/400/50000000", timeout=5)
    assert len(str(refused.value)) < 1000


class Drips(http.server.BaseHTTPRequestHandler):
    """Sends what its path names byte by byte, so that no wait for a byte is long."""

    PARTS: ClassVar = (
        ("status", b"HTTP/1.1 200 "),
        ("head", b"OK\r\nX-Long: " + b"x" * 1000 + b"\r\n"),
        ("body", b"Content-Length: 1000\r\n\r\n" + b"x" * 1000),
    )
    ERROR: ClassVar = b"HTTP/1.1 500 Broken\r\nContent-Length: 1000\r\n\r\n"

    def do_GET(self) -> None:
        try:
            if self.path == "/error":
                self.wfile.write(self.ERROR)
            for name, part in self.PARTS:
                pieces = (
                    [part]
                    if name != self.path[1:] and self.path != "/error"
                    else map(bytes, zip(part, strict=True))
                )
                for piece in pieces:
                    self.wfile.write(piece)
                    time.sleep(0.02 if len(piece) == 1 else 0)
        except OSError:
            pass

    do_POST = do_GET
    log_message = Answers.log_message


@contextlib.contextmanager
def running(handler):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("head", "The answer came too slowly. Is the network slow?"),
        ("body", "The answer came too slowly. Is the network slow?"),
        ("error", "HTTP 500 Broken:"),
    ],
)
def test_answer_that_comes_byte_by_byte_is_left_in_time(part, reason):
    started = time.monotonic()
    with running(Drips) as url, pytest.raises(ApiUnavailableError, match=re.escape(reason)):
        request(f"{url}/{part}", timeout=0.1)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("part", ["head", "body"])
def test_specification_that_comes_byte_by_byte_is_left_in_time(part, monkeypatch):
    monkeypatch.setattr(files, "DEADLINE_SECONDS", 0.5)
    started = time.monotonic()
    with running(Drips) as url, pytest.raises(ApiUnavailableError, match="was not read within"):
        read_source(f"{url}/{part}")
    assert time.monotonic() - started < 3


class Proxy(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET
    log_message = Answers.log_message


@pytest.mark.parametrize("name", ["127.0.0.1", "LOCALHOST"])
def test_no_proxy_of_the_environment_is_asked_for_this_machine(server, monkeypatch, name):
    Proxy.asked.clear()
    address = f"{server.replace('127.0.0.1', name)}/200/1000"
    with running(Proxy) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        for variable in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(variable, raising=False)
        assert len(request(address, timeout=5, api_key="k" * 20)) == 1000
        assert read_source(address) == b"x" * 1000
        assert Proxy.asked == []
        assert request("http://service.example/v1", timeout=5) == b""
    assert Proxy.asked == ["http://service.example/v1"]


def test_result_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(artifact_store, "MAX_RESULT_BYTES", 1000)
    place = tmp_path / "attempt" / "result"
    place.parent.mkdir()
    place.write_text("x" * 1000)
    assert artifact_store.read_result([str(tmp_path)], "run", "step", None)[0] == "x" * 1000
    place.write_text("x" * 1001)
    with pytest.raises(ResultTooLargeError, match="The result of step step is larger than"):
        artifact_store.read_result([str(tmp_path)], "run", "step", None)


@pytest.mark.parametrize("letter", ["a", "ä", "🙂", '"'])
def test_long_texts_are_cut_with_a_mark_until_they_fit_into_xcom(letter):
    answers = [{"prompt": "short", "answer": letter * 20_000, "seconds": 0.5}, {"prompt": "p", "answer": "a"}]
    cut = cut_to_fit(answers)
    assert len(json.dumps(cut)) <= MAX_XCOM_BYTES
    assert cut[0]["answer"].endswith("…") and cut[0]["answer"].startswith(letter * 100)
    assert (cut[0]["prompt"], cut[0]["seconds"], cut[1]) == ("short", 0.5, answers[1])
    assert cut_to_fit(answers[1:]) == answers[1:]


def test_of_many_answers_the_first_go_to_xcom():
    answers = [{"prompt": f"p{n}", "answer": "a" * 500} for n in range(1000)]
    cut = cut_to_fit(answers)
    assert 10 < len(cut) < 1000
    assert [one["prompt"] for one in cut] == [f"p{n}" for n in range(len(cut))]
    assert len(json.dumps(cut)) <= MAX_XCOM_BYTES


def test_of_a_list_what_is_too_large_is_skipped_and_the_rest_goes_to_xcom():
    large = {f"key-{n}": n for n in range(5000)}
    assert cut_to_fit([large, {"a": 1}, large, {"b": 2}]) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("value", [[{"k" * 20_000: 1}], {"k" * 20_000: 1}, {"a": [1] * 9000}])
def test_what_cannot_be_cut_is_refused_for_good(value):
    with pytest.raises(
        ResultTooLargeError, match=r"^What is to go to XCom is larger than 16384 bytes"
    ) as refused:
        cut_to_fit(value)
    assert isinstance(refused.value, AirflowFailException)


def test_rest_of_a_value_is_cut_so_that_steps_have_room():
    value = states_that_fit({"run_id": "r", "outputs": {"a": "x" * 200_000}}, {"one": "SUCCEEDED"})
    assert len(json.dumps(value)) <= MAX_XCOM_BYTES
    assert value["steps"] == {"one": "SUCCEEDED"} and value["outputs"]["a"].endswith("…")


def test_states_of_many_steps_are_left_out_and_counted():
    value = states_that_fit({"run_id": "r"}, {f"step-{n:04}": "SUCCEEDED" for n in range(2000)})
    assert len(json.dumps(value)) <= MAX_XCOM_BYTES
    assert len(value["steps"]) + value["steps_left_out"] == 2000
    assert states_that_fit({}, {"a": "FAILED"}) == {"steps": {"a": "FAILED"}}
