#!/usr/bin/env python3
"""Ten thousand deferred runs on one triggerer: one stream for all, against a trigger that polls each run.

    .venv/control/bin/python dev/bench/bench_waiting.py [--runs 10000] [--pollers 1000] [--seconds 60]

Each case is a fresh process with Airflow's own ``TriggerRunner``, of which only the conversation with its supervisor is
replaced, and the fake API server runs in another process. While some of the runs end at random, requests and CPU are
counted; the delay is from the end of a run to the event that Airflow would hand on. ``nothing`` are triggers that only
sleep: what the triggerer itself costs. Its loop over all triggers sets off full garbage collections, each of which stops
a process of ten thousand triggers for long enough to be taken for a badly written one; warnings for that are told apart.

The polling trigger does what common operators do, ``asyncio.sleep`` and a GET in a thread, with one client for all.
Ten thousand of them cannot keep up with their interval, so fewer are run, and what they cost is multiplied.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TextIO

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

import structlog
from kfp_server import KfpServer, kfp_server

INTERVAL_SECONDS = 5.0
PER_SYNC = 500  # triggers that the supervisor hands over a second
ENDING = 0.2  # part of the runs that ends while it is measured
ENDS_PER_SECOND = 4
WATCHDOG_SECONDS = 0.2  # a warning comes within this time of what blocked the loop
BLOCKED = "async thread was blocked"
PIPELINE = {
    "pipelineInfo": {"name": "bench"},
    "schemaVersion": "2.1.0",
    "sdkVersion": "kfp-2.17.0",
    "deploymentSpec": {"executors": {}},
    "components": {},
    "root": {"dag": {"tasks": {}}},
}


# In the triggerer's process


def triggerer(case: str, url: str) -> None:
    """Run the triggers whose runs are the first line of the input; answer every further line with what was used."""
    os.environ["AIRFLOW_CONN_KFP"] = json.dumps({"conn_type": "kubeflow", "host": url})

    from airflow.executors.workloads import RunTrigger
    from airflow.jobs.triggerer_job_runner import TriggerRunner, messages
    from airflow.triggers.base import BaseTrigger, TriggerEvent

    from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
    from airflow_provider_llmops.triggers.pipeline_run import PipelineRunTrigger

    hook = KubeflowPipelinesHook("kfp")

    class PollingTrigger(BaseTrigger):
        def __init__(self, run_id: str) -> None:
            super().__init__()
            self.run_id = run_id

        def serialize(self) -> tuple[str, dict[str, Any]]:
            return "poll", {"run_id": self.run_id}

        async def run(self) -> AsyncIterator[TriggerEvent]:
            backend = await hook.aget_backend()
            while not (await asyncio.to_thread(backend.get, self.run_id)).state.is_terminal:  # noqa: ASYNC110
                await asyncio.sleep(INTERVAL_SECONDS)
            yield TriggerEvent({"run_id": self.run_id})

    class SleepingTrigger(PollingTrigger):
        async def run(self) -> AsyncIterator[TriggerEvent]:
            await asyncio.Event().wait()
            yield TriggerEvent({})

    blocked = collecting = 0
    longest = collected_at = 0.0

    def collected(phase: str, info: dict[str, int]) -> None:
        nonlocal collected_at
        if phase == "stop" and info["generation"] == 2:
            collected_at = time.monotonic()

    def count(logger: Any, method: str, entry: dict[str, Any]) -> dict[str, Any]:
        nonlocal blocked, collecting
        if BLOCKED in entry.get("event", ""):
            blocked += 1
            collecting += time.monotonic() - collected_at < WATCHDOG_SECONDS
        return entry

    gc.callbacks.append(collected)

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            count,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.WriteLoggerFactory(file=open(os.devnull, "w")),  # noqa: SIM115, PTH123
    )

    common = {"kubeflow_conn_id": "kfp", "poll_interval": INTERVAL_SECONDS, "in_one_stream": True}
    run_ids = json.loads(sys.stdin.readline())
    waiting = deque(
        RunTrigger(
            id=number,
            classpath=case,
            encrypted_kwargs=json.dumps({"run_id": run_id, **(common if case == "stream" else {})}),
        )
        for number, run_id in enumerate(run_ids)
    )

    class Runner(TriggerRunner):  # type: ignore[misc]
        async def init_comms(self) -> None:
            self.comms_decoder = SimpleNamespace(_reader_task=asyncio.create_task(asyncio.Event().wait()))
            self.look = asyncio.create_task(self.measure())

        async def measure(self) -> None:
            nonlocal longest
            while True:
                slept_at = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - slept_at - 0.01)

        async def asend(self, msg: Any) -> Any:
            now = time.time()
            for entry in msg.events or ():
                print(json.dumps([run_ids[entry.trigger_id], now]), flush=True)
            for trigger_id, trace in msg.failures or ():
                print(trigger_id, *(trace or ()), file=sys.stderr, flush=True)
            batch = [waiting.popleft() for _ in range(min(PER_SYNC, len(waiting)))]
            return messages.TriggerStateSync(to_create=batch, to_cancel=set())

    runner = Runner()
    runner.trigger_cache |= {"stream": PipelineRunTrigger, "poll": PollingTrigger, "nothing": SleepingTrigger}

    def answer() -> None:
        nonlocal blocked, collecting, longest
        for _ in sys.stdin:
            used = {
                "cpu": time.process_time(),
                "blocked": blocked,
                "collecting": collecting,
                "longest": longest,
                "alive": len(runner.triggers),
            }
            blocked, collecting, longest = 0, 0, 0.0
            print(json.dumps(used), flush=True)
        os._exit(0)

    threading.Thread(target=answer, daemon=True).start()
    runner.run()


# In the process that measures


@dataclass(frozen=True)
class Measured:
    """What a case used.

    :param requests: a minute
    :param cpu: seconds of CPU a minute
    :param delays: seconds from the end of a run to its event
    :param blocked: times that Airflow found its loop blocked, and of them those behind a full garbage collection
    :param longest: seconds that the loop was blocked at most
    """

    runs: int
    requests: float
    cpu: float
    delays: list[float]
    blocked: int
    collecting: int
    longest: float

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.delays, n=100)[98] if self.delays else float("nan")


class Triggerer:
    """A triggerer's process, and the events that it has sent."""

    def __init__(self, case: str, url: str, run_ids: list[str]) -> None:
        command = [sys.executable, "-W", "ignore", __file__, "--triggerer", case, "--url", url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.events: dict[str, float] = {}
        self._used: deque[dict[str, Any]] = deque()
        self._say(json.dumps(run_ids))
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def used(self) -> dict[str, Any]:
        """CPU and blocked loops since the start and since this was asked for."""
        self._say("")
        while not self._used:
            time.sleep(0.01)
        return self._used.popleft()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _read(self, lines: TextIO) -> None:
        for line in lines:
            said = json.loads(line)
            if isinstance(said, dict):
                self._used.append(said)
            else:
                self.events[said[0]] = said[1]


def measure(server: KfpServer, case: str, runs: int, seconds: float) -> Measured:
    run = {"display_name": "run", "pipeline_spec": PIPELINE}
    run_ids = server.control("POST", "runs", {"n": runs, "run": run})["run_ids"]
    triggers = Triggerer(case, server.url, run_ids)
    try:
        while triggers.used()["alive"] < runs:
            time.sleep(1.0)
        time.sleep(
            INTERVAL_SECONDS + 5.0
        )  # what comes with the start is over: first reads, waits for the worker to go
        before = triggers.used()
        server.requests(forget=True)
        begun = time.monotonic()
        ended: dict[str, float] = {}
        to_end = random.sample(run_ids, int(runs * ENDING) if case != "nothing" else 0)
        ticks = int(seconds * ENDS_PER_SECOND)
        for tick in range(ticks):
            batch = to_end[len(to_end) * tick // ticks : len(to_end) * (tick + 1) // ticks]
            if batch:
                now = server.control("POST", "finish", {"run_ids": batch})["now"]
                ended |= dict.fromkeys(batch, now)
            time.sleep(max(0.0, begun + (tick + 1) / ENDS_PER_SECOND - time.monotonic()))
        after, requests, minutes = triggers.used(), server.requests(), (time.monotonic() - begun) / 60
        patience = time.monotonic() + 10 * INTERVAL_SECONDS
        while ended.keys() - triggers.events and time.monotonic() < patience:
            time.sleep(0.1)
        missing = ended.keys() - triggers.events
        assert not missing, f"{case}: {len(missing)} of {len(ended)} ends never came"
        return Measured(
            runs,
            requests / minutes,
            (after["cpu"] - before["cpu"]) / minutes,
            [triggers.events[run_id] - at for run_id, at in ended.items()],
            after["blocked"],
            after["collecting"],
            after["longest"],
        )
    finally:
        triggers.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--pollers", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--triggerer", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.triggerer:
        triggerer(arguments.triggerer, arguments.url)
        return
    random.seed(1)
    runs, pollers, seconds = arguments.runs, arguments.pollers, arguments.seconds
    cases = {}
    for case, count, length in (
        ("stream", runs, seconds),
        ("poll", pollers, seconds / 3),
        ("nothing", runs, 0.75 * seconds),
    ):
        with kfp_server() as server:
            cases[case] = measure(server, case, count, length)
    scale = runs / pollers
    print(
        f"{runs} deferred runs, a look every {INTERVAL_SECONDS:g} s; polling measured with {pollers}, times {scale:g}\n"
    )
    print(f"{'':34}{'one stream':>12}{'poll each':>12}{'nothing':>12}")
    stream, poll, nothing = cases["stream"], cases["poll"], cases["nothing"]

    def row(name: str, *values: float, digits: int = 0) -> None:
        print(f"{name:34}" + "".join(f"{value:12,.{digits}f}" for value in values))

    row("requests a minute", stream.requests, poll.requests * scale, nothing.requests)
    row("CPU seconds a minute", stream.cpu, poll.cpu * scale, nothing.cpu, digits=1)
    row(
        "delay from end to event, median s",
        *(statistics.median(case.delays) for case in (stream, poll)),
        digits=2,
    )
    row("delay from end to event, p99 s", stream.p99, poll.p99, digits=2)
    row("blocked-loop warnings", stream.blocked, poll.blocked, nothing.blocked)
    row("... behind a garbage collection", stream.collecting, poll.collecting, nothing.collecting)
    row("longest blockage of the loop, s", stream.longest, poll.longest, nothing.longest, digits=3)
    ratio = poll.requests * scale / stream.requests
    print(f"\nratio: {ratio:,.0f} times fewer requests, {poll.cpu * scale / stream.cpu:.1f} times less CPU")
    good = ratio >= 50 and stream.p99 <= INTERVAL_SECONDS + 2 and stream.blocked == stream.collecting
    print(
        f"{'met' if good else 'NOT MET'}: 50 times fewer requests, p99 within interval + 2 s, no blocked-loop warnings "
        "but those behind garbage collections"
    )


if __name__ == "__main__":
    main()
