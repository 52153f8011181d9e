"""What goes to XCom, or is said of it: as much of a value as there is room for, findings as a sentence, numbers as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_llmops.exceptions import ResultTooLargeError, shortened

MAX_XCOM_BYTES = 16 * 1024
MAX_FINDINGS_IN_SUMMARY = 5
_BYTES_FOR_KEYS = 200  # of "steps" and "steps_left_out"


def cut_to_fit(value: Any, limit: int = MAX_XCOM_BYTES) -> Any:
    """JSON whose longest texts are cut, with a mark, until it fits into XCom; of a list that does not even then, what fits of it.

    :param value: what is to go to XCom
    :param limit: bytes as JSON
    :raises ResultTooLargeError: it does not fit
    """
    cut = value
    for room in (limit, 4000, 2000, 1000, 500, 200, 80):
        cut = _with_short_texts(value, room)
        if len(json.dumps(cut)) <= limit:
            return cut
    fitting = _those_that_fit(cut, limit) if isinstance(cut, list) else []
    if not fitting:
        raise ResultTooLargeError(
            f"What is to go to XCom is larger than {limit} bytes. Store it as an artifact."
        )
    return fitting


def _those_that_fit(items: Sequence[Any], limit: int) -> list[Any]:
    fitting = []
    room = limit
    for item in items:
        size = len(json.dumps(item)) + 2
        if size <= room:
            fitting.append(item)
            room -= size
    return fitting


def _with_short_texts(value: Any, room: int) -> Any:
    if isinstance(value, str):
        return shortened(value, room)
    if isinstance(value, Mapping):
        return {key: _with_short_texts(item, room) for key, item in value.items()}
    return [_with_short_texts(item, room) for item in value] if isinstance(value, list | tuple) else value


def states_that_fit(value: Mapping[str, Any], states: Mapping[str, str]) -> dict[str, Any]:
    """A value for XCom with ``steps``, as many as there is room for, and the number of those left out.

    :param value: the rest of it; its longest texts are cut if it is too large by itself
    :param states: state of each step
    :raises ResultTooLargeError: it does not fit, without steps either
    """
    value = cut_to_fit(dict(value), MAX_XCOM_BYTES - _BYTES_FOR_KEYS)
    steps: dict[str, str] = {}
    room = MAX_XCOM_BYTES - len(json.dumps(value)) - _BYTES_FOR_KEYS
    for name, state in states.items():
        size = len(json.dumps({name: state}))
        if size > room:
            break
        steps[name] = state
        room -= size
    left_out = len(states) - len(steps)
    return {**value, "steps": steps, **({"steps_left_out": left_out} if left_out else {})}


def summary_of(findings: Sequence[str]) -> str:
    """Findings as one sentence: the first says what, the others why.

    :param findings: sentences, most important first
    """
    first, *others = [finding.strip().rstrip(".") for finding in findings] or ["The gate was not passed"]
    left_out = len(others) - MAX_FINDINGS_IN_SUMMARY
    shown = others[:MAX_FINDINGS_IN_SUMMARY] + ([f"and {left_out} more findings"] if left_out > 0 else [])
    return f"{first}{': ' if shown else ''}{'; '.join(shown)}."


def table_of(numbers: Mapping[str, float]) -> str:
    """Numbers by name as lines of two columns.

    :param numbers: numbers by name
    """
    width = max(map(len, numbers))
    return "\n".join(f"{name:<{width}}  {_shown(number):>12}" for name, number in numbers.items())


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.6g}"
