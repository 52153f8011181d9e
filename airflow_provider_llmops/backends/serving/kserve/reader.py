"""Reads a service of a cluster with KServe, and what carries it out, from the API server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from airflow_provider_llmops.backends.kubernetes.asking import (
    ANSWER_SECONDS,
    PATIENCE_SECONDS,
    ForbiddenError,
    ask,
)
from airflow_provider_llmops.backends.kubernetes.pods import MAX_PODS, is_scheduled
from airflow_provider_llmops.backends.kubernetes.requests import (
    asking_for,
    asking_for_items,
    list_pods,
    list_warnings,
)
from airflow_provider_llmops.backends.serving.kserve import history
from airflow_provider_llmops.backends.serving.kserve.gateway import KSERVE_NAMESPACE, GatewayReader, Routes
from airflow_provider_llmops.backends.serving.kserve.reading import (
    ServiceObjects,
    as_its_own,
    revision_of_predictor,
)
from airflow_provider_llmops.backends.serving.kserve.rights import ADVICE
from airflow_provider_llmops.backends.serving.kserve.rules import GROUP, PLURAL, VERSION
from airflow_provider_llmops.exceptions import RunNotFoundError

__all__ = ["ADDS_A_NODE", "ServiceReader", "app_of", "kind_in"]

# As cluster-autoscaler and Karpenter say it.
ADDS_A_NODE = ("TriggeredScaleUp", "Nominated")
Documents = list[dict[str, Any]]


class ServiceReader:
    """Reads services.

    :param client: the ``kubernetes`` client's ``ApiClient``
    :param conn_id: Airflow connection of the client, for messages
    :param kserve_namespace: namespace of KServe's controller and its configuration
    """

    def __init__(self, client: Any, *, conn_id: str, kserve_namespace: str = KSERVE_NAMESPACE) -> None:
        from kubernetes.client import (  # type: ignore[import-untyped]
            AppsV1Api,
            CoreV1Api,
            CustomObjectsApi,
        )

        self.conn_id = conn_id
        self.gateway = GatewayReader(client, conn_id=conn_id, kserve_namespace=kserve_namespace)
        self._client = client
        self._objects = CustomObjectsApi(client)
        self._core = CoreV1Api(client)
        self._apps = AppsV1Api(client)

    def names(self, namespace: str, *, patience: float = PATIENCE_SECONDS) -> list[str]:
        """Names of the ``InferenceService`` objects of a namespace."""
        call = asking_for_items(self._objects.list_namespaced_custom_object, *kind_in(namespace))
        found = self._ask(f"list services in namespace {namespace}", call, patience)
        return sorted(item["metadata"]["name"] for item in found)

    def find(self, namespace: str, name: str, *, patience: float = PATIENCE_SECONDS) -> dict[str, Any] | None:
        """The ``InferenceService``; ``None`` if there is none of that name."""
        call = partial(self._objects.get_namespaced_custom_object, *kind_in(namespace), name)
        try:
            found: dict[str, Any] = self._ask(f"get service {namespace}/{name}", call, patience)
        except RunNotFoundError:
            return None
        return found

    def read(self, namespace: str, name: str, *, patience: float = PATIENCE_SECONDS) -> ServiceObjects:
        """The service, and as much of what carries it out as may be read."""
        service = self.find(namespace, name, patience=patience)
        if service is None:
            raise RunNotFoundError("There is no service of this name.", f"Service: {namespace}/{name}")
        found = self._behind(service, patience)
        ours = next((each for each in found.canaries if revision_of_predictor(each["predictor"])), None)
        if ours is None:
            return found
        canary = self._behind(as_its_own(service, ours), patience)
        try:
            routes = self._routes(namespace, name, patience)
        except ForbiddenError:
            routes = None
        return replace(found, canary=canary, routes=routes)

    def _behind(self, service: Mapping[str, Any], patience: float) -> ServiceObjects:
        """As much of what carries a predictor out as may be read."""
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        app = ServiceObjects(service).deployed_as
        refused: list[str] = []

        def read(what: str, find: Callable[..., Any], of: str, otherwise: Any) -> Any:
            try:
                return find(f"read the {what} of service {namespace}/{name}", namespace, of, patience)
            except RunNotFoundError:
                return otherwise
            except ForbiddenError:
                refused.append(f"the connection's user may not read {what}")
                return otherwise

        deployment = read("deployments", self._deployment, app, None)
        replica_sets = read("replicasets", self._replica_sets, app, [])
        pods = read("pods", self._pods, app, [])
        found = ServiceObjects(service, deployment, replica_sets, pods, (), refused)
        if found.is_stopped:
            return found
        if found.is_carried_out:
            return replace(found, scaling_up=self._scaling_up(namespace, found, patience))
        return replace(found, warnings=read("events", self._warnings, name, []))

    def _scaling_up(self, namespace: str, objects: ServiceObjects, patience: float) -> frozenset[str]:
        """Those pods without a place for which the cluster is adding a node."""
        waiting = [pod["metadata"]["name"] for pod in objects.pods if not is_scheduled(pod)][:MAX_PODS]
        found = set()
        for name in waiting:
            with contextlib.suppress(ForbiddenError):
                what = f"list the events about pod {namespace}/{name}"
                events = self._events_of_pod(what, namespace, name, patience)
                if any(event.get("reason") in ADDS_A_NODE for event in events):
                    found.add(name)
        return frozenset(found)

    def records(
        self, service: Mapping[str, Any], *, patience: float = PATIENCE_SECONDS
    ) -> dict[str, history.Record]:
        """The specifications that a service was given, by revision; not those of a former one of its name.

        :param service: the ``InferenceService``
        """
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        what = f"list the revisions of service {namespace}/{name}"
        own = [
            document
            for document in self._kept(what, namespace, name, patience)
            if any(
                owner["uid"] == service["metadata"]["uid"]
                for owner in document["metadata"].get("ownerReferences") or []
            )
        ]
        return {record.revision: record for record in map(history.Record.read, own)}

    def _deployment(self, what: str, namespace: str, name: str, patience: float) -> dict[str, Any]:
        """One Deployment."""
        call = asking_for(self._apps.read_namespaced_deployment, name, namespace)
        found: dict[str, Any] = self._ask(what, call, patience)
        return found

    def _replica_sets(self, what: str, namespace: str, deployed_as: str, patience: float) -> Documents:
        """Those of a Deployment."""
        call = asking_for_items(
            self._apps.list_namespaced_replica_set, namespace, label_selector=f"app={app_of(deployed_as)}"
        )
        return list(self._ask(what, call, patience))

    def _pods(self, what: str, namespace: str, deployed_as: str, patience: float) -> Documents:
        """Those of a Deployment."""
        call = partial(list_pods, self._core, namespace, f"app={app_of(deployed_as)}")
        return list(self._ask(what, call, patience))

    def _warnings(self, what: str, namespace: str, name: str, patience: float) -> Documents:
        """Events about a service."""
        return list(self._ask(what, partial(list_warnings, self._core, namespace, name), patience))

    def _events_of_pod(self, what: str, namespace: str, pod: str, patience: float) -> Documents:
        fields = f"involvedObject.name={pod}"
        call = asking_for_items(self._core.list_namespaced_event, namespace, field_selector=fields)
        return list(self._ask(what, call, patience))

    def _kept(self, what: str, namespace: str, name: str, patience: float) -> Documents:
        """The ``ControllerRevision`` objects of all services of a name."""
        call = asking_for_items(
            self._apps.list_namespaced_controller_revision,
            namespace,
            label_selector=f"{history.SERVICE_LABEL}={name}",
        )
        return list(self._ask(what, call, patience))

    def _routes(self, namespace: str, name: str, patience: float) -> Routes:
        """How the requests to a service are shared out."""
        return self.gateway.routes(namespace, name, patience=patience)

    def _ask(
        self,
        what: str,
        call: Callable[..., Any],
        patience: float = PATIENCE_SECONDS,
        *,
        answer_within: float = ANSWER_SECONDS,
    ) -> Any:
        return ask(what, call, ADVICE, conn_id=self.conn_id, patience=patience, answer_within=answer_within)


def app_of(deployed_as: str) -> str:
    """What KServe calls a Deployment's ReplicaSets and pods in the label ``app``.

    :param deployed_as: name of the Deployment
    """
    return f"isvc.{deployed_as}"


def kind_in(namespace: str) -> tuple[str, str, str, str]:
    """``InferenceService`` objects of a namespace, as the client wants it.

    :param namespace: the namespace
    """
    return GROUP, VERSION, namespace, PLURAL
