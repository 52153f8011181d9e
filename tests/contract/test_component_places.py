"""Where a component is named: each place that a new one needs, and no other that somebody would have to think of."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from planes import REPO

from airflow_provider_llmops.get_provider_info import get_provider_info
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.operators.train_job import TrainJobOperator
from airflow_provider_llmops.operators.training import TrainingOperator
from airflow_provider_llmops.specs.index import read_index

PROVIDER, LIBRARY = REPO / "airflow_provider_llmops", REPO / "kfp_components" / "llmops_components"
COMPONENTS = sorted(read_index()["components"])
TRAININGS = read_index()["trainings"]


@cache
def names_in(file: Path) -> frozenset[str]:
    """What a module names in its code: words of its own, and text that is a name; its documentation does not count."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Constant(value=str(name)) | ast.Name(id=name) | ast.FunctionDef(name=name):
                found.add(name)
            case ast.alias(name=name):
                found.add(name.rpartition(".")[2])
    return frozenset(found)


def modules_that_name(component: str) -> set[str]:
    """Without the groups: they are parts of DAGs, whose tasks are called like the components."""
    files = [
        file for root in (PROVIDER, LIBRARY) for file in root.rglob("*.py") if "groups" not in file.parts
    ]
    return {str(file.relative_to(REPO)) for file in files if component in names_in(file)}


def operators_of(component: str) -> list[type]:
    modules = [name for group in get_provider_info()["operators"] for name in group["python-modules"]]
    for name in modules:
        __import__(name)

    def below(kind: type) -> set[type]:
        return {kind, *(deeper for sub in kind.__subclasses__() for deeper in below(sub))}

    return [each for each in below(ComponentOperator) if vars(each).get("component") == component]


@pytest.mark.parametrize("training", TRAININGS)
def test_way_of_training_is_named_in_its_own_modules_and_in_one_table(training):
    method = training.removeprefix("train_")
    library = "kfp_components/llmops_components"
    assert modules_that_name(training) == {
        f"{library}/training/methods/{method}.py",  # the function
        f"{library}/passthrough/trainings.py",  # its row in the table
        f"{library}/kfp/{training}.py",  # the component
        f"{library}/kfp/__init__.py",  # its import
        "airflow_provider_llmops/operators/training.py",  # the operator
    }


@pytest.mark.parametrize("component", COMPONENTS)
def test_component_has_a_definition_a_specification_and_an_operator(component):
    assert (LIBRARY / "kfp" / f"{component}.py").is_file()
    assert (PROVIDER / "components" / f"{component}.yaml").is_file()
    # DeployModelOperator delivers a service itself; the component is for pipelines without Airflow.
    assert len(operators_of(component)) == (component != "deploy_model")


def rows_of(page: Path, heading: str) -> list[list[str]]:
    """The rows of the table with this heading, cell by cell."""
    _, _, table = page.read_text().partition(f"{heading}\n")
    lines = table.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def test_tables_name_every_component_once_with_its_operator_and_what_it_makes():
    rows = rows_of(REPO / "README.md", "| operator | component | what it does |")
    pairs = [pair for row in rows for pair in zip(names(row[0]), names(row[1]), strict=False)]
    assert sorted(pairs) == sorted(
        (kind.__name__, component) for component in COMPONENTS for kind in operators_of(component)
    )
    table = rows_of(REPO / "kfp_components" / "README.md", "| component | takes | makes | with |")
    made = {
        component: {name for name in names(row[2]) if name.islower()}
        for row in table
        for component in names(row[0])
    }
    outputs = {
        name: {output for output in each["outputs"] if output not in ("result", "metrics")}
        for name, each in read_index()["components"].items()
    }
    assert made == outputs
    taken = {component: set(names(row[1])) for row in table for component in names(row[0])}
    assert {
        name: unknown
        for name, found in taken.items()
        if (unknown := found - set(read_index()["components"][name]["inputs"]))
    } == {}


@pytest.mark.parametrize("operator", [TrainingOperator, TrainJobOperator])
def test_operators_name_every_preset(operator):
    assert [name for name in read_index()["presets"] if f"``{name}``" not in operator.__doc__] == []
    page = (PROVIDER / "README.md").read_text()
    assert [name for name in read_index()["presets"] if name not in page] == []
