"""A reward model from preferences: the judge that reinforcement learning asks."""

from __future__ import annotations

import os
from typing import Unpack

from llmops_components.passthrough.training import TrainingOptions
from llmops_components.results import StepReport
from llmops_components.training.driver import run_training
from llmops_components.training.method import Method

REWARD = Method(
    component="train_reward",
    formats=("preference",),
    columns=("prompt", "chosen", "rejected", "margin", "tools", "chat_template_kwargs"),
    learning_rate=1e-4,
    defaults={"per_device_train_batch_size": 4},
    curves={"accuracy": "accuracy", "margin": "margin"},
    shown=("accuracy",),
    task="SEQ_CLS",
    # A classifier looks at the last token that is not padding, and cannot tell which that is behind a tuned prompt.
    prompt_tuning=False,
)


def train_reward(
    dataset: str | os.PathLike[str],
    base_model: str | os.PathLike[str],
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    **options: Unpack[TrainingOptions],
) -> StepReport:
    """Train a model to give the better of two answers the higher number, with TRL's ``RewardTrainer``.

    Args:
        dataset: Rows in TRL's preference format, with or without a prompt of its own, plain or conversational: a JSON
            Lines or Parquet file, or ``hf://datasets/org/name@revision``.
        base_model: Directory of the causal language model to start from, whose head is replaced, or of a reward model.
        model: Output directory: the reward model, for ``AutoModelForSequenceClassification``.
        adapter: Output directory: the PEFT adapter and the new head alone. Not written when all weights are trained.
        options: See :class:`~llmops_components.passthrough.training.TrainingOptions`.

    Returns:
        Besides the metrics of every trainer: ``first_``, ``final_`` and ``eval_accuracy`` (how often the chosen answer
        gets the higher reward), ``first_``, ``final_`` and ``eval_margin`` (by how much).
    """
    return run_training(REWARD, dataset, base_model, model, adapter, options)
