"""Whether a training changed anything: what still equals its base must not go on as a trained model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llmops_components.errors import SettingError
from llmops_components.training.budget import best_step

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainerState, TrainingArguments

# One half of a low-rank adapter is random to begin with and counts for nothing while the other half is zero.
_WITHOUT_EFFECT = ("lora_A", "lora_embedding_A")


class Before:
    """The weights as they were before a training, also before one that goes on from a checkpoint: a checksum of each.

    Args:
        model: The trainer's model.

    Raises:
        SettingError: There is nothing to train.
    """

    def __init__(self, model: Any) -> None:
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if not trained:
            raise SettingError(
                "Nothing would be trained: the settings leave every weight frozen. Let target_modules, layers_to_transform "
                "or modules_to_save in peft_args name something of this model, or leave them out."
            )
        self._checksums = _checksums(trained)

    def check(self, trained: Any, trainer: Trainer) -> None:
        """Raise :class:`SettingError` if the model that came out is the one that went in.

        Args:
            trained: The model whose weights are kept.
            trainer: What trained it.
        """
        after = _checksums({name: of for name, of in trained.named_parameters() if name in self._checksums})
        if self._checksums and after == self._checksums:
            steps = trainer.state.global_step
            raise SettingError(
                f"Nothing was learned: after {steps} step{'s' * (steps != 1)} the model still equals its base, because "
                f"{_reason(trainer.args, trainer.state)}"
            )


def check_steps(state: TrainerState, stopped: str | None) -> None:
    """Raise :class:`SettingError` if a training ended before its first step.

    Args:
        state: Of the trainer, after the training.
        stopped: What the budget says of the end, if that ended it.
    """
    if state.global_step == 0:
        because = stopped or "The rows and settings (num_train_epochs, max_steps) ask for none."
        raise SettingError(f"Nothing was learned: no step was made. {because}")


def _reason(args: TrainingArguments, state: TrainerState) -> str:
    rates = [entry["learning_rate"] for entry in state.log_history if "learning_rate" in entry]
    gradients = [entry["grad_norm"] for entry in state.log_history if entry.get("grad_norm") is not None]
    best = best_step(args, state)
    if not any(rates):
        return (
            f"the learning rate was 0 at every step (learning_rate={args.learning_rate:g}, warmup_steps="
            f"{args.warmup_steps:g}, lr_scheduler_type={_name(args.lr_scheduler_type)}). Train more steps, or set "
            "warmup_steps=0."
        )
    if gradients and not any(map(math.isfinite, gradients)):
        return (
            "no gradient was a number, so that every step was skipped. Train in float32 (model_args={'dtype': "
            "'float32'}), or set bf16 instead of fp16."
        )
    if gradients and not any(gradients):
        return "the gradient was 0 at every step: the rows say nothing that the model could learn."
    if best is not None and best < state.global_step:
        return (
            f"by {args.metric_for_best_model} the best checkpoint is that of step {best}, before anything was learned. "
            "Lower learning_rate, or look at the rows held out."
        )
    return (
        f"every update was rounded away, with learning_rate={args.learning_rate:g}. Raise learning_rate, or train in "
        "float32 (model_args={'dtype': 'float32'})."
    )


def _name(value: Any) -> str:
    return str(getattr(value, "value", value))


def _checksums(weights: dict[str, torch.Tensor]) -> dict[str, int]:
    """A number for each weight that has an effect, which changes with any of its bits.

    None of those that lie spread over several processes: what this process holds is not the weight.
    """
    import torch

    whole_numbers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return {
        name: int(
            weight.detach().contiguous().view(whole_numbers[weight.element_size()]).sum(dtype=torch.int64)
        )
        for name, weight in weights.items()
        if weight.numel() and not any(part in name for part in _WITHOUT_EFFECT)
    }
