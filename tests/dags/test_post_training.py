"""The example DAG: its shape, its form, and a whole run with a tiny model in a real Airflow."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from airflow_stack import TERMINAL_STATES, RealAirflow

NO_CHAMPION = {"fetch_champion", "evaluate_champion"}
SMALL = {
    "train_rows": 16,
    "preference_rows": 8,
    "evaluation_rows": 8,
    "max_steps": 2,
    "lora_rank": 2,
    "min_improvement": -1,
    "step_seconds": 1,
    "canary_rows": 2,
    "canary_margin": -1,
    "max_latency_ratio": None,
    "model_name": "tiny",
}


# Whoever is scheduled on the assets of a model: without it Airflow does not know them, and drops what is told of them.
LISTENS = """
from airflow.sdk import DAG
from airflow_provider_llmops.assets import evaluation_asset, model_asset, service_asset

with DAG("listens_to_tiny", schedule=evaluation_asset("tiny") | model_asset("tiny") | service_asset("tiny")):
    pass
"""


@pytest.fixture(scope="module")
def airflow(real_airflow: RealAirflow) -> RealAirflow:
    return real_airflow.add_example("post_training")


def test_form_has_type_range_and_help_for_every_parameter(airflow):
    params = airflow.api.call("GET", "/dags/post_training/details")["params"]
    assert len(params) == 33
    for name, param in params.items():
        assert param["description"], name
        assert {"type", "title"} <= param["schema"].keys(), name


@pytest.mark.parametrize(
    "conf",
    [
        {"train_rows": 1},
        {"metric": "luck"},
        {"model_name": "Not A Name"},
        {"max_steps": "many"},
        {"method": "ppo"},
        {"train_data": "here.jsonl"},
    ],
)
def test_parameter_out_of_range_is_refused_at_the_door(airflow, conf):
    import httpx

    with pytest.raises((httpx.HTTPStatusError, Exception), match=next(iter(conf))):
        airflow.trigger("post_training", conf)


def approve(airflow: RealAirflow, run: str) -> None:
    """Say yes whenever somebody is asked, as the page of required actions does: a task that is tried again asks again."""
    path = f"/dags/post_training/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"

    def is_over() -> bool:
        task = airflow.task("post_training", run, "approve")
        if task["state"] == "awaiting_input":
            asked = airflow.api.call("GET", path)
            assert asked["body"].startswith("[The evaluation](http") and asked["options"] == [
                "Approve",
                "Reject",
            ]
            states = airflow.tasks("post_training", run)
            assert states["quality_gate"] == "success" and states["register_model"] is None
            airflow.api.approve("post_training", run, "approve")
        return task["state"] in TERMINAL_STATES

    airflow.wait_until(is_over, "the approval", 1200, lambda: airflow.task("post_training", run, "approve"))


def run_to_success(airflow: RealAirflow, base_model: Path, **conf: Any) -> str:
    run = airflow.trigger("post_training", {**SMALL, "base_model": str(base_model), **conf})
    if conf.get("approval"):
        approve(airflow, run)
    assert airflow.wait("post_training", run, timeout=1200) == "success", airflow.tasks("post_training", run)
    return run


def test_whole_run_ends_with_a_served_model(airflow, tiny_model):
    import httpx

    airflow.add_dag("listens_to_tiny", LISTENS)
    run = run_to_success(airflow, tiny_model, serve_base=True)
    states = airflow.tasks("post_training", run)
    skipped = {task for task, state in states.items() if state == "skipped"}
    trainers = {"train_dpo", "train_kto", "train_reward", "train_grpo", "train_rloo"}
    assert skipped == {*trainers, "validate_preferences", "approve", *NO_CHAMPION}
    assert set(states.values()) == {"success", "skipped"}

    metrics = airflow.xcom("post_training", run, "evaluate_tuned", "metrics")
    compared = airflow.xcom("post_training", run, "evaluate_tuned", "comparison")["metrics"]["rougeL"]
    assert compared["candidate"]["value"] == metrics["rougeL"]
    assert (compared["rows_scored"], compared["rows_unscored"]) == (metrics["samples"], 0)
    registered = airflow.xcom("post_training", run, "register_model")["details"]
    assert (registered["name"], str(registered["version"]), registered["alias"]) == ("tiny", "1", "candidate")

    def ask_mlflow(what: str, **params: str) -> dict:
        return httpx.get(
            f"{airflow.stack.mlflow_url}/api/2.0/mlflow/{what}/get",
            params=params,
            auth=airflow.stack.mlflow_login,
        ).json()

    def tags_of(thing: dict) -> dict[str, str]:
        return {tag["key"]: tag["value"] for tag in thing["tags"]}

    tags = tags_of(ask_mlflow("model-versions", name="tiny", version="1")["model_version"])
    trained = airflow.xcom("post_training", run, "train_sft")
    assert tags["llmops.model.digest"] == trained["artifacts"]["model"]["digest"]
    assert tags["component.train_sft"] == trained["component_digest"]
    assert tags["airflow.run_id"] == run
    assert uuid.UUID(tags["airflow.dag_version"]) and tags["airflow.bundle_name"]
    assert json.loads(tags["airflow.conf"])["model_name"] == "tiny"
    assert tags["llmops.decision"] == airflow.xcom("post_training", run, "quality_gate")["outcome"] == "pass"
    evaluated = airflow.xcom("post_training", run, "evaluate_tuned")["details"]["tracking"]["run_id"]
    told = tags_of(ask_mlflow("runs", run_id=evaluated)["run"]["data"])
    assert told["llmops.decision"] == "pass" and told["mlflow.note.content"].startswith("**Gate: pass**")
    tracked = trained["details"]["tracking"]["run_id"]
    parents = [
        tags_of(ask_mlflow("runs", run_id=run_id)["run"]["data"])["mlflow.parentRunId"]
        for run_id in (tracked, registered["run_id"])
    ]
    assert parents[0] == parents[1]

    base, service = (airflow.xcom("post_training", run, task) for task in ("serve_base", "deploy_model"))
    assert (base["revision"], service["revision"], base["url"]) == ("00001", "00002", service["url"])
    decisions = airflow.xcom("post_training", run, "deploy_model", "decisions")
    assert [decision["outcome"] for decision in decisions] == ["pass", "pass"]
    assert [decision["evidence"]["answers"]["rows"] for decision in decisions] == [2, 2]
    assert all(
        decision["evidence"][whose]["requests"] >= 2
        for decision in decisions
        for whose in ("canary", "stable")
    )
    models_url = f"{service['openai_url']}/models"
    assert httpx.get(models_url).status_code == 401
    key = {"Authorization": f"Bearer {airflow.stack.api_key}"}
    assert [model["id"] for model in httpx.get(models_url, headers=key).json()["data"]] == ["tiny"]
    (asked,) = airflow.xcom("post_training", run, "smoke_test")
    assert asked["answer"]

    spent = airflow.xcom("post_training", run, "run_cost")
    assert spent["mlflow_run_id"] == registered["run_id"] and spent["device_hours"] > 0
    assert spent["spent"]["step_seconds"] > trained["resources"]["seconds"]
    assert spent["cost"] is None and "cost: price_per_hour is not set" in spent["unknown"]
    version_metrics = ask_mlflow("runs", run_id=registered["run_id"])["run"]["data"]["metrics"]
    assert {each["key"]: each["value"] for each in version_metrics}["device_hours"] == spent["device_hours"]

    told = airflow.api.call("GET", "/assets/events", params={"source_run_id": run})["asset_events"]
    events = {each["uri"]: each["extra"] for each in told}
    assert len(told) == len(events)
    assert {uri: set(extra) for uri, extra in events.items()} == {
        "llmops://dataset/stdlib-docstrings": {"code"},
        "llmops://evaluation/tiny": {"code", "metrics", "report"},
        "llmops://model/tiny": {"code", "model_name", "model_version", "is_delivered"},
        "llmops://service/default/tiny": {"code", "service", "namespace", "revision", "url"},
    }
    assert events["llmops://model/tiny"]["model_version"] == "1"
    assert events["llmops://service/default/tiny"]["revision"] == service["revision"]


def test_reinforcement_learning_goes_through_reward_model_and_policy(airflow, tiny_model):
    run = run_to_success(
        airflow,
        tiny_model,
        model_name="tiny-rl",
        method="rlhf",
        reward_steps=2,
        rl_steps=2,
        generations=2,
        max_completion_length=8,
    )
    states = airflow.tasks("post_training", run)
    assert {task for task, state in states.items() if state == "skipped"} == {
        "train_dpo",
        "train_kto",
        "train_rloo",
        "serve_base",
        "approve",
        *NO_CHAMPION,
    }
    policy = airflow.xcom("post_training", run, "train_grpo")
    assert {"first_reward", "final_reward"} <= policy["metrics"].keys()
    assert (
        airflow.xcom("post_training", run, "tuned_model")["digest"] == policy["artifacts"]["model"]["digest"]
    )
    assert "reward" in airflow.xcom("post_training", run, "evaluate_tuned", "comparison")["metrics"]
    assert airflow.xcom("post_training", run, "register_model")["details"]["name"] == "tiny-rl"


def assert_trained_by(airflow: RealAirflow, run: str, method: str, *also_skipped: str) -> None:
    """Only that trainer ran, on preferences, and its model is the one that went on."""
    states = airflow.tasks("post_training", run)
    trainers = {"train_sft", "train_dpo", "train_kto", "train_reward", "train_grpo", "train_rloo"}
    assert {task for task, state in states.items() if state == "skipped"} == {
        *(trainers - {f"train_{method}"}),
        "validate_train",
        *also_skipped,
    }
    trained = airflow.xcom("post_training", run, f"train_{method}")
    assert trained["metrics"]["steps"] == SMALL["max_steps"]
    tuned = airflow.xcom("post_training", run, "tuned_model")
    assert tuned["digest"] == trained["artifacts"]["model"]["digest"]


def own_data(directory: Path) -> dict[str, str]:
    """Data as somebody has them: questions with two answers, in files outside of any run."""
    questions = [f"How much is {number} plus {number}?" for number in range(20)]
    rows = {
        "preference_data": [
            {"prompt": question, "chosen": f"{2 * i}", "rejected": "I do not know."}
            for i, question in enumerate(questions)
        ],
        "evaluation_data": [
            {"prompt": f"{question} Say!", "reference": "4", "contexts": ["Sums."]}
            for question in questions[:8]
        ],
    }
    for name, lines in rows.items():
        (directory / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {name: str(directory / name) for name in rows}


def test_dpo_on_data_of_ones_own_is_held_against_the_champion_and_ends_with_a_served_model(
    airflow, tiny_model, tmp_path
):
    import httpx

    data = own_data(tmp_path)
    airflow.register_champion(tiny_model, "tiny-dpo")
    how = {"model_name": "tiny-dpo", "method": "dpo", "approval": True, "champion": "production"}
    run = run_to_success(airflow, tiny_model, **how, **data)
    assert_trained_by(airflow, run, "dpo", "prepare_data", "serve_base", "evaluate_base")
    assert airflow.tasks("post_training", run)["approve"] == "success"
    baseline = "tiny-dpo version 1, which had the alias production"
    assert airflow.xcom("post_training", run, "quality_gate")["baseline"] == baseline
    compared = airflow.xcom("post_training", run, "evaluate_tuned", "comparison")
    champion = airflow.xcom("post_training", run, "evaluate_champion", "metrics")
    assert compared["metrics"]["rougeL"]["baseline"]["value"] == champion["rougeL"]
    version = httpx.get(
        f"{airflow.stack.mlflow_url}/api/2.0/mlflow/model-versions/get",
        params={"name": "tiny-dpo", "version": "2"},
        auth=airflow.stack.mlflow_login,
    ).json()["model_version"]
    assert {"key": "llmops.decision.baseline", "value": baseline} in version["tags"]
    counts = {
        task_id: airflow.xcom("post_training", run, task_id)["metrics"]["accepted_rows"]
        for task_id in ("validate_preferences", "validate_evaluation")
    }
    assert counts == {"validate_preferences": 20, "validate_evaluation": 8}
    validated = Path(airflow.xcom("post_training", run, "validate_preferences", "validated"))
    assert validated.read_bytes() == Path(data["preference_data"]).read_bytes()
    assert airflow.xcom("post_training", run, "register_model")["details"]["name"] == "tiny-dpo"
    (asked,) = airflow.xcom("post_training", run, "smoke_test")
    assert asked["answer"]


def test_setting_that_there_is_not_stops_the_run_before_anything_is_made(airflow):
    run = airflow.trigger("post_training", {**SMALL, "max_step": 3})
    assert airflow.wait("post_training", run) == "failed"
    states = airflow.tasks("post_training", run)
    assert states.pop("check_settings") == "failed"
    # What a run costs is told at its end however it ends.
    assert states.pop("run_cost") == "success"
    assert airflow.xcom("post_training", run, "run_cost")["spent"] == {}
    assert set(states.values()) == {"upstream_failed"}
    assert airflow.task("post_training", run, "check_settings")["try_number"] == 1
    assert "'max_step' (did you mean 'max_steps'?)" in airflow.log("post_training", run, "check_settings")


def test_gate_that_is_not_passed_by_kto_stops_before_registration(airflow, tiny_model):
    conf = {
        **SMALL,
        "base_model": str(tiny_model),
        "model_name": "never",
        "method": "kto",
        "min_improvement": 1.0,
        "champion": "production",
    }
    run = airflow.trigger("post_training", conf)
    assert airflow.wait("post_training", run, timeout=1200) == "failed"
    assert_trained_by(airflow, run, "kto", *NO_CHAMPION)
    said = airflow.log("post_training", run, "fetch_champion")
    assert "There is no alias 'production' of a registered model 'never'." in said
    states = airflow.tasks("post_training", run)
    assert states["quality_gate"] == "failed"
    assert {states[task] for task in ("register_model", "serve_base", "deploy_model", "smoke_test")} == {
        "upstream_failed"
    }
    assert airflow.task("post_training", run, "quality_gate")["try_number"] == 1
    assert airflow.xcom("post_training", run, "quality_gate")["outcome"] != "pass"


def test_base_model_that_does_not_exist_is_named_and_not_retried(airflow):
    run = airflow.trigger("post_training", {**SMALL, "base_model": "/nowhere/model"})
    assert airflow.wait_for_task("post_training", run, "import_base_model") == "failed"
    assert airflow.task("post_training", run, "import_base_model")["try_number"] == 1
    assert "/nowhere/model" in airflow.log("post_training", run, "import_base_model")
    airflow.wait("post_training", run)
