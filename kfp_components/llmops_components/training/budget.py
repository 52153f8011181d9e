"""Limits on what a training may use: minutes, tokens, money."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Unpack

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from llmops_components.errors import SettingError, check_known
from llmops_components.passthrough.training import Budget
from llmops_components.processes import any_process, process_count


class BudgetCallback(TrainerCallback, ExportableState):
    """Stops the training at the step in which a limit is reached, evaluates and saves, and counts what was used.

    A training that goes on from a checkpoint goes on counting from there; what a killed process used after its last
    checkpoint is not known. Minutes are those of training, without the time to start and to load. A device is one
    process's GPU, or its share of the CPU. The limit may be raised for a run that goes on.

    Args:
        budget: The limits; unknown ones are errors.
    """

    def __init__(self, **budget: Unpack[Budget]) -> None:
        check_known(budget, Budget.__annotations__, "budget")
        given = {name: value for name, value in budget.items() if value is not None}
        for name, value in given.items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value <= 0:
                raise SettingError(f"budget: {name} is {value!r}; give a number above zero.")
        if "max_cost" in given and "price_per_device_hour" not in given:
            raise SettingError(
                "budget: max_cost needs price_per_device_hour, the price of one device for an hour."
            )
        self.price = given.pop("price_per_device_hour", None)
        self.limits = given
        self.hit: str | None = None
        self.seconds = 0.0
        self.tokens = 0
        self._before = 0.0
        self._tokens_before = 0
        self._started = 0.0
        self._end: dict[str, Any] = {}

    @property
    def cost(self) -> float | None:
        """What the devices cost so far; None without a price."""
        return None if self.price is None else self.price * self.seconds / 3600 * process_count()

    def state(self) -> dict[str, Any]:
        """What goes into a checkpoint. The limits stay out of it: they may change."""
        return {"args": {}, "attributes": {"seconds": self._elapsed(), "tokens": self.tokens}}

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Trainers that generate count their tokens themselves. The others do not keep the number in checkpoints, but
        # Transformers does; it costs a synchronisation per batch.
        if "max_tokens" in self.limits and not _counts_tokens(args):
            args.include_num_input_tokens_seen = "non_padding"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        # An attempt for which the memory did not suffice has cost time as well, which no checkpoint knows of.
        self._before = max(float(saved["attributes"]["seconds"]), self._elapsed())
        self.tokens = self._tokens_before = int(saved["attributes"]["tokens"])
        self._started = time.monotonic()
        self.seconds = self._elapsed()
        if self.limits and self._stops():
            control.should_training_stop = True  # a run that it has stopped before makes no other step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.seconds = self._elapsed()
        self.tokens = state.num_input_tokens_seen or self.tokens
        if not self.limits:
            return
        if self._stops():
            control.should_training_stop = control.should_log = True
            control.should_save = args.save_strategy != "no"
            # The weights of this very step may be the best.
            control.should_evaluate |= args.eval_strategy != "no"

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.hit:  # all of it was done at the last step; with a schedule by epochs it is asked for again
            control.should_save = control.should_evaluate = control.should_log = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        if not state.num_input_tokens_seen and "num_tokens" in logs:
            self.tokens = self._tokens_before + int(
                logs["num_tokens"]
            )  # TRL counts from the start of the process

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.seconds = self._elapsed()
        best = best_step(args, state)
        self._end = {
            "steps": state.global_step,
            "planned_steps": state.max_steps,
            "kept": "last" if best is None else "best",
            "kept_step": state.global_step if best is None else best,
        }

    def report(self) -> dict[str, Any]:
        """Which limit was hit, what was used, and which step's weights are kept, for the result's details."""
        used: dict[str, float] = {
            "minutes": round(self.seconds / 60, 3),
            "device_hours": self._device_hours(),
        }
        if self.tokens:
            used["tokens"] = self.tokens
        if self.cost is not None:
            used["cost"] = round(self.cost, 4)
        return {"limit": self.hit, "limits": dict(self.limits), "used": used, **self._end}

    def finding(self) -> str | None:
        """One sentence for the result's findings; None if no limit was hit."""
        if self.hit is None:
            return None
        return (
            f"Stopped by {self.hit}={self.limits[self.hit]:g} after step {self._end['steps']} of "
            f"{self._end['planned_steps']}; the {self._end['kept']} weights (step {self._end['kept_step']}) are kept."
        )

    def _stops(self) -> bool:
        """Whether a limit is reached, in this process or in another."""
        used = {"max_minutes": self.seconds / 60, "max_tokens": self.tokens, "max_cost": self.cost}
        reached = next((name for name, limit in self.limits.items() if used[name] >= limit), None)
        if any_process(reached is not None):
            self.hit = reached or next(iter(self.limits))
        return self.hit is not None

    def _elapsed(self) -> float:
        return self._before + (time.monotonic() - self._started if self._started else 0.0)

    def _device_hours(self) -> float:
        return round(self.seconds / 3600 * process_count(), 5)


def best_step(args: TrainingArguments, state: TrainerState) -> int | None:
    """The step whose weights are kept as the best ones; None if the last ones are.

    ``state.best_global_step`` may be that of an evaluation at which nothing was saved.
    """
    if not args.load_best_model_at_end or state.best_model_checkpoint is None:
        return None
    return int(Path(state.best_model_checkpoint).name.rpartition("-")[2])


def _counts_tokens(args: TrainingArguments) -> bool:
    return hasattr(args, "max_completion_length")
