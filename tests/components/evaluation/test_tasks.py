"""Verifiable tasks: which answers are right, which are wrong, and what is not scored."""

from __future__ import annotations

import json
import re
import time
from decimal import Decimal
from typing import Any

import pytest
from llmops_components.errors import DataError, SettingError
from llmops_components.evaluation.metrics.columns import check_columns, columns_of
from llmops_components.evaluation.metrics.plan import plan_for_columns, plan_metrics
from llmops_components.evaluation.scored import Given, Scored, score_rows
from llmops_components.evaluation.tasks import schemas
from llmops_components.evaluation.tasks.numeric import number_in


def scored(name: str, rows: list[dict[str, Any]], answers: list[str | None], **args: Any) -> Scored:
    rows = [{"prompt": "q", **row} for row in rows]
    plan = plan_metrics([name], metric_args={name: args} if args else None)
    plan = plan_for_columns(plan, columns_of(rows, ("prompt",)), all_of_them=True)
    check_columns("rows.jsonl", rows, plan)
    given = [Given(each, None if each is not None else "HTTP 500: oops") for each in answers]
    return score_rows(plan, rows, given)


def verdicts(
    name: str, rows: list[dict[str, Any]], answers: list[str | None], **args: Any
) -> list[bool | None]:
    values = scored(name, rows, answers, **args).scores[name].values.tolist()
    return [None if value != value else bool(value) for value in values]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 42.", "42"),
        ("I paid $1,234,567.50 in all.", "1234567.50"),
        ("x = -5", "-5"),
        ("x = \u22125", "-5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("5 - 3", "3"),
        ("between 10-15", "15"),
        ("1, 2, 3", "3"),
        ("1,2,3", "3"),
        ("3/4", "0.75"),
        (r"\frac{3}{4}", "0.75"),
        (r"-\dfrac{1}{2}", "-0.5"),
        ("1 3/4 cups", "1.75"),
        ("1\u00be cups", "1.75"),
        ("1\u00bd", "1.5"),
        ("\u00bd of it", "0.5"),
        ("1'234", "1234"),
        ("CHF 1\u2019234\u2019567.50", "1234567.5"),
        ("\u20b91,00,000", "100000"),
        ("Rs. 12,34,567", "1234567"),
        ("1,00,000", "0"),
        (r"1\frac{3}{4}", "1.75"),
        (".5", "0.5"),
        ("1.5e3", "1500"),
        (r"1.5 \times 10^{-3}", "0.0015"),
        (r"1{,}234\,567", "1234567"),
        ("1\u202f234", "1234"),
        ("\u0664\u0662", "42"),
        ("#### 1,080 (of 3000)\nThat took 5 steps.", "1080"),
        ("5 apples\n#### -7", "-7"),
        (r"\boxed{x = \frac{1}{2}}, as 7 says", "0.5"),
        (r"\boxed{3} no, \boxed{4} after 9 steps", "4"),
        (r"\boxed{none}, as 7 says", None),
        ("#### none of 7", "7"),
        ("#### none\n7", None),
        ("2^{10}", None),
        ("2^10 = 1024", "1024"),
        (r"\sqrt{2}", None),
        ("1/0", None),
        ("no", None),
        ("9" * 2000, None),
        ("1e9999999", None),
    ],
)
def test_the_number_of_a_text(text, number):
    found = number_in(text)
    assert (None if found is None else found.value) == (None if number is None else Decimal(number))


def test_numbers_of_gsm8k_are_those_of_lm_evaluation_harness():
    # https://github.com/EleutherAI/lm-evaluation-harness/blob/main/lm_eval/tasks/gsm8k/gsm8k.yaml
    flexible = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
    strict = re.compile(r"#### (\-?[0-9\.\,]+)")
    texts = [
        "She sold 48/2 = <<48/2=24>>24 clips in May.\nIn all 48+24 = <<48+24=72>>72 clips.\n#### 72",
        "The profit is 200,000-130,000=$70,000\n#### 70,000",
        "He pays $5 each, so the answer is $1,060.",
        "Then the total is 3 + 4 = 7 dollars",
        "That is -12 degrees.",
    ]
    for text in texts:
        match = strict.search(text)
        theirs = match[1] if match else "".join(flexible.findall(text)[-1])
        found = number_in(text)
        assert found is not None and float(found.value) == float(re.sub(r"[$,]|\.$", "", theirs))


def test_a_number_takes_time_in_proportion_to_its_text():
    began = time.process_time()
    for text in (
        "9" * 200_000,
        "1," * 100_000,
        "1 " * 100_000,
        r"\frac{" * 40_000,
        "-$" * 100_000,
        "^" + " " * 100_000 + "x 5",
        r"\sqrt" + " " * 100_000 + "x 5",
        "**" * 100_000 + "5",
    ):
        number_in(text)
    assert time.process_time() - began < 60  # what grows faster takes minutes


@pytest.mark.parametrize(
    ("answer", "reference", "args", "is_right"),
    [
        ("It is 72", "#### 72", {}, True),
        ("It is 72.0", "72", {}, True),
        ("It is 73", "72", {}, False),
        ("I do not know", "72", {}, False),
        ("", "72", {}, False),
        ("2/6", "1/3", {}, True),
        ("0.3333", "1/3", {}, False),
        ("0.3333", "1/3", {"tolerance": 0.001}, True),
        ("102", "100", {"relative_tolerance": 0.02}, True),
        ("102.1", "100", {"relative_tolerance": 0.02}, False),
        ("50%", "0.5", {}, True),
        ("50%", "50", {}, True),
        ("0.5", "50%", {}, True),
        ("5%", "0.5", {}, False),
        ("0.5%", "50%", {}, False),
        ("1.234,5", "1234,5", {"decimal_comma": True}, True),
        ("123456789012345678901234567890123456789", "123456789012345678901234567890123456788", {}, False),
        ("-123456789012345678901234567890123456789", "-123456789012345678901234567890123456788", {}, False),
        ("<think>first 72, or 70</think>It is 71", "71", {}, True),
        ("<think>it is 72", "72", {}, False),
        ("it is 71 or so</think>72", "72", {}, True),
        ("The answer is **42**.", "42", {}, True),
        ("**Answer:** 42", "42", {}, True),
        ("**Total: $1,234.50** in all", "1234.5", {}, True),
        ("***5%***", "0.05", {}, True),
        ("It is 2**5", "5", {}, False),
        ("It is 2 ** 5", "5", {}, False),
        ("It is 2**5", "2", {}, False),
        ("It is 10\u00b2", "10", {}, False),
        (r"\boxed{\frac34}", "0.75", {}, True),
        (r"\boxed{\frac34}", "34", {}, False),
        (r"\boxed{\frac{3}4}", "3/4", {}, True),
        (r"\boxed{\frac{-3}{-4}}", "3/4", {}, True),
        (r"\boxed{\frac{\pi}{2}}", "2", {}, False),
    ],
)
def test_a_numeric_answer_is_right_or_wrong(answer, reference, args, is_right):
    assert verdicts("numeric_answer", [{"reference": reference}], [answer], **args) == [is_right]


def test_a_row_has_a_tolerance_of_its_own():
    rows = [{"reference": "10", "tolerance": 0}, {"reference": "10", "tolerance": 2}, {"reference": "10"}]
    assert verdicts("numeric_answer", rows, ["11", "12", "11"], tolerance=1) == [False, True, True]


SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0}, "born": {"type": "string", "format": "date"}},
    "required": ["age"],
    "additionalProperties": False,
}


JSON_ANSWERS: dict[str | None, bool | None] = {
    '{"age": 3}': True,
    '{"age": 3, "born": "2020-02-29"}': True,
    '{"age": 3, "born": "2021-02-29"}': False,
    '{"age": -3}': False,
    '{"age": 3, "name": "x"}': False,
    'Here it is:\n```json\n{"age": 3}\n```\nAnything else?': True,
    '```\n{"age": 3}\n```': True,
    '```json\n{"age": 3}': True,
    '```json\n{"age": 3}\n```\n```json\n{"age": 4}\n```': False,
    '```python\n{"age": 3}\n```': False,
    'It is {"age": 3}.': False,
    '<think>{"age": -1}</think>{"age": 3}': True,
    '{"age": 3, "age": 4}': False,
    '{"age": NaN}': False,
    "[" * 5000: False,
    "": False,
}


def test_json_is_valid_by_its_schema_or_not():
    answers = list(JSON_ANSWERS)
    found = verdicts("json_schema", [{"schema": SCHEMA}] * len(answers), answers)
    assert dict(zip(answers, found, strict=True)) == JSON_ANSWERS
    assert verdicts("json_schema", [{}] * len(answers), answers, schema=json.dumps(SCHEMA)) == found


FORMATS = [
    ("date-time", "2020-01-02T03:04:05.6Z", "2020-13-02T03:04:05Z"),
    ("date-time", "2020-01-02t23:59:60+01:00", "2020-01-02 03:04:05Z"),
    ("time", "03:04:05Z", "03:04:05"),
    ("hostname", "a-b.example", "-a.example"),
    ("uri", "https://a.example/b?c#d", "a b"),
    ("email", "a@b", "ab"),
    ("ipv4", "1.2.3.4", "1.2.3.400"),
    ("uuid", "2f1ee5d5-9a00-4bc1-a7d5-d30cd61975b9", "2f1e"),
    ("regex", "a+", "(a"),
]


def test_formats_are_checked():
    rows = [{"schema": {"type": "string", "format": name}} for name, _, _ in FORMATS] * 2
    answers = [json.dumps(good) for _, good, _ in FORMATS] + [json.dumps(bad) for _, _, bad in FORMATS]
    assert verdicts("json_schema", rows, [*answers]) == [True] * len(FORMATS) + [False] * len(FORMATS)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "text"}, r"line 2: schema is no valid JSON schema: \$.type: 'text' is not valid"),
        (
            {"format": "duration"},
            "line 2: schema names the format 'duration', which cannot be checked. Known: ",
        ),
        ({"$ref": "https://a.example/s.json"}, "refers to 'https://a.example/s.json', which is not in it"),
        ({"items": {"$ref": "#/$defs/x"}}, "line 2: schema refers to '/\\$defs/x', which is not in it"),
        ({"$schema": "https://a.example/mine"}, "has the \\$schema 'https://a.example/mine', which is none"),
        ([1], "is no object, and no JSON schema"),
        ("{", "is text that is no JSON"),
    ],
)
def test_a_schema_that_is_none_names_its_row(schema, message):
    with pytest.raises(DataError, match=message):
        verdicts("json_schema", [{"schema": SCHEMA}, {"schema": schema}], ["", ""])
    with pytest.raises(SettingError, match="the schema of json_schema"):
        plan_metrics(["json_schema"], metric_args={"json_schema": {"schema": schema}})


def test_references_within_a_schema_are_followed_and_a_row_has_its_own():
    tree = {"type": "array", "items": {"$ref": "#"}}
    older = {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {"const": 1}}}
    older["properties"] = {"x": {"$ref": "#/definitions/a"}}
    rows = [{"schema": tree}, {"schema": tree}, {"schema": older}, {"schema": older}]
    assert verdicts("json_schema", rows, ["[[], [[]]]", "[[], [1]]", '{"x": 1}', '{"x": 2}']) == [
        *(True, False),
        *(True, False),
    ]


def test_a_schema_that_cannot_be_checked_leaves_its_row_without_a_score(monkeypatch):
    monkeypatch.setattr(schemas, "_SECONDS", 0.5)
    endless = {"pattern": "^(a+)+$"}
    loop = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    rows = [{"schema": endless}, {"schema": loop}, {"schema": {"const": "x"}}]
    found = scored("json_schema", rows, [json.dumps("a" * 40 + "!"), "1", '"x"'])
    assert found.scores["json_schema"].are_there.tolist() == [False, False, True]
    assert found.reasons["json_schema"] == {
        0: "its schema was not checked within 0.5 s",
        1: "its schema could not be checked: it goes deeper than can be followed",
    }


def test_a_pattern_matches_or_not():
    rows = [
        {"pattern": r"\b\d{4}\b"},
        {"pattern": r"\b\d{4}\b"},
        {"pattern": "^yes$"},
        {"pattern": "(?i)YES"},
    ]
    answers: list[str | None] = ["in 1999.", "in 199.", "yes, or no", "yes"]
    assert verdicts("regular_expression", rows, answers) == [True, False, False, True]
    assert verdicts("regular_expression", rows, answers, match="full") == [False, False, False, True]
    assert verdicts("regular_expression", [{}, {}], ["a", "b"], pattern="a") == [True, False]


def test_a_pattern_that_never_ends_leaves_its_row_without_a_score_and_the_next_ones_have_theirs():
    rows = [{"pattern": "^(a+)+$"}, {"pattern": "^(a+)+$"}, {"pattern": "b"}]
    began = time.monotonic()
    found = scored("regular_expression", rows, ["a" * 40 + "!", "aa", None], seconds=0.5)
    assert time.monotonic() - began < 120
    assert found.scores["regular_expression"].are_there.tolist() == [False, True, False]
    assert found.reasons["regular_expression"] == {
        0: "its pattern gave no verdict within 0.5 s",
        2: "HTTP 500: oops",
    }


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        (
            "numeric_answer",
            {"reference": "none"},
            "line 2: reference is 'none', in which numeric_answer finds no",
        ),
        (
            "numeric_answer",
            {"reference": "1", "tolerance": -1},
            "line 2: tolerance is -1, and no number from 0 on",
        ),
        (
            "regular_expression",
            {"pattern": "("},
            r"line 2: pattern is '\(', and no regular expression: missing",
        ),
        ("regular_expression", {"pattern": ""}, "line 2: pattern is empty, which every answer matches"),
        ("regular_expression", {"pattern": 3}, "line 2: pattern is 3, and no text"),
        ("json_schema", {}, "The rows have no schema, which the metrics json_schema need"),
    ],
)
def test_rows_that_cannot_be_judged_are_refused_by_line(name, row, message):
    good = {"reference": "1", "pattern": "a", "schema": {}}
    with pytest.raises(DataError, match=message):
        scored(name, [good, row], ["1", "1"])


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("numeric_answer", {"tolerance": "1"}, "tolerance of numeric_answer is '1'. Give a number from 0 on"),
        ("numeric_answer", {"decimal_comma": 1}, "decimal_comma of numeric_answer is 1"),
        ("numeric_answer", {"tolerence": 1}, "Unknown argument in metric_args.*did you mean 'tolerance'"),
        ("regular_expression", {"match": "fullmatch"}, "Unknown match of regular_expression.*did you mean"),
        ("regular_expression", {"seconds": 0}, "seconds of regular_expression is 0"),
        ("regular_expression", {"pattern": "("}, "the pattern of regular_expression is"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(name, args, message):
    with pytest.raises(SettingError, match=message):
        plan_metrics([name], metric_args={name: args})
