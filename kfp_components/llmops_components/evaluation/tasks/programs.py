"""Answers that are code, and pass the tests of their row.

Code and tests run in two sandboxes, which share one connection. The tests alone say whether they have passed, on a pipe that the code does
not have; to the code they are questions, see :mod:`~llmops_components.evaluation.tasks.confined.tester`.
"""

from __future__ import annotations

import ast
import json
import os
import select
import socket
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from llmops_components.errors import SettingError, UnavailableError
from llmops_components.evaluation.tasks.answers import blocks, said
from llmops_components.evaluation.tasks.sandbox import Bounds, Sandbox, SandboxError, calling, check_sandbox
from llmops_components.evaluation.tasks.verdicts import Row, Verdict

_PYTHON = ("python", "py", "python3")
_MAX_SECONDS, _LEAST_MB, _MOST_MB = 600, 64, 65536
_MAX_RESULT_BYTES = 1 << 16
_UNUSED = "its tests passed without asking anything of the answer"


@dataclass(frozen=True)
class ProgramSettings:
    """What code may use.

    Args:
        seconds: Time for code and tests of one answer. What is not done by then is wrong.
        memory_mb: Memory of code, and of tests, in MiB.
        samples: Answers a row; one is scored, as pass@1.

    Raises:
        SettingError: One of them cannot be meant.
    """

    seconds: float = 10
    memory_mb: int = 512
    samples: int = 1

    def __post_init__(self) -> None:
        is_number = isinstance(self.seconds, int | float) and not isinstance(self.seconds, bool)
        if not is_number or not 0 < self.seconds <= _MAX_SECONDS:
            raise SettingError(
                f"metric_args: seconds of code_tests is {self.seconds!r:.60}. Give a number above 0, and {_MAX_SECONDS} at most."
            )
        is_whole = isinstance(self.memory_mb, int) and not isinstance(self.memory_mb, bool)
        if not is_whole or not _LEAST_MB <= self.memory_mb <= _MOST_MB:
            raise SettingError(
                f"metric_args: memory_mb of code_tests is {self.memory_mb!r:.60}. Give a whole number from {_LEAST_MB} to {_MOST_MB}."
            )
        if self.samples != 1:
            raise SettingError(
                f"metric_args: samples of code_tests is {self.samples!r:.60}, and each row has one answer: what is computed is pass@1. Leave "
                "it out."
            )


def check_programs(rows: Sequence[Row], settings: ProgramSettings) -> list[tuple[int, str]]:
    """Rows whose tests are no code.

    Args:
        rows: The rows.
        settings: What code may use.

    Raises:
        SettingError: There is no sandbox to be had.
    """
    check_sandbox()
    found = ((place, _problem(row["tests"])) for place, row in enumerate(rows))
    return [(place, f"tests {problem}") for place, problem in found if problem]


def judge_programs(rows: Sequence[Row], answers: Sequence[str], settings: ProgramSettings) -> list[Verdict]:
    """Whether the code of each answer passes its tests.

    Args:
        rows: The rows.
        answers: Their answers.
        settings: What code may use.
    """
    bounds = Bounds(settings.seconds, settings.memory_mb)

    def judge(row: Row, answer: str) -> Verdict:
        found = run_tests(code_in(said(answer)), tests_of(row["tests"]), bounds)
        if found.get("passed") and not found.get("asked"):
            return Verdict(None, _UNUSED)
        return Verdict(bool(found.get("passed")))

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as executor:
        return list(executor.map(judge, rows, answers))


def code_in(answer: str) -> str:
    """The first block of Python of an answer; without any the first block of no language, or all of it.

    Args:
        answer: The answer, without thoughts.
    """
    found = blocks(answer)
    for languages in (_PYTHON, ("",)):
        for language, text in found:
            if language in languages:
                return text
    return answer


def tests_of(given: str | Sequence[str]) -> str:
    """The tests of a row as one text.

    Args:
        given: A text, or several.
    """
    return given if isinstance(given, str) else "\n".join(given)


def run_tests(answer: str, tests: str, bounds: Bounds) -> dict[str, Any]:
    """Whether code passes tests: ``passed``, how often the tests have ``asked`` it, or ``why`` they have not passed.

    Args:
        answer: The code.
        tests: The tests.
        bounds: What either may use.

    Raises:
        UnavailableError: There is no sandbox to be had any more.
    """
    with ExitStack() as stack:
        ours = [
            stack.enter_context(_descriptor(each))
            for each in (
                *(each.detach() for each in socket.socketpair()),
                *os.pipe(),
                _in_memory(answer, tests),
            )
        ]
        code, asks, result, tells, program = ours
        until = time.monotonic() + bounds.seconds
        try:
            stack.enter_context(
                Sandbox(
                    calling("candidate", "main", code.number),
                    [code.number],
                    bounds,
                )
            )
            stack.enter_context(
                Sandbox(
                    calling("tester", "main", asks.number, tells.number, program.number),
                    [asks.number, tells.number, program.number],
                    bounds,
                )
            )
        except SandboxError as error:
            raise UnavailableError(f"The sandbox of code_tests cannot be had any more: {error}.") from None
        for each in (code, asks, tells, program):
            each.close()
        return _result(result.number, until)


class _descriptor:
    """A file descriptor that is closed once."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> _descriptor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it, if it is open."""
        if self.number >= 0:
            os.close(self.number)
            self.number = -1


def _in_memory(answer: str, tests: str) -> int:
    """A file with both that has no name."""
    number = os.memfd_create("program", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(number), "wb") as file:
        file.write(json.dumps({"answer": answer, "tests": tests}).encode())
    os.lseek(number, 0, os.SEEK_SET)
    return number


def _result(descriptor: int, until: float) -> dict[str, Any]:
    """What the tests say; that they have not passed where they say nothing in time."""
    found = bytearray()
    while (left := until - time.monotonic()) > 0 and len(found) <= _MAX_RESULT_BYTES:
        if not select.select([descriptor], [], [], left)[0]:
            break
        piece = os.read(descriptor, _MAX_RESULT_BYTES)
        if not piece:
            try:
                said: dict[str, Any] = json.loads(found)
            except ValueError:
                return {"passed": False, "why": "the tests ended without a result"}
            return said
        found += piece
    return {"passed": False, "why": "the time was up"}


def _problem(tests: Any) -> str | None:
    is_good = isinstance(tests, str) or (
        isinstance(tests, list) and all(isinstance(each, str) for each in tests)
    )
    if not is_good:
        return f"are {tests!r:.60}, and no text or list of texts"
    text = tests_of(tests)
    if not text.strip():
        return "are empty"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text, "tests.py")
            compile(tree, "tests.py", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"are no Python: {error}"
    if missing := sorted(_imported(tree) - sys.stdlib_module_names):
        return (
            f"import {', '.join(missing)}, and there is nothing but Python's own library where they run: the answer's names are known "
            "without an import"
        )
    return None


def _imported(tree: ast.AST) -> set[str]:
    """Modules that code imports, by the first part of their names."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or ".").partition(".")[0] or ".")
    return found
