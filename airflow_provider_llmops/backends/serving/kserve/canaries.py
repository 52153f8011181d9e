"""A canary as KServe's standard mode has it: a predictor beside the stable one, with pods of its own and a share of the routes.

KServe fills what a canary does not say with what the stable predictor says, gives it as many pods as its share of the stable one's comes
to (none at 0 percent, unless it says otherwise), and takes as many from the stable one:
https://github.com/kserve/kserve/blob/master/pkg/controller/v1beta1/inferenceservice/components/predictor.go.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from airflow_provider_llmops.backends.serving.base import Revision
from airflow_provider_llmops.backends.serving.kserve.reading import ServiceObjects, revisions_of
from airflow_provider_llmops.backends.serving.kserve.rules import (
    AUTOSCALER_ANNOTATION,
    MAX_NAME,
    MAX_NAME_AND_NAMESPACE,
    revision_of,
)
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.states import ServiceState

_HASH_CHARACTERS = 5
# Of the stable predictor alone: KServe refuses them in a canary.
_AUTOSCALING = ("maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling")
_NOT_HANDED_ON = (*_AUTOSCALING, "minReplicas", "name")
# Its Service leads past the agent that logs and batches: it is made of the number of pods alone.
_IGNORED = {
    "storageUris": "lora_adapters",
    "logger": "logger",
    "batcher": "batcher",
    "workerSpec": "workerSpec",
}


def predictor_name(revision: str) -> str:
    """The canary predictor's name, by which its Deployment and Service are called.

    :param revision: its revision
    """
    return f"c{revision[:_HASH_CHARACTERS]}"


def canary_entry(manifest: Mapping[str, Any], share: int) -> dict[str, Any]:
    """The entry in ``spec.canary`` that runs a specification beside the one that serves.

    It has one pod and no autoscaler, which KServe would leave behind.

    :param manifest: of :func:`~airflow_provider_llmops.backends.serving.kserve.rules.on_cluster`
    :param share: percent of the requests
    """
    predictor = copy.deepcopy(dict(manifest["spec"]["predictor"]))
    for field in _AUTOSCALING:
        predictor.pop(field, None)
    predictor |= {
        "name": predictor_name(revision_of(manifest)),
        "minReplicas": 1,
        "annotations": {**(predictor.get("annotations") or {}), AUTOSCALER_ANNOTATION: "none"},
    }
    return {"trafficPercent": share, "predictor": predictor}


def check_canary(stable: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Refuse what KServe would make another canary of than it is told.

    :param stable: the predictor that serves, as the API server has it
    :param manifest: of :func:`~airflow_provider_llmops.backends.serving.kserve.rules.on_cluster`
    :raises ConfigurationError: it would
    """
    metadata, wanted = manifest["metadata"], manifest["spec"]["predictor"]
    predictor = canary_entry(manifest, 0)["predictor"]
    _check_name(metadata["name"], metadata["namespace"], len(predictor["name"]) + 1)
    for what, of in (("service that serves", stable), ("new revision", wanted)):
        if most := next(
            (field for field in ("minReplicas", "maxReplicas") if (of.get(field) or 0) > 1), None
        ):
            raise ConfigurationError(
                f"{most} of the {what} is {of[most]}: canaries of services with more than one pod are not built, since KServe takes the "
                "canary's pods from those that serve. Deploy with DeployModelOperator."
            )
    if ignored := [what for field, what in _IGNORED.items() if wanted.get(field)]:
        raise ConfigurationError(
            f"KServe ignores {', '.join(ignored)} of a canary. Deploy with DeployModelOperator."
        )
    if handed_on := sorted(_handed_on(stable, predictor)):
        raise ConfigurationError(
            f"KServe would hand {', '.join(handed_on[:5])} of the service that serves on to the canary, which has none of its own, so that "
            "another specification would be judged than the one that serves afterwards. Set them in both, or deploy with "
            "DeployModelOperator."
        )


def _check_name(name: str, namespace: str, more: int) -> None:
    if len(name) > MAX_NAME - more or len(name) + len(namespace) > MAX_NAME_AND_NAMESPACE - more:
        raise ConfigurationError(
            f"A canary of service {name!r} is called {more} characters longer, and KServe cannot deploy it: the service's name may have at "
            f"most {MAX_NAME - more} characters then, {MAX_NAME_AND_NAMESPACE - more} together with its namespace. Deploy with "
            "DeployModelOperator."
        )


def _handed_on(stable: Mapping[str, Any], canary: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """What KServe copies from the stable predictor where the canary has nothing, or something empty."""
    for field, value in stable.items():
        if value in (None, "", 0, [], {}) or (not path and field in _NOT_HANDED_ON):
            continue
        own = canary.get(field)
        if isinstance(value, Mapping) and isinstance(own, Mapping) and own:
            yield from _handed_on(value, own, f"{path}{field}.")
        elif not own:
            yield f"{path}{field}"


def with_canary(manifest: Mapping[str, Any], canary: Mapping[str, Any] | None) -> dict[str, Any]:
    """A manifest with a canary beside it, or with none.

    :param manifest: of the predictor that is to be stable
    :param canary: the entry in ``spec.canary``
    """
    spec = {name: value for name, value in manifest["spec"].items() if name != "canary"}
    return {**manifest, "spec": {**spec, **({"canary": [dict(canary)]} if canary else {})}}


def shared_revisions(objects: ServiceObjects, *, now: float) -> dict[str, Revision]:
    """The revisions of a service by name, each with its share as the routes have it.

    A revision that is being made the stable one has pods in both Deployments, and is ready where one of them is.

    :param objects: the service
    :param now: Unix time
    """
    stable = revisions_of(objects, now=now)
    if objects.canary is None:
        return stable
    weights = objects.routes.weights if objects.routes is not None else {}
    of_canary = weights.get(objects.canary.deployed_as, 0)
    canary = revisions_of(objects.canary, now=now)
    found = {
        name: replace(each, traffic=round((100 - of_canary) * each.traffic / 100))
        for name, each in stable.items()
    }
    if objects.current in found and not any(each.traffic for each in stable.values()):
        # None of its pods is ready, and its requests go nowhere.
        found[objects.current] = replace(found[objects.current], traffic=100 - of_canary)
    name = objects.canary.current or ""
    new, same = canary[name], found.get(name)
    if same is not None and same.state is ServiceState.READY:
        new = same
    found[name] = replace(new, traffic=of_canary + (same.traffic if same else 0))
    return found
