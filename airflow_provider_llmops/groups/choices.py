"""What the parameters of a run of `post_training` choose: data, stages, what is compared, what is skipped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_provider_llmops.conf import gpu_pool
from airflow_provider_llmops.delivery.as_of import is_backfill
from airflow_provider_llmops.exceptions import ConfigurationError, RunNotFoundError
from airflow_provider_llmops.hooks.kserve import KServeHook

# Data sets by the start of their parameters' names, with the artifact that holds the sample.
SAMPLES = {"train": "train", "preference": "preferences", "evaluation": "evaluation"}


def stages(params: Mapping[str, Any]) -> list[str]:
    """The tasks that train, in order; the model of the last one goes on."""
    if params["method"] == "rlhf":
        return ["train_sft", "train_reward", f"train_{params['algorithm']}"]
    return [f"train_{params['method']}"]


def data_needed(params: Mapping[str, Any]) -> list[str]:
    """The data sets that the method needs."""
    learned_from = {"sft": ["train"], "rlhf": ["train", "preference"]}.get(params["method"], ["preference"])
    return [*learned_from, "evaluation"]


def data_made(params: Mapping[str, Any], handed_on: Collection[str] = ()) -> list[str]:
    """Those of them that nobody has given, so that a sample stands in.

    :param params: parameters of the run
    :param handed_on: those that come from a task of the DAG
    """
    return [name for name in data_needed(params) if name not in handed_on and not params[f"{name}_data"]]


def check_steps(params: Mapping[str, Any]) -> None:
    """Refuse steps of a canary that do not rise.

    :param params: parameters of the run
    """
    if (steps := params["canary_steps"]) != sorted(steps):
        raise ConfigurationError(f"canary_steps must rise, got {steps}.")


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
        "pool": gpu_pool(),
        "pre_execute": only_if(lambda params: task_id in stages(params)),
        "peft_args": {"r": "{{ params.lora_rank }}", "lora_alpha": "{{ params.lora_rank * 2 }}"},
        "mlflow_conn_id": "mlflow_default",  # a run for each training, below one for the DAG's run
    }


def given_or_sample(name: str) -> Callable[..., str | None]:
    """The address of a data set."""
    return lambda context, **_: (
        context["params"][f"{name}_data"] or context["ti"].xcom_pull("prepare_data", key=SAMPLES[name])
    )


def validation(name: str, handed_on: Mapping[str, Any]) -> dict[str, Any]:
    """What the tasks that validate have in common."""
    return {
        "dataset": handed_on.get(name) or given_or_sample(name),
        "pre_execute": only_if(lambda params: name in data_needed(params)),
        "trigger_rule": "none_failed",  # the sample is skipped where all data are given
    }


def only_with(name: str) -> Callable[[Context], None]:
    """A hook that skips a task, unless a parameter of the run asks for it."""

    def skip_otherwise(context: Context) -> None:
        if not context["params"][name]:
            raise AirflowSkipException("Not asked for.")

    return skip_otherwise


def champion_of(ti: Any) -> str | None:
    """Number of the version that has the champion's alias; None where nobody asks for one, or nothing has it."""
    found = ti.xcom_pull("fetch_champion")
    number: str | None = found["details"]["version"] if found else None
    return number


def only_without_champion(context: Context) -> None:
    """A hook that skips the base model where the champion is compared with."""
    if number := champion_of(context["ti"]):
        raise AirflowSkipException(f"The tuned model is compared with version {number}, the champion.")


def start_of(context: Context) -> str:
    """The champion's model, or the base model where there is none."""
    task_id = "fetch_champion" if champion_of(context["ti"]) else "import_base_model"
    model: str = context["ti"].xcom_pull(task_id, key="model")
    return model


def only_without_start(context: Context) -> None:
    """A hook that skips the base model where the champion is trained."""
    if number := champion_of(context["ti"]):
        raise AirflowSkipException(f"Version {number}, the champion, is trained.")


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

    def returned(task_id: str) -> Any:
        return context["ti"].xcom_pull(task_id)

    return [
        returned("validate_train"),
        returned("validate_preferences"),
        returned("import_base_model") or returned("fetch_champion"),  # whichever was trained
        *map(returned, stages(context["params"])),
        returned("evaluate_tuned"),
    ]


def approved_by(context: Context, **_: Any) -> dict[str, str]:
    """Who has approved of the tuned model, as a tag of its version; nothing where nobody was asked."""
    answer = context["ti"].xcom_pull("approve") or {}
    user = answer.get("responded_by_user") or {}
    name = user.get("name") or user.get("id")
    return {"llmops.decision.approved_by": str(name)} if name else {}


def only_where_nothing_serves(context: Context) -> None:
    """A hook that skips what would take the requests away from a model that somebody uses."""
    params = context["params"]
    if not params["serve_base"] or not params["canary_steps"]:
        raise AirflowSkipException("Not asked for.")
    if is_backfill(context):
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
