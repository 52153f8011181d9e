"""``llmops prune``: what the user asks for and what the table says."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from planes import DATA_PYTHON

from airflow_provider_llmops.cli import main
from airflow_provider_llmops.cli.prune import report


@pytest.fixture
def old_run(root):
    run = root / "runs" / str(uuid.uuid4())
    run.mkdir(parents=True)
    then = (datetime.now(UTC) - timedelta(days=40)).isoformat()
    (run / "request.json").write_text(json.dumps({"display_name": "dag.train 1234", "created_at": then}))
    (run / "lock").touch()
    return run


def columns(line):
    return re.split(r"  +", line)


def test_dry_run_shows_what_would_go_and_the_same_command_without_it_removes_it(connections, old_run, capsys):
    assert main(["prune", "--older-than", "30", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [columns(line)[0] for line in lines[:2]] == ["what", "run"]
    name = f"{old_run.name} dag.train"
    assert columns(lines[1])[1:] == [name, "40", columns(lines[1])[3], "would go"]
    assert lines[-2].startswith("Would give ")
    assert lines[-1].startswith("MLflow was not asked")
    assert old_run.is_dir()
    assert main(["prune", "--older-than", "30"]) == 0
    assert "removed" in capsys.readouterr().out
    assert not old_run.exists()


def test_age_is_the_connections_retention_unless_given(monkeypatch, root, old_run, capsys):
    extra = {"python": str(DATA_PYTHON), "root": str(root), "retention": 50}
    monkeypatch.setenv("AIRFLOW_CONN_KUBEFLOW_DEFAULT", json.dumps({"conn_type": "kubeflow", "extra": extra}))
    assert main(["prune"]) == 0
    assert old_run.is_dir()
    assert main(["prune", "--older-than", "10"]) == 0
    assert not old_run.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no age was given: pass --older-than DAYS, or set 'retention' in the extra of connection"),
        (["--older-than", "-1"], "--older-than is -1.0; give a number of days from 0 on"),
        (["--older-than", "1", "--conn-id", "nowhere"], "connection 'nowhere' cannot be used"),
        (["--older-than", "1", "--conn-id", "cluster"], "its runs are not on this machine"),
        (["--older-than", "1", "--root", "/nowhere"], "/nowhere is not a directory"),
        (["--older-than", "1", "--mlflow-conn-id", "nowhere"], "there is no connection 'nowhere'"),
    ],
)
def test_what_cannot_be_done_is_one_line(connections, monkeypatch, capsys, arguments, message):
    monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", '{"conn_type": "kubeflow", "host": "http://kfp"}')
    assert main(["prune", *arguments]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("llmops: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_nothing_is_removed_when_mlflow_does_not_answer(connections, monkeypatch, old_run, capsys):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", '{"conn_type": "mlflow", "host": "http://127.0.0.1:9"}')
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert main(["prune", "--older-than", "30"]) == 1
    assert "MLflow did not say which model versions there are" in capsys.readouterr().err
    assert old_run.is_dir()
    assert main(["prune", "--older-than", "30", "--no-mlflow"]) == 0
    assert not old_run.exists()


def test_directory_and_interpreter_do_without_a_connection(root, old_run, capsys):
    arguments = ["prune", "--root", str(root), "--python", str(DATA_PYTHON), "--older-than", "30"]
    assert main([*arguments, "--no-mlflow"]) == 0
    assert not old_run.exists()


def item(kind, name, days, size, kept):
    return {"kind": kind, "name": name, "days": days, "bytes": size, "kept": kept}


def test_report_names_what_goes_and_what_is_old_and_stays():
    items = [
        item("run", "dag.train", 40.2, 2_000_000, None),
        item("run", "dag.deploy", 41.0, 1_500_000_000, "the service default/bot"),
        item("run", "dag.new", 1.0, 500, "younger"),
        item("model", "a" * 64, 40.0, 3_000_000, "1 link in runs"),
    ]
    assert report(items, dry_run=False) == [
        "what  name        days  size    why",
        "run   dag.train   40    2 MB    removed",
        "run   dag.deploy  41    1.5 GB  kept: the service default/bot",
        "",
        "what   removed  size  kept  size",
        "model  0        0 B   1     3 MB",
        "run    1        2 MB  2     1.5 GB",
        "",
        "Gave 2 MB back.",
    ]
