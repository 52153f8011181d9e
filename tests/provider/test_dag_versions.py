"""An unchanged DAG is one version, however often and wherever it is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from planes import REPO

TIMES = 2
# What Airflow compares to tell whether a DAG has changed since its last version.
READ = f"""
import json, runpy, sys
from pathlib import Path
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import LazyDeserializedDAG

hashes = {{}}
for file in map(Path, sys.argv[1:]):
    for _ in range({TIMES}):
        for name, value in runpy.run_path(str(file)).items():
            if isinstance(value, DAG):
                hashes.setdefault(value.dag_id, []).append(LazyDeserializedDAG.from_dag(value).hash)
print(json.dumps(hashes))
"""


@pytest.fixture(scope="module")
def read_twice() -> list[dict[str, list[str]]]:
    """The hashes of each example DAG, in processes whose sets and texts have other orders."""
    files = sorted((REPO / "dags").glob("*.py"))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", READ, *files],
            env=os.environ | {"PYTHONHASHSEED": seed, "AIRFLOW__CORE__UNIT_TEST_MODE": "True"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    printed = [process.communicate()[0] for process in processes]
    return [json.loads(text.splitlines()[-1]) for text in printed]


def test_unchanged_dag_is_one_version_however_often_it_is_read(read_twice):
    first, second = read_twice
    assert len(first) >= 8 and first.keys() == second.keys()
    assert {len(each) for each in first.values()} == {TIMES}
    assert {dag_id for dag_id in first if len({*first[dag_id], *second[dag_id]}) != 1} == set()
