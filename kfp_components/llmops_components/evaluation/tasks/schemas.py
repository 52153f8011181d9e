"""Answers that are JSON of a given form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmops_components.errors import SettingError
from llmops_components.evaluation.tasks.answers import blocks, said
from llmops_components.evaluation.tasks.verdicts import Row, Verdict
from llmops_components.evaluation.tasks.worker import TooSlowError, Worker
from llmops_components.json_text import parse_json

_SECONDS = 5.0


@dataclass(frozen=True)
class SchemaSettings:
    """How JSON is checked.

    Args:
        schema: The JSON schema of rows that have none of their own: an object, or text of one.

    Raises:
        SettingError: It is no valid schema.
    """

    schema: Any = None

    def __post_init__(self) -> None:
        if self.schema is not None and (problem := _problem(self.schema)):
            raise SettingError(f"metric_args: the schema of json_schema {problem}. Correct it.")


def check_schemas(rows: Sequence[Row], settings: SchemaSettings) -> list[tuple[int, str]]:
    """Rows whose schema answers cannot be checked by.

    Args:
        rows: The rows.
        settings: The schema of rows that have none.
    """
    known: dict[str, str | None] = {}
    found = []
    for place, row in enumerate(rows):
        if (schema := row.get("schema")) is None:
            continue
        key = json.dumps(schema)
        if key not in known:
            known[key] = _problem(schema)
        if problem := known[key]:
            found.append((place, f"schema {problem}"))
    return found


def judge_schemas(rows: Sequence[Row], answers: Sequence[str], settings: SchemaSettings) -> list[Verdict]:
    """Whether each answer is JSON that its schema takes.

    Args:
        rows: The rows.
        answers: Their answers.
        settings: The schema of rows that have none.
    """
    found = []
    with Worker(_SECONDS, "schemas") as worker:
        for row, answer in zip(rows, answers, strict=True):
            own = row.get("schema")
            found.append(_verdict(worker, _parsed(settings.schema if own is None else own), answer))
    return found


def json_in(answer: str) -> Any:
    """The JSON that an answer is, or that its one block holds.

    Args:
        answer: The answer, without thoughts.

    Raises:
        ValueError: There is none.
    """
    try:
        return _strictly(answer)
    except ValueError:
        found = [text for language, text in blocks(answer) if language in ("", "json")]
        if len(found) != 1:
            raise
        return _strictly(found[0])


def _strictly(text: str) -> Any:
    """JSON as its standard has it: Python's own parser takes NaN and Infinity, and of two equal names the last."""
    parse_json(text)  # which says whether it is too deep

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a name occurs twice")
        return found

    return json.loads(text, parse_constant=refuse, object_pairs_hook=once)


def _verdict(worker: Worker, schema: Any, answer: str) -> Verdict:
    try:
        value = json_in(said(answer))
    except ValueError:
        return Verdict(False)
    try:
        found = worker.ask({"schema": schema, "value": value})
    except TooSlowError:
        return Verdict(None, f"its schema was not checked within {_SECONDS:g} s")
    if problem := found.get("problem"):
        return Verdict(None, f"its schema could not be checked: {problem}")
    return Verdict(bool(found["is_right"]))


def _parsed(schema: Any) -> Any:
    return parse_json(schema) if isinstance(schema, str) else schema


def _problem(schema: Any) -> str | None:
    from llmops_components.evaluation.tasks.formats import schema_problem

    try:
        return schema_problem(_parsed(schema))
    except ValueError as error:
        return f"is text that is no JSON: {error}"
