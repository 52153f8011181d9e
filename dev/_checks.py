"""``dev/check``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from _running import ready, start
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
    correcting = {
        "ruff check": [*ruff, "check", *(["--fix"] if options.fix else []), *sources],
        "ruff format": [*ruff, "format", *([] if options.fix else ["--check"]), *sources],
    }
    reading = {
        "mypy": [python, "-m", "mypy"],
        "the wall": [python, "-m", "pytest", "-q", "tests/provider/test_wall.py"],
        "compiled components": ["dev/compile_components", "--check"],
        "supply chain": [python, "dev/_supply.py"],
    }
    try:
        failed = [*_failed(correcting, at_once=1), *_failed(reading, at_once=len(reading))]
    except KeyboardInterrupt:
        print("Interrupted.")
        return 130
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


def _failed(checks: Mapping[str, list[Any]], at_once: int) -> list[str]:
    """Carry out checks, so many at a time, and say in turn what came of each; the names of those that failed."""
    failed = []
    with ThreadPoolExecutor(at_once) as pool:
        for name, (code, output, seconds) in zip(checks, pool.map(_carry_out, checks.values()), strict=True):
            sys.stdout.buffer.write(output)
            print(f"{name:22} {'ok' if code == 0 else 'FAILED':8} {seconds:5.1f} s", flush=True)
            if code:
                failed.append(name)
    return failed


def _carry_out(command: list[Any]) -> tuple[int, bytes, float]:
    """Exit status of a command, what it has said, and how long it took."""
    started = time.monotonic()
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = process.communicate()
    return process.returncode, output, time.monotonic() - started


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
