"""Batch inference against a server that fails in every way, over real sockets."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hostile_service import Does, answer_to, hostile_service
from llmops_components.data.files import write_rows
from llmops_components.errors import DataError, SettingError, UnavailableError
from llmops_components.inference import pool
from llmops_components.inference.batch import JOURNAL_NAME, batch_inference
from llmops_components.inference.pool import ServiceGoneError, ServiceRefusesError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays of this test, not of a user's afternoon."""
    monkeypatch.setattr(pool, "_FIRST_DELAY_SECONDS", 0.01)
    for name in ("LLMOPS_CHECKPOINTS", "LLMOPS_SERVICE_KEY", "LLMOPS_SERVICE_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Batch:
    """A dataset of questions, and where what becomes of it is written."""

    def __init__(self, directory: Path, count: int) -> None:
        self.rows = [{"id": f"r{i}", "prompt": f"q{i}"} for i in range(count)]
        self.dataset = directory / "rows.jsonl"
        self.answers, self.rejected = directory / "answers.jsonl", directory / "rejected.jsonl"
        write_rows(self.dataset, self.rows)

    def run(self, url: str, **more: Any):
        settings = {"model_name": "m", "concurrency": 8} | more
        return batch_inference(self.dataset, self.answers, self.rejected, url=url, **settings)

    def answered(self) -> dict[str, str]:
        return {row["prompt"]: row["answer"] for row in lines_of(self.answers)}

    def reasons(self) -> dict[str, str]:
        return {row["row"]["prompt"]: row["reasons"][0] for row in lines_of(self.rejected)}


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path, 40)


def test_answers_are_the_rows_in_their_order_with_what_is_known_of_each(batch):
    with hostile_service(
        lambda prompt, nth: Does(seconds=0.6 if prompt == "q0" else 0, headers={"x-llmops-revision": "00002"})
    ) as server:
        report = batch.run(server.url, request={"max_tokens": 4})
    rows = lines_of(batch.answers)
    assert [row["id"] for row in rows] == [row["id"] for row in batch.rows]
    assert rows[3].pop("response").pop("seconds") > 0
    assert rows[3] == {"id": "r3", "prompt": "q3", "answer": "re: q3"}
    how = rows[5]["response"]
    assert {name: how[name] for name in how if name != "seconds"} == {
        "line": 6,
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "revision": "00002",
        "attempts": 1,
    }
    assert batch.rejected.read_text() == ""
    assert report.passed and not report.findings
    counts = {
        name: report.metrics[name]
        for name in ("rows", "answered", "failed", "prompt_tokens", "completion_tokens")
    }
    assert counts == {"rows": 40, "answered": 40, "failed": 0, "prompt_tokens": 120, "completion_tokens": 80}
    assert report.metrics["seconds_p99"] >= 0.6 > report.metrics["seconds_p50"]
    assert report.details["revisions"] == {"00002": 40} and report.details["finish_reasons"] == {"stop": 40}
    assert server.most_busy <= 8
    assert not list(batch.answers.parent.glob("*.unfinished"))


PASSING = {
    "dropped": Does(sends=0),
    "half an answer": Does(sends=0.5),
    "429 with a time": Does(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.05"}),
    "429 with a date": Does(429, {}, {"Retry-After": "Fri, 01 Jan 2021 00:00:00 GMT"}),
    "503": Does(503, b"upstream connect error"),
    "502": Does(502, b"<html>bad gateway</html>"),
    "504": Does(504, {"error": "late"}),
    "500": Does(500, {"error": "oops"}),
    "too slow": Does(seconds=1.5),
    "no JSON": Does(body=b"<html>hello</html>"),
    "JSON that is cut off": Does(body=b'{"choices": [{"mess'),
    "nothing": Does(body=b""),
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_may_pass_is_asked_again_until_it_is_answered(batch, fault):
    def behave(prompt: str, nth: int) -> Does:
        return PASSING[fault] if prompt in ("q3", "q7") and nth < 3 else Does()

    with hostile_service(behave) as server:
        batch.run(server.url, limits={"request_seconds": 1 if fault == "too slow" else 20})
    assert batch.answered() == {row["prompt"]: f"re: {row['prompt']}" for row in batch.rows}
    assert {prompt: nth for prompt, nth in server.asked.items() if nth > 1} == {"q3": 3, "q7": 3}
    assert [row["response"]["attempts"] for row in lines_of(batch.answers)][2:5] == [1, 3, 1]


FINAL = {
    "400": (
        Does(400, {"error": {"message": "max_tokens is too large"}}),
        "HTTP 400: max_tokens is too large",
    ),
    "413": (Does(413, {"error": "too large"}), "HTTP 413: too large"),
    "422": (Does(422, {"detail": [{"msg": "Field required"}]}), 'HTTP 422: [{"msg": "Field required"}]'),
    "403": (Does(403, b"filtered"), "HTTP 403: filtered"),
    "404": (Does(404, {"error": {"message": "no model m"}}), "HTTP 404: no model m"),
    "redirect": (
        Does(307, b"", {"Location": "http://127.0.0.1:1/"}),
        "HTTP 307: a redirect to http://127.0.0.1:1/, which is not followed; give that address",
    ),
    "another reply": (Does(body={"hello": 1}), "the reply is no answer of this protocol: {'hello': 1}"),
    "an answer of null": (
        Does(body=answer_to("q", "") | {"choices": [{"message": {"content": None}}]}),
        "the reply is no answer",
    ),
    "half a surrogate pair": (
        Does(body=answer_to("q", "\ud83d")),
        "the answer cannot be written down: it has text that is no Unicode",
    ),
}


@pytest.mark.parametrize("fault", FINAL)
def test_what_would_be_the_same_is_asked_once_and_listed_with_the_servers_reason(batch, fault):
    does, reason = FINAL[fault]
    with hostile_service(lambda prompt, nth: does if prompt in ("q3", "q30") else Does()) as server:
        report = batch.run(server.url)
    assert len(batch.answered()) == 38
    assert {prompt: said[: len(reason)] for prompt, said in batch.reasons().items()} == {
        "q3": reason,
        "q30": reason,
    }
    assert max(server.asked.values()) == 1
    assert not report.passed
    assert report.findings[0] == "38 of 40 rows are answered, and 1 of them must be"
    assert report.findings[1].startswith(f"line 4: {reason}")


def test_a_row_that_always_fails_is_listed_after_its_attempts_and_harms_no_other(batch):
    with hostile_service(lambda prompt, nth: Does(sends=0) if prompt == "q0" else Does()) as server:
        report = batch.run(server.url, limits={"attempts": 3}, min_answered=0.9)
    assert report.passed and report.metrics["answered"] == 39
    (row,) = lines_of(batch.rejected)
    assert row == {
        "line": 1,
        "reasons": ["the connection ended before the answer: Server disconnected"],
        "attempts": 3,
        "row": {"id": "r0", "prompt": "q0"},
    }
    assert server.asked["q0"] == 3


@pytest.mark.parametrize(("share", "passes"), [(38 / 40, True), (38 / 40 + 1e-9, False)])
def test_gate_passes_from_its_share_on(batch, share, passes):
    with hostile_service(lambda prompt, nth: Does(400) if prompt in ("q3", "q4") else Does()) as server:
        assert batch.run(server.url, min_answered=share).passed is passes


def test_rows_that_ask_nothing_are_listed_and_never_sent(tmp_path):
    rows = [
        b'{"prompt": "fine"}',
        b'{"prompt": ""}',
        b"not json",
        b'{"other": 1}',
        b'{"prompt": [{"role": "user", "content": "talk"}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "parts"}]}]}',
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
        b'{"prompt": "taken", "answer": "before"}',
    ]
    dataset = tmp_path / "rows.jsonl"
    dataset.write_bytes(b"\n".join(rows) + b"\n")
    with hostile_service() as server:
        batch_inference(
            dataset, tmp_path / "a", tmp_path / "r", url=server.url, model_name="m", min_answered=0
        )
    assert {row["response"]["line"]: row["answer"] for row in lines_of(tmp_path / "a")} == {
        1: "re: fine",
        5: "re: talk",
        6: "re: parts",
    }
    assert {row["line"]: row["reasons"] for row in lines_of(tmp_path / "r")} == {
        2: ["prompt is empty"],
        3: ["is not valid JSON: Expecting value (column 1)"],
        4: ["prompt is missing"],
        7: ["messages ends with the role assistant, not user"],
        8: ["answer is where the answers are written; rename this column of the dataset"],
    }
    assert sorted(server.asked) == ["fine", "parts", "talk"]


def test_a_burst_of_503_while_a_server_restarts_loses_nothing(batch):
    began = time.monotonic()
    with hostile_service(
        lambda prompt, nth: Does(503) if 0.1 < time.monotonic() - began < 0.6 else Does(seconds=0.02)
    ) as server:
        report = batch.run(server.url, limits={"attempts": 1})
    assert report.metrics["answered"] == 40


def test_a_server_that_is_away_for_a_while_is_waited_for(batch):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.append(batch.run(f"http://127.0.0.1:{port}", limits={"attempts": 1}))
    )
    thread.start()
    time.sleep(0.4)
    with hostile_service(port=port):
        thread.join(20)
    assert found[0].metrics["answered"] == 40


def test_a_service_that_is_gone_ends_the_run_with_what_was_answered_kept_and_the_next_run_goes_on(
    batch, tmp_path
):
    number = itertools.count()

    def dies(prompt: str, nth: int) -> Does:
        return Does() if next(number) < 10 else Does(sends=0)

    limits = {"attempts": 1000, "outage_seconds": 1, "request_seconds": 2}
    with hostile_service(dies) as server:
        with pytest.raises(
            ServiceGoneError, match="The service gives no answers: the connection ended"
        ) as caught:
            batch.run(server.url, limits=limits, checkpoints=tmp_path / "kept")
        assert caught.value.retryable
        before = batch.answered()
        assert len(before) == 10
        reasons = set(batch.reasons().values())
        assert len(batch.reasons()) == 30
        assert all(
            each.startswith("was not answered before the run stopped: The service gives") for each in reasons
        )
        server.behave = lambda prompt, nth: Does()
        server.asked.clear()
        report = batch.run(server.url, limits=limits, checkpoints=tmp_path / "kept")
    assert report.metrics["answered"] == 40 and report.details["rows_known_from_before"] == 10
    assert set(server.asked).isdisjoint(before) and set(server.asked.values()) == {1}


def test_without_a_directory_that_outlives_the_step_the_answers_of_a_run_that_stopped_are_its_result(batch):
    number = itertools.count()

    def dies(prompt: str, nth: int) -> Does:
        return Does() if next(number) < 10 else Does(503)

    with hostile_service(dies) as server:
        report = batch.run(server.url, limits={"outage_seconds": 1, "request_seconds": 2})
    assert not report.passed and report.metrics["answered"] == 10
    assert report.findings[1].startswith("The service gives no answers: HTTP 503")


def test_a_wait_that_is_longer_than_any_outage_is_not_waited_for(batch):
    does = Does(429, {"error": {"message": "quota of today"}}, {"Retry-After": "86400"})
    began = time.monotonic()
    with (
        hostile_service(lambda prompt, nth: does) as server,
        pytest.raises(ServiceGoneError, match="quota of today"),
    ):
        batch.run(server.url, checkpoints=batch.answers.parent / "kept")
    assert time.monotonic() - began < 10


def test_a_wrong_key_ends_the_run_at_once(batch, monkeypatch):
    monkeypatch.setenv("LLMOPS_SERVICE_KEY", "sk-secret-of-mine")
    with (
        hostile_service(lambda prompt, nth: Does(401, {"error": "wrong: sk-secret-of-mine"})) as server,
        pytest.raises(ServiceRefusesError, match=r"another API key: HTTP 401: wrong: \*\*\*") as caught,
    ):
        batch.run(server.url)
    assert not caught.value.retryable
    assert sum(server.asked.values()) <= 8
    assert server.headers[0]["Authorization"] == "Bearer sk-secret-of-mine"
    for file in batch.answers.parent.iterdir():
        assert b"sk-secret" not in file.read_bytes()


@pytest.mark.parametrize("status", [400, 404])
def test_a_service_that_refuses_everything_is_not_asked_every_row(batch, status):
    with (
        hostile_service(lambda prompt, nth: Does(status, {"error": "no such thing"})) as server,
        pytest.raises(
            ServiceRefusesError,
            match=rf"The service refuses everything: HTTP {status}: no such thing",
        ),
    ):
        batch.run(server.url, limits={"refused_in_a_row": 10})
    assert 10 <= sum(server.asked.values()) <= 18


def test_refusals_of_many_rows_in_a_row_are_of_the_rows_once_others_were_answered(batch):
    with hostile_service(lambda prompt, nth: Does() if prompt in ("q0", "q39") else Does(400)) as server:
        report = batch.run(server.url, limits={"refused_in_a_row": 10}, concurrency=1)
    assert report.metrics["answered"] == 2 and report.metrics["failed"] == 38


def test_a_run_that_goes_on_knows_that_the_service_answered_before(batch, tmp_path):
    settings = {
        "limits": {"refused_in_a_row": 10, "attempts": 1},
        "min_answered": 0,
        "checkpoints": tmp_path / "kept",
    }
    with hostile_service(lambda prompt, nth: Does() if prompt == "q0" else Does(sends=0)) as server:
        batch.run(server.url, **settings)
        server.behave = lambda prompt, nth: Does(413, b"")
        report = batch.run(server.url, **settings)
    assert report.metrics["answered"] == 1 and report.metrics["failed"] == 39
    assert report.details["reasons"] == {"HTTP 413: the server gives no reason": 39}


def test_time_for_the_whole_run_is_kept(batch, tmp_path):
    with (
        hostile_service(lambda prompt, nth: Does(seconds=0.2)) as server,
        pytest.raises(ServiceGoneError, match=r"run_minutes 0\.03"),
    ):
        batch.run(server.url, concurrency=2, limits={"run_minutes": 0.03}, checkpoints=tmp_path / "kept")
    assert 0 < len(batch.answered()) < 30


def test_kill_in_the_middle_loses_no_answer_and_asks_none_twice(batch, tmp_path):
    with hostile_service(lambda prompt, nth: Does(seconds=0.02)) as server:
        code = f"""
from llmops_components.inference.batch import batch_inference
batch_inference({str(batch.dataset)!r}, {str(batch.answers)!r}, {str(batch.rejected)!r}, url={server.url!r}, model_name="m",
                concurrency=2, checkpoints={str(tmp_path / "kept")!r})
"""
        process = subprocess.Popen([sys.executable, "-c", code])
        journal = tmp_path / "kept" / JOURNAL_NAME
        while not journal.exists() or journal.read_bytes().count(b"\n") < 12:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = {
            json.loads(line)["row"]
            for line in journal.read_bytes().splitlines(keepends=True)[1:]
            if line.endswith(b"\n")
        }
        with journal.open("ab") as torn:
            torn.write(b'{"row": 40, "answer": "to')
        server.asked.clear()
        report = batch.run(server.url, checkpoints=tmp_path / "kept")
    assert batch.answered() == {row["prompt"]: f"re: {row['prompt']}" for row in batch.rows}
    assert report.details["rows_known_from_before"] == len(kept)
    assert sorted(server.asked) == sorted(f"q{i}" for i in range(40) if i + 1 not in kept)
    assert set(server.asked.values()) == {1}


def test_another_model_setting_or_dataset_never_goes_on_with_the_answers(batch, tmp_path):
    kept = tmp_path / "kept"
    with hostile_service() as server:
        batch.run(server.url, checkpoints=kept)
        for change, what in (
            ({"model_name": "other"}, r'model_name is not what .* it was "m" and is "other"'),
            (
                {"request": {"max_tokens": 3}},
                r'request is not what .* it was \{\} and is \{"max_tokens": 3\}',
            ),
        ):
            with pytest.raises(SettingError, match=what):
                batch.run(server.url, checkpoints=kept, **change)
        write_rows(batch.dataset, batch.rows[:3])
        with pytest.raises(SettingError, match="dataset is not what the answers so far were made with"):
            batch.run(server.url, checkpoints=kept)


def test_steps_that_share_a_directory_by_the_environment_keep_their_answers_apart(
    batch, tmp_path, monkeypatch
):
    monkeypatch.setenv("LLMOPS_CHECKPOINTS", str(tmp_path / "shared"))
    with hostile_service() as server:
        for name in ("a", "b", "a"):
            batch.run(server.url, model_name=name)
    assert set(server.asked.values()) == {2}


def test_too_few_answers_are_no_verdict_where_a_retry_may_bring_the_others(batch, tmp_path):
    limits, kept = {"attempts": 1}, tmp_path / "kept"
    gone = {"q1": Does(400), "q2": Does(sends=0), "q3": Does(sends=0)}
    with hostile_service(lambda prompt, nth: gone.get(prompt, Does())) as server:
        with pytest.raises(
            UnavailableError,
            match=r"^2 of 40 rows have no answer yet for reasons that may pass: the connection",
        ):
            batch.run(server.url, limits=limits, min_answered=0.97, checkpoints=kept)
        assert len(batch.answered()) == 37
        assert not batch.run(server.url, limits=limits, min_answered=1, checkpoints=kept).passed
        del gone["q2"], gone["q3"]
        assert batch.run(server.url, limits=limits, min_answered=0.97, checkpoints=kept).passed


def test_rows_refused_for_good_are_asked_again_only_if_wanted_and_others_by_themselves(batch, tmp_path):
    def behave(prompt: str, nth: int) -> Does:
        return {"q1": Does(400), "q2": Does(sends=0)}.get(prompt, Does())

    with hostile_service(behave) as server:
        settings = {"checkpoints": tmp_path / "kept", "limits": {"attempts": 1}, "min_answered": 0}
        batch.run(server.url, **settings)
        assert sorted(batch.reasons()) == ["q1", "q2"]
        server.behave = lambda prompt, nth: Does()
        assert batch.run(server.url, **settings).metrics["answered"] == 39
        assert sorted(batch.reasons()) == ["q1"]
        assert batch.run(server.url, **settings, retry_failed=True).metrics["answered"] == 40
    assert {prompt: nth for prompt, nth in server.asked.items() if nth > 1} == {"q1": 2, "q2": 2}


def test_two_runs_do_not_write_to_the_same_answers(batch, tmp_path):
    with hostile_service(lambda prompt, nth: Does(seconds=0.1)) as server:
        first = threading.Thread(
            target=lambda: batch.run(server.url, concurrency=4, checkpoints=tmp_path / "kept")
        )
        first.start()
        while not server.asked:
            time.sleep(0.01)
        with pytest.raises(Exception, match="Another run is writing its answers here"):
            batch.run(server.url, checkpoints=tmp_path / "kept")
        first.join()
    assert set(server.asked.values()) == {1}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"url": "ftp://host"}, "url is no http or https address"),
        ({"url": "http://user:secret@host"}, "url has a login in it"),
        ({"url": "http://host/?q=1"}, "not the address of a service alone"),
        ({"url": "http://host:99999"}, "not the address of a service alone"),
        ({"protocol": "opanai"}, "Unknown protocol: 'opanai'"),
        ({"model_name": " "}, "model_name is ' '"),
        ({"request": {"messages": []}}, "request has 'messages', which is set for each row"),
        ({"request": {"stream": True}}, "request has 'stream'"),
        ({"request": {"n": 2}}, "several answers"),
        ({"request": {"temperature": float("nan")}}, "nothing that JSON can hold"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"limits": {"attempt": 3}}, r"Unknown limits: 'attempt' \(did you mean 'attempts'\?\)"),
        ({"limits": {"attempts": 1.5}}, "attempts is 1.5. Give a whole number above 0"),
        ({"limits": {"request_seconds": 0}}, "request_seconds is 0. Give a number above 0"),
        ({"min_answered": 1.5}, "min_answered is 1.5; give a number from 0 to 1"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name_before_anything_is_asked(batch, change, what):
    with pytest.raises(SettingError, match=what) as caught:
        batch.run(**({"url": "http://127.0.0.1:1"} | change))
    assert "secret" not in str(caught.value)


def test_a_dataset_without_rows_is_refused(batch):
    batch.dataset.write_text("")
    with pytest.raises(DataError, match="has no rows"):
        batch.run("http://127.0.0.1:1")


def test_the_key_may_stand_in_a_file(batch, tmp_path, monkeypatch):
    (tmp_path / "key").write_text("sk-file\n")
    monkeypatch.setenv("LLMOPS_SERVICE_KEY_FILE", str(tmp_path / "key"))
    with hostile_service() as server:
        batch.run(server.url)
    assert {each["Authorization"] for each in server.headers} == {"Bearer sk-file"}
    (tmp_path / "key").write_text("two\nlines")
    with pytest.raises(SettingError, match="cannot be sent") as caught:
        batch.run("http://127.0.0.1:1")
    assert "lines" not in str(caught.value)


def test_memory_does_not_grow_with_answers(tmp_path):
    """Of a row a few bytes are held: 2,000 rows with answers of 2 KB would be 4 MB."""
    import tracemalloc

    from llmops_components.inference.journal import Journal

    record = {"answer": "x" * 2000, "seconds": 0.1}
    tracemalloc.start()
    with Journal(tmp_path / "journal", {}) as journal:
        for row in range(1, 2_001):
            journal.note(row, record)
        assert tracemalloc.get_traced_memory()[0] < 1 << 19
        assert journal.record(2_000) == {"row": 2_000, **record}
        assert journal.record(2_001) is None
    tracemalloc.stop()
    assert (tmp_path / "journal").stat().st_mode & 0o077 == 0
