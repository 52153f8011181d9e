"""What the wrapper costs: tokens per second of train_sft against a plain TRL script with the same settings.

Both train the same steps from the same weights, in turns, and have to log the same losses, and both compute logits at
labelled positions only: what that gains is in ``bench_training.py``. What is timed is the whole of
``SFTTrainer.train()`` in both, by one wrapper. Prints the medians and their ratio, and fails when the ratio is below the target or the losses differ.

    .venv/data/bin/python dev/bench/bench_sft.py [--model tiny|smollm2] [--steps N] [--rounds N] [--threads N] [--device cpu|cuda]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from bench_training import make_data
from devices import add_device, chosen, described, peak_gib

TARGET_RATIO = 0.98
SETTINGS = {
    "logging_steps": 1,
    "per_device_train_batch_size": 4,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "bf16": True,
}


def time_training() -> list[tuple[float, float]]:
    """Wall and CPU seconds of every ``SFTTrainer.train()`` from now on, whoever calls it."""
    from trl import SFTTrainer

    seconds: list[tuple[float, float]] = []
    original = SFTTrainer.train

    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        done = original(self, *args, **kwargs)
        seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
        return done

    SFTTrainer.train = timed
    return seconds


def run_component(model: Path, rows: Path, steps: int, out: Path) -> tuple[list[float], int]:
    from llmops_components.training.methods.sft import train_sft

    report = train_sft(
        rows,
        model,
        out / "model",
        out / "adapter",
        training_args=SETTINGS | {"max_steps": steps},
        model_args={"dtype": "bfloat16"},
    )
    log = json.loads((out / "model" / "training_log.json").read_text())
    losses = [entry["loss"] for entry in log if "loss" in entry]
    return losses, report.metrics["tokens"]


def run_plain(model: Path, rows: Path, steps: int, out: Path, device: str) -> tuple[list[float], int]:
    from datasets import load_dataset
    from llmops_components.training.label_positions import only_where_labelled
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="bfloat16"),
        args=SFTConfig(
            output_dir=str(out),
            max_steps=steps,
            use_cpu=device == "cpu",
            activation_checkpointing=False,
            dataloader_pin_memory=device == "cuda",
            save_strategy="no",
            report_to="none",
            **SETTINGS,
        ),
        train_dataset=load_dataset("json", data_files=str(rows), split="train", cache_dir=str(out)),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    with only_where_labelled():
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [entry["loss"] for entry in logged], int(logged[-1]["num_tokens"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--steps", type=int, help="steps of each run (default: 60 tiny, 4 smollm2)")
    parser.add_argument(
        "--rounds", type=int, help="runs of each, after one to warm up (default: 7 tiny, 3 smollm2)"
    )
    parser.add_argument("--threads", type=int, help="threads of torch (default: 1 tiny, all cores smollm2)")
    add_device(parser)
    args = parser.parse_args()
    device = chosen(args.device)
    tiny = args.model == "tiny"
    steps, rounds = args.steps or (60 if tiny else 4), args.rounds or (7 if tiny else 3)

    import numpy as np
    import torch

    warnings.filterwarnings("ignore")
    if args.threads or tiny:
        torch.set_num_threads(args.threads or 1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        # Steps of a tiny model on short rows take milliseconds, so there an overhead per step shows most.
        paths = make_data(args.model, root, 64 if tiny else 4 * steps)

        seconds = time_training()
        speeds: dict[str, list[float]] = {"train_sft": [], "plain TRL": []}
        per_cpu: dict[str, list[float]] = {"train_sft": [], "plain TRL": []}
        runs = {"train_sft": run_component, "plain TRL": partial(run_plain, device=device)}
        traces = {}
        for turn in range(rounds + 1):
            # Who goes first alternates, so that a slow spell of the machine does not always hit the same one.
            for name in sorted(runs, reverse=bool(turn % 2)):
                quiet = io.StringIO()
                with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                    traces[name], tokens = runs[name](
                        paths["model"], paths["sft"], steps, root / f"{turn} {name}"
                    )
                if turn:
                    speeds[name].append(tokens / seconds[-1][0])
                    per_cpu[name].append(tokens / seconds[-1][1])
            ours, plain = traces["train_sft"], traces["plain TRL"]
            may_differ = 0 if device == "cpu" else 0.01  # a GPU adds up in another order each time
            if len(ours) != len(plain) or not np.allclose(ours, plain, rtol=may_differ, atol=0):
                print(f"FAIL: the losses differ: {traces}")
                return 1

    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, values in speeds.items():
        shown = "  ".join(f"{value:.0f}" for value in values)
        print(f"{name:10}  {medians[name]:8.1f} tokens/s (median)   runs: {shown}")
    ratio = medians["train_sft"] / medians["plain TRL"]
    print(f"{described(device)}; at most {peak_gib(device):.2f} GiB for both")
    print(f"{args.model}, {steps} steps, {torch.get_num_threads()} threads: same {steps} losses")
    # Other work on the machine distorts wall time far more than CPU time; where the two disagree, measure again.
    cpu_ratio = statistics.median(per_cpu["train_sft"]) / statistics.median(per_cpu["plain TRL"])
    print(f"tokens per CPU second: ratio {cpu_ratio:.3f}")
    print(f"tokens per second: ratio {ratio:.3f} (target at least {TARGET_RATIO})")
    return 0 if ratio >= TARGET_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
