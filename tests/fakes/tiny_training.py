"""A TRL trainer on the tiny model, and a script that trains with it until a signal comes.

python tests/fakes/tiny_training.py REQUEST.json
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from tiny_model import colour_rows
from transformers import TrainerCallback


def sft_trainer(model: Path, output_dir: Path, *, callbacks: list[Any] | None = None, **training_args: Any):
    """An ``SFTTrainer`` of a small LoRA, in float32, that logs every step and is as fast as it can be."""
    import transformers
    from datasets import Dataset, disable_progress_bars
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    settings = {
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "learning_rate": 1e-2,
        "max_steps": 20,
        "per_device_train_batch_size": 4,
        "save_strategy": "no",
        "activation_checkpointing": False,
        "dataloader_pin_memory": False,
    }
    args = SFTConfig(output_dir=str(output_dir), **{**settings, **training_args})
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=args,
        train_dataset=Dataset.from_list(colour_rows(32)),
        eval_dataset=Dataset.from_list(colour_rows(4)) if args.eval_strategy != "no" else None,
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=callbacks,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


class Judged(TrainerCallback):
    """Puts the figures that a test wants in the place of the evaluation's, whatever the training has learned.

    Args:
        best: Step whose figure is the best one: the further from it, the worse.
        figure: Name of the figure; lower is better.
    """

    def __init__(self, best: int, figure: str = "eval_loss") -> None:
        self.best, self.figure = best, figure

    def on_log(self, args, state, control, logs, **kwargs):
        if self.figure in logs:  # the Trainer compares these, and keeps a copy in its history
            logs[self.figure] = state.log_history[-1][self.figure] = 1.0 + abs(state.global_step - self.best)


def losses(log_history: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """Step and loss of every line of a trainer's log."""
    return [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]


def same_course(trace: list[tuple[int, float]]) -> list[tuple[int, Any]]:
    """The same steps and losses, for trainings that compute the same in another order or in other shapes.

    How a processor rounds may then differ. Another schedule, seed, batch or weight differs by far more.
    """
    import pytest

    return [(step, pytest.approx(loss, rel=1e-4, abs=1e-5)) for step, loss in trace]


def newest_checkpoint(directory: Path) -> str | None:
    """The newest complete checkpoint."""
    found = [path.parent for path in directory.glob("checkpoint-*/trainer_state.json")]
    return str(max(found, key=lambda path: int(path.name.rpartition("-")[2]))) if found else None


def main(request: dict[str, Any]) -> None:
    from llmops_components.errors import ComponentError
    from llmops_components.training.survival import run_training

    class Slow(TrainerCallback):  # so that a signal lands in the middle
        def on_step_end(self, args, state, control, **kwargs):
            print(f"step {state.global_step}", flush=True)
            time.sleep(request.get("seconds_per_step", 0.0))

    checkpoints = Path(request["checkpoints"])
    trainer = sft_trainer(
        Path(request["model"]), checkpoints, callbacks=[Slow()], **request.get("training_args", {})
    )
    try:
        run_training(trainer, newest_checkpoint(checkpoints), **request.get("survival", {}))
    except ComponentError as error:
        raise SystemExit(f"{type(error).__name__} retryable={error.retryable}: {error}") from None
    Path(request["trace"]).write_text(json.dumps(losses(trainer.state.log_history)))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
