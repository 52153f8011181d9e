"""Answers of a required form have it, whatever the model would say; forms that nobody can follow are refused at once."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from llmops_components.serving.http.refusals import RequestError
from llmops_components.serving.predictor.batching import Batcher
from llmops_components.serving.predictor.engines import Batch, OneByOne
from llmops_components.serving.predictor.grammars import Grammars
from llmops_components.serving.predictor.requests import ChatRequest, CompletionRequest, parse
from llmops_components.serving.predictor.sampling import Sampling

PROMPT = [30, 41, 52, 63]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def loaded(talkative_model: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(talkative_model, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(talkative_model)


@pytest.fixture(scope="module")
def grammars(loaded: tuple[Any, Any]) -> Grammars:
    batcher = Batcher(*loaded)
    return Grammars(loaded[1], batcher.end_tokens, batcher.vocabulary)


SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {
            "colour": {"enum": ["red", "green"]},
            "sure": {"type": "boolean"},
            "count": {"type": "integer", "minimum": 3, "maximum": 70},
        },
        "required": ["colour", "sure", "count"],
        "additionalProperties": False,
    },
    {
        "type": "array",
        "items": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[a-c]{1,3}$"}]},
        "minItems": 2,
        "maxItems": 3,
    },
    {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 3},
                    "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/leaf"}]},
                },
                "required": ["name", "next"],
                "additionalProperties": False,
            },
            "leaf": {"const": {"name": "é", "next": None}},
        },
    },
    {"type": "string", "format": "date"},
]


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("engine", [Batch, OneByOne])
def test_answers_of_any_temperature_are_what_the_schema_says(
    loaded: tuple[Any, Any], grammars: Grammars, schema: dict[str, Any], engine: type
) -> None:
    batcher = Batcher(*loaded, engine=engine, max_model_len=256)
    batcher.start()

    async def run() -> list[tuple[str, str | None]]:
        grammar = await grammars.of_schema(schema, "response_format")
        form = {"max_tokens": 200, "grammar": grammar}
        settings = [
            Sampling(temperature=0, **form),
            *(Sampling(temperature=2, seed=seed, **form) for seed in range(4)),
        ]
        plain = [Sampling(8, temperature=0), Sampling(8, temperature=0, frequency_penalty=1)]
        made = batcher.submit([PROMPT] * 7, [*settings, *plain])
        texts = [(await each.text(), each.finish_reason) for each in made]
        beside = batcher.submit([PROMPT] * 2, plain)
        assert texts[5:] == [(await each.text(), each.finish_reason) for each in beside]
        return texts[:5]

    answers = asyncio.run(run())
    batcher.stop()
    for text, reason in answers:
        assert reason == "stop", text
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
    assert len({text for text, _ in answers}) > 1


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def string(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (nested(300), "is no schema that can be read: Nested more than 200 deep"),
        (nested(90), "cannot be carried out: recursion limit exceeded"),
        (string("^(a{1000}){1000}$"), "cannot be carried out: lexer error: too many expressions constructed"),
        (
            string("^(((((a{100}){100}){100}){100}){100})$"),
            "cannot be carried out: lexer error: too many expressions",
        ),
        (string("^(?=a)b$"), "look-around, including look-ahead and look-behind, is not supported"),
        (string("("), "cannot be carried out: "),
        (string("|".join(map(str, range(20_000)))), " characters; 65536 are the most. Ask for less at once."),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "allows no answer at all."),
        (
            {"$ref": "https://example.org/s.json"},
            "cannot be carried out: Resource 'https://example.org/s.json' is not",
        ),
        ({"$ref": "file:///etc/passwd"}, "cannot be carried out: Resource 'file:///etc/passwd' is not"),
        (
            {"type": "integer", "multipleOf": 999_983},
            "multipleOf with values that make 999983 together; 10000 are",
        ),
        (
            {"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]},
            "multipleOf with values that make 988027 together",
        ),
        (
            {"type": "array", "uniqueItems": True},
            'cannot be carried out: Unimplemented keys: ["uniqueItems"]',
        ),
        ({"not": {}}, 'cannot be carried out: Unimplemented keys: ["not"]'),
        ({"not": {}, "x-guidance": {"lenient": True}}, "has x-guidance, which is no keyword of JSON schema."),
        ({"const": float("inf")}, "cannot be written as JSON: Out of range float values"),
        (
            {"type": "object", "properties": {"a": False}, "required": ["a"]},
            "Unsatisfiable schema: required property 'a' is unsatisfiable",
        ),
    ],
)
def test_schemas_that_cannot_be_followed_are_refused_soon(
    grammars: Grammars, schema: dict[str, Any], message: str
) -> None:
    started = time.monotonic()
    with pytest.raises(RequestError) as refused:
        asyncio.run(grammars.of_schema(schema, "response_format"))
    assert (refused.value.status, refused.value.param) == (400, "response_format")
    assert refused.value.message.startswith("response_format")
    assert message in refused.value.message
    assert time.monotonic() - started < 10


def test_an_answer_whose_form_becomes_too_much_work_fails_alone(
    loaded: tuple[Any, Any], grammars: Grammars
) -> None:
    batcher = Batcher(*loaded, max_model_len=256)
    batcher.start()
    late = {
        "type": "array",
        "prefixItems": [{"const": "abcdefgh" * 6}, string("^(a{1000}){1000}$")],
        "items": False,
        "minItems": 2,
    }

    async def run() -> list[Any]:
        grammar = await grammars.of_schema(late, "response_format")
        made = batcher.submit(
            [PROMPT] * 2, [Sampling(120, temperature=0, grammar=grammar), Sampling(20, temperature=0)]
        )
        answers = await asyncio.gather(*(each.text() for each in made), return_exceptions=True)
        (alone,) = batcher.submit([PROMPT], [Sampling(20, temperature=0)])
        assert answers[1] == await alone.text()
        return answers

    failed, _ = asyncio.run(run())
    batcher.stop()
    assert isinstance(failed, RequestError)
    assert failed.status == 400
    assert failed.message.startswith("The answer's form takes too much work to follow (lexer error: too many")


def test_a_model_without_an_end_token_is_refused(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(
        RequestError, match="This model has no end token, so that an answer of a required form could not"
    ):
        asyncio.run(Grammars(loaded[1], frozenset(), 383).of_schema({}, "response_format"))


@pytest.mark.parametrize(
    ("given", "message", "param"),
    [
        (
            {"type": "xml"},
            "response_format.type: Input should be 'text', 'json_object' or 'json_schema'",
            "response_format.type",
        ),
        ({"type": "json_schema"}, "response_format.json_schema is missing.", "response_format.json_schema"),
        (
            {"type": "json_schema", "json_schema": {"name": "x"}},
            "response_format.json_schema.schema is missing.",
            "response_format.json_schema.schema",
        ),
        (
            {"type": "json_object", "json_schema": {"name": "x", "schema": {}}},
            "response_format.json_schema goes with the type 'json_schema' alone, not 'json_object'.",
            "response_format.json_schema",
        ),
        ({"type": "text", "x": 1}, "Unknown parameter: 'response_format.x'.", "response_format.x"),
    ],
)
def test_formats_that_make_no_sense_are_refused(given: dict[str, Any], message: str, param: str) -> None:
    for kind, asked in ((ChatRequest, CHAT), (CompletionRequest, {"model": "m", "prompt": "x"})):
        with pytest.raises(RequestError) as refused:
            parse(kind, json.dumps(asked | {"response_format": given}).encode())
        assert (refused.value.message, refused.value.param) == (message, param)


@pytest.mark.parametrize("field", [{"min_tokens": 3}, {"ignore_eos": True}])
def test_what_would_keep_the_answer_from_ending_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(
        RequestError, match=r"and response_format exclude each other: the form says where the answer ends\."
    ):
        parse(ChatRequest, CHAT | {"response_format": {"type": "json_object"}} | field)
