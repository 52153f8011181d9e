"""Comparisons as evaluations write them, from a few numbers. A test of the contract has those that an evaluation has written itself."""

from __future__ import annotations

from typing import Any

LEVELS = [0.1, 0.05, 0.01, 0.001]
# How far the bounds of these levels lie from a value with the standard error 1.
_NORMAL = [1.2816, 1.6449, 2.3263, 3.0902]
_INTERVAL = 1.96


def bounded(value: float, error: float) -> dict[str, Any]:
    """A number whose standard error is known."""
    return {
        "value": value,
        "low": round(value - _INTERVAL * error, 6),
        "high": round(value + _INTERVAL * error, 6),
        "lower": [round(value - each * error, 6) for each in _NORMAL],
        "upper": [round(value + each * error, 6) for each in _NORMAL],
    }


def metric(
    candidate: float | None = 0.5,
    baseline: float | None = 0.4,
    *,
    error: float = 0.04,
    rows: int = 48,
    unscored: int = 0,
    **change: Any,
) -> dict[str, Any]:
    """Both models by one metric; without a number there is no row with a score."""
    scored = 0 if candidate is None else rows - unscored
    found: dict[str, Any] = {
        "higher_is_better": True,
        "candidate": None if candidate is None else bounded(candidate, error),
        "baseline": None,
        "difference": None,
        "worst_case": None,
        "rows_scored": scored,
        "rows_unscored": rows - scored,
        "pairs_scored": 0,
    }
    if candidate is not None and baseline is not None:
        found["baseline"] = {name: bounded(baseline, error)[name] for name in ("value", "low", "high")}
        found |= {"difference": bounded(round(candidate - baseline, 6), error), "pairs_scored": scored}
    return found | change


def comparison(slices: dict[str, Any] | None = None, **metrics: dict[str, Any]) -> dict[str, Any]:
    """The whole, of metrics by name."""
    everything = [
        *metrics.values(),
        *(m for values in (slices or {}).values() for v in values.values() for m in v.values()),
    ]
    return {
        "schema_version": 2,
        "confidence": 0.95,
        "levels": LEVELS,
        "has_baseline": any(each["baseline"] is not None for each in everything),
        "metrics": metrics,
        "slices": slices or {},
    }
