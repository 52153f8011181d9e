"""The DAG of progressive delivery without a run: what its form takes, and what reaches the operators."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import pytest
from airflow.sdk import AssetAny
from airflow.sdk.definitions.param import process_params
from airflow.sdk.exceptions import AirflowSkipException, ParamValidationError
from planes import REPO
from signing_keys import make_key, public_of

from airflow_provider_llmops.assets import model_asset
from airflow_provider_llmops.delivery.analysis import CanaryLimits
from airflow_provider_llmops.delivery.probes import CanaryProbes
from airflow_provider_llmops.exceptions import ConfigurationError

DETAILS = {"version": "7", "registered_digest": "sha256:1", "model_digest": "sha256:1"}


def read_dag():
    """The DAG as a worker reads it; Airflow notes a run's parameters in it."""
    spec = importlib.util.spec_from_file_location(
        "progressive_delivery", REPO / "dags" / "progressive_delivery.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.dag


@pytest.fixture
def dag():
    return read_dag()


@pytest.fixture
def rendered(monkeypatch):
    """A task as it is in a run with given parameters, after tasks that have pushed what such tasks push."""
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": "mlflow"}))

    def xcom_pull(task_ids, key="return_value", **_):
        return {"details": DETAILS} if key == "return_value" else f"/{task_ids}/{key}"

    def render(task_id, events=(), **conf):
        dag = read_dag()
        task = dag.get_task(task_id).prepare_for_execution()
        ti = SimpleNamespace(xcom_pull=xcom_pull, dag_id=dag.dag_id, run_id="r", task_id=task_id)
        params = process_params(dag, task, conf, suppress_exception=False)
        started_by = {model_asset("stdlib-helper"): list(events)} if events else {}
        task.render_template_fields(
            {"task": task, "ti": ti, "params": params, "triggering_asset_events": started_by}
        )
        return task

    return render


def test_tasks_follow_each_other_and_nothing_is_served_unchecked(dag):
    assert {task.task_id: task.downstream_task_ids for task in dag.tasks} == {
        "check_settings": {"fetch_model"},
        "fetch_model": {"check_model", "canary"},
        "check_model": {"canary"},
        "canary": {"set_alias"},
        "set_alias": set(),
    }


@pytest.mark.parametrize(
    ("conf", "version", "alias"),
    [
        ({}, None, "candidate"),
        ({"from_alias": "champion"}, None, "champion"),
        ({"version": "3"}, "3", None),
        ({"version": "10", "from_alias": "champion"}, "10", None),
    ],
)
def test_a_version_is_taken_by_number_or_by_alias(rendered, conf, version, alias):
    arguments = rendered("fetch_model", **conf).arguments()
    assert (arguments["model_version"], arguments["alias"]) == (version, alias)


def event(at, **extra):
    return SimpleNamespace(timestamp=at, extra=extra)


def test_a_registration_starts_the_delivery_of_its_version(dag, rendered):
    either = AssetAny(model_asset("stdlib-helper"), model_asset("stdlib-helper-sweep"))
    assert str(dag.timetable.asset_condition) == str(either)
    events = [
        event(2, model_name="newer", model_version="12"),
        event(1, model_name="older", model_version="3"),
    ]
    arguments = rendered("fetch_model", events).arguments()
    assert [arguments[name] for name in ("model_name", "model_version", "alias")] == ["newer", "12", None]
    assert rendered("canary", events).service_name == "newer"
    assert rendered("canary", events, service="chat").service_name == "chat"
    assert rendered("set_alias", events).model_name == "newer"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, None),
        ({"is_backfill": True}, "A backfill has registered"),
        ({"is_delivered": True}, "brings it in itself"),
    ],
)
def test_a_version_that_is_a_backfills_or_delivered_already_is_not_delivered(dag, said, reason):
    """The run that a backfill starts has the date of today, so that the canary would take its model for a newer one."""
    extra = {"model_name": "chat", "model_version": "3", **said}
    events = {model_asset("stdlib-helper"): [event(1, **extra)]}
    context = {
        "dag_run": SimpleNamespace(conf={}),
        "params": dict(dag.params),
        "triggering_asset_events": events,
        "dag": dag,
    }
    check = dag.get_task("check_settings").python_callable
    if reason:
        with pytest.raises(AirflowSkipException, match=reason):
            check(**context)
    else:
        check(**context)


def test_an_event_that_names_no_version_is_refused(rendered):
    with pytest.raises(ConfigurationError, match="does not say which version"):
        rendered("fetch_model", [event(1, model_name="newer")])


def test_what_was_fetched_is_checked_served_and_gets_the_alias(rendered):
    check = rendered("check_model", allowed_licenses=["mit"], scan=False)
    assert (check.model, check.model_digest) == ("/fetch_model/model", "sha256:1")
    assert (check.allowed_licenses, check.scan) == (["mit"], False)
    noted = check.arguments()
    assert (noted["model_name"], noted["model_version"]) == ("stdlib-helper", "7")
    canary = rendered("canary", service="e5", steps=[1, 50], kserve_connection="kserve_team")
    assert (canary.service_name, canary.model, canary.kserve_conn_id) == (
        "e5",
        "/fetch_model/model",
        "kserve_team",
    )
    alias = rendered("set_alias", model_name="e5", to_alias="live").arguments()
    assert (alias["model_name"], alias["model_version"], alias["alias"]) == ("e5", "7", "live")
    assert rendered("canary", model_name="qa").service_name == "qa"


def test_a_signature_is_looked_at_where_the_form_names_who_has_to_have_signed(rendered, monkeypatch):
    public = public_of(make_key())
    connection = {"conn_type": "model_signing", "extra": {"public_key": public}}
    monkeypatch.setenv("AIRFLOW_CONN_RELEASES", json.dumps(connection))
    arguments = rendered("check_model", signing_connection="releases").arguments()
    assert (arguments["signature"], arguments["public_key"]) == ("/fetch_model/signature", public)
    arguments = rendered("check_model").arguments()
    assert (arguments["signature"], arguments["public_key"]) == (None, None)


def test_the_form_is_the_plan_of_the_canary(rendered):
    plan = rendered("canary").plan()
    assert (plan.shares, plan.seconds, plan.patience, plan.probes) == ((5, 25, 50), 600, 1800, None)
    assert plan.limits == CanaryLimits()
    plan = rendered(
        "canary",
        steps=[10],
        step_seconds=1.5,
        max_latency_ratio=None,
        on_undecided="go_on",
        probe_data="/data/probes.jsonl",
        min_answer_difference=-0.1,
    ).plan()
    assert (plan.shares, plan.seconds, plan.goes_on_undecided) == ((10,), 1.5, True)
    assert plan.limits.max_latency_ratio is None
    request = {"max_tokens": 64, "temperature": 0}
    assert plan.probes == CanaryProbes(
        "/data/probes.jsonl", -0.1, arguments={"request": request, "protocol": "openai_chat"}
    )


@pytest.mark.parametrize(
    "conf",
    [
        {"version": "latest"},
        {"version": 3},
        {"from_alias": "v1"},
        {"to_alias": ""},
        {"service": "A"},
        {"model_name": "a/b"},
        {"steps": []},
        {"steps": [100]},
        {"step_seconds": -1},
        {"max_error_rate": 1},
        {"on_undecided": "wait"},
        {"probe_data": "probes.jsonl"},
        {"probe_metric": "reward"},
        {"mlflow_connection": ""},
        {"signing_connection": ""},
    ],
)
def test_form_refuses_what_cannot_be_delivered(rendered, conf):
    with pytest.raises(ParamValidationError):
        rendered("canary", **conf)


def test_every_parameter_is_explained(dag):
    described = {name: dag.params.get_param(name) for name in dag.params}
    assert [
        name for name, param in described.items() if not (param.description and param.schema.get("title"))
    ] == []
