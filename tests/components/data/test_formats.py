"""What rows may look like, and what unusable ones are told."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from llmops_components.data.files import write_rows
from llmops_components.data.formats import DatasetFormat, detect_format, partly_filled
from llmops_components.data.valid_rows import read_valid_rows, row_problems
from llmops_components.errors import DataError, SettingError


def user(content="Why?"):
    return {"role": "user", "content": content}


def assistant(content="Because."):
    return {"role": "assistant", "content": content}


PROMPT_COMPLETION = DatasetFormat("prompt_completion", True, ("prompt", "completion"))
CONVERSATION = DatasetFormat("language_modeling", True, ("messages",))
PREFERENCE = DatasetFormat("preference", True, ("prompt", "chosen", "rejected"))
IMPLICIT = DatasetFormat("preference", True, ("chosen", "rejected"))
EVALUATION = DatasetFormat("evaluation", True, ("prompt", "reference"))

# One row of each of TRL's dataset types, as its documentation shows them, and one of evaluation.
FORMATS = [
    ({"text": "The sky is blue."}, DatasetFormat("language_modeling", False, ("text",))),
    ({"messages": [user(), assistant()]}, CONVERSATION),
    ({"prompt": "The sky is"}, DatasetFormat("prompt_only", False, ("prompt",))),
    ({"prompt": [user()]}, DatasetFormat("prompt_only", True, ("prompt",))),
    (
        {"prompt": "The sky is", "completion": " blue."},
        DatasetFormat("prompt_completion", False, ("prompt", "completion")),
    ),
    ({"prompt": [user()], "completion": [assistant()]}, PROMPT_COMPLETION),
    (
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        DatasetFormat("preference", False, ("prompt", "chosen", "rejected")),
    ),
    (
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        DatasetFormat("preference", False, ("chosen", "rejected")),
    ),
    ({"prompt": [user()], "chosen": [assistant("a")], "rejected": [assistant("b")]}, PREFERENCE),
    ({"chosen": [user(), assistant("a")], "rejected": [user(), assistant("b")]}, IMPLICIT),
    (
        {"prompt": "The sky is", "completion": " blue.", "label": True},
        DatasetFormat("unpaired_preference", False, ("prompt", "completion", "label")),
    ),
    ({"prompt": [user()], "reference": "Because."}, EVALUATION),
]


@pytest.mark.parametrize(
    ("row", "expected"), FORMATS, ids=lambda value: "-".join(value) if isinstance(value, dict) else ""
)
def test_detects_each_format_and_accepts_its_row(row, expected):
    assert detect_format([row]) == expected
    assert row_problems(row, expected) == []


def test_format_is_that_of_most_rows_so_that_a_row_without_completion_is_the_exception():
    rows = [{"prompt": "a", "completion": "b"}] * 3 + [{"prompt": "a"}]
    assert detect_format(rows).name == "prompt_completion"
    assert row_problems(rows[-1], detect_format(rows)) == [("completion", "is missing")]


def test_style_is_that_of_most_rows_so_that_a_plain_row_among_conversations_is_a_problem():
    rows = [{"prompt": [user()], "completion": [assistant()]}] * 2 + [{"prompt": "Why?", "completion": "So."}]
    assert detect_format(rows) == PROMPT_COMPLETION
    assert row_problems(rows[-1], PROMPT_COMPLETION) == [
        ("prompt", "is text, not a list of messages"),
        ("completion", "is text, not a list of messages"),
    ]


def test_declared_format_wins_over_the_fields_seen():
    assert detect_format([{"prompt": "a", "completion": "b"}], "preference").fields == (
        "prompt",
        "chosen",
        "rejected",
    )
    with pytest.raises(SettingError, match="did you mean 'preference'"):
        detect_format([{"prompt": "a"}], "preferences")


def test_no_known_field_names_what_was_seen_and_what_it_may_be():
    with pytest.raises(DataError) as raised:
        detect_format([{"question": "a", "Answer": "b", "id": 1}])
    assert str(raised.value) == (
        "No row has the fields of a known format; fields seen: question, Answer, id. Rename what is meant by other names: "
        "question may be prompt, Answer may be completion. A row needs, for example, prompt and completion; prompt, chosen "
        "and rejected; messages; text; or prompt and reference."
    )


def test_rows_inside_of_one_row_are_hinted_at():
    with pytest.raises(DataError) as raised:
        detect_format([{"version": 1, "data": [{"prompt": "a", "completion": "b"}]}])
    assert str(raised.value) == (
        "The one row holds lists of objects, which may be the rows: data. Write each of them on one line, for example with "
        "`jq -c '.data[]'`."
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "9.11 > 9.8?", "completions": ["11 > 8."], "labels": [False]},
            "The rows are for stepwise supervision (prompt, completions, labels), which no step here takes.",
        ),
        (
            {"input_ids": [1, 2], "labels": [1, 2]},
            "The rows are tokenised already (input_ids), which no step here takes.",
        ),
    ],
)
def test_formats_of_trl_that_no_trainer_takes_are_refused_by_name(row, message):
    with pytest.raises(DataError) as raised:
        detect_format([row])
    assert str(raised.value) == message


def test_tokens_beside_the_text_that_they_are_of_do_not_matter():
    for row, expected in FORMATS:
        assert detect_format([{**row, "input_ids": [1, 2]}]) == expected


def test_reference_beside_an_answer_makes_no_evaluation_rows_of_training_rows():
    extra = {"reference": "r", "contexts": ["c"]}
    for row, expected in FORMATS:
        found = detect_format([{**row, **extra}]).name
        assert found == ("evaluation" if expected.name == "prompt_only" else expected.name)


def test_training_rows_with_a_reference_can_be_evaluated_on(tmp_path: Path):
    rows = [{"prompt": "a", "completion": "b", "reference": "b"}] * 2
    write_rows(tmp_path / "data", rows)
    evaluation = DatasetFormat("evaluation", False, ("prompt", "reference"))
    assert read_valid_rows(tmp_path / "data", ("evaluation",)) == (rows, evaluation)
    assert read_valid_rows(tmp_path / "data", ("prompt_completion",))[1].name == "prompt_completion"


def test_names_of_ragas_are_read_as_ours(tmp_path: Path):
    row = {"user_input": "Why?", "retrieved_contexts": ["It is so."], "response": "So.", "reference": "So."}
    write_rows(tmp_path / "data", [row])
    rows, found = read_valid_rows(tmp_path / "data")
    assert found.name == "evaluation"
    assert rows == [{"prompt": "Why?", "contexts": ["It is so."], "response": "So.", "reference": "So."}]


def test_content_parts_reach_no_step(tmp_path: Path):
    parts = [{"type": "text", "text": "Be"}, {"type": "text", "text": "cause."}]
    write_rows(tmp_path / "data", [{"prompt": [user()], "completion": [assistant(parts)]}])
    rows, _ = read_valid_rows(tmp_path / "data")
    assert rows == [{"prompt": [user()], "completion": [assistant("Because.")]}]


def test_column_that_only_some_rows_have_is_named():
    rows = [(f"line {i}", {"margin": 1.0} if i > 7 else {}) for i in range(1, 9)]
    assert partly_filled(rows, "margin", "why") == (
        "margin is missing in 7 of 8 rows (line 1, line 2, line 3, line 4, line 5 and 2 more); why. Fill the column, or "
        "leave it out."
    )
    assert partly_filled(rows[:7], "margin", "why") is None
    assert partly_filled(rows[7:], "margin", "why") is None


@pytest.mark.parametrize(
    ("row", "dataset_format", "problems"),
    [
        (
            {"prompt": [user()], "completion": [assistant(" ")]},
            PROMPT_COMPLETION,
            [("completion", "is empty")],
        ),
        ({"prompt": [user()], "completion": []}, PROMPT_COMPLETION, [("completion", "is empty")]),
        ({"prompt": [user()], "completion": None}, PROMPT_COMPLETION, [("completion", "is null")]),
        (
            {"prompt": [user()], "completion": [user()]},
            PROMPT_COMPLETION,
            [("completion", "starts with the role user, not assistant")],
        ),
        (
            {"prompt": [user(), assistant()], "completion": [assistant()]},
            PROMPT_COMPLETION,
            [("prompt", "ends with the role assistant, not user")],
        ),
        ({"messages": [user(), user()]}, CONVERSATION, [("messages", "has the role user after user")]),
        ({"messages": [assistant()]}, CONVERSATION, [("messages", "has the role assistant at the start")]),
        ({"messages": [user()]}, CONVERSATION, [("messages", "ends with the role user, not assistant")]),
        (
            {"messages": [user(), {"role": "bot", "content": "x"}]},
            CONVERSATION,
            [
                (
                    "messages",
                    "message 2 has the role 'bot' (known: system, developer, user, assistant, tool)",
                )
            ],
        ),
        (
            {"messages": [user(), {"role": "assistant"}]},
            CONVERSATION,
            [("messages", "message 2 has no content")],
        ),
        ({"messages": [user(), {"content": "x"}]}, CONVERSATION, [("messages", "message 2 has no role")]),
        (
            {"prompt": ["a", "b"], "completion": [assistant()]},
            PROMPT_COMPLETION,
            [
                (
                    "prompt",
                    "is a list of texts, not of messages; a row of plain text has one text, so write a row for each",
                )
            ],
        ),
        (
            {"messages": ["hi", assistant()]},
            CONVERSATION,
            [("messages", "message 1 is text, not an object with role and content")],
        ),
        (
            {"prompt": [user()], "chosen": [assistant()], "rejected": [assistant()]},
            PREFERENCE,
            [("rejected", "is the same as chosen")],
        ),
        (
            {"chosen": [user("a"), assistant()], "rejected": [user("b"), assistant()]},
            IMPLICIT,
            [("rejected", "does not start with the same message as chosen, so there is no shared prompt")],
        ),
        (
            {"prompt": [user()], "reference": 3, "contexts": []},
            EVALUATION,
            [("reference", "is a number, not text")],
        ),
        (
            {"prompt": [user()], "contexts": "a"},
            EVALUATION,
            [("reference", "is missing")],
        ),
        (
            {"prompt": "a", "completion": "b", "label": 1},
            DatasetFormat("unpaired_preference", False, ("prompt", "completion", "label")),
            [("label", "is a number, not true or false")],
        ),
        (
            {"messages": [user([{"type": "text", "text": "Look:"}, {"type": "image"}]), assistant()]},
            CONVERSATION,
            [("messages", "message 1 has a content part of the type 'image'; only text is taken")],
        ),
        (
            {"messages": [user([{"type": "text", "text": " "}]), assistant([])]},
            CONVERSATION,
            [("messages", "message 1 is empty"), ("messages", "message 2 is empty")],
        ),
        (
            {"messages": [{"from": "human", "value": "Why?"}, assistant()]},
            CONVERSATION,
            [("messages", "message 1 has no role, but from 'human'; name it role")],
        ),
        (
            {"messages": [user(), {**assistant(), "tool_calls": {"name": "look"}}]},
            CONVERSATION,
            [],
        ),
        (
            {"messages": [user(), {**assistant(), "tool_calls": ["look"]}]},
            CONVERSATION,
            [
                (
                    "messages",
                    "message 2 has tool_calls that are not a list of objects, each with a function and its name",
                )
            ],
        ),
        (
            {"messages": [user(), assistant()], "images": ["a.png"], "image": None, "audios": []},
            CONVERSATION,
            [
                (
                    "images",
                    "holds pictures, sound or video; only text is taken here, so leave the column out",
                )
            ],
        ),
        (
            {"messages": [user(), assistant()], "tools": "look", "chat_template_kwargs": []},
            CONVERSATION,
            [
                ("tools", "is text that is not JSON"),
                ("chat_template_kwargs", "is a list, not an object with arguments"),
            ],
        ),
        (
            {"messages": [user(), assistant()], "tools": [1]},
            CONVERSATION,
            [("tools", "is not a list of objects, each the JSON schema of a function")],
        ),
        (
            {"messages": [user(), assistant()], "tools": '[{"type": "function"}]', "margin": "x"},
            CONVERSATION,
            [],
        ),
        (
            {"prompt": [user()], "chosen": [assistant("a")], "rejected": [assistant("b")], "margin": "2"},
            PREFERENCE,
            [("margin", "is text, not a number")],
        ),
        (
            {
                "prompt": [user()],
                "chosen": [assistant("a")],
                "rejected": [assistant([{"type": "text", "text": "a"}])],
            },
            PREFERENCE,
            [("rejected", "is the same as chosen")],
        ),
        (
            {"prompt": "[{'role': 'user', 'content': 'Why?'}]", "completion": '[{"name": "x"}]'},
            DatasetFormat("prompt_completion", False, ("prompt", "completion")),
            [
                (
                    "prompt",
                    "is a list of messages written as text; write it as a list of objects with role and content",
                )
            ],
        ),
        (
            {"prompt": "a", "completions": ["b"]},
            DatasetFormat("prompt_only", False, ("prompt",)),
            [],
        ),
    ],
)
def test_row_problems_name_field_and_problem(row, dataset_format, problems):
    assert row_problems(row, dataset_format) == problems


@pytest.mark.parametrize(
    ("column", "value", "is_media"),
    [
        ("image", "", False),
        ("images", False, False),
        ("image", "a.png", True),
        ("audio", "https://example.org/a.wav", False),
        ("video", {"bytes": "x"}, True),
        ("audios", ["a.wav"], True),
    ],
)
def test_empty_columns_and_links_to_sound_and_video_are_no_media(column, value, is_media):
    row = {"messages": [user(), assistant()], column: value}
    assert [field for field, _ in row_problems(row, CONVERSATION)] == [column] * is_media


@pytest.mark.parametrize(
    ("text", "is_messages"),
    [
        ('[{"role": "user", "content": "Why?"}]', True),
        ('[{"role": "assistant", "name": "a", "tool_calls": [{"name": "look"}]}]', True),
        ("[{'from': 'human', 'value': 'Why?'}]", True),
        ('[{"content": "He said \\"no\\", {twice}", "role": "user"}]', True),
        ('[{"from": "Paris", "to": "London"}]', False),
        ('[{"content": "Buy milk"}]', False),
        ('[{"content": "Buy milk", "role": "chore"}]', False),
        ('[{"role": "user", "permission": 1}]', False),
        ('[{"role": "user"}, {"content": "x"}]', False),
    ],
)
def test_answers_that_are_json_are_told_from_messages_written_as_text(text, is_messages):
    problems = row_problems(
        {"prompt": "a", "completion": text},
        DatasetFormat("prompt_completion", False, ("prompt", "completion")),
    )
    assert bool(problems) == is_messages


def test_tool_calls_system_messages_and_content_parts_are_valid():
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {}}}]}
    messages = [
        {"role": "system", "content": "Be brief."},
        user([{"type": "text", "text": "1 + 1?"}]),
        call,
        {"role": "tool", "content": "2"},
        assistant("2"),
    ]
    assert row_problems({"messages": messages}, CONVERSATION) == []


def test_valid_rows_come_with_their_format(tmp_path: Path):
    write_rows(tmp_path / "data", [{"prompt": "a", "completion": "b"}])
    rows, found = read_valid_rows(tmp_path / "data", ("prompt_completion",))
    assert (rows, found.name) == ([{"prompt": "a", "completion": "b"}], "prompt_completion")


def test_a_row_without_completion_is_named_by_its_line(tmp_path: Path):
    file = tmp_path / "data"
    file.write_text('{"prompt": "a", "completion": "b"}\n\n{"prompt": "c"}\n')
    with pytest.raises(DataError, match="line 3: completion is missing"):
        read_valid_rows(file, ("prompt_completion",))


def test_another_format_than_the_step_needs_is_refused(tmp_path: Path):
    write_rows(tmp_path / "data", [{"prompt": "a"}])
    with pytest.raises(DataError, match=r"prompt_only \(plain text\).*needs preference or language_modeling"):
        read_valid_rows(tmp_path / "data", ("preference", "language_modeling"))


def test_no_json_value_anywhere_in_a_row_is_more_than_a_problem():
    rng = random.Random(0)  # noqa: S311 - reproducible rows, not a secret
    leaves = [
        None,
        True,
        0,
        1.5,
        "",
        " ",
        "x",
        [],
        {},
        ["x"],
        [None],
        [[]],
        [{}],
        [{"role": []}],
        {"role": "user"},
    ]
    keys = ["role", "content", "type", "text", "tool_calls"]

    def value(depth: int):
        kind = rng.random() if depth else 0
        if kind < 0.3:
            return rng.choice([*leaves, "user", "assistant", "system", "text"])
        if kind < 0.6:
            return [value(depth - 1) for _ in range(rng.randrange(3))]
        return {key: value(depth - 1) for key in rng.sample(keys, rng.randrange(len(keys)))}

    fields = sorted({field for row, _ in FORMATS for field in row})
    valid = 0
    for _ in range(20_000):
        row = {field: value(4) for field in rng.sample(fields, rng.randrange(1, 5))}
        for _, dataset_format in FORMATS:
            valid += not row_problems(row, dataset_format)
        with contextlib.suppress(DataError):
            detect_format([row])
    assert valid  # some of it is valid by chance, or this test would try nothing
