"""The documentation is true: its code runs, its tables are complete, its links lead somewhere."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from planes import REPO

from airflow_provider_llmops.get_provider_info import get_provider_info

PAGES = sorted(
    path
    for path in REPO.rglob("*.md")
    if not any(part.startswith(".") for part in path.relative_to(REPO).parts)
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", blocks(REPO / "airflow_provider_llmops" / "README.md", "python"))
def test_python_in_the_providers_page_runs(code, tmp_path):
    (tmp_path / "example.py").write_text(code)
    runpy.run_path(str(tmp_path / "example.py"))


def test_connections_in_the_providers_page_are_what_the_hooks_read(monkeypatch):
    from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook, local_settings
    from airflow_provider_llmops.hooks.mlflow import MlflowHook

    (shell, *_) = blocks(REPO / "airflow_provider_llmops" / "README.md", "bash")
    for name, value in re.findall(r"^export (\w+)='([^']*)'$", shell, re.MULTILINE):
        monkeypatch.setenv(name, value)
    cluster = KubeflowPipelinesHook("kubeflow_team_a").backend.settings
    assert (cluster.namespace, cluster.auth) == ("team-a", "token_file")
    assert MlflowHook().tracking_uri() == "https://mlflow.example.com"
    connection = KubeflowPipelinesHook.get_connection("kubeflow_default")
    assert local_settings(connection)["python"] == "/opt/llmops/.venv/data/bin/python"


def test_front_page_lists_every_operator_and_component():
    page = (REPO / "README.md").read_text()
    components = {path.stem for path in (REPO / "airflow_provider_llmops" / "components").glob("*.yaml")}
    modules = {name for group in get_provider_info()["operators"] for name in group["python-modules"]}
    operators = set()
    for module in modules:
        source = (REPO / f"{module.replace('.', '/')}.py").read_text()
        operators |= set(re.findall(r"^class (\w+Operator)\(", source, re.MULTILINE))
    operators -= {
        "PipelineRunOperator",
        "ComponentOperator",
        "TrainingOperator",
        "ReinforcementOperator",
        "RevisionOperator",
        "JudgedOperator",
        "EvaluationOperator",
        "ReportOperator",
    }  # bases
    assert {name for name in operators | components if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_and_commands_lead_somewhere(page):
    text = page.read_text()
    targets = [
        target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target
    ]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []
    commands = set(re.findall(r"\b(dev/(?:bench/)?[a-z_-]+(?:\.py|\.toml|\.sh)?)\b", text))
    assert [command for command in commands if not (REPO / command).exists()] == []
