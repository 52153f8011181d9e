"""Serving with one hostile client among good ones: requests per second, idle connections, and memory over many requests.

A predictor and the gateway in front of it run as processes of their own. Good clients ask them alone, then beside a client that does
what it can to be in the way: heads and bodies that never end, bodies over the limit, answers that it does not read, requests that are none,
and idle connections. The ratio is what is left of the good clients' requests per second.

    .venv/data/bin/python dev/bench/bench_hostile.py --requests 10000 --idle 1000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
from bench_serving import free_port, living_revision, make_tiny, running
from llmops_components.serving.http.connections import raise_file_limit
from llmops_components.state_files import write_json

HEAD = b"POST /v1/models/bench:predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
PREDICT = {"instances": [{"prompt": "The sky", "max_tokens": 2}]}


@contextlib.contextmanager
def gateway(url: str, workdir: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A gateway with one revision."""
    routes = workdir / "routes.json"
    write_json(routes, {"routes": [{"revision": "00001", "url": url, "weight": 100}]})
    with socket.create_server(("127.0.0.1", 0)) as sock, (workdir / "gateway.log").open("wb") as log:
        command = [sys.executable, "-m", "llmops_components.serving.local.gateway", "--routes", str(routes)]
        command += ["--fd", str(sock.fileno())]
        process = subprocess.Popen(command, cwd=workdir, pass_fds=[sock.fileno()], stdout=log, stderr=log)
        address = f"http://127.0.0.1:{sock.getsockname()[1]}"
    try:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{address}/v2/health/ready", timeout=30).status_code == 200:
                    break
            time.sleep(0.1)
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


def good(url: str, requests: int, clients: int) -> tuple[float, Counter[int]]:
    """Requests per second of good clients, one of ten for the model; and what they were answered."""
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    with httpx.Client(timeout=120, limits=limits) as client, ThreadPoolExecutor(clients) as pool:

        def ask(number: int) -> int:
            if number % 10:
                return client.get(f"{url}/v1/models/bench").status_code
            return client.post(f"{url}/v1/models/bench:predict", json=PREDICT).status_code

        started = time.perf_counter()
        answers = Counter(pool.map(ask, range(requests)))
        return requests / (time.perf_counter() - started), answers


class Hostile:
    """One client with many connections, until it is stopped."""

    def __init__(self, url: str) -> None:
        self._address = ("127.0.0.1", int(url.rpartition(":")[2]))
        self._over = threading.Event()
        self.tried = 0

    def run(self) -> None:
        ways: list[Callable[[], socket.socket]] = [
            lambda: self._send(HEAD[:30]),
            lambda: self._send(HEAD + b"content-length: 1048576\r\n\r\n" + b"x" * 1_000_000),
            lambda: self._send(HEAD + b"content-length: 99999999\r\n\r\n" + b"x" * 100_000),
            lambda: self._send(
                HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n"
            ),
            lambda: self._send(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n" * 200),
            lambda: self._send(b"\x16\x03\x01 nothing\r\n\r\n"),
            lambda: self._send(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * 100_000),
            lambda: self._send(HEAD + b"content-length: 2\r\n\r\n[]"),
        ]
        held: list[socket.socket] = []
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                held.append(ways[self.tried % len(ways)]())
            self.tried += 1
            if len(held) > 200:
                held.pop(0).close()
            time.sleep(0.005)
        for each in held:
            each.close()

    def _send(self, data: bytes) -> socket.socket:
        made = socket.create_connection(self._address, timeout=0.2)
        with contextlib.suppress(OSError):
            made.sendall(data)
        return made

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


@contextlib.contextmanager
def idle(url: str, number: int) -> Iterator[list[socket.socket]]:
    """Connections that ask for nothing."""
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(address)) for _ in range(number)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000, help="for the figures of memory")
    parser.add_argument("--sample", type=int, default=1000, help="requests of each measurement of the rate")
    parser.add_argument("--idle", type=int, default=1000, help="idle connections")
    parser.add_argument("--clients", type=int, default=4, help="good clients")
    args = parser.parse_args()
    raise_file_limit()
    with tempfile.TemporaryDirectory() as temporary:
        workdir = Path(temporary)
        port = free_port()
        command = [sys.executable, "-m", "llmops_components.serving.predictor", "--model_name=bench"]
        command += ["--dtype=float32", f"--model_dir={make_tiny(workdir / 'model')}", f"--http_port={port}"]
        with (
            running(command, f"http://127.0.0.1:{port}", workdir / "predictor.log") as (predictor_url, _),
            living_revision(workdir),
            gateway(predictor_url, workdir) as (url, process),
        ):
            (predictor,) = (
                each for each in psutil.Process().children() if f"--http_port={port}" in each.cmdline()
            )

            def megabytes() -> tuple[float, float]:
                return tuple(round(each.memory_info().rss / 2**20, 1) for each in (process, predictor))  # type: ignore[return-value]

            good(url, args.sample, args.clients)  # warm-up
            memory = [megabytes()]
            alone, answers = good(url, args.sample, args.clients)
            with idle(url, args.idle):
                beside_idle, more = good(url, args.sample, args.clients)
                answers += more
            hostile = Hostile(url)
            with hostile.at_work():
                beside_hostile, more = good(url, args.sample, args.clients)
                answers += more
            memory.append(megabytes())
            _, more = good(url, args.requests, args.clients)
            answers += more
            memory.append(megabytes())
        lines = sum(
            len((workdir / f"{name}.log").read_text().splitlines()) for name in ("gateway", "predictor")
        )

    print(
        f"{os.cpu_count()} cores, {args.clients} good clients, a request in ten for the model; answers: {dict(answers)}"
    )
    print(f"good clients alone                      {alone:8.1f} requests/s")
    print(
        f"beside {args.idle} idle connections          {beside_idle:8.1f} requests/s, ratio {beside_idle / alone:.2f}"
    )
    print(
        f"beside a hostile client ({hostile.tried} tries)    {beside_hostile:8.1f} requests/s, ratio {beside_hostile / alone:.2f}"
    )
    print(
        f"MiB of gateway and predictor: before {memory[0]}, after the hostile client {memory[1]}, "
        f"after {args.requests} more requests {memory[2]}"
    )
    print(f"lines in both logs: {lines}")
    summary = {"ratio_hostile": round(beside_hostile / alone, 3), "ratio_idle": round(beside_idle / alone, 3)}
    growth = {"gateway_growth_mib": round(memory[2][0] - memory[1][0], 1)}
    print(json.dumps(summary | growth | {"refused": sum(answers.values()) - answers[200]}))


if __name__ == "__main__":
    main()
