"""Whatever a client sends, in whichever protocol: it is answered or refused in that protocol's form, and others are answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from running_services import Predictor, running_predictor

NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0, 1, -1, 1e-38, 1e-320, 1e308, 0.5, 2, 2**31, 2**63, True]),
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | NUMBERS
    | st.text(max_size=20)
    | st.sampled_from(["nan", "inf", "1", "\x00", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias",
    "min_tokens", "stop", "stop_token_ids", "seed", "n", "ignore_eos", "skip_special_tokens", "add_special_tokens",
    "include_stop_str_in_output", "guided_json", "response_format", "user", "max_tokens",
    "logprobs", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls",
]  # fmt: skip
SETTINGS = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), VALUES, max_size=3)
PROMPTS = st.text(max_size=30) | VALUES
SHORT = {"max_tokens": 2}


def mixed(plain: dict[str, Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Requests that are right but for some fields, and for further ones."""
    changed = st.fixed_dictionaries({}, optional=fields)
    return st.builds(lambda more, change: plain | more | change, SETTINGS, changed)


CHATS = mixed(
    {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], **SHORT},
    messages=st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "tool", "x"]), "content": PROMPTS}
        )
        | VALUES,
        max_size=3,
    ),
    stream=VALUES,
    stream_options=VALUES,
    chat_template_kwargs=VALUES,
    model=VALUES,
)
COMPLETIONS = mixed({"model": "tiny", "prompt": "Hi", **SHORT}, prompt=PROMPTS, stream=VALUES)
V1 = st.fixed_dictionaries(
    {
        "instances": st.lists(
            PROMPTS | st.builds(lambda prompt, more: {"prompt": prompt, **SHORT, **more}, PROMPTS, SETTINGS),
            max_size=3,
        )
        | VALUES
    },
    optional={
        "parameters": st.builds(lambda more: SHORT | more, SETTINGS) | VALUES,
        "signature_name": VALUES,
    },
)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.just("prompt") | VALUES,
        "datatype": st.sampled_from(["BYTES", "FP32", "FP16", "INT64", "BOOL", "x"]) | VALUES,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | VALUES,
        "data": st.lists(PROMPTS, max_size=3) | VALUES,
    },
    optional={"parameters": VALUES},
)
V2 = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=2) | VALUES},
    optional={
        "id": st.text(max_size=10) | VALUES,
        "parameters": st.builds(lambda more: SHORT | more, SETTINGS) | VALUES,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.just("text") | VALUES}), max_size=2) | VALUES,
    },
)
BODIES = st.builds(lambda value: json.dumps(value).encode(), VALUES) | st.binary(max_size=40)
PATHS = {
    "chat": "/openai/v1/chat/completions",
    "completions": "/openai/v1/completions",
    "v1": "/v1/models/tiny:predict",
    "v2": "/v2/models/tiny/infer",
}


@pytest.fixture(scope="module")
def predictor(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    yield from running_predictor(
        tiny_model, tmp_path_factory.mktemp("fuzzed"), "--model_name=tiny", "--max_model_len=64"
    )


def check(predictor: Predictor, protocol: str, body: bytes) -> None:
    got = predictor.client.post(PATHS[protocol], content=body)
    if got.status_code == 200:
        if got.headers["content-type"].startswith("text/event-stream"):
            assert got.text.endswith("data: [DONE]\n\n"), got.text
        else:
            assert isinstance(got.json(), dict)
        return
    assert got.status_code in (400, 404, 413, 429), got.text
    error = got.json()["error"]
    text = error["message"] if protocol in ("chat", "completions") else error
    assert isinstance(text, str)
    assert 0 < len(text) <= 1100


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


@given(body=CHATS)
@example(
    body={"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "temperature": 1e-38, **SHORT}
)
@example(body={"model": "m" * 100_000, "messages": [{"role": "user", "content": "Hi"}]})
@example(
    body={
        "model": "tiny",
        "messages": [{"role": "user", "content": "Hi"}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": float("inf")}},
        },
        **SHORT,
    }
)
def test_any_chat_is_answered_or_refused(predictor: Predictor, body: Any) -> None:
    check(predictor, "chat", written(body))


@given(body=COMPLETIONS)
@example(body={"model": "tiny", "prompt": "Hi", "top_p": 1e-320, **SHORT})
@example(body={"model": "tiny", "prompt": "Hi", "x" * 100_000: 1})
def test_any_completion_is_answered_or_refused(predictor: Predictor, body: Any) -> None:
    check(predictor, "completions", written(body))


@given(body=V1)
@example(body={"instances": ["a"], "x" * 100_000: 1})
def test_any_v1_request_is_answered_or_refused(predictor: Predictor, body: Any) -> None:
    check(predictor, "v1", written(body))


@given(body=V2)
@example(body={"inputs": [{"name": "p", "datatype": "BYTES", "shape": [2], "data": ["a"]}]})
@example(body={"inputs": [{"name": "p", "datatype": "BYTES", "shape": [1], "data": [1]}]})
@example(body={"inputs": [{"name": "p", "datatype": "BYTES", "shape": [10**9] * 9, "data": ["a"]}]})
@example(body={"inputs": [{"name": "p" * 100_000, "datatype": "FP32", "shape": [1], "data": [1]}]})
def test_any_v2_request_is_answered_or_refused(predictor: Predictor, body: Any) -> None:
    check(predictor, "v2", written(body))


@given(protocol=st.sampled_from(sorted(PATHS)), body=BODIES)
@example(protocol="v2", body=b"[" * 200_000)
@example(protocol="v1", body=b"[" * 200_000)
@example(protocol="chat", body=b"[" * 200_000)
@example(protocol="v1", body=b'{"instances": ' * 2000)
@example(protocol="v2", body=b"\xff\xfe")
def test_any_bytes_are_answered_or_refused(predictor: Predictor, protocol: str, body: bytes) -> None:
    check(predictor, protocol, body)


def test_the_predictor_is_well_after_all_that(predictor: Predictor) -> None:
    assert predictor.chat().status_code == 200
    log = (predictor.state_file.parent / "log.txt").read_text()
    assert "Traceback" not in log
    assert max(map(len, log.splitlines())) < 1200
