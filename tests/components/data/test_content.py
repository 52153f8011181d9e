"""Content parts become text, the same for training, evaluation and serving."""

from __future__ import annotations

import pytest
from llmops_components.data.content import content_problem, content_text, with_text_content


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Why?", "Why?"),
        ([{"type": "text", "text": "Why?"}], "Why?"),
        ([{"type": "text", "text": "Why"}, {"type": "text", "text": " so?"}], "Why so?"),
        ([{"text": "Why?"}], "Why?"),
        ([{"type": "input_text", "text": "Why"}, {"type": "output_text", "text": "?"}], "Why?"),
        (["Why", {"type": "text", "text": "?"}], "Why?"),
        ([{"type": "text", "text": ""}, {"type": "text", "text": "?"}], "?"),
        ([], ""),
    ],
)
def test_text_parts_become_one_text(content, text):
    assert content_problem(content) is None
    assert content_text(content) == text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([{"type": "image"}], "has a content part of the type 'image'; only text is taken"),
        (
            [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "x"}}],
            "has a content part of the type 'image_url'; only text is taken",
        ),
        (
            [{"type": "input_audio", "input_audio": {}}],
            "has a content part of the type 'input_audio'; only text is taken",
        ),
        ([{"type": None, "text": "x"}], "has a content part of the type 'None'; only text is taken"),
        ([{"type": "text"}], "has a content part without text"),
        ([{"type": "text", "text": 3}], "has a content part without text"),
        ([3], "has a content part that is neither an object nor text"),
        (3, "has content that is neither text nor a list of parts"),
        ({"type": "text", "text": "x"}, "has content that is neither text nor a list of parts"),
    ],
)
def test_what_is_not_text_is_said_by_name(content, problem):
    assert content_problem(content) == problem


def test_messages_keep_all_but_their_parts():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look"}}]}
    messages = [{"role": "user", "content": [{"type": "text", "text": "Look."}], "name": "Ann"}, call]
    assert with_text_content(messages) == [{"role": "user", "content": "Look.", "name": "Ann"}, call]
    assert messages[0]["content"] == [{"type": "text", "text": "Look."}]
