#!/usr/bin/env python3
"""What a run on the local backend costs over calling the library function, and against ``kfp.local``.

    .venv/control/bin/python dev/bench/bench_local_backend.py [--rounds 7]

The work is ``prepare_sample_data`` with the fewest rows. Every case is one fresh process of the data plane's interpreter,
as a user would start it; the backend's time is from submit to the state that says it succeeded.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

from airflow_provider_llmops.backends.pipelines.base import RunRequest
from airflow_provider_llmops.backends.pipelines.local.backend import LocalPipelineBackend
from airflow_provider_llmops.specs.pipeline import PipelineSpec

REPO = Path(__file__).resolve().parents[2]
DATA_PYTHON = REPO / ".venv" / "data" / "bin" / "python"
ARGUMENTS = {"train_rows": 4, "preference_rows": 1, "evaluation_rows": 1}
POLL_SECONDS = 0.005

LIBRARY = f"""
import sys
from llmops_components.data.sample import prepare_sample_data
prepare_sample_data(*(f"{{sys.argv[1]}}/{{n}}" for n in "abc"), **{ARGUMENTS!r})
"""
KFP_LOCAL = f"""
import os, sys
from kfp import components, local
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[1])
components.load_component_from_file({str(REPO / "airflow_provider_llmops/components/prepare_sample_data.yaml")!r})(**{ARGUMENTS!r})
"""


def script(code: str, root: str) -> float:
    """Seconds for a script in a fresh process."""
    started = time.perf_counter()
    subprocess.run([DATA_PYTHON, "-W", "ignore", "-c", code, root], check=True, capture_output=True)
    return time.perf_counter() - started


def backend_run(root: str) -> float:
    """Seconds from submit to success."""
    backend = LocalPipelineBackend(python=DATA_PYTHON, root=root)
    pipeline = PipelineSpec.packaged("prepare_sample_data").bind(ARGUMENTS)
    started = time.perf_counter()
    run_id = backend.submit(RunRequest(display_name=str(uuid.uuid4()), pipeline=pipeline))
    while not (run := backend.get(run_id)).state.is_terminal:
        time.sleep(POLL_SECONDS)
    assert run.state.is_successful, run
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    cases = {
        "library function": lambda root: script(LIBRARY, root),
        "kfp.local": lambda root: script(KFP_LOCAL, root),
        "local backend": backend_run,
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, run in cases.items():
            with tempfile.TemporaryDirectory() as root:
                seconds = run(root)
            if turn:  # the first turn fills caches
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        over = seconds - medians["library function"]
        print(f"{name:18} {seconds * 1000:7.0f} ms   {over * 1000:+7.0f} ms over the library function")
    print(
        f"ratio: the local backend takes {medians['local backend'] / medians['kfp.local']:.2f} of kfp.local's time"
    )


if __name__ == "__main__":
    main()
