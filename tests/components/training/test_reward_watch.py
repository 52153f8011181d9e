"""What rewards say of answers, two rewards for two groups of two answers each, is counted and judged."""

from __future__ import annotations

from math import inf, nan
from types import SimpleNamespace

import pytest
import torch
from llmops_components.errors import SettingError
from llmops_components.training.callbacks.reward_watch import RewardWatch


def watched(*batches: list[list[float]], weights=(1.0, 1.0), training=True, **state) -> RewardWatch:
    """A watch that has seen these rewards, a row for each answer."""
    queue = [torch.tensor(batch) for batch in batches]
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=training),
        num_generations=2,
        reward_weights=torch.tensor(weights),
        state=SimpleNamespace(**{"epoch": 0.5, **state}),
        _calculate_rewards=lambda: queue.pop(0),
    )
    watch = RewardWatch(["first", "second"])
    watch.attach(trainer)
    for batch in batches:
        assert (
            torch.equal(trainer._calculate_rewards(), torch.tensor(batch))
            or torch.tensor(batch).isnan().any()
        )
    return watch


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0], [1.0, 0.0]], []),
        ([[1.0, 0.0], [nan, 2.0], [1.0, 0.0], [1.0, 0.0]], ["first gave no number for 1 of 4 answers."]),
        (
            [[1.0, nan], [0.0, nan], [nan, nan], [1.0, nan]],
            [
                "first gave no number for 1 of 4 answers.",
                "second gave no number for 4 of 4 answers.",
                "1 of 4 answers were scored by no reward and taught nothing.",
            ],
        ),
    ],
)
def test_what_is_missing_is_a_finding_with_numbers(batch, found):
    assert watched(batch).findings() == found


@pytest.mark.parametrize(
    ("batch", "weights", "message"),
    [
        (
            [[nan, nan]] * 4,
            (1.0, 1.0),
            "^No answer was scored: first and second gave no number for any of 4 answers",
        ),
        ([[3.0, 1.0]] * 4, (1.0, 1.0), "^Nothing was learned: all answers .* in each of 2 groups"),
        (
            [[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 0.0]],
            (1.0, 1.0),
            "^Nothing was learned: all answers to a",
        ),
        (
            [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]],
            (0.0, 1.0),
            "^Nothing was learned: all answers to a",
        ),
        (
            [[1.0, nan], [nan, nan], [nan, nan], [3.0, nan]],
            (1.0, 1.0),
            "^Nothing was learned: all answers to a",
        ),
    ],
    ids=["unscored", "equal", "equal-in-groups", "weightless", "alone-in-its-group"],
)
def test_rewards_from_which_nothing_can_be_learned_are_an_error(batch, weights, message):
    with pytest.raises(SettingError, match=message):
        watched(batch, weights=weights).findings()


def test_one_group_that_differs_is_enough():
    equal = [[1.0, 1.0]] * 4
    assert watched(equal, equal, [[1.0, 1.0], [1.0, 0.5], [nan, nan], [nan, nan]], equal).findings() == [
        "first gave no number for 2 of 16 answers.",
        "second gave no number for 2 of 16 answers.",
        "2 of 16 answers were scored by no reward and taught nothing.",
    ]


@pytest.mark.parametrize("value", [inf, -inf])
def test_infinite_reward_is_an_error_at_once(value):
    with pytest.raises(SettingError, match=r"^The reward second is infinite for an answer"):
        watched([[1.0, 0.0], [1.0, value], [1.0, 0.0], [1.0, 0.0]])


def test_nothing_scored_is_an_error_as_soon_as_each_row_was_asked():
    unscored = [[nan, nan]] * 4
    with pytest.raises(SettingError, match=r"^No answer was scored"):
        watched(unscored, epoch=1.0)
    assert watched(unscored, [[1.0, 1.0], [2.0, 1.0], [nan, nan], [nan, nan]]).findings()


def test_what_is_left_of_a_run_that_goes_on_need_not_teach_anything():
    equal, unscored = [[3.0, 1.0]] * 4, [[nan, nan]] * 4
    assert watched(equal, epoch=1.5, global_step=7).findings() == []
    assert (
        watched(unscored, epoch=1.5, global_step=7).findings()[0]
        == "first gave no number for 4 of 4 answers."
    )
    with pytest.raises(SettingError, match=r"^Nothing was learned"):
        watched(equal, global_step=0).findings()


def test_answers_of_an_evaluation_do_not_count():
    assert watched([[nan, nan]] * 4, training=False, epoch=3.0).findings() == []
