"""The wall between the planes, and what importing the provider costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from planes import DATA_PYTHON, REPO

from airflow_provider_llmops.get_provider_info import get_provider_info

DATA_PLANE = {
    "llmops_components", "kfp", "torch", "transformers", "trl", "peft", "datasets", "ragas", "great_expectations",
    "polars", "kserve",
}  # fmt: skip
HEAVY = {
    "kubernetes",
    "kfp_server_api",
    "mlflow",
    "pandas",
    "psutil",
    "requests",
    "httpx2",
    "numpy",
    "google",
    "openlineage",
}


def modules() -> list[str]:
    paths = sorted((REPO / "airflow_provider_llmops").rglob("*.py"))
    names = (".".join(path.relative_to(REPO).with_suffix("").parts) for path in paths)
    return [name.removesuffix(".__init__") for name in names]


def loaded_by(python, code: str) -> set[str]:
    """Top-level modules that are loaded after some code has run in a fresh process."""
    program = f"import sys\n{code}\nimport json; print(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True, cwd=REPO)
    return {name.partition(".")[0] for name in json.loads(answer.stdout.splitlines()[-1])}


def test_no_module_of_the_provider_loads_the_data_plane():
    imports = "\n".join(f"import {name}" for name in modules())
    assert loaded_by(sys.executable, imports) & DATA_PLANE == set()


def test_the_data_plane_is_not_installed_beside_airflow():
    found = f"import importlib.util as u; found = [n for n in {sorted(DATA_PLANE)!r} if u.find_spec(n)]"
    answer = subprocess.run(
        [sys.executable, "-c", f"{found}; print(found)"], capture_output=True, text=True, check=True, cwd="/"
    )
    assert answer.stdout.strip() == "[]"


def test_operators_sensors_and_hooks_load_nothing_heavy_beyond_airflows_sdk():
    names = [name for name in modules() if name.split(".")[1:2] in (["operators"], ["sensors"], ["hooks"])]
    assert len(names) >= 10
    base = loaded_by(sys.executable, "import airflow.sdk; airflow.sdk.BaseOperator; airflow.sdk.BaseHook")
    ours = loaded_by(sys.executable, "\n".join(f"import {name}" for name in names))
    assert (ours - base) & HEAVY == set()


@pytest.mark.parametrize("name", ["airflow", "airflow_provider_llmops"])
def test_the_control_plane_is_not_installed_beside_the_components(name):
    answer = subprocess.run(
        [DATA_PYTHON, "-c", f"import importlib.util as u; print(u.find_spec({name!r}))"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert answer.stdout.strip() == "None"


def test_provider_info_imports_nothing_but_the_fields_of_connections():
    assert "airflow_provider_llmops.hooks" not in loaded_by(
        sys.executable, "from airflow_provider_llmops.get_provider_info import get_provider_info"
    )
    nothing = ["from __future__ import annotations", "from typing import Any"]
    fields = "from airflow_provider_llmops.connections import ("
    assert imports_of("connections") == nothing
    assert imports_of("get_provider_info") == [*nothing, fields]


def imports_of(module):
    lines = (REPO / "airflow_provider_llmops" / f"{module}.py").read_text().splitlines()
    return [line for line in lines if line.startswith(("import ", "from "))]


def test_provider_info_names_every_module_there_is():
    info = get_provider_info()
    named = {
        module
        for kind in ("operators", "sensors", "hooks", "triggers")
        for group in info[kind]
        for module in group["python-modules"]
    }
    kinds = ("operators", "sensors", "hooks", "triggers")
    helpers = {"airflow_provider_llmops.remote.settle", "airflow_provider_llmops.triggers.run_stream"}
    assert (
        named
        == {name for name in modules() if name.count(".") == 2 and name.split(".")[1] in kinds} - helpers
    )
