"""Services on a cluster with KServe, in its standard mode: Deployments, no Knative.

KServe rolls a new version out by itself and rolls nothing back. A revision is a specification, known by the hash that its pods carry;
what served before is kept beside the service (:mod:`.history`) and is applied again when a revision is given up.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from airflow_provider_llmops.backends.kubernetes.asking import PATIENCE_SECONDS
from airflow_provider_llmops.backends.kubernetes.pods import is_live
from airflow_provider_llmops.backends.serving.base import Revision, Service, check_wanted
from airflow_provider_llmops.backends.serving.kserve import history
from airflow_provider_llmops.backends.serving.kserve.cluster import KServeCluster
from airflow_provider_llmops.backends.serving.kserve.history import Record
from airflow_provider_llmops.backends.serving.kserve.reading import (
    STOP_ANNOTATION,
    ServiceObjects,
    is_ready,
    revision_in,
    revisions_of,
)
from airflow_provider_llmops.backends.serving.kserve.rules import CONTAINER, on_cluster, revision_of
from airflow_provider_llmops.backends.serving.manifest import manifest_digest
from airflow_provider_llmops.backends.serving.question import ask_model
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    LLMOpsError,
    RunNotFoundError,
)
from airflow_provider_llmops.states import ServiceState


class StandardServingBackend:
    """Runs services as ``InferenceService`` objects of a cluster.

    :param cluster: where they are
    :param ask_service: asks a service that wants an API key, which the API server does not hand on to a pod: address, model, question,
        tokens
    """

    poll_interval = 5.0
    splits_traffic = False

    def __init__(
        self, cluster: KServeCluster, *, ask_service: Callable[[str, str, str, int], str] | None = None
    ) -> None:
        self._cluster = cluster
        self._ask_service = ask_service

    def apply(self, manifest: Mapping[str, Any], *, as_of: str | None = None) -> tuple[Revision, bool]:
        """Ask KServe for a revision, which gets requests as soon as its first pod is ready. The same manifest again changes nothing.

        It is applied in any case: what somebody else has made of the service since would not be what is deployed.

        :raises FieldConflictError: somebody else sets a field of the service otherwise
        :raises ConfigurationError: somebody has stopped the service
        """
        sent = on_cluster(manifest)
        namespace, name = sent["metadata"]["namespace"], sent["metadata"]["name"]
        revision, digest = revision_of(sent), manifest_digest(manifest)
        before = self._cluster.find(namespace, name)
        if before is None:
            service = self._cluster.apply(sent)
            try:
                self._cluster.keep(service, Record(revision, 1, sent, digest, as_of, _now()))
            except LLMOpsError:  # nothing could go back from it
                self._stop(sent)
                raise
            return Revision(revision, ServiceState.STARTING, digest=digest), True
        if before["metadata"].get("deletionTimestamp"):
            raise ApiUnavailableError(f"Service {name!r} is being deleted.", f"Service: {namespace}/{name}")
        records = self._cluster.records(before)
        is_new = ServiceObjects(before).current != revision or ServiceObjects(before).is_stopped
        number = 1 + max((record.number for record in records.values()), default=0)
        record = records.get(revision) or Record(revision, number, sent)
        if is_new:
            record = replace(record, asked_at=_now(), as_of=as_of)
        self._cluster.keep(before, replace(record, digest=digest))
        try:
            self._apply_unless_stopped(sent)
        except ConfigurationError:
            if is_new:  # nothing to go back to
                given_up = replace(record, withdrawn_at=_now())
                self._cluster.annotate(namespace, name, revision, given_up.notes)
            raise
        return Revision(revision, ServiceState.STARTING, digest=digest), is_new

    def _apply_unless_stopped(self, sent: Mapping[str, Any]) -> None:
        if ServiceObjects(self._cluster.apply(sent)).is_stopped:
            namespace, name = sent["metadata"]["namespace"], sent["metadata"]["name"]
            raise ConfigurationError(
                f"Somebody has stopped service {name!r}. Take the annotation {STOP_ANNOTATION} away to deploy to it.",
                f"Service: {namespace}/{name}",
            )

    def bring_back(
        self, namespace: str, name: str, revision: str, *, replacing: str
    ) -> tuple[Revision, bool]:
        """Ask for a specification that was kept; it gets requests as soon as its first pod is ready.

        :raises ConfigurationError: another one was asked for since, or somebody has stopped the service
        """
        objects = self._cluster.read(namespace, name)
        if objects.service["metadata"].get("deletionTimestamp"):
            raise ApiUnavailableError(f"Service {name!r} is being deleted.", f"Service: {namespace}/{name}")
        records = self._cluster.records(objects.service)
        check_wanted(_service(objects, records), revision, replacing)
        record = records[revision]
        is_new = objects.current != revision or objects.is_stopped
        if is_new:
            record = replace(record, asked_at=_now())
            self._cluster.annotate(namespace, name, revision, record.notes)
        self._apply_unless_stopped(record.manifest)
        return Revision(revision, ServiceState.STARTING, digest=record.digest), is_new

    def get(self, namespace: str, name: str, *, patience: float | None = None) -> Service:
        """Read a service.

        :raises RunNotFoundError: there is none of that name
        """
        seconds = PATIENCE_SECONDS if patience is None else patience
        objects = self._cluster.read(namespace, name, patience=seconds)
        return _service(objects, self._cluster.records(objects.service, patience=seconds))

    def set_traffic(
        self,
        namespace: str,
        name: str,
        percent: Mapping[str, int],
        *,
        as_of: str | None = None,
        only_if_newer: bool = True,
    ) -> Service:
        """Note that the revision which was asked for last is to keep the requests that KServe has given it."""
        revision = next(iter(percent), "")
        if percent != {revision: 100}:
            raise ConfigurationError(
                f"The requests of service {name!r} cannot be shared out: only one revision at a time serves in KServe's standard mode. "
                "Give one revision 100 percent."
            )
        objects = self._cluster.read(namespace, name)
        records = self._cluster.records(objects.service)
        service = _service(objects, records)
        if only_if_newer and service.is_newer_than(as_of):
            return service
        if objects.current != revision or revision not in records:
            raise ConfigurationError(
                f"Revision {revision} of service {name!r} is not the one that was asked for last: {objects.current} has replaced it."
            )
        if not service.revisions[revision].traffic:
            raise ConfigurationError(f"Revision {revision} of service {name!r} has no pod that is ready.")
        record = replace(records[revision], served_at=_now(), as_of=as_of)
        self._cluster.annotate(namespace, name, revision, record.notes)
        return _service(objects, {**records, revision: record})

    def withdraw(
        self, namespace: str, name: str, revision: str, *, back_to: str | None = None, is_bad: bool = True
    ) -> str | None:
        """Give a revision up that was not given the requests: what served before is applied again, or the service is stopped.

        Nothing where another revision is wanted by now, or where this one has served before and does, unless it is known what to go
        back to.
        """
        try:
            objects = self._cluster.read(namespace, name)
        except RunNotFoundError:
            return None
        records = self._cluster.records(objects.service)
        if objects.current != revision or revision not in records or records[revision].has_traffic:
            return None
        seen = revisions_of(objects, now=time.time())
        if back_to is None and records[revision].served_at is not None and seen[revision].state.is_ready:
            return None
        ready = [each for each, found in seen.items() if found.traffic]
        if foreign := sorted(set(ready) - set(records)):
            raise ConfigurationError(
                f"Revision {revision} of service {name!r} stays as it is: what served before it, {', '.join(foreign)}, was not deployed "
                "from here and cannot be applied again. Apply it where it came from."
            )
        former = records.get(back_to or "") or history.former_of(records, revision, ready)
        if former is None:
            self._stop(records[revision].manifest)
        else:
            # It is asked for now, and has served: nobody has to look at it again.
            back = replace(former, asked_at=_now(), served_at=_now() if former.served_at else None)
            self._cluster.apply(former.manifest)
            self._cluster.annotate(namespace, name, former.revision, back.notes)
        was_given_up = (records[revision].withdrawn_at or "") > (records[revision].served_at or "")
        if is_bad or was_given_up:
            given_up = replace(records[revision], withdrawn_at=_now())
            self._cluster.annotate(namespace, name, revision, given_up.notes)
        return former.revision if former else None

    def give_up(self, namespace: str, name: str, revision: str) -> None:
        """Note that a specification is nothing to go back to; KServe has stopped its pods."""
        with contextlib.suppress(RunNotFoundError):
            self._cluster.annotate(namespace, name, revision, {history.WITHDRAWN_ANNOTATION: _now()})

    def _stop(self, manifest: Mapping[str, Any]) -> None:
        """Take the pods of a service away, and keep it."""
        stopped = copy.deepcopy(dict(manifest))
        stopped["metadata"].setdefault("annotations", {})[STOP_ANNOTATION] = "true"
        self._cluster.apply(stopped)

    def delete(self, namespace: str, name: str) -> None:
        """Remove the service, its pods and its history; the API server may need a while for it."""
        self._cluster.delete(namespace, name)

    def left_of(self, namespace: str, name: str) -> list[str]:
        """Objects that the API server still has of it; none where another service of its name was made since."""
        return self._cluster.left_of(namespace, name)

    def ask(self, namespace: str, name: str, revision: str, prompt: str, max_tokens: int) -> str:
        """Ask one of the revision's own pods, through the API server."""
        objects = self._cluster.read(namespace, name)
        where = f"Revision: {revision} of service {namespace}/{name}"
        if self._ask_service is not None:
            url = objects.status.get("url")
            if not url:
                raise ConfigurationError(
                    "The service has no address yet, at which it could be asked with its API key.", where
                )
            return self._ask_service(url, name, prompt, max_tokens)
        pods = [
            pod for pod in objects.pods if revision_in(pod) == revision and is_ready(pod) and is_live(pod)
        ]
        if not pods:
            seen = f"; {'; '.join(objects.refused)}" if objects.refused else ""
            raise RunNotFoundError(f"No pod of the revision is seen to be ready{seen}.", where)
        post = partial(self._cluster.post, namespace, pods[0])
        address = f"pod {namespace}/{pods[0]['metadata']['name']}"
        return ask_model(post, name, prompt, {"max_tokens": max_tokens}, address=address)

    def logs(self, namespace: str, name: str, revision: str, lines: int) -> list[str]:
        """The last lines that the revision's first pod wrote, of the container that has failed if one has."""
        objects = self._cluster.read(namespace, name)
        pods = sorted(
            (pod for pod in objects.pods if revision_in(pod) == revision), key=lambda pod: not is_live(pod)
        )
        if not pods:
            return []
        container, previous = _container_to_read(pods[0].get("status") or {})
        return self._cluster.log(
            namespace, pods[0]["metadata"]["name"], container, previous=previous, lines=lines
        )

    def check(self) -> str:
        """Say in one line what was reached; raises if it cannot be used."""
        return self._cluster.check()


def _service(objects: ServiceObjects, records: Mapping[str, Record]) -> Service:
    """A service, from what is carried out and what is kept beside it."""
    found = revisions_of(objects, now=time.time())
    replaced = f"Revision {objects.current} has replaced it." if objects.current else None
    for record in records.values():
        stopped = Revision(record.revision, ServiceState.STOPPED, error=replaced)
        found[record.revision] = replace(
            found.get(record.revision, stopped),
            digest=record.digest,
            as_of=record.as_of,
            served_at=record.served_at,
            is_given_up=record.is_given_up,
        )
    # What was asked for gets requests by itself, so that its date counts before it has any.
    dates = [
        record.as_of
        for record in records.values()
        if (found[record.revision].traffic and record.served_at) or record.revision == objects.current
        if record.as_of and not record.is_given_up
    ]
    return Service(
        name=objects.service["metadata"]["name"],
        namespace=objects.service["metadata"]["namespace"],
        url=next((each.url for each in found.values() if each.url), None),
        revisions=found,
        as_of=max(dates, default=None),
        wanted=objects.current,
        is_managed=objects.is_managed,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _container_to_read(status: Mapping[str, Any]) -> tuple[str, bool]:
    """The container whose log says most, and whether that is of its former start."""
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(key) or []:
            now, before = container.get("state") or {}, container.get("lastState") or {}
            ended = now.get("terminated") or before.get("terminated") or {}
            if ended.get("exitCode") and not container.get("ready"):
                return container["name"], "terminated" not in now
    return CONTAINER, False
