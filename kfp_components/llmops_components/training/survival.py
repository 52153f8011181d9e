"""Runs that survive: saves by minutes, a clean stop on SIGTERM, less memory where it is short, a loss guard.

Saving by steps, resuming and choosing the best checkpoint are the Trainer's own. What it has beside that does not fit
a pipeline step: ``enable_jit_checkpoint`` may save between a batch's gradients and their use, which another process
or a resumed run cannot repeat, and returns as if the training were complete; ``auto_find_batch_size`` takes a tenth
off the batch and so changes the effective batch, and is refused by GRPO and RLOO.
"""

from __future__ import annotations

import math
import statistics
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmops_components.errors import SettingError, TrainingInterrupted, check_known, first_line
from llmops_components.models.device_memory import free_unused
from llmops_components.passthrough.refusals import is_out_of_memory
from llmops_components.processes import any_process, handling_sigterm, process_count

T = TypeVar("T")
GUARD_DEFAULTS = {"factor": 3.0, "patience": 5, "window": 50}


def run_training(
    trainer: Trainer,
    resume_from: str | None = None,
    *,
    save_minutes: float | None = None,
    loss_guard: Mapping[str, float] | bool = True,
) -> None:
    """``trainer.train`` that survives; to be called in its place.

    A SIGTERM lets the step that is under way finish, saves a checkpoint and raises. So the time that a scheduler
    grants before it kills (``terminationGracePeriodSeconds``) has to cover one step and one save.

    Args:
        trainer: Any trainer built on Transformers'.
        resume_from: Checkpoint to go on from.
        save_minutes: Save when so many minutes have passed since the last checkpoint, whatever ``save_steps`` says.
        loss_guard: False switches the guard off except for a loss that is no number; a mapping changes ``factor``,
            ``patience`` and ``window`` of :class:`LossGuard`.

    Raises:
        TrainingInterrupted: SIGTERM arrived; retryable.
        SettingError: The loss diverged, or a setting is wrong.
    """
    keeps = Checkpointing(save_minutes)
    trainer.add_callback(LossGuard.from_setting(loss_guard))
    trainer.add_callback(keeps)
    _look_before_the_first_step(trainer)
    if resume_from:
        _count_as_before(trainer, resume_from)
    with keeps.catching_sigterm():
        trainer.train(resume_from_checkpoint=resume_from)
    if keeps.stopped_at is not None:
        raise TrainingInterrupted(keeps.describe(trainer.state))


@contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM an error wherever no step of a training is under way: while it loads, evaluates or writes.

    Raises:
        TrainingInterrupted: SIGTERM arrived.
    """

    def interrupt(*_: Any) -> None:
        raise TrainingInterrupted(
            "Stopped by SIGTERM before or after the training itself. Run it again with the same checkpoints to go on from "
            "the last of them."
        )

    with handling_sigterm(interrupt):
        yield


def _look_before_the_first_step(trainer: Trainer) -> None:
    """Let callbacks end a training when it begins; Transformers looks for that only after a step."""
    run_epoch = trainer._run_epoch

    def unless_stopped(**kwargs: Any) -> None:
        if not trainer.control.should_training_stop:
            run_epoch(**kwargs)

    trainer._run_epoch = unless_stopped


def _count_as_before(trainer: Trainer, checkpoint: str) -> None:
    """Count steps as the run did that is gone on with."""
    args, before = trainer.args, TrainerState.load_from_json(str(Path(checkpoint, "trainer_state.json")))
    # Those given as a fraction of the run become the number that they were; Transformers compares and would warn.
    for name in ("logging_steps", "eval_steps", "save_steps"):
        if 0 < (getattr(args, name) or 0) < 1:
            setattr(args, name, getattr(before, name))
    # Trainers that generate for several steps at once count batches by themselves, from zero in each process.
    if hasattr(trainer, "_step"):
        trainer._step = before.global_step * args.gradient_accumulation_steps


class Checkpointing(TrainerCallback):
    """Saves by minutes and on SIGTERM, in all processes at the same step.

    Each save comes with a line of the log. Otherwise the losses between the last line and the checkpoint would be
    missing from the trace of a run that goes on from it.

    Args:
        save_minutes: Longest time between two checkpoints; None leaves it to the training arguments.
    """

    def __init__(self, save_minutes: float | None = None) -> None:
        if save_minutes is not None and (not isinstance(save_minutes, int | float) or not save_minutes > 0):
            raise SettingError(f"save_minutes is {save_minutes!r}; give a positive number of minutes.")
        self.save_minutes = save_minutes
        self.stopped_at: int | None = None
        self._saves = True
        self._signalled = False
        self._saved = 0.0

    @contextmanager
    def catching_sigterm(self) -> Iterator[None]:
        """Let the step that is under way finish when SIGTERM arrives."""
        with handling_sigterm(self._on_signal):
            yield

    def _on_signal(self, *_: Any) -> None:
        self._signalled = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._saved = time.monotonic()
        self._saves = args.save_strategy != "no"
        if self.save_minutes is not None and not self._saves:
            raise SettingError(
                "save_minutes is set, but no checkpoints are kept. Give a directory for them in `checkpoints`."
            )
        # Killed after its last step: another one would be one too many.
        control.should_training_stop |= state.global_step >= state.max_steps

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if any_process(self._signalled):
            self.stopped_at = state.global_step
            control.should_training_stop = True
            control.should_save = self._saves
            if args.save_total_limit == 1 and state.best_model_checkpoint is not None:
                args.save_total_limit = (
                    2  # or the Trainer deletes this checkpoint for an older one that was better
                )
            control.should_evaluate = False  # there may be only seconds left
        elif self.save_minutes is not None:
            control.should_save |= any_process(time.monotonic() - self._saved >= self.save_minutes * 60)
        control.should_log |= control.should_save

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stopped_at is not None:  # saved at its step; with a schedule by epochs it is asked for again
            control.should_save = control.should_evaluate = control.should_log = False
        control.should_log |= control.should_save

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._saved = time.monotonic()

    def describe(self, state: TrainerState) -> str:
        """The message of the error that a SIGTERM ends in."""
        where = f"Training was stopped by SIGTERM after step {self.stopped_at} of {state.max_steps}"
        if self._saves:
            return f"{where}; it is saved. Run it again with the same checkpoints to go on from there."
        return f"{where}; nothing is saved, since it has no `checkpoints`. Give a directory for them to be able to go on."


class LossGuard(TrainerCallback):
    """Stops a run whose loss is no longer a number, or has diverged.

    Diverged: for ``patience`` lines of the log in a row the loss is above ``factor`` times its running median and
    above the first loss, so worse than before any training. A run that only gets noisier is left alone. The loss of a
    policy gradient (GRPO, RLOO) swings around zero and says nothing by its size; there it only has to be a number.

    The log is written before a checkpoint is, so a checkpoint of a run that is no number is never saved and the last
    good one stays.

    Args:
        factor: Multiple of the running median that counts as far above.
        patience: Lines of the log in a row.
        window: Lines that the median is taken of.
        divergence: Whether to look at more than whether the loss is a number.
    """

    def __init__(
        self, factor: float = 3.0, patience: int = 5, window: int = 50, *, divergence: bool = True
    ) -> None:
        if not factor > 1 or not patience >= 1 or not window >= patience:
            raise SettingError(
                f"loss_guard: factor is {factor!r}, patience {patience!r} and window {window!r}; factor is above 1, "
                "patience at least 1, and window at least patience."
            )
        self.factor, self.patience, self.divergence = factor, int(patience), divergence
        self._first: float | None = None
        self._usual: deque[float] = deque(maxlen=int(window))
        self._high = 0

    @classmethod
    def from_setting(cls, setting: Mapping[str, float] | bool) -> LossGuard:
        """The guard that a caller's ``loss_guard`` asks for."""
        if isinstance(setting, bool):
            return cls(divergence=setting)
        check_known(setting, GUARD_DEFAULTS, "loss_guard")
        return cls(**{**GUARD_DEFAULTS, **setting})

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if hasattr(args, "num_generations"):
            self.divergence = False
        for entry in state.log_history:  # of the run that this one goes on with
            if "loss" in entry:
                self._is_high(entry["loss"])

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        loss = logs.get("loss")
        if loss is None:
            return
        what = None
        if not math.isfinite(loss):
            what = f"is {loss}"
        elif self.divergence and self._is_high(loss):
            what = (
                f"is {loss:.3g}, for {self.patience} lines of the log more than {self.factor:g} times its running median "
                f"of {statistics.median(self._usual):.3g}"
            )
        if what:
            raise SettingError(
                f"Training diverged: the loss at step {state.global_step} {what}, with learning_rate="
                f"{args.learning_rate:g}. Lower learning_rate, add warmup_steps, set max_grad_norm, or train in float32 "
                "(model_args={'dtype': 'float32'}). The checkpoints before it are kept."
            )

    def _is_high(self, loss: float) -> bool:
        if self._first is None:
            self._first = loss
        usual = statistics.median(self._usual) if len(self._usual) >= self.patience else math.inf
        if loss > self._first and loss > self.factor * usual:
            self._high += 1
        else:
            self._high = 0
            self._usual.append(loss)  # what is far above does not make itself usual
        return self._high >= self.patience


def within_memory(
    build_args: Callable[[dict[str, Any]], TrainingArguments],
    train: Callable[[TrainingArguments], T],
    *,
    smallest: int = 1,
    may_recompute: bool = False,
) -> T:
    """Train; when memory runs out, train again with what needs less of it, one thing after the other.

    First activations are computed anew in the backward pass instead of being kept, where that is not decided yet; then each time
    the batch per device is halved and the accumulation doubled. The effective batch, and with it the steps, the schedule and the
    losses, stay what they are. ``train`` starts over: it loads the model again and goes on from the newest checkpoint, if there
    is one. An evaluation for which the memory does not suffice gets half of its own batch, which changes no figure.

    Several processes cannot do this on their own, as those with memory left wait for the one without. They end with
    the error that one process ends with at the smallest batch. So does what generates completions: it does so for all
    the steps that share them at once, whatever the batch.

    Args:
        build_args: Makes the training arguments; is given those to put over the caller's, none at first.
        train: Trains with them.
        smallest: Rows that a batch has to have.
        may_recompute: Whether ``activation_checkpointing`` is left to this.

    Returns:
        What ``train`` returns.

    Raises:
        SettingError: The memory does not suffice for the smallest batch.
    """
    changed: dict[str, Any] = {}
    while True:
        args = build_args(changed)
        try:
            return train(args)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            doing = _what_was_done(error)
            message = first_line(error)
        # Outside of the handler, where nothing refers to the frames that hold the model.
        free_unused()
        further = None
        if (
            process_count() == 1
            and doing == "training"
            and may_recompute
            and not args.activation_checkpointing
        ):
            further = {"activation_checkpointing": True}
        elif process_count() == 1 and doing != "generating":
            further = halve_batch(args, smallest) if doing == "training" else _halve_evaluation(args)
        if not further:
            raise SettingError(_no_memory(args, doing, message))
        changed = changed | further
        print(
            f"Out of memory while {doing} ({message}). Training again with "
            + ", ".join(f"{name}={value}" for name, value in changed.items() if value),
            flush=True,
        )


def _what_was_done(error: BaseException) -> str:
    """What a trainer was at when it failed: ``training``, ``evaluating``, or ``generating`` completions to train on."""
    names = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
    if "evaluation_loop" in names:
        return "evaluating"
    return "generating" if "generate" in names else "training"


def halve_batch(args: TrainingArguments, smallest: int = 1) -> dict[str, int | None] | None:
    """Training arguments for half the batch per device and the same effective batch; None if it cannot be halved.

    Trainers that generate (GRPO, RLOO) make their completions for several steps at once, in groups. The number of those
    stays the same too, so groups stay whole.
    """
    batch = args.per_device_train_batch_size
    # An odd batch has no half, but its largest divisor below it also keeps the effective batch.
    part = next((size for size in range(batch // 2, smallest - 1, -1) if batch % size == 0), None)
    if part is None:
        return None
    parts = batch // part
    smaller: dict[str, int | None] = {
        "per_device_train_batch_size": part,
        "gradient_accumulation_steps": args.gradient_accumulation_steps * parts,
    }
    generating = getattr(args, "steps_per_generation", None)
    if generating:
        # One follows from the other, and TRL refuses both.
        smaller |= {"steps_per_generation": generating * parts, "generation_batch_size": None}
    return smaller | _halve_evaluation(args)


def _halve_evaluation(args: TrainingArguments) -> dict[str, int | None]:
    """Half the batch of evaluation. Its groups need as many rows as there are generations of a prompt."""
    group = getattr(args, "num_generations_eval", None) or getattr(args, "num_generations", None) or 1
    half = args.per_device_eval_batch_size // 2
    return {"per_device_eval_batch_size": half} if half and half * process_count() % group == 0 else {}


def _no_memory(args: TrainingArguments, doing: str, message: str) -> str:
    name = "per_device_eval_batch_size" if doing == "evaluating" else "per_device_train_batch_size"
    batch = getattr(args, name)
    advice = []
    if doing == "generating":
        advice = ["set lower num_generations or generation_batch_size", "a shorter max_completion_length"]
    elif doing == "evaluating":
        advice = [f"set a lower {name}"] if batch > 1 else []
        advice += ["set a shorter max_length"]
    else:
        if process_count() > 1:
            advice = [f"set half of {name} and twice gradient_accumulation_steps"] if batch > 1 else []
            advice += ["shard the model (fsdp2, zero3)"]
        advice += ["set a shorter max_length", "train an adapter of a lower rank"]
        advice += [] if args.activation_checkpointing else ["set activation_checkpointing=True"]
    return (
        f"Out of memory while {doing}, with {name}={batch} on {process_count()} process(es) of {args.device}: {message}. "
        f"Take a larger device or a smaller model, {', '.join(advice)}."
    )
