"""Figures from a trainer's log."""

from __future__ import annotations

import math

import pytest
from llmops_components.training.curves import curve_metrics, eval_metrics, training_log

LOG = [
    {"step": 1, "loss": 4.0, "grad_norm": math.nan, "reward": None, "step_time": 0.1},
    {"step": 3, "loss": 1.0, "grad_norm": 2.0, "reward": 0.5, "kl": 0.25},
    {"step": 3, "eval_loss": 0.9, "eval_reward": 0.7, "eval_runtime": 1.5, "eval_samples_per_second": 3.0},
    {"step": 4, "loss": 0.5, "grad_norm": math.inf, "reward": 1.0, "step_time": 0.2},
    {"step": 4, "train_runtime": 9.0, "total_flos": 1.0, "train_loss": 1.0},
]


def test_first_and_final_values_and_the_mean_over_all_steps():
    assert curve_metrics(LOG, {"reward": "reward", "kl": "kl", "margin": "rewards/margins"}) == {
        "train_loss": pytest.approx((4.0 * 1 + 1.0 * 2 + 0.5 * 1) / 4),
        "first_loss": 4.0,
        "final_loss": 0.5,
        "first_reward": 0.5,
        "final_reward": 1.0,
        "first_kl": 0.25,
        "final_kl": 0.25,
    }


def test_figures_of_held_out_rows_have_their_own_names():
    evaluated = {"eval_loss": 0.9, "eval_rewards/margins": 0.7, "eval_kl": math.nan, "eval_runtime": 1.5}
    assert eval_metrics(evaluated, {"margin": "rewards/margins", "kl": "kl"}) == {
        "eval_loss": 0.9,
        "eval_margin": 0.7,
    }


def test_log_has_neither_timings_nor_what_json_cannot_say():
    assert training_log(LOG) == [
        {"step": 1, "loss": 4.0, "grad_norm": None, "reward": None},
        {"step": 3, "loss": 1.0, "grad_norm": 2.0, "reward": 0.5, "kl": 0.25},
        {"step": 3, "eval_loss": 0.9, "eval_reward": 0.7},
        {"step": 4, "loss": 0.5, "grad_norm": None, "reward": 1.0},
    ]
