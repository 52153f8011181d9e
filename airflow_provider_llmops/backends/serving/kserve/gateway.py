"""Where a cluster shares requests out: KServe's configuration, the Gateway that it names, and the routes of a service.

The object's own status is no evidence: with a plain Ingress it says that a canary has its share, and nothing is split.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from airflow_provider_llmops.backends.kubernetes.asking import PATIENCE_SECONDS, Advice, ask
from airflow_provider_llmops.backends.kubernetes.requests import asking_for
from airflow_provider_llmops.exceptions import ConfigurationError, RunNotFoundError, shown_value

__all__ = ["GatewayReader", "Routes", "route_names"]

KSERVE_NAMESPACE = "kserve"
CONFIG_MAP = "inferenceservice-config"
GROUP, VERSION = "gateway.networking.k8s.io", "v1"
GATEWAYS, ROUTES = "gateways", "httproutes"
CLUSTER_LOCAL = "svc.cluster.local"  # as ingressDomain: for services that are asked from inside alone
_WHOLE = 100


@dataclass(frozen=True)
class Routes:
    """How the requests to a service are shared out among the Services behind it.

    :param weights: percent by name of the Service; empty where there is no route
    :param is_seen: whether the Gateway has taken the routes as they are now
    :param trouble: why the Gateway does not take them
    """

    weights: Mapping[str, int] = field(default_factory=dict)
    is_seen: bool = False
    trouble: str | None = None

    @classmethod
    def read(cls, *documents: Mapping[str, Any] | None) -> Routes:
        """Read the routes of one service, which KServe changes one after the other.

        :param documents: ``HTTPRoute`` objects, that of the service's own address first; ``None`` for one that is not there
        """
        found = [document for document in documents if document is not None]
        if not found or documents[0] is None:
            return cls()
        weights = [_weights(document) for document in found]
        states = [_taken(document) for document in found]
        is_seen = len(found) == len(documents) and all(taken for taken, _ in states)
        return cls(
            weights[0],
            is_seen and all(each == weights[0] for each in weights),
            next((why for _, why in states if why), None),
        )

    def are(self, wanted: Mapping[str, int]) -> bool:
        """Whether the Gateway shares requests out in a certain way; a Service that is not named has none.

        :param wanted: percent by name of the Service
        """
        names = {*wanted, *self.weights}
        return self.is_seen and all(self.weights.get(name, 0) == wanted.get(name, 0) for name in names)


def _weights(route: Mapping[str, Any]) -> dict[str, int]:
    """Percent by Service, of the first rule: KServe gives all rules the same."""
    rules = route["spec"].get("rules") or [{}]
    found: dict[str, int] = {}
    for backend in rules[0].get("backendRefs") or []:
        weight = backend.get("weight")
        found[backend["name"]] = found.get(backend["name"], 0) + (1 if weight is None else weight)
    total = sum(found.values())
    return {name: round(_WHOLE * weight / total) if total else 0 for name, weight in found.items()}


def _taken(route: Mapping[str, Any]) -> tuple[bool, str | None]:
    """Whether a Gateway has taken a route as it is now, and why it does not."""
    parents = (route.get("status") or {}).get("parents") or []
    generation = route["metadata"].get("generation", 0)
    seen = [item for parent in parents for item in parent.get("conditions") or []]
    accepted = [item for item in seen if item["type"] == "Accepted"]
    for item in accepted:
        if item["status"] == "False":
            return False, item.get("message") or item.get("reason") or "not accepted"
    return bool(accepted) and all(
        item.get("observedGeneration", generation) >= generation for item in accepted
    ), None


def route_names(service: str) -> tuple[str, str]:
    """Names of the ``HTTPRoute`` objects of a service, that of its own address first.

    :param service: its name
    """
    return service, f"{service}-predictor"


class GatewayReader:
    """Reads how a cluster shares requests out.

    :param client: the ``kubernetes`` client's ``ApiClient``
    :param conn_id: Airflow connection of the client, for messages
    :param kserve_namespace: namespace of KServe's controller and its configuration
    """

    def __init__(self, client: Any, *, conn_id: str, kserve_namespace: str = KSERVE_NAMESPACE) -> None:
        from kubernetes.client import CoreV1Api, CustomObjectsApi  # type: ignore[import-untyped]

        self._core = CoreV1Api(client)
        self._objects = CustomObjectsApi(client)
        self._conn_id = conn_id
        self._kserve_namespace = kserve_namespace

    def routes(self, namespace: str, name: str, *, patience: float = PATIENCE_SECONDS) -> Routes:
        """How the requests to a service are shared out.

        :raises ForbiddenError: they may not be read
        """
        found = [
            self._find(ROUTES, namespace, route, "in the service's namespace", patience)
            for route in route_names(name)
        ]
        return Routes.read(*found)

    def reason_not_to_split(self, *, patience: float = PATIENCE_SECONDS) -> str | None:
        """Why a canary would get none of the requests, and what to set; ``None`` where it gets its share."""
        try:
            settings = self._settings("ingress", patience)
            if reason := self._switched_off(settings):
                return reason
            return self._no_gateway(str(settings.get("kserveIngressGateway") or ""), patience)
        except ConfigurationError as reason:
            return str(reason)

    def has_headless_services(self) -> bool:
        """Whether KServe makes Services whose names lead to the pods themselves, at their own ports.

        :raises ConfigurationError: its configuration may not be read
        """
        return self._settings("service", PATIENCE_SECONDS).get("serviceClusterIPNone") is True

    def _settings(self, key: str, patience: float) -> dict[str, Any]:
        namespace = self._kserve_namespace
        call = asking_for(self._core.read_namespaced_config_map, CONFIG_MAP, namespace)
        advice = self._advice("configmaps", f"in namespace {namespace!r}, where KServe is configured")
        try:
            found = self._ask(f"read config map {namespace}/{CONFIG_MAP}", call, advice, patience)
        except RunNotFoundError as error:
            raise ConfigurationError(
                f"Namespace {namespace!r} has no KServe configuration ({CONFIG_MAP}). Name the namespace of KServe's controller as "
                "kserve_namespace in the connection's extra."
            ) from error
        text = (found.get("data") or {}).get(key) or "{}"
        try:
            settings = json.loads(text)
        except ValueError:
            settings = None
        if not isinstance(settings, dict):
            raise ConfigurationError(
                f"KServe's configuration cannot be read: {key!r} of config map {namespace}/{CONFIG_MAP} has {shown_value(text, 100)}."
            )
        return settings

    @property
    def _place(self) -> str:
        return f"'ingress' of config map {self._kserve_namespace}/{CONFIG_MAP}"

    def _switched_off(self, settings: Mapping[str, Any]) -> str | None:
        then = f"in {self._place} and restart KServe's controller"
        if settings.get("enableGatewayApi") is not True:
            return (
                "KServe uses a plain Ingress, which gives a canary nothing whatever its status says. Set enableGatewayApi to true "
                f"{then}."
            )
        if settings.get("disableIngressCreation") is True:
            return f"KServe makes no routes, by which requests would be shared out. Set disableIngressCreation to false {then}."
        if settings.get("ingressDomain") == CLUSTER_LOCAL:
            return f"KServe makes no routes for services inside the cluster alone. Give ingressDomain another domain {then}."
        return None

    def _no_gateway(self, gateway: str, patience: float) -> str | None:
        namespace, _, name = gateway.partition("/")
        if not namespace or not name:
            return f"KServe's configuration names no Gateway. Set kserveIngressGateway to NAMESPACE/NAME in {self._place}."
        found = self._find(GATEWAYS, namespace, name, f"in namespace {namespace!r}", patience)
        if found is None:
            return f"There is no Gateway {gateway}, which KServe's routes name. Create it, or correct kserveIngressGateway in {self._place}."
        conditions = (found.get("status") or {}).get("conditions") or []
        programmed: Mapping[str, Any] = next(
            (item for item in conditions if item["type"] == "Programmed"), {}
        )
        if programmed.get("status") == "True":
            return None
        why = programmed.get("message") or programmed.get("reason") or "nothing has taken it"
        return f"Gateway {gateway} does not work ({why}). Install an implementation of the Gateway API that its class names."

    def _find(
        self, plural: str, namespace: str, name: str, where: str, patience: float
    ) -> dict[str, Any] | None:
        call = partial(self._objects.get_namespaced_custom_object, GROUP, VERSION, namespace, plural, name)
        try:
            found: dict[str, Any] = self._ask(
                f"get {plural} {namespace}/{name}", call, self._advice(f"{plural}.{GROUP}", where), patience
            )
        except RunNotFoundError:
            return None
        return found

    def _advice(self, what: str, where: str) -> Advice:
        return Advice(
            kind=what,
            install="Install the Gateway API and an implementation of it.",
            rights=f"Let the connection's user get {what} {where}: canaries are read there.",
            correct="Correct the service's settings.",
        )

    def _ask(self, what: str, call: Callable[..., Any], advice: Advice, patience: float) -> Any:
        return ask(what, call, advice, conn_id=self._conn_id, patience=patience)
