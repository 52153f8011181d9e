"""The report of an evaluation: seconds and megabytes for many samples, against the table that pandas makes of the same rows.

A user without it would write ``DataFrame.to_html()``: all rows in one table, without a search, a chart or an interval. Rows are like those of
an evaluation: words of two languages, answers of 3 to 60 words, two models, five metrics. Times are wall and CPU time of the process, the best
of several rounds, since the machine has other things to do; what computes the intervals comes before and is not part of it; that of
further models is told for itself.

    .venv/data/bin/python dev/bench/bench_report.py
    .venv/data/bin/python dev/bench/bench_report.py --samples 10000 --words 200 --rounds 1
    .venv/data/bin/python dev/bench/bench_report.py --further 2
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from llmops_components.evaluation.about import About
from llmops_components.evaluation.comparing import comparison_of
from llmops_components.evaluation.facts import Facts
from llmops_components.evaluation.further import FurtherModel, GivenModel
from llmops_components.evaluation.report.content import Content
from llmops_components.evaluation.report.packed import pack
from llmops_components.evaluation.report.page import render_page
from llmops_components.evaluation.report.text import render_json, render_markdown
from llmops_components.evaluation.slices import labels_of, slices_of
from llmops_components.evaluation.statistics import Scores, compare

METRICS = ("rougeL", "rouge1", "chrf", "exact_match", "string_presence")
VOCABULARY = 4000  # words, drawn as those of a text are: the first of them most often


def made(samples: int, words: int, others: int = 0) -> Content:
    chance = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    known = ["".join(chance.choice(letters, int(chance.integers(2, 11)))) for _ in range(VOCABULARY)]
    weights = 1 / np.arange(1, VOCABULARY + 1)
    weights /= weights.sum()

    def texts(most: int) -> list[str]:
        return [
            " ".join(
                known[place]
                for place in chance.choice(VOCABULARY, int(chance.integers(3, most + 1)), p=weights)
            )
            for _ in range(samples)
        ]

    def scores() -> dict[str, Scores]:
        return {
            name: Scores.mean_of(
                chance.beta(2, 3, samples) * (100 if name == "chrf" else 1), (0, 100 if name == "chrf" else 1)
            )
            for name in METRICS
        }

    columns = {name: texts(words) for name in ("prompt", "reference", "answer", "baseline_answer")}
    rows = [
        {
            "row": place + 1,
            **{name: values[place] for name, values in columns.items()},
            "seconds": round(float(chance.gamma(2, 0.4)), 3),
            "finish_reason": "stop",
            "language": ("en", "de")[place % 2],
        }
        for place in range(samples)
    ]
    ours, theirs = scores(), scores()
    compared = {name: compare(ours[name], theirs[name]) for name in METRICS}
    slices, _ = slices_of(rows, ["language"], ["rougeL"], ours, theirs)
    further, took = [], 0.0
    for number in range(others):
        lines = [{"row": place, "answer": text} for place, text in enumerate(texts(words), start=1)]
        given, reached, began = (
            GivenModel(f"other {number + 1}", "sha256:0", lines),
            scores(),
            time.perf_counter(),
        )
        further.append(FurtherModel.of(given, reached, ours))
        assert further[-1].reached  # computed when it is asked for
        took += time.perf_counter() - began
    if others:
        print(f"{others} further models: {took:.2f} s for their intervals")
    return Content(
        samples=rows,
        ours=ours,
        theirs=theirs,
        compared=compared,
        comparison=comparison_of(ours, theirs, compared, slices),
        facts=Facts("LlamaForCausalLM", 135_000_000, samples * 40, 900.0),
        about=About(component="evaluate_model", model="tuned"),
        baseline=[{"answer": row["baseline_answer"], "seconds": row["seconds"]} for row in rows],
        further=further,
        labels=labels_of(rows, ["language"]),
    )


def as_pandas_does(content: Content) -> str:
    import pandas

    rows = [
        {**row, **{name: content.ours[name].values[place] for name in METRICS}}
        for place, row in enumerate(content.samples)
    ]
    table: str = pandas.DataFrame(rows).to_html()
    return table


def measured(what: Callable[[], str], rounds: int) -> tuple[float, float, int]:
    """The least wall and CPU seconds, and the bytes."""
    walls, busy, size = [], [], 0
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        size = len(what().encode())
        walls.append(time.perf_counter() - wall)
        busy.append(time.process_time() - cpu)
    return min(walls), min(busy), size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--words", type=int, default=60, help="most words of a text")
    parser.add_argument("--further", type=int, default=0, help="models beside both")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    content = made(options.samples, options.words, options.further)
    ways: dict[str, Callable[[], str]] = {
        "page": lambda: render_page(content),
        "json": lambda: render_json(content),
        "markdown": lambda: render_markdown(content),
    }
    if importlib.util.find_spec("pandas"):
        ways["pandas to_html"] = lambda: as_pandas_does(content)
    found: dict[str, Any] = {name: measured(way, options.rounds) for name, way in ways.items()}
    print(
        f"{options.samples:,} samples, texts of 3 to {options.words} words, {len(METRICS)} metrics, best of {options.rounds}"
    )
    print(f"{'':<16}{'wall s':>8}{'cpu s':>8}{'MB':>8}")
    for name, (wall, cpu, size) in found.items():
        print(f"{name:<16}{wall:>8.2f}{cpu:>8.2f}{size / 1e6:>8.2f}")
    if "pandas to_html" in found:
        (_, page_cpu, page_size), (_, table_cpu, table_size) = found["page"], found["pandas to_html"]
        print(
            f"against pandas: {page_cpu / table_cpu:.2f} of its CPU time, {page_size / table_size:.2f} of its bytes"
        )
    packed = pack(content)
    print(" ".join(packed.told(options.samples)) or f"all {packed.samples:,} samples are on the page in full")


if __name__ == "__main__":
    main()
