"""The DAG of progressive delivery in a real Airflow: a bad version goes back, a good one serves and gets the alias."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from airflow_stack import RealAirflow
from planes import DATA_PYTHON, REPO

pytestmark = pytest.mark.slow

DAG_ID = "progressive_delivery"
REGISTER = """
import sys
from llmops_components.tracking.register import register_model
for directory in sys.argv[2:]:
    print(register_model(directory, model_name=sys.argv[1]).details["version"])
"""


@pytest.fixture(scope="module")
def questions(real_airflow: RealAirflow, tmp_path_factory) -> Path:
    """Three registered versions: a model, one that answers other rubbish, and the first with another card; and questions."""
    directory = tmp_path_factory.mktemp("models")
    tiny, bad, again = (directory / name for name in ("tiny", "bad", "again"))
    fakes = REPO / "tests" / "fakes"
    subprocess.run([DATA_PYTHON, fakes / "tiny_model.py", tiny], check=True)
    subprocess.run([DATA_PYTHON, fakes / "tiny_probes.py", tiny, directory / "probes.jsonl", bad], check=True)
    shutil.copytree(tiny, again)
    (again / "README.md").write_text("The same again.\n")
    stack = real_airflow.stack
    login = dict(
        zip(("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), stack.mlflow_login, strict=True)
    )
    subprocess.run(
        [DATA_PYTHON, "-c", REGISTER, "delivered", tiny, bad, again],
        check=True,
        env={**os.environ, **login, "MLFLOW_TRACKING_URI": stack.mlflow_url},
    )
    real_airflow.add_example(DAG_ID)
    return directory / "probes.jsonl"


def test_versions_are_brought_in_or_taken_back_and_the_alias_follows(real_airflow, questions):
    airflow = real_airflow

    def deliver(version: str, expected: str) -> str:
        conf = {
            "model_name": "delivered",
            "version": version,
            "probe_data": str(questions),
            "probe_protocol": "openai_completions",
            "probe_request": {"max_tokens": 8, "temperature": 0},
            "min_answer_difference": -0.1,
            "steps": [10, 50],
            "step_seconds": 1,
            "min_requests": 6,
            "max_latency_ratio": None,
            "scan": False,
        }
        run = airflow.trigger(DAG_ID, conf)
        state = airflow.wait(DAG_ID, run, timeout=900)
        assert state == expected, airflow.tasks(DAG_ID, run)
        return run

    def production() -> str:
        got = httpx.get(
            f"{airflow.stack.mlflow_url}/api/2.0/mlflow/registered-models/alias",
            auth=airflow.stack.mlflow_login,
            params={"name": "delivered", "alias": "production"},
        )
        return str(got.raise_for_status().json()["model_version"]["version"])

    deliver("1", "success")
    assert production() == "1"

    bad = deliver("2", "failed")
    assert airflow.tasks(DAG_ID, bad) == {
        "check_settings": "success",
        "fetch_model": "success",
        "check_model": "success",
        "canary": "failed",
        "set_alias": "upstream_failed",
    }
    (decision,) = airflow.xcom(DAG_ID, bad, "canary", "decisions")
    assert decision["outcome"] == "fail" and decision["evidence"]["answers"]["difference"] < -0.1
    log = airflow.log(DAG_ID, bad, "canary")
    assert "The canary's answers are worse: rougeL" in log and "Serving as before: 00001 (100%)" in log
    assert "stable (1): " in log
    assert production() == "1"

    good = deliver("3", "success")
    decisions = airflow.xcom(DAG_ID, good, "canary", "decisions")
    assert [each["outcome"] for each in decisions] == ["pass", "pass"]
    assert airflow.xcom(DAG_ID, good, "canary")["revision"] == "00003"
    details = airflow.xcom(DAG_ID, good, "set_alias")["details"]
    assert (details["former_version"], details["version"], details["moved"]) == ("1", "3", True)
    assert production() == "3"

    airflow.clear(DAG_ID, good, "set_alias")
    airflow.wait_for_task(DAG_ID, good, "set_alias", "success")
    assert production() == "3"
