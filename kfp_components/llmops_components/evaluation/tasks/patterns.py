"""Answers that a regular expression matches."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from llmops_components.errors import SettingError, check_known
from llmops_components.evaluation.tasks.answers import said
from llmops_components.evaluation.tasks.verdicts import Row, Verdict
from llmops_components.evaluation.tasks.worker import TooSlowError, Worker

Match = Literal["search", "full"]
_MAX_SECONDS = 60


@dataclass(frozen=True)
class PatternSettings:
    """How patterns are matched, by Python's ``re``.

    Args:
        pattern: The pattern of rows that have none of their own.
        match: Whether it has to match somewhere in the answer (``search``), or all of it (``full``).
        seconds: Longest time for one answer; without a verdict by then the row has no score.

    Raises:
        SettingError: One of them cannot be meant.
    """

    pattern: str | None = None
    match: Match = "search"
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.pattern is not None and (problem := _problem(self.pattern)):
            raise SettingError(f"metric_args: the pattern of regular_expression {problem}. Correct it.")
        check_known([self.match], get_args(Match), "match of regular_expression in metric_args")
        is_number = isinstance(self.seconds, int | float) and not isinstance(self.seconds, bool)
        if not is_number or not 0 < self.seconds <= _MAX_SECONDS:
            raise SettingError(
                f"metric_args: seconds of regular_expression is {self.seconds!r:.60}. Give a number above 0, and {_MAX_SECONDS} at most."
            )


def check_patterns(rows: Sequence[Row], settings: PatternSettings) -> list[tuple[int, str]]:
    """Rows whose pattern is none.

    Args:
        rows: The rows.
        settings: How they are matched.
    """
    found = ((place, row.get("pattern")) for place, row in enumerate(rows))
    return [
        (place, f"pattern {problem}")
        for place, each in found
        if each is not None and (problem := _problem(each))
    ]


def judge_patterns(rows: Sequence[Row], answers: Sequence[str], settings: PatternSettings) -> list[Verdict]:
    """Whether each answer has what its pattern matches.

    Args:
        rows: The rows.
        answers: Their answers.
        settings: How they are matched.
    """
    found = []
    with Worker(settings.seconds, "patterns") as worker:
        for row, answer in zip(rows, answers, strict=True):
            own = row.get("pattern")
            question = {
                "pattern": settings.pattern if own is None else own,
                "match": settings.match,
                "text": said(answer),
            }
            found.append(_verdict(worker, question, settings))
    return found


def _verdict(worker: Worker, question: dict[str, Any], settings: PatternSettings) -> Verdict:
    try:
        found = worker.ask(question)
    except TooSlowError:
        return Verdict(None, f"its pattern gave no verdict within {settings.seconds:g} s")
    if problem := found.get("problem"):
        return Verdict(None, f"its pattern could not be matched: {problem}")
    return Verdict(bool(found["is_right"]))


def _problem(pattern: Any) -> str | None:
    if not isinstance(pattern, str):
        return f"is {pattern!r:.60}, and no text"
    if not pattern:
        return "is empty, which every answer matches"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"is {pattern!r:.60}, and no regular expression: {error}"
    return None
