"""What all triggers that wait in one namespace of a cluster look at: one watch for each kind of object, however many services there are.

It lags behind by as long as an event needs, and by :data:`~airflow_provider_llmops.backends.kubernetes.reflector.WATCH_SECONDS` at most where
the network loses what the API server sends. So nothing is decided on it: who sees that there is nothing more to wait for reads that once
more, from the API server itself.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from airflow_provider_llmops.backends.kubernetes.asking import PATIENCE_SECONDS
from airflow_provider_llmops.backends.kubernetes.cluster import Cluster
from airflow_provider_llmops.backends.kubernetes.reflector import Kind, Reflector
from airflow_provider_llmops.backends.serving.kserve import gateway, history
from airflow_provider_llmops.backends.serving.kserve.gateway import Routes, route_names
from airflow_provider_llmops.backends.serving.kserve.reader import (
    ADDS_A_NODE,
    Documents,
    ServiceReader,
    app_of,
)
from airflow_provider_llmops.backends.serving.kserve.rights import WATCH_ADVICE
from airflow_provider_llmops.backends.serving.kserve.rules import GROUP, PLURAL, SERVICE_LABEL, VERSION
from airflow_provider_llmops.exceptions import RunNotFoundError

__all__ = ["SharedObjects", "SharedReader", "shared_objects"]

BEGIN_SECONDS = 10.0
_BEGIN_LOOK_SECONDS = 0.05
_APPS = "/apis/apps/v1/namespaces/{}"


def _name(document: Mapping[str, Any]) -> str:
    return str(document["metadata"]["name"])


def _label(label: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda document: str((document["metadata"].get("labels") or {}).get(label, ""))


def _subject(document: Mapping[str, Any]) -> str:
    return str(document["involvedObject"]["name"])


SERVICES = Kind(PLURAL, f"/apis/{GROUP}/{VERSION}/namespaces/{{}}/{PLURAL}", _name)
DEPLOYMENTS = Kind("deployments", f"{_APPS}/deployments", _name, labels=SERVICE_LABEL)
REPLICA_SETS = Kind("replicasets", f"{_APPS}/replicasets", _label("app"), labels=SERVICE_LABEL)
PODS = Kind("pods", "/api/v1/namespaces/{}/pods", _label("app"), labels=SERVICE_LABEL)
KEPT = Kind(
    "controllerrevisions",
    f"{_APPS}/controllerrevisions",
    _label(history.SERVICE_LABEL),
    labels=history.SERVICE_LABEL,
)
# These only when somebody asks for them first.
ROUTES = Kind(
    gateway.ROUTES, f"/apis/{gateway.GROUP}/{gateway.VERSION}/namespaces/{{}}/{gateway.ROUTES}", _name
)
_EVENTS = "/api/v1/namespaces/{}/events"
WARNINGS = Kind("events", _EVENTS, _subject, fields="type=Warning,involvedObject.kind=InferenceService")
ADDED_NODES = tuple(
    Kind("events", _EVENTS, _subject, fields=f"involvedObject.kind=Pod,reason={reason}")
    for reason in ADDS_A_NODE
)
_OF_EACH_LOOK = (SERVICES, DEPLOYMENTS, REPLICA_SETS, PODS, KEPT)


class SharedObjects:
    """The objects of one namespace, watched for as long as somebody looks at them.

    :param cluster: where
    :param namespace: the namespace
    """

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        """As the connection has it by now."""
        self.users = 0
        self._namespace = namespace
        self._reflectors: dict[Kind, Reflector] = {}
        self._lock = threading.Lock()
        self._is_over = False
        for kind in _OF_EACH_LOOK:
            self._reflector(kind)

    def found(self, kind: Kind, key: str) -> Documents | None:
        """The objects of a key; ``None`` while it is not known which there are.

        :param kind: the kind
        :param key: the key
        """
        reflector = self._reflector(kind)
        return None if reflector is None else reflector.found(key)

    def _reflector(self, kind: Kind) -> Reflector | None:
        with self._lock:
            if self._is_over:  # a look that went on after its trigger was cancelled
                return None
            if kind not in self._reflectors:
                found = Reflector(kind, self._namespace, lambda: self.cluster, WATCH_ADVICE)
                self._reflectors[kind] = found
                found.start()
            return self._reflectors[kind]

    async def begun(self) -> None:
        """Wait until all were listed, or could not be; no longer than :data:`BEGIN_SECONDS`."""
        until = time.monotonic() + BEGIN_SECONDS
        begins = list(self._reflectors.values())
        while time.monotonic() < until and not all(each.has_begun for each in begins):  # noqa: ASYNC110  (threads set it)
            await asyncio.sleep(_BEGIN_LOOK_SECONDS)

    def stop(self) -> None:
        """Watch them no more."""
        with self._lock:
            self._is_over = True
            for reflector in self._reflectors.values():
                reflector.stop()


_shared: dict[tuple[str, str, str], SharedObjects] = {}
_lock = threading.Lock()


@asynccontextmanager
async def shared_objects(cluster: Cluster, namespace: str) -> AsyncIterator[SharedObjects]:
    """The objects of a namespace, shared by all who look at them through one connection.

    :param cluster: of the connection
    :param namespace: the namespace
    """
    key = (cluster.conn_id, str(cluster.client.configuration.host), namespace)
    with _lock:
        found = _shared.get(key)
        if found is None:
            found = _shared[key] = SharedObjects(cluster, namespace)
        found.users += 1
        found.cluster = cluster
    try:
        await found.begun()
        yield found
    finally:
        with _lock:
            found.users -= 1
            if not found.users:
                del _shared[key]
                found.stop()


class SharedReader(ServiceReader):
    """Reads services from what is shared; what is not known there, from the API server itself.

    :param shared: the objects
    :param client: the ``kubernetes`` client's ``ApiClient``
    :param conn_id: Airflow connection of the client, for messages
    """

    def __init__(self, shared: SharedObjects, client: Any, *, conn_id: str) -> None:
        super().__init__(client, conn_id=conn_id)
        self._shared = shared

    def find(self, namespace: str, name: str, *, patience: float = PATIENCE_SECONDS) -> dict[str, Any] | None:
        """The ``InferenceService``; ``None`` if there is none of that name."""
        found = self._shared.found(SERVICES, name)
        if found is None:
            return super().find(namespace, name, patience=patience)
        return found[0] if found else None

    def _deployment(self, what: str, namespace: str, name: str, patience: float) -> dict[str, Any]:
        found = self._shared.found(DEPLOYMENTS, name)
        if found is None:
            return super()._deployment(what, namespace, name, patience)
        if not found:
            raise RunNotFoundError("There is no deployment of this name.", f"Wanted: {what}")
        return found[0]

    def _replica_sets(self, what: str, namespace: str, deployed_as: str, patience: float) -> Documents:
        found = self._shared.found(REPLICA_SETS, app_of(deployed_as))
        return super()._replica_sets(what, namespace, deployed_as, patience) if found is None else found

    def _pods(self, what: str, namespace: str, deployed_as: str, patience: float) -> Documents:
        found = self._shared.found(PODS, app_of(deployed_as))
        return super()._pods(what, namespace, deployed_as, patience) if found is None else found

    def _warnings(self, what: str, namespace: str, name: str, patience: float) -> Documents:
        found = self._shared.found(WARNINGS, name)
        return super()._warnings(what, namespace, name, patience) if found is None else found

    def _events_of_pod(self, what: str, namespace: str, pod: str, patience: float) -> Documents:
        found = [self._shared.found(kind, pod) for kind in ADDED_NODES]
        known = [events for events in found if events is not None]
        if len(known) < len(found):
            return super()._events_of_pod(what, namespace, pod, patience)
        return [event for events in known for event in events]

    def _kept(self, what: str, namespace: str, name: str, patience: float) -> Documents:
        found = self._shared.found(KEPT, name)
        return super()._kept(what, namespace, name, patience) if found is None else found

    def _routes(self, namespace: str, name: str, patience: float) -> Routes:
        found = [self._shared.found(ROUTES, each) for each in route_names(name)]
        known = [documents for documents in found if documents is not None]
        if len(known) < len(found):
            return super()._routes(namespace, name, patience)
        return Routes.read(*(documents[0] if documents else None for documents in known))
