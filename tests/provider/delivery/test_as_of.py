"""Which run is of the newer data, whatever Airflow knows of its place in time."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk.api.datamodels._generated import DagRunType
from attempts import dag_run

from airflow_provider_llmops.delivery.as_of import as_of, is_backfill, origin_in_time
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.operators.registry import RegisterModelOperator


def day(number: int, hour: int = 0) -> datetime:
    return datetime(2026, 11, number, hour, tzinfo=UTC)


def scheduled(number: int, **facts):
    """A daily run of the data of one day, which runs on the next."""
    usual = {
        "run_type": DagRunType.SCHEDULED,
        "logical_date": day(number),
        "data_interval_start": day(number),
        "data_interval_end": day(number + 1),
        "run_after": day(number + 1),
    }
    return dag_run(**usual | facts)


def partitioned(key: str, number: int | None, **facts):
    date = None if number is None else day(number)
    usual = {"run_type": DagRunType.SCHEDULED, "logical_date": None, "partition_key": key}
    return dag_run(**usual | {"partition_date": date} | facts)


def of(run, map_index: int = -1, given: str | None = None) -> str:
    return as_of({"ti": SimpleNamespace(map_index=map_index), "dag_run": run}, given)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (scheduled(24), scheduled(25)),
        (scheduled(24, run_after=day(28)), scheduled(25)),
        (dag_run(logical_date=day(26, 9)), dag_run(logical_date=day(26, 10))),
        (dag_run(logical_date=day(20), run_after=day(26)), dag_run(logical_date=day(25))),
        (dag_run(logical_date=None, run_after=day(25)), dag_run(logical_date=None, run_after=day(26))),
        (scheduled(24), dag_run(logical_date=day(25, 8))),
        (dag_run(logical_date=day(25, 8)), scheduled(25)),
        (partitioned("eu", 24), partitioned("us", 25)),
        (partitioned("eu", 24), partitioned("eu", 24, run_after=day(27))),
        (partitioned("2026-11-24", None, run_after=day(28)), partitioned("2026-11-25", None)),
        (partitioned("us|2026-11-24T05", None), partitioned("eu|2026-11-25T04", None)),
        (partitioned("2026-10", None), partitioned("2026-11", None)),
        (partitioned("eu", None, run_after=day(25)), partitioned("de", None, run_after=day(26))),
    ],
)
def test_run_of_the_newer_data_sorts_behind(older, newer):
    assert of(older) < of(newer)


def test_of_mapped_tasks_of_one_run_the_index_decides():
    run = scheduled(24)
    assert of(run, 2) < of(run, 10)
    assert of(run, 10) < of(scheduled(25), 2)


def test_date_that_the_caller_gives_comes_first():
    assert of(scheduled(25), given="2026-11-01") == "2026-11-01, run after 2026-11-26T00:00:00.000000Z"


def test_times_are_written_in_utc():
    from datetime import timedelta, timezone

    india = timezone(timedelta(hours=5, minutes=30))
    run = dag_run(logical_date=datetime(2026, 11, 26, 1, tzinfo=india))
    assert of(run).startswith("2026-11-25T19:30:00Z")


def registration(context, **arguments):
    task = RegisterModelOperator(
        task_id="register", model="/m", model_name="name", alias="candidate", **arguments
    )
    task._context = context
    return task.arguments()


@pytest.fixture(autouse=True)
def mlflow_connection(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", "mlflow://tracking:5000")


def test_registration_says_where_its_run_stands_in_time(context):
    context["dag_run"] = scheduled(24)
    made = registration(context)
    assert (made["alias"], made["as_of"]) == (
        "candidate",
        "2026-11-25T00:00:00Z, run after 2026-11-25T00:00:00.000000Z",
    )
    assert made["tags"] == {
        "airflow.dag_id": "dag",
        "airflow.run_id": "manual",
        "airflow.task_id": "task",
        "airflow.logical_date": "2026-11-24T00:00:00Z",
        "airflow.data_interval_start": "2026-11-24T00:00:00Z",
        "airflow.data_interval_end": "2026-11-25T00:00:00Z",
        "airflow.run_type": "scheduled",
        "airflow.conf": "{}",
        "llmops.provider_version": "0.1.0",
    }
    context["dag_run"] = partitioned("eu", 24)
    assert origin_in_time(context) == {"airflow.partition_key": "eu", "airflow.run_type": "scheduled"}


def test_backfill_leaves_the_alias_unless_it_is_asked_to_move_it(context):
    context["dag_run"] = scheduled(24)
    context["dag_run"].run_type = DagRunType.BACKFILL
    assert is_backfill(context)
    assert registration(context)["alias"] is None
    assert registration(context, alias_in_backfill=True)["alias"] == "candidate"
    with pytest.raises(
        ConfigurationError, match="alias_in_backfill must be true or false, got the text 'False'"
    ):
        registration(context, alias_in_backfill="False")


def test_runs_of_the_command_and_what_their_events_alone_have_started_are_a_backfills(context):
    def is_one(run_id: str = "manual__x", *sources: str | None) -> bool:
        events = {"rows": [SimpleNamespace(source_run_id=each) for each in sources]}
        return is_backfill({"dag_run": dag_run(run_id=run_id), "triggering_asset_events": events})

    assert is_one("llmops_backfill_1__2026-11-01")
    assert not is_one("manual__2026-11-01")
    assert is_one("asset_triggered__x", "llmops_backfill_2__eu", "backfill__2026-11-01")
    assert not is_one("asset_triggered__x", "llmops_backfill_2__eu", "scheduled__2026-11-01")
    assert not is_one("asset_triggered__x", None)
    context["dag_run"] = partitioned("eu", 24, run_id="llmops_backfill_1__eu", run_type="manual")
    assert registration(context)["alias"] is None


def test_no_alias_is_asked_for_by_default(context):
    task = RegisterModelOperator(task_id="register", model="/m", model_name="name")
    task._context = context
    assert task.arguments()["alias"] is None
