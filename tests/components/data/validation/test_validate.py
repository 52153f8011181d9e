"""The data gate: what it lets through, what it sets aside and why, and the two sides of each threshold."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
from chat_templates import chat_template
from llmops_components.data.files import read_rows, write_rows
from llmops_components.data.validation import validate_dataset
from llmops_components.errors import DataError, ModelError, SettingError
from llmops_components.models.loading import load_chat_tokenizer

OUTPUTS = ("validated", "rejected", "validation_result", "data_docs")


def good_rows(count: int) -> list[dict]:
    return [
        {
            "prompt": [{"role": "user", "content": f"What is {i} plus one?"}],
            "completion": [{"role": "assistant", "content": f"It is {i + 1}."}],
        }
        for i in range(count)
    ]


def validate(dataset: Path, *, base_model: Path | None = None, **settings):
    """With the model's tokenizer, as the component has it."""
    tokenizer = partial(load_chat_tokenizer, base_model) if base_model else None
    outputs = (dataset.parent / "out" / name for name in OUTPUTS)
    return validate_dataset(dataset, *outputs, tokenizer=tokenizer, **settings)


def written(dataset: Path, name: str) -> Path:
    return dataset.parent / "out" / name


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Ten lines: 2 broken JSON, 4 no completion, 5 empty completion, 7 repeats 1, 9 wrong last role."""
    rows = good_rows(10)
    del rows[3]["completion"]
    rows[4]["completion"][0]["content"] = " "
    rows[6] = {**rows[0], "id": 7}
    rows[8]["prompt"].append({"role": "assistant", "content": "<script>alert(1)</script>"})
    lines = [json.dumps(row) for row in rows]
    lines[1] = '{"prompt": '
    file = tmp_path / "dataset"
    file.write_text("\n".join(lines) + "\n")
    return file


REASONS = {
    2: "is not valid JSON: Expecting value (column 12)",
    4: "completion is missing",
    5: "completion is empty",
    7: "is the same as line 1",
    9: "prompt ends with the role assistant, not user",
}


def test_good_rows_pass_unchanged(tmp_path):
    dataset = tmp_path / "dataset"
    dataset.write_bytes(b'{"text":  "a", "n": 1.50}\n{"text": "\\u00e4"}\n')
    report = validate(dataset)
    assert report.passed
    assert report.findings == []
    assert report.metrics == {
        "rows": 2,
        "accepted_rows": 2,
        "rejected_rows": 0,
        "rejected_fraction": 0.0,
        "duplicate_rows": 0,
        "expectations": 6,
        "successful_expectations": 6,
    }
    expectations = report.details.pop("expectations")
    assert report.details == {
        "dataset_format": "language_modeling",
        "conversational": False,
        "columns": {"text": "string", "n": "number"},
    }
    assert [(each["severity"], each["success"]) for each in expectations] == [("critical", True)] * 6
    assert written(dataset, "validated").read_bytes() == dataset.read_bytes()
    assert written(dataset, "rejected").read_bytes() == b""


def test_each_bad_row_is_set_aside_with_its_line_and_reason_and_nothing_is_lost(mixed):
    report = validate(mixed)
    assert not report.passed
    assert report.findings == [
        "5 of 10 rows rejected, at most 0.0% may be",
        *(f"line {number}: {reason}" for number, reason in REASONS.items()),
    ]
    lines = mixed.read_text().splitlines()
    rejected = read_rows(written(mixed, "rejected"))
    assert rejected == [
        {"line": number, "row_id": f"dataset:{number}", "reasons": [reason], **original}
        for (number, reason), original in zip(
            REASONS.items(),
            [{"raw": lines[1]}, *({"row": json.loads(lines[i])} for i in (3, 4, 6, 8))],
            strict=True,
        )
    ]
    assert written(mixed, "validated").read_text().splitlines() == [lines[i] for i in (0, 2, 5, 7, 9)]


def test_great_expectations_finds_what_was_rejected(mixed):
    validate(mixed)
    result = json.loads(written(mixed, "validation_result").read_text())
    assert result["success"] is False
    assert result["suite_name"] == "prompt_completion"
    found = {
        (entry["expectation_config"]["type"], entry["expectation_config"]["kwargs"].get("column", "")): [
            row["(id)"] for row in entry["result"].get("partial_unexpected_index_list", [])
        ]
        for entry in result["results"]
    }
    assert found == {
        ("expect_column_sum_to_be_between", "accepted"): [],
        ("expect_column_mean_to_be_between", "rejected_row"): [],
        ("expect_lines_to_be_rows", ""): ["dataset:2"],
        ("expect_rows_to_fit_format", ""): ["dataset:4"],
        ("expect_fields_to_not_be_empty", ""): ["dataset:5"],
        ("expect_turns_to_alternate", ""): ["dataset:9"],
        ("expect_rows_to_be_unique", ""): ["dataset:7"],
    }
    told = [entry["result"].get("partial_unexpected_list") for entry in result["results"]]
    assert told[2:] == [[REASONS[number]] for number in (2, 4, 5, 9, 7)]
    assert not any(entry["exception_info"]["raised_exception"] for entry in result["results"])


def test_validation_opens_no_connection(mixed, monkeypatch):
    import socket

    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert validate(mixed).metrics["rows"] == 10


def test_data_docs_are_one_page_without_network_or_scripts(mixed):
    validate(mixed)
    page = written(mixed, "data_docs").read_text()
    assert "Dataset validation: prompt_completion (conversational), failed" in page
    assert "line 4: completion is missing" in page
    assert "At most 0.0% of the rows are rejected." in page
    assert page.count("1 unexpected values found.") == 5
    assert re.findall(r"https?:|<script|<link|src=", page) == []


def test_data_docs_show_what_is_in_the_data_as_text(tmp_path):
    rows = good_rows(2)
    rows[1]["completion"][0]["role"] = "<img src=x onerror=alert(1)>"
    write_rows(tmp_path / "dataset", rows)
    report = validate(tmp_path / "dataset")
    assert report.findings[-1].startswith("line 2: completion has the role '<img src=x onerror=alert(1)>'")
    page = written(tmp_path / "dataset", "data_docs").read_text()
    assert "<img" not in page
    assert page.count("&lt;img") == 2


@pytest.mark.parametrize(("fraction", "passed"), [(0.49, False), (0.5, True), (1, True)])
def test_rejected_fraction_passes_up_to_its_limit(mixed, fraction, passed):
    report = validate(mixed, max_rejected_fraction=fraction)
    assert report.passed is passed
    assert report.metrics["rejected_rows"] == 5
    assert json.loads(written(mixed, "validation_result").read_text())["success"] is passed


def test_rejected_fraction_survives_binary_fractions(tmp_path):
    rows = good_rows(100)
    for row in rows[:58]:
        row["completion"] = []
    write_rows(tmp_path / "dataset", rows)
    report = validate(tmp_path / "dataset", max_rejected_fraction=0.58, dataset_format="prompt_completion")
    assert report.passed
    assert len(report.findings) == 21
    assert report.findings[-1] == "38 more rejected rows are in the artifact `rejected`"


@pytest.mark.parametrize(("min_rows", "passed"), [(5, True), (6, False)])
def test_min_rows_counts_accepted_rows(mixed, min_rows, passed):
    report = validate(mixed, min_rows=min_rows, max_rejected_fraction=1)
    assert report.passed is passed
    assert ("5 rows accepted, at least 6 are needed" in report.findings) is not passed


@pytest.mark.parametrize(("limit", "rejected"), [(20, []), (19, [11])])
def test_length_limits_count_characters_of_all_messages(tmp_path, limit, rejected):
    write_rows(tmp_path / "dataset", good_rows(11))  # "What is 9 plus one?" has 19 characters
    report = validate(tmp_path / "dataset", max_prompt_characters=limit, max_answer_characters=10)
    assert report.metrics["rejected_rows"] == len(rejected)
    assert (
        [row["line"] for row in read_rows(written(tmp_path / "dataset", "rejected"))] == rejected
        if rejected
        else True
    )
    assert report.passed is not bool(rejected)


def test_answer_limit_looks_at_the_longest_answer(tmp_path):
    rows = [{"prompt": "p", "chosen": "short", "rejected": "longer one"}]
    write_rows(tmp_path / "dataset", rows)
    report = validate(tmp_path / "dataset", max_answer_characters=9)
    assert report.findings[-1] == "line 1: answer has 10 characters, more than 9"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "p", "chosen": "x", "rejected": "x"}, "rejected is the same as chosen"),
        ({"prompt": "p", "reference": ""}, "reference is empty"),
    ],
)
def test_preference_and_evaluation_rows_are_checked_as_such(tmp_path, row, reason):
    write_rows(tmp_path / "dataset", [row])
    report = validate(tmp_path / "dataset")
    assert not report.passed
    assert report.findings[-1] == f"line 1: {reason}"


@pytest.fixture
def gemma(tiny_model, tmp_path) -> Path:
    """A model whose chat template refuses system messages and trims text."""
    model = shutil.copytree(tiny_model, tmp_path / "gemma")
    (model / "chat_template.jinja").write_text(chat_template("gemma"))
    return model


def test_rows_that_the_chat_template_refuses_are_rejected_and_what_it_leaves_out_is_named(tmp_path, gemma):
    rows = good_rows(4)
    rows[1]["prompt"].insert(0, {"role": "system", "content": "Be brief."})
    rows[2]["completion"][0]["reasoning_content"] = "One more."
    rows[3]["completion"][0]["content"] = [
        {"type": "text", "text": "It is\n"},
        {"type": "text", "text": "4."},
    ]
    write_rows(tmp_path / "dataset", rows)
    report = validate(tmp_path / "dataset", base_model=gemma)
    assert not report.passed
    assert report.findings == [
        "1 of 4 rows rejected, at most 0.0% may be",
        "line 2: the chat template refuses message 1 of prompt (system): System role not supported",
        "1 of 3 rows have text that the chat template leaves out, so that the model never sees it: line 3: the reasoning of "
        "message 1 of completion (assistant). Change these rows, or use another chat template.",
    ]
    assert read_rows(written(tmp_path / "dataset", "validated")) == [rows[0], rows[2], rows[3]]
    assert validate(tmp_path / "dataset").findings == []


def test_plain_text_needs_no_chat_template_and_conversations_do(tmp_path, gemma):
    (gemma / "chat_template.jinja").unlink()
    write_rows(tmp_path / "dataset", [{"text": "a"}])
    assert validate(tmp_path / "dataset", base_model=gemma).findings == []
    write_rows(tmp_path / "dataset", good_rows(1))
    with pytest.raises(
        ModelError, match=r"^The tokenizer has no chat template, and the rows are conversations"
    ):
        validate(tmp_path / "dataset", base_model=gemma)


def test_what_no_step_takes_or_reads_in_full_is_named(tmp_path):
    rows = [
        {"prompt": f"p{i}", "chosen": "x", "rejected": "y", **({"margin": 1.0} if i else {})}
        for i in range(3)
    ]
    rows[2]["image"] = "a.png"
    write_rows(tmp_path / "dataset", rows)
    assert validate(tmp_path / "dataset").findings == [
        "1 of 3 rows rejected, at most 0.0% may be",
        "line 3: image holds pictures, sound or video; only text is taken here, so leave the column out",
        "margin is missing in 1 of 2 rows (line 1); train_reward takes it in all rows or in none. Fill the column, or leave "
        "it out.",
    ]


def test_other_files_come_out_as_json_lines(tmp_path):
    (tmp_path / "dataset").write_text("prompt,completion,id\na,b,1\na,,2\n")
    report = validate(tmp_path / "dataset")
    assert report.findings[1:] == ["line 3: completion is empty"]
    assert written(tmp_path / "dataset", "validated").read_text() == (
        '{"prompt": "a", "completion": "b", "id": "1"}\n'
    )


def test_declared_format_rejects_rows_of_another(tmp_path):
    write_rows(tmp_path / "dataset", good_rows(2))
    report = validate(tmp_path / "dataset", dataset_format="preference")
    assert report.metrics["rejected_rows"] == 2
    assert report.findings[-1] == "line 2: chosen is missing; rejected is missing"


def test_of_several_formats_the_one_that_the_rows_have_is_taken_and_any_other_is_refused(tmp_path):
    write_rows(tmp_path / "dataset", good_rows(2))
    report = validate(tmp_path / "dataset", dataset_format="prompt_completion, language_modeling")
    assert (report.passed, report.details["dataset_format"]) == (True, "prompt_completion")
    with pytest.raises(
        DataError, match=r"The rows are in the format prompt_completion .* needs preference or unpaired"
    ):
        validate(tmp_path / "dataset", dataset_format="preference,unpaired_preference")
    with pytest.raises(SettingError, match="did you mean 'preference'"):
        validate(tmp_path / "dataset", dataset_format="preferences, unpaired_preference")


def test_a_file_of_broken_lines_only_fails_the_gate_and_keeps_them(tmp_path):
    (tmp_path / "dataset").write_bytes(b"a b\n1,\xff\n")
    report = validate(tmp_path / "dataset")
    assert not report.passed
    assert report.details["expectations"][-1] == {
        "type": "expect_lines_to_be_rows",
        "column": None,
        "severity": "critical",
        "success": False,
        "unexpected": 2,
    }
    del report.details["expectations"]
    assert report.details == {"dataset_format": None, "conversational": None, "columns": {}}
    assert [row["raw"] for row in read_rows(written(tmp_path / "dataset", "rejected"))] == ["a b", "1,\\xff"]


def test_an_empty_dataset_is_an_error(tmp_path):
    (tmp_path / "dataset").write_text("\n\n")
    with pytest.raises(DataError, match="has no rows"):
        validate(tmp_path / "dataset")


def test_rows_of_no_known_format_are_an_error_that_names_their_fields(tmp_path):
    write_rows(tmp_path / "dataset", [{"question": "q", "answer": "a"}])
    with pytest.raises(DataError, match="fields seen: question, answer"):
        validate(tmp_path / "dataset")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_rows": 0}, "min_rows is 0"),
        ({"max_rejected_fraction": 1.5}, "max_rejected_fraction is 1.5; give a number from 0 to 1"),
        ({"max_rejected_fraction": float("nan")}, "max_rejected_fraction is nan"),
        ({"max_prompt_characters": 0}, "max_prompt_characters is 0"),
        ({"dataset_format": "prompt-completion"}, "did you mean 'prompt_completion'"),
    ],
)
def test_wrong_settings_are_refused_by_name(tmp_path, settings, message):
    write_rows(tmp_path / "dataset", good_rows(1))
    with pytest.raises(SettingError, match=message):
        validate(tmp_path / "dataset", **settings)
