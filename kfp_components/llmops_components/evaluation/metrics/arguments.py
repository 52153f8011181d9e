"""Arguments of metrics, and metrics whose question to the judge is one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from string import Formatter
from typing import Any

from llmops_components.errors import SettingError, check_known
from llmops_components.evaluation.metrics.registry import METRICS, NO_COLUMNS, RUBRIC_LEVELS, TAKEN, Metric
from llmops_components.evaluation.tasks.table import TASKS, settings_of

_OF_JUDGE = "judge_"
_AUTHORED = ("prompt", "bounds", "values")
# What a question may name of a row.
_FIELDS = (*NO_COLUMNS, "reference", "retrieved_contexts", "reference_contexts")


def check_arguments(args: Mapping[str, Any], metrics: Mapping[str, Metric]) -> None:
    """Raise :class:`SettingError` for arguments of a metric that is not computed, or takes none.

    Args:
        args: Arguments by metric. Those of a metric of RAGAS are arguments of its class, for example
            ``{"noise_sensitivity": {"mode": "irrelevant"}}``; a name of its own with a ``prompt`` is a metric of the author's:
            ``{"polite": {"prompt": "Is this polite? {response}", "values": {"yes": 1, "no": 0}}}``, or ``bounds`` in place of
            ``values`` for a number.
        metrics: The metrics that are computed.
    """
    if not isinstance(args, Mapping):
        raise SettingError(f"metric_args is {args!r:.100}. Give an object by metric.")
    for name, given in args.items():
        if name not in metrics:
            raise SettingError(
                f"metric_args has {name!r}, which is not among the metrics: {', '.join(metrics)}. Add it to metric_names, or leave it out."
            )
        if not isinstance(given, Mapping):
            raise SettingError(f"metric_args of {name} are {given!r:.100}. Give an object.")
        if (rubrics := given.get("rubrics")) is not None and not (
            isinstance(rubrics, Mapping) and rubrics and set(rubrics) <= RUBRIC_LEVELS
        ):
            raise SettingError(
                f"metric_args: the rubrics of {name} are {rubrics!r:.100}. Give a text for each score, score1_description to "
                "score5_description."
            )
        if metrics[name].is_task:
            settings_of(name, given)
        elif given and not metrics[name].takes:
            raise SettingError(f"metric_args: {name} takes no arguments. Leave them out.")


def authored_metric(name: str, args: Any) -> Metric | None:
    """A metric whose question to the judge is given; None where none is.

    Args:
        name: Its name.
        args: Its arguments.

    Raises:
        SettingError: They cannot be meant.
    """
    if name in METRICS or not isinstance(args, Mapping) or "prompt" not in args:
        return None
    if name in TAKEN or name.startswith(_OF_JUDGE):
        raise SettingError(
            f"metric_args: {name} is the name of a column or number of the results. Give the metric another one."
        )
    check_known(args, _AUTHORED, f"argument in metric_args[{name!r}]")
    worst, best = _range(name, args)
    takes = _fields_of(name, args["prompt"])
    return Metric(
        about="by the judge: " + args["prompt"].strip().partition("\n")[0],
        best=best,
        worst=worst,
        columns=tuple(each for each in takes if each not in NO_COLUMNS),
        needs=("judge",),
        takes=takes,
    )


def with_settings(name: str, args: Any) -> Metric | None:
    """A metric of a task whose rows need no column of their own, since a setting stands for it; None where none does.

    Args:
        name: Its name.
        args: Its arguments.
    """
    if name not in TASKS or not isinstance(args, Mapping):
        return None
    setting = TASKS[name].given_for_all
    return (
        replace(METRICS[name], columns=()) if setting is not None and args.get(setting) is not None else None
    )


def _fields_of(name: str, prompt: Any) -> tuple[str, ...]:
    what = f"metric_args: the prompt of {name}"
    if not isinstance(prompt, str):
        raise SettingError(f"{what} is {prompt!r:.60}, and no text.")
    try:
        found = [each for _, each, _, _ in Formatter().parse(prompt) if each is not None]
    except ValueError as error:
        raise SettingError(f"{what} cannot be read: {error}. Write braces that are no field twice.") from None
    check_known(found, _FIELDS, f"field in the prompt of {name}")
    if not found:
        raise SettingError(f"{what} names nothing of a row. Name a field in braces, such as {{response}}.")
    return tuple(dict.fromkeys(found))


def _range(name: str, args: Mapping[str, Any]) -> tuple[float, float]:
    values, bounds = args.get("values"), args.get("bounds")
    if values is not None and bounds is not None:
        raise SettingError(f"metric_args: {name} has bounds and values. Give one of them.")
    numbers: Sequence[Any] = (0.0, 1.0)
    if values is not None:
        numbers = list(values.values()) if isinstance(values, Mapping) else []
    elif bounds is not None:
        numbers = bounds if isinstance(bounds, Sequence) and len(bounds) == 2 else []
    good = all(
        isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each)
        for each in numbers
    )
    if not good or len(numbers) < 2 or min(numbers) >= max(numbers) or (bounds and bounds[0] > bounds[1]):
        raise SettingError(
            f"metric_args of {name}: give bounds such as [0, 10], or values with the number that each counts, such as "
            "{'yes': 1, 'no': 0}."
        )
    return float(min(numbers)), float(max(numbers))
