"""The address of one revision inside of a cluster: each predictor has a Service of its own, the canary's, too."""

from __future__ import annotations

from collections.abc import Callable

from airflow_provider_llmops.backends.serving.kserve.reading import (
    ServiceObjects,
    is_ready,
    port_of,
    revision_in,
)
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.uris import split_address


def own_address(objects: ServiceObjects, revision: str, is_headless: Callable[[], bool]) -> str:
    """Where a pod of the cluster reaches one revision and no other.

    KServe tells the stable predictor's, with the scheme of the Gateway; the pods themselves take HTTP.

    :param objects: the service as it is
    :param revision: the revision
    :param is_headless: whether KServe makes Services without an address of their own, whose names lead to the pods' own ports
    :raises ConfigurationError: the service has no such predictor, or no pod of it is ready
    """
    namespace = objects.service["metadata"]["namespace"]
    where = f"Service: {namespace}/{objects.service['metadata']['name']}"
    found = next((each for each in (objects, objects.canary) if each and each.current == revision), None)
    if found is None:
        raise ConfigurationError(
            f"Revision {revision} has no address: neither the stable predictor nor a canary runs it.", where
        )
    pods = [pod for pod in found.pods if revision_in(pod) == revision and is_ready(pod)]
    if not pods:
        raise ConfigurationError(
            f"Revision {revision} has no pod that is ready, and nothing answers at its address.", where
        )
    told = split_address((objects.status.get("address") or {}).get("url") or "").hostname or ""
    parts = told.split(".", 3)  # NAME.NAMESPACE.svc.cluster.local, as a rule
    domain = f".{parts[3]}" if len(parts) == 4 and parts[2] == "svc" else ""
    port = f":{port_of(pods[0])}" if is_headless() else ""
    return f"http://{found.deployed_as}.{namespace}.svc{domain}{port}"
