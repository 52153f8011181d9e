"""The command: two versions of a data set, and what they differ in."""

from __future__ import annotations

import argparse
import json
import sys

from llmops_components.data.versions.changes import render_changes
from llmops_components.data.versions.diff import compare_versions
from llmops_components.errors import ComponentError
from llmops_components.reporting import words_of


def main(argv: list[str] | None = None) -> int:
    """Compare and print the differences as JSON, as text among them; an error is ``{"error": {"message"}}``.

    Args:
        argv: Command line.

    Returns:
        Exit status: 0, or 1 with an error.
    """
    parser = argparse.ArgumentParser("llmops_components.data.versions")
    parser.add_argument("before", help="file of rows")
    parser.add_argument("after", help="file of rows")
    parser.add_argument("--examples", type=int, default=20)
    options = parser.parse_args(argv)
    try:
        difference = compare_versions(options.before, options.after, examples=options.examples)
    except (ComponentError, OSError) as error:
        print(json.dumps({"error": {"message": words_of(error)}}))
        return 1
    print(json.dumps({"difference": difference, "markdown": render_changes(difference)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
