"""Declared steps: dicts become steps, or are refused by their position and name before anything is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from llmops_components.data.preparation.step import Inputs, Step
from llmops_components.data.preparation.table import STEPS
from llmops_components.errors import SettingError, check_known


def read_steps(declared: Sequence[Mapping[str, Any]], inputs: Inputs | None = None) -> list[Step]:
    """The steps that a caller has declared.

    Args:
        declared: One dict a step: its name as ``step``, and its settings.
        inputs: What came with the call beside the rows.

    Raises:
        SettingError: A step or setting is unknown, missing, or has a wrong type or value.
    """
    if isinstance(declared, str | Mapping) or not isinstance(declared, Sequence):
        raise SettingError(f"steps must be a list of objects, one for each step, got {declared!r:.60}.")
    if not declared:
        raise SettingError("steps is empty: name at least one step, for example drop_duplicates.")
    steps = [_read(position, each) for position, each in enumerate(declared, start=1)]
    for position, step in enumerate(steps, start=1):
        try:
            step.check(inputs or {})
        except SettingError as error:
            raise SettingError(f"The settings of {_place(position, step.step)} are wrong: {error}") from error
    return steps


def _place(position: int, name: str) -> str:
    return f"steps, number {position} ({name})"


def _read(position: int, declared: Mapping[str, Any]) -> Step:
    if not isinstance(declared, Mapping) or not isinstance(declared.get("step"), str):
        raise SettingError(
            f"steps, number {position}, must be an object with the name of a step as `step`, got {declared!r:.80}."
        )
    name = declared["step"]
    check_known([name], STEPS, f"step in steps, number {position}")
    kind, where = STEPS[name], _place(position, name)
    given = {key: value for key, value in declared.items() if key != "step"}
    check_known(map(str, given), (each.name for each in fields(kind) if each.init), f"setting of {where}")
    return _build(kind, given, where)


def _build(kind: type[Step], given: dict[str, Any], where: str) -> Step:
    from pydantic import ValidationError

    try:
        # As JSON: its lists may be tuples, while "10" is no number and 1 is not true.
        step: Step = _adapter(kind).validate_json(json.dumps(given, allow_nan=False), strict=True)
    except ValidationError as error:
        raise SettingError(f"The settings of {where} are wrong: {'; '.join(_problems(error))}.") from None
    except SettingError as error:
        raise SettingError(f"The settings of {where} are wrong: {error}") from None
    except (TypeError, ValueError) as error:
        raise SettingError(f"The settings of {where} are no JSON: {error}.") from None
    return step


@cache
def _adapter(kind: type[Step]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _problems(error: Any) -> list[str]:
    found = []
    for each in error.errors(include_url=False):
        name = ".".join(map(str, each["loc"])) or "the settings"
        if each["type"] == "missing":
            found.append(f"{name} is missing")
        else:
            message = each["msg"].removeprefix("Input ").removeprefix("Tuple ")
            found.append(f"{name} {message}, got {each['input']!r:.60}")
    return found


def settings_of(step: Step) -> dict[str, Any]:
    """A step as it was declared, with its defaults filled in and its version, for a manifest.

    Args:
        step: The step.
    """
    settings: dict[str, Any] = _adapter(type(step)).dump_python(step, mode="json")
    return {"step": step.step, "version": step.version, **settings}
