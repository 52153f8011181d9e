"""The DAG of continual learning without a run: what its form takes, what reaches the operators, what is skipped."""

from __future__ import annotations

import importlib.util
import logging
from datetime import UTC, datetime
from itertools import pairwise
from types import SimpleNamespace

import pytest
from airflow.sdk import CronPartitionTimetable
from airflow.sdk.definitions.param import process_params
from airflow.sdk.definitions.xcom_arg import XComArg
from airflow.sdk.exceptions import AirflowSkipException, ParamValidationError
from planes import REPO

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.groups.post_training import OF_REINFORCEMENT, PARAMETERS, post_training_group

AFTER = datetime(2026, 11, 28, 3, tzinfo=UTC)
KINDS = {"dpo": "preferences", "kto": "unpaired", "sft": "demonstrations"}


def read_dag():
    """The DAG as a worker reads it; Airflow notes a run's parameters in it."""
    spec = importlib.util.spec_from_file_location(
        "continual_learning", REPO / "dags" / "continual_learning.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.dag


@pytest.fixture
def dag():
    return read_dag()


def context_of(dag, task=None, pulled=None, key="2026-11-25", **conf):
    """What a task of a run sees."""

    def xcom_pull(task_ids, key="return_value", **_):
        return (pulled or {}).get((task_ids, key), f"/{task_ids}/{key}")

    run = SimpleNamespace(partition_key=key, logical_date=None, run_after=AFTER, conf=conf, dag_id=dag.dag_id)
    ti = SimpleNamespace(xcom_pull=xcom_pull, dag_id=dag.dag_id, run_id="r", task_id=task and task.task_id)
    params = process_params(dag, task or dag.get_task("enough"), conf, suppress_exception=False)
    return {"dag": dag, "task": task, "ti": ti, "params": params, "dag_run": run}


def rendered(dag, task_id, **more):
    task = dag.get_task(task_id).prepare_for_execution()
    task.render_template_fields(context_of(dag, task, **more))
    return task


def test_each_day_is_a_partition_and_one_run_goes_on_from_the_one_before(dag):
    assert isinstance(dag.timetable, CronPartitionTimetable) and dag.max_active_runs == 1
    order = [
        "check_feedback",
        "collect_feedback",
        "enough",
        "monitor",
        "prepare",
        "check_settings",
        "fetch_champion",
        "import_base_model",
        "train_dpo",
        "evaluate_tuned",
        "quality_gate",
        "approve",
        "register_model",
        "deploy_model",
        "set_champion",
    ]
    for before, after in pairwise(order):
        assert after in dag.get_task(before).get_flat_relative_ids(), (before, after)
    first = dag.get_task("check_feedback")
    assert first.get_flat_relative_ids() == set(dag.task_ids) - {"check_feedback"}
    # Whatever is not enough skips everything below, whatever the rules of what is below.
    after = dag.get_task("enough").get_flat_relative_ids()
    assert dag.get_task("enough").ignore_downstream_trigger_rules
    assert set(dag.task_ids) - after == {
        "check_feedback",
        "fetch_requests",
        "fetch_feedback",
        "collect_feedback",
        "enough",
    }


def test_form_has_what_the_tasks_read_and_every_parameter_is_explained(dag):
    handed_on = {"train_data", "preference_data", "train_rows", "preference_rows"}
    assert set(PARAMETERS) - set(dag.params) == handed_on | set(OF_REINFORCEMENT)
    assert not {"train_reward", "train_grpo", "train_rloo"} & set(dag.task_ids)
    for name in dag.params:
        param = dag.params.get_param(name)
        assert param.schema["title"] and param.description, name
    opened = [name for name in dag.params if not dag.params.get_param(name).schema.get("section")]
    assert opened[:3] == ["requests", "feedback", "min_rows"] and "method" in opened and "champion" in opened


def test_every_component_takes_the_arguments_that_the_parameters_become(dag, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", '{"conn_type": "mlflow", "host": "mlflow"}')
    source = {"requests": "s3://logs/day={partition}/", "feedback": "/f/{partition}.jsonl"}
    assert rendered(dag, "fetch_requests", **source).arguments() == {"source": "s3://logs/day=2026-11-25/"}
    assert rendered(dag, "fetch_feedback", **source).arguments() == {"source": "/f/2026-11-25.jsonl"}
    assert rendered(dag, "collect_feedback", up_from=4, down_to=2).arguments() == {
        "requests": "/fetch_requests/dataset",
        "feedback": "/fetch_feedback/dataset",
        "on_conflict": "majority",
        "raters": "numbered",
        "up_from": 4,
        "down_to": 2,
        "names": ["requests-2026-11-25", "feedback-2026-11-25"],
    }
    moved = {("register_model", "return_value"): {"details": {"version": "7"}}}
    alias = rendered(dag, "set_champion", pulled=moved, champion="best").arguments()
    assert (alias["model_version"], alias["alias"], alias["model_name"]) == ("7", "best", "stdlib-helper")


@pytest.mark.parametrize(("method", "kind"), KINDS.items())
def test_method_chooses_the_rows_that_are_compared_prepared_and_learnt_from(dag, method, kind):
    assert rendered(dag, "monitor", method=method).dataset == f"/collect_feedback/{kind}"
    prepare = rendered(dag, "prepare", method=method)
    assert (prepare.dataset, prepare.names) == (f"/collect_feedback/{kind}", [f"{kind}-2026-11-25"])
    validate = "validate_train" if method == "sft" else "validate_preferences"
    assert rendered(dag, validate, method=method).dataset == "/prepare/prepared"
    with pytest.raises(AirflowSkipException, match="No reference is given"):
        dag.get_task("monitor")._pre_execute_hook(context_of(dag))
    dag.get_task("monitor")._pre_execute_hook(context_of(dag, reference="/r"))
    compared = rendered(dag, "monitor", reference="/r", compared_rows=50)
    assert (compared.reference, compared.min_rows) == ("/r", 50)
    # Evaluation data alone may be a sample.
    sample = rendered(dag, "prepare_data", method=method)
    assert sample.only == ["evaluation"]
    with pytest.raises(AirflowSkipException):
        dag.get_task("prepare_data")._pre_execute_hook(context_of(dag, method=method, evaluation_data="/e"))


@pytest.mark.parametrize("rows", [49, 50])
def test_too_few_rows_train_nothing_and_are_told(dag, rows, caplog):
    metrics = {"preferences_rows": rows, "unpaired_rows": 900, "feedback": 70, "used_feedback": 60}
    context = context_of(dag, pulled={("collect_feedback", "metrics"): metrics})
    with caplog.at_level(logging.INFO):
        assert dag.get_task("enough").python_callable(**context) is (rows == 50)
    assert f"{rows} rows of preferences, of 60 of 70 lines of feedback" in caplog.text


def test_champion_is_trained_where_there_is_one_and_the_base_model_otherwise(dag):
    champion = {
        ("fetch_champion", "return_value"): {"details": {"version": "3"}},
        ("import_base_model", "return_value"): None,
    }
    none = {("fetch_champion", "return_value"): {"details": {"version": None}}}
    start = dag.get_task("start_model").python_callable
    assert start(**context_of(dag, pulled=champion)) == {"model": "/fetch_champion/model"}
    assert start(**context_of(dag, pulled=none)) == {"model": "/import_base_model/model"}
    for task_id in ("train_sft", "train_dpo", "train_kto", "evaluate_base", "serve_base"):
        field = "base_model" if task_id.startswith("train_") else "model"
        assert getattr(rendered(dag, task_id), field) == "/start_model/model"
    skip = dag.get_task("import_base_model")._pre_execute_hook
    with pytest.raises(AirflowSkipException, match="Version 3, the champion, is trained"):
        skip(context_of(dag, pulled=champion))
    skip(context_of(dag, pulled=none))
    made_by = dag.get_task("register_model").made_by(context_of(dag, pulled=champion))
    assert made_by[2] == {"details": {"version": "3"}}
    # What takes the output of a task that is skipped fails in Airflow, whatever its rule.
    may_be_skipped = {"monitor", "prepare_data", "fetch_champion", "import_base_model", "approve"}
    assert dag.get_task("start_model").trigger_rule.value == "none_failed_min_one_success"
    for task in dag.tasks:
        if may_be_skipped & task.upstream_task_ids and task.task_id not in (
            "evaluate_champion",
            "start_model",
        ):
            assert task.trigger_rule.value.startswith("none_failed"), task.task_id
            taken = {each.task_id for each, _ in XComArg.iter_xcom_references(task)}
            assert not may_be_skipped & taken, task.task_id


@pytest.mark.parametrize(
    "conf",
    [{"method": "rlhf"}, {"requests": "here"}, {"champion": "latest"}, {"partition": "a/b"}, {"min_rows": 0}],
)
def test_form_refuses_what_makes_no_sense(dag, conf):
    with pytest.raises(ParamValidationError):
        context_of(dag, **conf)


def test_first_task_refuses_what_could_not_run(dag):
    check = dag.get_task("check_feedback").python_callable
    check(**context_of(dag))
    with pytest.raises(ConfigurationError, match="cannot be part of an address"):
        check(**context_of(dag, key="a/b"))
    with pytest.raises(ConfigurationError, match="canary_steps must rise"):
        check(**context_of(dag, canary_steps=[50, 20]))
    context = context_of(dag)
    context["dag_run"].conf = {"min_row": 3}
    with pytest.raises(ConfigurationError, match="min_rows"):
        check(**context)


def test_group_refuses_data_that_it_does_not_know():
    with pytest.raises(ConfigurationError, match="evaluation"):
        post_training_group(data={"evaluation": "/e"})
