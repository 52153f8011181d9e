"""``dev/test`` and ``dev/check``."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from _setup import PLANES, REPOSITORY, SKIP_VARIABLE
from _setup import main as set_up

# Where the tests of each plane lie; a plane's tests run in that plane's environment.
TESTS = {
    "control": ("tests/provider", "tests/contract", "tests/dags", "tests/dev"),
    "data": ("tests/components",),
}
NO_TESTS_COLLECTED = 5
FUZZ_VARIABLE = "LLMOPS_FUZZ_TIMES"  # read by tests/fakes/fuzzing.py
# The models of the tests are tiny: more threads, or threads that spin while they wait, only get in each other's way.
TORCH_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def test(arguments: list[str] | None = None) -> int:
    """Run pytest in both environments; whatever is not an option of ours goes to pytest."""
    parser = argparse.ArgumentParser(
        prog="dev/test",
        description="Run the tests of both planes. Further arguments go to pytest: dev/test -k gate, "
        "dev/test tests/provider/test_wall.py, dev/test -x -q.",
    )
    parser.add_argument("--plane", choices=sorted(TESTS), help="only the tests of this plane")
    parser.add_argument(
        "--all", action="store_true", help="also the slow tests (marked slow), which take half an hour"
    )
    parser.add_argument(
        "--fuzz",
        type=int,
        metavar="TIMES",
        help="only the fuzz tests, with that many times the inputs of a usual run, others each time (a usual run "
        "takes about a minute)",
    )
    options, rest = parser.parse_known_args(arguments)
    if code := _ready():
        return code
    if options.fuzz:
        os.environ[FUZZ_VARIABLE] = str(options.fuzz)
    paths = [argument for argument in rest if _plane_of(argument)]
    others = [argument for argument in rest if argument not in paths]
    chosen = {
        plane: [path for path in paths if _plane_of(path) == plane] if paths else _existing(plane)
        for plane in ([options.plane] if options.plane else TESTS)
    }
    commands = {
        plane: [PLANES[plane].python, "-m", "pytest", *_selection(options), *places, *others]
        for plane, places in chosen.items()
        if places
    }
    codes = _side_by_side(commands) if not rest else {name: _test(name, commands[name]) for name in commands}
    failed = [plane for plane, code in codes.items() if code not in (0, NO_TESTS_COLLECTED)]
    if failed:
        print(f"FAILED: {', '.join(PLANES[plane].title for plane in failed)}")
        return 1
    if not any(code == 0 for code in codes.values()):
        print("FAILED: no tests were run")
        return NO_TESTS_COLLECTED
    # A selection (-k, -m, --fuzz) may well be of one plane only; without one, a plane without tests is a mistake.
    if not rest and not options.fuzz and NO_TESTS_COLLECTED in codes.values():
        print("FAILED: a plane has no tests")
        return NO_TESTS_COLLECTED
    return 0


def _selection(options: argparse.Namespace) -> list[str]:
    """Options of pytest that choose tests; pyproject.toml leaves the slow ones out, and the last -m counts."""
    if options.fuzz:
        return ["-m", "hypothesis", "--hypothesis-show-statistics"]
    return ["-m", ""] if options.all else []


def _side_by_side(commands: dict[str, list[Any]]) -> dict[str, int]:
    """Test all planes at the same time: one waits a lot, for an Airflow, and the other computes.

    The first one is heard as it goes, each other when those before it have ended.
    """
    first, *others = commands
    with ExitStack() as files:
        beside = {}
        for plane in others:
            output = files.enter_context(tempfile.TemporaryFile())
            beside[plane] = _start(commands[plane], stdout=output, stderr=subprocess.STDOUT), output
        codes = {first: _test(first, commands[first])}
        for plane, (process, output) in beside.items():
            codes[plane] = _wait(process)
            _announce(plane)
            output.seek(0)
            shutil.copyfileobj(output, sys.stdout.buffer)
            sys.stdout.flush()
    return codes


def _test(plane: str, command: list[Any]) -> int:
    _announce(plane)
    return _run(command)


def _announce(plane: str) -> None:
    print(f"== {PLANES[plane].title}", flush=True)


def _start(command: list[Any], **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=REPOSITORY, env=TORCH_ENVIRONMENT | os.environ, **streams)


def check(arguments: list[str] | None = None) -> int:
    """Run every check, also after one has failed, and name those that did."""
    parser = argparse.ArgumentParser(prog="dev/check", description=check.__doc__)
    parser.add_argument("--fix", action="store_true", help="let ruff correct what it can")
    options = parser.parse_args(arguments)
    if code := _ready():
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
        code = _run(command)
        print(
            f"{name:22} {'ok' if code == 0 else 'FAILED':8} {time.monotonic() - started:5.1f} s", flush=True
        )
        if code:
            failed.append(name)
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


def _ready() -> int:
    return 0 if os.environ.get(SKIP_VARIABLE) else set_up(["--quiet"])


def _run(command: list[Any]) -> int:
    return _wait(_start(command))


def _wait(process: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The terminal has sent it to the child too, which ends in its own way; wait for that.
            continue


def _plane_of(argument: str) -> str | None:
    """The plane whose tests a path on the command line belongs to."""
    path = (
        Path(os.path.relpath(argument.partition("::")[0], REPOSITORY))
        if argument[:1] not in ("", "-")
        else None
    )
    if path is None or not (REPOSITORY / path).exists() or path.parts[0] != "tests":
        return None
    return "data" if path.parts[:2] == ("tests", "components") else "control"


def _existing(plane: str) -> list[str]:
    return [folder for folder in TESTS[plane] if any((REPOSITORY / folder).rglob("test_*.py"))]


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
