"""The pages of runs on this machine: who sees which, and how tasks link to them."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.api_fastapi.core_api.security import get_user
from airflow.plugins_manager import get_fastapi_plugins
from comparisons import comparison, metric
from fastapi.testclient import TestClient

from airflow_provider_llmops.backends.pipelines.base import Run
from airflow_provider_llmops.exceptions import QualityGateFailed
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.operators.data import ValidateDatasetOperator
from airflow_provider_llmops.operators.evaluation import EvaluateModelOperator, QualityGateOperator
from airflow_provider_llmops.operators.registry import RegisterModelOperator
from airflow_provider_llmops.operators.training import TrainSFTOperator
from airflow_provider_llmops.pages import app as pages
from airflow_provider_llmops.pages.plugin import PagesPlugin
from airflow_provider_llmops.states import RunState

RUN = "6b1f4a0e-6d57-4a3e-9a2e-0d6c2f1f7c55"
PREFIX = f"/llmops/pages/kubeflow_default/{RUN}"
pytestmark = pytest.mark.usefixtures("connections")


@pytest.fixture
def artifacts(root) -> Path:
    """Where the run's artifacts lie."""
    run = root / "runs" / RUN
    (run / "artifacts").mkdir(parents=True)
    (run / "request.json").write_text(json.dumps({"labels": {"dag_id": "mine"}}))
    (run / "log.txt").write_text("secret")
    (run / "page.html").write_text("secret")
    return run / "artifacts"


@pytest.fixture
def browser(monkeypatch):
    """A browser of somebody who may see the DAG ``mine`` alone."""
    asked = SimpleNamespace(is_authorized_dag=lambda *, details, **_: details.id == "mine")
    monkeypatch.setattr(pages, "get_auth_manager", lambda: asked)
    app = pages.application.__wrapped__()
    app.dependency_overrides[get_user] = lambda: "somebody"
    return TestClient(app)


def test_page_is_shown_without_scripts_and_without_anything_from_elsewhere(browser, artifacts):
    (artifacts / "report.html").write_text("<h1>fine</h1>")
    answer = browser.get(f"/kubeflow_default/{RUN}/report.html")
    assert (answer.status_code, answer.text) == (200, "<h1>fine</h1>")
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-popups; default-src 'none';")
    assert "script" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_model_card_is_shown_as_a_page_with_its_curves_and_without_its_html(browser, artifacts):
    card = artifacts / "pipeline" / "train" / "model" / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text(
        "---\nlicense: mit\n---\n# Tiny\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n![Curves](training_curves.png)\n"
        "![Other](/etc/passwd)\n\n<script>alert(1)</script>\n"
    )
    (card.parent / "training_curves.png").write_bytes(b"\x89PNG")
    text = browser.get(f"/kubeflow_default/{RUN}/pipeline/train/model/README.md").text
    assert "license: mit" not in text
    assert "<h1>Tiny</h1>" in text
    assert "<td>1</td>" in text
    assert '<img src="data:image/png;base64,iVBORw==" alt="Curves" />' in text
    assert "passwd" not in text
    assert "<script>" not in text


@pytest.mark.parametrize(
    "address",
    [
        f"{RUN}/missing.html",
        f"{RUN}/weights.safetensors",
        f"{RUN}/../page.html",
        f"{RUN}/%2e%2e/page.html",
        f"{RUN}/%2e%2e%2flog.txt",
        f"{RUN}/link.html",
        f"{RUN}/%00.html",
        f"{RUN.upper()}/report.html",
        "../report.html",
        f"{RUN}/folder.html",
    ],
)
def test_nothing_else_is_shown(browser, artifacts, address):
    (artifacts / "report.html").write_text("fine")
    (artifacts / "weights.safetensors").write_text("weights")
    (artifacts / "link.html").symlink_to(artifacts.parent / "page.html")
    (artifacts / "folder.html").mkdir()
    assert browser.get(f"/kubeflow_default/{address}").status_code == 404


def test_connection_that_is_unknown_or_not_local_has_no_pages(browser, artifacts, monkeypatch):
    (artifacts / "report.html").write_text("fine")
    monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", json.dumps({"conn_type": "kubeflow", "host": "http://kfp"}))
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps({"conn_type": "http", "extra": {"root": "/"}}))
    for conn_id in ("nowhere", "cluster", "other"):
        assert browser.get(f"/{conn_id}/{RUN}/report.html").status_code == 404


def test_local_connection_has_pages_whatever_its_settings(browser, artifacts, root, monkeypatch):
    (artifacts / "report.html").write_text("fine")
    extra = {"python": "/usr/bin/python3", "root": str(root), "slots": 2, "retention": 30}
    monkeypatch.setenv("AIRFLOW_CONN_TIDY", json.dumps({"conn_type": "kubeflow", "extra": extra}))
    assert browser.get(f"/tidy/{RUN}/report.html").text == "fine"


def test_page_is_for_those_who_may_see_its_dag(browser, artifacts):
    (artifacts / "report.html").write_text("fine")
    for text in ('{"labels": {"dag_id": "theirs"}}', "{}", ""):
        (artifacts.parent / "request.json").write_text(text)
        assert browser.get(f"/kubeflow_default/{RUN}/report.html").status_code == 403


def test_web_server_finds_the_pages_where_links_point():
    (entry,) = entry_points(group="airflow.plugins", name="llmops_pages")
    assert entry.load() is PagesPlugin
    pages, overview = PagesPlugin.fastapi_apps
    assert all(each in get_fastapi_plugins()[0] for each in (pages, overview))
    assert PREFIX.startswith(pages["url_prefix"] + "/")


def finish(operator, context, artifacts, root, *, passed=True, details=None, **files):
    """Let a run end that has left files, and the operator take its outcome."""
    spec = operator.spec()
    step = artifacts / spec.pipeline_name / next(iter(spec.ir["root"]["dag"]["tasks"]))
    described = {}
    for name, file in files.items():
        path = step / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("page")
        top = step / Path(file).parts[0]
        described[name] = {"uri": str(top), "digest": "sha256:0", "bytes": 4}
    result = {
        "schema_version": 1,
        "component": operator.component,
        "passed": passed,
        "findings": [] if passed else ["1 of 2 rows rejected", "line 2: completion is empty"],
        "artifacts": described,
        "metrics": {"rows": 2},
        "details": details or {},
        "resources": {},
    }
    (step / "result").write_text(json.dumps(result))
    operator._context = context
    return operator.outcome(context, Run(RUN, "name", RunState.SUCCEEDED, log_hint="/runs/log.txt"))


def test_data_docs_are_linked_also_where_the_gate_was_not_passed(context, artifacts, root):
    operator = ValidateDatasetOperator(task_id="validate", dataset="/d")
    with pytest.raises(QualityGateFailed) as caught:
        finish(operator, context, artifacts, root, passed=False, data_docs="data_docs.html")
    lines = str(caught.value).split("\n")
    assert lines[0] == "1 of 2 rows rejected: line 2: completion is empty."
    assert lines[1:3] == [f"Run {RUN} (validate_dataset)", "Log: /runs/log.txt"]
    step = f"{operator.spec().pipeline_name}/validate-dataset"
    assert lines[3:] == [f"data_docs: {artifacts / step / 'data_docs.html'}"]
    assert context["ti"].xcom["_link_DataDocsLink"] == f"{PREFIX}/{step}/data_docs.html"


def test_report_model_card_and_mlflow_run_are_linked(context, artifacts, root):
    finish(
        EvaluateModelOperator(task_id="e", model="/m", dataset="/d"),
        context,
        artifacts,
        root,
        report="report.html",
    )
    assert context["ti"].xcom["_link_ReportLink"].endswith("/evaluate-model/report.html")
    tracking = {"tracking": {"run_id": "1", "experiment_id": "2", "url": "http://mlflow/#/run"}}
    finish(
        TrainSFTOperator(task_id="t", dataset="/d", base_model="/m"),
        context,
        artifacts,
        root,
        details=tracking,
        model="model/README.md",
    )
    assert context["ti"].xcom["_link_ModelCardLink"].endswith("/train-sft/model/README.md")
    assert context["ti"].xcom["_link_MlflowRunLink"] == "http://mlflow/#/run"


def test_nothing_is_linked_that_is_not_there(context, artifacts, root):
    finish(
        TrainSFTOperator(task_id="t", dataset="/d", base_model="/m"),
        context,
        artifacts,
        root,
        adapter="adapter/a",
    )
    assert [key for key in context["ti"].xcom if key.startswith("_link_")] == []
    assert KubeflowPipelinesHook().page_url(str(artifacts / "report.html")) == ""
    assert KubeflowPipelinesHook().page_url("/elsewhere/report.html") == ""


def test_gate_names_and_links_the_report(context, artifacts, root):
    (artifacts / "report.html").write_text("fine")
    gate = QualityGateOperator(
        task_id="gate",
        comparison=comparison(rougeL=metric(0.41, 0.52)),
        rules=[{"metric": "rougeL", "better_by": 0}],
        report=str(artifacts / "report.html"),
    )
    with pytest.raises(QualityGateFailed) as caught:
        gate.execute(context)
    assert str(caught.value).split("\n")[1] == f"Report: {PREFIX}/report.html"
    assert context["ti"].xcom["_link_ReportLink"] == f"{PREFIX}/report.html"


def test_registration_links_report_and_model_card_before_it_waits(context, artifacts, monkeypatch):
    (artifacts / "report.html").write_text("fine")
    (artifacts / "model").mkdir()
    (artifacts / "model" / "README.md").write_text("# card")
    task = RegisterModelOperator(
        task_id="register",
        model=str(artifacts / "model"),
        model_name="name",
        report=str(artifacts / "report.html"),
        reuse="stop here",
    )
    with pytest.raises(Exception, match="reuse must be one of"):
        task.execute(context)
    assert context["ti"].xcom["_link_ReportLink"] == f"{PREFIX}/report.html"
    assert context["ti"].xcom["_link_ModelCardLink"] == f"{PREFIX}/model/README.md"


def test_address_begins_with_that_of_the_web_server_if_it_is_known(artifacts, monkeypatch):
    (artifacts / "report.html").write_text("fine")
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/team/")
    assert KubeflowPipelinesHook().page_url(str(artifacts / "report.html")) == (
        f"https://airflow.example.com/team{PREFIX}/report.html"
    )
