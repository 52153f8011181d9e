"""### Data quality: a partition of raw rows becomes a version of a data set that can be trusted

Fetches the rows of a partition, draws a profile of them, sets aside what breaks the format, prepares the rest by declared steps, checks what came
of it, and publishes it as a version of a data set: rows, rows held out, and a manifest that says where they came from and what was done to them.
Whoever is scheduled on the asset `llmops://dataset/chats` gets the partition's key and the version.

One run a day takes the day before, its partition, such as `2026-11-25`. Missed days are prepared by a backfill, in any order and side by side. The
same partition again is the same version, and changes nothing; where its rows or the settings are others, the partition gets a new version, and the
former one stays.

Where it runs is decided by `kubeflow_connection`; credentials of the store where the rows lie are in `storage_connection`.
"""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronPartitionTimetable, Param, task
from airflow_provider_llmops.assets import dataset_asset
from airflow_provider_llmops.conf import check_conf, given, partition_key
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.operators.data import (
    FetchDatasetOperator,
    PrepareDatasetOperator,
    ValidateDatasetOperator,
)
from airflow_provider_llmops.operators.profiling import ProfileDatasetOperator
from airflow_provider_llmops.operators.publishing import PublishDatasetOperator

log = logging.getLogger(__name__)

DATASET = "chats"
ADDRESS = "^(/|[a-z][a-z0-9]*://)."
PARTITION = r"^\w[^/\x00-\x1f]{0,99}$"  # it may be part of an address
PLACE = "{partition}"
# What rows of chats are usually put through; each says what it dropped or changed, and why.
STEPS = [{"step": "normalise"}, {"step": "drop_duplicates"}]

params = {
    "source": Param(
        f"/data/raw/{PLACE}.jsonl",
        type="string",
        pattern=ADDRESS,
        title="Rows",
        description="Address of the raw rows: a path, s3://bucket/key, gs://bucket/key or hf://datasets/org/name@revision. {partition} in it becomes "
        "the partition's key. An address that ends with a slash names all files of a directory.",
    ),
    "dataset": Param(
        DATASET,
        type="string",
        pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        title="Data set",
        description="Name under which its versions are published.",
    ),
    "catalog": Param(
        "/data/catalog",
        type="string",
        pattern="^/.",
        title="Catalog",
        description="Directory that outlives the runs, with the versions of all data sets; on a cluster below a mounted volume.",
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
        description="What the rows go through, in order: the name of each step and its settings.",
    ),
    "dataset_format": Param(
        "auto",
        type="string",
        minLength=1,
        title="Format",
        description="One of TRL's formats that the prepared rows must have, or several with commas between them; auto takes what they have.",
    ),
    "max_rejected_fraction": Param(
        0.1,
        type="number",
        minimum=0,
        maximum=1,
        title="Raw rows: most rejected",
        description="Share of the raw rows that may be broken. They are kept beside the reasons. After the preparation none may be.",
    ),
    "min_rows": Param(
        1,
        type="integer",
        minimum=1,
        title="Fewest rows",
        description="How many rows have to be left after the preparation.",
    ),
    "licence": Param(
        None,
        type=["null", "string"],
        minLength=1,
        title="Licence",
        description="SPDX expression of what the rows are under, for the manifest and for the policy. Left empty: nobody knows.",
        section="Versions",
    ),
    "owner": Param(
        None,
        type=["null", "string"],
        minLength=1,
        title="Owner",
        description="Who answers for the rows, for the manifest and for the policy. Left empty: nobody knows.",
        section="Versions",
    ),
    "policy": Param(
        None,
        type=["null", "string"],
        pattern="^/.",
        title="Policy",
        description="Path of a policy as YAML or JSON: which sources, licences, owners and ages are allowed. Left empty: no policy.",
        section="Versions",
    ),
    "partition": Param(
        None,
        type=["null", "string"],
        pattern=PARTITION,
        title="Partition",
        description="Key of the partition that is prepared. Left empty: that of the run.",
        section="Versions",
    ),
    "storage_connection": Param(
        None,
        type=["null", "string"],
        minLength=1,
        title="Storage",
        description="Connection of type `aws` for rows in s3://. Left empty: a step has what its pod or worker has.",
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


def source(context: Any, **_: Any) -> str:
    """Address of the partition's rows."""
    address: str = context["params"]["source"].replace(PLACE, partition_key(context))
    return address


def names(context: Any, **_: Any) -> list[str]:
    """What ids of rows begin with: the partition."""
    return [partition_key(context)]


def sources(context: Any, **_: Any) -> list[dict[str, Any]]:
    """What the manifest says of the partition's rows. Nothing of it is the run's: the same rows are the same version in every run."""
    found = {"uri": source(context)}
    found |= {name: context["params"][name] for name in ("licence", "owner") if context["params"][name]}
    if re.fullmatch(r"\d{4}-\d\d-\d\d", key := partition_key(context)):
        found["date"] = key
    return [found]


with DAG(
    dag_id="data_quality",
    schedule=CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    catchup=False,
    params=params,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=30)},
    render_template_as_native_obj=True,
    doc_md=__doc__,
    tags=["llmops", "data"],
) as dag:

    @task
    def check_settings(**context: Any) -> None:
        """Refuses what the DAG does not take, and says which partition is prepared."""
        check_conf(context)
        key = partition_key(context)
        if not re.fullmatch(PARTITION, key):
            raise ConfigurationError(
                f"The partition {key!r:.80} cannot be part of an address. Give partition another key."
            )
        log.info("Partition %s, rows %s", key, source(context))

    where = {"kubeflow_conn_id": given("kubeflow_connection")}
    ingest = FetchDatasetOperator(
        task_id="ingest", source=source, storage_conn_id=given("storage_connection"), **where
    )
    ProfileDatasetOperator(task_id="profile", dataset=ingest.output["dataset"], **where)
    validate_raw = ValidateDatasetOperator(
        task_id="validate_raw",
        dataset=ingest.output["dataset"],
        max_rejected_fraction=given("max_rejected_fraction"),
        **where,
    )
    prepare = PrepareDatasetOperator(
        task_id="prepare",
        dataset=validate_raw.output["validated"],
        steps=given("steps"),
        names=names,
        sources=sources,
        dataset_name=given("dataset"),
        **where,
    )
    validate_prepared = ValidateDatasetOperator(
        task_id="validate_prepared",
        dataset=prepare.output["prepared"],
        dataset_format=given("dataset_format"),
        min_rows=given("min_rows"),
        **where,
    )
    publish = PublishDatasetOperator(
        task_id="publish",
        prepared=prepare.output["prepared"],
        held_out=prepare.output["held_out"],
        manifest=prepare.output["manifest"],
        catalog=given("catalog"),
        name=given("dataset"),
        partition=partition_key,
        policy=given("policy"),
        outlets=[dataset_asset(DATASET)],
        **where,
    )

    check_settings() >> ingest
    validate_prepared >> publish
