"""The settings of a training: the trainer's arguments, the facts that the run is known by, its checkpoints."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops_components.errors import SettingError
from llmops_components.models.precision import precision
from llmops_components.models.provenance import describe_base
from llmops_components.passthrough.tables import typed
from llmops_components.processes import decided_by_main, is_main_process, process_count
from llmops_components.redaction import redacted
from llmops_components.step import CHECKPOINTS_VARIABLE
from llmops_components.training import settings
from llmops_components.training.checkpoints import claim, put_all_aside, resume_point
from llmops_components.training.method import Asked
from llmops_components.uris import local_path

# An adapter starts from nothing and bears, and needs, about ten times the rate of full training.
FULL_TRAINING_RATE = 0.1
BATCH = "per_device_train_batch_size"
WARM_UP = 0.05  # of the steps
RETRY_SAVE_MINUTES = 5.0


class Plan:
    """The settings of one training: what the trainer is built with, what the run is known by, and where its checkpoints lie.

    One for all attempts: a training for which the memory did not suffice is carried out again with other arguments.

    Args:
        asked: What the caller asks for.
        scratch: Directory that is gone after the training.

    Raises:
        SettingError: An argument is unknown or wrong.
    """

    def __init__(self, asked: Asked, scratch: Path) -> None:
        from llmops_components.training.budget import BudgetCallback

        self.asked, self.method, self.options, self.scratch = asked, asked.method, asked.options, scratch
        method, options = asked.method, asked.options
        # What the memory did not suffice for has cost time too.
        self.budget = BudgetCallback(**typed(options.get("budget"), "budget", "budget"))
        self.changed: dict[str, Any] = {}  # for what the memory suffices
        self.left_out: list[str] = []  # what there is to say of checkpoints that cannot be gone on from
        self.given = typed(options.get("training_args"), "training_args", f"trl.{method.config}")
        self.split: dict[str, int] = {}  # how the rows of a step are computed, where that is left to us
        self.batch_is_auto = self.given.get(BATCH) == "auto"
        if self.batch_is_auto:
            del self.given[BATCH]
        given_checkpoints = options.get("checkpoints") or None
        self.own_checkpoints = given_checkpoints and str(local_path(given_checkpoints, "checkpoints"))
        self.checkpoints = self.own_checkpoints or os.environ.get(CHECKPOINTS_VARIABLE)
        self.peft_config = settings.build_peft(options.get("peft_args"), method.task)
        if self.peft_config and self.peft_config.is_prompt_learning and not method.prompt_tuning:
            raise SettingError(
                f"peft_args: {method.component} cannot tune a prompt, its loss does not see it. Use a LoRA."
            )
        all_weights = self.peft_config is None
        self.dtype, mixed_precision = precision(full=all_weights)
        self.defaults = {
            **settings.training_defaults(self.given),
            **({} if self.given.get("fp16") or self.given.get("bf16") else mixed_precision),
            "learning_rate": method.learning_rate * (FULL_TRAINING_RATE if all_weights else 1),
            "lr_scheduler_type": "cosine",
            "warmup_steps": WARM_UP,
            **method.defaults,
        }
        self.schedule = (
            settings.checkpoint_defaults(self.given, method.judged_by if asked.eval_rows else None)
            if self.own_checkpoints is not None
            else {}
        )
        # Which weights are kept is part of what a run is; where they are saved on the way is not.
        judged = {
            name: value for name, value in self.schedule.items() if name not in settings.CHECKPOINT_DEFAULTS
        }
        # It goes into files, tracking and the model card, all of which others can read.
        self.run = redacted(
            {
                "component": method.component,
                "dataset": dict(asked.rows.origin),
                **({"eval_dataset": dict(asked.eval_rows.origin)} if asked.eval_rows else {}),
                "base_model": describe_base(asked.base_model),
                "training_args": {**self.defaults, **judged, **self.given},
                "peft_args": dict(options.get("peft_args") or {}),
                "model_args": {"dtype": self.dtype, **(options.get("model_args") or {})},
                "processes": process_count(),  # the effective batch, and with it steps and schedule, are those of all of them
                **asked.facts,
            }
        )

    @property
    def is_for_a_retry(self) -> bool:
        """Whether checkpoints are kept that nobody asked for."""
        return self.own_checkpoints is None and self.checkpoints is not None

    @property
    def batch_is_given(self) -> bool:
        """Whether the caller says how many rows are computed at a time."""
        return BATCH in self.given

    @property
    def may_recompute(self) -> bool:
        """Whether one process decides by its memory if activations are kept or computed anew."""
        return process_count() == 1 and settings.decides_on_recomputing(self.given)

    def split_findings(self) -> list[str]:
        """How many rows were computed at a time, where trials have told."""
        told = ", ".join(f"{name}={value}" for name, value in self.split.items())
        return (
            [f"Rows were computed in the way that trials found the fastest, at the same batch: {told}."]
            if told
            else []
        )

    def memory_findings(self) -> list[str]:
        """What the memory did not suffice for."""
        told = ", ".join(f"{name}={value}" for name, value in self.changed.items() if value)
        return [f"Memory did not suffice for the settings; it was trained with {told}."] if told else []

    def check(self) -> None:
        """Raise an error for wrong settings before anything is loaded or tracked."""
        from llmops_components.training.survival import Checkpointing, LossGuard

        self.arguments()
        Checkpointing(self.save_minutes())
        LossGuard.from_setting(self.loss_guard())
        self._claim_checkpoints()

    def arguments(self, changes: Mapping[str, Any] | None = None) -> Any:
        """The trainer's arguments: the caller's, with some changed."""
        import trl

        self.changed = dict(changes or {})
        args = settings.build_config(
            getattr(trl, self.method.config),
            {
                **self.given,
                **(settings.FOR_A_RETRY if self.is_for_a_retry else {}),
                **self.split,
                **self.changed,
            },
            what="training_args",
            defaults=self.defaults | self.schedule,
            fixed={
                **settings.fixed_args(self.checkpoints or self.scratch),
                **(
                    {}
                    if self.own_checkpoints
                    else {"save_strategy": "steps" if self.is_for_a_retry else "no"}
                ),
                **self.method.fixed,
            },
        )
        if args.learning_rate == 0:
            raise SettingError(
                "training_args: learning_rate is 0, with which nothing would be learned. Give a number above 0."
            )
        if self.asked.rows.rows is None and args.max_steps <= 0:
            raise SettingError(
                f"training_args: max_steps is needed, because {self.asked.rows.name} is large and streamed, so that its end "
                "is not known. Set it, or raise LLMOPS_STREAM_BYTES."
            )
        return args

    def _claim_checkpoints(self) -> None:
        if self.checkpoints is None:
            return
        try:
            claim(Path(self.checkpoints), self.run)
        except SettingError:
            if not self.is_for_a_retry:
                raise
            # Nobody asked for them, and the settings have changed since: there is nothing to go on from.
            if is_main_process():
                put_all_aside(Path(self.checkpoints))
                claim(Path(self.checkpoints), self.run)

    def resume_point(self) -> str | None:
        """The checkpoint to go on from. Those that cannot be gone on from are named in ``left_out``."""
        if self.checkpoints is None:
            return None
        directory = Path(self.checkpoints)
        found, findings = decided_by_main(lambda: resume_point(directory))
        self.left_out += findings  # they are put aside, so that the next look does not find them
        return found

    def done(self) -> None:
        """Remove checkpoints that nobody asked for."""
        if self.is_for_a_retry and is_main_process():
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    def save_minutes(self) -> float | None:
        """Minutes between checkpoints; None for the trainer's own schedule."""
        given = self.options.get("save_minutes")
        return RETRY_SAVE_MINUTES if given is None and self.is_for_a_retry else given

    def loss_guard(self) -> Mapping[str, float] | bool:
        """Settings of what stops a training whose loss diverges; false for nothing."""
        guard = self.options.get("loss_guard")
        return True if guard is None else guard
