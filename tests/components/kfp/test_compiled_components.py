"""The compiled specifications that the provider ships."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp import compiler, components
from llmops_components.kfp import COMPONENTS

SHIPPED = Path(__file__).resolve().parents[3] / "airflow_provider_llmops" / "components"


@pytest.mark.parametrize("name", COMPONENTS)
def test_shipped_specification_is_what_the_component_compiles_to(name, tmp_path):
    compiler.Compiler().compile(COMPONENTS[name], str(tmp_path / f"{name}.yaml"))
    assert (SHIPPED / f"{name}.yaml").read_bytes() == (tmp_path / f"{name}.yaml").read_bytes(), (
        f"components/{name}.yaml is stale: run dev/compile_components"
    )


def test_no_other_specification_is_shipped():
    assert sorted(path.stem for path in SHIPPED.glob("*.yaml")) == sorted(COMPONENTS)


@pytest.mark.parametrize("name", COMPONENTS)
def test_component_is_documented_and_named_everywhere_alike(name):
    component = COMPONENTS[name]
    spec = component.component_spec
    assert spec.name == name.replace("_", "-")
    assert spec.description
    undocumented = [field for field, item in (spec.inputs or {}).items() if not item.description]
    assert undocumented == []
    assert "result" in spec.outputs


@pytest.mark.parametrize("name", COMPONENTS)
def test_component_can_be_used_in_anybodys_pipeline(name):
    loaded = components.load_component_from_file(str(SHIPPED / f"{name}.yaml"))
    assert set(loaded.component_spec.inputs or {}) == set(COMPONENTS[name].component_spec.inputs or {})
