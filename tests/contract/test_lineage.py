"""Where a version came from: what an operator notes, a real MLflow keeps, and the command and the operator tell."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from mlflow_versions import mlflow_with_versions

from airflow_provider_llmops.cli import main
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.hooks import mlflow as hooks
from airflow_provider_llmops.lineage.version import parse_reference
from airflow_provider_llmops.operators.lineage import ModelLineageOperator
from airflow_provider_llmops.operators.registry import RegisterModelOperator

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PINNED = f"ghcr.io/team/components@sha256:{'a' * 64}"
CONF = {
    "method": "sft",
    "model_name": "chat",
    "max_steps": 3,
    "train_data": "/data/it's.jsonl",
    "min_score": None,
}
DECISION = {"outcome": "pass", "findings": [], "rules": {}, "evidence": {}, "baseline": "the base model"}
MADE_BY = [
    {
        "component": "import_base_model",
        "component_digest": "sha256:01",
        "image": PINNED,
        "run_id": "run-1",
        "artifacts": {"model": {"digest": "sha256:0b"}},
        "details": {"source": "hf://org/base", "revision": "c0ffee"},
    },
    None,  # a task that was skipped
    {
        "component": "train_sft",
        "component_digest": "sha256:02",
        "image": "components:0.1.0",
        "run_id": "run-2",
    },
    {"component": "train_sft", "component_digest": "sha256:02", "image": None, "run_id": "run-3"},
]


def registered(conf=CONF, made_by=MADE_BY, **facts) -> dict[str, str]:
    """The tags that a task gives its version."""
    now = datetime(2026, 11, 26, 10, tzinfo=UTC)
    ti = SimpleNamespace(
        dag_id="post_training",
        run_id="manual__2026-11-26",
        task_id="register_model",
        map_index=-1,
        dag_version_id="0192-7f",
        bundle_instance=SimpleNamespace(name="team", version=COMMIT),
    )
    run = SimpleNamespace(
        run_type="manual", run_after=now, logical_date=now, data_interval_end=None, conf=conf, **facts
    )
    task = RegisterModelOperator(
        task_id="register_model", model="/m", model_name="chat", dataset="/runs/7/validated", made_by=made_by
    )
    task._context = {"ti": ti, "dag_run": run, "params": conf}
    return task.arguments()["tags"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of MLflow; version 1 of ``chat`` knows everything, version 2 nothing, version 3 is made from the first."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", "mlflow://tracking:5000")
        parent = {
            "component": "fetch_model",
            "component_digest": "sha256:03",
            "details": {"name": "chat", "version": "1"},
        }
        whole, child = registered(), registered({"text": "x" * 6000}, [parent])
    asked = [
        {
            "model_name": "chat", "alias": "production", "tags": whole, "with_data": True, "decision": DECISION,
            "model_metrics": {"rougeL": 0.5, **{f"more_{number}": number for number in range(60)}},
        },
        {"model_name": "chat"},
        {"model_name": "chat", "tags": child | {"airflow.run_type": "asset_triggered"}},
    ]  # fmt: skip
    with mlflow_with_versions(tmp_path_factory.mktemp("mlflow"), asked) as address:
        yield address


@pytest.fixture
def asked(server, monkeypatch):
    """Addresses that were asked."""
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": server}))
    seen, real = [], hooks.request
    monkeypatch.setattr(hooks, "request", lambda url, **rest: seen.append(url) or real(url, **rest))
    return seen


def told(capsys, reference):
    assert main(["lineage", reference, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("reference", ["chat@1", "chat@production"])
def test_a_version_answers_what_made_it_with_two_requests(asked, capsys, reference):
    found = told(capsys, reference)
    assert len(asked) == 2
    assert (found["model_name"], found["model_version"], found["aliases"]) == ("chat", "1", ["production"])
    assert found["dag"] == {
        "dag_id": "post_training",
        "run_id": "manual__2026-11-26",
        "task_id": "register_model",
        "dag_version": "0192-7f",
        "bundle_name": "team",
        "bundle_version": COMMIT,
        "logical_date": "2026-11-26T10:00:00Z",
        "run_type": "manual",
    }
    assert found["components"] == {
        "import_base_model": {
            "digest": "sha256:01", "image": PINNED, "image_digest": f"sha256:{'a' * 64}", "run_id": "run-1",
        },
        "train_sft": {
            "digest": "sha256:02", "image": "components:0.1.0", "image_digest": None, "run_id": "run-2",
        },
        "train_sft.2": {"digest": "sha256:02", "image": "none", "image_digest": None, "run_id": "run-3"},
    }  # fmt: skip
    assert found["data"]["train"]["uri"] == "/runs/7/validated"
    assert found["data"]["train"]["digest"].startswith("sha256:")
    assert found["base_model"] == {"source": "hf://org/base@c0ffee", "digest": "sha256:0b"}
    assert found["decision"] == {"outcome": "pass", "baseline": "the base model"}
    assert (len(found["metrics"]), found["metrics_left_out"]) == (50, 11)
    assert found["missing"] == [
        "Not recorded: the digest of the image of train_sft, since components:0.1.0 does not name one."
    ]
    assert found["conf"] == CONF


def test_it_can_be_run_again_with_the_same_settings(asked, capsys):
    words = shlex.split(told(capsys, "chat@1")["rerun"])
    assert words[:5] == ["airflow", "dags", "trigger", "post_training", "--conf"]
    assert json.loads(words[5]) == CONF
    assert main(["lineage", "chat@1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("chat version 1, production\n")
    assert f"\nbundle_version  {COMMIT}\n" in text
    assert f"with the version that it ran with, {COMMIT}: clear the run manual__2026-11-26" in text


def test_what_is_not_recorded_is_named_and_not_guessed(asked, capsys):
    found = told(capsys, "chat@2")
    for name in ("dag", "components", "data", "base_model", "parent", "metrics", "decision"):
        assert not found[name]
    assert (found["conf"], found["rerun"], found["provider_version"]) == (None, None, None)
    said = " ".join(found["missing"])
    for what in (
        "the DAG",
        "bundle's version",
        "components",
        "data",
        "base model",
        "metrics",
        "decision",
        "settings",
    ):
        assert what in said
    assert main(["lineage", "chat@2"]) == 0
    assert "It cannot be run again from what is recorded." in capsys.readouterr().out


def test_a_version_names_the_one_that_it_was_made_from_and_why_it_cannot_be_run_again(asked, capsys):
    found = told(capsys, "chat@3")
    assert found["parent"] == {"version": "chat@1"}
    assert (found["conf"], found["rerun"]) == (None, None)
    said = " ".join(found["missing"])
    assert "since their 6012 characters are more than a tag takes" in said
    assert "the event of the asset that started the run" in said


def test_the_operator_tells_the_same(asked):
    found = ModelLineageOperator(task_id="lineage", model_name="chat", alias="production").execute({})
    assert (found["model_version"], found["dag"]["bundle_version"]) == ("1", COMMIT)
    assert len(asked) == 2
    with pytest.raises(ConfigurationError, match=r"^Give model_version or alias, one of the two"):
        ModelLineageOperator(task_id="lineage", model_name="chat", model_version="").execute({})


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("chat@9", "There is no version 9 of a registered model 'chat'"),
        ("chat@nobody", "There is no alias 'nobody' of a registered model 'chat'"),
        ("other@1", "There is no version 1 of a registered model 'other'"),
        ("chat", "Write MODEL@VERSION or MODEL@ALIAS, such as support-assistant@3, instead of 'chat'"),
    ],
)
def test_a_version_that_is_not_there_is_refused_in_words(asked, capsys, reference, message):
    assert main(["lineage", reference]) == 1
    assert capsys.readouterr().err.startswith(f"llmops: {message}")


def test_what_made_a_version_is_what_tasks_have_returned(server):
    with pytest.raises(ConfigurationError, match=r"^made_by holds 'train', which no component has returned"):
        registered(made_by=["train"])
    with pytest.raises(ConfigurationError, match=r"^made_by must be a list of what tasks have returned"):
        registered(made_by={"component": "train_sft"})
    assert parse_reference("a.b@7") == ("a.b", "7", None)
