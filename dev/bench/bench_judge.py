"""Judged samples per second: ours against RAGAS's own ``evaluate`` and ``abatch_score``, and a bare asynchronous client.

The judge is a process of its own that answers each question after a while, as many at a time as come, so that what is measured
is who asks. Each sample is one question (``rubrics_score``). RAGAS asks in two ways: ``evaluate``, which its first page shows, by langchain's client with as
many workers; and ``abatch_score`` of the metrics that came after it, by ``llm_factory`` and the ``openai`` client, as many at a
time as allowed by a batch of that size (its own has no limit). Its telemetry is off and on; each way is a process of its own, as the
telemetry is switched when RAGAS is imported. The bare client sends the same bodies and reads the same objects, and writes nothing down.
All are asked in turns, ``--rounds`` times; the best of each counts.

    .venv/data/bin/python dev/bench/bench_judge.py [--samples 960] [--concurrency 32] [--seconds 0.05] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chat_server import chat_server

VERDICT = json.dumps(
    {"feedback": "It answers the question in one sentence, and leaves nothing out.", "score": 4}
)
METRIC = "rubrics_score"
TELEMETRY = ", telemetry on"
WAYS = (
    "bare",
    "ours",
    "ragas evaluate",
    "ragas batches",
    "ragas evaluate, telemetry on",
    "ragas batches, telemetry on",
)


def samples_of(count: int) -> list[dict[str, str]]:
    return [
        {"user_input": f"What colour is thing {number}?", "response": f"Thing {number} is blue."}
        for number in range(count)
    ]


def bare(url: str, samples: list[dict[str, str]], concurrency: int) -> float:
    """The questions are made before: what remains is to send and read them."""
    import aiohttp
    from ragas.metrics.collections.domain_specific_rubrics.util import RubricScoreInput, RubricScorePrompt

    prompt = RubricScorePrompt()
    bodies = [
        {
            "model": "m",
            "messages": [{"role": "user", "content": prompt.to_string(RubricScoreInput(**each))}],
            "max_tokens": 1024,
        }
        for each in samples
    ]

    async def everything() -> float:
        several = asyncio.Semaphore(concurrency)

        async def one(body: dict[str, Any]) -> float:
            async with several, session.post(f"{url}/chat/completions", json=body) as got:
                reply = await got.json()
            return float(json.loads(reply["choices"][0]["message"]["content"])["score"])

        connector = aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(connector=connector) as session:
            started = time.perf_counter()
            assert set(await asyncio.gather(*map(one, bodies))) == {4.0}
            return time.perf_counter() - started

    return asyncio.run(everything())


def ours(url: str, samples: list[dict[str, str]], concurrency: int) -> float:
    from llmops_components.evaluation.judge.memory import Memory
    from llmops_components.evaluation.judge.settings import JudgeSettings
    from llmops_components.evaluation.metrics.plan import plan_metrics
    from llmops_components.evaluation.scored import Given, score_rows

    settings = JudgeSettings.of({"url": url, "model_name": "m", "concurrency": concurrency})
    plan = plan_metrics([METRIC], judge=settings)
    rows = [{"prompt": each["user_input"]} for each in samples]
    given = [Given(each["response"]) for each in samples]
    with tempfile.TemporaryDirectory() as directory, Memory(Path(directory, "m"), outlives=True) as memory:
        started = time.perf_counter()
        scored = score_rows(plan, rows, given, judge=settings, memory=memory)
        seconds = time.perf_counter() - started
    assert set(scored.scores[METRIC].values.tolist()) == {4.0}
    return seconds


def ragas_evaluate(url: str, samples: list[dict[str, str]], concurrency: int) -> float:
    from langchain_openai import ChatOpenAI
    from ragas import EvaluationDataset, RunConfig, evaluate
    from ragas.llms import LangchainLLMWrapper
    from ragas.metrics import RubricsScore

    judge = LangchainLLMWrapper(ChatOpenAI(base_url=url, api_key="none", model="m", timeout=60))
    dataset = EvaluationDataset.from_list(samples)
    settings = RunConfig(max_workers=concurrency)
    started = time.perf_counter()
    found = evaluate(
        dataset, [RubricsScore()], llm=judge, run_config=settings, show_progress=False, raise_exceptions=True
    )
    seconds = time.perf_counter() - started
    assert set(found["domain_specific_rubrics"]) == {4.0}
    return seconds


def ragas_batches(url: str, samples: list[dict[str, str]], concurrency: int) -> float:
    from openai import AsyncOpenAI
    from ragas.llms import llm_factory
    from ragas.metrics.collections import RubricsScoreWithoutReference

    async def everything() -> float:
        async with AsyncOpenAI(base_url=url, api_key="none", timeout=60) as client:
            metric = RubricsScoreWithoutReference(llm=llm_factory("m", client=client))
            started = time.perf_counter()
            for first in range(0, len(samples), concurrency):
                found = await metric.abatch_score(samples[first : first + concurrency])
                assert {each.value for each in found} == {4.0}
            return time.perf_counter() - started

    return asyncio.run(everything())


def measure(way: str, url: str, samples: int, concurrency: int) -> float:
    """Samples per second, without the time that imports take."""
    import ragas.metrics.collections

    _ = ragas.metrics.collections
    ways: dict[str, Callable[..., float]] = {
        "bare": bare,
        "ours": ours,
        "ragas evaluate": ragas_evaluate,
        "ragas batches": ragas_batches,
    }
    ask = ways[way.removesuffix(TELEMETRY)]
    ask(url, samples_of(concurrency), concurrency)
    return samples / ask(url, samples_of(samples), concurrency)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=960)
    parser.add_argument(
        "--telemetry_samples", type=int, default=64, help="with telemetry on, which is slow without a network"
    )
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.05, help="how long a verdict takes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.way, args.url, args.samples, args.concurrency)))
        return
    with chat_server(args.seconds, "/v1", lambda question: VERDICT, (400, 24)) as address:
        url = f"{address}/v1"
        best = dict.fromkeys(WAYS, 0.0)
        for _ in range(args.rounds):
            for way in WAYS:
                on = way.endswith(TELEMETRY)
                count = args.telemetry_samples if on else args.samples
                command = [sys.executable, __file__, "--way", way, "--url", url, "--samples", str(count)]
                command += ["--concurrency", str(args.concurrency)]
                environment = {**os.environ, "RAGAS_DO_NOT_TRACK": str(not on).lower()}
                done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                best[way] = max(best[way], json.loads(done.stdout.splitlines()[-1]))
    print(
        f"{args.samples} samples, {args.concurrency} at a time, {args.seconds * 1000:.0f} ms each; most possible "
        f"{args.concurrency / args.seconds:.0f} samples/s"
    )
    for way, rate in best.items():
        print(f"{way:<30}{rate:8.1f} samples/s  {rate / best['bare']:6.2f} of the bare client")


if __name__ == "__main__":
    main()
