"""The tasks by the names of their metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from llmops_components.errors import check_known
from llmops_components.evaluation.tasks.numeric import NumericSettings, check_numbers, judge_numbers
from llmops_components.evaluation.tasks.patterns import PatternSettings, check_patterns, judge_patterns
from llmops_components.evaluation.tasks.programs import ProgramSettings, check_programs, judge_programs
from llmops_components.evaluation.tasks.schemas import SchemaSettings, check_schemas, judge_schemas
from llmops_components.evaluation.tasks.verdicts import Row, Task, Verdict

TASKS: dict[str, Task] = {
    "numeric_answer": Task(NumericSettings, check_numbers, judge_numbers),
    "json_schema": Task(SchemaSettings, check_schemas, judge_schemas, "schema"),
    "regular_expression": Task(PatternSettings, check_patterns, judge_patterns, "pattern"),
    "code_tests": Task(ProgramSettings, check_programs, judge_programs),
}


def settings_of(name: str, args: Mapping[str, Any]) -> Any:
    """The settings of a task.

    Args:
        name: Its name.
        args: What is given of them.

    Raises:
        SettingError: One is unknown, or cannot be meant.
    """
    kind: Any = TASKS[name].settings
    check_known(args, [each.name for each in dataclasses.fields(kind)], f"argument in metric_args[{name!r}]")
    return kind(**args)


def judge_task(
    name: str, args: Mapping[str, Any], rows: Sequence[Row], answers: Sequence[str]
) -> list[Verdict]:
    """A verdict on each answer.

    Args:
        name: The task.
        args: Its settings, checked.
        rows: The rows, checked.
        answers: Their answers.
    """
    return TASKS[name].judge(rows, answers, settings_of(name, args))
