"""Batch inference against servers of others: KServe's own, and our predictor in front of a real model."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kserve_echo
import pytest
from llmops_components.data.files import write_rows
from llmops_components.errors import SettingError
from llmops_components.inference.batch import batch_inference
from running_services import START_SECONDS, running_predictor

MAX_TOKENS = 8
QUESTIONS = [
    f"What colour is the {thing}?" for thing in ("sky", "sun", "coal", "plum", "grass", "apple", "snow")
]


def ask(directory: Path, rows: list[dict[str, Any]], **settings: Any) -> tuple[Any, list[dict], list[dict]]:
    write_rows(directory / "rows.jsonl", rows)
    answers, rejected = directory / "answers.jsonl", directory / "rejected.jsonl"
    report = batch_inference(directory / "rows.jsonl", answers, rejected, **settings)
    return report, *(
        [json.loads(line) for line in each.read_text().splitlines()] for each in (answers, rejected)
    )


@pytest.fixture(scope="module")
def predictor(talkative_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for found in running_predictor(
        talkative_model, tmp_path_factory.mktemp("predictor"), "--model_name=org/tiny"
    ):
        yield found.url


@pytest.fixture(scope="module")
def generated(talkative_model: Path) -> dict[str, list[str]]:
    """What the library itself answers, greedily: to the questions as text, and as a user's message."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(talkative_model)
    tokenizer = AutoTokenizer.from_pretrained(talkative_model)

    def answer(text: str) -> str:
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        out = model.generate(**ids, max_new_tokens=MAX_TOKENS, do_sample=False)
        return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)

    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": each}], tokenize=False, add_generation_prompt=True
        )
        for each in QUESTIONS
    ]
    return {"text": [answer(each) for each in QUESTIONS], "chat": [answer(each) for each in chats]}


@pytest.mark.parametrize("protocol", ["openai_chat", "openai_completions", "openai", "v1", "v2"])
def test_answers_are_those_of_generate_in_every_protocol(protocol, predictor, generated, tmp_path):
    settings = {"request": {"max_tokens": MAX_TOKENS, "temperature": 0}, "model_name": "org/tiny"}
    rows = [{"prompt": each} for each in QUESTIONS]
    report, answers, rejected = ask(
        tmp_path, rows, url=predictor, protocol=protocol, concurrency=3, **settings
    )
    assert [row["answer"] for row in answers] == generated["chat" if protocol == "openai_chat" else "text"]
    assert report.passed and not rejected
    if protocol.startswith("openai"):
        assert report.metrics["completion_tokens"] == sum(
            row["response"]["completion_tokens"] for row in answers
        )


def test_each_row_is_asked_as_it_stands(predictor, generated, tmp_path):
    rows = [{"prompt": each} for each in QUESTIONS]
    rows += [{"prompt": [{"role": "user", "content": each}]} for each in QUESTIONS]
    settings = {"request": {"max_tokens": MAX_TOKENS, "temperature": 0}, "model_name": "org/tiny"}
    report, answers, rejected = ask(tmp_path, rows, url=predictor, protocol="openai", **settings)
    assert [row["answer"] for row in answers] == generated["text"] + generated["chat"]
    assert report.passed and not rejected


@pytest.mark.parametrize("taken", ["prompt", "messages"])
def test_settings_of_either_way_are_not_for_the_request(predictor, tmp_path, taken):
    with pytest.raises(SettingError, match=f"request has '{taken}', which is set for each row"):
        ask(
            tmp_path,
            [{"prompt": "Hi"}],
            url=predictor,
            model_name="m",
            protocol="openai",
            request={taken: ["Hi"]},
        )


def test_conversations_are_asked_as_chats_and_one_row_that_does_not_fit_harms_no_other(
    predictor, generated, tmp_path
):
    rows = [{"messages": [{"role": "user", "content": each}]} for each in QUESTIONS]
    rows.insert(2, {"prompt": "word " * 3000})
    report, answers, rejected = ask(
        tmp_path,
        rows,
        url=f"{predictor}/openai/v1/",
        model_name="org/tiny",
        request={"max_tokens": MAX_TOKENS, "temperature": 0},
        min_answered=0.8,
    )
    assert [row["answer"] for row in answers] == generated["chat"]
    assert report.passed
    ((line, status, reason),) = [(row["line"], row["status"], row["reasons"][0]) for row in rejected]
    assert (line, status) == (3, 400)
    assert "512 tokens" in reason


def test_a_setting_that_the_server_does_not_know_is_told_in_its_words(predictor, tmp_path):
    report, answers, rejected = ask(
        tmp_path, [{"prompt": "Hi"}], url=predictor, model_name="org/tiny", request={"max_tokenz": 3}
    )
    assert not answers and not report.passed
    assert rejected[0]["reasons"] == ["HTTP 400: Unknown parameter: 'max_tokenz'. Did you mean 'max_tokens'?"]


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    log = tmp_path_factory.mktemp("echo") / "log.txt"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, kserve_echo.__file__, str(port)], stdout=out, stderr=out)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                break
        except httpx.HTTPError:
            pass
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    yield url
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("settings", "answers"),
    [
        (
            {"protocol": "v1", "model_name": "echo", "request": {"a": 1}},
            [["hi", {"a": 1}], ["there", {"a": 1}]],
        ),
        ({"protocol": "v1", "model_name": "echo"}, [["hi", None], ["there", None]]),
        ({"protocol": "v2", "model_name": "echo", "request": {"a": 1}}, ["hi {'a': 1}", "there {'a': 1}"]),
        (
            {"protocol": "v2", "model_name": "two"},
            [{"text": "hi {}", "length": 2}, {"text": "there {}", "length": 5}],
        ),
    ],
)
def test_what_models_of_kserves_own_server_predict_is_the_answer(echo, tmp_path, settings, answers):
    _, found, rejected = ask(tmp_path, [{"prompt": "hi"}, {"prompt": "there"}], url=echo, **settings)
    assert [row["answer"] for row in found] == answers
    assert rejected == []


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_what_kserves_own_server_refuses_is_listed_with_its_reason(echo, tmp_path, protocol, monkeypatch):
    rows = [{"prompt": each} for each in ("hi", "unfit", "boom")]
    limits = {"attempts": 2}
    _, found, rejected = ask(tmp_path, rows, url=echo, protocol=protocol, model_name="echo", limits=limits)
    assert [row["prompt"] for row in found] == ["hi"]
    assert [(row["status"], row["attempts"]) for row in rejected] == [(400, 1), (500, 2)]
    assert "this text is unfit" in rejected[0]["reasons"][0]
    assert "a bug of the model's" in rejected[1]["reasons"][0]


def test_a_model_that_is_not_there_is_named(echo, tmp_path):
    _, _, rejected = ask(tmp_path, [{"prompt": "hi"}], url=echo, protocol="v1", model_name="nobody")
    assert rejected[0]["status"] == 404
    assert "nobody" in rejected[0]["reasons"][0]
