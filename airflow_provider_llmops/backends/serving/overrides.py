"""What an author sets in a service's specification beyond the arguments that there are, merged into it as Kubernetes merges a pod's.

Objects are merged field by field, and ``None`` takes a field away. Of the lists of a pod, those that Kubernetes merges by a key are merged
by it; any other list takes the place of the one that was there.

Reference: https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value
from airflow_provider_llmops.redaction.signs import is_secret_name

__all__ = ["merged", "overridden"]

PARTS = ("predictor", "transformer", "explainer")
# Fields of a pod and of its containers with the key by which Kubernetes merges their lists (`patchMergeKey` in its API).
MERGE_KEYS = {
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ports": "containerPort",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
# What has an argument of its own, which is checked: the field, and the argument.
_OWNED = {
    ("predictor", "model", "args"): "predictor_args",
    ("predictor", "model", "modelFormat"): "model",
    ("predictor", "model", "storageUri"): "model",
    ("predictor", "model", "storage"): "model",
    ("predictor", "model", "resources"): "predictor_resources",
    ("predictor", "model", "runtime"): "runtime",
    ("predictor", "serviceAccountName"): "service_account",
    ("predictor", "minReplicas"): "min_replicas",
    ("predictor", "maxReplicas"): "max_replicas",
    ("predictor", "autoScaling"): "autoscaling",
    ("predictor", "scaleMetric"): "autoscaling",
    ("predictor", "scaleMetricType"): "autoscaling",
    ("predictor", "scaleTarget"): "autoscaling",
    ("predictor", "logger"): "logger",
    ("predictor", "storageUris"): "model, and lora_adapters",
    ("predictor", "canary"): "CanaryOperator",
    ("predictor", "canaryTrafficPercent"): "CanaryOperator",
    ("canary",): "CanaryOperator",
}


def overridden(spec: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A service's specification with what its author sets beyond it.

    :param spec: ``spec`` of the ``InferenceService``
    :param overrides: fields of it, for example ``{"predictor": {"nodeSelector": {"pool": "gpu"}}}``
    :raises ConfigurationError: it sets what has an argument of its own, holds a secret, or cannot be merged
    """
    if not isinstance(overrides, Mapping):
        raise ConfigurationError(
            f"spec_overrides must be a dict with fields of the service's spec, got {shown_value(overrides)}."
        )
    if unknown := describe_unknown([str(name) for name in overrides if name != "canary"], PARTS):
        raise ConfigurationError(
            f"spec_overrides: the spec of a service has no {unknown}. There are: {', '.join(PARTS)}."
        )
    _check_owned(overrides)
    _check(overrides, "spec_overrides")
    return merged(spec, overrides)


def merged(spec: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A specification with fields of another one merged into it. What is named keeps its place in a list, and what is new comes last.

    :param spec: the specification
    :param overrides: the fields
    :raises ConfigurationError: an entry of a list lacks the key of the list
    """
    result: dict[str, Any] = _merged(spec, overrides, "spec_overrides")
    return result


def _check_owned(overrides: Mapping[str, Any]) -> None:
    predictor = overrides.get("predictor", {})
    model = predictor.get("model", {}) if isinstance(predictor, Mapping) else {}
    for where, value in (("predictor", predictor), ("predictor.model", model)):
        if not isinstance(value, Mapping):
            raise ConfigurationError(
                f"spec_overrides.{where} must be a dict, got {shown_value(value, 60)}: it would take the place of all that the other "
                "arguments have set there."
            )
    for path, argument in _OWNED.items():
        found: Any = overrides
        for name in path:
            found = found.get(name, _MISSING) if isinstance(found, Mapping) else _MISSING
        if found is not _MISSING:
            raise ConfigurationError(f"spec_overrides sets {'.'.join(path)}, for which there is {argument}.")


_MISSING = object()
_VARIABLE = re.compile(r"\$\([A-Za-z_][A-Za-z0-9_]*\)")  # which Kubernetes fills in


def _check(value: Any, where: str) -> None:
    """Refuse directives of a patch, and secrets, which everybody could read who may see the service."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str) or name.startswith("$"):
                raise ConfigurationError(
                    f"{where} has the field {shown_value(name, 60)}: directives are not understood. Give None for a field that is to go."
                )
            _check(item, f"{where}.{name}")
        name = value.get("name")
        if isinstance(name, str) and is_secret_name(name) and value.get("value"):
            raise ConfigurationError(
                f"{where} gives variable {name} a value, which everybody could read who may see the service. Name a secret: "
                "{'name': ..., 'valueFrom': {'secretKeyRef': {'name': ..., 'key': ...}}}."
            )
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check(item, f"{where}[{number}]")
            if isinstance(item, str) and item.startswith("-"):
                option, _, given = item.partition("=")
                _check_option(option, given or next(iter(value[number + 1 :]), ""), f"{where}[{number}]")


def _check_option(option: str, value: Any, where: str) -> None:
    if is_secret_name(option.lstrip("-")) and isinstance(value, str) and not _VARIABLE.fullmatch(value):
        raise ConfigurationError(
            f"{where} gives {option} a value, which everybody could read who may see the service. Name a secret in the container's env, and "
            f"give {option} the variable, as $(NAME)."
        )


def _merged(old: Any, new: Any, where: str) -> Any:
    if not isinstance(new, Mapping):
        return deepcopy(list(new) if isinstance(new, tuple) else new)
    if not isinstance(old, Mapping):
        old = {}
    result = deepcopy(dict(old))
    for name, item in new.items():
        here = f"{where}.{name}"
        if item is None:
            result.pop(name, None)
        elif name in MERGE_KEYS and isinstance(result.get(name), list) and not isinstance(item, list | tuple):
            raise ConfigurationError(f"{here} must be a list, got {shown_value(item, 60)}.")
        elif name in MERGE_KEYS and isinstance(item, list | tuple):
            result[name] = _merged_list(result.get(name) or [], item, MERGE_KEYS[name], here)
        else:
            result[name] = _merged(result.get(name), item, here)
    return result


def _merged_list(old: Sequence[Any], new: Sequence[Any], key: str, where: str) -> list[Any]:
    result = deepcopy(list(old))
    for number, item in enumerate(new):
        if not isinstance(item, Mapping) or key not in item:
            raise ConfigurationError(
                f"{where}[{number}] has no {key}, by which Kubernetes tells the entries of this list apart."
            )
        place = next((n for n, each in enumerate(result) if each.get(key) == item[key]), None)
        if place is None:
            result.append(_merged({}, item, f"{where}[{number}]"))
        else:
            result[place] = _merged(result[place], item, f"{where}[{number}]")
    return result
