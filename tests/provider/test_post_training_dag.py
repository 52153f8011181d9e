"""The example DAG without a run: which tasks a method chooses, and what its parameters are when they reach an operator."""

from __future__ import annotations

import importlib.util
import json
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace

import pytest
from airflow.sdk.definitions.param import process_params
from airflow.sdk.exceptions import AirflowSkipException, ParamValidationError
from planes import REPO

from airflow_provider_llmops.exceptions import ConfigurationError, RunNotFoundError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.operators.component import ComponentOperator

STAGES = {
    ("sft", "grpo"): ["train_sft"],
    ("dpo", "grpo"): ["train_dpo"],
    ("kto", "grpo"): ["train_kto"],
    ("rlhf", "grpo"): ["train_sft", "train_reward", "train_grpo"],
    ("rlhf", "rloo"): ["train_sft", "train_reward", "train_rloo"],
}
AFTER_APPROVAL = {"register_model", "serve_base", "deploy_model", "smoke_test"}


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

    def xcom_pull(task_ids, key="return_value", champion=None, **_):
        values = {
            "return_value": {
                "component": task_ids,
                "component_digest": f"sha256:{task_ids}",
                "artifacts": {"model": {"uri": f"/{task_ids}", "digest": "sha256:0"}},
                "findings": ["rougeL is better."],
                "baseline": "the base model",
                "details": {"version": champion},
            },
            "metrics": {"rougeL": 0.5, "accepted_rows": 12},
            "comparison": {"metrics": {"rougeL": {"candidate": 0.5}}},
        }
        return values.get(key, f"/{task_ids}/{key}")

    def render(task_id, found=None, **conf):
        task = dag.get_task(task_id).prepare_for_execution()
        pull = partial(xcom_pull, champion=found)
        ti = SimpleNamespace(xcom_pull=pull, dag_id=dag.dag_id, run_id="r", task_id=task_id)
        params = process_params(dag, task, conf, suppress_exception=False)
        task.render_template_fields({"task": task, "ti": ti, "params": params})
        return task

    return render


@pytest.mark.parametrize("written", ["1.0", "12e4567", "0x10", "2024", "None", "[]", "{{ ds }}"])
def test_parameters_that_are_text_stay_what_was_written(rendered, written):
    imported = rendered("import_base_model", base_model=written, revision=written)
    assert (imported.source, imported.revision) == (written, written)
    registered = rendered("register_model", revision=written, model_name="e5")
    assert registered.arguments()["model_name"] == "e5"
    assert registered.arguments()["params_to_log"]["revision"] == written


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


def wanted(dag, task_id: str, params: dict) -> bool:
    """Whether the task lets itself be run with these parameters."""
    try:
        dag.get_task(task_id)._pre_execute_hook({"params": params})
    except AirflowSkipException as skipped:
        assert params["method"] in str(skipped)
        return False
    return True


GIVEN = {
    "train_data": "/d/train",
    "preference_data": "s3://d/preferences",
    "evaluation_data": "/d/evaluation",
}
NEEDED = {
    "sft": ["validate_train", "validate_evaluation"],
    "dpo": ["validate_preferences", "validate_evaluation"],
    "kto": ["validate_preferences", "validate_evaluation"],
    "rlhf": ["validate_train", "validate_preferences", "validate_evaluation"],
}
VALIDATIONS = {
    "validate_train": ("train_data", "train"),
    "validate_preferences": ("preference_data", "preferences"),
    "validate_evaluation": ("evaluation_data", "evaluation"),
}


@pytest.mark.parametrize("given", [(), ("train_data",), ("preference_data", "evaluation_data"), tuple(GIVEN)])
@pytest.mark.parametrize("method", NEEDED)
def test_only_data_that_the_method_needs_are_validated_and_only_missing_ones_are_made(
    dag, rendered, method, given
):
    conf = {"method": method, **{name: GIVEN[name] for name in given}}
    params = {**dict.fromkeys(GIVEN), **conf}
    needed = [task_id for task_id in VALIDATIONS if wanted(dag, task_id, params)]
    assert needed == NEEDED[method]

    made = [VALIDATIONS[task_id][1] for task_id in needed if not params[VALIDATIONS[task_id][0]]]
    assert rendered("prepare_data", **conf).arguments() == {
        "train_rows": 320,
        "preference_rows": 160,
        "evaluation_rows": 48,
        "seed": 0,
        "only": made,
    }
    assert wanted(dag, "prepare_data", params) == bool(made)
    for task_id in needed:
        data, sample = VALIDATIONS[task_id]
        assert rendered(task_id, **conf).dataset == (params[data] or f"/prepare_data/{sample}")


@pytest.mark.parametrize(
    ("method", "formats"),
    [
        ("sft", {"validate_train": "prompt_completion, language_modeling"}),
        ("dpo", {"validate_preferences": "preference"}),
        ("kto", {"validate_preferences": "preference, unpaired_preference"}),
        ("rlhf", {"validate_train": "prompt_completion", "validate_preferences": "preference"}),
    ],
)
def test_data_are_validated_against_what_the_method_can_use(rendered, method, formats):
    formats = {**formats, "validate_evaluation": "evaluation"}
    assert {task_id: rendered(task_id, method=method).dataset_format for task_id in formats} == formats


@pytest.mark.parametrize("address", ["data.jsonl", "", "file", "~/data.jsonl"])
def test_address_that_is_none_is_refused_at_the_door(rendered, address):
    with pytest.raises(ParamValidationError, match="train_data"):
        rendered("validate_train", train_data=address)


def test_tasks_are_in_groups_and_keep_short_names(dag):
    members = dict(dag.task_group.children)
    for task_id in ("check_settings", "run_cost"):
        assert members.pop(task_id).task_id == task_id
    groups = {group_id: set(group.children) for group_id, group in members.items()}
    assert groups == {
        "data": {"prepare_data", "validate_train", "validate_preferences", "validate_evaluation"},
        "training": {
            "import_base_model",
            "tuned_model",
            *(f"train_{name}" for name in ("sft", "dpo", "kto", "reward", "grpo", "rloo")),
        },
        "evaluation": {
            "fetch_champion",
            "evaluate_champion",
            "evaluate_base",
            "evaluate_tuned",
            "quality_gate",
            "approve",
        },
        "delivery": {"register_model", "serve_base", "deploy_model", "smoke_test"},
    }


@pytest.mark.parametrize(("rows", "needed"), [(16, 12), (5, 5)])
def test_canary_answers_questions_of_the_evaluation_as_it_has_put_them(rendered, rows, needed):
    plan = rendered(
        "deploy_model", canary_rows=rows, canary_steps=[10], metric="bleu", canary_margin=-2
    ).plan()
    assert (plan.shares, plan.limits.min_requests) == ((10,), needed)
    asked = plan.probes
    assert (asked.dataset, asked.metric, asked.min_difference) == (
        "/validate_evaluation/validated",
        "bleu",
        -2,
    )
    assert (asked.arguments["protocol"], asked.arguments["max_rows"]) == ("openai", rows)


def test_canary_without_questions_waits_for_users_and_one_without_steps_is_none(rendered):
    plan = rendered("deploy_model", canary_rows=0, max_latency_ratio=None).plan()
    assert (plan.shares, plan.probes, plan.limits.min_requests) == ((20, 50), None, 50)
    assert plan.limits.max_latency_ratio is None
    task = rendered("deploy_model", canary_steps=[])
    assert (task.plan().shares, task.plan().probes, task.starts_beside) == ((), None, False)


def test_a_person_is_asked_where_the_form_says_so(dag, rendered):
    task = rendered("approve", approval=True, model_name="chat")
    assert task.subject == "Is the tuned model to be registered as chat, and served?"
    assert "(/evaluate_tuned/report_url)" in task.body
    assert task.body.endswith("Compared with the base model. The gate: rougeL is better.")
    assert (task.defaults, task.response_timeout.days) == (["Reject"], 3)
    asked = {"params": {"approval": True}}
    task._pre_execute_hook(asked)
    with pytest.raises(AirflowSkipException, match="Not asked for"):
        task._pre_execute_hook({"params": {"approval": False}})


def runs(dag, task_id: str, found: str | None, **params) -> bool:
    """Whether a task lets itself be run after the look for a champion."""
    details = None if found is None else {"details": {"version": found}}
    ti = SimpleNamespace(xcom_pull=lambda task_id: details)
    try:
        dag.get_task(task_id)._pre_execute_hook({"params": params, "ti": ti})
    except AirflowSkipException as skipped:
        assert str(skipped) in (
            "Not asked for.",
            "The tuned model is compared with version 3, the champion.",
        )
        return False
    return True


def test_champion_is_looked_for_where_the_form_says_so_and_takes_the_place_of_the_base_model(dag, rendered):
    assert not runs(dag, "fetch_champion", None, champion=None)
    assert runs(dag, "fetch_champion", None, champion="production")
    asked = rendered("fetch_champion", champion="production", model_name="chat").arguments()
    assert {name: asked[name] for name in ("model_name", "alias", "required")} == {
        "model_name": "chat",
        "alias": "production",
        "required": False,
    }
    assert rendered("evaluate_champion").model == "/fetch_champion/model"
    # Where nothing has the alias, the task that looks for it is skipped, and so is the champion's evaluation.
    for found, baseline in ((None, "base"), ("3", "champion")):
        assert runs(dag, "evaluate_base", found) == (found is None)
        tuned = rendered("evaluate_tuned", found=found, champion="production")
        assert tuned.baseline_scores == f"/evaluate_{baseline}/scores"
    told = [
        rendered("quality_gate", found=found, champion="production", model_name="chat").baseline
        for found in (None, "3")
    ]
    assert told == ["the base model", "chat version 3, which had the alias production"]


def test_gate_holds_the_tuned_model_to_a_floor_where_there_is_one(rendered):
    better = {"metric": "bleu", "better_by": 1}
    assert rendered("quality_gate", metric="bleu", min_improvement=1).rules == [better]
    floor = rendered("quality_gate", metric="bleu", min_improvement=1, min_score=0)
    assert floor.rules == [better, {"metric": "bleu", "at_least": 0}]


@pytest.mark.parametrize("alias", ["latest", "v3", "my alias", ""])
def test_alias_that_mlflow_does_not_take_is_refused_at_the_door(rendered, alias):
    with pytest.raises(ParamValidationError, match="champion"):
        rendered("fetch_champion", champion=alias)


@pytest.mark.parametrize(("answer", "skipped"), [("Approve", set()), ("Reject", AFTER_APPROVAL)])
def test_who_rejects_has_all_skipped_that_follows(dag, monkeypatch, answer, skipped):
    task, seen = dag.get_task("approve"), set()
    monkeypatch.setattr(task, "skip", lambda ti, tasks: seen.update(each.task_id for each in tasks))
    event = {
        "chosen_options": [answer],
        "params_input": {},
        "responded_at": datetime.now(tz=UTC),
        "responded_by_user": {"id": "1", "name": "Ada"},
    }
    task.execute_complete({"ti": SimpleNamespace(), "task": task}, event)
    assert seen == skipped


class Backend:
    """Where one service may be."""

    def __init__(self, service):
        self.service = service

    def get(self, namespace, name):
        assert (namespace, name) == ("default", "stdlib-helper")
        if self.service is None:
            raise RunNotFoundError("There is none.")
        return self.service


@pytest.mark.parametrize(
    ("given", "run_type", "service", "reason"),
    [
        ({}, "manual", None, None),
        ({}, "manual", SimpleNamespace(is_serving=False), None),
        ({}, "manual", SimpleNamespace(is_serving=True, stable="00003"), "00003 serves"),
        ({}, "backfill", None, "A backfill leaves"),
        ({"serve_base": False}, "manual", None, "Not asked for"),
        ({"canary_steps": []}, "manual", None, "Not asked for"),
    ],
)
def test_base_model_is_served_where_nothing_serves(dag, monkeypatch, given, run_type, service, reason):
    monkeypatch.setattr(KServeHook, "backend", Backend(service))
    params = {"serve_base": True, "canary_steps": [50], "namespace": "default", "model_name": "stdlib-helper"}
    context = {"params": {**params, **given}, "dag_run": SimpleNamespace(run_type=run_type)}
    hook = dag.get_task("serve_base")._pre_execute_hook
    if reason is None:
        assert hook(context) is None
    else:
        with pytest.raises(AirflowSkipException, match=reason):
            hook(context)


def test_skipped_data_skip_no_task_that_is_needed(dag):
    """Tasks below one that may be skipped while they are needed themselves."""
    rules = {task.task_id: task.trigger_rule.value for task in dag.tasks}
    rules = {task_id: rule for task_id, rule in rules.items() if rule != "all_success"}
    assert rules == {
        "validate_train": "none_failed",
        "validate_preferences": "none_failed",
        "validate_evaluation": "none_failed",
        "tuned_model": "none_failed_min_one_success",
        "evaluate_base": "none_failed",
        "evaluate_tuned": "none_failed",
        "register_model": "none_failed_min_one_success",
        "deploy_model": "none_failed",
        "run_cost": "all_done_setup_success",
    }
    assert dag.get_task("check_settings").upstream_task_ids == set()
    assert dag.get_task("check_settings").get_flat_relative_ids() == set(dag.task_ids) - {"check_settings"}


def test_what_a_user_must_look_at_is_in_the_section_that_the_form_opens(dag):
    """Airflow's form opens the parameters without a section; all others are closed, one click each."""
    sections = {name: dag.params.get_param(name).schema.get("section") for name in dag.params}
    assert [name for name, section in sections.items() if section is None] == [
        "base_model",
        "model_name",
        "method",
        "train_data",
        "preference_data",
        "evaluation_data",
        "max_steps",
        "min_improvement",
        "metric",
        "champion",
        "min_score",
    ]
    assert set(sections.values()) == {None, "Training", "Reinforcement learning", "Sample data", "Serving"}


def check_settings(dag, conf: dict) -> None:
    task = dag.get_task("check_settings")
    params = process_params(dag, task, conf, suppress_exception=False)
    run = SimpleNamespace(conf=conf, dag_id=dag.dag_id)
    task.python_callable(dag=dag, dag_run=run, params=params)


def test_steps_that_do_not_rise_are_refused_before_anything_is_trained(dag):
    with pytest.raises(ConfigurationError, match=r"canary_steps must rise, got \[50, 20\]"):
        check_settings(dag, {"canary_steps": [50, 20]})


def test_unknown_setting_is_refused_with_the_nearest_name(dag):
    with pytest.raises(ConfigurationError) as refused:
        check_settings(dag, {"max_step": 3, "method": "sft"})
    assert str(refused.value).startswith(
        "Unknown in the conf of this run: 'max_step' (did you mean 'max_steps'?). Parameters of post_training: algorithm, "
    )


def test_first_task_says_which_data_a_run_takes(dag, caplog):
    caplog.set_level("INFO")
    check_settings(dag, {"method": "rlhf", "train_data": "/d/train"})
    said = [record.getMessage() for record in caplog.records if record.name.endswith(".post_training")]
    assert said[:3] == ["train data: /d/train", "preference data: a sample", "evaluation data: a sample"]
    assert "Give evaluation_data." in said[3]


@pytest.mark.parametrize(("method", "algorithm"), STAGES)
def test_method_and_algorithm_choose_the_tasks_that_train(dag, method, algorithm):
    params = {"method": method, "algorithm": algorithm}
    stages = STAGES[method, algorithm]
    trainers = sorted(task_id for task_id in dag.task_ids if task_id.startswith("train_"))
    assert [task_id for task_id in trainers if wanted(dag, task_id, params)] == sorted(stages)
    ti = SimpleNamespace(
        xcom_pull=lambda task_id: {
            "component_digest": f"sha256:{task_id}",
            "artifacts": {"model": {"uri": f"/{task_id}", "digest": f"sha256:model of {task_id}"}},
        }
    )
    assert dag.get_task("tuned_model").python_callable(params=params, ti=ti) == {
        "model": f"/{stages[-1]}",
        "digest": f"sha256:model of {stages[-1]}",
    }
    made = dag.get_task("register_model").made_by({"ti": SimpleNamespace(xcom_pull=str), "params": params})
    assert made == ["validate_train", "validate_preferences", "import_base_model", *stages, "evaluate_tuned"]


def test_version_says_who_has_approved_of_it(dag):
    def tags(answer):
        return dag.get_task("register_model").tags({"ti": SimpleNamespace(xcom_pull=lambda task_id: answer)})

    assert tags({"responded_by_user": {"id": "7", "name": "ada"}}) == {"llmops.decision.approved_by": "ada"}
    assert tags({"responded_by_user": None}) == tags(None) == {}  # the time was up, or nobody was asked


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
