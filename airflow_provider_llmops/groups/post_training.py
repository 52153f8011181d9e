"""From a base model to a served, better one: the tasks of the DAG `post_training`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Asset, TaskGroup, task

from airflow_provider_llmops.assets import evaluation_asset, of_this_run
from airflow_provider_llmops.conf import check_conf, given, gpu_pool
from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown
from airflow_provider_llmops.groups.announced import Announced, delivered_by_this_run
from airflow_provider_llmops.groups.choices import (
    SAMPLES,
    approved_by,
    baseline_scores,
    check_steps,
    compared_with,
    data_made,
    data_needed,
    made_by,
    only_if,
    only_where_nothing_serves,
    only_with,
    only_without_champion,
    only_without_start,
    probes,
    requests_of_a_step,
    rules,
    stages,
    start_of,
    trainer,
    validation,
)
from airflow_provider_llmops.groups.grouping import grouped
from airflow_provider_llmops.operators.canary import CanaryOperator
from airflow_provider_llmops.operators.data import PrepareSampleDataOperator, ValidateDatasetOperator
from airflow_provider_llmops.operators.evaluation import EvaluateModelOperator, QualityGateOperator
from airflow_provider_llmops.operators.registry import FetchModelOperator, RegisterModelOperator
from airflow_provider_llmops.operators.serving import AskModelOperator, DeployModelOperator
from airflow_provider_llmops.operators.training import (
    ImportBaseModelOperator,
    TrainDPOOperator,
    TrainGRPOOperator,
    TrainKTOOperator,
    TrainRewardOperator,
    TrainRLOOOperator,
    TrainSFTOperator,
)

__all__ = ["post_training_group"]

log = logging.getLogger(__name__)

PARAMETERS = (
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
    "namespace",
    "approval",
    "serve_base",
    "canary_steps",
    "step_seconds",
    "canary_rows",
    "canary_margin",
    "max_latency_ratio",
    "revision",
    "learning_rate",
    "preference_learning_rate",
    "lora_rank",
    "algorithm",
    "reward_steps",
    "rl_steps",
    "rl_learning_rate",
    "generations",
    "max_completion_length",
    "train_rows",
    "preference_rows",
    "evaluation_rows",
    "seed",
)
"""Names of the parameters that the tasks read."""


OF_REINFORCEMENT = (
    "algorithm",
    "reward_steps",
    "rl_steps",
    "rl_learning_rate",
    "generations",
    "max_completion_length",
)
"""Those that only the method ``rlhf`` reads."""
HANDED_ON = ("train", "preference")


def post_training_group(
    group_id: str | None = "post_training",
    *,
    data: Mapping[str, Any] | None = None,
    from_champion: bool = False,
    reinforcement: bool = True,
    model_name: str | None = None,
    namespace: str = "default",
    dataset: Asset | None = None,
) -> TaskGroup | None:
    """Validate data, train, evaluate, hold to the gate, register, and bring in as a canary, as the DAG `post_training` does.

    The tasks read their settings from the parameters of the DAG's run, which has to have all of :data:`PARAMETERS`, and
    ``render_template_as_native_obj=True``: see ``dags/post_training.py``, whose form has them with their limits. Tasks have the same
    ids in any group, so a DAG has the group once. What comes before or after is joined with the group that is returned.

    :param group_id: name of the group; ``None`` puts the tasks into the DAG, or the group, that it is called in, and returns ``None``
    :param data: rows that tasks of the DAG have made, as ``{"train": ..., "preference": ...}``, each a task's output, in place of the
        parameters ``train_data``, ``train_rows``, ``preference_data`` and ``preference_rows``, which the DAG need not have then
    :param from_champion: whether the version that has the champion's alias is trained, where there is one, in place of the base model
    :param reinforcement: whether there are tasks for the method ``rlhf``; without them the DAG need not have :data:`OF_REINFORCEMENT`
    :param model_name: name of model, evaluation and service in the assets that the tasks tell, which is the default of the parameter
        ``model_name``, mostly; without it they tell none
    :param namespace: of the service in its asset
    :param dataset: the asset that the trainings read, such as ``dataset_asset("chats")``; the sample data where neither it nor ``data`` is given
    :raises ConfigurationError: ``data`` has a name that is none
    """
    handed_on = dict(data or {})
    if unknown := describe_unknown(handed_on, HANDED_ON):
        raise ConfigurationError(
            f"Unknown in data of post_training_group: {unknown}. There are {' and '.join(HANDED_ON)}."
        )
    assets = Announced.of(model_name, namespace, dataset, has_rows=bool(handed_on))
    return grouped(group_id, partial(_tasks, handed_on, from_champion, reinforcement, assets))


def _tasks(handed_on: Mapping[str, Any], from_champion: bool, reinforcement: bool, assets: Announced) -> None:
    learning: dict[str, Any] = {"inlets": assets.data}
    preference_args = {
        "max_steps": "{{ params.max_steps }}",
        "learning_rate": "{{ params.preference_learning_rate }}",
    }

    @task
    def check_settings(**context: Any) -> None:
        """Refuses what the DAG does not take, and says which data it takes."""
        check_conf(context)
        params = context["params"]
        check_steps(params)
        if params["method"] == "rlhf" and not reinforcement:
            raise ConfigurationError(
                "method is rlhf, for which this DAG has no tasks. Choose sft, dpo or kto."
            )
        made = data_made(params, handed_on)
        for name in data_needed(params):
            told = "of this run" if name in handed_on else params[f"{name}_data"]
            log.info("%s data: %s", name, "a sample" if name in made else told)
        if "evaluation" in made and set(made) != set(data_needed(params)):
            log.warning(
                "The model learns from data of your own and is evaluated on a sample of something else: the gate will "
                "compare what it was not trained for. Give evaluation_data."
            )

    with TaskGroup("data", prefix_group_id=False, tooltip="Given or made, and validated"):
        prepare_data = PrepareSampleDataOperator(
            task_id="prepare_data",
            **{f"{name}_rows": f"{{{{ params.{name}_rows }}}}" for name in SAMPLES if name not in handed_on},
            seed="{{ params.seed }}",
            only=lambda context, **_: [SAMPLES[name] for name in data_made(context["params"], handed_on)],
            pre_execute=only_if(lambda params: data_made(params, handed_on)),
            outlets=assets.samples,
        )
        validate_train = ValidateDatasetOperator(
            task_id="validate_train",
            dataset_format="prompt_completion{{ ', language_modeling' if params.method == 'sft' else '' }}",
            **validation("train", handed_on),
        )
        validate_preferences = ValidateDatasetOperator(
            task_id="validate_preferences",
            dataset_format="preference{{ ', unpaired_preference' if params.method == 'kto' else '' }}",
            **validation("preference", handed_on),
        )
        validate_evaluation = ValidateDatasetOperator(
            task_id="validate_evaluation",
            dataset_format="evaluation",
            **validation("evaluation", handed_on),
        )

    with TaskGroup("training", prefix_group_id=False, tooltip="From the base model to the tuned one"):
        import_base_model = ImportBaseModelOperator(
            task_id="import_base_model",
            source=given("base_model"),
            revision=given("revision"),
            execution_timeout=timedelta(hours=2),
            pre_execute=only_without_start if from_champion else None,
            trigger_rule="none_failed"
            if from_champion
            else "all_success",  # mostly there is no champion at first
        )
        start = import_base_model.output["model"]
        if from_champion:

            @task(multiple_outputs=True, trigger_rule="none_failed_min_one_success")
            def start_model(**context: Any) -> dict[str, Any]:
                """The model that is trained: the champion, or the base model where there is none."""
                return {"model": start_of(context)}

            start = start_model()["model"]

        train_sft = TrainSFTOperator(
            **trainer("train_sft"),
            **learning,
            dataset=validate_train.output["validated"],
            base_model=start,
            training_args={
                "max_steps": "{{ params.max_steps }}",
                "learning_rate": "{{ params.learning_rate }}",
            },
        )
        train_dpo = TrainDPOOperator(
            **trainer("train_dpo"),
            **learning,
            dataset=validate_preferences.output["validated"],
            base_model=start,
            training_args=preference_args,
        )
        train_kto = TrainKTOOperator(
            **trainer("train_kto"),
            **learning,
            dataset=validate_preferences.output["validated"],
            base_model=start,
            training_args=preference_args,
        )
        trainings = [train_sft, train_dpo, train_kto]
        if reinforcement:
            trainings += _reinforcement(
                validate_preferences, validate_train, train_sft, preference_args, learning
            )

        @task(multiple_outputs=True, trigger_rule="none_failed_min_one_success")
        def tuned_model(**context: Any) -> dict[str, Any]:
            """The model of the last stage."""
            model = context["ti"].xcom_pull(stages(context["params"])[-1])["artifacts"]["model"]
            return {"model": model["uri"], "digest": model["digest"]}

        tuned = tuned_model()

    with TaskGroup(
        "evaluation", prefix_group_id=False, tooltip="Tuned model beside the champion or the base model"
    ):
        fetch_champion = FetchModelOperator(
            task_id="fetch_champion",
            model_name=given("model_name"),
            alias=given("champion"),
            required=False,  # before the first registration there is none
            pre_execute=only_with("champion"),
        )
        evaluate_champion = EvaluateModelOperator(
            task_id="evaluate_champion",
            pool=gpu_pool(),
            model=fetch_champion.output["model"],
            dataset=validate_evaluation.output["validated"],
            mlflow_conn_id="mlflow_default",  # a run of its own, whether or not the model is registered
        )
        evaluate_base = EvaluateModelOperator(
            task_id="evaluate_base",
            pool=gpu_pool(),
            mlflow_conn_id="mlflow_default",  # a run of its own, whether or not the model is registered
            model=start,
            dataset=validate_evaluation.output["validated"],
            pre_execute=only_without_champion,
            trigger_rule="none_failed",  # mostly there is no champion
        )
        evaluate_tuned = EvaluateModelOperator(
            task_id="evaluate_tuned",
            pool=gpu_pool(),
            mlflow_conn_id="mlflow_default",  # a run of its own, whether or not the model is registered
            model=tuned["model"],
            dataset=validate_evaluation.output["validated"],
            baseline_scores=baseline_scores,
            reward_model="{{ ti.xcom_pull('train_reward', key='model') }}",
            trigger_rule="none_failed",  # the champion is skipped, or the base model
            pre_execute=of_this_run(evaluation_asset, "model_name"),
            outlets=assets.evaluation,
        )
        quality_gate = QualityGateOperator(
            task_id="quality_gate",
            comparison=evaluate_tuned.output["comparison"],
            rules=rules,
            baseline=compared_with,
            report=evaluate_tuned.output["report"],
            evaluation=evaluate_tuned.output,
            mlflow_conn_id="mlflow_default",
        )
        approve = ApprovalOperator(
            task_id="approve",
            subject="Is the tuned model to be registered as {{ params.model_name }}, and served?",
            body="[The evaluation]({{ ti.xcom_pull('evaluate_tuned', key='report_url') or ti.xcom_pull('evaluate_tuned', key='report') }}). "
            "Compared with {{ ti.xcom_pull('quality_gate')['baseline'] }}. The gate: {{ ti.xcom_pull('quality_gate')['findings'] | join(' ') }}",
            defaults=ApprovalOperator.REJECT,
            response_timeout=timedelta(days=3),
            ignore_downstream_trigger_rules=True,  # what is rejected is not served either
            pre_execute=only_with("approval"),
        )

    with TaskGroup("delivery", prefix_group_id=False, tooltip="Registered, served and asked"):
        register_model = RegisterModelOperator(
            task_id="register_model",
            trigger_rule="none_failed_min_one_success",  # nobody is asked, mostly
            model=tuned["model"],
            model_name=given("model_name"),
            alias="candidate",
            dataset="{{ ti.xcom_pull('validate_train' if params.method in ('sft', 'rlhf') else 'validate_preferences', "
            "key='validated') }}",
            report=evaluate_tuned.output["report"],
            params_to_log="{{ params }}",
            model_metrics=evaluate_tuned.output["metrics"],
            comparison=evaluate_tuned.output["comparison"],
            decision=quality_gate.output,
            made_by=made_by,
            tags=approved_by,
            pre_execute=delivered_by_this_run,
            outlets=assets.model,
        )
        serve_base = DeployModelOperator(
            task_id="serve_base",
            service_name=given("model_name"),
            namespace="{{ params.namespace }}",
            model=start,
            pre_execute=only_where_nothing_serves,
        )
        deploy_model = CanaryOperator(
            task_id="deploy_model",
            service_name=given("model_name"),
            namespace="{{ params.namespace }}",
            model=tuned["model"],
            model_digest=tuned["digest"],
            steps="{{ params.canary_steps }}",
            step_duration="{{ params.step_seconds }}",
            min_requests=requests_of_a_step,
            max_latency_ratio="{{ params.max_latency_ratio }}",
            probes=probes,
            trigger_rule="none_failed",  # mostly something serves already
            inlets=assets.model,
            outlets=assets.service,
        )
        smoke_test = AskModelOperator(
            task_id="smoke_test",
            url=deploy_model.output["url"],
            model_name=given("model_name"),
            prompts=["What does `os.path.join` do? Answer in one sentence."],
            request={"max_tokens": 64, "temperature": 0},
        )

    check_settings() >> [prepare_data, import_base_model, fetch_champion]
    prepare_data >> [validate_train, validate_preferences, validate_evaluation]
    trainings >> tuned
    if from_champion:
        fetch_champion >> import_base_model
        [fetch_champion, import_base_model] >> start.operator
    fetch_champion >> evaluate_base
    [evaluate_champion, evaluate_base] >> evaluate_tuned
    quality_gate >> [approve, register_model]
    approve >> register_model >> serve_base >> deploy_model >> smoke_test


def _reinforcement(
    preferences: ValidateDatasetOperator,
    prompts: ValidateDatasetOperator,
    train_sft: TrainSFTOperator,
    preference_args: Mapping[str, Any],
    learning: Mapping[str, Any],
) -> list[TrainGRPOOperator | TrainRLOOOperator]:
    """The tasks of the method ``rlhf`` after its supervised fine-tuning; those that give the tuned model."""
    reinforcement_args = {
        "max_steps": "{{ params.rl_steps }}",
        "learning_rate": "{{ params.rl_learning_rate }}",
        "num_generations": "{{ params.generations }}",
        "per_device_train_batch_size": "{{ params.generations * 2 }}",
        "max_completion_length": "{{ params.max_completion_length }}",
    }
    train_reward = TrainRewardOperator(
        **trainer("train_reward"),
        **learning,
        dataset=preferences.output["validated"],
        base_model=train_sft.output["model"],
        training_args={**preference_args, "max_steps": "{{ params.reward_steps }}"},
    )
    learn = {
        **learning,
        "dataset": prompts.output["validated"],
        "base_model": train_sft.output["model"],
        "reward_model": train_reward.output["model"],
        "training_args": reinforcement_args,
    }
    return [
        TrainGRPOOperator(**trainer("train_grpo"), **learn),
        TrainRLOOOperator(**trainer("train_rloo"), **learn),
    ]
