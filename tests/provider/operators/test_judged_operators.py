"""Operators whose answers a judge may score: where it is, and how its key travels."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from airflow_provider_llmops.exceptions import ConfigurationError, QualityGateFailed
from airflow_provider_llmops.hooks.openai_endpoint import OpenAIEndpointHook
from airflow_provider_llmops.operators.evaluate_service import EvaluateServiceOperator
from airflow_provider_llmops.operators.evaluation import EvaluateModelOperator
from airflow_provider_llmops.remote.origin import tags_of
from airflow_provider_llmops.results import StageResult

JUDGE = {"model_name": "judge", "max_cost": 5, "price": {"input": 1, "output": 2}}


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"conn_type": "openai_endpoint", "host": "https://judge.example.com/v1/", "password": "sk-judge"}
    monkeypatch.setenv("AIRFLOW_CONN_JUDGE", json.dumps(found))


def operator(**more: object) -> EvaluateModelOperator:
    return EvaluateModelOperator(task_id="evaluate", model="/m", dataset="/d", **more)


def test_address_and_key_are_those_of_the_connection_and_the_key_is_in_the_environment_alone(connection):
    found = operator(judge=JUDGE, judge_conn_id="judge")
    assert found.arguments()["judge"] == JUDGE | {"url": "https://judge.example.com/v1"}
    assert found.environment() == {"LLMOPS_JUDGE_KEY": "sk-judge"}
    assert "judge_conn_id" not in found.arguments()
    assert "sk-judge" not in json.dumps(found.arguments())


def test_without_a_connection_the_judge_has_its_address_itself():
    found = operator(judge=JUDGE | {"url": "http://127.0.0.1:1/v1"})
    assert found.arguments()["judge"]["url"] == "http://127.0.0.1:1/v1"
    assert found.environment() == {}


def test_a_key_is_not_sent_to_another_address_and_nobody_judges_by_a_connection_alone(connection):
    with pytest.raises(
        ConfigurationError, match="The url is http://elsewhere/v1, and connection 'judge' has another one"
    ):
        operator(judge=JUDGE | {"url": "http://elsewhere/v1"}, judge_conn_id="judge").arguments()
    elsewhere = {"embeddings": {"url": "http://elsewhere/v1", "model_name": "e"}}
    with pytest.raises(
        ConfigurationError, match="The url of embeddings is http://elsewhere/v1, and connection"
    ):
        operator(judge=JUDGE | elsewhere, judge_conn_id="judge").arguments()
    for same in ("", "https://judge.example.com/v1/"):
        found = operator(judge=JUDGE | {"url": same}, judge_conn_id="judge").arguments()
        assert found["judge"]["url"] == "https://judge.example.com/v1"
    with pytest.raises(ConfigurationError, match="judge_conn_id is given and no judge"):
        operator(judge_conn_id="judge").arguments()


@pytest.mark.parametrize("host", ["", "ftp://x/v1", "https://a:b@x/v1"])
def test_a_host_that_is_no_address_is_refused(host, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_JUDGE", json.dumps({"conn_type": "openai_endpoint", "host": host}))
    with pytest.raises(ConfigurationError, match="the host must be the base URL of an OpenAI API"):
        _ = OpenAIEndpointHook("judge").url


def test_service_and_judge_have_a_connection_each_and_their_keys_do_not_mix(connection, monkeypatch):
    service = {
        "conn_type": "openai_endpoint",
        "host": "rag.example.com/v1",
        "schema": "https",
        "password": "sk-rag",
    }
    monkeypatch.setenv("AIRFLOW_CONN_RAG", json.dumps(service))
    found = EvaluateServiceOperator(
        task_id="evaluate",
        dataset="/d",
        model_name="assistant",
        openai_endpoint_conn_id="rag",
        judge=JUDGE,
        judge_conn_id="judge",
    )
    arguments = found.arguments()
    assert (arguments["url"], arguments["judge"]["url"]) == (
        "https://rag.example.com/v1",
        "https://judge.example.com/v1",
    )
    assert found.environment() == {"LLMOPS_SERVICE_KEY": "sk-rag", "LLMOPS_JUDGE_KEY": "sk-judge"}
    assert not {"openai_endpoint_conn_id", "kserve_conn_id", "judge_conn_id"} & set(arguments)


def test_a_deployed_service_is_asked_with_the_key_of_its_connection(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_KSERVE_DEFAULT", json.dumps({"conn_type": "kserve", "password": "sk-1"}))
    found = EvaluateServiceOperator(
        task_id="evaluate", dataset="/d", model_name="m", url="http://127.0.0.1:1"
    )
    assert found.arguments()["url"] == "http://127.0.0.1:1"
    assert found.environment() == {"LLMOPS_SERVICE_KEY": "sk-1"}
    with pytest.raises(ConfigurationError, match="There is no service to ask"):
        EvaluateServiceOperator(task_id="evaluate", dataset="/d", model_name="m").arguments()


@pytest.fixture
def in_a_run(monkeypatch):
    """A context as Airflow gives it, and a connection to MLflow."""
    found = {"conn_type": "mlflow", "host": "http://mlflow.example.com", "login": "me", "password": "pw"}
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps(found))

    def enter(task: EvaluateModelOperator) -> EvaluateModelOperator:
        ti = SimpleNamespace(dag_id="dag", run_id="run", task_id="evaluate", map_index=-1)
        task._context = {"ti": ti, "dag_run": SimpleNamespace(dag_id="dag", run_id="run")}
        return task

    return enter


def test_evaluation_is_kept_in_mlflow_under_the_run_of_its_dag(in_a_run):
    found = in_a_run(operator(mlflow_conn_id="mlflow_default", tracking={"experiment": "mine"}))
    assert found.arguments()["tracking"] == {
        "tracking_uri": "http://mlflow.example.com",
        "parent": "dag/run",
        "run_name": "evaluate",
        "experiment": "mine",
        "tags": tags_of(found._context),
    }
    assert found.environment() == {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "pw"}
    assert "mlflow_conn_id" not in found.arguments() and "pw" not in json.dumps(found.arguments())


def test_the_report_names_the_run_of_the_dag_where_nothing_is_kept_either(in_a_run):
    found = in_a_run(operator())
    tags = tags_of(found._context)
    assert found.arguments()["tracking"] == {"parent": "dag/run", "run_name": "evaluate", "tags": tags}
    assert operator().arguments()["tracking"] is None
    assert in_a_run(operator()).environment() == {}


def test_what_an_evaluation_comes_to_is_found_again_whatever_run_it_was_part_of(in_a_run):
    found = in_a_run(operator(mlflow_conn_id="mlflow_default"))
    bound = found.spec().bind({name: value for name, value in found.arguments().items() if value is not None})
    assert "tracking" in bound.parameters
    assert set(bound.parameters) - set(found.deciding(bound).parameters) == {"tracking"}


@pytest.mark.parametrize("passed", [True, False])
def test_run_in_mlflow_is_linked_also_where_the_judge_is_not_agreed_with(passed, context, monkeypatch):
    found = operator(mlflow_conn_id="tracked")
    result = StageResult(
        component="evaluate_model",
        run_id="r",
        component_digest="sha256:0",
        passed=passed,
        findings=["The judge agrees too rarely."],
        details={
            "tracking": {"run_id": "0" * 32, "url": "https://mlflow.example.com/#/experiments/1/runs/0"}
        },
    )
    monkeypatch.setattr(EvaluateModelOperator, "_result", lambda self, run: result)
    with nullcontext() if passed else pytest.raises(QualityGateFailed):
        found.outcome(context, SimpleNamespace(run_id="r", places=lambda what: ()))
    assert context["ti"].xcom["mlflow_run_url"] == result.details["tracking"]["url"]
