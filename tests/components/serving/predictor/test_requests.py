"""Fields of requests: each is honoured as ``generate`` has it, or refused by name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

torch = pytest.importorskip("torch")

from llmops_components.serving.http.refusals import RequestError  # noqa: E402
from llmops_components.serving.predictor import fields  # noqa: E402
from llmops_components.serving.predictor.batching import Batcher  # noqa: E402
from llmops_components.serving.predictor.chat import ChatTemplate  # noqa: E402
from llmops_components.serving.predictor.requests import ChatRequest, CompletionRequest, Settings, ask, parse  # noqa: E402
from llmops_components.serving.predictor.sampling import Sampler, Sampling  # noqa: E402

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
TEXT = {"model": "m", "prompt": "Hi"}


def refusal(kind: type, given: dict[str, Any]) -> tuple[str, str | None, str | None]:
    with pytest.raises(RequestError) as refused:
        parse(kind, json.dumps(given).encode())
    assert refused.value.status == 400
    return refused.value.message, refused.value.param, refused.value.code


def fields_of_openai(chat: bool) -> set[str]:
    from openai.types import completion_create_params as text_params
    from openai.types.chat import completion_create_params as chat_params

    params = chat_params if chat else text_params
    return set(get_type_hints(params.CompletionCreateParamsNonStreaming)) | {"stream"}


@pytest.mark.parametrize(("kind", "given"), [(ChatRequest, CHAT), (CompletionRequest, TEXT)])
def test_every_field_of_openais_client_is_honoured_or_refused_by_name(
    kind: type, given: dict[str, Any]
) -> None:
    for name in fields_of_openai(kind is ChatRequest) - set(kind.model_fields):
        assert parse(kind, given | {name: None})  # null asks for nothing
        try:
            parse(kind, given | {name: "something"})
        except RequestError as refused:
            assert (refused.param, refused.code) == (name, "unsupported_value")
            assert refused.message.startswith(f'{name}="something" is not supported by this server.')
        else:
            assert name in (
                "metadata",
                "parallel_tool_calls",
                "prompt_cache_key",
                "safety_identifier",
                "user",
            )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guided_json", {"type": "object"}),
        ("guided_choice", ["a", "b"]),
        ("structured_outputs", {"json": {}}),
        ("prompt_logprobs", 1),
        ("best_of", 2),
        ("use_beam_search", True),
        ("truncate_prompt_tokens", 5),
        ("bad_words", ["x"]),
        ("reasoning_effort", "low"),
        ("store", True),
        ("echo", True),
        ("suffix", "end"),
    ],
)
@pytest.mark.parametrize(("kind", "given"), [(ChatRequest, CHAT), (CompletionRequest, TEXT), (Settings, {})])
def test_what_the_server_cannot_do_is_refused(
    kind: type, given: dict[str, Any], field: str, value: Any
) -> None:
    message, param, code = refusal(kind, given | {field: value})
    assert message.startswith(f"{field}={json.dumps(value)} is not supported by this server.")
    assert (param, code) == (field, "unsupported_value")


@pytest.mark.parametrize(
    ("kind", "given", "field", "value"),
    [
        (CompletionRequest, TEXT, "tools", [{"type": "function", "function": {"name": "f"}}]),
        (CompletionRequest, TEXT, "tool_choice", "required"),
        (Settings, {}, "response_format", {"type": "json_object"}),
        (Settings, {}, "logprobs", 2),
        (Settings, {}, "tools", [{}]),
    ],
)
def test_what_another_route_takes_is_refused(
    kind: type, given: dict[str, Any], field: str, value: Any
) -> None:
    message, param, code = refusal(kind, given | {field: value})
    assert message.startswith(f"{field}={json.dumps(value)} is not supported by this server.")
    assert (param, code) == (field, "unsupported_value")


def test_values_that_ask_for_nothing_are_taken() -> None:
    harmless = {
        "user": "me", "metadata": {"a": "b"}, "store": False, "n": 1, "logprobs": False, "temperature": None, "tools": [],
        "tool_choice": "none", "response_format": {"type": "text"}, "logit_bias": {}, "stop": None, "best_of": 1,
        "presence_penalty": 0, "service_tier": "auto", "modalities": ["text"], "top_k": -1, "use_beam_search": False,
        "length_penalty": 1.0, "max_tokens": None, "seed": None, "stream": False, "stream_options": None,
    }  # fmt: skip
    assert parse(ChatRequest, CHAT | harmless).samplings(5, temperature=1, vocabulary=9) == parse(
        ChatRequest, CHAT
    ).samplings(5, temperature=1, vocabulary=9)
    assert refusal(ChatRequest, CHAT | {"logprobs": 0})[1] == "logprobs"  # 0 is not false
    assert refusal(Settings, {"logprobs": 0})[1] == "logprobs"


@pytest.mark.parametrize(
    ("kind", "given", "message", "param", "code"),
    [
        (
            ChatRequest,
            {"something_new": 1},
            "Unknown parameter: 'something_new'.",
            "something_new",
            "unknown_parameter",
        ),
        (
            ChatRequest,
            {"max_token": 1},
            "Unknown parameter: 'max_token'. Did you mean 'max_tokens'?",
            "max_token",
            "unknown_parameter",
        ),
        (
            ChatRequest,
            {"enable_thinking": False},
            "Unknown parameter: 'enable_thinking'. A template that knows it takes it in chat_template_kwargs.",
            "enable_thinking",
            "unknown_parameter",
        ),
        (
            CompletionRequest,
            {"max_completion_tokens": 5},
            "Unknown parameter: 'max_completion_tokens'. Here it is called max_tokens.",
            "max_completion_tokens",
            "unknown_parameter",
        ),
        (ChatRequest, {"top_k": -2}, "top_k: Input should be greater than or equal to -1", "top_k", None),
        (ChatRequest, {"min_p": 2}, "min_p: Input should be less than or equal to 1", "min_p", None),
        (ChatRequest, {"top_p": "nan"}, "top_p: Input should be a valid number", "top_p", None),
        (
            ChatRequest,
            {"temperature": "0.5"},
            "temperature: Input should be a valid number",
            "temperature",
            None,
        ),
        (ChatRequest, {"max_tokens": 5.0}, "max_tokens: Input should be a valid integer", "max_tokens", None),
        (
            ChatRequest,
            {"top_logprobs": 2},
            "top_logprobs=2 is for log probabilities: set logprobs to true.",
            "top_logprobs",
            None,
        ),
        (
            ChatRequest,
            {"logprobs": True, "top_logprobs": 21},
            "top_logprobs: Input should be less than or equal to 20",
            "top_logprobs",
            None,
        ),
        (
            CompletionRequest,
            {"logprobs": 6},
            "logprobs: Input should be less than or equal to 5",
            "logprobs",
            None,
        ),
        (
            CompletionRequest,
            {"logprobs": True},
            "logprobs: Input should be a valid integer",
            "logprobs",
            None,
        ),
        (ChatRequest, {"n": 10_000}, "n: Input should be less than or equal to 128", "n", None),
        (ChatRequest, {"seed": True}, "seed: Input should be a valid integer", "seed", None),
        (
            ChatRequest,
            {"stop": [1]},
            "stop: takes a string or up to 4 strings, none of them empty",
            "stop",
            None,
        ),
        (ChatRequest, {"n": 0}, "n: Input should be greater than or equal to 1", "n", None),
        (
            ChatRequest,
            {"logit_bias": {"x": 1}},
            'logit_bias: takes an object of token ids and numbers, like {"50256": -100}',
            "logit_bias",
            None,
        ),
        (
            ChatRequest,
            {"stream_options": {"include_usage": True}},
            "stream_options is for streams: set stream to true.",
            "stream_options",
            None,
        ),
        (
            ChatRequest,
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats=true is not supported by this server.",
            "stream_options.continuous_usage_stats",
            "unsupported_value",
        ),
        (
            ChatRequest,
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message and add_generation_prompt exclude each other: the answer goes on with the last "
            "message, or begins a new one.",
            "continue_final_message",
            None,
        ),
        (
            ChatRequest,
            {"max_tokens": 5, "max_completion_tokens": 6},
            "max_tokens=5 and max_completion_tokens=6 contradict each other; max_tokens is the old name of the same.",
            "max_tokens",
            None,
        ),
        (
            ChatRequest,
            {"chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs has 'messages', which is no variable of the template's own.",
            "chat_template_kwargs.messages",
            None,
        ),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0] has a content part of the type 'image_url'; only text is taken.",
            "messages[0].content",
            None,
        ),
        (
            ChatRequest,
            {"messages": [{"role": "user"}]},
            "messages[0].content is missing: a user message needs text.",
            "messages[0].content",
            None,
        ),
        (
            ChatRequest,
            {"messages": [{"role": "robot", "content": "x"}]},
            "messages[0].role: Input should be 'system', 'developer', 'user', 'assistant' or 'tool'",
            "messages[0].role",
            None,
        ),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": "x", "cache": 1}]},
            "Unknown parameter: 'messages[0].cache'.",
            "messages[0].cache",
            "unknown_parameter",
        ),
        (ChatRequest, {"messages": "Hi"}, "messages: Input should be a valid array", "messages", None),
        *(
            (
                CompletionRequest,
                {"prompt": prompt},
                "prompt: takes text, a list of texts, a list of token ids, or a list of such lists, none of them empty",
                "prompt",
                None,
            )
            for prompt in ([], [[]], ["a", 1], [[1], "a"], {"a": 1}, [True], None)
        ),
    ],
)
def test_refusals_are_in_the_clients_own_terms(
    kind: type, given: dict[str, Any], message: str, param: str, code: str | None
) -> None:
    assert refusal(kind, (CHAT if kind is ChatRequest else TEXT) | given) == (message, param, code)


def test_a_field_that_is_missing_is_named() -> None:
    assert refusal(ChatRequest, {"model": "m"})[:2] == ("messages is missing.", "messages")
    assert refusal(CompletionRequest, {"model": "m"})[:2] == ("prompt is missing.", "prompt")
    with pytest.raises(RequestError, match="The body is not JSON: "):
        parse(ChatRequest, b"{")


@pytest.mark.parametrize(
    ("prompt", "taken"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1, 2], [3]], [[1, 2], [3]])],
)
def test_prompts_are_texts_or_tokens_one_or_many(prompt: Any, taken: list[Any]) -> None:
    assert parse(CompletionRequest, TEXT | {"prompt": prompt}).prompt == taken


@pytest.fixture(scope="module")
def loaded(talkative_model: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return (
        AutoModelForCausalLM.from_pretrained(talkative_model, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(talkative_model),
    )


@pytest.fixture
def batcher(loaded: tuple[Any, Any]) -> Iterator[Batcher]:
    made = Batcher(*loaded, max_model_len=64)
    made.start()
    yield made
    made.stop()


def answers(
    batcher: Batcher, prompt: list[int], max_tokens: int | None = 16, **fields: Any
) -> list[list[int]]:
    """Token ids of the answers, beside another prompt that is longer."""

    async def run() -> list[list[int]]:
        made = ask(batcher, [prompt], Settings(**fields), max_tokens=max_tokens)
        (other,) = ask(batcher, [prompt * 2], Settings(temperature=0), max_tokens=9)
        for each in [*made, other]:
            await each.text()
        return [each.tokens for each in made]

    return asyncio.run(run())


PROMPT = [30, 41, 52, 63]


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({"temperature": 0, "repetition_penalty": 1.7}, {"repetition_penalty": 1.7}),
        ({"temperature": 0, "ignore_eos": True}, {"eos_token_id": []}),
        ({"temperature": 0.7, "top_k": 5}, {"temperature": 0.7, "top_k": 5}),
        ({"temperature": 1.5, "min_p": 0.2}, {"temperature": 1.5, "min_p": 0.2}),
        ({"top_p": 0.6}, {"top_p": 0.6}),
        (
            {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2},
            {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2},
        ),
    ],
)
def test_settings_choose_the_tokens_that_generate_chooses(
    batcher: Batcher, loaded: tuple[Any, Any], fields: dict[str, Any], arguments: dict[str, Any]
) -> None:
    sampled = fields.get("temperature", 1) > 0
    torch.manual_seed(11)
    expected = loaded[0].generate(
        torch.tensor([PROMPT]),
        **{"do_sample": sampled, "max_new_tokens": 16, "top_k": 0, "pad_token_id": 0, **arguments},
    )
    got = answers(batcher, PROMPT, **fields, **({"seed": 11} if sampled else {}))
    assert got == [expected[0, len(PROMPT) :].tolist()]


def test_an_answer_ends_at_a_stop_token_and_not_before_min_tokens(
    batcher: Batcher, loaded: tuple[Any, Any]
) -> None:
    (free,) = answers(batcher, PROMPT, temperature=0, ignore_eos=True)
    third = free[2]
    assert free.index(third) == 2
    assert answers(batcher, PROMPT, temperature=0, stop_token_ids=[third]) == [free[:3]]
    (longer,) = answers(batcher, PROMPT, temperature=0, stop_token_ids=[third], min_tokens=6)
    expected = loaded[0].generate(
        torch.tensor([PROMPT]), max_new_tokens=16, min_new_tokens=6, eos_token_id=[third, 2], do_sample=False
    )
    assert longer == expected[0, len(PROMPT) :].tolist()


def test_a_bias_of_100_forces_or_forbids_a_token(batcher: Batcher) -> None:
    (plain,) = answers(batcher, PROMPT, temperature=0)
    assert plain[0] not in answers(batcher, PROMPT, temperature=0, logit_bias={str(plain[0]): -100})[0]
    assert answers(batcher, PROMPT, temperature=0, logit_bias={"77": 100}, max_tokens=3) == [[77] * 3]


@pytest.mark.parametrize(
    ("penalties", "chosen"),
    [
        ({}, [3, 3, 3, 3, 3]),
        ({"presence_penalty": 0.75}, [3, 4, 3, 3, 3]),  # once, however often it was said
        ({"frequency_penalty": 0.75}, [3, 4, 3, 4, 3]),  # each time again
    ],
)
def test_penalties_are_taken_from_what_the_answer_has_and_not_the_prompt(
    penalties: dict[str, float], chosen: list[int]
) -> None:
    sampler = Sampler(Sampling(9, temperature=0, **penalties), prompt_ids=[3, 3, 3], end_tokens=frozenset())
    logits = torch.tensor([-9.0, -9.0, -9.0, 1.0, 0.5])
    assert [sampler.choose(logits) for _ in chosen] == chosen


def test_n_answers_of_a_seed_differ_and_repeat(batcher: Batcher) -> None:
    several = answers(batcher, PROMPT, temperature=1.5, n=3, seed=5)
    assert len({tuple(tokens) for tokens in several}) == 3
    assert several == answers(batcher, PROMPT, temperature=1.5, n=3, seed=5)
    assert several[1] == answers(batcher, PROMPT, temperature=1.5, seed=6)[0]


def test_text_keeps_special_tokens_and_stop_strings_when_asked_to(
    batcher: Batcher, loaded: tuple[Any, Any]
) -> None:
    async def text(**fields: Any) -> str:
        (made,) = ask(batcher, [PROMPT], Settings(temperature=0, **fields), max_tokens=6)
        return await made.text()

    forced = {"logit_bias": {"1": 100}}
    assert asyncio.run(text(**forced)) == ""
    assert asyncio.run(text(**forced, skip_special_tokens=False)) == "<|im_start|>" * 6
    plain = asyncio.run(text())
    assert asyncio.run(text(stop=plain[2:4])) == plain[:2]
    assert asyncio.run(text(stop=plain[2:4], include_stop_str_in_output=True)) == plain[:4]


@pytest.mark.parametrize(
    ("fields", "max_tokens", "prompt", "message", "param", "code"),
    [
        (
            {"logit_bias": {"9999": 1}},
            5,
            PROMPT,
            "logit_bias has 9999; token ids are 0 to 382.",
            "logit_bias",
            None,
        ),
        (
            {"stop_token_ids": [-1]},
            5,
            PROMPT,
            "stop_token_ids has -1; token ids are 0 to 382.",
            "stop_token_ids",
            None,
        ),
        (
            {"min_tokens": 6},
            5,
            PROMPT,
            "min_tokens=6 is more than the 5 tokens that the answer may have.",
            "min_tokens",
            None,
        ),
        ({}, 5, [383], "prompt has the token id 383; this model's are 0 to 382.", "prompt", None),
        (
            {},
            61,
            PROMPT,
            "This model's context is 64 tokens; the request needs 65 (4 in the prompt and 61 for the answer). Shorten the "
            "prompt or lower max_tokens.",
            "max_tokens",
            "context_length_exceeded",
        ),
        (
            {},
            None,
            PROMPT * 16,
            "This model's context is 64 tokens; the request needs 65 (64 in the prompt and 1 for the answer). Shorten the "
            "prompt.",
            "prompt",
            "context_length_exceeded",
        ),
        (
            {"n": 65},
            1,
            PROMPT,
            "The request asks for 65 answers; this server takes 64 at once. Send several requests.",
            "n",
            None,
        ),
    ],
)
def test_values_that_do_not_fit_the_model_are_refused(
    batcher: Batcher,
    fields: dict[str, Any],
    max_tokens: int | None,
    prompt: list[int],
    message: str,
    param: str,
    code: str | None,
) -> None:
    with pytest.raises(RequestError) as refused:
        answers(batcher, prompt, max_tokens=max_tokens, **fields)
    assert (refused.value.message, refused.value.param, refused.value.code) == (message, param, code)


def test_an_answer_without_limit_takes_the_room_that_is_left(batcher: Batcher) -> None:
    assert [
        len(each) for each in answers(batcher, PROMPT, max_tokens=None, temperature=0, ignore_eos=True)
    ] == [60]


TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments.x }}){% endfor %}"
    "{% if not loop.last %};{% endif %}{% endfor %}"
    "{% generation %}{% endgeneration %}"
    "{% if add_generation_prompt %};[assistant]{% if enable_thinking %}<think>{% endif %}{% endif %}"
)


@pytest.fixture
def template(loaded: tuple[Any, Any]) -> Iterator[Any]:
    tokenizer = loaded[1]
    before, tokenizer.chat_template = tokenizer.chat_template, TEMPLATE

    def render(**fields: Any) -> str:
        return tokenizer.decode(ChatTemplate(tokenizer).render(parse(ChatRequest, CHAT | fields)))

    render.tokenizer = tokenizer  # type: ignore[attr-defined]
    yield render
    tokenizer.chat_template = before


def test_messages_are_rendered_as_text(template: Any) -> None:
    assert template() == "[user]Hi;[assistant]"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert template(messages=[{"role": "developer", "content": parts}]) == "[system]ab;[assistant]"
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"x": 3}'}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []},
        {"role": "tool", "content": "7", "tool_call_id": "1"},
        {"role": "assistant"},
    ]
    assert template(messages=messages) == "[user]Hi;[assistant]look(3);[tool]7;[assistant];[assistant]"


def test_arguments_reach_the_template(template: Any) -> None:
    assert template(chat_template_kwargs={"enable_thinking": True}) == "[user]Hi;[assistant]<think>"
    assert template(add_generation_prompt=False) == "[user]Hi"
    messages = [*CHAT["messages"], {"role": "assistant", "content": "It is"}]
    assert template(messages=messages, continue_final_message=True) == "[user]Hi;[assistant]It is"
    assert template(messages=messages) == "[user]Hi;[assistant]It is;[assistant]"


def test_what_the_template_would_leave_out_is_refused(template: Any) -> None:
    with pytest.raises(RequestError) as refused:
        template(chat_template_kwargs={"enable_thinkng": True})
    assert (refused.value.message, refused.value.param) == (
        "chat_template_kwargs: this model's chat template has no variable 'enable_thinkng'. Did you mean "
        "'enable_thinking'?",
        "chat_template_kwargs.enable_thinkng",
    )
    template.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    with pytest.raises(RequestError, match="leaves tool calls out, so the model would not see 'look'"):
        template(messages=[{"role": "assistant", "tool_calls": [call]}])


def test_no_field_is_in_two_lists() -> None:
    honoured = set(Settings.model_fields)  # by every protocol
    lists = [honoured, set(fields.OF_REQUESTS), fields.WITHOUT_EFFECT]
    assert sum(map(len, lists)) == len(set().union(*lists))
