"""A suite of eight checks on many rows: the engine on polars against GX's own on pandas, and all of ``validate_dataset``.

Both engines get the same rows as a table in memory and the same suite, in turns, and their verdicts, counts and values have to be
equal. Some rows are bad for each check. Then the rows are written as JSON Lines and the component's function is timed
with the same suite beside its own, reading and writing included.

    .venv/data/bin/python dev/bench/bench_validation.py [--rows 1000000] [--rounds 3] [--skip-file]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["GX_ANALYTICS_ENABLED"] = "False"
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "kfp_components"))

SUITE: list[dict[str, Any]] = [
    {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "text"}},
    {
        "type": "expect_column_value_lengths_to_be_between",
        "kwargs": {"column": "text", "min_value": 20, "max_value": 400},
    },
    {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "text", "regex": r"^\S.*[.!?]$"}},
    {"type": "expect_column_values_to_be_of_type", "kwargs": {"column": "text", "type_": "str"}},
    {
        "type": "expect_column_values_to_be_in_set",
        "kwargs": {"column": "source", "value_set": ["web", "wiki", "forum"]},
    },
    {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "score", "min_value": 0, "max_value": 1, "mostly": 0.99},
    },
    {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}},
    {
        "type": "expect_column_mean_to_be_between",
        "kwargs": {"column": "score", "min_value": 0.4, "max_value": 0.6},
    },
]
WORDS = [
    "the",
    "of",
    "data",
    "model",
    "row",
    "check",
    "language",
    "learns",
    "from",
    "every",
    "good",
    "answer",
    "question",
    "some",
    "text",
    "which",
    "is",
    "that",
]


def make_rows(count: int) -> list[dict[str, Any]]:
    """Rows of which about one in a thousand is bad for each check."""
    roll = random.Random(0)  # noqa: S311 - the same again next time

    def row(number: int) -> dict[str, Any]:
        text = f"{' '.join(roll.choices(WORDS, k=roll.randint(8, 40)))} {number}."
        bad = roll.random()
        return {
            "id": f"row-{0 if bad < 0.001 else number}",
            "text": None if 0.001 < bad < 0.002 else text[:-1] if 0.002 < bad < 0.003 else text,
            "source": "other" if 0.003 < bad < 0.004 else roll.choice(("web", "wiki", "forum")),
            "score": 1.5 if 0.004 < bad < 0.005 else roll.random(),
        }

    return [row(number) for number in range(count)]


def told(results: Any) -> dict[str, Any]:
    """What an engine says of each check."""
    keys = ("element_count", "unexpected_count", "missing_count", "observed_value", "partial_unexpected_list")
    return {
        each.expectation_config.type: (each.success, *(each.result.get(key) for key in keys))
        for each in results
    }


def on_pandas(frame: Any) -> dict[str, Any]:
    """GX's own way."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from llmops_components.data.validation.suite import build

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    return told(
        batch.validate(
            gx.ExpectationSuite(name="bench", expectations=build(SUITE)), result_format="SUMMARY"
        ).results
    )


def on_polars(table: Any) -> dict[str, Any]:
    """Ours."""
    from llmops_components.data.validation.judging import Judge
    from llmops_components.data.validation.suite import build

    return told(each.result for each in Judge().judge("bench", table, build(SUITE)))


def timed(call: Any, *arguments: Any) -> tuple[float, Any]:
    """Seconds that a call took, and what it gave."""
    started = time.perf_counter()
    found = call(*arguments)
    return time.perf_counter() - started, found


def whole(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Seconds of the component's function, and the size of its file in MB."""
    from llmops_components.data.validation import validate_dataset

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "rows.jsonl"
        with file.open("w") as handle:
            handle.writelines(json.dumps(row) + "\n" for row in rows)
        rows.clear()
        outputs = [Path(directory) / name for name in ("validated", "rejected", "result", "docs")]
        seconds, _ = timed(lambda: validate_dataset(file, *outputs, expectations=SUITE))
        return seconds, file.stat().st_size / 1e6


def main() -> int:
    """Measure, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-file", action="store_true")
    options = parser.parse_args()

    import pandas as pd
    from llmops_components.data.validation.tables import table_of

    rows = make_rows(options.rows)
    table, frame = table_of(rows), pd.DataFrame(rows)
    on_polars(table_of(rows[:10])), on_pandas(frame.head(10))  # what is loaded once is not measured
    ours, theirs = [], []
    for _ in range(options.rounds):
        seconds, found = timed(on_polars, table)
        ours.append(seconds)
        seconds, wanted = timed(on_pandas, frame)
        theirs.append(seconds)
        if found != wanted:
            print(f"The verdicts differ:\n{found}\n{wanted}")
            return 1
    fast, slow = statistics.median(ours), statistics.median(theirs)
    print(f"{options.rows:,} rows, {len(SUITE)} checks, the same verdicts")
    print(f"pandas  {slow:8.2f} s  {options.rows / slow:12,.0f} rows/s")
    print(f"polars  {fast:8.2f} s  {options.rows / fast:12,.0f} rows/s  {slow / fast:.1f} times as fast")
    del table, frame
    if not options.skip_file:
        seconds, size = whole(rows)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f"validate_dataset, {size:,.0f} MB of JSON Lines: {seconds:.1f} s, {options.rows / seconds:,.0f} rows/s; peak {peak:.1f} GB"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
