"""Supervised fine-tuning."""

from __future__ import annotations

import os
from typing import Unpack

from llmops_components.passthrough.training import TrainingOptions
from llmops_components.results import StepReport
from llmops_components.training.driver import run_training
from llmops_components.training.method import Method

SFT = Method(
    component="train_sft",
    formats=("prompt_completion", "language_modeling"),
    columns=("prompt", "completion", "messages", "text", "tools", "chat_template_kwargs"),
    learning_rate=2e-4,
    defaults={"per_device_train_batch_size": 4},
    curves={"token_accuracy": "mean_token_accuracy"},
)


def train_sft(
    dataset: str | os.PathLike[str],
    base_model: str | os.PathLike[str],
    model: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    **options: Unpack[TrainingOptions],
) -> StepReport:
    """Fine-tune a causal language model on prompt/completion or conversational rows with TRL's ``SFTTrainer``.

    Args:
        dataset: Rows in TRL's prompt-completion or language-modeling format, plain or conversational: a JSON Lines or
            Parquet file, or ``hf://datasets/org/name@revision``.
        base_model: Directory of the model to start from: config, safetensors, tokenizer.
        model: Output directory: the tuned model, adapter merged in, with tokenizer and ``provenance.json``.
        adapter: Output directory: the PEFT adapter alone. Not written when all weights are trained.
        options: See :class:`~llmops_components.passthrough.training.TrainingOptions`.

    Returns:
        Besides the metrics of every trainer: ``first_``, ``final_`` and ``eval_token_accuracy``.
    """
    return run_training(SFT, dataset, base_model, model, adapter, options)
