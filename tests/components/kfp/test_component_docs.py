"""The code in the components' page runs."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[3] / "kfp_components" / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS)
def test_python_in_the_page_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(code)
    runpy.run_path("example.py")


def test_there_is_code_in_the_page():
    assert len(BLOCKS) == 2


def test_components_are_found_by_their_names_beside_the_modules_of_the_same_names():
    import llmops_components.kfp.evaluate_model  # noqa: F401  (which would take the name)
    from llmops_components import kfp

    assert {name: getattr(kfp, name) for name in kfp.COMPONENTS} == kfp.COMPONENTS


def test_a_step_loads_its_helper_where_kfp_defines_no_components():
    environment = {**os.environ, "_KFP_RUNTIME": "true"}
    code = "import llmops_components.kfp._run, llmops_components.kfp._train"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
