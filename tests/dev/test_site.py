"""The documentation site is built without a warning, and has a page for everything."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from _site import lay_out, main
from planes import REPO

from airflow_provider_llmops.get_provider_info import get_provider_info


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    environment = os.environ | {"LLMOPS_SKIP_SETUP": "1"}
    said = subprocess.run(
        [sys.executable, "dev/docs", target], cwd=REPO, env=environment, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stdout + said.stderr  # warnings are errors
    return target


def test_every_page_is_there_and_found_from_the_first(site):
    pages = [*REPO.glob("docs/*.md"), REPO / "README.md", REPO / "airflow_provider_llmops/README.md"]
    expected = {str(path.relative_to(REPO).with_suffix(".html")) for path in pages}
    assert expected <= set(re.findall(r'href="([^"#]+\.html)', (site / "index.html").read_text()))
    assert all((site / path).is_file() for path in expected)


def test_every_operator_is_described_with_its_parameters_and_guides(site):
    info = get_provider_info()
    for module in (name for group in info["operators"] for name in group["python-modules"]):
        page = (site / "reference/operators" / f"{module.rpartition('.')[2]}.html").read_text()
        source = (REPO / f"{module.replace('.', '/')}.py").read_text()
        for name in re.findall(r"^class ([A-Z]\w+)\(", source, re.MULTILINE):
            assert f'id="{module}.{name}"' in page
    canary = (site / "reference/operators/canary.html").read_text()
    assert 'href="../../docs/canaries.html"' in canary and "Parameters" in canary


def test_every_connection_and_component_has_its_fields(site):
    page = (site / "reference/connections.html").read_text()
    for kind in get_provider_info()["connection-types"]:
        assert all(
            f">{name}</span>" in page for name in [kind["connection-type"], *kind.get("conn-fields", {})]
        )
    for path in (REPO / "airflow_provider_llmops/components").glob("*.yaml"):
        assert (site / "reference/components" / f"{path.stem}.html").is_file()
    page = re.sub(r"<[^>]+>", "", (site / "reference/components/evaluate_service.html").read_text())
    assert re.search(r"concurrency\s+integer\s+16\s+Questions at a time\.", page)


def test_what_is_no_site_is_left_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / "letter.txt").write_text("mine")
    monkeypatch.setenv("LLMOPS_SKIP_SETUP", "1")
    assert main([str(tmp_path)]) == 2
    assert "no site of Sphinx's" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_files_that_pages_lead_to_come_along(tmp_path):
    lay_out(tmp_path / "pages")
    assert (tmp_path / "pages/docs/kubernetes/network-policies.yaml").is_file()
    assert not (tmp_path / "pages/tests").exists()
