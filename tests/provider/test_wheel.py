"""The wheel holds what somebody without a checkout needs."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from planes import DATA_PYTHON, REPO


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> dict[str, str]:
    """Texts of the files in the provider's wheel, by path."""
    source = tmp_path_factory.mktemp("source")
    for name in ("airflow_provider_llmops", "dags"):
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    # In the environment that has a current setuptools, so that nothing is fetched.
    build = "import setuptools.build_meta as backend; backend.build_wheel('.')"
    subprocess.run([DATA_PYTHON, "-c", build], cwd=source, check=True, capture_output=True)
    (path,) = source.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode(errors="replace") for name in archive.namelist()}


def files_below(folder: Path, *patterns: str) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for pattern in patterns
        for path in folder.rglob(pattern)
    }


def test_wheel_holds_every_module_specification_and_constraint_of_the_package(wheel):
    expected = files_below(
        REPO / "airflow_provider_llmops", "*.py", "*.yaml", "*.txt", "*.schema.json", "py.typed"
    )
    found = {
        name.partition("/")[2]: text
        for name, text in wheel.items()
        if name.startswith("airflow_provider_llmops/")
    }
    assert {name: found.get(name) for name in expected} == expected
    assert {"components/index.json", "components/kfp.binpb"} <= found.keys()


def test_wheel_holds_the_example_dags_where_airflow_looks_for_those_of_a_provider(wheel):
    expected = files_below(REPO / "dags", "*.py", "*.yaml")
    prefix = "airflow_provider_llmops/example_dags/"
    found = {name.removeprefix(prefix): text for name, text in wheel.items() if name.startswith(prefix)}
    assert found == expected


def test_wheel_declares_the_provider_and_the_command(wheel):
    (entry_points,) = (text for name, text in wheel.items() if name.endswith("entry_points.txt"))
    assert "llmops = airflow_provider_llmops.cli:main" in entry_points
    assert "[apache_airflow_provider]" in entry_points
