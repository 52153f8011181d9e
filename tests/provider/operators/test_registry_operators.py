"""What reaches the components of the model registry."""

from __future__ import annotations

import json

import pytest
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_provider_llmops.delivery.as_of import as_of
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.operators.registry import (
    FetchModelOperator,
    RegisterModelOperator,
    SetAliasOperator,
)

SECRET = "s3cret-token"  # noqa: S105  the connection's


@pytest.fixture(autouse=True)
def mlflow_connection(monkeypatch):
    connection = {"conn_type": "mlflow", "host": "https://mlflow.example.com", "password": SECRET}
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps(connection))


@pytest.mark.parametrize(("given", "taken"), [(3, "3"), ("3", "3"), ("", None), (None, None)])
def test_a_version_is_a_text_whatever_a_template_makes_of_it(given, taken):
    operator = FetchModelOperator(task_id="fetch", model_name="m", model_version=given, alias="")
    arguments = operator.arguments()
    assert (arguments["model_version"], arguments["alias"]) == (taken, None)
    assert arguments["tracking_uri"] == "https://mlflow.example.com"
    assert SECRET not in json.dumps(arguments)
    assert operator.environment() == {"MLFLOW_TRACKING_TOKEN": SECRET}


@pytest.mark.parametrize("version", ["3", None])
def test_task_is_skipped_where_the_version_that_need_not_be_there_is_not(context, monkeypatch, version):
    value = {"details": {"version": version}, "findings": ["There is no alias 'champion'."]}
    monkeypatch.setattr(ComponentOperator, "outcome", lambda self, context, run: value)
    operator = FetchModelOperator(task_id="fetch", model_name="m", alias="champion", required=False)
    assert operator.arguments()["required"] is False
    if version:
        assert operator.outcome(context, None) is value
        return
    with pytest.raises(AirflowSkipException, match="There is no alias 'champion'"):
        operator.outcome(context, None)
    assert context["ti"].xcom["return_value"] == value


def test_events_of_assets_say_which_version_there_is(context):
    ours, other = Asset("registered_model"), AssetAlias("several")
    register = RegisterModelOperator(
        task_id="register",
        model="/m",
        model_name="chat",
        outlets=[ours, other],
        mlflow_conn_id="mlflow_default",
    )
    events = OutletEventAccessors()
    events[ours].extra["mine"] = 1
    register._tell_version({**context, "outlet_events": events}, {"name": "chat", "version": 12})
    assert events[ours].extra == {"mine": 1, "model_name": "chat", "model_version": "12"}
    context["dag_run"].run_type = "backfill"
    register._tell_version({**context, "outlet_events": events}, {"name": "chat", "version": 13})
    assert events[ours].extra["is_backfill"] is True
    RegisterModelOperator(task_id="no_outlets", model="/m", model_name="chat")._tell_version(
        context, {"name": "chat", "version": 12}
    )


def test_an_alias_is_moved_for_the_date_of_the_run(context):
    operator = SetAliasOperator(task_id="alias", model_name="m", model_version=3, alias="production")
    operator._context = context
    assert operator.arguments()["as_of"] == as_of(context)
    assert operator.arguments()["model_version"] == "3"
    assert SECRET not in json.dumps(operator.arguments())
    assert operator.environment() == {"MLFLOW_TRACKING_TOKEN": SECRET}
