"""A suite of the caller's: what it rejects, what it only tells, and what is refused before a row is judged."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import pytest
from llmops_components.data.files import read_rows, write_rows
from llmops_components.data.validation import validate_dataset
from llmops_components.errors import DataError, SettingError
from llmops_components.models.loading import load_chat_tokenizer
from tiny_model import write_rows as write_jsonl

OUTPUTS = ("validated", "rejected", "validation_result", "data_docs")


def validate(
    tmp_path: Path, rows: list[dict[str, Any]], *expectations: dict[str, Any], **settings: Any
) -> Any:
    write_rows(tmp_path / "data.jsonl", rows)
    outputs = (tmp_path / name for name in OUTPUTS)
    return validate_dataset(tmp_path / "data.jsonl", *outputs, expectations=expectations, **settings)


def rejected(tmp_path: Path) -> dict[int, list[str]]:
    return (
        {row["line"]: row["reasons"] for row in read_rows(tmp_path / "rejected")}
        if (tmp_path / "rejected").stat().st_size
        else {}
    )


def rows(count: int = 10) -> list[dict[str, Any]]:
    return [
        {"text": f"Row number {i}.", "score": i / 10, "source": "wiki" if i else "forum"}
        for i in range(count)
    ]


def expect(kind: str, **kwargs: Any) -> dict[str, Any]:
    severity = kwargs.pop("severity", "critical")
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity}


SCORES = "expect_column_values_to_be_between(column='score', max_value=0.75)"


@pytest.mark.parametrize(
    ("mostly", "severity", "passed", "set_aside"),
    [
        (1, "critical", False, 2),
        (0.81, "critical", False, 2),
        (0.8, "critical", True, 2),
        (1, "warning", True, 0),
    ],
)
def test_mostly_decides_the_gate_and_severity_what_is_set_aside(
    tmp_path, mostly, severity, passed, set_aside
):
    report = validate(
        tmp_path,
        rows(),
        expect(
            "column_values_to_be_between", column="score", max_value=0.75, mostly=mostly, severity=severity
        ),
    )
    assert (report.passed, report.metrics["rejected_rows"]) == (passed, set_aside)
    told = [
        each
        for each in report.findings
        if each.startswith(f"{severity}: expect_column_values_to_be_between(")
    ]
    assert len(told) == (not passed or severity == "warning")
    assert all("2 of 10 values are unexpected (lines 9, 10)" in each for each in told)
    assert rejected(tmp_path).keys() == ({9, 10} if set_aside else set())
    assert json.loads((tmp_path / "validation_result").read_text())["success"] is (mostly == 0.8)


def test_a_reason_names_the_value_and_the_expectation(tmp_path):
    validate(tmp_path, rows(), expect("column_values_to_be_between", column="score", max_value=0.75))
    assert rejected(tmp_path)[9] == [f"score is 0.8, against {SCORES}"]


def test_a_suite_that_gx_wrote_is_read_and_works_beside_ours(tmp_path):
    suite = gx.ExpectationSuite(
        name="mine",
        expectations=[
            gxe.ExpectColumnValuesToBeInSet(column="source", value_set=["wiki"], severity="critical"),
            gxe.ExpectColumnMeanToBeBetween(column="score", max_value=0.1, severity="warning"),
        ],
    )
    (tmp_path / "suite.json").write_text(json.dumps(suite.to_json_dict()))
    table = rows()
    table[3]["text"] = " "
    report = validate(tmp_path, table, suite=tmp_path / "suite.json")
    assert report.findings[:3] == [
        "1 of 10 rows rejected, at most 0.0% may be",
        "critical: expect_column_values_to_be_in_set(column='source', value_set=['wiki']) is not met: 1 of 10 values are "
        "unexpected (lines 1)",
        "warning: expect_column_mean_to_be_between(column='score', max_value=0.1) is not met: found 0.45",
    ]
    assert rejected(tmp_path).keys() == {1, 4}
    page = (tmp_path / "data_docs").read_text()
    assert "forum" in page


@pytest.mark.parametrize(
    ("expectation", "error", "message"),
    [
        (
            expect("column_values_to_be_null", column="absent"),
            DataError,
            "names the column 'absent', which no row has",
        ),
        (
            expect("column_value_to_be_null", column="text"),
            SettingError,
            "did you mean 'expect_column_values_to_be_null'",
        ),
        (
            expect("column_median_to_be_between", column="score"),
            SettingError,
            "Unknown expectation: 'expect_column_median",
        ),
        (expect("column_values_to_be_null", column="text", most=1), SettingError, "did you mean 'mostly'"),
        (
            expect("column_values_to_be_null", column="text", mostly=2),
            SettingError,
            "has a wrong value: mostly",
        ),
        (
            expect("column_values_to_be_null", column="text", row_condition="x"),
            SettingError,
            "'row_condition'",
        ),
        (
            expect("column_values_to_match_regex", column="text", regex="(?=a)"),
            SettingError,
            "a look ahead or behind",
        ),
        (
            expect("column_values_to_be_between", column="text", max_value=3),
            DataError,
            "cannot be judged: text holds text",
        ),
        (expect("row_tokens_to_fit_context"), DataError, "no model is known: give base_model"),
        (
            expect("column_mean_to_be_between", column="score", max_value={"$PARAMETER": "x"}),
            SettingError,
            "is a parameter",
        ),
        ({"expectation_type": "x"}, SettingError, "Expectation 1 is no object with a type"),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(tmp_path, expectation, error, message):
    with pytest.raises(error, match=message):
        validate(tmp_path, rows(2), expectation)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "The suite is not readable JSON"),
        ("[]", "The suite is no suite of Great Expectations"),
        ('{"expectation_suite_name": "a", "expectations": []}', "one of Great Expectations 0.x"),
        ('{"name": "a", "expectations": [], "suite_parameters": {"a": 1}}', "has suite_parameters"),
    ],
)
def test_what_is_no_suite_is_refused(tmp_path, text, message):
    (tmp_path / "suite.json").write_text(text)
    with pytest.raises((DataError, SettingError), match=message):
        validate(tmp_path, rows(1), suite=tmp_path / "suite.json")


def test_expectations_of_ours_judge_whole_rows(tmp_path):
    table = [
        {
            "prompt": "Where is the city of Berlin, please tell me?",
            "completion": "It is in Germany, of course.",
            "label": True,
        },
        {
            "prompt": "Wo liegt denn bitte die Stadt Berlin genau?",
            "completion": "Sie liegt in Deutschland.",
            "label": True,
        },
        {"prompt": "Is the sky blue on a clear and sunny day?", "completion": "Yes.", "label": False},
    ]
    report = validate(
        tmp_path,
        table,
        expect("row_languages_to_be_in_set", languages=["en"]),
        expect("row_characters_to_be_between", part="answer", min_value=5),
        expect("column_labels_to_be_balanced", min_share=0.4, severity="warning"),
        expect("rows_to_fit_format", dataset_format="preference", severity="warning"),
    )
    assert rejected(tmp_path) == {
        2: ["is in the language de"],
        3: ["answer has 4 characters, fewer than 5"],
    }
    assert [each for each in report.findings if each.startswith("warning")] == [
        "warning: expect_column_labels_to_be_balanced(min_share=0.4) is not met: found 0.3333333333333333",
        "warning: expect_rows_to_fit_format(dataset_format='preference') is not met: 3 of 3 values are unexpected (lines 1, "
        "2, 3)",
    ]


def test_rows_beyond_the_context_of_the_model_are_rejected(tmp_path, tiny_model):
    table = [
        {"messages": [{"role": "user", "content": "a " * size}, {"role": "assistant", "content": "b"}]}
        for size in (1, 400)
    ]
    report = validate(
        tmp_path,
        table,
        expect("row_tokens_to_fit_context", max_tokens=100),
        tokenizer=partial(load_chat_tokenizer, tiny_model),
    )
    assert not report.passed
    (reasons,) = rejected(tmp_path).values()
    assert reasons[0].startswith("has ")
    assert reasons[0].endswith(" tokens, more than 100")


def test_rows_of_the_evaluation_are_no_rows_to_train_on(tmp_path):
    write_jsonl(tmp_path / "evaluation", [{"prompt": "What is  ONE plus one?", "reference": "2"}])
    table = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": "2"}]}
        for asked in ("What is one plus one?", "What is two?")
    ]
    report = validate(tmp_path, table, evaluation=tmp_path / "evaluation")
    assert not report.passed
    assert rejected(tmp_path) == {1: ["asks what a row of the evaluation asks"]}


def test_ids_that_several_rows_have_are_told(tmp_path):
    table = [{"text": f"t{i}", "id": i % 2} for i in range(3)]
    assert validate(tmp_path, table).findings == [
        "1 values of id are of several rows, so that it does not tell them apart: '0' in lines 1, 3."
    ]
