"""What the answers of a canary are judged by."""

from __future__ import annotations

import json
import re

import comparisons as compared
import pytest

from airflow_provider_llmops.comparison import Comparison
from airflow_provider_llmops.decision import Decision, Outcome
from airflow_provider_llmops.delivery.probes import CanaryProbes, judge_answers, together
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.results import StageResult

WORST = [
    {"row": 4, "prompt": "p" * 200, "answer": "\u5b57" * 200, "baseline_answer": "b" * 200, "score": 0.1}
] * 3


def result(difference=-0.1, scored=10, unscored=0, missed=0, metric="rougeL"):
    candidate = None if difference is None else 0.8 + difference
    found = compared.metric(candidate, 0.8, rows=scored + unscored, unscored=unscored)
    value = compared.comparison(**{metric: found})
    return StageResult(
        component="compare_revisions",
        run_id="r",
        component_digest="d",
        findings=["The revision did not answer 1 of 10 rows"] if missed else [],
        metrics={"rows": scored + unscored, "candidate_unanswered": missed},
        details={"worst": WORST},
        comparison=Comparison.model_validate(value),
    )


@pytest.mark.parametrize(
    ("limits", "found", "outcome", "finding"),
    [
        (
            {},
            result(-0.1),
            "pass",
            "good enough: rougeL 0.7 against 0.8 of the stable revision on 10 questions, -0.1",
        ),
        ({}, result(0.1), "pass", "good enough"),
        ({"min_difference": 0}, result(0), "pass", "good enough"),
        (
            {},
            result(-0.101),
            "fail",
            "answers are worse: rougeL 0.699 against 0.8 .* at least -0.1 is asked for",
        ),
        ({"min_difference": 0.05}, result(0), "fail", "answers are worse"),
        ({}, result(0, 9, 1, 1), "fail", "left 1 of 10 questions unanswered; at most 0 of them may be"),
        ({"max_unscored": 0.1}, result(0, 9, 1, 1), "pass", "good enough"),
        ({"max_unscored": 0.1}, result(0, 8, 2, 2), "fail", "left 2 of 10 questions unanswered"),
        # What the stable revision leaves open says nothing of the canary.
        ({}, result(0, 9, 1), "undecided", "1 of 10 questions have no rougeL"),
        ({"max_unscored": 0.1}, result(0, 9, 1), "pass", "good enough"),
        ({"max_unscored": 0.1}, result(-0.2, 9, 1), "fail", "answers are worse"),
        ({"max_unscored": 0.9}, result(None, 0, 10), "undecided", "10 of 10 questions have no rougeL"),
        ({}, result(metric="bleu"), "undecided", "were not compared by rougeL"),
    ],
)
def test_answers_are_judged_by_difference_and_by_what_is_not_scored(limits, found, outcome, finding):
    probes = CanaryProbes(**{"dataset": "/d", "min_difference": -0.1, **limits})
    decision = judge_answers(probes, found)
    assert decision.outcome == outcome
    assert re.search(finding, decision.findings[0])
    assert decision.rules["min_difference"] == probes.min_difference
    answers = decision.evidence.get("answers", {})
    assert ("worst" in answers) == (outcome != "pass" and bool(answers))
    assert len(json.dumps(answers)) < 2500
    assert Decision.read(json.loads(json.dumps(decision.to_json()))) == Decision(
        decision.outcome, decision.findings, decision.rules, decision.evidence
    )


def decision(outcome, name):
    return Decision(Outcome(outcome), (name,), {name: 1}, {name: {}})


@pytest.mark.parametrize(
    ("requests", "answers", "outcome", "first"),
    [
        ("pass", "pass", "pass", "requests"),
        ("pass", "undecided", "undecided", "answers"),
        ("undecided", "pass", "undecided", "requests"),
        ("undecided", "undecided", "undecided", "requests"),
        ("undecided", "fail", "fail", "answers"),
        ("fail", "undecided", "fail", "requests"),
        ("pass", "fail", "fail", "answers"),
    ],
)
def test_the_worse_of_two_decisions_counts_and_is_told_first(requests, answers, outcome, first):
    both = together(decision(requests, "requests"), decision(answers, "answers"))
    assert (both.outcome, both.findings[0], len(both.findings)) == (outcome, first, 2)
    assert set(both.rules) == set(both.evidence) == {"requests", "answers"}


def test_values_of_a_form_are_read_from_their_texts():
    given = {
        "dataset": "/d",
        "min_difference": "-0.02",
        "max_unscored": "0.1",
        "arguments": '{"request": {"max_tokens": 8}}',
        "metric": None,
    }
    found = CanaryProbes.of(given)
    assert found == CanaryProbes("/d", -0.02, "rougeL", 0.1, {"request": {"max_tokens": 8}})
    assert CanaryProbes.read(json.loads(json.dumps(found.to_json()))) == found
    assert CanaryProbes.of(None) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/d", "probes must be a dict with dataset, min_difference"),
        ({"min_difference": 0}, "probes lacks dataset"),
        ({"dataset": "/d"}, "probes lacks min_difference"),
        (
            {"dataset": "/d", "min_diference": 0},
            r"unknown 'min_diference' \(did you mean 'min_difference'\?\)",
        ),
        ({"dataset": "", "min_difference": 0}, "dataset must be a text"),
        ({"dataset": "/d", "min_difference": "some"}, "min_difference"),
        ({"dataset": "/d", "min_difference": True}, "min_difference must be a number"),
        ({"dataset": "/d", "min_difference": float("nan")}, "min_difference must be a number"),
        (
            {"dataset": "/d", "min_difference": 0, "max_unscored": 1},
            "max_unscored is a share from 0 to below 1",
        ),
        ({"dataset": "/d", "min_difference": 0, "arguments": [1]}, "arguments must be those of"),
        (
            {"dataset": "/d", "min_difference": 0, "arguments": {"url": "x"}},
            "arguments has url, which the canary",
        ),
        (  # with which each step but the first would ask nothing
            {"dataset": "/d", "min_difference": 0, "arguments": {"checkpoints": "/c"}},
            "arguments has checkpoints, which the canary sees to itself",
        ),
    ],
)
def test_probes_that_are_none_are_refused(given, message):
    with pytest.raises(ConfigurationError, match=message):
        CanaryProbes.of(given)
