"""Metrics of users: functions of packages that whoever runs the component allows."""

from __future__ import annotations

import pytest
from llmops_components.errors import DataError, SettingError
from llmops_components.evaluation.metrics.plan import plan_for_columns, plan_metrics
from llmops_components.evaluation.scored import Given, score_rows

ROWS = [{"prompt": "q", "allowed": 4}, {"prompt": "q", "allowed": 0}, {"prompt": "q", "allowed": 2}]
GIVEN = [Given("one two"), Given("one"), Given(None, "HTTP 500: oops")]


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_ALLOWED_CODE", "trust_remote_code, toy_metrics")


def test_a_function_scores_answered_rows_under_its_own_name_and_says_what_it_is():
    plan = plan_metrics(["toy_metrics:brevity", "toy_metrics:plain"])
    assert plan.names == ("brevity", "plain")
    metric = plan.metric("brevity")
    assert (metric.about, metric.columns, metric.worst, metric.best, metric.higher_is_better) == (
        "Words of the answer for each that the row allows; lower is better.",
        ("allowed",),
        0,
        None,
        False,
    )
    scored = score_rows(plan, ROWS, GIVEN)
    assert scored.scores["brevity"].values.tolist()[:1] == [0.5]
    assert scored.scores["brevity"].are_there.tolist() == [True, False, False]
    assert scored.reasons["brevity"] == {
        1: "What scores them gave no finite number",
        2: "HTTP 500: oops",
    }
    assert scored.scores["plain"].are_there.tolist() == [True, True, False]


def test_its_columns_have_to_be_there():
    with pytest.raises(DataError, match="The rows have no allowed, which the metrics brevity need"):
        plan_for_columns(plan_metrics(["toy_metrics:brevity"]), ["prompt"], all_of_them=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:getcwd", "functions of the module os are not allowed here"),
        ("toy_metrics:getcwd", "toy_metrics:getcwd is not a function that toy_metrics defines"),
        ("toy_metrics:brevvity", "brevity"),
        ("toy_metrics:bleu", "has the name of a metric or of a column that there is, bleu"),
        ("toy_metrics:samples", "has the name of a metric or of a column that there is, samples"),
        ("toy_metrics:__doc__", "does not name a function"),
        ("toy-metrics:x", "does not name a function"),
    ],
)
def test_what_is_not_allowed_or_none_is_refused(name, message):
    with pytest.raises(SettingError, match=message):
        plan_metrics([name])


def test_without_permission_nothing_is_imported(monkeypatch):
    monkeypatch.delenv("LLMOPS_ALLOWED_CODE")
    with pytest.raises(SettingError, match="the environment variable LLMOPS_ALLOWED_CODE"):
        plan_metrics(["toy_metrics:plain"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", "the function short gave 1 values for 2 rows"),
        ("worded", "the function worded gave 'good'. It has to give one number"),
        ("outside", "the function outside gave 2, and its bounds are 0 and 1"),
        ("failing", "the function failing failed: RuntimeError: no luck"),
    ],
)
def test_a_function_that_gives_no_number_for_each_row_is_an_error(name, message):
    with pytest.raises(SettingError, match=message):
        score_rows(plan_metrics([f"toy_metrics:{name}"]), ROWS[:2], GIVEN[:2])
