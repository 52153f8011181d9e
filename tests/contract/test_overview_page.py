"""The page of all models, of what a real MLflow knows: what it shows, with how many requests, and what it does with odd names."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import httpx
import pytest
from airflow.api_fastapi.core_api.security import get_user
from fastapi.testclient import TestClient
from mlflow_versions import mlflow_with_versions

from airflow_provider_llmops.hooks import mlflow as hooks
from airflow_provider_llmops.pages.overview import app as overview

DECISION = {"outcome": "pass", "findings": [], "rules": {}, "evidence": {}, "baseline": "the base model"}
ODD = "<img src=x onerror=alert(1)>\"'&"
MANY = 130


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of MLflow with models that this provider has registered, models of others, and many."""
    asked = [
        {
            "model_name": "chat", "alias": "production", "decision": DECISION,
            "tags": {"airflow.dag_id": "post_training", "airflow.run_id": "manual__2026-11-26T10:00:00+00:00"},
            "model_metrics": {"rougeL": 0.51234, "judge_cost": 0.42, "rows": 100, "exact_match": 0.3, "bleu": 7},
        },
        {"model_name": "chat", "tags": {"llmops.parent": "chat@1"}, "alias": "candidate"},
        {"model_name": "chat"},
    ]  # fmt: skip
    with (
        mlflow_with_versions(tmp_path_factory.mktemp("mlflow"), asked) as address,
        httpx.Client(base_url=f"{address}/api/2.0/mlflow/", trust_env=False) as mlflow,
    ):

        def post(path, **body):
            answer = mlflow.post(path, json=body)
            assert answer.status_code == 200, answer.text

        for number in range(MANY):
            post("registered-models/create", name=f"many-{number:03}")
        post("registered-models/create", name=ODD)
        tags = {
            "llmops.decision": "<b>fail</b>",
            "airflow.dag_id": "</a><script>",
            "airflow.run_id": "../../x",
        }
        for _ in range(2):
            post(
                "model-versions/create",
                name=ODD,
                source="s3://bucket/model",
                tags=[{"key": key, "value": value} for key, value in tags.items()],
            )
        post("registered-models/alias", name=ODD, alias="candidate", version="2")
        post("registered-models/alias", name=ODD, alias="production", version="1")
        yield address


@pytest.fixture
def asked(server, monkeypatch):
    """Requests to MLflow: the part of their addresses that says what is wanted."""
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": server}))
    seen, real = [], hooks.request

    def noting(url, **rest):
        seen.append(url.partition("/mlflow/")[2].partition("?")[0])
        return real(url, **rest)

    monkeypatch.setattr(hooks, "request", noting)
    return seen


@pytest.fixture
def browser(asked, monkeypatch):
    """A browser of somebody who may read every connection."""
    everything = SimpleNamespace(is_authorized_connection=lambda **_: True)
    monkeypatch.setattr(overview, "get_auth_manager", lambda: everything)
    app = overview.application.__wrapped__()
    app.dependency_overrides[get_user] = lambda: "somebody"
    return TestClient(app)


def row(page: str, name: str) -> str:
    """What the row of a model says, without its tags."""
    (found,) = [each for each in re.findall(r"<tr><th.*?</tr>", page) if f">{name}</a>" in each]
    return " ".join(re.sub(r"<[^>]*>", " ", found).split())


def test_champion_and_candidate_are_shown_with_what_is_recorded_and_nothing_else(browser, asked, server):
    page = browser.get("/?name=chat").text
    assert asked == [
        "registered-models/search",
        "model-versions/search",
        "model-versions/search",
        "experiments/search",
        "runs/search",
    ]
    told = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "WHEN", row(page, "chat"))
    assert told == (
        "chat newest version: 3 Version 1 WHEN Decision: pass , compared with the base model bleu 7, exact_match 0.3, rougeL 0.5123 "
        "1 more rows 100 Cost: judge_cost 0.42 MLflow run Report and files DAG run of post_training "
        "Version 2 WHEN Decision: — Made from chat@1 Cost: — MLflow run Report and files —"
    )
    links = dict(re.findall(r'<a target="_top"[^>]* href="([^"]*)">([^<]*)</a>', page))
    assert {
        f"{server}/#/models/chat": "chat",
        f"{server}/#/models/chat/versions/1": "Version 1",
        "../../dags/post_training/runs/manual__2026-11-26T10%3A00%3A00%2B00%3A00": "DAG run of post_training",
    }.items() <= links.items()
    runs = [each for each, text in links.items() if text == "MLflow run"]
    assert [f"{run}/artifacts" in links for run in runs] == [True, True]
    assert all(re.fullmatch(rf"{server}/#/experiments/1/runs/[0-9a-f]{{32}}", run) for run in runs)
    assert "There is no connection &#x27;kserve_default&#x27;" in page


def test_another_alias_may_be_the_champions(browser):
    assert "Champion (candidate)" in browser.get("/?name=chat&champion=candidate").text
    assert row(browser.get("/?name=chat&champion=nobody").text, "chat").startswith(
        "chat newest version: 3 — Version 2"
    )


def test_a_hundred_models_are_on_a_page_and_the_next_page_has_the_others(browser, asked):
    page = browser.get("/?name=MANY-").text
    assert asked == ["registered-models/search"]
    assert "100 models with “MANY-” in their names, those changed last first" in page
    first = re.findall(r">(many-\d+)</a>", page)
    (following,) = re.findall(r'<a href="([^"]*)">Next page', page)
    page = browser.get("/" + following.replace("&amp;", "&")).text
    rest = re.findall(r">(many-\d+)</a>", page)
    assert (len(first), len(rest)) == (100, 30)
    assert {*first, *rest} == {f"many-{number:03}" for number in range(MANY)}
    assert "Next page" not in page
    assert "First page" in page


def test_what_others_have_named_stays_text(browser, asked):
    page = browser.get("/").text
    assert "&lt;img src=x onerror=alert(1)&gt;&quot;&#x27;&amp;" in page
    assert 'Decision: <span class="quiet">&lt;b&gt;fail&lt;/b&gt;</span>' in page
    assert "../../dags/%3C%2Fa%3E%3Cscript%3E/runs/..%2F..%2Fx" in page
    assert page.count("<script") == 1  # its own
    assert "<img" not in page
    assert "<b>" not in page
    assert "What is known of 1 older version is not shown" in page


def test_a_filter_for_nothing_says_so_and_a_page_that_is_none_gives_the_reason(browser):
    assert (
        "There are no registered models with “nothing” in their names here."
        in browser.get("/?name=nothing").text
    )
    answer = browser.get("/?page=7")
    assert answer.status_code == 200
    assert "The models cannot be read from MLflow." in answer.text
    assert "HTTP 400" in answer.text
