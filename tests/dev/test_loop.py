"""What the demo asks and says, when it plays the users of the model that it has served."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import _loop
import httpx
import pytest
from _airflow_api import StackError

CHAT = [{"role": "user", "content": "What is it?"}]
ROWS = [
    {"prompt": CHAT, "completion": [{"role": "assistant", "content": "A list."}]},
    {"prompt": "Plain?", "completion": "Yes."},
    {"text": "No question at all."},
]


def answered(text: str, number: int = 0) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": f"q{number}", "response": {"id": "chatcmpl-1", "choices": [choice]}}


def test_questions_are_prompts_with_their_answers_from_the_whole_file() -> None:
    assert _loop.questions_of(ROWS, "completion") == [(CHAT, "A list."), ("Plain?", "Yes.")]
    many = [{"prompt": str(n), "chosen": "x"} for n in range(10 * _loop.QUESTIONS)]
    asked = [prompt for prompt, _ in _loop.questions_of(many, "chosen")]
    assert asked == [str(n) for n in range(0, 10 * _loop.QUESTIONS, 10)]


def test_right_answers_are_rated_and_others_corrected() -> None:
    right, wrong = (_loop.feedback_on(answered(text), "A list.") for text in (" A list.\n", "A tuple."))
    assert (right["rating"], "correction" in right) == ("up", False)
    assert (wrong["id"], wrong["rating"], wrong["correction"]) == ("q0", "down", "A list.")


def test_log_has_both_bodies_and_the_revision_in_the_order_of_the_questions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == "Bearer key"
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"data": [{"id": "helper"}]})
        asked = json.loads(request.content)
        body = answered(f"to {asked['messages'][-1]['content']}")["response"]
        return httpx.Response(200, json=body, headers={"x-llmops-revision": "00002"})

    client = httpx.Client
    monkeypatch.setattr(
        _loop.httpx, "Client", lambda **options: client(transport=httpx.MockTransport(serve), **options)
    )
    log = _loop.ask_all("http://127.0.0.1:1", "key", [f"question {n}" for n in range(20)])
    assert [each["id"] for each in log] == [f"q{n}" for n in range(20)]
    assert {each["revision"] for each in log} == {"00002"}
    assert log[7]["request"]["messages"] == [{"role": "user", "content": "question 7"}]
    assert log[7]["response"]["choices"][0]["message"]["content"] == "to question 7"


def test_a_question_that_is_refused_is_told_with_the_words_of_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"data": [{"id": "helper"}]})
        return httpx.Response(400, json={"detail": "The prompt has 600 tokens."})

    client = httpx.Client
    monkeypatch.setattr(
        _loop.httpx, "Client", lambda **options: client(transport=httpx.MockTransport(serve), **options)
    )
    with pytest.raises(StackError, match=r"^Question 0 was refused with status 400: .*600 tokens"):
        _loop.ask_all("http://127.0.0.1:1", None, ["long"])


def test_a_run_that_served_nothing_or_has_no_questions_is_named() -> None:
    api = SimpleNamespace(xcom=lambda *_, **__: None)
    stack: Any = SimpleNamespace(api=lambda: api)
    with pytest.raises(StackError, match=r"^There is nothing to ask: "):
        _loop.learn_from_use(stack, SimpleNamespace(dag_run_id="run", endpoint=None), {})


def test_drift_is_told_with_its_verdict_and_the_effect_of_each_check() -> None:
    monitored = {
        "metrics": {"length_prompt": 0.094, "classifier": 0.41},
        "details": {
            "outcome": "fail",
            "checks": {"length_prompt": "pass", "classifier": "fail", "embedding": "undecided"},
            "rows": {"reference": 320, "new": 64},
        },
    }
    assert _loop.drift_lines(monitored) == [
        "fail; 64 rows against 320 of the training data",
        "effects from 0 to 1: length_prompt 0.09 pass, classifier 0.41 fail, embedding undecided",
    ]
    assert _loop.drift_lines({}) == ["not compared: the first run was trained with rows of another kind"]
