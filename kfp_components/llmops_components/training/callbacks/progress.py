"""One line of progress for each logging step, fit for a task log that is read while training runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ProgressCallback(TrainerCallback):
    """Prints progress and measures throughput.

    Works with every trainer of TRL: they all log ``num_tokens``.

    Args:
        shown: Further figures for the line, names in the trainer's log by the names to print.
    """

    def __init__(self, shown: Mapping[str, str] | None = None) -> None:
        self.tokens = 0  # seen by this process; a resumed run begins at 0
        self.seconds = 0.0
        self._shown = dict(shown or {})
        self._started = 0.0
        self._first_step = 0
        self._first_token = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started, self._first_step = time.monotonic(), state.global_step
        # Trainers that generate count on from the checkpoint, the others from 0.
        self._first_token = state.num_input_tokens_seen

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True  # or the final loss is lost when it falls between two logging steps

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        self.seconds = time.monotonic() - self._started
        if "num_tokens" in logs:
            self.tokens = int(logs["num_tokens"]) - self._first_token
        if not state.is_world_process_zero:
            return
        if "loss" in logs:
            seconds_per_step = self.seconds / max(1, state.global_step - self._first_step)
            eta = timedelta(seconds=round(seconds_per_step * (state.max_steps - state.global_step)))
            shown = "".join(
                f"{name} {logs[key]:.3f}  " for name, key in self._shown.items() if logs.get(key) is not None
            )
            print(
                f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.3f}  {shown}"
                f"lr {logs['learning_rate']:.1e}  {self.tokens / self.seconds:.0f} tokens/s  eta {eta}",
                flush=True,
            )
        elif "eval_loss" in logs:
            print(
                f"step {state.global_step}/{state.max_steps}  eval_loss {logs['eval_loss']:.3f}", flush=True
            )
