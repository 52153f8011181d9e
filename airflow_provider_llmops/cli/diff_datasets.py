"""``llmops diff-datasets``: what two versions of a data set differ in."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.cli import CommandError
from airflow_provider_llmops.cli.connection import (
    DEFAULT_CONN_ID,
    ask_data_plane,
    find_connections,
    settings_of_connection,
)

if TYPE_CHECKING:
    from airflow_provider_llmops.backends.data_plane import DataPlane

_MODULE = "llmops_components.data.versions"


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command's arguments.

    :param commands: subparsers of ``llmops``
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        "diff-datasets",
        help="tell what two versions of a data set differ in",
        description="Print which rows were added, removed and changed between two files of rows, and how columns and lengths have "
        "shifted. Rows are matched by their column row_id where every row has one of its own, else by their content.",
    )
    parser.add_argument("before", metavar="A", type=Path, help="file of rows")
    parser.add_argument("after", metavar="B", type=Path, help="file of rows")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument(
        "--examples", type=int, default=20, help="rows of each kind that are shown (default: %(default)s)"
    )
    parser.add_argument("--conn-id", default=DEFAULT_CONN_ID, help="local connection (default: %(default)s)")
    parser.add_argument("--python", help="the data plane's interpreter, instead of the connection's")
    return parser


def run(options: argparse.Namespace) -> int:
    """Carry the command out; the exit status is 0 whether the versions differ or not.

    :param options: as :func:`add_parser` declares them
    """
    find_connections()
    from airflow_provider_llmops.backends.data_plane import DataPlane
    from airflow_provider_llmops.exceptions import LLMOpsError

    python = options.python
    if python is None:
        instead = "Name another with --conn-id, or give --python."
        python = settings_of_connection(options.conn_id, instead)["python"]
    try:
        found = _compare(DataPlane(python), options)
    except LLMOpsError as error:
        raise CommandError(str(error)) from error
    if options.json:
        print(json.dumps(found["difference"], ensure_ascii=False, indent=1))
    else:
        print(found["markdown"], end="")
    return 0


def _compare(data_plane: DataPlane, options: argparse.Namespace) -> dict[str, Any]:
    files = [str(each.absolute()) for each in (options.before, options.after)]
    arguments = ["-m", _MODULE, *files, "--examples", str(options.examples)]
    return ask_data_plane(data_plane, arguments, "compare the files")
