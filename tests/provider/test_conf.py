"""The conf of a run: keys that the DAG does not take are refused, whatever DAG it is."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG, Param, task
from planes import REPO

from airflow_provider_llmops.conf import check_conf
from airflow_provider_llmops.exceptions import ConfigurationError


def context(conf: dict | None, **params: object) -> dict:
    with DAG("tune", schedule=None, params=params) as dag:

        @task(params={"of_a_task": 1})
        def first() -> None: ...

        first()
    return {"dag": dag, "dag_run": SimpleNamespace(conf=conf, dag_id="tune")}


@pytest.mark.parametrize("conf", [None, {}, {"max_steps": 3}, {"max_steps": 3, "of_a_task": 2}])
def test_conf_of_known_names_passes(conf):
    check_conf(context(conf, max_steps=Param(1, type="integer"), method="sft"))


def test_every_unknown_name_is_named_with_the_nearest_one_and_what_there_is():
    with pytest.raises(ConfigurationError) as refused:
        check_conf(context({"max_step": 3, "zzz": 1, "method": "dpo"}, max_steps=1, method="sft"))
    assert str(refused.value) == (
        "Unknown in the conf of this run: 'max_step' (did you mean 'max_steps'?), 'zzz'. "
        "Parameters of tune: max_steps, method, of_a_task. "
        "Nothing has been started; trigger the DAG again with the right names."
    )


def test_keys_that_airflow_itself_puts_there_are_allowed():
    check_conf(context({"openlineage": {"parentRunId": "1"}, "method": "dpo"}, method="sft"))


def test_keys_that_a_dag_reads_by_itself_are_allowed_by_name():
    check_conf(context({"ticket": "A-1", "method": "dpo"}, method="sft"), also=["ticket"])
    with pytest.raises(ConfigurationError, match=r"'tickets' \(did you mean 'ticket'\?\)"):
        check_conf(context({"tickets": "A-1"}), also=["ticket"])


@pytest.mark.parametrize(
    ("setting", "pool"), [(None, "default_pool"), ("", "default_pool"), (" ", "default_pool"), ("gpu", "gpu")]
)
def test_tasks_that_train_or_answer_are_in_the_pool_that_airflows_configuration_names(
    monkeypatch, setting, pool
):
    if setting is None:
        monkeypatch.delenv("AIRFLOW__LLMOPS__GPU_POOL", raising=False)
    else:
        monkeypatch.setenv("AIRFLOW__LLMOPS__GPU_POOL", setting)
    found = {}
    for name in ("post_training", "sweep"):
        spec = importlib.util.spec_from_file_location(name, REPO / "dags" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[name] = {task.task_id: task.pool for task in module.dag.tasks if task.pool != "default_pool"}
    trainings = [f"train_{method}" for method in ("sft", "dpo", "kto", "reward", "grpo", "rloo")]
    heavy = {
        "post_training": [*trainings, "evaluate_champion", "evaluate_base", "evaluate_tuned"],
        "sweep": ["train", "evaluate_base", "evaluate"],
    }
    expected = {name: dict.fromkeys(tasks, pool) for name, tasks in heavy.items()}
    assert found == (expected if pool != "default_pool" else {"post_training": {}, "sweep": {}})
