"""The ways of training that there are: the one table of what tells them apart by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingMethod:
    """What a training component is called elsewhere.

    Args:
        module: Its module in ``llmops_components.training.methods``.
        trainer: Class in ``trl``.
        config: Class of the trainer's arguments in ``trl``.
        title: What a model card calls it.
        tag: What the Hugging Face hub calls it.
        takes_rewards: Whether it learns from ``rewards``.
        splits: Whether its losses are the same however the rows of a step are split into batches.
        counts_tokens: Whether they are a mean over the tokens of a step, and not over its rows.
        paper: Title and arXiv number of the paper that it follows, where TRL's trainer names none.
    """

    module: str
    trainer: str
    config: str
    title: str
    tag: str
    takes_rewards: bool = False
    splits: bool = False
    counts_tokens: bool = False
    paper: Mapping[str, str] | None = None


_INSTRUCT_GPT = {
    "title": "Training language models to follow instructions with human feedback",
    "id": "2203.02155",
}

TRAININGS = {
    "train_sft": TrainingMethod(
        "sft",
        "SFTTrainer",
        "SFTConfig",
        "Supervised fine-tuning",
        "sft",
        splits=True,
        counts_tokens=True,
        paper=_INSTRUCT_GPT,
    ),
    "train_reward": TrainingMethod(
        "reward",
        "RewardTrainer",
        "RewardConfig",
        "Reward modelling",
        "reward-trainer",
        splits=True,
        paper=_INSTRUCT_GPT,
    ),
    "train_dpo": TrainingMethod(
        "dpo", "DPOTrainer", "DPOConfig", "Direct Preference Optimization (DPO)", "dpo", splits=True
    ),
    "train_kto": TrainingMethod(
        "kto", "KTOTrainer", "KTOConfig", "Kahneman-Tversky Optimization (KTO)", "kto"
    ),
    "train_grpo": TrainingMethod(
        "grpo",
        "GRPOTrainer",
        "GRPOConfig",
        "Group Relative Policy Optimization (GRPO)",
        "grpo",
        takes_rewards=True,
    ),
    "train_rloo": TrainingMethod(
        "rloo", "RLOOTrainer", "RLOOConfig", "REINFORCE Leave-One-Out (RLOO)", "rloo", takes_rewards=True
    ),
    "distill": TrainingMethod(
        "distill", "DistillationTrainer", "DistillationConfig", "On-policy distillation", "distillation"
    ),
}
