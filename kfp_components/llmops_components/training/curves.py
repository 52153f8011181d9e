"""Figures from a trainer's log: where each curve began and ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# Timings differ from run to run; without them the same training writes the same bytes.
_TIMINGS = ("_runtime", "_per_second", "step_time", "total_flos")


def curve_metrics(log_history: list[dict[str, Any]], curves: Mapping[str, str]) -> dict[str, float]:
    """First, final and mean loss, and the first and final value of other curves.

    The trainer's own mean is wrong for a resumed run, so the mean is taken from the log.

    Args:
        log_history: The trainer's log.
        curves: Names in the trainer's log by the names to report.
    """
    points = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    steps = [
        step - before for (step, _), before in zip(points, [0, *(step for step, _ in points)], strict=False)
    ]
    mean = sum(loss * n for (_, loss), n in zip(points, steps, strict=True)) / sum(steps)
    metrics = {"train_loss": mean, "first_loss": points[0][1], "final_loss": points[-1][1]}
    for name, key in curves.items():
        values = [entry[key] for entry in log_history if _is_number(entry.get(key))]
        if values:
            metrics |= {f"first_{name}": values[0], f"final_{name}": values[-1]}
    return metrics


def eval_metrics(evaluated: Mapping[str, Any], curves: Mapping[str, str]) -> dict[str, float]:
    """Loss and curves on rows held out from training.

    Args:
        evaluated: What ``Trainer.evaluate()`` returned.
        curves: Names in the trainer's log by the names to report.
    """
    found = {f"eval_{name}": evaluated.get(f"eval_{key}") for name, key in {"loss": "loss", **curves}.items()}
    return {name: value for name, value in found.items() if _is_number(value)}


def training_log(log_history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trainer's log without its timings, so that the same training writes the same bytes."""
    return [
        {
            # A step that half precision had to skip has no gradient; JSON has no word for that but null.
            key: value if _is_number(value) else None
            for key, value in entry.items()
            if not key.endswith(_TIMINGS)
        }
        for entry in log_history
        if "loss" in entry or "eval_loss" in entry
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
