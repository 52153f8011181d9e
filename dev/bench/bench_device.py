"""What this machine's device does, in one table: training against plain TRL, and generation against plain ``generate``.

Each training runs in a process of its own on the same rows with the same batch, rate and LoRA: with our defaults, with TRL's, and with
TRL's where activations are kept. The losses have to be the same, or the script fails. The share of the peak is that of a large product of
matrices in the same kind of number, measured here. ``gpu.sh`` is this with what suits a card.

    .venv/data/bin/python dev/bench/bench_device.py [--device cpu|cuda] [--model tiny|smollm2|1.7b ...] [--batch 16] [--write FILE.md]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_training import make_data, measure
from devices import add_device, chosen, described

WAYS = {"ours": "our defaults", "TRL": "TRL's defaults", "TRL-keeping": "TRL, activations kept"}
MAY_DIFFER = 0.02  # of the loss at the end; numbers of 16 bit round otherwise in other shapes


def peak(device: str) -> float:
    """Operations a second of a large product of matrices, in the kind of number that trainings compute with."""
    import torch
    from llmops_components.models.precision import half

    size, kind = (8192 if device == "cuda" else 2048), getattr(torch, half() or "float32")
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        _wait(device)
        began = time.perf_counter()
        for _ in range(4):
            left @ right
        _wait(device)
        best = min(best, (time.perf_counter() - began) / 4)
    return 2 * size**3 / best


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def train(model: str, options: argparse.Namespace, most: float) -> tuple[list[list[str]], bool]:
    """Rows of the table for one model, and whether the losses are the same."""
    rows, same = [], True
    with tempfile.TemporaryDirectory() as scratch:
        paths = make_data(model, Path(scratch), options.batch * options.steps)
        parameters = sum(each.numel() for each in _model(paths["model"]).parameters())
        found: dict[str, dict[str, float]] = {}
        for way, called in WAYS.items():
            print(f"{model}: {called} ...", file=sys.stderr, flush=True)
            found[way] = measure(
                way, "sft", paths, options.steps, 1, device=options.device, batch=options.batch
            )
        # Forward and back to the activations: four operations for each weight, whose own gradients an adapter does without.
        operations = 4 * parameters
        for way, called in WAYS.items():
            figures = found[way]
            speed = figures["tokens_per_second"]
            same &= abs(figures["final_loss"] / found["TRL"]["final_loss"] - 1) < MAY_DIFFER
            rows.append(
                [
                    f"SFT, {model}, {called}",
                    f"{speed:,.0f}",
                    f"{speed / found['TRL']['tokens_per_second']:.2f}",
                    f"{figures['peak_gib']:.2f}",
                    f"{operations * speed / most:.0%}",
                    f"{figures['final_loss']:.3f}",
                ]
            )
    return rows, same


def _model(directory: Path) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))


def generate(model: str, options: argparse.Namespace) -> list[list[str]]:
    """Rows of the table for answers."""
    rows = []
    for prompts in options.prompts:
        print(f"{model}: {prompts} answers ...", file=sys.stderr, flush=True)
        command = [sys.executable, str(Path(__file__).with_name("bench_evaluation.py")), "--rounds", "1"]
        command += ["--prompts", str(prompts), "--batch-size", "16", "--json", "--device", options.device]
        command += ["--continuous"] if options.device == "cuda" else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        found = json.loads(done.stdout.splitlines()[-1])
        plain = found["one by one"]["tokens_per_second"]
        for way, each in found.items():
            speed = each["tokens_per_second"]
            memory = each["peak_gib"]
            figures = [f"{speed:,.0f}", f"{speed / plain:.2f}", f"{memory:.2f}" if memory else ""]
            rows.append([f"{prompts} answers, {model}, {way}", *figures, "", ""])
    return rows


def table(device: str, rows: list[list[str]]) -> str:
    head = ["", "tokens/s", "ratio", "GiB at most", "share of the peak", "loss at the end"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return f"Measured on {device}:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_device(parser)
    parser.add_argument("--model", choices=("tiny", "smollm2", "1.7b"), nargs="+", default=["smollm2"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument(
        "--prompts", type=int, nargs="*", default=[16, 64], help="answers at a time; none for no answers"
    )
    parser.add_argument("--write", type=Path, help="a file for the table, too")
    options = parser.parse_args()
    options.device = chosen(options.device)
    with contextlib.redirect_stdout(io.StringIO()):
        most = peak(options.device)
    rows: list[list[str]] = []
    same = True
    for model in options.model:
        of_model, is_same = train(model, options, most)
        rows += of_model
        same &= is_same
    if options.prompts:
        rows += generate("smollm2", options)
    text = table(f"{described(options.device)}; batch {options.batch}, peak {most / 1e9:,.0f} GFLOP/s", rows)
    print(text)
    if options.write:
        options.write.write_text(text)
    if not same:
        print(f"FAIL: the losses at the end differ by more than {MAY_DIFFER:.0%}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
