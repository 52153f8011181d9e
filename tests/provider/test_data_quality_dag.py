"""The DAG of data quality without a run: what its form takes, which partition a run has, and what reaches the operators."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk import CronPartitionTimetable
from airflow.sdk.definitions.param import process_params
from airflow.sdk.exceptions import ParamValidationError
from planes import REPO

from airflow_provider_llmops.assets import dataset_asset
from airflow_provider_llmops.exceptions import ConfigurationError


def read_dag():
    """The DAG as a worker reads it; Airflow notes a run's parameters in it."""
    spec = importlib.util.spec_from_file_location("data_quality", REPO / "dags" / "data_quality.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.dag


def run_of(key: str | None = None, logical_date: datetime | None = None, **conf) -> SimpleNamespace:
    after = datetime(2026, 11, 28, 3, tzinfo=UTC)
    return SimpleNamespace(
        partition_key=key, logical_date=logical_date, run_after=after, conf=conf, dag_id="data_quality"
    )


def rendered(task_id, run=None, **conf):
    """A task as it is in a run with given parameters."""
    dag = read_dag()
    task = dag.get_task(task_id).prepare_for_execution()

    def xcom_pull(task_ids, key="return_value", **_):
        return f"/{task_ids}/{key}"

    ti = SimpleNamespace(xcom_pull=xcom_pull, dag_id=dag.dag_id, run_id="r", task_id=task_id)
    params = process_params(dag, task, conf, suppress_exception=False)
    task.render_template_fields(
        {"task": task, "ti": ti, "params": params, "dag_run": run or run_of("2026-11-25")}
    )
    return task


def test_each_day_is_a_partition_and_tells_the_asset():
    dag = read_dag()
    assert isinstance(dag.timetable, CronPartitionTimetable)
    assert dag.get_task("publish").outlets == [dataset_asset("chats")]
    order = [task.task_id for task in dag.topological_sort() if task.task_id != "profile"]
    assert order == ["check_settings", "ingest", "validate_raw", "prepare", "validate_prepared", "publish"]


def test_profile_is_of_the_raw_rows_and_nothing_waits_for_it():
    profile = rendered("profile")
    assert (
        profile.arguments()["dataset"] == rendered("validate_raw").arguments()["dataset"] == "/ingest/dataset"
    )
    assert profile.upstream_task_ids == {"ingest"} and not profile.downstream_task_ids
    assert "Profile" in [link.name for link in profile.operator_extra_links]


def test_partition_is_part_of_the_address_and_of_what_is_published():
    assert rendered("ingest", source="s3://raw/day={partition}/", storage_connection="store").arguments() == {
        "source": "s3://raw/day=2026-11-25/"
    }
    published = rendered("publish", dataset="1e5", catalog="/c").arguments()
    assert published == {
        "prepared": "/prepare/prepared",
        "held_out": "/prepare/held_out",
        "manifest": "/prepare/manifest",
        "catalog": "/c",
        "name": "1e5",
        "partition": "2026-11-25",
        "policy": None,
    }


def test_manifest_is_told_nothing_that_another_run_would_tell_otherwise():
    prepare = rendered("prepare", source="s3://raw/{partition}.jsonl", licence="CC-BY-4.0", dataset="chats")
    assert prepare.sources == [
        {"uri": "s3://raw/2026-11-25.jsonl", "licence": "CC-BY-4.0", "date": "2026-11-25"}
    ]
    assert (prepare.names, prepare.dataset_name) == (["2026-11-25"], "chats")
    assert "date" not in rendered("prepare", run_of("eu-west"), owner="team").sources[0]


@pytest.mark.parametrize(
    ("run", "conf", "key"),
    [
        (run_of("2026-11-25"), {}, "2026-11-25"),
        (run_of("2026-11-25"), {"partition": "of the form"}, "of the form"),
        (run_of(None, datetime(2026, 11, 20, tzinfo=UTC)), {}, "2026-11-20"),
        (run_of(), {}, "2026-11-28"),
    ],
)
def test_run_has_the_partition_of_the_form_or_its_own_or_its_day(run, conf, key):
    assert rendered("publish", run, **conf).partition == key


@pytest.mark.parametrize(
    "conf",
    [
        {"source": "relative/rows.jsonl"},
        {"dataset": "../x"},
        {"steps": [{"min_words": 3}]},
        {"max_rejected_fraction": 1.5},
        {"partition": "a/b"},
        {"min_rows": 0},
    ],
)
def test_form_refuses_what_makes_no_sense(conf):
    with pytest.raises(ParamValidationError):
        rendered("publish", **conf)


@pytest.mark.parametrize("key", ["a/b", "..", "x\ny"])
def test_key_that_cannot_be_part_of_an_address_is_refused(key):
    dag = read_dag()
    task = dag.get_task("check_settings")
    context = {"dag": dag, "params": {"partition": None, "source": "/x/{partition}"}, "dag_run": run_of(key)}
    with pytest.raises(ConfigurationError, match="cannot be part of an address"):
        task.python_callable(**context)


def test_everything_the_form_offers_is_explained():
    params = read_dag().params
    for name in params:
        param = params.get_param(name)
        assert param.schema["title"] and param.description, name
