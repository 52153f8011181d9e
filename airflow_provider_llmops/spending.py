"""What the steps of a DAG's run took, and what that costs: one meaning of it for a run, a backfill and the page of all models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

_HOUR = 3600.0
_OF_JUDGES = ("judge_cost", "judge_prompt_tokens", "judge_completion_tokens")
_OF_TRAININGS = {"device_hours": "device_hours", "tokens": "training_tokens"}


def spent_by(results: Iterable[Any]) -> dict[str, float]:
    """What the tasks of a run say that they took: of their steps' resources what can be added, and what judges and trainings took.

    :param results: what they have returned
    """
    found: defaultdict[str, float] = defaultdict(float)
    for result in results:
        for name, value in _numbers(result, "resources"):
            if not name.startswith("peak_"):
                found[name if name != "seconds" else "step_seconds"] += value
        for name, value in _numbers(result, "metrics"):
            if name in _OF_JUDGES:
                found[name] += value
        for name, value in _numbers(result, "details", "budget", "used"):
            if name in _OF_TRAININGS:
                found[_OF_TRAININGS[name]] += value
    return dict(found)


def joined_steps(result: Any) -> tuple[str, ...]:
    """Under which names the steps may have results of their own that a task has carried out in one run; groups and what is between steps have none.

    :param result: what the task has returned, with the states of all that was in the run by its path
    """
    steps = result.get("steps") if isinstance(result, Mapping) and "resources" not in result else None
    return tuple(name.rpartition("/")[2] for name in steps) if isinstance(steps, Mapping) else ()


def cost_of(spent: Mapping[str, float], price_per_hour: float) -> float:
    """What steps cost by their time, and judges as they say it themselves.

    :param spent: what the tasks of runs took, by its name
    :param price_per_hour: of a step
    """
    return spent.get("step_seconds", 0.0) / _HOUR * price_per_hour + spent.get("judge_cost", 0.0)


def energy_of(results: Iterable[Any], watts_per_device: float | None) -> float | None:
    """Kilowatt hours: of each step as it has measured them, else by the hours of its devices; ``None`` where neither is known of any.

    :param results: what the tasks have returned
    :param watts_per_device: that a device is taken to draw while a training goes on; without it only what is measured counts
    """
    found = []
    for result in results:
        each = spent_by([result])
        if "energy_kwh" in each:
            found.append(each["energy_kwh"])
        elif watts_per_device is not None and "device_hours" in each:
            found.append(each["device_hours"] * watts_per_device / 1000)
    return sum(found) if found else None


def _numbers(result: Any, *path: str) -> list[tuple[str, float]]:
    for name in path:
        result = result.get(name) if isinstance(result, Mapping) else None
    found = result.items() if isinstance(result, Mapping) else ()
    return [
        (name, value)
        for name, value in found
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
