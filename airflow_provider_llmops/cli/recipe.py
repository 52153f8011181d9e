"""``llmops recipe``: check recipes, and print the schema by which editors do."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command with its own subcommands.

    :param commands: subparsers of ``llmops``
    """
    parser: argparse.ArgumentParser = commands.add_parser("recipe", help="products described in YAML")
    own = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="what")
    check = own.add_parser(
        "check",
        help="say what is wrong with recipes, and where",
        description="Say what is wrong with each recipe, with its line and column. The exit status is 1 where one is not right.",
    )
    check.add_argument("files", nargs="+", type=Path, metavar="FILE", help="YAML file, or a folder of them")
    own.add_parser(
        "schema",
        help="print the JSON schema of a recipe",
        description="Print the JSON schema of a recipe, for editors and other tools.",
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Carry the command out.

    :param options: as :func:`add_parser` declares them
    """
    if options.what == "schema":
        from airflow_provider_llmops.recipes.recipe import json_schema

        print(json.dumps(json_schema(), indent=2))
        return 0
    from airflow_provider_llmops.exceptions import ConfigurationError
    from airflow_provider_llmops.recipes.reading import read_recipe, recipe_files

    wrong = 0
    for given in options.files:
        try:
            files = recipe_files(given) if given.is_dir() else [given]
            if not files:
                raise ConfigurationError(f"There are no recipes (*.yaml, *.yml) in {given}.")
        except ConfigurationError as error:
            print(error, file=sys.stderr)
            wrong += 1
            continue
        for file in files:
            try:
                recipe = read_recipe(file)
            except ConfigurationError as error:
                print(error, file=sys.stderr)
                wrong += 1
            else:
                print(f"{file}: {recipe.name} is right")
    return 1 if wrong else 0
