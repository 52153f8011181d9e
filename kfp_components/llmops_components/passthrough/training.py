"""What a caller may say of a training, whichever the trainer: dicts that end up in classes of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from transformers import TrainerCallback


class Budget(TypedDict, total=False):
    """Limits at which a training stops with what it has.

    Args:
        max_minutes: Minutes of training.
        max_tokens: Tokens trained on in all processes, without padding; with GRPO and RLOO those generated as well.
        max_cost: Cost in the currency of ``price_per_device_hour``.
        price_per_device_hour: Price of one device for an hour. Without ``max_cost`` the cost is only reported.
    """

    max_minutes: float | None
    max_tokens: float | None
    max_cost: float | None
    price_per_device_hour: float | None


class TrackingSettings(TypedDict, total=False):
    """Where a training is tracked in MLflow.

    Args:
        tracking_uri: Address of MLflow.
        experiment: Experiment of the run, made when it is missing.
        parent: Key of the DAG's run, ``dag_id/run_id``: all trainings with the same key are nested under one MLflow
            run, which the first of them makes. None for a run of its own.
        run_name: Name of the run; None for the component's name.
        tags: Tags of the run, for example of which version of a DAG it is.
    """

    tracking_uri: str
    experiment: str
    parent: str | None
    run_name: str | None
    tags: dict[str, str] | None


class TrainingOptions(TypedDict, total=False):
    """What every trainer takes besides its inputs and outputs.

    Args:
        training_args: Passed to the trainer's own configuration class; unknown names are errors.
        peft_args: Passed to ``peft.LoraConfig``; left out, a LoRA of rank 16 on all linear layers is trained.
            ``{"use_dora": True}`` makes it a DoRA, ``{"peft_type": "PROMPT_TUNING"}`` tunes a prompt and is passed to
            ``peft.PromptTuningConfig``, ``{"peft_type": None}`` trains all weights.
        model_args: Passed to ``from_pretrained``. ``{"quantization_config": {"load_in_4bit": True}}`` makes it QLoRA.
        eval_dataset: Rows like ``dataset``'s, for ``eval_loss`` and the other figures on rows not trained on. With
            ``checkpoints`` each of those is evaluated, and the best one is the outcome.
        checkpoints: Directory for checkpoints. When it already holds one of the same run, training goes on there. Left
            out, the variable ``LLMOPS_CHECKPOINTS`` may name a directory for what a retry needs: a checkpoint every five
            minutes, on SIGTERM and at the end, which are gone when the training has succeeded.
        save_minutes: Longest time between two checkpoints, beside ``save_steps``.
        budget: Limits at which the training stops. They may be raised for a run that goes on.
        tracking: Where it is tracked in MLflow. Left out, the environment says.
        loss_guard: When a loss has diverged; see :class:`~llmops_components.training.survival.LossGuard`.
        callbacks: Further callbacks for the trainer.
    """

    training_args: Mapping[str, Any] | None
    peft_args: Mapping[str, Any] | None
    model_args: Mapping[str, Any] | None
    eval_dataset: str | os.PathLike[str] | None
    checkpoints: str | os.PathLike[str] | None
    save_minutes: float | None
    budget: Budget | None
    tracking: TrackingSettings | None
    loss_guard: Mapping[str, float] | bool | None
    callbacks: Sequence[TrainerCallback]
