"""What a dataset file may look like, and what an unusable one is told."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from llmops_components.data.formats import (
    DatasetFormat,
    detect_format,
    read_rows,
    read_valid_rows,
    row_problems,
    write_rows,
)
from llmops_components.errors import DataError, SettingError


def user(content="Why?"):
    return {"role": "user", "content": content}


def assistant(content="Because."):
    return {"role": "assistant", "content": content}


PROMPT_COMPLETION = DatasetFormat("prompt_completion", True, ("prompt", "completion"))
CONVERSATION = DatasetFormat("language_modeling", True, ("messages",))
PREFERENCE = DatasetFormat("preference", True, ("prompt", "chosen", "rejected"))
IMPLICIT = DatasetFormat("preference", True, ("chosen", "rejected"))
EVALUATION = DatasetFormat("evaluation", True, ("prompt", "reference", "contexts"))

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
    ({"prompt": [user()], "reference": "Because.", "contexts": ["It is so."]}, EVALUATION),
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


def test_no_known_field_names_what_was_seen():
    with pytest.raises(DataError, match="fields seen: question, answer"):
        detect_format([{"question": "a", "answer": "b"}])


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
            {"prompt": [user()], "reference": 3, "contexts": ["a", ""]},
            EVALUATION,
            [("reference", "is a number, not text"), ("contexts", "has no text at position 2")],
        ),
        (
            {"prompt": [user()], "contexts": "a"},
            EVALUATION,
            [("reference", "is missing"), ("contexts", "is text, not a list of texts")],
        ),
        (
            {"prompt": "a", "completion": "b", "label": 1},
            DatasetFormat("unpaired_preference", False, ("prompt", "completion", "label")),
            [("label", "is a number, not true or false")],
        ),
    ],
)
def test_row_problems_name_field_and_problem(row, dataset_format, problems):
    assert row_problems(row, dataset_format) == problems


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


def test_rows_survive_being_written_and_read(tmp_path: Path):
    rows = [{"text": "ä\u2028\n"}, {"text": "\U0001f600"}]
    write_rows(tmp_path / "new" / "data", rows)
    assert read_rows(tmp_path / "new" / "data") == rows


def test_blank_lines_carriage_returns_and_a_byte_order_mark_are_no_problem(tmp_path: Path):
    file = tmp_path / "data"
    file.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\n  \n{"text": "b"}')
    assert read_rows(file) == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "a', "line 2 is not valid JSON: Unterminated string starting at (column 10)"),
        (b'{"text": "a"} x', "line 2 is not valid JSON: Extra data (column 15)"),
        (b"[1]", "line 2 is not a JSON object but a list"),
        (b"null", "line 2 is not a JSON object but null"),
        (b'{"text": NaN}', "line 2 is not usable JSON: NaN is not a JSON number"),
        (b'{"text": "\xff"}', "line 2 is not UTF-8 at byte 11 of the line"),
        (b'{"text": "\\ud83d"}', "line 2 has half of a Unicode surrogate pair (\\udXXX), which is not text"),
        (b"[" * 100_000, "line 2 is not usable JSON: maximum recursion depth exceeded"),
    ],
)
def test_unusable_lines_are_named_with_file_and_number(tmp_path: Path, line, problem):
    file = tmp_path / "data"
    file.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(DataError) as raised:
        read_rows(file)
    assert str(raised.value).startswith(f"Dataset {file} cannot be used: {problem}")


def test_both_halves_of_a_surrogate_pair_are_text(tmp_path: Path):
    (tmp_path / "data").write_bytes(b'{"text": "\\ud83d\\ude00"}\n')
    assert read_rows(tmp_path / "data") == [{"text": "\U0001f600"}]


def test_many_broken_lines_are_counted_not_listed(tmp_path: Path):
    (tmp_path / "data").write_text("x\n" * 7)
    with pytest.raises(DataError, match=r"line 5 is not valid JSON.*; and 2 more"):
        read_rows(tmp_path / "data")


def test_empty_missing_and_directory_are_told_apart(tmp_path: Path):
    (tmp_path / "empty").write_text("\n")
    for name, message in (("empty", "has no rows"), ("missing", "does not exist"), (".", "is a directory")):
        with pytest.raises(DataError, match=message):
            read_rows(tmp_path / name)


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
