"""The loop in a real Airflow: feedback trains the champion, a tiny model, and what is better than it takes its alias."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from airflow_stack import RealAirflow

DAG_ID = "continual_learning"
SMALL = {
    "model_name": "looped",
    "min_rows": 4,
    "max_steps": 2,
    "lora_rank": 2,
    "min_improvement": -1,
    "approval": False,
    "canary_steps": [],
}
LEARNT = {
    "validate_preferences",
    "fetch_champion",
    "evaluate_tuned",
    "quality_gate",
    "register_model",
    "set_champion",
}


@pytest.fixture(scope="module")
def airflow(real_airflow: RealAirflow) -> RealAirflow:
    return real_airflow.add_example(DAG_ID)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A day with a log as a gateway writes it and corrections of every answer, and one with a single thumb."""
    directory = tmp_path_factory.mktemp("files")
    log, feedback = [], []
    for n in range(12):
        request = {"messages": [{"role": "user", "content": f"What is thing {n}?"}]}
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": f"No idea {n}."},
        }
        response = {"id": f"chatcmpl-{n}", "created": 1_764_000_000, "model": "looped", "choices": [choice]}
        log.append(
            {
                "id": f"r{n}",
                "status": 200,
                "revision": "looped-1",
                "request": json.dumps(request),
                "answer": json.dumps(response),
            }
        )
        feedback.append({"id": f"r{n}", "correction": f"Thing {n} is in box {n}.", "who": "ada@example.org"})
    for day, said in {
        "2026-11-25": feedback,
        "2026-11-26": [{"id": "chatcmpl-3", "rating": "up"}, {"id": "x", "rating": "up"}],
    }.items():
        for name, rows in {"requests": log, "feedback": said}.items():
            write(directory / f"{name}-{day}.jsonl", rows)
    questions = [{"prompt": f"Where is thing {n}?", "reference": f"It is in box {n}."} for n in range(20, 28)]
    write(directory / "evaluation.jsonl", questions)
    return directory


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(
    airflow: RealAirflow, files: Path, base_model: Path, **conf: Any
) -> tuple[str, dict[str, str | None]]:
    addresses = {name: f"{files}/{name}-{{partition}}.jsonl" for name in ("requests", "feedback")}
    addresses["evaluation_data"] = f"{files}/evaluation.jsonl"
    key = airflow.trigger(DAG_ID, {**SMALL, **addresses, "base_model": str(base_model), **conf})
    ended, states = airflow.wait(DAG_ID, key, timeout=1200), airflow.tasks(DAG_ID, key)
    failed = [task for task, state in states.items() if state == "failed"]
    assert ended == "success", [(task, airflow.log(DAG_ID, key, task)[-3000:]) for task in failed]
    return key, states


def version(airflow: RealAirflow, model_name: str, number: str) -> dict[str, Any]:
    answer = httpx.get(
        f"{airflow.stack.mlflow_url}/api/2.0/mlflow/model-versions/get",
        params={"name": model_name, "version": number},
        auth=airflow.stack.mlflow_login,
        trust_env=False,
    ).json()["model_version"]
    return {"aliases": answer.get("aliases", []), **{tag["key"]: tag["value"] for tag in answer["tags"]}}


def test_too_little_feedback_trains_nothing(airflow, files, tiny_model):
    few, states = run(airflow, files, tiny_model, partition="2026-11-26")
    assert states["collect_feedback"] == states["enough"] == "success"
    after = {
        task: state
        for task, state in states.items()
        if task in (*LEARNT, "monitor", "prepare", "check_settings")
    }
    assert set(after.values()) == {"skipped"}, after
    told = airflow.log(DAG_ID, few, "enough")
    assert "Nothing is trained: 0 rows of preferences, of 1 of 2 lines of feedback; min_rows is 4." in told


def test_feedback_trains_the_champion_and_what_comes_through_takes_its_alias(airflow, files, tiny_model):
    airflow.register_champion(tiny_model, "looped")
    taught, states = run(airflow, files, tiny_model, partition="2026-11-25")
    assert {states[task] for task in LEARNT} == {"success"}
    not_run = ("monitor", "import_base_model", "train_kto")
    assert (states["train_dpo"], {states[task] for task in not_run}) == ("success", {"skipped"})
    collected = airflow.xcom(DAG_ID, taught, "collect_feedback", "metrics")
    assert (collected["feedback"], collected["preferences_rows"]) == (12, 12)
    prepared = Path(airflow.xcom(DAG_ID, taught, "prepare", "prepared").removeprefix("file://"))
    rows = [json.loads(line) for line in prepared.read_text().splitlines()]
    assert len(rows) == 12
    assert rows[0]["row_id"] == "preferences-2026-11-25:1"
    assert rows[0]["provenance"]["chosen"]["feedback"][0]["row_id"] == "feedback-2026-11-25:1"
    assert rows[0]["provenance"]["chosen"]["requests"][0]["model_version"] == "looped-1"
    champion, better = (version(airflow, "looped", number) for number in ("1", "2"))
    assert better["llmops.parent"] == "looped@1"
    assert better["llmops.parent.digest"] == champion["llmops.model.digest"]
    assert "production" in better["aliases"] and "production" not in champion["aliases"]


@pytest.mark.slow
def test_feedback_without_a_champion_trains_the_base_model(airflow, files, tiny_model):
    _, states = run(airflow, files, tiny_model, partition="2026-11-25", model_name="first", method="kto")
    assert {states[task] for task in ("import_base_model", "train_kto", "set_champion")} == {"success"}
    assert {states[task] for task in ("fetch_champion", "monitor")} == {"skipped"}
    first = version(airflow, "first", "1")
    assert "production" in first["aliases"] and "llmops.parent" not in first
