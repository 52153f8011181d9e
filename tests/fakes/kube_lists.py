"""The lists of a namespace of a fake cluster with KServe, as they are watched: all objects of a kind, each with a name and labels of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kube_services import FakeKServe

SERVICE_LABEL = "serving.kserve.io/inferenceservice"
# The selectors that are known here; others are of who asks about one service.
SELECTORS = ("", SERVICE_LABEL, "llmops/service")


def is_of_all(path: str, query: Mapping[str, str]) -> bool:
    """Whether a request is for what is watched."""
    kind = path.rsplit("/", 1)[-1]
    if kind == "events":
        return "involvedObject.kind" in query.get("fieldSelector", "")
    known = ("inferenceservices", "deployments", "replicasets", "pods", "controllerrevisions", "httproutes")
    return kind in known and query.get("labelSelector", "") in SELECTORS


def items_of(fake: FakeKServe, path: str, selector: str) -> list[dict[str, Any]]:
    """What there is.

    :param fake: the cluster
    :param path: of the list
    :param selector: for fields, of events
    """
    *_, namespace, kind = path.split("/")
    if kind == "inferenceservices":
        for name in list(fake.services):
            fake._service("GET", namespace, name, b"")  # what comes of it comes with time
        found = [each for each in fake.services.values() if each["metadata"]["namespace"] == namespace]
    elif kind == "controllerrevisions":
        found = list(fake.revisions.values())
    elif kind == "httproutes":
        found = [_named(fake.route(name), name) for name in fake.routes]
    elif kind == "events":
        found = list(_events(fake, dict(part.split("=") for part in selector.split(","))))
    else:
        found = list(_carrying(fake, kind))
    return found


def _carrying(fake: FakeKServe, kind: str) -> Iterator[dict[str, Any]]:
    names = set()
    for key, world in fake.world.items():
        if kind == "deployments":
            each = [_named(world["deployment"], f"{key}-predictor")] if world["deployment"] else []
        else:
            each = copy.deepcopy(world["replica_sets" if kind == "replicasets" else "pods"])
        for item in each:
            metadata = item["metadata"]
            if metadata["name"] in names:  # the recorded names of another service
                metadata["name"] = f"{key}-{metadata['name']}"
            names.add(metadata["name"])
            metadata["labels"] = {**(metadata.get("labels") or {}), "app": f"isvc.{key}-predictor"}
            yield item


def _events(fake: FakeKServe, fields: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    said = {name: [*world["events"], *fake.events.get(name, [])] for name, world in fake.world.items()}
    said = {**{name: list(events) for name, events in fake.events.items()}, **said}
    for name, events in said.items():
        kind = "InferenceService" if name in fake.services else "Pod"
        for number, event in enumerate(events):
            has = {"involvedObject.kind": kind, "type": event["type"], "reason": event.get("reason")}
            if all(has[field] == value for field, value in fields.items()):
                yield {
                    **event,
                    "metadata": {"name": f"{name}.{number}"},
                    "involvedObject": {"kind": kind, "name": name},
                }


def _named(item: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {**item, "metadata": {**item["metadata"], "name": name}}
