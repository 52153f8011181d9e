"""``dev/check``."""

from __future__ import annotations

import argparse
import time

from _running import ready, run
from _setup import PLANES, REPOSITORY


def check(arguments: list[str] | None = None) -> int:
    """Run every check, also after one has failed, and name those that did."""
    parser = argparse.ArgumentParser(prog="dev/check", description=check.__doc__)
    parser.add_argument("--fix", action="store_true", help="let ruff correct what it can")
    options = parser.parse_args(arguments)
    if code := ready():
        return code
    python = PLANES["control"].python
    ruff = [python, "-m", "ruff"]
    sources = [".", *_scripts()]
    checks = {
        "ruff check": [*ruff, "check", *(["--fix"] if options.fix else []), *sources],
        "ruff format": [*ruff, "format", *([] if options.fix else ["--check"]), *sources],
        "mypy": [python, "-m", "mypy"],
        "the wall": [python, "-m", "pytest", "-q", "tests/provider/test_wall.py"],
        "compiled components": ["dev/compile_components", "--check"],
        "supply chain": [python, "dev/_supply.py"],
    }
    failed = []
    for name, command in checks.items():
        started = time.monotonic()
        code = run(command)
        print(
            f"{name:22} {'ok' if code == 0 else 'FAILED':8} {time.monotonic() - started:5.1f} s", flush=True
        )
        if code:
            failed.append(name)
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


def _scripts() -> list[str]:
    """Python scripts without an ending, which ruff does not find by itself."""
    found = []
    for path in sorted((REPOSITORY / "dev").iterdir()):
        if (
            path.is_file()
            and not path.suffix
            and path.open("rb").readline().startswith(b"#!/usr/bin/env python")
        ):
            found.append(str(path.relative_to(REPOSITORY)))
    return found
