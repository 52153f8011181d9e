"""Fuzz tests try the same inputs in each usual run, and others when they are asked for."""

import fuzzing
import pytest
from hypothesis import settings


@pytest.fixture(autouse=True)
def profile_afterwards() -> object:
    yield
    fuzzing.load_profile()


def test_usual_run_tries_the_same_inputs_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fuzzing.TIMES_VARIABLE, raising=False)
    fuzzing.load_profile()
    usual = settings()
    assert (usual.derandomize, usual.max_examples, usual.deadline) == (True, fuzzing.INPUTS, None)
    assert fuzzing.inputs(30).max_examples == 30


def test_run_by_hand_tries_many_times_the_inputs_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fuzzing.TIMES_VARIABLE, "20")
    fuzzing.load_profile()
    by_hand = settings()
    assert (by_hand.derandomize, by_hand.max_examples) == (False, 20 * fuzzing.INPUTS)
    assert fuzzing.inputs(30).max_examples == 600
