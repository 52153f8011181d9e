"""Preparing a million rows of a kilobyte: rows a second, peak memory, and what a second process is worth.

The rows are documents of 40 to 300 words with sentences and lines; one of twenty repeats an earlier one, one of twenty is too short, one
of fifty says the same again and again, one of fifty cannot be read. They go through the steps below, once in one process and once in two, which have to write the
same bytes. Memory is of all processes together, looked at four times a second, in which pages that processes share count once (PSS).

    .venv/data/bin/python dev/bench/bench_prepare.py
    .venv/data/bin/python dev/bench/bench_prepare.py --rows 50000 --processes 1 2
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from llmops_components.data.preparation.prepare import prepare_dataset

STEPS = [
    {"step": "normalise"},
    {"step": "filter_length", "min_words": 20},
    {"step": "filter_repetition"},
    {"step": "filter_quality", "limits": {"gopher_stop_words": None}},
    {"step": "drop_duplicates"},
    {"step": "split", "share": 0.01},
]
OUTPUTS = ("prepared", "held_out", "ledger", "manifest")
VOCABULARY = 20_000
LOOK_SECONDS = 0.25
MEBIBYTE = 1 << 20


def write_documents(file: Path, rows: int) -> None:
    chance = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    lengths = chance.integers(2, 11, VOCABULARY)
    known = np.array(["".join(chance.choice(letters, length)) for length in lengths])
    weights = 1 / np.arange(10, VOCABULARY + 10)
    weights /= weights.sum()
    earlier: list[str] = []
    with file.open("w", encoding="utf-8") as handle:
        for number in range(rows):
            if number % 20 == 19:
                handle.write(earlier[int(chance.integers(len(earlier)))])
                continue
            size = 8 if number % 20 == 7 else int(chance.integers(40, 300))
            words = known[chance.choice(VOCABULARY, size, p=weights)].tolist()
            words[6::7] = [f"{word}." for word in words[6::7]]
            words[48::49] = [f"{word}.\n" for word in words[48::49]]
            text = " ".join(words)
            if number % 50 == 3:
                text = f"{text}.\n" * 4
            line = json.dumps({"text": text + ".", "n": number}) + "\n"
            handle.write(line[:-5] + "\n" if number % 50 == 13 else line)
            if len(earlier) < 10_000:
                earlier.append(line)


class Memory:
    """The most memory that this process and its children have had together."""

    def __init__(self) -> None:
        self.most = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        this = psutil.Process()
        while not self._end.wait(LOOK_SECONDS):
            total = 0
            for process in (this, *this.children(recursive=True)):
                with suppress(psutil.Error):
                    total += process.memory_full_info().pss
            self.most = max(self.most, total)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--directory", type=Path, help="where the files are written: it needs four times their size"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory) as directory:
        file = Path(directory) / "documents.jsonl"
        write_documents(file, given.rows)
        print(f"{given.rows:,} rows, {file.stat().st_size / MEBIBYTE:,.0f} MiB", flush=True)
        seen = {}
        first = None
        for processes in given.processes:
            out = [Path(directory) / f"{processes}-{name}" for name in OUTPUTS]
            with Memory() as memory:
                start, before = time.perf_counter(), cpu_seconds()
                report = prepare_dataset({"documents": file}, *out, steps=STEPS, processes=processes)
                seconds, cpu = time.perf_counter() - start, cpu_seconds() - before
            first = first or seconds
            print(
                f"{processes} processes: {seconds:,.0f} s  {given.rows / seconds:,.0f} rows/s  "
                f"{first / seconds:.2f} times the first  {cpu:,.0f} CPU seconds  peak {memory.most / MEBIBYTE:,.0f} MiB",
                flush=True,
            )
            seen[processes] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in out]
            for path in out:
                path.unlink()
        print(json.dumps(report.metrics))
        print("same bytes" if len({tuple(each) for each in seen.values()}) == 1 else "OTHER BYTES")


if __name__ == "__main__":
    main()
