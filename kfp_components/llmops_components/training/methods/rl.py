"""What the trainers for reinforcement learning share: prompts in, rewards named by the caller."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmops_components.models.directory import check_model_directory
from llmops_components.models.provenance import describe_base
from llmops_components.passthrough.training import TrainingOptions
from llmops_components.results import StepReport
from llmops_components.training.callbacks.reward_watch import RewardWatch
from llmops_components.training.driver import run_training
from llmops_components.training.method import Method
from llmops_components.training.rewards import build_rewards, parse_rewards

CURVES = {
    "reward": "reward",
    "reward_std": "reward_std",
    "kl": "kl",
    "entropy": "entropy",
    "completion_length": "completions/mean_length",
    "clipped_completions": "completions/clipped_ratio",
}


def run_rl(
    method: Method,
    dataset: str | os.PathLike[str],
    base_model: str | os.PathLike[str],
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    *,
    rewards: Mapping[str, Any] | None,
    reward_model: str | os.PathLike[str] | None,
    options: TrainingOptions,
) -> StepReport:
    """Train with the rewards that the caller named.

    Args:
        method: GRPO or RLOO.
        dataset: Rows with a prompt.
        base_model: Directory of the policy to start from.
        model: Output directory of the trained policy.
        adapter: Output directory of the adapter.
        rewards: Weights by name, see :mod:`~llmops_components.training.rewards`.
        reward_model: Directory of a reward model.
        options: What every trainer takes.
    """
    chosen = parse_rewards(rewards, has_model=reward_model is not None)
    facts: dict[str, Any] = {
        "rewards": {reward.name: {"weight": reward.weight, "args": dict(reward.args)} for reward in chosen}
    }
    if reward_model is not None:
        facts["reward_model"] = describe_base(check_model_directory(reward_model))

    watch = RewardWatch([reward.name for reward in chosen])

    def trainer_args() -> dict[str, Any]:
        functions, tokenizers = build_rewards(chosen, reward_model)
        return {"reward_funcs": functions, "reward_processing_classes": tokenizers}

    weighted = replace(method, fixed={**method.fixed, "reward_weights": [reward.weight for reward in chosen]})
    return run_training(
        weighted,
        dataset,
        base_model,
        model,
        adapter,
        options,
        facts=facts,
        trainer_args=trainer_args,
        watch=watch,
    )
