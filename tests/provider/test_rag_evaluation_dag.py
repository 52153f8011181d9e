"""The DAG of RAG evaluation without a run: what its form takes, which partition a run has, and what reaches the operators."""

from __future__ import annotations

import importlib.util
import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk import CronPartitionTimetable
from airflow.sdk.definitions.param import process_params
from airflow.sdk.exceptions import ParamValidationError
from planes import REPO

from airflow_provider_llmops.exceptions import ConfigurationError

JUDGE = {
    "settings": {
        "url": "http://j/v1",
        "model_name": "j",
        "embeddings": None,
        "request": {},
        "concurrency": 8,
    },
    "prompts": {"faithfulness": "sha256:1"},
    "questions": 12,
}


def read_dag():
    """The DAG as a worker reads it; Airflow notes a run's parameters in it."""
    spec = importlib.util.spec_from_file_location("rag_evaluation", REPO / "dags" / "rag_evaluation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.dag


@pytest.fixture
def dag():
    return read_dag()


def run_of(key: str | None = None, logical_date: datetime | None = None, **conf) -> SimpleNamespace:
    after = datetime(2026, 11, 28, 3, tzinfo=UTC)
    return SimpleNamespace(
        partition_key=key, logical_date=logical_date, run_after=after, conf=conf, dag_id="rag_evaluation"
    )


@pytest.fixture
def rendered(monkeypatch):
    """A task as it is in a run with given parameters, after tasks that have pushed what such tasks push."""
    for name in ("openai_endpoint_default", "judge"):
        connection = {"conn_type": "openai_endpoint", "host": f"http://{name.replace('_', '-')}/v1"}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))

    mlflow = {"conn_type": "mlflow", "host": "https://mlflow.example.com", "password": "s3cret"}
    monkeypatch.setenv("AIRFLOW_CONN_TRACKING", json.dumps(mlflow))

    def render(task_id, run=None, judge=None, compared=None, has_room=True, **conf):
        dag = read_dag()
        task = dag.get_task(task_id).prepare_for_execution()
        details = {"compared_with": compared} | ({"judge": judge} if judge else {})
        details = details if has_room else {}

        def xcom_pull(task_ids, key="return_value", **_):
            values = {"return_value": {"details": details}, "comparison": {"of": task_ids}}
            return values.get(key, f"/{task_ids}/{key}")

        ti = SimpleNamespace(xcom_pull=xcom_pull, dag_id=dag.dag_id, run_id="r", task_id=task_id)
        params = process_params(dag, task, conf, suppress_exception=False)
        task.render_template_fields(
            {"task": task, "ti": ti, "params": params, "dag_run": run or run_of("2026-11-25")}
        )
        return task

    return render


def test_one_run_a_day_evaluates_the_day_before(dag):
    assert dag.schedule == CronPartitionTimetable(
        "0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"
    )
    assert not dag.catchup
    assert {task.task_id: task.downstream_task_ids for task in dag.tasks} == {
        "check_settings": {"evaluate"},
        "evaluate": {"record", "quality_gate"},
        "record": {"quality_gate"},
        "quality_gate": set(),
    }


@pytest.mark.parametrize(
    ("run", "conf", "key"),
    [
        (run_of("2026-11-25"), {}, "2026-11-25"),
        (run_of("2026-11-25"), {"partition": "again"}, "again"),
        (run_of(), {}, "2026-11-28"),
        (run_of(logical_date=datetime(2026, 11, 20, tzinfo=UTC)), {}, "2026-11-20"),
    ],
)
def test_partition_is_that_of_the_form_or_the_run_or_its_day(rendered, run, conf, key):
    assert rendered("record", run, **conf).partition == key
    assert rendered("evaluate", run, **conf).dataset == f"/data/rag/{key}.jsonl"
    assert (
        rendered("evaluate", run, dataset="s3://d/questions.jsonl", **conf).dataset
        == "s3://d/questions.jsonl"
    )


def test_nobody_judges_unless_the_form_says_so(rendered):
    alone = rendered("evaluate").arguments()
    assert (alone["judge"], alone["metric_names"], alone["url"]) == (
        None,
        None,
        "http://openai-endpoint-default/v1",
    )
    assert alone["limits"] is None
    assert rendered("evaluate", requests_per_minute=30).arguments()["limits"] == {"requests_per_minute": 30}
    form = {"judge_connection": "judge", "judge_model": "1e5", "metric_names": ["faithfulness"]}
    judged = rendered("evaluate", **form, judge_embeddings="e", judge_max_tokens=1000)
    arguments = judged.arguments()
    judged.spec().bind(arguments)
    assert arguments["judge"] == {
        "model_name": "1e5",
        "url": "http://judge/v1",
        "embeddings": {"model_name": "e"},
        "max_tokens_total": 1000,
    }


def test_record_says_how_it_was_measured(rendered):
    plain = {"protocol": "openai_chat", "request": {"max_tokens": 256, "temperature": 0}, "contexts": None}
    recorded = rendered("record", model_name="chat")
    assert (recorded.settings, recorded.title) == (plain, "chat, by partition")
    assert (recorded.comparison, recorded.scores) == ({"of": "evaluate"}, "/evaluate/scores")
    judged = {"url": "http://j/v1", "model_name": "j", "embeddings": None, "request": {}}
    judged |= {"prompts": {"faithfulness": "sha256:1"}}
    assert rendered("record", judge=JUDGE).settings == {**plain, "judge": judged}
    arguments = recorded.arguments()
    recorded.spec().bind(arguments)
    assert (arguments["tracking_uri"], recorded.environment()) == (None, {})
    tracked = rendered("record", mlflow_connection="tracking")
    assert tracked.arguments()["tracking_uri"] == "https://mlflow.example.com"
    assert tracked.environment() == {"MLFLOW_TRACKING_TOKEN": "s3cret"}
    assert "s3cret" not in json.dumps(tracked.arguments())


def test_result_without_room_for_the_judge_is_not_compared_as_if_nobody_had_judged(rendered):
    with pytest.raises(ConfigurationError, match="had no room"):
        rendered("record", judge_connection="judge", judge_model="j", has_room=False)
    assert "judge" not in rendered("record", has_room=False).settings
    assert rendered("quality_gate", has_room=False).baseline is None


def test_gate_has_a_floor_and_looks_back_where_the_form_says_so(rendered):
    gate = rendered("quality_gate", metric="bleu", min_score=20, max_drop=2, compared="2026-11-24")
    assert gate.rules == [{"metric": "bleu", "at_least": 20}, {"metric": "bleu", "not_worse_by": 2}]
    assert (gate.comparison, gate.report, gate.baseline) == (
        {"of": "record"},
        "/evaluate/report",
        "partition 2026-11-24",
    )
    alone = rendered("quality_gate", max_drop=None)
    assert (alone.rules, alone.baseline) == ([{"metric": "rougeL", "at_least": 0.5}], None)


@pytest.mark.parametrize(
    "conf",
    [
        {"max_drop": -0.1},
        {"dataset": "rows.jsonl"},
        {"history": "s3://bucket/history"},
        {"partition": "a/b"},
        {"metric_names": []},
        {"concurrency": 0},
        {"protocol": "v1"},
    ],
)
def test_value_that_cannot_be_meant_is_refused_at_the_door(rendered, conf):
    with pytest.raises(ParamValidationError, match=next(iter(conf))):
        rendered("evaluate", **conf)


def check_settings(dag, run, **conf) -> None:
    task = dag.get_task("check_settings")
    params = process_params(dag, task, conf, suppress_exception=False)
    task.python_callable(dag=dag, dag_run=run, params=params)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"judge_connection": "judge"}, "go together"),
        ({"judge_model": "j"}, "go together"),
        ({"judge_max_tokens": 5}, "judge_max_tokens is given, and nobody judges"),
        ({"metric_names": ["chrf"]}, "The gate's metric, rougeL, is none of metric_names"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_anything_is_asked(dag, conf, message):
    with pytest.raises(ConfigurationError, match=message):
        check_settings(dag, run_of("2026-11-25"), **conf)


@pytest.mark.parametrize("key", ["../../etc", "a/b", ".hidden"])
def test_key_that_leads_out_of_the_directory_of_the_questions_is_refused(dag, key):
    with pytest.raises(ConfigurationError, match="cannot be part of an address"):
        check_settings(dag, run_of(key))


def test_key_that_could_not_be_recorded_is_refused_before_anything_is_asked(dag):
    form = {"dataset": "/data/questions.jsonl"}
    check_settings(dag, run_of("a/b"), **form)
    for key in ("../../etc", "_hidden", "a\nb", "ü" * 34):
        with pytest.raises(ConfigurationError, match="cannot have a record"):
            check_settings(dag, run_of(key), **form)
    check_settings(dag, run_of("2026-11-25T06:00:00"), **form, mlflow_connection="tracking")
    with pytest.raises(ConfigurationError, match="'north' is no date"):
        check_settings(dag, run_of("north"), **form, mlflow_connection="tracking")


def test_unknown_setting_is_refused_and_the_partition_is_said(dag, caplog):
    caplog.set_level("INFO")
    with pytest.raises(ConfigurationError, match="'min_scores' \\(did you mean 'min_score'\\?\\)"):
        check_settings(dag, run_of("2026-11-25", min_scores=1))
    check_settings(dag, run_of("2026-11-25"))
    said = [record.getMessage() for record in caplog.records if record.name == "rag_evaluation"]
    assert said == ["Partition 2026-11-25, questions /data/rag/2026-11-25.jsonl"]
