#!/usr/bin/env python3
"""What submitting a run costs: through the hook, with the generated client, and with the KFP SDK.

    .venv/control/bin/python dev/bench/bench_submit.py [--runs 1000]

All submit the same packaged component to the fake API server in a process of its own, in turns of fifty. The generated
client sends the specification with every run, as its documentation does. The SDK's ``Client`` runs in the data plane's
environment and submits a package's file; it is slow, so it takes part in every fifth turn only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

from kfp_server import kfp_server

COMPONENT = "prepare_sample_data"
ARGUMENTS = {"train_rows": 4, "preference_rows": 1, "evaluation_rows": 1}
PER_TURN = 50
SDK_EVERY = 5
REPO = Path(__file__).resolve().parents[2]
DATA_PYTHON = REPO / ".venv" / "data" / "bin" / "python"
PACKAGE = REPO / "airflow_provider_llmops" / "components" / f"{COMPONENT}.yaml"
SDK = """
import contextlib, json, sys, time
import kfp
url, package, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
client = kfp.Client(host=url)
for line in sys.stdin:
    times = []
    for number in range(int(line)):
        started = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            client.create_run_from_pipeline_package(package, arguments=arguments, run_name=f"sdk {number}")
        times.append(time.perf_counter() - started)
    print(json.dumps(times), flush=True)
"""


def timed(call: Callable[[int], Any], count: int) -> list[float]:
    """Seconds of each of some calls."""
    times = []
    for number in range(count):
        started = time.perf_counter()
        call(number)
        times.append(time.perf_counter() - started)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    turns = parser.parse_args().runs // PER_TURN

    import kfp_server_api
    import yaml

    from airflow_provider_llmops.backends.pipelines.base import RunRequest
    from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
    from airflow_provider_llmops.specs.pipeline import PipelineSpec

    with kfp_server() as server:
        os.environ["AIRFLOW_CONN_KFP"] = json.dumps({"conn_type": "kubeflow", "host": server.url})
        names = iter(range(10**9))

        def submit(_: int = 0) -> None:
            """As a task does it: with a hook of its own."""
            pipeline = PipelineSpec.packaged(COMPONENT).bind(ARGUMENTS)
            KubeflowPipelinesHook("kfp").submit(
                RunRequest(display_name=f"hook {next(names)}", pipeline=pipeline)
            )

        plain = kfp_server_api.RunServiceApi(
            kfp_server_api.ApiClient(kfp_server_api.Configuration(host=server.url))
        )

        def with_client(number: int) -> None:
            plain.run_service_create_run(
                kfp_server_api.V2beta1Run(
                    display_name=f"client {number}",
                    pipeline_spec=yaml.load(PACKAGE.read_text(), yaml.CSafeLoader),
                    runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=ARGUMENTS),
                )
            )

        server.requests(forget=True)
        [cold] = timed(submit, 1)
        cold_requests = server.requests(forget=True)
        sdk = subprocess.Popen(
            [DATA_PYTHON, "-W", "ignore", "-c", SDK, server.url, str(PACKAGE), json.dumps(ARGUMENTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

        def with_sdk(count: int) -> list[float]:
            assert sdk.stdin is not None
            assert sdk.stdout is not None
            sdk.stdin.write(f"{count}\n")
            sdk.stdin.flush()
            times: list[float] = json.loads(sdk.stdout.readline())
            return times

        cases: dict[str, Callable[[int], list[float]]] = {
            "hook": lambda count: timed(submit, count),
            "generated client, inline spec": lambda count: timed(with_client, count),
            "SDK's Client": with_sdk,
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        requests = dict.fromkeys(cases, 0)
        for case in cases.values():
            case(2)  # warm-up
        for turn in range(turns):
            for name, case in cases.items():
                if case is with_sdk and turn % SDK_EVERY:
                    continue
                server.requests(forget=True)
                times[name] += case(PER_TURN)
                requests[name] += server.requests(forget=True)
        sdk.terminate()
        sdk.wait()

    print(f"{'':32}{'runs':>6}{'median ms':>11}{'p99 ms':>9}{'requests a run':>16}")
    for name, values in times.items():
        middle, p99 = statistics.median(values), statistics.quantiles(values, n=100)[98]
        print(
            f"{name:32}{len(values):6}{middle * 1000:11.1f}{p99 * 1000:9.1f}{requests[name] / len(values):16.2f}"
        )
    print(f"{'hook, nothing uploaded yet':32}{1:6}{cold * 1000:11.1f}{'':9}{cold_requests:16.2f}")
    hooks = statistics.median(times["hook"])
    ratios = ", ".join(
        f"{hooks / statistics.median(values):.2f} of {name}'s" for name, values in list(times.items())[1:]
    )
    print(f"ratio: the hook takes {ratios} time")


if __name__ == "__main__":
    main()
