"""How many rows of a step are computed at a time, by measurement.

A step learns from the same rows however they are split, so that split is a matter of speed alone. Which is the fastest depends on the
model, the rows and the machine: on a CPU few at a time have less padding, on a GPU many have fewer launches. A few trials tell, in
a trainer of their own, of which nothing is left: counters and random numbers of the training are what they would be without.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from llmops_components.errors import SettingError, first_line
from llmops_components.models.device_memory import free_unused
from llmops_components.passthrough.refusals import is_out_of_memory
from llmops_components.state_files import StateFileError, read_json, write_json
from llmops_components.training import building
from llmops_components.training.checkpoints import MICRO_BATCH_FILE
from llmops_components.training.lengths import row_lengths
from llmops_components.training.memory import check_fits
from llmops_components.training.plan import BATCH
from llmops_components.training.rows import naming_refused_rows
from llmops_components.training.step_order import (
    balances_experts,
    by_length,
    rows_of_step,
    sorts_within_steps,
    why_not,
)

if TYPE_CHECKING:
    from llmops_components.training.plan import Plan

T = TypeVar("T")
ACCUMULATION = "gradient_accumulation_steps"
TRIAL_ROWS = 8  # at least; a batch of more is tried with as many as it takes
WORTH_ROWS = 1000  # a shorter training gains less than the trials take
GAIN = 1.05  # less is within what a clock tells
ROUNDS = 2  # of which the faster counts
_SHAPE = {BATCH: int, "rows": int}


def choose(plan: Plan) -> dict[str, int]:
    """How the rows of a step are split, as training arguments; empty for the way that the arguments have it.

    Tried where the caller asks for it (``per_device_train_batch_size: "auto"``), or gives no batch and trains on many rows.

    Args:
        plan: The settings of the training. A choice is kept beside its checkpoints, and taken from there.

    Raises:
        SettingError: The caller asks for what cannot be had at the same losses.
    """
    if plan.batch_is_given:
        return {}
    args = plan.arguments()
    rows = rows_of_step(args)
    reason = why_not(plan, args) or _unseen(args)
    kept = None
    if reason is None:
        kept = _kept(plan, rows)
        if kept is None and not _has_begun(plan) and (plan.batch_is_auto or _is_long(plan, args, rows)):
            kept, reason = _try(plan, args, rows)
            free_unused()  # what the trials have held
            if reason is None:
                _keep(plan, kept, rows)
    if reason and plan.batch_is_auto:
        raise SettingError(f"training_args: {BATCH}='auto' cannot be honoured: {reason}. Give a number.")
    return (
        {} if kept in (None, args.per_device_train_batch_size) else {BATCH: kept, ACCUMULATION: rows // kept}
    )


def as_split(plan: Plan, train: Callable[[Any], T]) -> T | None:
    """Train with the rows of a step split as it was chosen; None where that cannot be, and it is to be as the arguments have it.

    Args:
        plan: The settings of the training. What was chosen is taken back where the memory does not suffice for all rows, of which the
            trials have seen a few, or the trainer leaves rows out, so that another number is left for the last step.
        train: Trains with the arguments.
    """
    if not plan.split:
        return None
    try:
        return train(plan.arguments())
    except Exception as error:
        if not isinstance(error, UnevenRestError) and not is_out_of_memory(error):
            raise
        reason = first_line(error)
    # Outside of the handler, where nothing refers to the frames that hold the model.
    free_unused()
    told = f"{BATCH}={plan.split[BATCH]}, which trials found the fastest, was given up ({reason})"
    plan.split = {}
    args = plan.arguments()
    given = args.per_device_train_batch_size
    print(f"{told}. Training again with {BATCH}={given}", flush=True)
    plan.left_out.append(f"{told}; it was trained with {BATCH}={given}.")
    _keep(plan, given, rows_of_step(args))
    return None


class UnevenRestError(Exception):
    """The rows of the last step cannot be split so that each counts as much as without."""


def check_rest(plan: Plan, trainer: Any) -> None:
    """Raise :class:`UnevenRestError` where the last step of an epoch has so many rows that its loss would be another.

    Args:
        plan: The settings of the training.
        trainer: Its trainer, which may have left rows out.
    """
    if not plan.split or plan.method.counts_tokens:
        return
    last = len(trainer.train_dataset) % rows_of_step(trainer.args)
    if not _is_even(plan.split[BATCH], last):
        raise UnevenRestError(f"{last} rows are left for the last step")


def _unseen(args: Any) -> str | None:
    """What the trials would not see of a training."""
    if getattr(args, "packing", False):
        return "packing makes rows of one length"
    for name in ("activation_checkpointing", "use_liger_kernel"):
        if getattr(args, name, False):
            return f"{name} is set"
    return None


def _keep(plan: Plan, size: int, rows: int) -> None:
    if plan.checkpoints is not None:
        write_json(Path(plan.checkpoints) / MICRO_BATCH_FILE, {BATCH: size, "rows": rows})


def _kept(plan: Plan, rows: int) -> int | None:
    """The choice of the run that is gone on with."""
    if plan.checkpoints is None:
        return None
    try:
        kept = read_json(Path(plan.checkpoints) / MICRO_BATCH_FILE, _SHAPE)
    except StateFileError as error:
        if _has_begun(plan):
            plan.left_out.append(f"{error}. How many rows were computed at a time is not known any more")
        return None
    size = kept.get(BATCH) or 0
    return size if kept.get("rows") == rows and size > 0 and rows % size == 0 else None


def _has_begun(plan: Plan) -> bool:
    """Whether there is a checkpoint, of a training that had the batch of its arguments."""
    return plan.checkpoints is not None and any(Path(plan.checkpoints).glob("checkpoint-*"))


def _is_long(plan: Plan, args: Any, rows: int) -> bool:
    known = len(plan.asked.rows.rows or ()) * args.num_train_epochs
    return (args.max_steps * rows if args.max_steps > 0 else known) >= WORTH_ROWS


def _try(plan: Plan, args: Any, rows: int) -> tuple[int, str | None]:
    """The fastest size, of those that the rows of a step can be split into; and why nothing was tried."""
    given = args.per_device_train_batch_size
    sizes = _sizes(plan, rows)
    if given not in sizes and not plan.batch_is_auto:
        return given, "the rows of the last step would count otherwise"
    try:
        tried = Trials(plan, args, rows)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return given, None  # the training says what would help
    if balances_experts(tried.trainer):
        return given, "a part of the loss spreads the tokens that are computed together over experts"
    best = fastest(sizes, max(size for size in sizes if size <= given), tried.is_faster)
    if tried.seconds:
        told = ", ".join(f"{size} at a time {each:.2f} s" for size, each in sorted(tried.seconds.items()))
        print(f"{TRIAL_ROWS} rows took, by trial, {told}: {BATCH}={best}", flush=True)
    return best, None


def _sizes(plan: Plan, rows: int) -> list[int]:
    """Sizes into which a step's rows can be split, and the last step's that has fewer, at the same mean of their losses."""
    last = len(plan.asked.rows.rows or ()) % rows
    every = [size for size in range(1, rows + 1) if rows % size == 0]
    return [size for size in every if plan.method.counts_tokens or _is_even(size, last)]


def _is_even(size: int, last: int) -> bool:
    """Whether each of the rows of a last step counts as much in batches of a size as in one batch."""
    return last <= size or last % size == 0


def fastest(sizes: list[int], start: int, is_faster: Callable[[int, int], bool]) -> int:
    """Climb from a size to the fastest one, down or else up, as long as it pays.

    Args:
        sizes: Those that there are, in ascending order.
        start: One of them, to begin with.
        is_faster: Whether the first size is faster than the second.
    """
    for steps in (-1, 1):
        at = sizes.index(start)
        while 0 <= at + steps < len(sizes) and is_faster(sizes[at + steps], sizes[at]):
            at += steps
        if sizes[at] != start:
            return sizes[at]
    return start


class Trials:
    """Steps of a trainer of their own on rows of the training, each computed as the training would.

    Args:
        plan: The settings of the training.
        args: The trainer's arguments.
        rows: Rows of a step.

    Attributes:
        trainer: The trainer, with a sample of the rows.
        seconds: What :data:`TRIAL_ROWS` rows have taken, by how many were computed at a time.
    """

    def __init__(self, plan: Plan, args: Any, rows: int) -> None:
        self.seconds: dict[int, float] = {}
        self._source = plan.asked.rows
        args = copy.copy(args)
        args.eval_strategy, args.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
        args.load_best_model_at_end = args.do_eval = False
        self.trainer, _ = building.build_trainer(plan, args, [], sample=max(rows, TRIAL_ROWS))
        self.trainer.accelerator.prepare_model(
            self.trainer.model
        )  # computes in the training's precision from here on
        self.trainer.current_gradient_accumulation_steps = 1
        dataset = self.trainer.train_dataset
        lengths = row_lengths(dataset) if sorts_within_steps(plan, self.trainer) else None
        order = range(len(dataset))
        seen = self.trainer._remove_unused_columns(dataset, description="training")
        self._rows = [seen[each] for each in (order if lengths is None else by_length(order, lengths, rows))]

    def is_faster(self, new: int, old: int) -> bool:
        """Whether one size is faster than another, on the same rows. One that does not fit in memory is not."""
        count = max(TRIAL_ROWS, new, old)
        try:
            self.trainer.args.per_device_train_batch_size = max(new, old)
            check_fits(self.trainer)
            rows = self._rows[: count - count % max(new, old)]
            if not rows:  # none of the sample fits into max_length; the training tells
                return False
            if not self.seconds:
                self._run(rows[:old], old)  # the first of all is slower
            times = [(self._run(rows, old), self._run(rows, new)) for _ in range(ROUNDS)]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        of_old, of_new = (min(each) * TRIAL_ROWS / len(rows) for each in zip(*times, strict=True))
        self.seconds |= {old: of_old, new: of_new}
        return of_old > GAIN * of_new

    def _run(self, rows: list[Any], size: int) -> float:
        """Seconds that gradients of rows take, so many at a time."""
        trainer = self.trainer
        with naming_refused_rows(trainer.processing_class, self._source):
            batches = [trainer.data_collator(rows[at : at + size]) for at in range(0, len(rows), size)]
            _wait_for(trainer.args.device)
            began = time.perf_counter()
            for batch in batches:
                trainer.training_step(trainer.model, batch)
            _wait_for(trainer.args.device)
        seconds = time.perf_counter() - began
        trainer.model.zero_grad(set_to_none=True)
        return seconds


def _wait_for(device: Any) -> None:
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize()
