"""What the user of a connection may do on a cluster with KServe, and what is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from airflow_provider_llmops.backends.kubernetes.asking import Advice
from airflow_provider_llmops.backends.kubernetes.requests import asking_for
from airflow_provider_llmops.backends.serving.kserve.rules import GROUP, PLURAL

RIGHTS = (
    *((verb, f"{PLURAL}.{GROUP}") for verb in ("get", "create", "patch", "delete")),
    ("get", "deployments.apps"),
    ("list", "replicasets.apps"),
    *((verb, "controllerrevisions.apps") for verb in ("list", "create", "patch", "delete")),
    *(("list", what) for what in ("pods", "events")),
    ("get", "pods/log"),
    *((verb, "pods/proxy") for verb in ("get", "create")),
    ("list", "horizontalpodautoscalers.autoscaling"),
)
# Of canaries. Without the first everything else works; without the second it is not known what a canary has answered.
CANARY_RIGHTS = (("get", "httproutes.gateway.networking.k8s.io"), ("get", "pods/proxy"))
# With these all tasks that wait in a namespace share what they look at; without, each reads for itself.
WATCH_RIGHTS = tuple(
    (verb, what)
    for what in (
        f"{PLURAL}.{GROUP}",
        "deployments.apps",
        "replicasets.apps",
        "controllerrevisions.apps",
        "pods",
        "events",
    )
    for verb in ("list", "watch")
)
ADVICE = Advice(
    kind=f"{PLURAL}.{GROUP}",
    install="Install KServe 0.16 or later.",
    rights=(
        f"Let the connection's user get, create, patch and delete {PLURAL}.{GROUP}, get deployments.apps, list replicasets.apps, pods, "
        "events and horizontalpodautoscalers.autoscaling, get pods/log, get and create pods/proxy, and list, create, patch and delete "
        "controllerrevisions.apps in that namespace."
    ),
    correct="KServe refuses it: correct the service's settings.",
)
WATCH_ADVICE = replace(
    ADVICE,
    rights="Let the connection's user list and watch it in that namespace, so that they share what they look at.",
)


def missing_rights(
    client: Any, ask: Callable[..., Any], rights: Iterable[tuple[str, str]], namespace: str
) -> list[str]:
    """Those of some rights that the connection's user lacks, in words, as the API server says.

    :param client: the ``kubernetes`` client's ``ApiClient``
    :param ask: sends a request: what is wanted, the call, seconds to go on trying
    :param rights: verb and resource of each, as in :data:`RIGHTS`
    :param namespace: where
    """
    from kubernetes.client import AuthorizationV1Api  # type: ignore[import-untyped]

    reviews = AuthorizationV1Api(client)
    found = []
    for verb, right in rights:
        resource, _, group = right.partition(".")
        resource, _, part = resource.partition("/")
        wanted = {
            "verb": verb,
            "resource": resource,
            "group": group,
            "subresource": part,
            "namespace": namespace,
        }
        body = {"spec": {"resourceAttributes": wanted}}
        call = asking_for(reviews.create_self_subject_access_review, body)
        if not ask(f"ask for the right to {verb} {right}", call, 0.0)["status"]["allowed"]:
            found.append(f"{verb} {right}")
    return found
