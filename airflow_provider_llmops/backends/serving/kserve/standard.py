"""Services on a cluster with KServe, in its standard mode: Deployments, no Knative.

KServe rolls a new version out by itself and rolls nothing back. A revision is a specification, known by the hash that its pods carry;
what served before is kept beside the service (:mod:`.history`) and is applied again when a revision is given up.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from airflow_provider_llmops.backends.serving.base import NO_CHAT_TEMPLATE, Revision, Service
from airflow_provider_llmops.backends.serving.kserve import history
from airflow_provider_llmops.backends.serving.kserve.cluster import KServeCluster
from airflow_provider_llmops.backends.serving.kserve.reading import (
    REVISION_LABEL,
    STOP_ANNOTATION,
    ServiceObjects,
    revisions_of,
)
from airflow_provider_llmops.backends.serving.kserve.rules import CONTAINER, on_cluster, revision_of
from airflow_provider_llmops.backends.serving.manifest import manifest_digest
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    RunNotFoundError,
    shown_value,
)
from airflow_provider_llmops.states import ServiceState


class StandardServingBackend:
    """Runs services as ``InferenceService`` objects of a cluster.

    :param cluster: where they are
    :param ask_service: asks a service that wants an API key, which the API server does not hand on to a pod: address, model, question,
        tokens
    """

    poll_interval = 5.0

    def __init__(
        self, cluster: KServeCluster, *, ask_service: Callable[[str, str, str, int], str] | None = None
    ) -> None:
        self._cluster = cluster
        self._ask_service = ask_service

    def apply(self, manifest: Mapping[str, Any]) -> tuple[Revision, bool]:
        """Ask KServe for a revision. The same manifest again returns the revision that is asked for already.

        :raises FieldConflictError: somebody else sets a field of the service otherwise
        """
        sent = on_cluster(manifest)
        namespace, name = sent["metadata"]["namespace"], sent["metadata"]["name"]
        revision = revision_of(sent)
        before = self._cluster.find(namespace, name)
        is_new = before is None or ServiceObjects(before).current != revision or _is_stopped(before)
        service = self._cluster.apply(sent) if is_new else before
        assert service is not None  # what is not new was found
        digest = manifest_digest(manifest)
        self._cluster.keep(service, sent, digest=digest, is_new=is_new)
        return Revision(revision, ServiceState.STARTING, digest=digest), is_new

    def get(self, namespace: str, name: str) -> Service:
        """Read a service.

        :raises RunNotFoundError: there is none of that name
        """
        objects = self._cluster.read(namespace, name)
        records = self._cluster.records(namespace, name)
        found = {
            name: replace(each, digest=records[name].digest) if name in records else each
            for name, each in revisions_of(objects, now=time.time()).items()
        }
        replaced = f"Revision {objects.current} has replaced it." if objects.current else None
        for record in records.values():
            stopped = Revision(record.revision, ServiceState.STOPPED, error=replaced, digest=record.digest)
            found.setdefault(record.revision, stopped)
        serving = [
            records[each.revision] for each in found.values() if each.traffic and each.revision in records
        ]
        return Service(
            name=name,
            namespace=namespace,
            url=next((each.url for each in found.values() if each.url), None),
            revisions=found,
            as_of=max(
                (record.as_of for record in serving if record.as_of and record.served_at), default=None
            ),
        )

    def set_traffic(
        self,
        namespace: str,
        name: str,
        percent: Mapping[str, int],
        *,
        as_of: str | None = None,
        only_if_newer: bool = True,
    ) -> Service:
        """Note that a revision serves, or go back to one that has served; all requests go to it."""
        revision = next(iter(percent), "")
        if percent != {revision: 100}:
            raise ConfigurationError(
                f"The requests of service {name!r} cannot be shared out: only one revision at a time serves in KServe's standard mode. "
                "Give one revision 100 percent."
            )
        service = self.get(namespace, name)
        if only_if_newer and service.is_newer_than(as_of):
            return service
        if self._cluster.read(namespace, name).current != revision:
            records = self._cluster.records(namespace, name)
            if revision not in records:
                raise ConfigurationError(
                    f"Service {name!r} has no revision {revision!r} to go back to. It has: {', '.join(sorted(records)) or 'none'}."
                )
            self._cluster.apply(records[revision].manifest)
        self._cluster.annotate(
            namespace,
            name,
            revision,
            {history.SERVED_ANNOTATION: datetime.now(UTC).isoformat(), history.AS_OF_ANNOTATION: as_of},
        )
        return self.get(namespace, name)

    def withdraw(self, namespace: str, name: str, revision: str) -> None:
        """Give a revision up that was not given the traffic: what served before is applied again, or the service is stopped.

        Nothing where another revision is wanted by now.
        """
        service = self._cluster.find(namespace, name)
        records = self._cluster.records(namespace, name)
        if service is None or ServiceObjects(service).current != revision or revision not in records:
            return
        if records[revision].served_at is not None:
            return
        former = history.former_of(records, revision)
        if former is not None:
            self._cluster.apply(former.manifest)
            return
        stopped = copy.deepcopy(dict(records[revision].manifest))
        stopped["metadata"].setdefault("annotations", {})[STOP_ANNOTATION] = "true"
        self._cluster.apply(stopped)

    def delete(self, namespace: str, name: str) -> None:
        """Remove the service, its pods and its history."""
        self._cluster.delete(namespace, name)

    def ask(self, namespace: str, name: str, revision: str, prompt: str, max_tokens: int) -> str:
        """Ask one of the revision's own pods, through the API server."""
        objects = self._cluster.read(namespace, name)
        pods = [pod for pod in objects.pods if _serves(pod, revision)]
        where = f"Revision: {revision} of service {namespace}/{name}"
        if not pods:
            raise RunNotFoundError("No pod of the revision is ready.", where)
        if self._ask_service is not None:
            url = objects.status.get("url")
            if not url:
                raise ConfigurationError(
                    "The service has no address yet, at which it could be asked with its API key.", where
                )
            return self._ask_service(url, name, prompt, max_tokens)
        post = partial(self._cluster.post, namespace, pods[0])
        body: dict[str, Any] = {"model": name, "max_tokens": max_tokens}
        try:
            messages = [{"role": "user", "content": prompt}]
            choice = post("openai/v1/chat/completions", {**body, "messages": messages})
            return _text(choice, "message", "content")
        except ConfigurationError as refused:
            if not any(phrase in str(refused) for phrase in NO_CHAT_TEMPLATE):
                raise
        return _text(post("openai/v1/completions", {**body, "prompt": prompt}), "text")

    def logs(self, namespace: str, name: str, revision: str, lines: int) -> list[str]:
        """The last lines that the revision's first pod wrote, of the container that has failed if one has."""
        objects = self._cluster.read(namespace, name)
        pods = [pod for pod in objects.pods if _label(pod) == revision]
        if not pods:
            return []
        container, previous = _container_to_read(pods[0].get("status") or {})
        return self._cluster.log(
            namespace, pods[0]["metadata"]["name"], container, previous=previous, lines=lines
        )

    def check(self) -> str:
        """Say in one line what was reached; raises if it cannot be used."""
        return self._cluster.check()


def _is_stopped(service: Mapping[str, Any]) -> bool:
    return (service["metadata"].get("annotations") or {}).get(STOP_ANNOTATION) == "true"


def _label(pod: Mapping[str, Any]) -> str | None:
    labels: Mapping[str, str] = pod["metadata"].get("labels") or {}
    return labels.get(REVISION_LABEL)


def _serves(pod: Mapping[str, Any], revision: str) -> bool:
    conditions = {each["type"]: each["status"] for each in (pod.get("status") or {}).get("conditions") or []}
    return (
        _label(pod) == revision
        and conditions.get("Ready") == "True"
        and not pod["metadata"].get("deletionTimestamp")
    )


def _text(answer: Mapping[str, Any], *path: str) -> str:
    """What a language model answered."""
    found: Any = answer
    try:
        found = answer["choices"][0]
        for key in path:
            found = found[key]
    except (LookupError, TypeError) as error:
        raise ApiUnavailableError(
            f"The revision did not answer as a language model does: {shown_value(answer, 200)}"
        ) from error
    return str(found)


def _container_to_read(status: Mapping[str, Any]) -> tuple[str, bool]:
    """The container whose log says most, and whether that is of its former start."""
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(key) or []:
            now, before = container.get("state") or {}, container.get("lastState") or {}
            ended = now.get("terminated") or before.get("terminated") or {}
            if ended.get("exitCode") and not container.get("ready"):
                return container["name"], "terminated" not in now
    return CONTAINER, False
