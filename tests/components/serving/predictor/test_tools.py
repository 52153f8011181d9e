"""Calls of tools are read in the forms that chat templates write them in, whole and in pieces, and others are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chat_templates import chat_template
from llmops_components.serving.http.refusals import RequestError
from llmops_components.serving.predictor.answers import ChatForm
from llmops_components.serving.predictor.chat import ChatTemplate
from llmops_components.serving.predictor.generation import Piece
from llmops_components.serving.predictor.requests import ChatRequest, parse
from llmops_components.serving.predictor.tools import FORMATS, Call, CallReader

HERMES, MISTRAL, LLAMA = FORMATS
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How it is.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Where."}}},
    },
}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
# As mistralai/Mistral-7B-Instruct-v0.3 has it, shortened to what calls need.
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% if tools is not none and loop.first %}{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST] ' + message['content'] + '[/INST]' }}"
    "{% elif message['tool_calls'] is defined and message['tool_calls'] is not none %}{{ '[TOOL_CALLS] [' }}"
    "{% for call in message['tool_calls'] %}{% set out = call['function'] | tojson %}{{ out[:-1] }}"
    "{% if call['id'] | length != 9 %}{{ raise_exception('nine letters') }}{% endif %}"
    "{{ ', \"id\": \"' + call['id'] + '\"}' }}{{ ', ' if not loop.last else ']' + eos_token }}{% endfor %}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)


def template_of(family: str) -> ChatTemplate:
    import chat_templates
    from transformers import AutoTokenizer  # noqa: F401  (slow to import, and needed by all of them)

    tokenizer = chat_templates.tokenizer_with.__wrapped__("chatml")
    tokenizer.chat_template = MISTRAL_TEMPLATE if family == "mistral_tools" else chat_template(family)
    return ChatTemplate(tokenizer)


@pytest.mark.parametrize(
    ("family", "form"),
    [
        ("qwen2_5", HERMES),
        ("qwen3", HERMES),
        ("qwen3_instruct_2507", HERMES),
        ("llama3_1", LLAMA),
        ("llama3_2", LLAMA),
        ("mistral_tools", MISTRAL),
    ],
)
def test_the_template_itself_shows_the_form_of_calls(family: str, form: Any) -> None:
    assert template_of(family).tool_format() == form


@pytest.mark.parametrize("family", ["qwen3_6", "gptoss", "glm4moe"])
def test_forms_that_cannot_be_read_are_refused_by_name(family: str) -> None:
    with pytest.raises(RequestError) as refused:
        template_of(family).tool_format()
    assert (refused.value.message, refused.value.param) == (
        "The model's chat template writes calls of tools in a form that this server cannot read. Known are those of Hermes "
        "and Qwen, Mistral, Llama 3.",
        "tools",
    )


@pytest.mark.parametrize("family", ["chatml", "zephyr", "gemma"])
def test_a_template_without_tools_is_refused_by_name(family: str) -> None:
    with pytest.raises(
        RequestError, match=r"The model's chat template takes no tools, so the model would not"
    ) as refused:
        template_of(family).render(parse(ChatRequest, CHAT | {"tools": [WEATHER]}))
    assert refused.value.param == "tools"
    assert template_of(family).render(parse(ChatRequest, CHAT | {"tools": [WEATHER], "tool_choice": "none"}))


@pytest.mark.parametrize("family", ["qwen2_5", "llama3_1", "mistral_tools"])
def test_tools_are_rendered_as_the_tokenizer_does(family: str) -> None:
    template = template_of(family)
    tokenizer = template._tokenizer
    asked = parse(ChatRequest, CHAT | {"tools": [WEATHER]})
    text = tokenizer.apply_chat_template(
        CHAT["messages"], tools=[WEATHER], add_generation_prompt=True, tokenize=False
    )
    assert "weather" in text
    assert template.render(asked) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_developer_is_a_system_where_the_template_knows_none() -> None:
    said = CHAT | {"messages": [{"role": "developer", "content": "Be brief."}, *CHAT["messages"]]}
    for family, roles in (("chatml", ["system", "user"]), ("gptoss", ["developer", "user"])):
        asked = parse(ChatRequest, said)
        assert [message["role"] for message in template_of(family)._messages(asked, None)] == roles


CITY = Call("weather", '{"city": "Rome"}')
CASES = [
    (HERMES, "Let me see.", "Let me see.", []),
    (HERMES, '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>', "", [CITY]),
    (
        HERMES,
        'Wait.\n<tool_call>{"name":"weather","arguments":{"city":"Rome"}}</tool_call>\n<tool_call>\n'
        '{"name": "weather", "arguments": {}}\n</tool_call>\n',
        "Wait.",
        [CITY, Call("weather", "{}")],
    ),
    (HERMES, "a < b <tool", "a < b <tool", []),
    (HERMES, '<tool_call>{"name": "other", "arguments": {}}</tool_call>', ..., []),
    (HERMES, "<tool_call>no JSON</tool_call> then", ..., []),
    (HERMES, '<tool_call>{"name": "weather", "argum', ..., []),
    (
        HERMES,
        '<tool_call>{"name": "weather", "arguments": {"city": "</tool_call>"}}</tool_call>',
        "",
        [Call("weather", '{"city": "</tool_call>"}')],
    ),
    (
        MISTRAL,
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}, "id": "abcdefghi"}]',
        "",
        [CITY],
    ),
    (MISTRAL, 'So: [TOOL_CALLS][{"name": "weather", "arguments": {"city": "Rome"}}, 3]', ..., []),
    (LLAMA, ' {"name": "weather", "parameters": {"city": "Rome"}}', "", [CITY]),
    (LLAMA, '<|python_tag|>{"name": "weather", "parameters": {"city": "Rome"}}', "", [CITY]),
    (LLAMA, 'It says {"name": "weather", "parameters": {}}', ..., []),
    (LLAMA, '{"answer": 42}', ..., []),
    (LLAMA, "  ", "  ", []),
]


@pytest.mark.parametrize(("form", "answer", "text", "calls"), CASES)
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_calls_are_told_from_text_however_the_answer_is_cut(
    form: Any, answer: str, text: Any, calls: list[Call], size: int
) -> None:
    reader = CallReader(form, ["weather"])
    said, found = "", []
    for at in range(0, len(answer), size):
        more, complete = reader.read(answer[at : at + size])
        said += more
        found += complete
    more, complete = reader.finish()
    assert found + complete == calls
    expected = answer if text is ... else text
    assert "".join((said + more).split()) == "".join(expected.split())
    assert text is ... or said + more == text


def test_one_call_alone_where_several_are_not_wanted() -> None:
    reader = CallReader(HERMES, ["weather"], several=False)
    assert reader.read('<tool_call>{"name": "weather", "arguments": {}}</tool_call>' * 3)[1] == [
        Call("weather", "{}")
    ]


def test_an_answer_has_its_calls_beside_the_text_and_a_stream_has_each_in_one_piece() -> None:
    form = ChatForm("m")
    form.expect_calls(HERMES, ["weather"], several=True)
    said = 'Wait. <tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
    choice = form.whole(0, Piece(said, []), "stop")
    (call,) = choice["message"]["tool_calls"]
    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": "Wait.",
            "tool_calls": [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
                }
            ],
        },
        "logprobs": None,
        "finish_reason": "tool_calls",
    }
    pieces = [
        *form.begin(0),
        *(each for letter in said for each in form.go_on(0, Piece(letter, []))),
        *form.end(0, "stop"),
    ]
    deltas = [each["delta"] for each in pieces]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Wait."
    (streamed,) = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert (streamed["index"], streamed["function"]) == (0, call["function"])
    assert pieces[-1]["finish_reason"] == "tool_calls"


def test_an_answer_that_was_cut_off_says_so() -> None:
    form = ChatForm("m")
    form.expect_calls(HERMES, ["weather"], several=True)
    assert form.whole(0, Piece("Wait", []), "length")["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("change", "message", "param"),
    [
        ({"tools": [WEATHER] * 2}, "tools has 'weather' twice.", "tools"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice: there is no tool 'x'.",
            "tool_choice",
        ),
        ({"tool_choice": "required"}, "tool_choice is 'required', and there are no tools.", "tool_choice"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type: Input should be 'function'", "tools[0].type"),
        ({"tools": [{**WEATHER, "x": 1}]}, "Unknown parameter: 'tools[0].x'.", "tools[0].x"),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {"description": "x" * 10**6}},
                    }
                ]
            },
            "tools has 1000120 characters; 65536 are the most. Ask for less at once.",
            "tools",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
            "tools[0].function.strict=true needs a tool_choice of 'required' or of a function: otherwise nothing holds the "
            "model to the schema.",
            "tools[0].function.strict",
        ),
        (
            {"tools": [WEATHER], "response_format": {"type": "json_object"}},
            "response_format and tools exclude each other: a call of a tool has another form. Set tool_choice to 'none', or "
            "leave response_format out.",
            "response_format",
        ),
        (
            {"tools": [WEATHER], "tool_choice": "required", "ignore_eos": True},
            "ignore_eos and tool_choice exclude each other: the form says where the answer ends.",
            "ignore_eos",
        ),
    ],
)
def test_tools_that_make_no_sense_are_refused(change: dict[str, Any], message: str, param: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse(ChatRequest, json.dumps(CHAT | change).encode())
    assert (refused.value.message, refused.value.param) == (message, param)


@pytest.mark.parametrize("choice", ["sometimes", 3, {"type": "function"}, {"type": "allowed_tools"}])
def test_a_choice_of_another_kind_is_refused_by_its_field(choice: Any) -> None:
    with pytest.raises(RequestError) as refused:
        parse(ChatRequest, json.dumps(CHAT | {"tools": [WEATHER], "tool_choice": choice}).encode())
    assert refused.value.param == "tool_choice"
