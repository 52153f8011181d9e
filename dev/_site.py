"""``dev/docs``: the pages of this repository and what is generated from its code, as one site."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from _running import ready, run
from _setup import PLANES, REPOSITORY

SITE = REPOSITORY / "dev/site"
PAGES = ("*.md", "docs/*.md", "[!.]*/README.md")


def main(arguments: list[str] | None = None) -> int:
    """Build the site; an exit status."""
    parser = argparse.ArgumentParser(prog="dev/docs", description=__doc__)
    parser.add_argument(
        "directory", nargs="?", type=Path, default=REPOSITORY / "build/site", help="where it is written"
    )
    options = parser.parse_args(arguments)
    if code := ready():
        return code
    target = options.directory.resolve()
    if target.exists() and any(target.iterdir()) and not (target / ".buildinfo").exists():
        print(f"Not empty, and no site of Sphinx's: {target}. Give another directory.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "pages")
        lay_out(source)
        # Airflow makes its home where it is imported.
        os.environ.update(AIRFLOW_HOME=f"{scratch}/airflow", AIRFLOW__CORE__LOAD_EXAMPLES="False")
        python = PLANES["control"].python
        if code := run([python, REPOSITORY / "dev/site/reference.py", source / "reference"]):
            return code
        if code := run([python, "-m", "sphinx", "-W", "--keep-going", "-q", source, target]):
            return code
    print(f"Written: {target / 'index.html'}")
    return 0


def lay_out(source: Path) -> None:
    """Put pages and what they lead to where their links expect each other.

    :param source: new directory for them
    """
    pages = [path for pattern in PAGES for path in REPOSITORY.glob(pattern)]
    wanted = set(pages)
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            linked = (page.parent / target).resolve()
            if "://" not in target and linked.is_file():
                wanted.add(linked)
    for path in wanted:
        copy = source / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    shutil.copy(SITE / "conf.py", source)
    shutil.copy(SITE / "index.myst", source / "index.md")  # its links are those of the site's first page
