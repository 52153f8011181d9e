"""Runs the fake in a process of its own, for benchmarks: the first line of its output is its URL.

``POST /fake/runs {"n": 10000, "run": {...}}`` makes runs, ``POST /fake/finish {"run_ids": [...], "state": ...}``
finishes them, ``GET /fake/requests`` has the number of requests by method and path, and the CPU time used.
"""

from __future__ import annotations

import argparse
import signal
import threading

from . import FakeKfpApi


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--multi-user", action="store_true")
    parser.add_argument("--token")
    parser.add_argument("--clock-skew", type=float, default=0.0)
    parser.add_argument("--page-limit", type=int, default=200)
    arguments = parser.parse_args()
    stopped = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stopped.set())
    with FakeKfpApi(
        arguments.multi_user,
        arguments.token,
        arguments.clock_skew,
        arguments.page_limit,
        port=arguments.port,
        record=False,
    ) as api:
        print(api.url, flush=True)
        stopped.wait()


main()
