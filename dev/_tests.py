"""``dev/test``."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _running import ready, run, start
from _setup import PLANES, REPOSITORY

NO_TESTS_COLLECTED = 5
FUZZ_VARIABLE = "LLMOPS_FUZZ_TIMES"  # read by tests/fakes/fuzzing.py


@dataclass(frozen=True)
class Group:
    """Tests that one pytest runs, in the environment of their plane.

    :param title: what they are tests of
    :param plane: ``control`` or ``data``
    :param folders: where they lie
    :param without: folders in there that are a group of their own
    """

    title: str
    plane: str
    folders: tuple[str, ...]
    without: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{PLANES[self.plane].title}: {self.title}"

    def command(self, options: list[str]) -> list[Any]:
        left_out = [f"--ignore={folder}" for folder in self.without]
        return [PLANES[self.plane].python, "-m", "pytest", *options, *self.folders, *left_out]


# In the order in which they are begun. The longest come first, so that no core has nothing to do at the end.
GROUPS = (
    Group("DAGs", "control", ("tests/dags",), without=("tests/dags/guarantees",)),
    Group("all but training", "data", ("tests/components",), without=("tests/components/training",)),
    Group("operators", "control", ("tests/provider/operators",)),
    Group("guarantees", "control", ("tests/dags/guarantees",)),
    Group(
        "all else",
        "control",
        ("tests/provider", "tests/contract", "tests/dev"),
        without=("tests/provider/operators",),
    ),
    Group("training", "data", ("tests/components/training",)),
)


def test(arguments: list[str] | None = None) -> int:
    """Run pytest in both environments; whatever is not an option of ours goes to pytest."""
    parser = argparse.ArgumentParser(
        prog="dev/test",
        description="Run the tests of both planes. Further arguments go to pytest: dev/test -k gate, "
        "dev/test tests/provider/test_wall.py, dev/test -x -q.",
    )
    parser.add_argument("--plane", choices=sorted(PLANES), help="only the tests of this plane")
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
    if code := ready():
        return code
    if options.fuzz:
        os.environ[FUZZ_VARIABLE] = str(options.fuzz)
    planes = [options.plane] if options.plane else ["control", "data"]
    if rest:
        codes = _one_after_the_other(planes, _selection(options), rest)
    else:
        groups = [group for group in GROUPS if group.plane in planes]
        codes = _side_by_side({group.name: group.command(_selection(options)) for group in groups})
    failed = [name for name, code in codes.items() if code not in (0, NO_TESTS_COLLECTED)]
    if failed:
        print(f"FAILED: {', '.join(f'{name} ({_ended(codes[name])})' for name in failed)}")
        return 1
    if not any(code == 0 for code in codes.values()):
        print("FAILED: no tests were run")
        return NO_TESTS_COLLECTED
    # A selection (-k, -m, --fuzz) may well be of one group only; without one, a group without tests is a mistake.
    if not rest and not options.fuzz and NO_TESTS_COLLECTED in codes.values():
        print("FAILED: a group has no tests")
        return NO_TESTS_COLLECTED
    return 0


def _selection(options: argparse.Namespace) -> list[str]:
    """Options of pytest that choose tests; pyproject.toml leaves the slow ones out, and the last -m counts."""
    if options.fuzz:
        return ["-m", "hypothesis", "--hypothesis-show-statistics"]
    return ["-m", ""] if options.all else []


def _one_after_the_other(planes: list[str], selection: list[str], rest: list[str]) -> dict[str, int]:
    """Test what somebody has chosen, and let them hear it as it goes."""
    paths = [argument for argument in rest if _plane_of(argument)]
    others = [argument for argument in rest if argument not in paths]
    codes = {}
    for plane in planes:
        folders = [folder for group in GROUPS if group.plane == plane for folder in group.folders]
        top = [folder for folder in folders if not any(folder.startswith(f"{each}/") for each in folders)]
        places = [path for path in paths if _plane_of(path) == plane] if paths else top
        if places:
            title = PLANES[plane].title
            _announce(title)
            codes[title] = run([PLANES[plane].python, "-m", "pytest", *selection, *places, *others])
    return codes


def _side_by_side(commands: dict[str, list[Any]]) -> dict[str, int]:
    """Run as many commands at a time as there are cores, at least two: some wait a lot, and others compute.

    One is heard as it goes, each other when those before it have ended.
    """
    at_once = max(2, os.cpu_count() or 2)
    coloured = ["--color=yes"] if sys.stdout.isatty() else []
    waiting = list(commands)
    started: dict[str, subprocess.Popen[bytes]] = {}
    codes: dict[str, int] = {}
    with ExitStack() as stack:
        outputs = {name: stack.enter_context(tempfile.TemporaryFile()) for name in commands}

        def begin() -> None:
            running = sum(process.poll() is None for process in started.values())
            for name in waiting[: at_once - running]:
                waiting.remove(name)
                command = [*commands[name], *coloured]
                started[name] = start(command, stdout=outputs[name], stderr=subprocess.STDOUT)

        begin()
        for name, output in outputs.items():
            if name not in started:
                break  # interrupted before its turn
            _announce(name)
            shown, has_ended = 0, False
            while not has_ended:
                try:
                    has_ended = started[name].poll() is not None
                    shown = _show(output.fileno(), shown)
                    begin()
                    time.sleep(0.2)
                except KeyboardInterrupt:
                    # The terminal has sent it to the children too, which end in their own way; wait for that.
                    waiting.clear()
            codes[name] = started[name].returncode
    return codes


def _ended(code: int) -> str:
    """How pytest ended; where it was killed it has not said so itself, nor which test it was at."""
    return f"killed by signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"


def _show(output: int, shown: int) -> int:
    """Pass on what a file has got since; how much of it has been shown now."""
    while text := os.pread(output, 1 << 16, shown):
        sys.stdout.buffer.write(text)
        shown += len(text)
    sys.stdout.flush()
    return shown


def _announce(title: str) -> None:
    print(f"== {title}", flush=True)


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
