"""The launcher with a training component of its own: slow steps, so that signals land in the middle, and no checks.

python -m toy_launch REQUEST.json
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from llmops_components.training import launch


def train_sft(
    dataset: str, base_model: str, model: str, adapter: str, training_args: dict[str, Any], checkpoints: str
):
    from llmops_components.results import StepReport
    from llmops_components.training.survival import run_training
    from tiny_training import newest_checkpoint, sft_trainer
    from transformers import TrainerCallback

    class Slow(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            print(f"step {state.global_step}", flush=True)
            time.sleep(0.1)

    trainer = sft_trainer(Path(base_model), Path(checkpoints), callbacks=[Slow()], **training_args)
    run_training(trainer, newest_checkpoint(Path(checkpoints)))
    Path(model).mkdir(parents=True)
    (Path(model) / "config.json").write_text(os.environ.get("RANK", "0"))
    return StepReport(metrics={"steps": trainer.state.global_step})


launch.COMPONENTS = {"train_sft": __spec__.name if __spec__ else __name__}
launch.MODULE = "toy_launch"

if __name__ == "__main__":
    launch.main()
