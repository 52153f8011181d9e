"""The DAG that evaluates a service by partition: a backfill in a real Airflow, backwards and side by side, leaves the history of one in order."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from airflow_stack import RealAirflow
from hostile_service import Does, Server, answer_to, hostile_service
from planes import DATA_PYTHON

DAG_ID = "rag_evaluation"
DAYS = ["2026-11-24", "2026-11-25"]
RECORD = """
import json, sys
from llmops_components.evaluation.history.record import record_evaluation
for each in json.load(sys.stdin):
    record_evaluation(**each)
"""


def answers(prompt: str, nth: int) -> Does:
    """A service that knows in which box things are, but for every tenth in the hall."""
    number = int(re.findall(r"\d+", prompt)[0])
    is_wrong = "hall" in prompt and number % 10 == 0
    return Does(
        body=answer_to(prompt, "I do not know." if is_wrong else f"It is in box {number} of this room")
    )


@pytest.fixture(scope="module")
def service() -> Iterator[Server]:
    with hostile_service(answers) as server:
        yield server


@pytest.fixture(scope="module")
def airflow(real_airflow: RealAirflow, service: Server) -> RealAirflow:
    connection = {
        "connection_id": "assistant",
        "conn_type": "openai_endpoint",
        "host": "127.0.0.1",
        "schema": "http",
        "port": urlsplit(service.url).port,
        "password": "a-key",
    }
    real_airflow.api.call("POST", "/connections", json=connection)
    return real_airflow.add_example(DAG_ID)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other questions on each day."""
    directory = tmp_path_factory.mktemp("questions")
    for day in DAYS:
        room = "hall" if day == DAYS[1] else "kitchen"
        rows = [
            {"prompt": f"Where is thing {n} of the {room}?", "reference": f"It is in box {n} of this room"}
            for n in range(30)
        ]
        (directory / f"{day}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def backfill(airflow: RealAirflow, conf: dict[str, Any]) -> dict[str, str]:
    """Evaluate the days backwards and side by side; the run of each partition."""
    body = {
        "dag_id": DAG_ID,
        "from_date": f"{DAYS[0]}T00:00:00Z",
        "to_date": f"{DAYS[-1]}T00:00:00Z",
        "run_backwards": True,
        "max_active_runs": 2,
        "dag_run_conf": conf,
    }
    airflow.api.call("POST", "/backfills", json=body)
    runs: dict[str, str] = {}

    def are_there() -> bool:
        found = airflow.api.call("GET", f"/dags/{DAG_ID}/dagRuns", params={"limit": 50})["dag_runs"]
        found = [each for each in found if each["run_type"] == "backfill"]  # the schedule has made one, too
        runs.update({each["partition_key"]: each["dag_run_id"] for each in found})
        return set(runs) >= set(DAYS)

    airflow.wait_until(are_there, "the backfill's runs", 60, lambda: runs)
    return runs


def test_backfill_backwards_and_side_by_side_leaves_the_history_of_one_in_order(
    airflow, service, questions, tmp_path
):
    history = tmp_path / "history"
    conf = {
        "model_name": "m",
        "dataset": f"{questions}/{{partition}}.jsonl",
        "history": str(history),
        "metric_names": ["rougeL", "bleu"],
        "endpoint_connection": "assistant",
        "mlflow_connection": "mlflow_default",
    }
    runs = backfill(airflow, conf)
    assert sorted(runs) == DAYS
    for day in DAYS:
        assert airflow.wait(DAG_ID, runs[day]) == "success", airflow.tasks(DAG_ID, runs[day])
    assert len(service.asked) == 60 and "Bearer a-key" in {each["Authorization"] for each in service.headers}

    evaluated = {day: airflow.xcoms(DAG_ID, runs[day], "evaluate") for day in DAYS}
    recorded = {day: airflow.xcom(DAG_ID, runs[day], "record") for day in DAYS}
    in_order = [
        {
            "scores": evaluated[day]["scores"],
            "comparison": evaluated[day]["comparison"],
            "trend": str(tmp_path / f"{day}.html"),
            "history": str(tmp_path / "in-order"),
            "partition": day,
            "settings": {
                "protocol": "openai_chat",
                "request": {"max_tokens": 256, "temperature": 0},
                "contexts": None,
            },
            "title": "m, by partition",
        }
        for day in DAYS
    ]
    subprocess.run([DATA_PYTHON, "-c", RECORD], input=json.dumps(in_order), text=True, check=True)
    content = [
        {file.name: file.read_text() for file in directory.iterdir()}
        for directory in (history, tmp_path / "in-order")
    ]
    assert content[0] == content[1]
    assert sorted(content[0]) == [*(f"{day}.jsonl" for day in DAYS), "trend.html"]
    reached = [json.loads(content[0][f"{day}.jsonl"].split("\n")[0])["metrics"]["rougeL"] for day in DAYS]
    assert [round(each["candidate"]["value"], 6) for each in reached] == [1.0, 0.9]

    (series,) = {recorded[day]["details"]["mlflow"]["run_id"] for day in DAYS}
    points = httpx.get(
        f"{airflow.stack.mlflow_url}/api/2.0/mlflow/metrics/get-history",
        params={"run_id": series, "metric_key": "rougeL"},
        auth=airflow.stack.mlflow_login,
    ).json()["metrics"]
    steps = [recorded[day]["details"]["mlflow"]["step"] for day in DAYS]
    assert {each["step"]: each["value"] for each in points} == dict(zip(steps, [1.0, 0.9], strict=True))
    for day in DAYS:
        assert airflow.links(DAG_ID, runs[day], "record")["MLflow run"].endswith(series)
        assert recorded[day]["details"]["compared_with"] is None  # other questions
        assert airflow.xcom(DAG_ID, runs[day], "quality_gate")["outcome"] == "pass"
        page = airflow.api.page(airflow.links(DAG_ID, runs[day], "record")["Trend"])
        assert page.status_code == 200 and day in page.text and "m, by partition" in page.text


def test_form_has_type_range_and_help_for_every_parameter(airflow):
    params = airflow.api.call("GET", f"/dags/{DAG_ID}/details")["params"]
    assert len(params) == 20
    for name, param in params.items():
        assert param["description"], name
        assert {"type", "title"} <= param["schema"].keys(), name
