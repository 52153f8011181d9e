"""The distributions, installed into an Airflow that has nothing of this checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from planes import DATA_PYTHON, REPO

BUILD = """
import sys
from setuptools import build_meta
target = sys.argv[1]  # building sets other arguments
print(build_meta.build_wheel(target), build_meta.build_sdist(target))
"""
PARSE = """
import json
from pathlib import Path
import airflow_provider_llmops.example_dags as examples
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=Path(next(iter(examples.__path__))))
print("FOUND", json.dumps([sorted(bag.dags), bag.import_errors]))
"""


def build(source: Path, target: Path) -> tuple[Path, Path]:
    """Wheel and source distribution of a project, made where a current setuptools is, so that nothing is fetched."""
    target.mkdir()
    command = [DATA_PYTHON, "-c", BUILD, str(target)]
    said = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    wheel, archive = said.stdout.splitlines()[-1].split()
    return target / wheel, target / archive


@pytest.fixture(scope="module")
def provider(tmp_path_factory) -> tuple[Path, Path]:
    """The provider's wheel and source distribution."""
    place = tmp_path_factory.mktemp("provider")
    for name in ("airflow_provider_llmops", "dags"):
        shutil.copytree(REPO / name, place / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPO / name, place / "source")
    return build(place / "source", place / "built")


@pytest.fixture(scope="module")
def airflow(provider, tmp_path_factory):
    """A command of an environment with Airflow and the wheel, and of these alone."""
    place = tmp_path_factory.mktemp("airflow")
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, place / "venv"], check=True)
    constraints = REPO / "dev/constraints/control-plane.txt"
    install = [*uv, "pip", "install", "--quiet", "--python", place / "venv/bin/python", "-c", constraints]
    said = subprocess.run([*install, provider[0]], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW", "LLMOPS", "PYTHON"))
    }
    environment = inherited | {"AIRFLOW_HOME": str(place / "home")}

    def run(*command: str) -> str:
        executable, *arguments = command
        said = subprocess.run(
            [place / "venv/bin" / executable, *arguments],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert said.returncode == 0, said.stdout + said.stderr
        return said.stdout

    return run


@pytest.fixture(scope="module")
def wheel(provider) -> dict[str, str]:
    """Texts of the files in the provider's wheel, by path."""
    with zipfile.ZipFile(provider[0]) as archive:
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


def test_airflow_lists_the_provider_and_its_connections(airflow):
    providers = json.loads(airflow("airflow", "providers", "list", "-o", "json"))
    assert "airflow-provider-llmops" in {each["package_name"] for each in providers}
    hooks = airflow("airflow", "providers", "hooks", "-o", "json")
    assert {"kubeflow", "kserve"} <= {each["connection_type"] for each in json.loads(hooks)}
    assert "llmops_pages" in airflow("airflow", "plugins", "-o", "json")


def test_example_dags_are_parsed_without_extras(airflow):
    printed = airflow("python", "-c", PARSE)
    (found,) = (line for line in printed.splitlines() if line.startswith("FOUND "))
    dags, errors = json.loads(found.removeprefix("FOUND "))
    assert errors == {} and {"post_training", "progressive_delivery", "data_quality"} <= set(dags)


def test_command_is_there_and_knows_its_files(airflow):
    assert "data-plane" in airflow("llmops", "--help")
    assert json.loads(airflow("llmops", "recipe", "schema"))["$schema"]


def test_source_distribution_makes_the_same_wheel(provider, tmp_path):
    wheel, archive = provider
    shutil.unpack_archive(archive, tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    again, _ = build(source, tmp_path / "built")
    contents = [
        {name: each.read(name) for name in each.namelist() if not name.endswith("RECORD")}
        for each in map(zipfile.ZipFile, (wheel, again))
    ]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("project", [".", "kfp_components"])
def test_metadata_is_what_an_index_takes(project, provider, tmp_path):
    if project == ".":
        wheel = provider[0]
    else:
        shutil.copytree(REPO / project, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
        wheel, _ = build(tmp_path / "source", tmp_path / "built")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        text = archive.read(name)
    metadata = Metadata.from_email(text, validate=True)
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.description_content_type == "text/markdown" and metadata.summary
    assert HeaderParser().parsestr(text.decode())["Requires-Python"] == ">=3.11"
