"""Group relative policy optimisation: reinforcement learning that compares several answers to a prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Unpack

from llmops_components.passthrough.training import TrainingOptions
from llmops_components.results import StepReport
from llmops_components.training.method import Method
from llmops_components.training.methods.rl import CURVES, run_rl

GRPO = Method(
    component="train_grpo",
    formats=("prompt_only",),
    learning_rate=1e-5,
    curves=CURVES,
    shown=("reward",),
    judged_by="eval_reward",  # the loss of a policy gradient says nothing by its size
    # With a tuned prompt PEFT ignores the positions of tokens, and prompts are padded on the left.
    prompt_tuning=False,
    answers=True,
)


def train_grpo(
    dataset: str | os.PathLike[str],
    base_model: str | os.PathLike[str],
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    *,
    rewards: Mapping[str, Any] | None = None,
    reward_model: str | os.PathLike[str] | None = None,
    **options: Unpack[TrainingOptions],
) -> StepReport:
    """Train a policy to earn more reward than the average of its own answers, with TRL's ``GRPOTrainer``.

    Args:
        dataset: Rows with a prompt, plain or conversational, in whatever format; further columns (a solution) are
            handed to the reward functions. A JSON Lines or Parquet file, or ``hf://datasets/org/name@revision``.
        base_model: Directory of the policy to start from, as a rule one that was fine-tuned before.
        model: Output directory: the trained policy, adapter merged in, with tokenizer and ``provenance.json``.
        adapter: Output directory: the PEFT adapter alone. Not written when all weights are trained.
        rewards: Weights by name: ``reward_model``, a function in ``trl.rewards``, or ``module:function``; see
            :mod:`~llmops_components.training.rewards`. Left out, the reward model alone.
        reward_model: Directory of a reward model, as ``train_reward`` writes it.
        options: See :class:`~llmops_components.passthrough.training.TrainingOptions`.

    Returns:
        Besides the metrics of every trainer: ``first_``, ``final_`` and ``eval_`` of ``reward``, ``reward_std``,
        ``kl`` (to the base model, where it is part of the loss), ``entropy``, ``completion_length`` and
        ``clipped_completions`` (the share that ``max_completion_length`` cut off).
    """
    return run_rl(
        GRPO,
        dataset,
        base_model,
        model,
        adapter,
        rewards=rewards,
        reward_model=reward_model,
        options=options,
    )
