"""In which order the rows of one step are computed: those of about the same length together, so that little is padded.

A step learns from the same rows as without, and their order of computation says nothing of its gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch.utils.data import Sampler

from llmops_components.processes import process_count
from llmops_components.training.lengths import row_lengths

if TYPE_CHECKING:
    from transformers import Trainer

    from llmops_components.training.plan import Plan

# Losses of DPO that are no mean over rows: those that sort within a batch, and the mean over all tokens of a batch.
_OF_THE_BATCH = ("aot", "aot_unpaired", "sft")


def rows_of_step(args: Any) -> int:
    """Rows that one process learns from in a step.

    Args:
        args: The trainer's arguments.
    """
    return int(args.per_device_train_batch_size * args.gradient_accumulation_steps)


def why_not(plan: Plan, args: Any) -> str | None:
    """Why the losses depend on how the rows of a step are split; None if they do not.

    Args:
        plan: The settings of the training.
        args: The trainer's arguments.
    """
    if not plan.method.splits:
        return f"the losses of {plan.method.component} depend on which rows are computed together"
    if plan.asked.rows.rows is None:
        return "the rows are streamed"
    if process_count() > 1 or args.n_gpu > 1:
        return "several processes or GPUs train together"
    # The noise of NEFTune is the smaller the larger a batch is.
    for name in ("dataloader_drop_last", "neftune_noise_alpha", "torch_compile", "deepspeed", "fsdp"):
        if getattr(args, name):
            return f"{name} is set"
    losses = getattr(args, "loss_type", ())
    if bound := [each for each in ([losses] if isinstance(losses, str) else losses) if each in _OF_THE_BATCH]:
        return f"loss_type {', '.join(bound)} depends on which rows are computed together"
    return None


def sorts_within_steps(plan: Plan, trainer: Trainer) -> bool:
    """Whether the rows of a step are sorted: where that is left to us, and the losses do not depend on it.

    Args:
        plan: The settings of the training.
        trainer: Its trainer.
    """
    left_to_us = "train_sampling_strategy" not in plan.given
    return left_to_us and not balances_experts(trainer) and why_not(plan, trainer.args) is None


def balances_experts(trainer: Trainer) -> bool:
    """Whether a part of the loss spreads tokens over experts, which is a matter of those that are computed together.

    Args:
        trainer: A trainer that is built.
    """
    return bool(getattr(trainer, "aux_loss_enabled", False))


def sort_within_steps(plan: Plan, trainer: Trainer) -> None:
    """Have a trainer compute the rows of each step in the order of their lengths, where that saves something.

    Args:
        plan: The settings of the training.
        trainer: A trainer that is built, and has not trained.
    """
    if trainer.args.gradient_accumulation_steps == 1 or not sorts_within_steps(plan, trainer):
        return
    lengths = row_lengths(trainer.train_dataset)
    if lengths is None:
        return
    rows = rows_of_step(trainer.args)
    get_train_dataloader = trainer.get_train_dataloader

    def in_order() -> Any:
        loader = get_train_dataloader()
        # Of the loader that accelerate has prepared: before, it would not put its own sampler, which every epoch
        # seeds anew, in the place of the trainer's.
        loader.batch_sampler.sampler = _Sorted(loader.batch_sampler.sampler, lengths, rows)
        return loader

    trainer.get_train_dataloader = in_order


def by_length(order: Iterable[int], lengths: Sequence[int], rows: int) -> Iterator[int]:
    """Indices with those of each step in the order of their lengths.

    Args:
        order: The indices.
        lengths: Of each row, by index.
        rows: Of a step. A last step of fewer stays as it is: it may be split unevenly, and a row's weight depends on where it is.
    """
    remaining = iter(order)
    while step := list(islice(remaining, rows)):
        yield from sorted(step, key=lengths.__getitem__) if len(step) == rows else step


class _Sorted(Sampler[int]):
    """Another sampler's rows, with those of each step in the order of their lengths."""

    def __init__(self, sampler: Any, lengths: Sequence[int], rows: int) -> None:
        self.sampler, self.lengths, self.rows = sampler, lengths, rows

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        return by_length(self.sampler, self.lengths, self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Tell the sampler, which seeds each epoch anew."""
        if hasattr(self.sampler, "set_epoch"):  # as accelerate's has, and torch's own has not
            self.sampler.set_epoch(epoch)
