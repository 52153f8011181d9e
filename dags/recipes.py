"""A DAG for each recipe in `dags/recipes`: products described in YAML, for people who do not want to write Python.

Put a file beside the others, and it is a DAG with a form. What a recipe may say: docs/recipes.md, and `llmops recipe schema`.
"""

from __future__ import annotations

from pathlib import Path

from airflow_provider_llmops.recipes.dags import dags_from_recipes

globals().update(dags_from_recipes(Path(__file__).parent / "recipes"))
