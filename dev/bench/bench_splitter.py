"""The gateway that shares requests out: what it costs against the predictor asked directly, and whether a switch loses a request.

Real predictors with a tiny model answer one token a request, so that what is measured is the way there. Direct and through the gateway
are asked in turns, ``--rounds`` times. Then a canary is brought in ``--switches`` times in a row, by 5, 50 and 100 percent, while
``--rate`` requests a second come on time, whether the ones before are answered or not; every one has to be answered.

    .venv/data/bin/python dev/bench/bench_splitter.py [--clients 16] [--requests 1000] [--rate 200] [--switches 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
NAME = "split"
STEPS = (5, 50)
STEP_SECONDS = 5.0
ROUTE = f"/v1/models/{NAME}:predict"
BODY = {"instances": ["What colour is the sky?"], "parameters": {"max_tokens": 1, "temperature": 0}}


@dataclass
class Asked:
    """What became of requests.

    :param seconds: of each that was answered
    :param failures: why others were not, with how many
    :param revisions: how many each revision has answered
    """

    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    revisions: Counter[str] = field(default_factory=Counter)

    async def ask(self, session: Any, url: str) -> None:
        """Ask once.

        :param session: of aiohttp
        :param url: where
        """
        started = time.perf_counter()
        try:
            async with session.post(url + ROUTE, json=BODY) as answer:
                await answer.read()
                if answer.status == 200:
                    self.seconds.append(time.perf_counter() - started)
                    self.revisions[answer.headers.get("x-llmops-revision", "")] += 1
                else:
                    self.failures[str(answer.status)] += 1
        except Exception as error:
            self.failures[type(error).__name__] += 1

    def milliseconds(self, share: float) -> float:
        """Percentile of the time that an answer took.

        :param share: from 0 to 1
        """
        return 1000 * sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


async def as_many_as_come(url: str, headers: dict[str, str], clients: int, requests: int) -> float:
    """Requests a second of clients that each ask again as soon as they are answered."""
    import aiohttp

    asked, left = Asked(), iter(range(requests))

    async def client(session: Any) -> None:
        for _ in left:
            await asked.ask(session, url)

    async with aiohttp.ClientSession(headers=headers) as session:
        await asked.ask(session, url)
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        took = time.perf_counter() - started
    assert not asked.failures, asked.failures
    return requests / took


async def one_by_one(urls: list[str], headers: dict[str, str], requests: int) -> list[Asked]:
    """The same request to each address in turns, one at a time."""
    import aiohttp

    found = [Asked() for _ in urls]
    async with aiohttp.ClientSession(headers=headers) as session:
        for _ in range(requests):
            for url, asked in zip(urls, found, strict=True):
                await asked.ask(session, url)
    return found


async def on_time(url: str, rate: float, asked: Asked, until: asyncio.Event) -> None:
    """Ask at a rate, whether the requests before are answered or not."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        under_way: set[asyncio.Task[None]] = set()
        started, count = time.perf_counter(), 0
        while not until.is_set():
            task = asyncio.create_task(asked.ask(session, url))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            count += 1
            await asyncio.sleep(max(0.0, started + count / rate - time.perf_counter()))
        await asyncio.gather(*under_way)


def manifest(model: Path, version: int) -> dict[str, Any]:
    """One version of the service: they differ by a variable alone."""
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": NAME, "namespace": "default"},
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "huggingface"},
                    "storageUri": f"file://{model}",
                    "args": [
                        f"--model_name={NAME}",
                        "--dtype=float32",
                        "--max_length=256",
                        "--max_queue_length=5000",
                    ],
                    "env": [
                        {"name": "OMP_NUM_THREADS", "value": "1"},
                        {"name": "VERSION", "value": str(version)},
                    ],
                }
            }
        },
    }


def bring_up(serving: Any, model: Path, version: int) -> str:
    """Start a version and wait until it is ready; its revision."""
    revision: str = serving.apply(manifest(model, version))["revision"]
    while True:
        found = next(each for each in serving.status(NAME)["revisions"] if each["revision"] == revision)
        if found["state"] == "READY":
            return revision
        if found["state"] != "STARTING":
            raise SystemExit(f"revision {revision} is {found['state']}: {found.get('error')}")
        time.sleep(0.2)


def direct_url(serving: Any, revision: str) -> str:
    """Where a revision listens itself."""
    found = next(each for each in serving.status(NAME)["revisions"] if each["revision"] == revision)
    url: str = found["url"]
    return url


async def canaries(serving: Any, model: Path, url: str, rate: float, switches: int) -> Asked:
    """Bring versions in, one after the other, while requests come."""
    asked, over = Asked(), asyncio.Event()
    asking = asyncio.create_task(on_time(url, rate, asked, over))
    stable = serving.status(NAME)["stable"]
    for version in range(1, switches + 1):
        canary = await asyncio.to_thread(bring_up, serving, model, version)
        for share in STEPS:
            await asyncio.to_thread(serving.traffic, NAME, {canary: share, stable: 100 - share})
            before = Counter(asked.revisions)
            await asyncio.sleep(STEP_SECONDS)
            got = asked.revisions - before
            print(
                f"  {canary} at {share} percent: {100 * got[canary] / max(1, got.total()):.1f} percent of {got.total()}",
                flush=True,
            )
        await asyncio.to_thread(serving.traffic, NAME, {canary: 100})
        stable = canary
    over.set()
    await asking
    return asked


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--switches", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON at the end")
    given = parser.parse_args()

    from llmops_components.serving.access.secret import GATEWAY_HEADER, read_secret
    from llmops_components.serving.local.controller import LocalServing

    with tempfile.TemporaryDirectory() as root:
        model = Path(root) / "model"
        subprocess.run([sys.executable, REPO / "tests" / "fakes" / "tiny_model.py", model], check=True)
        serving = LocalServing(root)
        try:
            first = bring_up(serving, model, 0)
            url = serving.traffic(NAME, {first: 100})["url"]
            direct = direct_url(serving, first)
            # The predictor answers its gateway alone: who asks it directly has to know what the gateway knows.
            headers = {GATEWAY_HEADER: read_secret(Path(root, "services", "default", NAME, "secret"))}
            alone, shared = one_by_one_figures(direct, url, headers, given.requests // 5)
            rates = {each: [] for each in (direct, url)}
            for _ in range(given.rounds):
                for each in rates:
                    rates[each].append(
                        asyncio.run(as_many_as_come(each, headers, given.clients, given.requests))
                    )
            straight, through = (statistics.median(rates[each]) for each in (direct, url))
            print(
                f"{given.clients} clients: {straight:.0f} requests/s direct, {through:.0f} through the gateway, {through / straight:.2f} of it"
            )
            print(f"{given.switches} canaries in a row at {given.rate:g} requests/s:", flush=True)
            asked = asyncio.run(canaries(serving, model, url, given.rate, given.switches))
            count = len(asked.seconds) + asked.failures.total()
            print(
                f"{count} requests, {asked.failures.total()} failed {dict(asked.failures) or ''}; answered within {asked.milliseconds(0.5):.0f} ms "
                f"(median), {asked.milliseconds(0.95):.0f} ms (95 percent)"
            )
            if given.json:
                print(
                    json.dumps(
                        {
                            "requests_per_second_ratio": round(through / straight, 3),
                            "added_ms_median": round(shared.milliseconds(0.5) - alone.milliseconds(0.5), 3),
                            "added_ms_p95": round(shared.milliseconds(0.95) - alone.milliseconds(0.95), 3),
                            "requests": count,
                            "failed": asked.failures.total(),
                        }
                    )
                )
        finally:
            serving.delete(NAME)
    if asked.failures:
        raise SystemExit("requests failed")


def one_by_one_figures(direct: str, url: str, headers: dict[str, str], requests: int) -> tuple[Asked, Asked]:
    """Added latency, printed."""
    alone, shared = asyncio.run(one_by_one([direct, url], headers, requests))
    assert not alone.failures, alone.failures
    assert not shared.failures, shared.failures
    print(
        f"one at a time: {alone.milliseconds(0.5):.2f} ms direct (median), {shared.milliseconds(0.5):.2f} ms through the gateway; 95 percent "
        f"{alone.milliseconds(0.95):.2f} and {shared.milliseconds(0.95):.2f} ms"
    )
    return alone, shared


if __name__ == "__main__":
    main()
