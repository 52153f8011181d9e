#!/usr/bin/env python3
"""Five hundred services on KServe waited for in one event loop: one watch for each kind of object, against triggers that each poll.

    .venv/control/bin/python dev/bench/bench_watch.py [--services 500] [--pollers 50] [--seconds 60]

The triggers run in a fresh process, the fake API server in this one, over HTTP. First nothing happens, and requests and CPU of the triggers'
process are counted; then a fifth of the services become ready, in ten lots, and the delay is from there to the event. A trigger that has seen
that reads the service once more from the API server, which is counted. Five hundred that poll cannot keep up with their interval here, so
fewer are run, and what they cost is multiplied.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))
os.environ["AIRFLOW_CONN_KSERVE_DEFAULT"] = json.dumps(
    {"conn_type": "kserve", "extra": {"kubernetes_conn_id": "cluster"}}
)
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "fakes"))

INTERVAL_SECONDS = 5.0
ENDING = 0.2  # part of the services that becomes ready while it is measured
BEGIN_SECONDS = 12.0
LOTS = (
    10  # in which they do: the fake compares everything with what there was, which takes it most of a second
)
SERVER_LOOKS_SECONDS = 0.25  # how often the fake looks for what has changed


def triggerer() -> None:
    """Wait for the services in the first line of the input; answer every further line with the CPU seconds used."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the logs

    from airflow_provider_llmops.triggers.service import RevisionReadyTrigger, ServingBackend

    case, services = json.loads(sys.stdin.readline())

    class PollingTrigger(RevisionReadyTrigger):
        @asynccontextmanager
        async def looking(self) -> AsyncIterator[ServingBackend]:
            yield await self.connect()

    kind = RevisionReadyTrigger if case == "watch" else PollingTrigger

    async def wait(name: str, revision: str) -> None:
        trigger = kind(
            kserve_conn_id="kserve_default",
            namespace="team",
            name=name,
            revision=revision,
            poll_interval=INTERVAL_SECONDS,
            deadline=None,
        )
        async for event in trigger.run():
            assert event.payload["state"] == "READY", event.payload
            print(json.dumps([name, time.time()]), file=told, flush=True)

    def answer() -> None:
        for _ in sys.stdin:
            print(json.dumps(["", time.process_time()]), file=told, flush=True)
        os._exit(0)

    async def main() -> None:
        threading.Thread(target=answer, daemon=True).start()
        await asyncio.gather(*(wait(name, revision) for name, revision in services.items()))

    asyncio.run(main())


class Triggers:
    """The process that waits."""

    def __init__(self, case: str, services: dict[str, str]) -> None:
        self.events: dict[str, float] = {}
        self._used: list[float] = []
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--triggerer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._say(json.dumps([case, services]))
        threading.Thread(target=self._listen, daemon=True).start()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            name, value = json.loads(line)
            if name:
                self.events[name] = value
            else:
                self._used.append(value)

    def used(self) -> float:
        """CPU seconds by now."""
        known = len(self._used)
        self._say("")
        while len(self._used) == known:
            time.sleep(0.01)
        return self._used[-1]

    def close(self) -> None:
        """End."""
        self._process.kill()
        self._process.wait()


@dataclass
class Measured:
    """What one case has cost in a minute, while nothing happens and while services become ready."""

    requests: float
    cpu: float
    requests_at_ends: float
    cpu_at_ends: float
    delays: list[float]

    @property
    def p99(self) -> float:
        """Within which 99 of 100 events came."""
        return statistics.quantiles(self.delays, n=100)[98]


def measure(case: str, count: int, seconds: float) -> Measured:
    """Run one case.

    :param case: ``watch`` or ``poll``
    :param count: services
    :param seconds: of each of the two parts
    """
    import kube_watch
    from kserve_deployments import operator
    from kube_canaries import FakeGatewayKServe

    from airflow_provider_llmops.hooks.kserve import KServeHook

    kube_watch.LOOK_SECONDS = SERVER_LOOKS_SECONDS
    with FakeGatewayKServe() as fake:
        fake.is_idle = True
        changes = 0
        follow, followed = fake.lists._follow, {}

        def follow_changes(key: Any) -> Any:
            """Compare with what there was only when something has changed."""
            if followed.get(key) == changes:
                return fake.lists._journals[key]
            followed[key] = changes
            return follow(key)

        fake.lists._follow = follow_changes  # type: ignore[method-assign]
        os.environ["AIRFLOW_CONN_CLUSTER"] = fake.connection(namespace="team")
        backend = KServeHook().backend
        services = {}
        for number in range(count):
            name = f"chat-{number}"
            manifest = operator("1", service_name=name).manifest()
            services[name] = backend.apply(manifest)[0].revision
            fake.becomes(name, "update_never_ready_t45")
        changes += 1
        triggers = Triggers(case, services)
        try:
            time.sleep(BEGIN_SECONDS + INTERVAL_SECONDS)

            def counted(ending: list[str]) -> tuple[float, float, dict[str, float]]:
                nonlocal changes
                before, known, begun = triggers.used(), len(fake.requests), time.monotonic()
                ended = {}
                for number in range(LOTS if ending else 0):
                    time.sleep(max(0.0, begun + seconds * number / LOTS - time.monotonic()))
                    for name in ending[number::LOTS]:
                        fake.becomes(name, "ready_gateway")
                        ended[name] = time.time()
                    changes += 1
                time.sleep(max(0.0, begun + seconds - time.monotonic()))
                minutes = (time.monotonic() - begun) / 60
                return (len(fake.requests) - known) / minutes, (triggers.used() - before) / minutes, ended

            requests, cpu, _ = counted([])
            ending = random.sample(sorted(services), round(count * ENDING))
            requests_at_ends, cpu_at_ends, ended = counted(ending)
            patience = time.monotonic() + 10 * INTERVAL_SECONDS
            while ended.keys() - triggers.events.keys() and time.monotonic() < patience:
                time.sleep(0.1)
            missing = ended.keys() - triggers.events.keys()
            assert not missing, f"{case}: {len(missing)} of {len(ended)} events never came"
            delays = [triggers.events[name] - at for name, at in ended.items()]
            return Measured(requests, cpu, requests_at_ends, cpu_at_ends, delays)
        finally:
            fake.lists.cuts += 1
            triggers.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", type=int, default=500)
    parser.add_argument("--pollers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--triggerer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.triggerer:
        triggerer()
        return
    random.seed(1)
    watch = measure("watch", arguments.services, arguments.seconds)
    poll = measure("poll", arguments.pollers, arguments.seconds)
    scale = arguments.services / arguments.pollers
    print(
        f"{arguments.services} services waited for, a look every {INTERVAL_SECONDS:g} s; polling measured with "
        f"{arguments.pollers}, times {scale:g}\n"
    )
    print(f"{'':46}{'one watch':>12}{'poll each':>12}{'ratio':>10}")

    def row(name: str, one: float, each: float, digits: int = 0) -> None:
        ratio = f"{each / one:10,.1f}" if one else f"{'':10}"
        print(f"{name:46}{one:12,.{digits}f}{each:12,.{digits}f}{ratio}")

    row("requests a minute, while nothing happens", watch.requests, poll.requests * scale)
    row("requests a minute, while a fifth gets ready", watch.requests_at_ends, poll.requests_at_ends * scale)
    row("CPU seconds a minute, while nothing happens", watch.cpu, poll.cpu * scale, digits=1)
    row(
        "CPU seconds a minute, while a fifth gets ready",
        watch.cpu_at_ends,
        poll.cpu_at_ends * scale,
        digits=1,
    )
    row(
        "delay until the event, median s",
        *(statistics.median(each.delays) for each in (watch, poll)),
        digits=2,
    )
    row("delay until the event, p99 s", watch.p99, poll.p99, digits=2)
    good = poll.requests * scale >= 50 * watch.requests and watch.p99 <= INTERVAL_SECONDS + 2
    print(f"\n{'met' if good else 'NOT MET'}: 50 times fewer requests, p99 within interval + 2 s")


if __name__ == "__main__":
    main()
