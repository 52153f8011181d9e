"""How many pods a service has, and by what KServe's standard mode chooses: a HorizontalPodAutoscaler over CPU or memory.

Reference: https://kserve.github.io/website/docs/model-serving/predictive-inference/autoscaling/hpa-autoscaler
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value

METRICS = ("cpu", "memory")
_FIELDS = ("metric", "target")
_NUMBERS_OF_PODS = ("min", "max", "min_replicas", "max_replicas", "minReplicas", "maxReplicas")
_BY_REQUESTS = ("concurrency", "rps")
_MEMORY = re.compile(r"[1-9][0-9]*(?:\.[0-9]+)?(?:Ki|Mi|Gi|Ti|k|M|G|T)")


def scale_of(name: str, least: Any, most: Any, autoscaling: Any) -> dict[str, Any]:
    """The fields of a predictor that say how many pods it has.

    :param name: of the service
    :param least: fewest pods
    :param most: most pods; ``None`` for as many as the fewest
    :param autoscaling: by what their number is chosen; ``None`` for KServe's choice, 80 percent of the CPU requested
    :raises ConfigurationError: they are no numbers of pods, or Kubernetes would scale by something else
    """
    limits = _limits(name, least, most)
    if autoscaling is None:
        return limits
    metric = _metric(name, autoscaling)
    if limits.get("maxReplicas", 0) <= limits["minReplicas"]:
        raise ConfigurationError(
            f"autoscaling of service {name!r} has nothing to choose from: max_replicas must be above min_replicas, which is "
            f"{limits['minReplicas']}."
        )
    return {**limits, "autoScaling": {"metrics": [{"type": "Resource", "resource": metric}]}}


def _limits(name: str, least: Any, most: Any) -> dict[str, Any]:
    limits = {"minReplicas": least, **({} if most is None else {"maxReplicas": most})}
    for field, given in limits.items():
        limits[field] = value = _number(given)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ConfigurationError(
                f"{field} of service {name!r} must be a whole number from 0 on, got {shown_value(value, 60)}."
            )
    fewest = limits["minReplicas"]
    if limits.get("maxReplicas", math.inf) < max(fewest, 1):
        raise ConfigurationError(
            f"maxReplicas of service {name!r} is {most}, below minReplicas, which is {fewest}, or below 1."
        )
    return limits


def _metric(name: str, given: Any) -> dict[str, Any]:
    what = f"autoscaling of service {name!r}"
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{what} must be a dict such as {_EXAMPLE}, got {shown_value(given, 60)}.")
    if unknown := describe_unknown(map(str, given), _FIELDS):
        hint = " The fewest and the most pods are min_replicas and max_replicas."
        raise ConfigurationError(
            f"{what} has no {unknown}. There are: {', '.join(_FIELDS)}.{hint if set(given) & {*_NUMBERS_OF_PODS} else ''}"
        )
    metric, target = given.get("metric"), _number(given.get("target"))
    if metric not in METRICS:
        why = ", which KServe's standard mode ignores: it scales by CPU or memory, and KEDA is not built"
        raise ConfigurationError(
            f"{what} has the metric {shown_value(metric, 40)}{why if metric in _BY_REQUESTS else ''}. There are: {', '.join(METRICS)}."
        )
    if isinstance(target, int) and not isinstance(target, bool) and 1 <= target <= 100:
        return {"name": metric, "target": {"type": "Utilization", "averageUtilization": target}}
    if metric == "memory" and isinstance(target, str) and _MEMORY.fullmatch(target):
        return {"name": metric, "target": {"type": "AverageValue", "averageValue": target}}
    or_memory = ", or for memory how much a pod has on average, such as '8Gi'"
    raise ConfigurationError(
        f"{what} needs a target: percent of what a pod requests, from 1 to 100{or_memory}; got {shown_value(target, 40)}."
    )


_EXAMPLE = "{'metric': 'cpu', 'target': 80}"


def _number(given: Any) -> Any:
    return int(given) if isinstance(given, str) and given.isdecimal() else given  # a template gives text
