"""An evaluation is a run of its own in MLflow: once, with its figures and its page, and never in the evaluation's way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llmops_components.comparison import Comparison
from llmops_components.errors import SettingError
from llmops_components.evaluation.evaluate import evaluate_model
from llmops_components.results import StepReport, digest_of
from llmops_components.tracking.client import DAG_RUN_TAG
from llmops_components.tracking.evaluation import EvaluationRun, log_evaluation
from llmops_components.tracking.settings import Tracking
from mlflow_server import free_port
from tiny_model import write_rows

ROWS = [
    {"prompt": f"What colour is {thing}?", "reference": "It is red."} for thing in ("an apple", "the sky")
]


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def evaluate(talkative_model: Path, tmp_path: Path):
    def run(rows: list[dict[str, Any]] = ROWS, **more: Any) -> StepReport:
        return evaluate_model(
            talkative_model,
            write_rows(tmp_path / "rows.jsonl", rows),
            tmp_path / "scores.jsonl",
            tmp_path / "page",
            report_json=tmp_path / "made.json",
            report_markdown=tmp_path / "made.md",
            metric_names=["rougeL", "exact_match"],
            generation_args={"max_new_tokens": 4},
            **more,
        )

    return run


def test_evaluation_is_one_run_under_the_run_of_its_dag_however_often_it_is_tried(
    evaluate, server, client, talkative_model, tmp_path
):
    where = {"tracking_uri": server, "experiment": "evaluations", "parent": "dag/run", "run_name": "evaluate"}
    report = evaluate(tracking=where | {"tags": {"airflow.bundle_version": "c0ffee"}})
    told = report.details["tracking"]
    run_id, experiment = told["run_id"], told["experiment_id"]
    assert told["url"] == f"{server}/#/experiments/{experiment}/runs/{run_id}"
    run = client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("evaluate", "FINISHED")
    above = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert (above.data.tags[DAG_RUN_TAG], above.info.status) == ("dag/run", "FINISHED")
    assert run.data.metrics == report.metrics
    rouge = report.comparison.metrics["rougeL"].candidate
    assert {
        "airflow.bundle_version": "c0ffee",
        "llmops.component": "evaluate_model",
        "llmops.model.digest": digest_of(talkative_model)[0],
        "llmops.dataset.digest": digest_of(tmp_path / "rows.jsonl")[0],
        "llmops.interval.rougeL": f"{rouge.low:.4g} to {rouge.high:.4g} (2 of 2 rows)",
    }.items() <= run.data.tags.items()
    assert run.data.params["settings.max_new_tokens"] == "4" and run.data.params["dag_run"] == "dag/run"
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.digest == digest_of(tmp_path / "rows.jsonl")[0].removeprefix("sha256:")[:36]
    kept = {name: tmp_path / name for name in ("evaluation.html", "evaluation.json", "evaluation.md")}
    for name, made in (
        ("evaluation.html", "page"),
        ("evaluation.json", "made.json"),
        ("evaluation.md", "made.md"),
    ):
        kept = Path(client.download_artifacts(run_id, name, str(tmp_path)))
        assert kept.read_bytes() == (tmp_path / made).read_bytes()
    compared = Path(client.download_artifacts(run_id, "comparison.json", str(tmp_path)))
    assert json.loads(compared.read_text()) == report.comparison.model_dump()

    # A retry is the same evaluation, and so is one that was killed before its end; other rows are another one.
    client.set_terminated(run_id, "FAILED")
    again = evaluate(tracking=where)
    assert again.details["tracking"] == told
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(run_id).data.tags["mlflow.parentRunId"] == above.info.run_id
    other = evaluate(ROWS[:1], tracking=where).details["tracking"]["run_id"]
    alone = evaluate(tracking={"tracking_uri": server, "experiment": "evaluations"}).details["tracking"][
        "run_id"
    ]
    assert len({run_id, other, alone}) == 3
    assert client.get_run(other).data.tags["mlflow.parentRunId"] == above.info.run_id
    assert "mlflow.parentRunId" not in client.get_run(alone).data.tags
    assert {run.info.run_id for run in client.search_runs([experiment])} == {
        run_id,
        other,
        alone,
        above.info.run_id,
    }
    page = (tmp_path / "page").read_text()
    assert "Run of the DAG" not in page  # of the last


def kept(address: str, experiment: str, value: float, files: dict[str, Path] | None = None, **where: str):
    """An evaluation of a service, which tells nothing of the model behind it."""
    run = EvaluationRun(
        component="evaluate_service",
        identity={"model": "chat", **where},
        params={},
        metrics={"rougeL": value},
        comparison=Comparison(
            schema_version=2, confidence=0.95, levels=[], has_baseline=False, metrics={}, slices={}
        ),
        files=files or {},
    )
    return log_evaluation(Tracking(address, experiment, **where), run)


def test_evaluation_of_another_day_is_another_run_where_no_dag_tells_it_from_a_retry(server, client):
    alone = [kept(server, "days", value)[0]["run_id"] for value in (0.9, 0.1)]
    assert [client.get_run(each).data.metrics["rougeL"] for each in alone] == [0.9, 0.1]
    tried = {kept(server, "days", 0.5, parent="dag/run")[0]["run_id"] for _ in range(2)}
    assert len(tried) == 1 and not tried & set(alone)


def test_store_of_artifacts_that_cannot_be_written_costs_the_evaluation_nothing(server, client, monkeypatch):
    def no_library(*_: Any) -> None:
        raise ModuleNotFoundError("No module named 'boto3'")

    monkeypatch.setattr("mlflow.MlflowClient.log_dict", no_library)
    told, finding = kept(server, "no-store", 0.5)
    assert told == {"not_logged": "No module named 'boto3'"}
    assert finding == "The evaluation is not logged to MLflow: No module named 'boto3'"
    (run,) = client.search_runs([client.get_experiment_by_name("no-store").experiment_id])
    assert run.info.status == "FAILED"


def test_run_whose_name_mlflow_cannot_look_for_is_evaluated_where_nothing_is_kept():
    given = {"parent": "rag/scheduled__2026-11-25__l'Aquila", "run_name": "evaluate"}
    assert Tracking.find(given) is None
    with pytest.raises(SettingError, match="without quotes"):
        Tracking.find({**given, "tracking_uri": "http://127.0.0.1:1"})


def test_without_a_server_nothing_is_kept_and_the_result_says_so(evaluate, tmp_path):
    report = evaluate(tracking={"parent": "dag/run", "run_name": "evaluate"})
    assert report.details["tracking"] == {"not_logged": "no MLflow server is configured"}
    assert report.findings == []
    assert "<dt>Run of the DAG<dd>dag/run" in (tmp_path / "page").read_text()


def test_a_server_that_is_down_costs_the_evaluation_nothing_and_is_told(evaluate, tmp_path):
    address = f"http://me:s3cret-word@127.0.0.1:{free_port()}"
    report = evaluate(tracking={"tracking_uri": address})
    assert report.passed and set(report.metrics) >= {"rougeL", "exact_match"}
    (finding,) = report.findings
    assert finding.startswith("The evaluation is not logged to MLflow: MLflow at http://127.0.0.1:")
    assert set(report.details["tracking"]) == {"not_logged"}
    told = json.dumps([report.details, report.findings]) + "".join(
        (tmp_path / name).read_text() for name in ("page", "made.json", "made.md", "scores.jsonl")
    )
    assert "s3cret-word" not in told


def test_settings_that_nobody_knows_are_refused_before_anything_runs(evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr("llmops_components.models.loading.load_to_answer", lambda model: pytest.fail("runs"))
    with pytest.raises(SettingError, match="Unknown tracking: 'uri'"):
        evaluate(tracking={"uri": "http://127.0.0.1:1"})
    assert not (tmp_path / "scores.jsonl").exists()
