"""The command: what is asked on its line, and what it prints."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from llmops_components.errors import ComponentError, SettingError
from llmops_components.local.prune import prune
from llmops_components.local.prune.versions import read_versions
from llmops_components.reporting import words_of


def main(argv: list[str] | None = None) -> int:
    """Prune and print what was found as JSON; an error is ``{"error": {"message"}}``.

    Args:
        argv: Command line.

    Returns:
        Exit status: 0, or 1 with an error.
    """
    parser = argparse.ArgumentParser("llmops_components.local.prune")
    parser.add_argument("--root", required=True, help="directory of a local connection")
    parser.add_argument("--older-than", type=float, required=True, metavar="DAYS")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--tracking-uri", help="MLflow, to ask which versions there are")
    options = parser.parse_args(argv)
    try:
        if not options.older_than >= 0:
            raise SettingError(f"--older-than is {options.older_than}; give a number of days from 0 on.")
        versions = read_versions(options.tracking_uri) if options.tracking_uri else None
        items = prune(options.root, days=options.older_than, dry_run=options.dry_run, versions=versions)
    except (ComponentError, OSError) as error:
        print(json.dumps({"error": {"message": words_of(error)}}))
        return 1
    print(json.dumps({"items": [asdict(item) | {"path": str(item.path)} for item in items]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
