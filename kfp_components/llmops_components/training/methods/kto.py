"""Kahneman-Tversky optimisation: from answers that were each called good or bad, without pairs."""

from __future__ import annotations

import os
from typing import Any, Unpack

from llmops_components.passthrough.training import TrainingOptions
from llmops_components.results import StepReport
from llmops_components.training.driver import run_training
from llmops_components.training.method import Method


def unpair(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A good and a bad answer from a pair; a row of another kind as it is."""
    if "chosen" not in row:
        return [row]
    from trl import extract_prompt

    row = row if "prompt" in row else {**row, **extract_prompt(row)}
    rest = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
    return [
        {**rest, "completion": row["chosen"], "label": True},
        {**rest, "completion": row["rejected"], "label": False},
    ]


KTO = Method(
    component="train_kto",
    formats=("unpaired_preference", "preference"),
    columns=("prompt", "completion", "label", "tools", "chat_template_kwargs"),
    learning_rate=1e-5,
    defaults={"per_device_train_batch_size": 4},
    curves={
        "chosen_reward": "rewards/chosen",
        "rejected_reward": "rewards/rejected",
        "margin": "rewards/margins",
        "kl": "kl",
    },
    shown=("margin",),
    # Each row is paired with its neighbour's answer beforehand, to estimate how far the model has drifted. So the
    # trainer does not shuffle, and batches have to be a mixture of good and bad answers from the start.
    keeps_order=True,
    smallest_batch=2,
    expand=unpair,
)


def train_kto(
    dataset: str | os.PathLike[str],
    base_model: str | os.PathLike[str],
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    **options: Unpack[TrainingOptions],
) -> StepReport:
    """Make good answers likelier and bad ones less so, with TRL's ``KTOTrainer``.

    Args:
        dataset: Rows in TRL's unpaired preference format, or pairs, which are taken apart; plain or conversational: a
            JSON Lines or Parquet file, or ``hf://datasets/org/name@revision``.
        base_model: Directory of the model to start from, as a rule one that was fine-tuned before.
        model: Output directory: the tuned model, adapter merged in, with tokenizer and ``provenance.json``.
        adapter: Output directory: the PEFT adapter alone. Not written when all weights are trained.
        options: See :class:`~llmops_components.passthrough.training.TrainingOptions`.

    Returns:
        Besides the metrics of every trainer: ``first_``, ``final_`` and ``eval_`` of ``chosen_reward``,
        ``rejected_reward``, ``margin`` and ``kl``.
    """
    return run_training(KTO, dataset, base_model, model, adapter, options)
