"""Cohen's kappa between a judge and people, against scikit-learn's and a published example."""

from __future__ import annotations

import math

import numpy as np
import pytest
from llmops_components.errors import DataError, SettingError
from llmops_components.evaluation.agreement import cohens_kappa
from llmops_components.evaluation.judge.agreement import (
    Agreement,
    Labels,
    agreement_of,
    check_labels,
    findings_of,
)

GOOD = Labels("human", threshold=0.5)


def rows_of(labels: list[object]) -> list[dict[str, object]]:
    return [{"prompt": "q", "human": label} for label in labels]


def test_kappa_is_that_of_a_published_example():
    """https://en.wikipedia.org/wiki/Cohen%27s_kappa: 50 proposals, 20 and 15 alike, 5 and 10 not; kappa is 0.4."""
    one = np.repeat([1, 1, 0, 0], [20, 5, 10, 15])
    other = np.repeat([1, 0, 1, 0], [20, 5, 10, 15])
    assert cohens_kappa(one, other) == pytest.approx(0.4)


@pytest.mark.parametrize("classes", [2, 5])
def test_kappa_is_that_of_scikit_learn(classes):
    from sklearn.metrics import cohen_kappa_score

    generator = np.random.default_rng(classes)
    for _ in range(20):
        one, noise = generator.integers(0, classes, (2, 60))
        other = np.where(generator.random(60) < 0.6, one, noise)
        assert cohens_kappa(one, other) == pytest.approx(cohen_kappa_score(one, other))


def test_rows_without_a_label_or_score_are_left_out_and_counted():
    rows = rows_of([True, False, 1, 0.0, None, 1])
    scores = np.array([0.9, 0.1, 0.5, 0.6, 0.7, math.nan])
    found = agreement_of(GOOD, rows, scores)
    assert (found.rows, found.unscored, found.agreed) == (4, 1, 0.75)
    assert found.kappa == pytest.approx(0.5)
    assert found.low is not None and found.high is not None and found.low <= 0.5 <= found.high
    assert agreement_of(Labels("human"), rows, scores).agreed == 0.0  # no score is the very number of a label


def test_the_interval_holds_the_true_kappa_as_often_as_it_says():
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        truth = generator.random(120) < 0.5
        judged = np.where(generator.random(120) < 0.8, truth, ~truth)  # kappa 0.6
        found = agreement_of(GOOD, rows_of(truth.tolist()), judged.astype(float))
        assert found.low is not None and found.high is not None
        held += found.low <= 0.6 <= found.high
    assert held >= 88


def test_where_all_say_the_same_there_is_no_kappa_and_no_minimum_is_reached():
    found = agreement_of(GOOD, rows_of([1] * 20), np.ones(20))
    assert found == Agreement(None, None, None, 1.0, 20, 0)
    assert findings_of("polite", Labels("human", 0.5, 0.0), found) == [
        "The judge does not agree enough with people by polite: kappa is not defined, on 20 rows, and the lower end must be at least 0. Take "
        "another judge or question, or label more rows."
    ]
    assert findings_of("polite", GOOD, found) == []


@pytest.mark.parametrize(
    ("found", "start"),
    [
        (Agreement(1.0, 1.0, 1.0, 1.0, 2, 98), "98 rows that people have labelled have no score by polite"),
        (Agreement(1.0, 1.0, 1.0, 1.0, 19, 0), "People have labelled 19 rows for polite, and at least 20"),
    ],
)
def test_a_minimum_is_not_reached_by_few_rows_or_with_some_unscored(found, start):
    (finding,) = findings_of("polite", Labels("human", 0.5, 0.4), found)
    assert finding.startswith(start)


@pytest.mark.parametrize(("minimum", "is_enough"), [(0.4, True), (0.41, False)])
def test_the_lower_end_of_the_interval_has_to_reach_the_minimum(minimum, is_enough):
    found = Agreement(0.6, 0.4, 0.8, 0.8, 50, 0)
    assert (findings_of("polite", Labels("human", 0.5, minimum), found) == []) is is_enough


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ({"polite": {"column": "nobody"}}, DataError, "0 of 3 rows have a label in nobody"),
        ({"rougeL": {"column": "human"}}, SettingError, "rougeL"),
        ({"polite": {"column": "word"}}, DataError, "A label in word is 'good'. Give numbers"),
        ({"polite": {"column": 1}}, SettingError, "labels of polite are"),
        ({"polite": {"column": "human", "min_kappa": 1}}, SettingError, "min_kappa of polite is 1"),
        ({"polite": {"column": "human", "weights": "x"}}, SettingError, "weights"),
    ],
)
def test_labels_that_cannot_be_compared_are_refused_before_anything_is_asked(labels, error, message):
    rows = [{"prompt": "q", "human": 1, "word": "good"}] * 3
    with pytest.raises(error, match=message):
        check_labels(rows, {name: Labels.of(name, each) for name, each in labels.items()}, ["polite"])
