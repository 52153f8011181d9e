"""``llmops lineage``: which DAG version, data, code and image made a registered model version, and how to run it again."""

from __future__ import annotations

import argparse
import json
from typing import Any

from airflow_provider_llmops.cli import CommandError
from airflow_provider_llmops.cli.connection import DEFAULT_MLFLOW_CONN_ID, find_connections


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command's arguments.

    :param commands: subparsers of ``llmops``
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        "lineage",
        help="tell what made a registered model version, and how to run it again",
        description="Tell which DAG version, data, code and image made a registered model version, what was decided on it, and how to "
        "run it again, from MLflow alone. What is not recorded is named.",
    )
    parser.add_argument("reference", metavar="MODEL@VERSION", help="or MODEL@ALIAS, such as chat@production")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--conn-id", default=DEFAULT_MLFLOW_CONN_ID, help="connection of type mlflow (default: %(default)s)"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Carry the command out.

    :param options: as :func:`add_parser` declares them
    """
    find_connections()
    from airflow.sdk.exceptions import AirflowNotFoundException

    from airflow_provider_llmops.exceptions import LLMOpsError
    from airflow_provider_llmops.hooks.mlflow import MlflowHook
    from airflow_provider_llmops.lineage.text import lines_of
    from airflow_provider_llmops.lineage.version import parse_reference, read_lineage

    try:
        name, version, alias = parse_reference(options.reference)
        found = read_lineage(MlflowHook(options.conn_id), name, model_version=version, alias=alias)
    except AirflowNotFoundException as error:
        raise CommandError(
            f"there is no connection {options.conn_id!r}. Name another with --conn-id."
        ) from error
    except LLMOpsError as error:
        raise CommandError(str(error)) from error
    print(json.dumps(found.to_json(), indent=2) if options.json else "\n".join(lines_of(found)))
    return 0
