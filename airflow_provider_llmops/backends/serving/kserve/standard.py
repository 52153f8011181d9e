"""Services on a cluster with KServe, in its standard mode: Deployments, no Knative.

KServe rolls a new version out by itself and rolls nothing back. A revision is a specification, known by the hash that its pods carry;
what served before is kept beside the service (:mod:`.history`) and is applied again when a revision is given up. Where KServe's routes share
requests out, a revision may run beside the one that serves (:mod:`.shifting`).
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
from airflow_provider_llmops.backends.serving.adapters import adapter_names
from airflow_provider_llmops.backends.serving.base import Revision, Service, check_wanted
from airflow_provider_llmops.backends.serving.kserve import history
from airflow_provider_llmops.backends.serving.kserve.addresses import own_address
from airflow_provider_llmops.backends.serving.kserve.canaries import canary_entry, with_canary
from airflow_provider_llmops.backends.serving.kserve.cluster import KServeCluster
from airflow_provider_llmops.backends.serving.kserve.history import Record
from airflow_provider_llmops.backends.serving.kserve.reader import ServiceReader
from airflow_provider_llmops.backends.serving.kserve.reading import (
    STOP_ANNOTATION,
    ServiceObjects,
    container_to_read,
    is_ready,
    revision_in,
    revision_of_predictor,
    revisions_of,
)
from airflow_provider_llmops.backends.serving.kserve.rights import CANARY_RIGHTS
from airflow_provider_llmops.backends.serving.kserve.rules import on_cluster, revision_of
from airflow_provider_llmops.backends.serving.kserve.service import service_of, with_answers
from airflow_provider_llmops.backends.serving.kserve.shifting import CanaryShifts, apply_unless_stopped
from airflow_provider_llmops.backends.serving.manifest import manifest_digest
from airflow_provider_llmops.backends.serving.question import ask_each, ask_model
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    LLMOpsError,
    RunNotFoundError,
)
from airflow_provider_llmops.states import ServiceState

ADDRESS_SECONDS = 30.0
ADDRESS_LOOK_SECONDS = 1.0


class StandardServingBackend:
    """Runs services as ``InferenceService`` objects of a cluster.

    :param cluster: where they are
    :param ask_service: asks a service that wants an API key, which the API server does not hand on to a pod: address, model, question,
        tokens
    :param looks: answers who may get what was a moment ago; the cluster itself when ``None``
    """

    poll_interval = 5.0
    rolls_out = True

    def __init__(
        self,
        cluster: KServeCluster,
        *,
        ask_service: Callable[[str, str, str, int], str] | None = None,
        looks: ServiceReader | None = None,
    ) -> None:
        self._cluster = cluster
        self._ask_service = ask_service
        self._looks = looks
        self.lags = looks is not None

    def apply(
        self, manifest: Mapping[str, Any], *, as_of: str | None = None, beside: bool = False
    ) -> tuple[Revision, bool]:
        """Ask KServe for a revision, which gets requests as soon as its first pod is ready, unless it is to run beside the one that serves.

        The same manifest again changes nothing. It is applied in any case: what somebody else has made of the service since would not be
        what is deployed.

        :raises FieldConflictError: somebody else sets a field of the service otherwise
        :raises ConfigurationError: somebody has stopped the service, or it has another canary
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
        objects = ServiceObjects(before)
        if _runs_as_canary(objects, revision, beside=beside):
            return Revision(revision, ServiceState.STARTING, digest=digest), False
        is_new = objects.current != revision or objects.is_stopped
        starts_beside = beside and is_new and not objects.is_stopped
        shifts = CanaryShifts(self._cluster, objects, records)
        if starts_beside:
            shifts.check_start(sent)
        number = 1 + max((record.number for record in records.values()), default=0)
        record = records.get(revision) or Record(revision, number, sent)
        if is_new:
            record = replace(record, asked_at=_now(), as_of=as_of)
        self._cluster.keep(before, replace(record, digest=digest))
        try:
            if starts_beside:
                shifts.start(sent)
            else:
                apply_unless_stopped(self._cluster, sent)
        except ConfigurationError:
            if is_new:  # nothing to go back to
                given_up = replace(record, withdrawn_at=_now())
                self._cluster.annotate(namespace, name, revision, given_up.notes)
            raise
        return Revision(revision, ServiceState.STARTING, digest=digest), is_new

    def bring_back(
        self, namespace: str, name: str, revision: str, *, replacing: str
    ) -> tuple[Revision, bool]:
        """Ask for a specification that was kept; it gets requests as soon as its first pod is ready. A canary keeps those that it has.

        :raises ConfigurationError: another one was asked for since, or somebody has stopped the service
        """
        objects = self._cluster.read(namespace, name)
        if objects.service["metadata"].get("deletionTimestamp"):
            raise ApiUnavailableError(f"Service {name!r} is being deleted.", f"Service: {namespace}/{name}")
        records = self._cluster.records(objects.service)
        check_wanted(service_of(objects, records), revision, replacing)
        record = records[revision]
        is_new = objects.current != revision or objects.is_stopped
        if is_new:
            record = replace(record, asked_at=_now())
            self._cluster.annotate(namespace, name, revision, record.notes)
        apply_unless_stopped(self._cluster, with_canary(record.manifest, self._canary_of(objects, records)))
        return Revision(revision, ServiceState.STARTING, digest=record.digest), is_new

    def _canary_of(self, objects: ServiceObjects, records: Mapping[str, Record]) -> dict[str, Any] | None:
        """The canary of a service as it is, to apply it again."""
        if objects.canary is None or objects.canary.current not in records:
            return None
        record = records[objects.canary.current or ""]
        return canary_entry(record.manifest, objects.canaries[0]["trafficPercent"])

    def names(self, namespace: str, *, patience: float | None = None) -> list[str]:
        """Names of all services of a namespace.

        :raises ConfigurationError: the connection's user may not list them
        """
        return self._cluster.names(namespace, patience=PATIENCE_SECONDS if patience is None else patience)

    def get(
        self, namespace: str, name: str, *, patience: float | None = None, may_lag: bool = False
    ) -> Service:
        """Read a service.

        :raises RunNotFoundError: there is none of that name
        """
        seconds = PATIENCE_SECONDS if patience is None else patience
        reader = self._looks if may_lag and self._looks is not None else self._cluster
        objects = reader.read(namespace, name, patience=seconds)
        records = reader.records(objects.service, patience=seconds)
        return self._service(objects, records, patience=seconds)

    def set_traffic(
        self,
        namespace: str,
        name: str,
        percent: Mapping[str, int],
        *,
        as_of: str | None = None,
        only_if_newer: bool = True,
    ) -> Service:
        """Share the requests out between the stable revision and a canary, or note that the only revision is to keep those that it has.

        A canary that is to have all of them becomes the stable revision, which takes minutes: this has to be called again until the service
        is settled.
        """
        objects = self._cluster.read(namespace, name)
        records = self._cluster.records(objects.service)
        service = service_of(objects, records)
        gives_all = list(percent.values()) == [100]
        if gives_all and only_if_newer and service.is_newer_than(as_of):
            return service
        if objects.canary is not None:
            return self._share_out(objects, records, percent, as_of)
        revision = next(iter(percent), "")
        if not gives_all:
            raise ConfigurationError(
                f"The requests of service {name!r} cannot be shared out: it has no canary. Give one revision 100 percent."
            )
        if objects.current != revision or revision not in records:
            raise ConfigurationError(
                f"Revision {revision} of service {name!r} is not the one that was asked for last: {objects.current} has replaced it."
            )
        if not service.revisions[revision].traffic:
            raise ConfigurationError(f"Revision {revision} of service {name!r} has no pod that is ready.")
        objects = self._with_address(objects)
        record = self._note_traffic(records[revision], objects, as_of)
        return self._service(objects, {**records, revision: record})

    def _with_address(self, objects: ServiceObjects) -> ServiceObjects:
        """A service with the address that KServe gives it when its route is taken, a moment after its pods are ready."""
        until = time.monotonic() + ADDRESS_SECONDS
        metadata = objects.service["metadata"]
        while not objects.status.get("url") and not (objects.status.get("address") or {}).get("url"):
            if time.monotonic() >= until:
                raise ApiUnavailableError(
                    f"Service {metadata['name']!r} has no address after {ADDRESS_SECONDS:g} s: nothing leads requests to it. Look at its "
                    "condition IngressReady.",
                    f"Service: {metadata['namespace']}/{metadata['name']}",
                )
            time.sleep(ADDRESS_LOOK_SECONDS)
            objects = self._cluster.read(metadata["namespace"], metadata["name"])
        return objects

    def _share_out(
        self,
        objects: ServiceObjects,
        records: Mapping[str, Record],
        percent: Mapping[str, int],
        as_of: str | None,
    ) -> Service:
        """Share the requests of a service with a canary out."""
        assert objects.canary is not None
        metadata, canary, stable = (
            objects.service["metadata"],
            objects.canary.current or "",
            objects.current or "",
        )
        shifts = CanaryShifts(self._cluster, objects, records)
        if percent == {canary: 100}:
            is_done = shifts.promote()
            if is_done or canary != stable:
                self._note_traffic(records[canary], objects, as_of)
        elif canary != stable and percent == {stable: 100}:
            shifts.take_back()
            self._note_traffic(records[stable], objects, as_of)
        elif canary != stable and percent == {
            canary: percent.get(canary),
            stable: 100 - percent.get(canary, 0),
        }:
            seen = revisions_of(objects.canary, now=time.time())[canary]
            if not seen.state.is_ready:
                raise ConfigurationError(
                    f"Revision {canary} is {seen.state}: {seen.error or 'no pod is ready'}"
                )
            shifts.share(percent[canary])
        else:
            raise ConfigurationError(
                f"Service {metadata['name']!r} has the stable revision {stable} and the canary {canary}: its requests cannot be shared out "
                f"as {dict(percent)}."
            )
        return self.get(metadata["namespace"], metadata["name"])

    def _note_traffic(self, record: Record, objects: ServiceObjects, as_of: str | None) -> Record:
        metadata = objects.service["metadata"]
        noted = replace(record, served_at=_now(), as_of=as_of)
        self._cluster.annotate(metadata["namespace"], metadata["name"], record.revision, noted.notes)
        return noted

    def _service(
        self, objects: ServiceObjects, records: Mapping[str, Record], *, patience: float = PATIENCE_SECONDS
    ) -> Service:
        """A service, with what its revisions have answered while it has a canary that is judged by that."""
        service = service_of(objects, records)
        if service.is_settled and objects.canary is not None:
            scrape = partial(
                self._cluster.scrape, objects.service["metadata"]["namespace"], patience=patience
            )
            return with_answers(service, objects, scrape)
        return service

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
        if objects.canary is not None and objects.canary.current == revision:
            if (
                objects.current != revision
            ):  # else it is on its way to be the stable one, and has all of the requests
                self._take_back(objects, records, revision, is_bad=is_bad)
            return None
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
            self._cluster.apply(with_canary(former.manifest, self._canary_of(objects, records)))
            self._cluster.annotate(namespace, name, former.revision, back.notes)
        was_given_up = (records[revision].withdrawn_at or "") > (records[revision].served_at or "")
        if is_bad or was_given_up:
            given_up = replace(records[revision], withdrawn_at=_now())
            self._cluster.annotate(namespace, name, revision, given_up.notes)
        return former.revision if former else None

    def _take_back(
        self, objects: ServiceObjects, records: Mapping[str, Record], revision: str, *, is_bad: bool
    ) -> None:
        CanaryShifts(self._cluster, objects, records).take_back()
        if is_bad:
            metadata = objects.service["metadata"]
            given_up = replace(records[revision], withdrawn_at=_now())
            self._cluster.annotate(metadata["namespace"], metadata["name"], revision, given_up.notes)

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
        """Ask one of the revision's own pods, through the API server, and then each of its adapters."""
        objects = self._cluster.read(namespace, name)
        models = [name, *adapter_names((objects.predictor.get("model") or {}).get("args") or ())]
        where = f"Revision: {revision} of service {namespace}/{name}"
        if self._ask_service is not None:
            url = objects.status.get("url")
            if not url:
                raise ConfigurationError(
                    "The service has no address yet, at which it could be asked with its API key.", where
                )
            ask_service = self._ask_service
            return ask_each(lambda model: ask_service(url, model, prompt, max_tokens), models)
        pods = [
            pod for pod in objects.all_pods if revision_in(pod) == revision and is_ready(pod) and is_live(pod)
        ]
        if not pods:
            seen = f"; {'; '.join(objects.refused)}" if objects.refused else ""
            raise RunNotFoundError(f"No pod of the revision is seen to be ready{seen}.", where)
        post = partial(self._cluster.post, namespace, pods[0])
        address = f"pod {namespace}/{pods[0]['metadata']['name']}"
        settings = {"max_tokens": max_tokens}
        return ask_each(lambda model: ask_model(post, model, prompt, settings, address=address), models)

    def way_to(self, service: Service, revision: str) -> tuple[str, None]:
        """The address of the revision's own predictor, for clients inside of the cluster."""
        objects = self._cluster.read(service.namespace, service.name)
        return own_address(objects, revision, self._cluster.gateway.has_headless_services), None

    def logs(self, namespace: str, name: str, revision: str, lines: int) -> list[str]:
        """The last lines that the revision's first pod wrote, of the container that has failed if one has."""
        objects = self._cluster.read(namespace, name)
        pods = sorted(
            (pod for pod in objects.all_pods if revision_in(pod) == revision),
            key=lambda pod: not is_live(pod),
        )
        if not pods:
            return []
        container, previous = container_to_read(pods[0].get("status") or {})
        return self._cluster.log(
            namespace, pods[0]["metadata"]["name"], container, previous=previous, lines=lines
        )

    def check(self) -> str:
        """Say in one line what was reached, and whether canaries get requests there; raises if it cannot be used."""
        reached = self._cluster.check()
        reason = self._reason_not_to_split(self._cluster.namespace, patience=0.0)
        return f"{reached}. " + (
            f"Traffic cannot be split here: {reason}" if reason else "Traffic can be split."
        )

    def reason_not_to_split(self, namespace: str) -> str | None:
        """Why a canary would get none of the requests, and what to set."""
        return self._reason_not_to_split(namespace, patience=PATIENCE_SECONDS)

    def _reason_not_to_split(self, namespace: str, *, patience: float) -> str | None:
        if reason := self._cluster.gateway.reason_not_to_split(patience=patience):
            return reason
        if missing := self._cluster.missing(CANARY_RIGHTS, namespace):
            return (
                f"The connection's user may not {', '.join(missing)} in namespace {namespace!r}, where shares and answers are read. Give "
                "it that right."
            )
        return None


def _runs_as_canary(objects: ServiceObjects, revision: str, *, beside: bool) -> bool:
    """Whether a revision runs beside the one that serves already, as it is asked to.

    :raises ConfigurationError: another one does
    """
    if not objects.canaries:
        return False
    (entry, *others) = objects.canaries
    found = revision_of_predictor(entry["predictor"])
    if beside and found == revision and not others:
        return True
    namespace, name = objects.service["metadata"]["namespace"], objects.service["metadata"]["name"]
    then = "Wait until its task has ended; where it has, decide on the canary with PromoteOperator"
    if found is not None and found == objects.current:  # only its task brings that to its end
        then = (
            "It is being made the stable one: wait until its task has ended, clear that where it has failed"
        )
    raise ConfigurationError(
        f"Service {name!r} has a canary: revision {found or 'of somebody else'} with {entry['trafficPercent']}% of the requests. {then}, or "
        "take it back with RollbackOperator.",
        f"Service: {namespace}/{name}",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()
