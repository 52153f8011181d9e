"""Direct preference optimisation: preferences without a reward model."""

from __future__ import annotations

import os
from typing import Unpack

from llmops_components.passthrough.training import TrainingOptions
from llmops_components.results import StepReport
from llmops_components.training.driver import run_training
from llmops_components.training.method import Method

DPO = Method(
    component="train_dpo",
    formats=("preference",),
    columns=("prompt", "chosen", "rejected", "tools", "chat_template_kwargs"),
    learning_rate=1e-5,
    defaults={"per_device_train_batch_size": 4},
    curves={"accuracy": "rewards/accuracies", "margin": "rewards/margins"},
    shown=("margin",),
)


def train_dpo(
    dataset: str | os.PathLike[str],
    base_model: str | os.PathLike[str],
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    **options: Unpack[TrainingOptions],
) -> StepReport:
    """Make a model prefer the better of two answers, with TRL's ``DPOTrainer``.

    The reference that it must not drift from is the base model itself.

    Args:
        dataset: Rows in TRL's preference format, with or without a prompt of its own, plain or conversational: a JSON
            Lines or Parquet file, or ``hf://datasets/org/name@revision``.
        base_model: Directory of the model to start from, as a rule one that was fine-tuned before.
        model: Output directory: the tuned model, adapter merged in, with tokenizer and ``provenance.json``.
        adapter: Output directory: the PEFT adapter alone. Not written when all weights are trained.
        options: See :class:`~llmops_components.passthrough.training.TrainingOptions`.

    Returns:
        Besides the metrics of every trainer: ``first_``, ``final_`` and ``eval_accuracy`` (how often the chosen answer
        gained more than the rejected one), ``first_``, ``final_`` and ``eval_margin`` (by how much).
    """
    return run_training(DPO, dataset, base_model, model, adapter, options)
