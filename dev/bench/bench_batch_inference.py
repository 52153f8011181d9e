"""Batch inference: rows per second against a plain loop, and against ``asyncio.gather`` with the ``openai`` client.

The server is a process of its own that answers each question after a while, as many at a time as come, so that what is measured
is the client. The alternatives only ask: they write nothing down, cannot go on after a kill, and lose all with the first error.
All are asked in turns, ``--rounds`` times; the best of each counts.

    .venv/data/bin/python dev/bench/bench_batch_inference.py [--rows 2000] [--loop_rows 200] [--concurrency 32] [--seconds 0.05]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chat_server import chat_server

REQUEST = {"max_tokens": 64, "temperature": 0}


def says(question: str) -> str:
    return f"An answer to {question} " + "word " * 60


def loop_requests(url: str, prompts: list[str], concurrency: int) -> None:
    import requests

    with requests.Session() as session:
        for prompt in prompts:
            body = {"model": "m", "messages": [{"role": "user", "content": prompt}], **REQUEST}
            got = session.post(f"{url}/openai/v1/chat/completions", json=body, timeout=60)
            got.raise_for_status()
            assert got.json()["choices"][0]["message"]["content"]


def loop_httpx(url: str, prompts: list[str], concurrency: int) -> None:
    import httpx

    with httpx.Client(timeout=60) as client:
        for prompt in prompts:
            body = {"model": "m", "messages": [{"role": "user", "content": prompt}], **REQUEST}
            got = client.post(f"{url}/openai/v1/chat/completions", json=body)
            got.raise_for_status()
            assert got.json()["choices"][0]["message"]["content"]


def gather_openai(url: str, prompts: list[str], concurrency: int) -> None:
    from openai import AsyncOpenAI

    async def everything() -> None:
        several = asyncio.Semaphore(concurrency)

        async def one(prompt: str) -> str:
            async with several:
                got = await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": prompt}], **REQUEST
                )
                return str(got.choices[0].message.content)

        async with AsyncOpenAI(base_url=f"{url}/openai/v1", api_key="none", timeout=60) as client:
            assert all(await asyncio.gather(*map(one, prompts)))

    asyncio.run(everything())


def ours(url: str, prompts: list[str], concurrency: int) -> None:
    from llmops_components.inference.batch import batch_inference

    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()):
        dataset = Path(directory) / "rows.jsonl"
        dataset.write_text("".join(json.dumps({"prompt": each}) + "\n" for each in prompts))
        report = batch_inference(
            dataset,
            Path(directory) / "answers.jsonl",
            Path(directory) / "rejected.jsonl",
            url=url,
            model_name="m",
            request=REQUEST,
            concurrency=concurrency,
        )
        assert report.metrics["answered"] == len(prompts)


def measure(ask: Callable[[str, list[str], int], None], url: str, rows: int, concurrency: int) -> float:
    """Rows per second."""
    prompts = [f"question {number}" for number in range(rows)]
    started = time.perf_counter()
    ask(url, prompts, concurrency)
    return rows / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--loop_rows", type=int, default=200, help="rows of the loops, which are slow")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.05, help="how long an answer takes")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cases: dict[str, tuple[Any, int]] = {
        "loop with requests": (loop_requests, args.loop_rows),
        "loop with httpx": (loop_httpx, args.loop_rows),
        "gather with openai": (gather_openai, args.rows),
        "batch_inference": (ours, args.rows),
    }
    with chat_server(args.seconds, "/openai/v1", says, (10, 64)) as url:
        for ask, _ in cases.values():
            measure(ask, url, 20, args.concurrency)  # imports
        best = dict.fromkeys(cases, 0.0)
        for _ in range(args.rounds):
            for name, (ask, rows) in cases.items():
                best[name] = max(best[name], measure(ask, url, rows, args.concurrency))
    print(
        f"answers take {args.seconds:g} s, {args.concurrency} at a time, {args.rows} rows; best of {args.rounds}"
    )
    for name, rate in best.items():
        print(
            f"{name:<20}{rate:>10.1f} rows/s   batch_inference is at {best['batch_inference'] / rate:.2f} times that"
        )


if __name__ == "__main__":
    main()
