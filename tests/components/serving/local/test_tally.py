"""What is counted of a revision's answers."""

from __future__ import annotations

import json

import pytest
from llmops_components.serving.local.tally import BUCKETS_PER_DOUBLING, Tally, bound_of, bucket_of


@pytest.mark.parametrize("seconds", [0.0, 0.0005, 0.001, 0.0011, 0.02, 1.0, 2.0, 59.9, 999.0])
def test_a_duration_lies_between_the_bounds_of_its_bucket(seconds: float) -> None:
    bucket = bucket_of(seconds)
    assert seconds <= bound_of(bucket) * (1 + 1e-9)
    assert bucket == 0 or seconds > bound_of(bucket - 1) * (1 - 1e-9)
    assert bound_of(1) / bound_of(0) == pytest.approx(2 ** (1 / BUCKETS_PER_DOUBLING))
    assert bound_of(1) / bound_of(0) < 1.1  # the error of a percentile


def test_what_takes_for_ever_is_in_the_last_bucket() -> None:
    assert bucket_of(1e9) == bucket_of(1e12)


def test_errors_are_counted_and_their_time_is_not() -> None:
    tally = Tally()
    for seconds in (0.5, 0.5, 8.0):
        tally.add(seconds, is_error=seconds == 8.0)
    counted = json.loads(json.dumps(tally.to_json()))
    assert (counted["requests"], counted["errors"]) == (3, 1)
    ((bound, count),) = counted["seconds"].items()
    assert 0.5 <= float(bound) < 0.55
    assert count == 2
