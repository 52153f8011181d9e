"""The command ``llmops``: what is done at a terminal rather than in a DAG.

Each subcommand is a module of this package with ``add_parser(subparsers)`` and ``run(options)``; nothing of Airflow is
imported before the subcommand is known.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS: tuple[str, ...] = ("backfill", "data_plane", "diff_datasets", "lineage", "prune", "recipe")


class CommandError(Exception):
    """What was asked for cannot be done; the message is all that the user sees."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="llmops", description="Tools of airflow-provider-llmops.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = import_module(f"{__name__}.{name}")
        module.add_parser(commands).set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except CommandError as error:
        print(f"llmops: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("llmops: interrupted", file=sys.stderr)
        return 130
