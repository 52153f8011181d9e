"""A fake cluster with KServe whose Gateway shares requests out: canaries beside the predictor that serves.

What a Deployment, its ReplicaSets and pods look like is recorded; which there are, and the weights of the routes, follow from the specification by
the rules of KServe's controller, see :func:`deployed` and :func:`weights`, which a test holds against every recorded case.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from kube_services import REVISION_LABEL, FakeKServe, carried_out, recorded

GATEWAY = "kserve/kserve-ingress-gateway"
STABLE_CASES = {True: "ready_gateway", False: "update_crash_t45"}
CANARY_CASES = {True: "canary_20_gateway", False: "canary_bad_gateway"}
RENAMED = "admission: predictor.name changed, storageUri unchanged"


def service_name(name: str, predictor: Mapping[str, Any]) -> str:
    """Name of a predictor's Deployment and Service."""
    own = predictor.get("name")
    return f"{name}-{own}-predictor" if own else f"{name}-predictor"


def deployed(name: str, spec: Mapping[str, Any]) -> dict[str, int]:
    """Pods that each Deployment of a service is to have, as ``components/predictor.go`` counts them.

    :param name: of the service
    :param spec: its specification
    """
    stable = spec["predictor"].get("minReplicas") or 1
    found = {service_name(name, spec["predictor"]): stable}
    for entry in spec.get("canary") or ():
        own = entry["predictor"].get("minReplicas")
        found[service_name(name, entry["predictor"])] = (
            math.ceil(stable * entry["trafficPercent"] / 100) if own is None else own
        )
    return found


def weights(name: str, spec: Mapping[str, Any], ready: set[str]) -> dict[str, list[list[Any]]]:
    """The backends of each route with their weights, as ``httproute_reconciler.go`` gives them.

    :param name: of the service
    :param spec: its specification
    :param ready: names of the canary predictors that have a pod that is ready
    """
    stable = service_name(name, spec["predictor"])
    canaries = [
        [service_name(name, entry["predictor"]), entry["trafficPercent"]]
        for entry in spec.get("canary") or ()
        if entry["predictor"]["name"] in ready
    ]
    rest = 100 - sum(weight for _, weight in canaries) if spec.get("canary") else 1
    backends = [[stable, rest], *canaries]
    return {name: backends, f"{name}-predictor": backends}


def admitted(before: Mapping[str, Any] | None, spec: Mapping[str, Any]) -> str | None:
    """Name of the recorded refusal of a change; ``None`` where the webhook lets it through.

    :param before: the specification as it was
    :param spec: as it is to be
    """
    was, now = (before or spec)["predictor"], spec["predictor"]
    is_renamed = was.get("name") != now.get("name")
    return RENAMED if is_renamed and was["model"]["storageUri"] == now["model"]["storageUri"] else None


class FakeGatewayKServe(FakeKServe):
    """A cluster with KServe and a Gateway.

    A revision whose model is in ``crashing`` never becomes ready. ``lost`` has, at the time of each change of the routes, a Service that had requests
    and was gone. ``asked`` is how many requests a pod has answered more each time that it is asked for its numbers, ``failing`` the
    models whose pods fail half of them. ``is_idle`` keeps KServe's controller from doing anything.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ingress = {"enableGatewayApi": True, "kserveIngressGateway": GATEWAY}
        self.gateways[GATEWAY] = {"status": {"conditions": [{"type": "Programmed", "status": "True"}]}}
        self.crashing: set[str] = set()
        self.failing: set[str] = set()
        self.lost: list[str] = []
        self.asked = 40
        self.is_idle = False
        self.counts: dict[str, tuple[int, int]] = {}
        self.kept_autoscalers: list[str] = []

    def _service(self, method: str, namespace: str, name: str, body: bytes) -> tuple[int, Any]:
        if method == "PATCH":
            before = self.services.get(name, {}).get("spec")
            if case := admitted(before, json.loads(body)["spec"]):
                refusal = recorded(case)["refusal"]
                return refusal["code"], {"kind": "Status", "status": "Failure", **refusal}
        answer = super()._service(method, namespace, name, body)
        if method == "PATCH" and not self.is_idle:
            self.reconcile(name)
        return answer

    def reconcile(self, name: str) -> None:
        """What KServe's controller does after a change, in its order: pods and Services first, then the routes."""
        service = self.services[name]
        spec = service["spec"]
        stable, canaries = spec["predictor"], spec.get("canary") or []
        current = stable["labels"][REVISION_LABEL]
        former = next((each for each in reversed(self.history[name]) if each != current), "former")
        world = carried_out(STABLE_CASES[self._is_good(stable)], current, former)
        service["status"] = world.pop("status")
        keep = {service_name(name, entry["predictor"]).removesuffix("-predictor") for entry in canaries}
        for gone in [key for key in self.world if key.startswith(f"{name}-c") and key not in keep]:
            del self.world[gone]
            if route := self.routes.get(name):
                self.lost += [each for each, weight in route if each == f"{gone}-predictor" and weight]
        self.world[name] = world
        ready = set()
        for entry in canaries:
            predictor = entry["predictor"]
            is_good = self._is_good(predictor)
            beside = carried_out(CANARY_CASES[is_good], predictor["labels"][REVISION_LABEL], which="canary")
            has_pod = bool(deployed(name, spec)[service_name(name, predictor)])
            if is_good and has_pod:
                ready.add(predictor["name"])
            if not has_pod:
                beside |= {"pods": [], "replica_sets": []}
            key = service_name(name, predictor).removesuffix("-predictor")
            self.world[key] = {**beside, "events": []}
            if (predictor.get("annotations") or {}).get("serving.kserve.io/autoscalerClass") != "none":
                self.kept_autoscalers.append(key)
        for route, backends in weights(name, spec, ready).items():
            self.routes[route] = backends

    def _is_good(self, predictor: Mapping[str, Any]) -> bool:
        return predictor["model"]["storageUri"] not in self.crashing

    def exported(self, pod: str) -> str:
        """What our predictor exports, with more requests each time."""
        uri = next(
            predictor["model"]["storageUri"]
            for service in self.services.values()
            for predictor in self._predictors(service["spec"])
            if any(
                each["metadata"]["name"] == pod
                and each["metadata"]["labels"][REVISION_LABEL] == predictor["labels"][REVISION_LABEL]
                for world in self.world.values()
                for each in world["pods"]
            )
        )
        good, bad = self.counts.get(pod, (0, 0))
        more = self.asked // 2 if uri in self.failing else 0
        good, bad = self.counts[pod] = (good + self.asked - more, bad + more)
        return (
            "process_start_time_seconds 1000\n"
            "# TYPE llmops_requests_total counter\n"
            f'llmops_requests_total{{code="200"}} {good}\n'
            f'llmops_requests_total{{code="500"}} {bad}\n'
            "# TYPE llmops_request_duration_seconds histogram\n"
            f'llmops_request_duration_seconds_bucket{{le="0.5"}} {good}\n'
            f'llmops_request_duration_seconds_bucket{{le="+Inf"}} {good}\n'
        )

    @staticmethod
    def _predictors(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return [spec["predictor"], *(entry["predictor"] for entry in spec.get("canary") or ())]
