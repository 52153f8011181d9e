"""What a canary is judged by."""

from __future__ import annotations

import json
import math
import re

import pytest

from airflow_provider_llmops.backends.serving.base import Answers
from airflow_provider_llmops.decision import Decision, Outcome
from airflow_provider_llmops.delivery.analysis import CanaryLimits, judge
from airflow_provider_llmops.exceptions import ConfigurationError


def answers(requests, errors=0, seconds=0.1):
    return Answers(requests, errors, {seconds: requests - errors})


def limits(**given):
    none = dict.fromkeys(
        ("max_error_rate", "max_error_rate_increase", "max_latency_seconds", "max_latency_ratio")
    )
    return CanaryLimits(**{"min_requests": 100, **none, **given})


@pytest.mark.parametrize(
    ("given", "canary", "stable", "outcome", "finding"),
    [
        (
            limits(max_error_rate=0.01),
            answers(100, 1),
            answers(0),
            "pass",
            "kept to every limit with 100 requests",
        ),
        (
            limits(max_error_rate=0.01),
            answers(100, 5),
            answers(0),
            "fail",
            r"5 of the canary's 100 requests failed \(5%\), at most 1% may",
        ),
        # So few more happen to a good canary, too: P(X >= 2) of 100 requests at 1 percent is 0.26.
        (
            limits(max_error_rate=0.01),
            answers(100, 2),
            answers(0),
            "undecided",
            r"\(2%\), at most 1% may. That may be chance with 100 requests",
        ),
        # Two failures of three are too many of a hundred, too; one is not yet.
        (
            limits(max_error_rate=0.01),
            answers(3, 2),
            answers(0),
            "fail",
            "2 of the canary's 3 requests failed",
        ),
        (
            limits(max_error_rate=0.01),
            answers(3, 1),
            answers(0),
            "undecided",
            "answered 3 of the 100 requests",
        ),
        (
            limits(max_error_rate=0.01),
            answers(0),
            answers(500),
            "undecided",
            "answered 0 of the 100 requests",
        ),
        (limits(max_error_rate=0), answers(1, 1), answers(0), "fail", "1 of the canary's 1 requests failed"),
        (
            limits(max_latency_seconds=2),
            answers(100, seconds=2.1),
            answers(0),
            "fail",
            r"took up to 2.1 s, at most 2 s",
        ),
        (limits(max_latency_seconds=2), answers(99, seconds=9), answers(0), "undecided", "99 of the 100"),
        (limits(max_latency_ratio=1.5), answers(100, seconds=0.15), answers(100), "pass", "kept"),
        (
            limits(max_latency_ratio=1.5),
            answers(100, seconds=0.2),
            answers(100),
            "fail",
            "2 times the stable revision's 0.1 s",
        ),
        (
            limits(max_latency_ratio=1.5),
            answers(100, seconds=0.2),
            answers(99),
            "undecided",
            "with which it is compared, has answered 99",
        ),
        # The stable one fails as well: the service has a problem, not the canary.
        (limits(max_error_rate_increase=0.02), answers(100, 7), answers(1000, 50), "pass", "kept"),
        (
            limits(max_error_rate_increase=0.02),
            answers(100, 20),
            answers(1000, 50),
            "fail",
            "20% of the canary's requests failed, against 5%",
        ),
        (
            limits(max_error_rate_increase=0.02),
            answers(100, 8),
            answers(1000, 50),
            "undecided",
            "8% of the canary's requests failed, against 5% .* may be chance",
        ),
        # Two slow ones of 26, as on a machine that is busy for a moment, and as many as no good canary has.
        (
            limits(max_latency_ratio=4, min_requests=20),
            Answers(26, 0, {0.05: 24, 0.6: 2}),
            answers(27),
            "undecided",
            r"6 times the stable revision's 0.1 s; at most 4 times is allowed. That may be chance with 26",
        ),
        (
            limits(max_latency_seconds=0.5, min_requests=20),
            Answers(26, 0, {0.05: 20, 0.6: 6}),
            answers(27),
            "fail",
            "took up to 0.6 s, at most 0.5 s are allowed.$",
        ),
        (
            limits(max_latency_ratio=1.5),
            answers(100, 100),
            answers(100),
            "fail",
            "Not one of the canary's 100 requests was answered without an error",
        ),
    ],
)
def test_a_canary_is_judged(given, canary, stable, outcome, finding):
    decision = judge(given, canary, stable)
    assert decision.outcome == outcome
    assert re.search(finding, decision.findings[0])
    assert Decision.read(json.loads(json.dumps(decision.to_json()))) == decision


def test_what_was_answered_before_does_not_count():
    before = Answers(10, 2, {0.1: 5, 0.2: 3}, began=1.0)
    later = Answers(15, 3, {0.1: 5, 0.2: 5, 0.4: 2}, began=1.0)
    assert later.since(before) == Answers(5, 1, {0.1: 0, 0.2: 2, 0.4: 2}, began=1.0)
    assert later.since(before).percentile(0.95) == 0.4
    assert later.since(Answers()) == later  # no request had reached it
    again = Answers(15, 3, {0.1: 12}, began=2.0)
    assert again.since(before) == again  # a gateway that was started again counts from nothing
    assert Answers.read(json.loads(json.dumps(later.to_json()))) == later


def test_percentile_is_that_of_the_sorted_answers():
    found = Answers(20, 0, {0.1: 10, 0.2: 9, 5.0: 1})
    assert [found.percentile(share) for share in (0.5, 0.51, 0.95, 0.96, 1.0)] == [0.1, 0.2, 0.2, 5.0, 5.0]
    assert Answers().percentile(0.95) is None
    assert Answers().error_rate is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_requests": 0}, "min_requests must be a number from 1 on, got 0"),
        ({"min_requests": "50"}, "min_requests must be a number from 1 on"),
        ({"max_error_rate": 1}, "max_error_rate is a share below 1"),
        ({"max_error_rate": -0.1}, "max_error_rate must be a number from 0 on"),
        ({"max_latency_ratio": float("nan")}, "max_latency_ratio must be a number from 0 on"),
        ({"max_latency_seconds": 0}, "max_latency_seconds must be above 0"),
        ({"max_error_rate": None, "max_latency_ratio": None}, "A canary needs a limit to be judged by"),
    ],
)
def test_limits_that_are_none_are_refused(given, message):
    with pytest.raises(ConfigurationError, match=message):
        CanaryLimits(**given)


def test_outcomes_are_the_words_of_a_decision():
    assert [str(each) for each in Outcome] == ["pass", "fail", "undecided"]


def chance_of(errors, requests, rate):
    return sum(
        math.comb(requests, count) * rate**count * (1 - rate) ** (requests - count)
        for count in range(errors, requests + 1)
    )


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.2])
@pytest.mark.parametrize("requests", [1, 7, 50, 800])
def test_a_step_ends_early_only_where_so_many_errors_are_no_accident(rate, requests):
    given = limits(max_error_rate=rate)
    for errors in range(min(requests, 250) + 1):
        decision = judge(given, answers(requests, errors), answers(0), is_over=False)
        is_no_accident = errors > rate * requests and chance_of(errors, requests, rate) < 0.001
        assert (decision.outcome == "fail") == is_no_accident, (errors, decision)
        assert decision.outcome != "pass"


@pytest.mark.parametrize("allowed", [0.01, 0.2])
@pytest.mark.parametrize("requests", [50, 900])
def test_a_limit_is_broken_where_so_much_is_no_chance_or_nothing_more_is_waited_for(allowed, requests):
    given = limits(max_error_rate=allowed, min_requests=50)
    for errors in range(0, requests, 1 + requests // 100):
        tail = chance_of(errors, requests, allowed) if errors > allowed * requests else 1.0
        outcomes = [
            judge(given, answers(requests, errors), answers(0), is_last=is_last).outcome
            for is_last in (False, True)
        ]
        if errors <= allowed * requests:
            assert outcomes == ["pass", "pass"], errors
        else:
            assert outcomes == ["fail" if tail < 0.01 else "undecided", "fail"], errors


def test_what_is_not_certain_is_decided_when_the_step_is_over():
    one_in_fifty = limits(max_error_rate=0.01, min_requests=50), answers(50, 1), answers(0)
    assert judge(*one_in_fifty, is_over=False).findings == ("The step is not over.",)
    assert judge(*one_in_fifty, is_over=True).outcome == "undecided"
    assert judge(*one_in_fifty, is_over=True, is_last=True).outcome == "fail"
    slow = limits(max_latency_ratio=1.5), answers(100, seconds=0.2), answers(100)
    assert judge(*slow, is_over=False).outcome == "undecided"


def test_what_takes_longer_than_a_server_counts_breaks_every_limit_and_is_no_number() -> None:
    endless = Answers(100, 0, {1.0: 90, math.inf: 10})
    decision = judge(CanaryLimits(max_latency_ratio=2.0), endless, answers(100))
    assert decision.outcome is Outcome.FAIL
    assert (
        json.loads(json.dumps(decision.to_json(), allow_nan=False))["evidence"]["canary"]["p95_seconds"]
        is None
    )
