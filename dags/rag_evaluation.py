"""### RAG evaluation: a service asked every day, and the trend of its answers

Asks an OpenAI-compatible endpoint (a deployed model, or a whole application that looks things up) the questions of a partition, scores the
answers, keeps a record of the partition in a history with a page of the trend, and holds the answers to a gate: a floor, and no worse than the
partition before where that had the same questions.

One run a day evaluates the day before, its partition, such as `2026-11-25`. Missed days are evaluated by a backfill, in any order and side by
side: each partition has a record of its own, and the same partition again replaces it.

Metrics without a judge by default; with `judge_connection` those of RAGAS, too, such as `faithfulness`. Where it runs is decided by the
connections below.
"""

from __future__ import annotations

import logging
import re
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from airflow.sdk import DAG, CronPartitionTimetable, Param, task
from airflow_provider_llmops.assets import evaluation_asset, of_this_run
from airflow_provider_llmops.conf import check_conf, given, partition_key
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.operators.evaluate_service import EvaluateServiceOperator
from airflow_provider_llmops.operators.evaluation import QualityGateOperator
from airflow_provider_llmops.operators.history import RecordEvaluationOperator

log = logging.getLogger(__name__)

MODEL_NAME = "assistant"
ADDRESS = "^(/|[a-z][a-z0-9]*://)."
PARTITION = r"^\w[^/\x00-\x1f]{0,99}$"  # it may be part of an address
PLACE = "{partition}"
RECORDED = re.compile(
    r"[^\W_][^\x00-\x1f\x7f]*"
)  # what the history takes, of at most so many bytes as an address has it
RECORDED_BYTES = 200

params = {
    "model_name": Param(
        MODEL_NAME,
        type="string",
        minLength=1,
        title="Model",
        description="Name by which the endpoint knows the model or application.",
    ),
    "dataset": Param(
        f"/data/rag/{PLACE}.jsonl",
        type="string",
        pattern=ADDRESS,
        title="Questions",
        description="Address of rows with prompt and what the metrics need, which is a reference for most. {partition} in it becomes the "
        "partition's key; without it, all partitions are asked the same questions, and each is compared with the one before.",
    ),
    "history": Param(
        "/data/rag/history",
        type="string",
        pattern="^/.",
        title="History",
        description="Directory that outlives the runs, with a record for each partition and the newest trend.html; on a cluster below a "
        "mounted volume.",
    ),
    "metric_names": Param(
        None,
        type=["null", "array"],
        items={"type": "string"},
        minItems=1,
        uniqueItems=True,
        title="Metrics",
        description="Names of metrics, for example rougeL, faithfulness. Left empty: all that look at answer and reference alone.",
    ),
    "metric": Param(
        "rougeL",
        type="string",
        minLength=1,
        title="Gate: metric",
        description="Metric that decides; higher is better.",
    ),
    "min_score": Param(
        0.5,
        type="number",
        title="Gate: floor",
        description="What the answers must reach in the metric, for all that chance may add.",
    ),
    "max_drop": Param(
        0.05,
        type=["null", "number"],
        minimum=0,
        title="Gate: drop",
        description="How much worse than the partition before they may be, for all that chance may add, where that had the same questions. "
        "Left empty: not looked at.",
    ),
    "partition": Param(
        None,
        type=["null", "string"],
        pattern=PARTITION,
        title="Partition",
        description="Key of the partition that is evaluated. Left empty: that of the run.",
        section="Questions",
    ),
    "contexts": Param(
        None,
        type=["null", "string"],
        minLength=1,
        title="Contexts",
        description="Path in the reply to the texts that the service has looked up, such as sources.*.text. Left empty: those of the rows.",
        section="Questions",
    ),
    "request": Param(
        {"max_tokens": 256, "temperature": 0},
        type="object",
        title="Request",
        description="Further fields of each question.",
        section="Questions",
    ),
    "protocol": Param(
        "openai_chat",
        type="string",
        enum=["openai_chat", "openai_completions", "openai"],
        title="Protocol",
        description="openai_completions for a model without a chat template; openai asks conversations as the first and texts as the second.",
        section="Questions",
    ),
    "concurrency": Param(
        8,
        type="integer",
        minimum=1,
        maximum=512,
        title="Questions at a time",
        description="How many questions are asked at the same time.",
        section="Questions",
    ),
    "requests_per_minute": Param(
        None,
        type=["null", "number"],
        exclusiveMinimum=0,
        title="Questions a minute",
        description="Most requests a minute, for a provider that counts them. Left empty: any number.",
        section="Questions",
    ),
    "judge_connection": Param(
        None,
        type=["null", "string"],
        minLength=1,
        title="Judge",
        description="Connection of type `openai_endpoint` of who judges. Left empty: nobody does.",
        section="Judge",
    ),
    "judge_model": Param(
        None,
        type=["null", "string"],
        minLength=1,
        title="Judge's model",
        description="Name by which the judge's endpoint knows it.",
        section="Judge",
    ),
    "judge_embeddings": Param(
        None,
        type=["null", "string"],
        minLength=1,
        title="Judge's embeddings",
        description="Model of the same endpoint for metrics that need embeddings. Left empty: the local one.",
        section="Judge",
    ),
    "judge_max_tokens": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        title="Judge's tokens",
        description="Most tokens that it may take for a partition; rows that come after have no score. Left empty: any number.",
        section="Judge",
    ),
    "endpoint_connection": Param(
        "openai_endpoint_default",
        type="string",
        minLength=1,
        title="Endpoint",
        description="Connection of type `openai_endpoint` of what is evaluated.",
        section="Connections",
    ),
    "mlflow_connection": Param(
        None,
        type=["null", "string"],
        minLength=1,
        title="Tracking",
        description="Connection of type `mlflow`, where each evaluation is a run of its own, and one more of this history gets each metric, with the "
        "partition's date as the step. Left empty: nothing is logged there.",
        section="Connections",
    ),
    "kubeflow_connection": Param(
        "kubeflow_default",
        type="string",
        minLength=1,
        title="Where steps run",
        description="Connection of type `kubeflow`.",
        section="Connections",
    ),
}


def dataset(context: Any, **_: Any) -> str:
    """Address of the partition's questions."""
    address: str = context["params"]["dataset"].replace(PLACE, partition_key(context))
    return address


def limits(context: Any, **_: Any) -> dict[str, Any] | None:
    """How fast the service is asked; None for no limit."""
    most = context["params"]["requests_per_minute"]
    return {"requests_per_minute": most} if most else None


def judge(context: Any, **_: Any) -> dict[str, Any] | None:
    """Who judges; None where nobody does."""
    params = context["params"]
    if not params["judge_connection"]:
        return None
    found = {"model_name": params["judge_model"]}
    if params["judge_embeddings"]:
        found["embeddings"] = {"model_name": params["judge_embeddings"]}
    if params["judge_max_tokens"]:
        found["max_tokens_total"] = params["judge_max_tokens"]
    return found


def measured(context: Any, **_: Any) -> dict[str, Any]:
    """How it was measured: partitions that were measured otherwise are not compared."""
    params = context["params"]
    found = {name: params[name] for name in ("protocol", "request", "contexts")}
    details = context["ti"].xcom_pull("evaluate")["details"]
    if params["judge_connection"] and not details:
        raise ConfigurationError(
            "How the judge was asked had no room in the evaluation's result, so that nobody could tell what may be compared. Name fewer metrics."
        )
    told = details.get("judge")
    if told:
        settings = told["settings"]
        found["judge"] = {name: settings.get(name) for name in ("url", "model_name", "embeddings", "request")}
        found["judge"]["prompts"] = told["prompts"]
    return found


def check_key(key: str, *, needs_date: bool) -> None:
    """Refuses what the history could not keep, before anything is asked."""
    if not RECORDED.fullmatch(key) or len(quote(key, safe="")) > RECORDED_BYTES:
        raise ConfigurationError(
            f"The partition {key!r:.80} cannot have a record. Give partition a key of one line that begins with a letter or digit, at most "
            f"{RECORDED_BYTES} bytes as an address has it."
        )
    if needs_date:
        try:
            datetime.fromisoformat(key)
        except ValueError:
            raise ConfigurationError(
                f"The partition {key!r:.80} is no date, and MLflow puts its points in order by one. Give partition a date, or leave "
                "mlflow_connection empty."
            ) from None


def rules(context: Any, **_: Any) -> list[dict[str, Any]]:
    """What the gate holds the answers to."""
    params = context["params"]
    found = [{"metric": params["metric"], "at_least": params["min_score"]}]
    if params["max_drop"] is not None:
        found.append({"metric": params["metric"], "not_worse_by": params["max_drop"]})
    return found


def before(context: Any, **_: Any) -> str | None:
    """The partition that was compared with."""
    compared = (
        context["ti"].xcom_pull("record")["details"].get("compared_with")
    )  # without room it is left out
    return f"partition {compared}" if compared else None


with DAG(
    dag_id="rag_evaluation",
    schedule=CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    catchup=False,
    params=params,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=30)},
    render_template_as_native_obj=True,
    doc_md=__doc__,
    tags=["llmops", "evaluation"],
) as dag:

    @task
    def check_settings(**context: Any) -> None:
        """Refuses what the DAG does not take, and says which partition is evaluated."""
        check_conf(context)
        params = context["params"]
        if bool(params["judge_connection"]) != bool(params["judge_model"]):
            raise ConfigurationError("judge_connection and judge_model go together: give both, or neither.")
        unused = [name for name in ("judge_embeddings", "judge_max_tokens") if params[name] is not None]
        if unused and not params["judge_connection"]:
            raise ConfigurationError(
                f"{' and '.join(unused)} is given, and nobody judges. Give judge_connection and judge_model."
            )
        if params["metric_names"] and params["metric"] not in params["metric_names"]:
            raise ConfigurationError(
                f"The gate's metric, {params['metric']}, is none of metric_names. Name it there, or choose one of them."
            )
        key = partition_key(context)
        if PLACE in params["dataset"] and ("/" in key or key.startswith(".")):
            raise ConfigurationError(
                f"The partition {key!r:.80} cannot be part of an address. Give partition another key."
            )
        check_key(key, needs_date=bool(params["mlflow_connection"]))
        log.info("Partition %s, questions %s", key, dataset(context))

    evaluate = EvaluateServiceOperator(
        task_id="evaluate",
        dataset=dataset,
        model_name=given("model_name"),
        protocol=given("protocol"),
        request=given("request"),
        contexts=given("contexts"),
        metric_names=given("metric_names"),
        concurrency=given("concurrency"),
        limits=limits,
        judge=judge,
        judge_conn_id=given("judge_connection"),
        openai_endpoint_conn_id=given("endpoint_connection"),
        mlflow_conn_id=given("mlflow_connection"),
        kubeflow_conn_id=given("kubeflow_connection"),
    )
    record = RecordEvaluationOperator(
        task_id="record",
        scores=evaluate.output["scores"],
        comparison=evaluate.output["comparison"],
        history=given("history"),
        partition=partition_key,
        settings=measured,
        title="{{ params.model_name }}, by partition",
        pre_execute=of_this_run(evaluation_asset, "model_name"),
        outlets=[evaluation_asset(MODEL_NAME)],
        mlflow_conn_id=given("mlflow_connection"),
        kubeflow_conn_id=given("kubeflow_connection"),
    )
    quality_gate = QualityGateOperator(
        task_id="quality_gate",
        comparison=record.output["comparison"],
        rules=rules,
        baseline=before,
        report=evaluate.output["report"],
        evaluation=evaluate.output,
        mlflow_conn_id=given("mlflow_connection"),
        kubeflow_conn_id=given("kubeflow_connection"),
    )

    check_settings() >> evaluate >> record >> quality_gate
