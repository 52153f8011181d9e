"""OpenAI's client asks a predictor for answers of a required form and for calls of tools."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pydantic
import pytest
from chat_templates import chat_template
from running_services import QUESTION, Predictor, running_predictor


@pytest.fixture(scope="module")
def predictor(talkative_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    """A model whose template knows tools, and takes as many tokens for a sentence as it has bytes."""
    model = Path(shutil.copytree(talkative_model, tmp_path_factory.mktemp("qwen") / "model"))
    (model / "chat_template.jinja").write_text(chat_template("qwen2_5"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    yield from running_predictor(model, tmp_path_factory.mktemp("structured"), "--model_name=tiny")


@pytest.fixture
def client(predictor: Predictor) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{predictor.url}/openai/v1", api_key="none", max_retries=0)


class Colour(pydantic.BaseModel, extra="forbid"):
    colour: Literal["red", "blue"]
    is_sure: bool


TOOLS: list[Any] = [
    openai.pydantic_function_tool(Colour, name="paint"),
    {
        "type": "function",
        "function": {
            "name": "mix",
            "parameters": {
                "type": "object",
                "properties": {"all": {"$ref": "#/$defs/list"}},
                "required": ["all"],
                "additionalProperties": False,
                "$defs": {
                    "list": {
                        "type": "array",
                        "items": {"enum": ["red", "blue"]},
                        "minItems": 1,
                        "maxItems": 2,
                    }
                },
            },
        },
    },
]
ASKED: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "max_completion_tokens": 300, "seed": 1}


def test_the_client_parses_what_it_asked_for(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(**ASKED, response_format=Colour, n=3, logprobs=True)
    for choice in answer.choices:
        assert (choice.finish_reason, type(choice.message.parsed)) == ("stop", Colour)
        assert choice.logprobs
        assert choice.logprobs.content
        assert (
            b"".join(bytes(each.bytes or []) for each in choice.logprobs.content).decode()
            == choice.message.content
        )


def test_a_stream_and_a_completion_have_the_form_too(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "colour", "schema": Colour.model_json_schema()}}
    said = {0: "", 1: ""}
    for chunk in client.chat.completions.create(**ASKED, response_format=form, n=2, stream=True):
        said[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    text = client.completions.create(
        model="tiny", prompt="The sky", max_tokens=100, extra_body={"response_format": form}
    )
    for answer in (*said.values(), text.choices[0].text):
        Colour.model_validate_json(answer)


def test_an_answer_that_is_cut_off_says_so(client: openai.OpenAI) -> None:
    asked = ASKED | {"max_completion_tokens": 3}
    (choice,) = client.chat.completions.create(**asked, response_format={"type": "json_object"}).choices
    assert (choice.finish_reason, str(choice.message.content).strip()[:1]) == ("length", "{")


def check_calls(calls: Any) -> None:
    assert calls
    for call in calls:
        arguments = json.loads(call.function.arguments)
        if call.function.name == "paint":
            Colour.model_validate(arguments)
        else:
            assert call.function.name == "mix"
            assert set(arguments["all"]) <= {"red", "blue"}
            assert 1 <= len(arguments["all"]) <= 2


@pytest.mark.parametrize("seed", range(3))
def test_required_tools_are_called_and_a_stream_says_the_same(client: openai.OpenAI, seed: int) -> None:
    asked = ASKED | {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "seed": seed}
    (choice,) = client.chat.completions.create(**asked).choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    check_calls(choice.message.tool_calls)

    streamed, reasons = [], set()
    for chunk in client.chat.completions.create(**asked, stream=True):
        streamed += chunk.choices[0].delta.tool_calls or []
        reasons.add(chunk.choices[0].finish_reason)
        assert not chunk.choices[0].delta.content
    assert reasons == {None, "tool_calls"}
    assert [
        (call.index, call.function.name, call.function.arguments) for call in streamed if call.function
    ] == [
        (index, call.function.name, call.function.arguments)
        for index, call in enumerate(choice.message.tool_calls or [])
        if call.type == "function"
    ]


def test_the_named_tool_is_called_once(client: openai.OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "mix"}}
    (choice,) = client.chat.completions.create(**ASKED, tools=TOOLS, tool_choice=named).choices
    assert [call.function.name for call in choice.message.tool_calls or [] if call.type == "function"] == [
        "mix"
    ]
    check_calls(choice.message.tool_calls)


def test_tools_that_need_not_be_called_leave_text_as_it_is(client: openai.OpenAI) -> None:
    asked = ASKED | {"tools": TOOLS[1:], "temperature": 0, "max_completion_tokens": 20}
    (choice,) = client.chat.completions.create(**asked).choices
    assert choice.message.tool_calls is None
    assert choice.message.content
    chunks = client.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content


def test_the_answer_of_a_tool_goes_back_to_the_model(client: openai.OpenAI) -> None:
    asked: Any = ASKED | {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    message = client.chat.completions.create(**asked).choices[0].message
    assert message.tool_calls
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "done"}
    messages = [*QUESTION, message.model_dump(exclude_none=True), result]
    after = client.chat.completions.create(
        **ASKED | {"messages": messages, "max_completion_tokens": 4}, tools=TOOLS[1:]
    )
    assert after.choices[0].message.content


@pytest.mark.parametrize(
    "change",
    [
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"pattern": "^(a{1000}){1000}$", "type": "string"}},
            }
        },
        {"n": 10_000},
        {"logprobs": True, "top_logprobs": -1},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": "y" * 900_000}}}]},
    ],
)
def test_hostile_requests_are_refused_while_others_are_answered(
    predictor: Predictor, client: openai.OpenAI, change: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**ASKED, extra_body=change)
    assert predictor.chat().status_code == 200
