"""What chat templates of well-known families make of rows: refused by name, or text that they leave out."""

from __future__ import annotations

import pytest
from chat_templates import tokenizer_with
from llmops_components.data.formats import DatasetFormat
from llmops_components.data.rendering import loss_finding, losses, lost_texts, refusal, render_prompt
from llmops_components.errors import DataError

CONVERSATION = DatasetFormat("language_modeling", True, ("messages",))
PREFERENCE = DatasetFormat("preference", True, ("prompt", "chosen", "rejected"))
PROMPT = DatasetFormat("prompt_only", True, ("prompt",))
FAMILIES = (
    *("chatml", "zephyr", "llama2", "mistral", "llama3", "llama3_1", "gemma", "gemma3", "phi3", "phi3_5"),
    *("qwen2_5", "qwen3", "deepseek_r1_distill", "deepseekv3", "cohere", "glm4moe", "gptoss", "lfm2"),
)


def user(content="Why is it so?"):
    return {"role": "user", "content": content}


def assistant(content="Because.", **more):
    return {"role": "assistant", "content": content, **more}


SYSTEM = {"role": "system", "content": "Be brief."}
CALL = [{"type": "function", "function": {"name": "look_up", "arguments": {"thing": "sky"}}}]
THINKING = assistant("<think>\nHm, let me see.\n</think>\n\nBecause.")


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_conversation_arrives_with_every_template(family):
    row = {"messages": [user(" Why?\n\n"), assistant(" Because. "), user("ok"), assistant("ok, ok")]}
    assert refusal(tokenizer_with(family), row, CONVERSATION) is None
    assert lost_texts(tokenizer_with(family), row, CONVERSATION) == []


@pytest.mark.parametrize(
    ("family", "messages", "refused"),
    [
        ("gemma", [SYSTEM, user(), assistant()], "message 1 of messages (system): System role not supported"),
        (
            "mistral",
            [SYSTEM, user(), assistant()],
            "message 1 of messages (system): Conversation roles must alternate user/assistant/user/assistant/",
        ),
        (
            "llama2",
            [user(), assistant(), {"role": "tool", "content": "x"}, assistant()],
            "message 3 of messages (tool): Conversation roles must alternate user/assistant/user/assistant/",
        ),
        (
            "qwen3_6",
            [{"role": "developer", "content": "Be brief."}, user(), assistant()],
            "message 1 of messages (developer): Unexpected message role",
        ),
    ],
)
def test_refused_message_is_named(family, messages, refused):
    row = {"messages": messages}
    assert refusal(tokenizer_with(family), row, CONVERSATION) == f"the chat template refuses {refused}"
    assert lost_texts(tokenizer_with(family), row, CONVERSATION) == []


@pytest.mark.parametrize(
    ("family", "messages", "lost"),
    [
        *((family, [SYSTEM, user(), assistant()], []) for family in ("chatml", "llama2", "llama3", "gemma3", "qwen3")),
        ("phi3", [SYSTEM, user(), assistant()], []),
        ("qwen3", [{**SYSTEM, "role": "developer"}, user(), assistant()], ["the text of message 1 of messages (developer)"]),
        ("chatml", [user(), THINKING], []),
        ("qwen3", [user(), THINKING], []),
        (
            "qwen3",
            [user(), THINKING, user("And?"), assistant("So.")],
            ["the reasoning of message 2 of messages (assistant)"],
        ),
        ("deepseek_r1_distill", [user(), THINKING], ["the reasoning of message 2 of messages (assistant)"]),
        ("qwen3", [user(), assistant(reasoning_content="Hm, let me see.")], []),
        (
            "llama3",
            [user(), assistant(reasoning_content="Hm, let me see.")],
            ["the reasoning of message 2 of messages (assistant)"],
        ),
        (
            "llama3",
            [user(), assistant("", tool_calls=CALL), {"role": "tool", "content": "blue"}, assistant()],
            ["the tool calls of message 2 of messages (assistant)"],
        ),
        (
            "phi3",
            [user(), assistant("", tool_calls=CALL), {"role": "tool", "content": "blue"}, assistant()],
            [
                "the text of message 3 of messages (tool)",
                "the tool calls of message 2 of messages (assistant)",
            ],
        ),
        *(
            (
                family,
                [user(), assistant("", tool_calls=CALL), {"role": "tool", "content": '{"colour": "bl\u00fc"}'}, assistant()],
                [],
            )
            for family in ("llama3_1", "qwen3", "glm4moe", "gptoss")
        ),
    ],
)  # fmt: skip
def test_text_that_a_template_leaves_out_is_named(family, messages, lost):
    row = {"messages": messages}
    assert refusal(tokenizer_with(family), row, CONVERSATION) is None
    assert lost_texts(tokenizer_with(family), row, CONVERSATION) == lost


def test_tools_that_a_template_ignores_are_named():
    row = {
        "messages": [user(), assistant()],
        "tools": [
            {"type": "function", "function": {"name": "look_up", "description": "d", "parameters": {}}}
        ],
    }
    assert lost_texts(tokenizer_with("gemma"), row, CONVERSATION) == ["the tools"]
    assert lost_texts(tokenizer_with("qwen3"), row, CONVERSATION) == []


def test_white_space_beside_tool_calls_is_no_text_to_lose():
    answer = {"role": "tool", "content": '{"colour": "blue"}'}
    row = {"messages": [user(), assistant("\n\n", tool_calls=CALL), answer, assistant()]}
    assert lost_texts(tokenizer_with("qwen3"), row, CONVERSATION) == []


def test_text_that_occurs_twice_has_to_arrive_twice():
    row = {"messages": [{"role": "developer", "content": "Why?"}, user("Why?"), assistant()]}
    assert lost_texts(tokenizer_with("qwen3"), row, CONVERSATION) == [
        "the text of message 1 of messages (developer)"
    ]


def test_prompt_chosen_and_rejected_are_named_by_field_and_place():
    row = {"prompt": [user()], "chosen": [THINKING], "rejected": [assistant("No.")]}
    assert lost_texts(tokenizer_with("deepseek_r1_distill"), row, PREFERENCE) == [
        "the reasoning of message 1 of chosen (assistant)"
    ]
    row["prompt"] = [SYSTEM, *row["prompt"]]
    assert refusal(tokenizer_with("gemma"), row, PREFERENCE) == (
        "the chat template refuses message 1 of prompt (system): System role not supported"
    )


def test_arguments_of_the_template_and_rows_of_text_are_seen_to():
    row = {"prompt": [user()], "chat_template_kwargs": {"tokenize": True}}
    assert refusal(tokenizer_with("chatml"), row, PROMPT).endswith(
        "got multiple values for keyword argument 'tokenize'"
    )
    assert (
        refusal(tokenizer_with("gemma"), {"prompt": "x"}, DatasetFormat("prompt_only", False, ("prompt",)))
        is None
    )


def test_prompt_is_rendered_as_transformers_does_or_its_row_is_named():
    tokenizer = tokenizer_with("qwen3")
    row = {"prompt": [user()], "chat_template_kwargs": {"enable_thinking": False}}
    assert render_prompt(tokenizer, row, 1) == tokenizer.apply_chat_template(
        row["prompt"], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    with pytest.raises(DataError) as raised:
        render_prompt(tokenizer_with("gemma"), {"prompt": [SYSTEM, user()]}, 3)
    assert str(raised.value) == (
        "Row 3: the chat template refuses message 1 of prompt (system): System role not supported. Correct the row, or use "
        "another chat template."
    )


def test_finding_names_the_first_rows_and_counts_the_others():
    rows = [
        (f"row {i}", {"messages": [{**SYSTEM, "role": "developer"}, user(), assistant()]})
        for i in range(1, 8)
    ]
    found = losses(tokenizer_with("qwen3"), rows, CONVERSATION)
    named = "; ".join(f"row {i}: the text of message 1 of messages (developer)" for i in range(1, 6))
    assert loss_finding(found, 9) == (
        "7 of 9 rows have text that the chat template leaves out, so that the model never sees it: "
        f"{named}; and 2 more. Change these rows, or use another chat template."
    )
    assert loss_finding([], 9) is None
