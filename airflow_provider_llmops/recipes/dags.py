"""Recipes as DAGs: each has the tasks of `post_training`, and a form whose defaults are the recipe's settings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param, PartitionedAtRuntime, get_parsing_context
from airflow.sdk.definitions.param import ParamsDict

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.groups.post_training import post_training_group
from airflow_provider_llmops.operators.spending import RunCostOperator
from airflow_provider_llmops.recipes.reading import read_recipe, recipe_files
from airflow_provider_llmops.recipes.recipe import Recipe, json_schema, settings_of

__all__ = ["dag_from_recipe", "dags_from_recipes", "params_of"]

_START = datetime(2024, 1, 1, tzinfo=UTC)  # of schedules; without catch-up it only has to be past
_OF_A_FORM = (
    "type", "enum", "pattern", "minimum", "maximum", "exclusiveMinimum", "minLength", "maxItems", "items",
)  # fmt: skip


def dags_from_recipes(folder: str | Path) -> dict[str, DAG]:
    """A DAG for each recipe in a folder, by name; for a DAG file, ``globals().update(dags_from_recipes(...))``.

    :param folder: with files ``*.yaml`` and ``*.yml``
    :raises ConfigurationError: names every fault of every recipe. None of them becomes a DAG then, and Airflow shows the error
    """
    recipes: dict[str, Recipe] = {}
    files: dict[str, Path] = {}
    faults: list[str] = []
    for file in recipe_files(folder):
        try:
            recipe = read_recipe(file)
        except ConfigurationError as error:
            faults.append(str(error))
            continue
        if recipe.name in files:
            faults.append(f"The name {recipe.name!r} is that of {files[recipe.name].name}, too: {file.name}.")
        files[recipe.name], recipes[recipe.name] = file, recipe
    if faults:
        raise ConfigurationError("\n".join(faults))
    wanted = get_parsing_context().dag_id  # a worker asks for the DAG of its task alone
    return {name: dag_from_recipe(recipe) for name, recipe in recipes.items() if wanted in (None, name)}


def dag_from_recipe(recipe: Recipe) -> DAG:
    """The DAG of a recipe.

    :param recipe: the recipe
    """
    with DAG(
        dag_id=recipe.name,
        schedule=recipe.schedule or PartitionedAtRuntime(),  # without one a run may be of a partition
        start_date=_START if recipe.schedule else None,
        catchup=False,
        default_args={"retries": 1, "retry_delay": timedelta(seconds=5)},
        render_template_as_native_obj=True,
        doc_md=recipe.description or None,
        tags=["llmops", "recipe"],
    ) as dag:
        post_training_group(group_id=None, model_name=recipe.name, namespace=recipe.serving.namespace)
        RunCostOperator.last_of(dag)
    # Afterwards: Airflow copies the parameters of the DAG for each class of each task that is made, which is most of the time of parsing.
    dag.params = ParamsDict(params_of(recipe))
    return dag


def params_of(recipe: Recipe) -> dict[str, Param]:
    """The parameters that the tasks read, with the recipe's settings as defaults, and its limits.

    :param recipe: the recipe
    """
    schema = json_schema()
    return {
        name: Param(list(value) if isinstance(value, list) else value, **_form(schema, at))
        for at, name, value in settings_of(recipe)
    }


def _form(schema: Mapping[str, Any], at: tuple[str, ...]) -> dict[str, Any]:
    """What a form says of a setting."""
    part: Mapping[str, Any] = schema
    for name in at:
        part = part["properties"][name]
        if reference := part.get("$ref"):
            part = schema["$defs"][reference.rpartition("/")[2]]
    found = {"title": part["title"], "description": part["description"]}
    kinds = part.get("anyOf", [part])
    for kind in kinds:
        found |= {name: value for name, value in kind.items() if name in _OF_A_FORM}
    if len(kinds) > 1:
        found["type"] = ["null", next(kind["type"] for kind in kinds if kind["type"] != "null")]
    if found["type"] == "array":
        found["uniqueItems"] = True
    if len(at) > 1 and at[0] not in ("base_model", "data"):
        found["section"] = at[0].capitalize()
    return found
