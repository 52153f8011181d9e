#!/usr/bin/env python3
"""One lineage call over 1,000 registered versions, in a real MLflow on SQLite.

    .venv/control/bin/python dev/bench/bench_lineage.py [--versions 1000] [--calls 30]

Beside it what somebody would do without it: search the versions of the model for the one, as MLflow's own pages do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
DATA_PYTHON = REPO / ".venv" / "data" / "bin" / "python"
SERVER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from mlflow_server import mlflow_server
with mlflow_server(Path(sys.argv[2])) as port:
    print(port, flush=True)
    sys.stdin.read()
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--versions", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=30)
    options = parser.parse_args()
    sys.path.insert(0, str(REPO))
    with tempfile.TemporaryDirectory() as directory:
        os.environ["AIRFLOW_HOME"] = directory
        command = [DATA_PYTHON, "-c", SERVER, REPO / "tests" / "fakes", directory]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            measure(f"http://127.0.0.1:{int(server.stdout.readline())}", options.versions, options.calls)
        finally:
            server.communicate()


def measure(address: str, versions: int, calls: int) -> None:
    """Register, ask, print."""
    connection = {"conn_type": "mlflow", "host": address}
    os.environ["AIRFLOW_CONN_MLFLOW_DEFAULT"] = json.dumps(connection)
    from airflow_provider_llmops.hooks import mlflow
    from airflow_provider_llmops.lineage.version import read_lineage

    api = f"{address}/api/2.0/mlflow"

    def ask(path: str, body: object) -> dict:
        return json.loads(mlflow.request(f"{api}/{path}", body=body, timeout=60))

    ask("registered-models/create", {"name": "bench"})
    run = ask("runs/create", {"experiment_id": "0", "start_time": 0})["run"]["info"]
    tags = [{"key": f"component.step_{number}", "value": "sha256:" + "0" * 64} for number in range(8)]
    tags.append(
        {"key": "airflow.conf", "value": json.dumps({f"setting_{number}": number for number in range(60)})}
    )
    for _ in range(versions):
        source = f"{run['artifact_uri']}/model"
        ask(
            "model-versions/create",
            {"name": "bench", "source": source, "run_id": run["run_id"], "tags": tags},
        )
    hook, asked = mlflow.MlflowHook(), []
    real = mlflow.request
    mlflow.request = lambda url, **rest: asked.append(url) or real(url, **rest)  # type: ignore[assignment]
    chosen = [str(1 + number * versions // calls) for number in range(calls)]
    ours = timed(lambda number: read_lineage(hook, "bench", model_version=number), chosen)
    each = len(asked) / calls
    mlflow.request = real
    search = timed(
        lambda number: real(f"{api}/model-versions/search?max_results={versions}", timeout=60), chosen[:5]
    )
    print(f"one lineage call over {versions} versions: {ours * 1000:.1f} ms, {each:.0f} requests")
    print(f"listing the versions to look for one:      {search * 1000:.1f} ms")


def timed(call: Callable[[str], object], numbers: list[str]) -> float:
    """Median seconds of a call; the first one warms up and is not counted."""
    times = []
    for number in [numbers[0], *numbers]:
        started = time.perf_counter()
        call(number)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
