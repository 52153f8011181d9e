"""One predictor process over HTTP: KServe's protocols, OpenAI's, limits and shutdown."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from llmops_components.serving.http.asking import ask
from openai.types import Completion
from openai.types.chat import ChatCompletion
from running_services import QUESTION, Predictor, running_predictor


@pytest.fixture(scope="module")
def predictor(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    directory = tmp_path_factory.mktemp("predictor")
    yield from running_predictor(
        tiny_model, directory, "--model_name=tiny", "--max_num_seqs=4", "--max_queue_length=3"
    )


def test_listens_on_loopback_only(predictor: Predictor) -> None:
    port = predictor.url.rpartition(":")[2]
    listening = Path("/proc/net/tcp").read_text().splitlines()
    addresses = [
        line.split()[1]
        for line in listening
        if line.split()[3] == "0A" and int(port) == int(line.split()[1][-4:], 16)
    ]
    assert addresses == [f"0100007F:{int(port):04X}"]


def test_readiness_health_and_metadata(predictor: Predictor) -> None:
    assert predictor.client.get("/v2/health/ready").json() == {"ready": True}
    assert predictor.client.get("/v2/health/live").json() == {"live": True}
    assert predictor.client.get("/v1/models").json() == {"models": ["tiny"]}
    assert predictor.client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}


def test_chat_completion_has_openai_schema(predictor: Predictor) -> None:
    body = predictor.chat().json()

    assert ChatCompletion.model_validate(body).object == "chat.completion"
    assert body["model"] == "tiny"
    assert body["usage"]["completion_tokens"] == 8
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 8
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["message"]["role"] == "assistant"


def test_openai_client_streams_the_same_text_as_it_gets_at_once(predictor: Predictor) -> None:
    client = openai.OpenAI(base_url=f"{predictor.url}/openai/v1", api_key="none", max_retries=0)
    asked = {"model": "tiny", "messages": QUESTION, "max_tokens": 20, "temperature": 0}

    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )

    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
        == whole.choices[0].message.content
    )
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + [
        "length"
    ]
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_stream_ends_with_done(predictor: Predictor) -> None:
    lines = [line for line in predictor.chat(stream=True).text.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"


def test_completions_take_several_prompts(predictor: Predictor) -> None:
    body = {"model": "tiny", "prompt": ["The sky", "The sun"], "max_tokens": 6, "temperature": 0}
    got = Completion.model_validate(predictor.client.post("/openai/v1/completions", json=body).json())
    alone = [
        predictor.client.post("/openai/v1/completions", json=body | {"prompt": prompt}).json()["choices"][0][
            "text"
        ]
        for prompt in body["prompt"]
    ]

    assert [(choice.index, choice.text, choice.finish_reason) for choice in got.choices] == [
        (0, alone[0], "length"),
        (1, alone[1], "length"),
    ]


def test_v1_and_v2_protocols_give_the_text_of_completions(predictor: Predictor) -> None:
    body = {"model": "tiny", "prompt": "The sky", "max_tokens": 6, "temperature": 0}
    expected = predictor.client.post("/openai/v1/completions", json=body).json()["choices"][0]["text"]

    instances = {"instances": [{"prompt": "The sky", "max_tokens": 6}, "The sun"]}
    v1 = predictor.client.post("/v1/models/tiny:predict", json=instances).json()
    tensor = {"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["The sky"]}
    request = {"id": "7", "inputs": [tensor], "parameters": {"max_tokens": 6}}
    v2 = predictor.client.post("/v2/models/tiny/infer", json=request).json()

    assert v1["predictions"][0] == expected
    assert len(v1["predictions"]) == 2
    assert (v2["id"], v2["model_name"]) == ("7", "tiny")
    assert v2["outputs"] == [
        v2["outputs"][0] | {"name": "text", "shape": [1], "datatype": "BYTES", "data": [expected]}
    ]


@pytest.mark.parametrize(
    ("change", "status", "param", "code", "message"),
    [
        ({"n": 0}, 400, "n", None, "n: Input should be greater than or equal to 1"),
        (
            {"guided_json": {}},
            400,
            "guided_json",
            "unsupported_value",
            "guided_json={} is not supported by this server.",
        ),
        (
            {"top_logprobs": -1, "logprobs": True},
            400,
            "top_logprobs",
            None,
            "top_logprobs: Input should be greater than or equal to 0",
        ),
        (
            {"temperature": 3},
            400,
            "temperature",
            None,
            "temperature: Input should be less than or equal to 2",
        ),
        (
            {"max_tokens": 0},
            400,
            "max_tokens",
            None,
            "max_tokens: Input should be greater than or equal to 1",
        ),
        (
            {"stop": ["a"] * 5},
            400,
            "stop",
            None,
            "stop: takes a string or up to 4 strings, none of them empty",
        ),
        (
            {"messages": []},
            400,
            "messages",
            None,
            "messages: List should have at least 1 item after validation, not 0",
        ),
        (
            {"model": "x"},
            404,
            "model",
            "model_not_found",
            "The model 'x' does not exist; this server has 'tiny'.",
        ),
    ],
)
def test_bad_requests_are_refused_in_openai_form(
    predictor: Predictor, change: dict[str, object], status: int, param: str, code: str | None, message: str
) -> None:
    got = predictor.chat(**change)
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    assert (got.status_code, got.json()) == (status, {"error": error})


def test_fields_that_ask_for_nothing_are_taken_and_unknown_ones_refused(predictor: Predictor) -> None:
    assert predictor.chat(user="me", n=1, tools=[]).json()["choices"] == predictor.chat().json()["choices"]
    assert predictor.chat(something_new=1).json()["error"] == {
        "message": "Unknown parameter: 'something_new'.",
        "type": "invalid_request_error",
        "param": "something_new",
        "code": "unknown_parameter",
    }


def test_every_answer_of_n_is_a_choice_and_the_prompt_counts_once(predictor: Predictor) -> None:
    client = openai.OpenAI(base_url=f"{predictor.url}/openai/v1", api_key="none", max_retries=0)
    asked = {"model": "tiny", "messages": QUESTION, "max_tokens": 8, "seed": 3, "temperature": 1.5, "n": 2}

    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))

    texts = [choice.message.content for choice in whole.choices]
    streamed = ["", ""]
    for chunk in chunks:
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts
    alone = client.chat.completions.create(**asked | {"n": 1, "seed": 4})
    assert alone.choices[0].message.content == texts[1]
    assert alone.usage and whole.usage
    assert whole.usage.prompt_tokens == alone.usage.prompt_tokens


def test_log_probabilities_stream_as_they_come_at_once_for_every_choice(predictor: Predictor) -> None:
    client = openai.OpenAI(base_url=f"{predictor.url}/openai/v1", api_key="none", max_retries=0)
    more = {"model": "tiny", "max_tokens": 8, "seed": 3, "temperature": 1.5, "n": 2}
    asked = {**more, "messages": QUESTION, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked)
    streamed: list[list[Any]] = [[], []]
    for chunk in client.chat.completions.create(**asked, stream=True):
        (choice,) = chunk.choices
        streamed[choice.index] += (choice.logprobs and choice.logprobs.content) or []
    assert streamed == [choice.logprobs.content for choice in whole.choices if choice.logprobs]
    assert [len(each) for each in streamed] == [8, 8]
    assert {len(token.top_logprobs) for each in streamed for token in each} == {2}

    text = client.completions.create(**more, prompt="The sky", logprobs=2)
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    parts: list[dict[str, list[Any]]] = [{name: [] for name in names} for _ in range(2)]
    for event in client.completions.create(**more, prompt="The sky", logprobs=2, stream=True):
        if found := event.choices[0].logprobs:
            for name in names:
                parts[event.choices[0].index][name] += getattr(found, name)
    assert parts == [choice.logprobs.model_dump() for choice in text.choices if choice.logprobs]
    assert parts[0]["text_offset"][0] == 0


@pytest.fixture(scope="module")
def base_predictor(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    """A model without a chat template, with a slash in its name and little room."""
    model = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("base") / "model"))
    (model / "chat_template.jinja").unlink()
    directory = tmp_path_factory.mktemp("base-predictor")
    yield from running_predictor(model, directory, "--model_name=org/base", "--max_model_len=64")


def test_a_name_with_a_slash_is_found_in_every_protocol(base_predictor: Predictor) -> None:
    client = openai.OpenAI(base_url=f"{base_predictor.url}/openai/v1", api_key="none", max_retries=0)
    assert client.models.retrieve("org/base").id == "org/base"
    with pytest.raises(openai.NotFoundError, match="The model 'org/other' does not exist"):
        client.models.retrieve("org/other")
    text = (
        client.completions.create(model="org/base", prompt="The sky", max_tokens=6, temperature=0)
        .choices[0]
        .text
    )

    http = base_predictor.client
    tensor = {"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["The sky"]}
    v2 = {"inputs": [tensor], "parameters": {"max_tokens": 6}}
    for name in ("org/base", "org%2Fbase"):
        v1 = {"instances": ["The sky"], "parameters": {"max_tokens": 6}}
        assert http.post(f"/v1/models/{name}:predict", json=v1).json() == {"predictions": [text]}
        assert http.post(f"/v2/models/{name}/infer", json=v2).json()["outputs"][0]["data"] == [text]
        assert http.get(f"/v1/models/{name}").json() == {"name": "org/base", "ready": True}
        assert http.get(f"/v2/models/{name}/ready").json() == {"name": "org/base", "ready": True}
        assert http.get(f"/v2/models/{name}").json()["name"] == "org/base"


def test_a_base_model_completes_prompts_of_text_and_tokens(base_predictor: Predictor) -> None:
    client = openai.OpenAI(base_url=f"{base_predictor.url}/openai/v1", api_key="none", max_retries=0)
    asked = {"model": "org/base", "max_tokens": 4, "temperature": 0}
    with pytest.raises(openai.BadRequestError, match="no chat template, as base models have none") as refused:
        client.chat.completions.create(**asked, messages=QUESTION)
    assert refused.value.code == "no_chat_template"

    several = client.completions.create(**asked, prompt=[[30, 41, 52], [63]], n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    alone = [
        client.completions.create(**asked, prompt=prompt).choices[0].text for prompt in ([30, 41, 52], [63])
    ]
    assert [choice.text for choice in several.choices] == [alone[0]] * 2 + [alone[1]] * 2
    with pytest.raises(
        openai.BadRequestError, match="prompt has the token id 383; this model's are 0 to 382"
    ):
        client.completions.create(**asked, prompt=[383])


def test_defaults_fit_into_a_short_context(base_predictor: Predictor) -> None:
    long = {"instances": ["a " * 15]}
    got = base_predictor.client.post("/v1/models/org/base:predict", json=long)
    assert (got.status_code, len(got.json()["predictions"])) == (200, 1)
    answer = ask(f"{base_predictor.url}/openai/v1", "org/base", "What does a Python function return?")
    assert answer.strip()


def test_v2_needs_no_id_and_answers_with_the_one_that_it_gets(predictor: Predictor) -> None:
    tensor = {"name": "prompt", "datatype": "BYTES", "shape": [1, 2], "data": [["The sky", "The sun"]]}
    asked = {"inputs": [tensor], "parameters": {"max_tokens": 3}}
    plain = predictor.client.post("/v2/models/tiny/infer", json=asked).json()
    named = predictor.client.post("/v2/models/tiny/infer", json=asked | {"id": "7"}).json()
    null = predictor.client.post(
        "/v2/models/tiny/infer", json=asked | {"id": None, "outputs": [{"name": "text"}]}
    )
    assert (named["id"], null.status_code) == ("7", 200)
    assert len({plain["id"], named["id"], null.json()["id"]}) == 3
    assert plain["outputs"] == named["outputs"] == null.json()["outputs"]
    assert plain["outputs"][0]["shape"] == [1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 7}, "id: Input should be a valid string"),
        ({"outputs": [{"name": "logits"}]}, "outputs has 'logits'; this model's only output is 'text'."),
        ({"inputs": []}, "Expected one input tensor of datatype BYTES that holds prompts."),
        (
            {"inputs": [{"name": "p", "datatype": "BYTES", "shape": [2], "data": ["a"]}]},
            "inputs[0].shape [2] does not fit its 1 prompts.",
        ),
        (
            {"inputs": [{"name": "p", "datatype": "BYTES", "shape": [1], "data": [5]}]},
            "inputs[0].data must hold one text for each prompt, not 5.",
        ),
        ({"inputs": [{"name": "p", "datatype": "BYTES", "data": ["a"]}]}, "inputs[0].shape: Field required"),
    ],
)
def test_v2_requests_that_do_not_fit_are_refused_by_the_field(
    predictor: Predictor, change: dict[str, Any], message: str
) -> None:
    tensor = {"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    got = predictor.client.post("/v2/models/tiny/infer", json={"inputs": [tensor]} | change)
    assert (got.status_code, got.json()) == (400, {"error": message})


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/v2/repository/models/tiny/unload", {}, 404),
        ("POST", "/v2/repository/models/tiny/load", {}, 404),
        ("GET", "/openapi.json", {}, 404),
        ("POST", "/v1/models/tiny:explain", {}, 405),
        ("GET", "/v1/models", {"Host": "attacker.example"}, 421),
        ("GET", "/v1/models", {"Origin": "https://attacker.example"}, 403),
        ("POST", "/v1/models/tiny:predict", {"Content-Type": "text/plain"}, 415),
        ("GET", "/metrics", {"Host": "localhost"}, 200),
    ],
)
def test_the_predictor_has_the_door_of_the_gateway_and_metrics(
    predictor: Predictor, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    assert predictor.client.request(method, path, headers=headers).status_code == status
    assert predictor.client.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"instances": ["a"], "parameters": {"guided_json": {}}},
            "parameters.guided_json={} is not supported",
        ),
        ({"instances": ["a"], "parameters": {"top_q": 1}}, "Unknown parameter: 'parameters.top_q'."),
        (
            {"instances": ["a"], "parameters": {"n": 2}},
            "parameters.n=2: this protocol has one answer for a prompt.",
        ),
        ({"instances": ["a"], "signature_name": "x"}, "Unknown field 'signature_name' beside instances."),
        (
            {"instances": [{"prompt": "a", "temperature": "hot"}]},
            "instances[0].temperature: Input should be a valid",
        ),
        (
            {"instances": ["a"], "parameters": {"temperature": "nan"}},
            "parameters.temperature: Input should be",
        ),
        (
            {"instances": [{"prompt": "a", "stop": [1]}]},
            "instances[0].stop: takes a string or up to 4 strings",
        ),
    ],
)
def test_v1_and_v2_refuse_what_they_cannot_do(
    predictor: Predictor, body: dict[str, Any], message: str
) -> None:
    got = predictor.client.post("/v1/models/tiny:predict", json=body)
    assert got.status_code == 400
    assert message in got.json()["error"]
    if set(body) == {"instances", "parameters"} and "guided_json" not in body["parameters"]:
        tensor = {"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["a"]}
        asked = {"inputs": [tensor], "parameters": body["parameters"]}
        got = predictor.client.post("/v2/models/tiny/infer", json=asked)
        assert got.status_code == 400
        assert message in got.json()["error"]


def test_settings_mean_the_same_in_every_protocol(predictor: Predictor) -> None:
    settings = {"max_tokens": 6, "temperature": 1.2, "seed": 5, "top_k": 9, "repetition_penalty": 1.2}
    body = {"model": "tiny", "prompt": "The sky", **settings}
    expected = predictor.client.post("/openai/v1/completions", json=body).json()["choices"][0]["text"]
    v1 = {"instances": [{"prompt": "The sky", "max_tokens": 6}], "parameters": settings | {"max_tokens": 3}}
    assert predictor.client.post("/v1/models/tiny:predict", json=v1).json() == {"predictions": [expected]}
    tensor = {"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["The sky"]}
    v2 = predictor.client.post(
        "/v2/models/tiny/infer", json={"inputs": [tensor], "parameters": settings}
    ).json()
    assert v2["outputs"][0]["data"] == [expected]


def test_a_body_that_is_not_json_is_a_400(predictor: Predictor) -> None:
    got = predictor.client.post("/openai/v1/chat/completions", content=b'{"model": ')
    assert (got.status_code, got.json()["error"]["type"]) == (400, "invalid_request_error")


def test_context_overflow_names_the_numbers(predictor: Predictor) -> None:
    got = predictor.chat(max_tokens=600)
    assert (got.status_code, got.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert got.json()["error"]["message"].startswith(
        "This model's context is 512 tokens; the request needs 6"
    )
    v1 = predictor.client.post(
        "/v1/models/tiny:predict", json={"instances": [{"prompt": "a", "max_tokens": 600}]}
    )
    assert v1.status_code == 400
    assert v1.json()["error"].startswith("This model's context is 512 tokens")


@pytest.mark.parametrize("declared", [True, False])
def test_a_large_body_is_refused(predictor: Predictor, declared: bool) -> None:
    body = b"x" * ((1 << 20) + 1)
    got = predictor.client.post("/openai/v1/completions", content=body if declared else iter([body]))
    assert (got.status_code, got.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        ([], "Expected"),
        ([5], "instances[0] is neither"),
        ([{"prompt": "a", "max_token": 3}], "Did you mean 'max_tokens'?"),
        ([{"prompt": "a", "top_p": 0}], "instances[0].top_p: Input should be greater than 0"),
    ],
)
def test_bad_v1_requests_are_refused(predictor: Predictor, instances: list[object], message: str) -> None:
    got = predictor.client.post("/v1/models/tiny:predict", json={"instances": instances})
    assert got.status_code == 400
    assert message in got.json()["error"]


def test_more_requests_than_fit_get_429_and_the_others_their_answer(predictor: Predictor) -> None:
    before = predictor.metric('llmops_requests_total{code="429"}')
    with ThreadPoolExecutor(24) as pool:
        got = list(pool.map(lambda _: predictor.chat(max_tokens=300), range(24)))

    refused = [answer for answer in got if answer.status_code == 429]
    assert predictor.metric('llmops_requests_total{code="429"}') == before + len(refused)
    assert {answer.status_code for answer in got} == {200, 429}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert {answer.json()["error"]["type"] for answer in refused} == {"rate_limit_error"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/openai/v1/chat/completions", {"model": "tiny", "messages": QUESTION, "stream": True}),
        ("/openai/v1/chat/completions", {"model": "tiny", "messages": QUESTION}),
        ("/v1/models/tiny:predict", {"instances": ["Hello"]}),
        (
            "/v2/models/tiny/infer",
            {"inputs": [{"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["Hello"]}]},
        ),
    ],
)
def test_a_client_that_goes_away_frees_its_place(
    predictor: Predictor, path: str, body: dict[str, Any]
) -> None:
    before = predictor.metric("llmops_generated_tokens_total")
    settings = {"max_tokens": 480, "temperature": 0}
    body = body | (settings if path.startswith("/openai") else {"parameters": settings})
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    deadline = time.monotonic() + 20
    with socket.create_connection(("127.0.0.1", urlsplit(predictor.url).port or 0)) as client:
        client.sendall(head.encode() + data)
        while predictor.metric("llmops_running_prompts") == 0:
            assert time.monotonic() < deadline
    while predictor.metric("llmops_running_prompts") == 1:
        assert time.monotonic() < deadline
    assert predictor.metric("llmops_generated_tokens_total") - before < 480


def test_metrics_of_the_batcher_are_exported(predictor: Predictor) -> None:
    predictor.chat()
    assert predictor.metric("llmops_queue_length") == 0
    assert predictor.metric("llmops_time_to_first_token_seconds_count") >= 1
    assert predictor.metric("llmops_batch_size_count") >= 8


def test_the_metrics_and_the_log_tell_what_computes_and_why(predictor: Predictor) -> None:
    lines = predictor.client.get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith("llmops_engine_info{")]
    assert re.fullmatch(r'.*\{dtype="float32",engine="(openvino|torch)",why="[^"]{10,}"\} 1.0', line)
    log = (predictor.state_file.parent / "log.txt").read_text()
    said = r" INFO LlamaForCausalLM \(model type llama\) is answered by (OpenVINO|torch) in float32: .{10,}\."
    assert len(re.findall(said, log)) == 1


def test_answers_and_errors_are_exported_from_the_first_on(predictor: Predictor) -> None:
    def exported() -> dict[str, float]:
        codes = ("200", "429", "500", "503", "504", "cut_off")
        found = {code: predictor.metric(f'llmops_requests_total{{code="{code}"}}') for code in codes}
        return found | {"answers": predictor.metric("llmops_request_duration_seconds_count")}

    before = exported()
    whole = predictor.chat(stream=False)
    streamed = predictor.chat(stream=True)
    missing = predictor.chat(model="none")
    many = predictor.client.post("/v1/models/tiny:predict", json={"instances": ["a"] * 1000})
    ready = predictor.client.get("/v2/health/ready")
    assert [each.status_code for each in (whole, streamed, missing, many, ready)] == [200, 200, 404, 400, 200]
    long = {"instances": ["Hello"], "parameters": {"max_tokens": 480}}
    with pytest.raises(httpx.ReadTimeout):
        predictor.client.post("/v1/models/tiny:predict", json=long, timeout=0.05)
    while predictor.metric("llmops_running_prompts"):
        time.sleep(0.02)
    assert exported() == before | {"200": before["200"] + 2, "answers": before["answers"] + 2}
    assert 0 < time.time() - predictor.metric("process_start_time_seconds") < 3600


def test_sigterm_finishes_running_requests_then_exits(predictor: Predictor) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(predictor.chat, max_tokens=400, stream=False)
        deadline = time.monotonic() + 10
        while predictor.metric("llmops_running_prompts") == 0 and not running.done():
            assert time.monotonic() < deadline
        os.kill(predictor.process.pid, signal.SIGTERM)
        assert running.result().json()["usage"]["completion_tokens"] == 400
    assert predictor.process.wait(timeout=15) == 0
    assert json.loads(predictor.state_file.read_text()) == {"state": "STOPPED"}
    with pytest.raises(httpx.ConnectError):
        httpx.get(predictor.url)
