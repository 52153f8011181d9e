"""The example DAG without a run: which tasks a method chooses, and what its parameters are when they reach an operator."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import pytest
from airflow.sdk.definitions.param import process_params
from airflow.sdk.exceptions import ParamValidationError
from planes import REPO

from airflow_provider_llmops.operators.component import ComponentOperator

STAGES = {
    ("sft", "grpo"): ["train_sft"],
    ("dpo", "grpo"): ["train_dpo"],
    ("kto", "grpo"): ["train_kto"],
    ("rlhf", "grpo"): ["train_sft", "train_reward", "train_grpo"],
    ("rlhf", "rloo"): ["train_sft", "train_reward", "train_rloo"],
}


@pytest.fixture
def dag():
    """The DAG as a worker reads it; Airflow notes a run's parameters in it."""
    spec = importlib.util.spec_from_file_location("post_training", REPO / "dags" / "post_training.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.dag


@pytest.fixture
def rendered(dag, monkeypatch):
    """A task as it is in a run with given parameters, after tasks that have pushed what such tasks push."""
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": "mlflow"}))

    def xcom_pull(task_ids, key="return_value", **_):
        values = {
            "return_value": {
                "component_digest": f"sha256:{task_ids}",
                "artifacts": {"model": {"uri": f"/{task_ids}", "digest": "sha256:0"}},
            },
            "metrics": {"rougeL": 0.5, "rougeL_improvement": 0.1},
            "tags": {"component.train_sft": "sha256:1"},
        }
        return values.get(key, f"/{task_ids}/{key}")

    def render(task_id, **conf):
        task = dag.get_task(task_id).prepare_for_execution()
        ti = SimpleNamespace(xcom_pull=xcom_pull, dag_id=dag.dag_id, run_id="r", task_id=task_id)
        params = process_params(dag, task, conf, suppress_exception=False)
        task.render_template_fields({"task": task, "ti": ti, "params": params})
        return task

    return render


@pytest.mark.parametrize("written", ["1.0", "12e4567", "0x10", "2024", "None", "[]", "{{ ds }}"])
def test_parameters_that_are_text_stay_what_was_written(rendered, written):
    imported = rendered("import_base_model", base_model=written, revision=written)
    assert (imported.source, imported.revision) == (written, written)
    registered = rendered("register_model", revision=written, model_name="e5")
    assert registered.arguments()["name"] == "e5"
    assert registered.arguments()["params"]["revision"] == written


def test_no_revision_is_none_and_the_model_has_one_name_everywhere(rendered):
    assert rendered("import_base_model").revision is None
    names = {
        "register_model": "model_name",
        "deploy_model": "service_name",
        "smoke_test": "model_name",
    }
    assert {getattr(rendered(task, model_name="e5"), name) for task, name in names.items()} == {"e5"}


@pytest.mark.parametrize("name", ["2024", "1e5", "-a", "a-", "A", "a.b", "a" * 64])
def test_name_that_is_none_of_a_service_is_refused(rendered, name):
    with pytest.raises(ParamValidationError):
        rendered("register_model", model_name=name)


@pytest.mark.parametrize(("method", "algorithm"), STAGES)
def test_method_and_algorithm_choose_the_tasks_that_train(dag, method, algorithm):
    params = {"method": method, "algorithm": algorithm}
    stages = STAGES[method, algorithm]

    def choice(branch: str) -> str:
        chosen = dag.get_task(branch).python_callable(params=params)
        assert chosen in dag.get_task(branch).downstream_task_ids
        return chosen

    assert choice("choose_method") == stages[0]
    if stages[0] == "train_sft":
        assert choice("choose_reinforcement") == (stages[1:] or ["tuned_model"])[0]
    if len(stages) > 2:
        assert choice("choose_algorithm") == stages[2]
    ti = SimpleNamespace(
        xcom_pull=lambda task_id: {
            "component_digest": f"sha256:{task_id}",
            "artifacts": {"model": {"uri": f"/{task_id}", "digest": f"sha256:model of {task_id}"}},
        }
    )
    assert dag.get_task("tuned_model").python_callable(params=params, ti=ti) == {
        "model": f"/{stages[-1]}",
        "digest": f"sha256:model of {stages[-1]}",
        "tags": {f"component.{stage}": f"sha256:{stage}" for stage in stages},
    }


@pytest.mark.parametrize(("method", "algorithm"), STAGES)
def test_every_component_takes_the_arguments_that_the_parameters_become(dag, rendered, method, algorithm):
    conf = {"method": method, "algorithm": algorithm, "lora_rank": 4, "rl_learning_rate": 1e-5}
    arguments = {}
    for task_id in dag.task_ids:
        task = rendered(task_id, **conf)
        if isinstance(task, ComponentOperator):
            arguments[task_id] = task.arguments()
            task.spec().bind(arguments[task_id])
    for stage in STAGES[method, algorithm]:
        assert arguments[stage]["peft_args"] == {"r": 4, "lora_alpha": 8}
        assert arguments[stage]["base_model"] == (
            "/train_sft/model"
            if stage in ("train_reward", "train_grpo", "train_rloo")
            else "/import_base_model/model"
        )
    assert arguments[f"train_{algorithm}"]["training_args"] == {
        "max_steps": 10,
        "learning_rate": 1e-5,
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 48,
    }
    learned_from = "validate_preferences" if method in ("dpo", "kto") else "validate_train"
    assert arguments["register_model"]["dataset"] == f"/{learned_from}/validated"
