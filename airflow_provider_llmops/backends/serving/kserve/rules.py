"""What KServe in standard mode takes for a service, refused by name before anything is applied where it would be ignored or fail late.

Each rule was seen on KServe's real controllers, which accept all of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from airflow_provider_llmops.backends.serving.kserve.reading import CONTAINER, REVISION_LABEL
from airflow_provider_llmops.backends.serving.manifest import MODEL_DIGEST_ANNOTATION
from airflow_provider_llmops.backends.serving.overrides import PARTS
from airflow_provider_llmops.exceptions import ConfigurationError, shown_value
from airflow_provider_llmops.uris import scheme_of

GROUP, VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
SERVICE_LABEL = "serving.kserve.io/inferenceservice"  # of all that KServe makes of a service
MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
MODE = "Standard"
AUTOSCALER_ANNOTATION = "serving.kserve.io/autoscalerClass"
# "-predictor" and the namespace go into one label of a host name with it.
MAX_NAME = 48
MAX_NAME_AND_NAMESPACE = 52
_NAME = re.compile(rf"[a-z](?:[-a-z0-9]{{0,{MAX_NAME - 2}}}[a-z0-9])?")
SCHEMES = ("gs", "s3", "pvc", "https", "http", "hdfs", "webhdfs", "oci", "hf")
_HASH_CHARACTERS = 10
_SCALED_BY_REQUESTS = ("concurrency", "rps")


def on_cluster(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest as KServe gets it: in standard mode, with the revision's label, and with nothing that differs from run to run.

    KServe copies every label and annotation into the pods, so that one that differs would roll the service out again.

    :param manifest: an ``InferenceService``
    :raises ConfigurationError: KServe would ignore something in it, or accept it and never deploy it
    """
    sent = deepcopy(dict(manifest))
    metadata, predictor = sent["metadata"], sent["spec"]["predictor"]
    _check_name(metadata["name"], metadata["namespace"])
    if "canary" in sent["spec"]:
        raise ConfigurationError(
            f"canary of service {metadata['name']!r} is written by CanaryOperator, with the share of each step. Leave it out."
        )
    for part in PARTS:
        _check_scale(metadata["name"], sent["spec"].get(part) or {})
    _check_autoscaler(
        metadata["name"],
        {**(metadata.get("annotations") or {}), **(predictor.get("annotations") or {})},
        predictor,
    )
    _check_predictor(metadata["name"], predictor)
    for container in _containers(predictor):
        container["resources"] = _resources(metadata["name"], container.get("resources") or {})
    annotations = {MODE_ANNOTATION: MODE, **(metadata.get("annotations") or {})}
    if annotations[MODE_ANNOTATION] not in (MODE, "RawDeployment"):
        raise ConfigurationError(
            f"Deployment mode {shown_value(annotations[MODE_ANNOTATION])} is not built: services run in KServe's standard mode. Leave "
            f"the annotation {MODE_ANNOTATION} out."
        )
    metadata["annotations"] = annotations
    name = _hash(sent)  # other weights at the same address are another revision
    annotations.pop(MODEL_DIGEST_ANNOTATION, None)
    predictor["labels"] = {**(predictor.get("labels") or {}), REVISION_LABEL: name}
    return sent


def revision_of(manifest: Mapping[str, Any]) -> str:
    """The revision's name in a manifest as KServe gets it.

    :param manifest: of :func:`on_cluster`
    """
    name: str = manifest["spec"]["predictor"]["labels"][REVISION_LABEL]
    return name


def _hash(manifest: Mapping[str, Any]) -> str:
    text = json.dumps([manifest["spec"], manifest["metadata"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARACTERS]


def _check_name(name: str, namespace: str) -> None:
    if not _NAME.fullmatch(name) or len(name) + len(namespace) > MAX_NAME_AND_NAMESPACE:
        raise ConfigurationError(
            f"KServe cannot deploy a service called {shown_value(name)} in namespace {shown_value(namespace)}: a name begins with a "
            f"lower-case letter and has at most {MAX_NAME} lower-case letters, digits and '-', {MAX_NAME_AND_NAMESPACE} together "
            f"with its namespace; these have {len(name)} and {len(name) + len(namespace)}."
        )


def _check_predictor(name: str, predictor: Mapping[str, Any]) -> None:
    refused = {
        "canaryTrafficPercent": "it is ignored, and the new version gets all of the requests",
        "name": "it is part of the service's address, which is to stay",
    }
    for field, why in refused.items():
        if field in predictor:
            raise ConfigurationError(
                f"{field} of service {name!r} has no place in KServe's standard mode: {why}. Leave it out."
            )
    given = (predictor.get("model") or {}).get("storageUri")
    several = [each.get("uri") for each in predictor.get("storageUris") or ()]
    for address in [*([] if given is None else [given]), *several]:
        if scheme_of(str(address)) not in SCHEMES:
            raise ConfigurationError(
                f"KServe cannot fetch a model from {shown_value(address)}. Give an address that begins with "
                f"{', '.join(scheme + '://' for scheme in SCHEMES)}; a bucket of MinIO has an address with s3://."
            )
        if several and scheme_of(str(address)) == "oci":
            raise ConfigurationError(
                f"{shown_value(address)} of service {name!r} with LoRA adapters: images beside other addresses are not built. Give the model and "
                "its lora_adapters another address."
            )


def _check_scale(name: str, part: Mapping[str, Any]) -> None:
    """Refuse numbers of pods, and what they are chosen by, that standard mode takes for others."""
    if part.get("minReplicas") == 0:
        raise ConfigurationError(
            f"minReplicas of service {name!r} is 0, which KServe's standard mode takes for 1: nothing scales to zero there. Give 1 or "
            "more."
        )
    if part.get("scaleMetric") in _SCALED_BY_REQUESTS:
        raise ConfigurationError(
            f"scaleMetric {part['scaleMetric']!r} of service {name!r} is ignored in KServe's standard mode, which scales by CPU "
            "or memory. Give 'cpu' or 'memory'."
        )
    scaled_by = part.get("autoScaling") or {}
    metrics = scaled_by.get("metrics") or () if isinstance(scaled_by, Mapping) else (scaled_by,)
    if any(not isinstance(each, Mapping) for each in metrics):
        raise ConfigurationError(
            f"autoScaling of service {name!r} must have metrics as Kubernetes has them, got {shown_value(scaled_by, 60)}."
        )
    other = {str(each.get("type")) for each in metrics} - {"Resource"}
    if other or "behavior" in scaled_by:
        ignored = ", ".join(sorted(other)) or "behavior"
        raise ConfigurationError(
            f"{ignored} in autoScaling of service {name!r} is ignored without KEDA, which is not built. Leave it out, and scale by CPU or memory."
        )


def _check_autoscaler(name: str, annotations: Mapping[str, str], predictor: Mapping[str, Any]) -> None:
    chosen = annotations.get(AUTOSCALER_ANNOTATION, "hpa")
    if chosen == "keda":
        raise ConfigurationError(
            f"Service {name!r} is to be scaled by KEDA, which is not built. Leave the annotation {AUTOSCALER_ANNOTATION} out."
        )
    if chosen != "hpa" and "autoScaling" in predictor:
        raise ConfigurationError(
            f"autoscaling of service {name!r} is ignored with the annotation {AUTOSCALER_ANNOTATION}: {chosen}. Leave one of them out."
        )


def _containers(predictor: dict[str, Any]) -> list[dict[str, Any]]:
    """What serves: a model that a runtime serves, or the container of one's own."""
    own = [each for each in predictor.get("containers") or [] if each.get("name") == CONTAINER]
    return [*filter(None, [predictor.get("model")]), *own]


def _resources(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Requests and limits without a gap that KServe would fill with 1 CPU and 2 GiB; what is limited is requested as Kubernetes does it."""
    limits, requests = dict(given.get("limits") or {}), dict(given.get("requests") or {})
    if missing := [what for what in ("cpu", "memory") if what not in limits]:
        raise ConfigurationError(
            f"Service {name!r} has no limit for {' and '.join(missing)}, and KServe would allow its container 1 CPU and 2 GiB. Give "
            "predictor_resources={'limits': {'cpu': ..., 'memory': ...}}, with GPUs where the model needs them, or set predictor_resources in the "
            "extra of the kserve connection for all services."
        )
    return {
        **given,
        "limits": limits,
        "requests": {**{what: limits[what] for what in ("cpu", "memory")}, **requests},
    }
