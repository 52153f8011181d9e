"""The example DAG of a sweep: mapped trainings and evaluations of a tiny model in a real Airflow, registered once."""

from __future__ import annotations

from urllib.parse import quote

import httpx
import pytest
from airflow_stack import RealAirflow

RATES = [1e-5, 1e-2]


@pytest.fixture(scope="module")
def airflow(real_airflow: RealAirflow) -> RealAirflow:
    return real_airflow.add_example("sweep")


def test_each_learning_rate_is_trained_and_evaluated_and_the_best_model_registered_once(airflow, tiny_model):
    conf = {
        "base_model": str(tiny_model),
        "model_name": "stdlib-helper-sweep",
        "train_rows": 16,
        "evaluation_rows": 8,
        "learning_rates": RATES,
        "max_steps": 2,
        "min_improvement": -1,
    }
    run = airflow.trigger("sweep", conf)
    assert airflow.wait("sweep", run, timeout=1200) == "success", airflow.tasks("sweep", run)

    trained = [airflow.xcoms("sweep", run, "train", map_index=index) for index in (0, 1)]
    evaluated = [airflow.xcoms("sweep", run, "evaluate", map_index=index) for index in (0, 1)]
    best = airflow.xcom("sweep", run, "best")
    scores = [each["metrics"]["rougeL"] for each in evaluated]
    winner = scores.index(max(scores))
    assert best["model"] == trained[winner]["model"]
    assert best["settings"] == {"learning_rate": RATES[winner], "max_steps": 2}
    assert len({each["return_value"]["artifacts"]["model"]["digest"] for each in trained}) == 2

    spent = airflow.xcom("sweep", run, "run_cost")
    resources = [each["return_value"]["resources"] for each in (*trained, *evaluated)]
    assert spent["spent"]["step_seconds"] > sum(each["seconds"] for each in resources)
    assert spent["mlflow_run_id"] and spent["device_hours"] > 0

    registered = airflow.xcom("sweep", run, "register_model")["details"]
    assert (registered["version"], registered["alias"], registered["alias_moved"]) == ("1", "candidate", True)
    assert registered["model_digest"] == trained[winner]["return_value"]["artifacts"]["model"]["digest"]

    events = airflow.api.call("GET", "/assets/events", params={"source_dag_id": "sweep"})["asset_events"]
    data, event = sorted(events, key=lambda each: each["name"])
    assert data["name"] == "dataset/stdlib-docstrings"
    extra = event["extra"]
    assert (extra["model_name"], extra["model_version"]) == ("stdlib-helper-sweep", "1")
    assert extra["code"]["bundle_name"] == "dags-folder"
    assert (event["name"], event["uri"]) == (
        "model/stdlib-helper-sweep",
        "llmops://model/stdlib-helper-sweep",
    )

    runs = httpx.post(
        f"{airflow.stack.mlflow_url}/api/2.0/mlflow/runs/search",
        auth=airflow.stack.mlflow_login,
        json={"experiment_ids": [registered["experiment_id"]]},
        trust_env=False,
    ).json()["runs"]
    assert httpx.get(f"{airflow.stack.mlflow_url}/", trust_env=False).status_code == 401
    names = {each["info"]["run_name"] for each in runs}
    assert {f"train[learning rate {rate}]" for rate in RATES} <= names


def test_what_the_tasks_have_made_is_one_click_away(airflow):
    """Looks at the run of the test above."""
    (run,) = [each["dag_run_id"] for each in airflow.api.call("GET", "/dags/sweep/dagRuns")["dag_runs"]]

    def links(task: str, map_index: int = -1) -> dict[str, str | None]:
        path = f"/dags/sweep/dagRuns/{run}/taskInstances/{task}/links"
        return airflow.api.call("GET", path, params={"map_index": map_index})["extra_links"]

    assert {name for name, url in links("train", 1).items() if url} == {"Model card", "MLflow run"}
    assert {name for name, url in links("register_model").items() if url} == {
        "Model card",
        "MLflow run",
        "Model version in MLflow",
        "Report",
    }
    shown = {
        "validate_train": ("Data docs", "rows"),
        "quality_gate": ("Report", "rougeL"),
        "evaluate_base": ("Report", "rougeL"),
        "register_model": ("Model card", "train"),
    }
    for task, (name, word) in shown.items():
        url = links(task)[name]
        answer = airflow.api.page(url)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8"), url
        assert word in answer.text
        assert httpx.get(url, trust_env=False).status_code == 401


def test_page_of_all_models_is_in_the_navigation_and_shows_the_registered_model(airflow):
    """Looks at the model of the first test."""
    plugins = {each["name"]: each for each in airflow.api.call("GET", "/plugins")["plugins"]}
    (view,) = plugins["llmops_pages"]["external_views"]
    assert (view["name"], view["destination"], view["url_route"]) == ("LLMOps", "nav", "llmops")
    (run,) = [each["dag_run_id"] for each in airflow.api.call("GET", "/dags/sweep/dagRuns")["dag_runs"]]

    url = f"{airflow.stack.airflow_url}/{view['href']}"
    answer = airflow.api.page(f"{url}?name=stdlib-helper-sweep")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for shown in (">stdlib-helper-sweep</a>", ">Version 1</a>", "Decision: <span", "rougeL", "not served"):
        assert shown in answer.text, answer.text
    assert f"../../dags/sweep/runs/{quote(run, safe='')}" in answer.text
    assert httpx.get(url, trust_env=False).status_code == 401

    # A connection that is kept in Airflow's database is read by the web server as well.
    kept = {
        "connection_id": "mlflow_kept",
        "conn_type": "mlflow",
        "host": airflow.stack.mlflow_url,
        "login": airflow.stack.mlflow_login[0],
        "password": airflow.stack.mlflow_login[1],
    }
    airflow.api.call("POST", "/connections", json=kept)
    assert ">stdlib-helper-sweep</a>" in airflow.api.page(f"{url}?mlflow_conn_id=mlflow_kept").text
