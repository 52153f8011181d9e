"""Logs of a service and what its users say of the answers: every line becomes part of a row, or is refused with its reason."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
from cloudevents.conversion import to_json
from cloudevents.http import CloudEvent
from llmops_components.data.feedback.collect import collect_feedback
from llmops_components.data.feedback.log import REQUEST_EVENT, RESPONSE_EVENT
from llmops_components.data.formats import detect_format
from llmops_components.errors import DataError, SettingError
from llmops_components.serving.access.audit import AuditLog
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

OUTPUTS = ("preferences", "unpaired", "demonstrations", "rejected")
CREATED = 1_764_000_000


def chat(id: str, *answers: str | None, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """A reply, by OpenAI's own types."""
    choices = [
        {
            "index": index,
            "finish_reason": finish_reason,
            "message": {"role": "assistant", "content": text, **message},
        }
        for index, text in enumerate(answers)
    ]
    body = {"id": id, "object": "chat.completion", "created": CREATED, "model": "helper", "choices": choices}
    return ChatCompletion.model_validate(body).model_dump(mode="json")


def asked(question: str) -> dict[str, Any]:
    return {"model": "helper", "messages": [{"role": "user", "content": question}], "temperature": 0.7}


def logged(id: str, question: str, *answers: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "request": asked(question), "response": chat(f"chatcmpl-{id}", *answers), **more}


def up(id: str, who: str | None = "ada", **more: Any) -> dict[str, Any]:
    return {"id": id, "rating": "up", "who": who, **more}


def down(id: str, who: str | None = "ada", **more: Any) -> dict[str, Any]:
    return {"id": id, "rating": "down", "who": who, **more}


class Collected:
    """What was made of a log and of feedback."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, log: list[Any] | bytes, feedback: list[Any], **settings: Any) -> Any:
        texts = {"log.jsonl": log, "feedback.jsonl": feedback}
        for name, rows in texts.items():
            lines = [each if isinstance(each, str) else json.dumps(each) for each in rows if rows != b""]
            (self.directory / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        made = [self.directory / name for name in OUTPUTS]
        self.report = collect_feedback(
            self.directory / "log.jsonl", self.directory / "feedback.jsonl", *made, **settings
        )
        return self.report

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for line in (self.directory / name).read_text(encoding="utf-8").split("\n")
            if line
        ]

    def reasons(self, file: str = "feedback") -> dict[int, str]:
        return {each["line"]: each["reasons"][0] for each in self.rows("rejected") if each["file"] == file}


@pytest.fixture
def collected(tmp_path: Path) -> Collected:
    return Collected(tmp_path)


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_correction_is_preferred_to_the_answer_and_says_where_it_comes_from(collected):
    log = [logged("r1", "Capital of France?", "Lyon", model_version="7", time="2026-11-25T08:00:00+01:00")]
    given = {
        "id": "r1",
        "correction": "Paris",
        "who": "ada@example.org",
        "at": "2026-11-25T09:00:00Z",
        "comment": "x",
    }
    report = collected(log, [{**given, "feedback_id": "f9"}])
    (row,) = collected.rows("preferences")
    asked_in = {
        "row_id": "log.jsonl:1",
        "id": "r1",
        "answer": 0,
        "model": "helper",
        "model_version": "7",
        "time": "2026-11-25T07:00:00+00:00",
        "finish_reason": "stop",
    }
    told_in = {
        "row_id": "feedback.jsonl:1",
        "id": "f9",
        "who": "rater 1",
        "at": "2026-11-25T09:00:00+00:00",
        "comment": "x",
    }
    both = {"requests": [asked_in], "feedback": [told_in]}
    assert row == {
        "prompt": [{"role": "user", "content": "Capital of France?"}],
        "chosen": said("Paris"),
        "rejected": said("Lyon"),
        "provenance": {
            "chosen": {"written_by": "person", **both},
            "rejected": {"written_by": "model", **both},
        },
    }
    labels = {each["completion"][0]["content"]: each["label"] for each in collected.rows("unpaired")}
    assert labels == {"Lyon": False, "Paris": True}
    assert [each["completion"] for each in collected.rows("demonstrations")] == [said("Paris")]
    for name, expected in zip(
        OUTPUTS, ("preference", "unpaired_preference", "prompt_completion"), strict=False
    ):
        found = detect_format(collected.rows(name))
        assert (found.name, found.conversational) == (expected, True)
    assert report.passed and report.findings == []
    assert "ada" not in (collected.directory / "preferences").read_text()
    collected(log, [given], raters="named")
    assert collected.rows("preferences")[0]["provenance"]["chosen"]["feedback"][0]["who"] == "ada@example.org"


def test_answers_to_one_prompt_are_paired_each_once_and_none_with_itself(collected):
    log = [logged(f"g{n}", "Q", f"good {n}") for n in range(3)] + [
        logged(f"b{n}", "Q", f"bad {n}") for n in range(2)
    ]
    log += [logged("other", "Q?", "bad 7"), logged("same", "Q", "good 0")]
    feedback = [up("g0"), up("g1"), up("g2"), down("b0"), down("b1"), down("other"), up("same", "bob")]
    collected(log, feedback)
    pairs = [
        (row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in collected.rows("preferences")
    ]
    assert pairs == [("good 0", "bad 0"), ("good 1", "bad 1"), ("good 2", "bad 0")]
    first = collected.rows("preferences")[0]["provenance"]["chosen"]
    assert [each["id"] for each in first["requests"]] == ["g0", "same"]  # one text, of two requests
    assert len(collected.rows("unpaired")) == 6


def test_several_answers_of_one_request_are_told_apart(collected):
    collected(
        [logged("r", "Q", "zero", "one")],
        [up("r", answer=0), down("chatcmpl-r", answer=1), up("r"), up("r", answer=2), up("r", answer=-1)],
    )
    (row,) = collected.rows("preferences")
    assert (row["chosen"], row["rejected"]) == (said("zero"), said("one"))
    assert collected.reasons() == {
        3: "does not say which of 2 answers it is about: give answer, from 0",
        4: "is about answer 2 of a request that has 2",
        5: "has an answer that is no index from 0: -1",
    }


@pytest.mark.parametrize(
    ("rule", "labels", "used"), [("majority", {"a": True, "c": False}, 3), ("drop", {"c": False}, 1)]
)
def test_contradictions_are_resolved_by_the_rule_and_told(collected, rule, labels, used):
    log = [logged("a", "A", "a"), logged("b", "B", "b"), logged("c", "C", "c")]
    feedback = [
        up("a"),
        up("a", "bob"),
        down("a", "eve", correction="z"),
        up("b"),
        down("b", "bob"),
        down("c"),
    ]
    report = collected(log, feedback, on_conflict=rule)
    assert {row["completion"][0]["content"]: row["label"] for row in collected.rows("unpaired")} == labels
    assert report.metrics["conflicts"] == 2
    assert report.metrics["used_feedback"] == used
    assert (
        report.metrics["used_feedback"] + report.metrics["rejected_feedback"]
        == report.metrics["feedback"]
        == 6
    )
    assert "2 of 3 say that the answer is good" in collected.reasons()[3]
    assert "1 of 2 say that the answer is good" in collected.reasons()[4]
    assert report.findings[0] == f"Of 2 answers people say different things; on_conflict is {rule}."
    assert collected.rows("preferences") == []


def test_later_word_of_a_person_counts_whatever_the_order_of_the_lines(collected):
    log = [logged("a", "A", "a"), logged("b", "B", "b")]
    feedback = [
        up("a", at="2026-11-25T10:00:00Z"),
        down("a", at="2026-11-25T11:00:00+02:00"),  # an hour before
        down("a", "bob", at=None),
        up("a", "bob", at=1_764_060_000),
        down("b", None),
        up("b", None),
    ]
    collected(log, feedback)
    assert {row["completion"][0]["content"]: row["label"] for row in collected.rows("unpaired")} == {
        "a": True,
        "b": True,
    }
    assert collected.reasons() == {
        2: "was said again later, in line 1",
        3: "was said again later, in line 4",
        5: "was said again later, in line 6",
    }


def test_every_line_of_feedback_that_cannot_be_used_says_why(collected):
    log = [
        logged("a", "A", "a"),
        logged("twice", "Q", "x"),
        logged("twice", "Q", "y"),
        {"id": "call", "request": asked("Q"), "response": chat("k", None)},
        logged("bad", "A", "called bad"),
    ]
    unusable = [
        (up("nowhere"), "is about a request that the log has not: 'nowhere'"),
        (up("twice"), "is about an id that stands for two requests: log.jsonl:2 and log.jsonl:3"),
        (up("call"), "is about an answer without text"),
        (
            {"id": "a", "comment": "hm", "rating": None},
            "has neither rating nor correction; fields: id, comment, rating",
        ),
        (
            {"id": "a", "rating": 4},
            "has a number as rating, 4, and up_from and down_to do not say what it means",
        ),
        ({"id": "a", "rating": "meh"}, "has a rating that is not known: 'meh'; up and down are"),
        ({"rating": "up"}, "has no id of a request"),
        (
            {"id": "a", "rating": "down", "correction": "a", "who": "x"},
            "has a correction that is the answer itself",
        ),
        ({"id": "a", "rating": "up", "at": "yesterday"}, "has a time that is none: 'yesterday'"),
        ({"id": "a", "rating": "up", "who": 7}, "has no name as who: 7"),
        ("[1]", "is not a JSON object but a list"),
    ]
    # What is called bad corrects nothing, and says nothing else either.
    last = [
        down("bad", "eve"),
        down("a", "bob", correction="called bad"),
        {"id": "a", "rating": "down", "typo": 1},
    ]
    report = collected(log, [each for each, _ in unusable] + last)
    assert collected.reasons() == {
        **{number: reason for number, (_, reason) in enumerate(unusable, start=1)},
        13: "has a correction that is an answer which is called bad itself",
    }
    raw = {each["line"]: json.loads(each["raw"]) for each in collected.rows("rejected")}
    assert raw[5] == {"id": "a", "rating": 4}
    assert (
        report.metrics["feedback"]
        == 14
        == report.metrics["used_feedback"] + report.metrics["rejected_feedback"]
    )
    assert "Columns of the feedback that nothing reads: typo." in report.findings


def test_numbers_mean_what_the_scale_says(collected):
    log = [logged(f"r{n}", f"Q{n}", "a") for n in range(1, 6)]
    collected(log, [{"id": f"r{n}", "rating": n} for n in range(1, 6)], up_from=4, down_to=2)
    assert [row["label"] for row in collected.rows("unpaired")] == [False, False, True, True]
    assert collected.reasons() == {3: "has a rating that says neither up nor down: 3 is between 2 and 4"}


def test_feedback_may_be_csv_in_which_all_is_text_and_nothing_is_empty(collected, tmp_path):
    (tmp_path / "log").write_text("".join(json.dumps(logged(f"r{n}", f"Q{n}", "a")) + "\n" for n in range(4)))
    table = "id,rating,answer,correction,who,at\nr0,5,0,,ada,2026-11-25\nr1,up,,,,\nr2,,,b,,\nr3,3,,,,\n"
    (tmp_path / "said.csv").write_text(table)
    made = [tmp_path / name for name in OUTPUTS]
    report = collect_feedback(tmp_path / "log", tmp_path / "said.csv", *made, up_from=4, down_to=2)
    assert [row["label"] for row in collected.rows("unpaired")] == [True, True, False, True]
    assert report.metrics["raters"] == 1
    assert list(collected.reasons().values()) == [
        "has a rating that says neither up nor down: 3 is between 2 and 4"
    ]


def test_nothing_that_can_be_used_is_no_success(collected):
    report = collected([logged("a", "A", "a")], [up("b")])
    assert not report.passed and report.findings[0] == "No feedback of 1 could be used."
    with pytest.raises(DataError, match="has no rows"):
        collected([logged("a", "A", "a")], [])
    with pytest.raises(DataError, match="has no rows"):
        collected([], [up("b")])


@pytest.mark.parametrize(
    "settings",
    [
        {"on_conflict": "newest"},
        {"raters": "hidden"},
        {"up_from": 4},
        {"up_from": 2, "down_to": 2},
        {"up_from": True, "down_to": 0},
        {"names": ["same", "same"]},
        {"names": ["one"]},
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(collected, settings):
    with pytest.raises(SettingError):
        collected([logged("a", "A", "a")], [up("a")], **settings)


def stream(id: str, *pieces: str, end: str = "data: [DONE]\n\n") -> str:
    """A stream's text, by OpenAI's own types, with the comment that ours has."""
    events = [
        ChatCompletionChunk.model_validate(
            {
                "id": id,
                "object": "chat.completion.chunk",
                "created": CREATED,
                "model": "helper",
                "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}],
            }
        ).model_dump_json()
        for piece in pieces
    ]
    return "".join(f"data: {event}\n\n" for event in events) + ': usage {"prompt_tokens": 1}\n\n' + end


def test_audit_log_of_a_service_is_read_with_streams_and_what_it_has_cut_off(collected, tmp_path):
    audit = AuditLog(tmp_path / "helper.audit.jsonl")
    base = {"time": "2026-11-25T08:00:00.000+00:00", "method": "POST", "route": "/openai/v1/chat/completions"}
    request = json.dumps(asked("Capital?"))
    for id, more in {
        "whole": {"status": 200, "request": request, "answer": json.dumps(chat("c1", "Pa\u2028ris"))},
        "stream": {"status": 200, "request": request, "answer": stream("c2", "Ly", "on")},
        "cut": {"status": 200, "request": request, "answer": stream("c3", "Ly", end="")},
        "half": {"status": 200, "request": request[:-9], "answer": "{}"},
        "none": {"status": 200},
        "refused": {"status": 429},
    }.items():
        audit.write({**base, "id": id, "revision": "helper-2", **more})
    audit.close()
    lines = (tmp_path / "helper.audit.jsonl").read_text().splitlines()
    report = collected(lines, [up("whole"), down("c2", "bob"), up("cut")])
    (row,) = collected.rows("preferences")
    assert (row["chosen"], row["rejected"]) == (said("Pa\u2028ris"), said("Lyon"))
    assert row["provenance"]["rejected"]["requests"][0]["model_version"] == "helper-2"
    assert collected.reasons("requests") == {
        3: "has a stream that was cut off before its end",
        4: "has a body that is no JSON, perhaps since the log cut it off",
        5: "has no bodies: the audit log has them only with content",
        6: "was not answered: status 429",
    }
    assert (report.metrics["requests"], report.metrics["rejected_requests"]) == (2, 4)


def event(kind: str, id: str, body: Any) -> str:
    attributes = {
        "type": kind,
        "id": id,
        "source": "http://localhost:9081/",
        "time": "2026-11-25T08:00:00Z",
        "inferenceservicename": "helper",
        "endpoint": "canary",
        "datacontenttype": "application/json",
    }
    return to_json(CloudEvent(attributes, body)).decode()


def stored(kind: str, id: str, body: Any) -> dict[str, Any]:
    """As KServe's logger writes to a store: ``LogRequest``, as Go marshals it."""
    coded = base64.b64encode(json.dumps(body).encode()).decode()
    return {
        "Url": None,
        "Bytes": coded,
        "ReqType": kind,
        "Id": id,
        "InferenceService": "helper",
        "Endpoint": "",
        "Metadata": None,
    }


@pytest.mark.parametrize("write", [event, stored])
def test_events_of_kserve_are_joined_by_their_id_in_any_order(collected, write):
    log = [
        write(RESPONSE_EVENT, "e1", chat("c1", "Paris")),
        write(REQUEST_EVENT, "e2", asked("Capital?")),
        write(REQUEST_EVENT, "e1", asked("Capital?")),
        write(RESPONSE_EVENT, "e2", chat("c2", "Lyon")),
        write(REQUEST_EVENT, "alone", asked("Capital?")),
        write(REQUEST_EVENT, "v1", {"instances": [1]}),
        write(RESPONSE_EVENT, "v1", {"predictions": [1]}),
    ]
    collected(log, [up("e1"), down("c2")])
    (row,) = collected.rows("preferences")
    assert (row["chosen"], row["rejected"]) == (said("Paris"), said("Lyon"))
    assert row["provenance"]["chosen"]["requests"][0]["model_version"] == (
        "canary" if write is event else None
    )
    reasons = collected.reasons("requests")
    assert reasons[5] == "has no response"
    assert set(reasons) == {5, 6, 7}


def test_plain_records_and_completions_are_read_and_what_rows_cannot_have_is_refused(collected):
    text = Completion.model_validate(
        {
            "id": "t",
            "object": "text_completion",
            "created": CREATED,
            "model": "helper",
            "choices": [{"index": 0, "text": " world", "finish_reason": "length", "logprobs": None}],
        }
    ).model_dump(mode="json")
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
    log = [
        {"id": 1, "prompt": "Hello", "answer": "you", "model": "m", "model_version": 3},
        {"id": 2, "request": {"prompt": "Hello"}, "response": text},
        {"id": 3, "messages": messages, "answers": ["a", "b"], "tools": [{"type": "function"}]},
        {"id": 4, "messages": picture, "answer": "a"},
        {"id": 5, "messages": [*messages, *said("So")], "answer": "a"},
        {"id": 6, "messages": [{"role": "tool", "content": "x"}], "answer": "a"},
        {"id": 7, "input": "x"},
        {"id": 8, "request": asked("x"), "response": {"error": {"message": "busy"}}},
        {"messages": messages, "answer": "a"},
        {"id": 9, "messages": messages, "answer": "a", "time": "soon"},
    ]
    collected(log, [up("1"), down("2")])
    (row,) = collected.rows("preferences")
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("Hello", "you", " world")
    assert row["provenance"]["chosen"]["requests"][0]["model_version"] == "3"
    assert row["provenance"]["rejected"]["requests"][0]["finish_reason"] == "length"
    assert collected.reasons("requests") == {
        3: "asks with tools, of which no row is made",
        4: "has a message that has a content part of the type 'image_url'; only text is taken (message 1)",
        5: "ends with a message of the assistant, which the answer goes on with",
        6: "has a message with the role 'tool' (message 1), of which no row is made",
        7: "has the form of no log that is known; fields: id, input",
        8: "was answered by an error",
        9: "has no id",
        10: "has a time that is none: 'soon'",
    }


def test_rows_of_chats_and_of_plain_text_do_not_mix(collected):
    log = [logged("a", "A", "a"), logged("b", "B", "b"), {"id": "t", "prompt": "T", "answer": "t"}]
    report = collected(log, [up("a"), up("b"), up("t")])
    assert collected.reasons() == {3: "is about plain text, and most are about chats: no training takes both"}
    assert report.metrics["used_feedback"] == 2


def test_same_files_give_the_same_bytes(collected):
    log = [logged(f"r{n}", f"Q{n % 3}", f"a{n}") for n in range(12)]
    feedback = [up(f"r{n}") if n % 2 else down(f"r{n}", correction=f"c{n}") for n in range(12)]
    collected(log, feedback)
    before = [(collected.directory / name).read_bytes() for name in OUTPUTS]
    collected(log, feedback)
    assert [(collected.directory / name).read_bytes() for name in OUTPUTS] == before


ODD: list[Any] = [None, True, -1, 1.5, 10**30, "", "x", "data: {}", [], ["x"], [None], {}, {"a": 1}, [[1]]]


def other_than(value: Any, chance: random.Random) -> Any:
    """The same with one of its values, however deep, replaced by something that does not belong there."""
    if isinstance(value, dict | list) and value and chance.random() < 0.9:
        key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        made = value.copy()
        made[key] = other_than(value[key], chance)
        return made
    return chance.choice(ODD)


def test_whatever_stands_in_a_line_it_is_used_or_refused(collected):
    chance = random.Random(0)  # noqa: S311 - no secret
    piece = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}
    whole, answer = logged("a", "A", "a", "b"), chat("c", "a")
    log: list[Any] = [logged("a", "A", "a", "b")]
    for number in range(1500):
        odd = f"data: {json.dumps(other_than(piece, chance))}\n\ndata: [DONE]\n\n"
        audit = {"id": f"s{number}", "status": 200, "request": asked("S"), "answer": odd}
        kserve = {
            "reqtype": RESPONSE_EVENT,
            "id": f"k{number}",
            "data": answer,
            "time": "2026-11-25T08:00:00Z",
        }
        asking = {**kserve, "reqtype": REQUEST_EVENT, "data": asked("K")}
        log += [other_than({**whole, "id": f"w{number}"}, chance), audit, other_than(kserve, chance), asking]
    feedback = [up("a", answer=0)]
    said_so = {**up("s1", at="2026-11-25"), "answer": 0, "correction": {"role": "assistant", "content": "c"}}
    feedback += [other_than(said_so, chance) for _ in range(1500)]
    lines = [each if isinstance(each, dict) else [each] for each in log]
    report = collected(lines, [each if isinstance(each, dict) else [each] for each in feedback])
    metrics = report.metrics
    assert metrics["used_feedback"] + metrics["rejected_feedback"] == len(feedback)
    refused = set(collected.reasons("requests"))
    joined = len(lines) - len(refused) - metrics["requests"]  # two lines of KServe's are one request
    assert 0 < joined < 1500 and len(refused) > 1500
