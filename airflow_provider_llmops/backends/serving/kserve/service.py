"""A service of a cluster as its users and those who judge it see it: its revisions, with their shares and what they have answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from airflow_provider_llmops.backends.kubernetes.pods import is_live
from airflow_provider_llmops.backends.serving.base import Revision, Service
from airflow_provider_llmops.backends.serving.kserve.answered import answered_by
from airflow_provider_llmops.backends.serving.kserve.canaries import shared_revisions
from airflow_provider_llmops.backends.serving.kserve.history import Record
from airflow_provider_llmops.backends.serving.kserve.reading import (
    ServiceObjects,
    is_ready,
    revision_in,
    revisions_of,
)
from airflow_provider_llmops.states import ServiceState


def service_of(objects: ServiceObjects, records: Mapping[str, Record]) -> Service:
    """A service, from what is carried out and what is kept beside it.

    :param objects: what carries it out
    :param records: its specifications by revision
    """
    now = time.time()
    found = shared_revisions(objects, now=now)
    canary = objects.canary.current if objects.canary is not None else None
    is_settled = canary is None or canary != objects.current
    for record in records.values():
        stopped = Revision(
            record.revision, ServiceState.STOPPED, error=_why_stopped(record, objects, records)
        )
        found[record.revision] = replace(
            found.get(record.revision, stopped),
            digest=record.digest,
            as_of=record.as_of,
            served_at=record.served_at,
            is_given_up=record.is_given_up,
        )
    # What was asked for gets requests by itself, so that its date counts before it has any; a canary's does when it has all of them.
    dates = [
        record.as_of
        for record in records.values()
        if (found[record.revision].traffic and record.served_at and record.revision != canary)
        or record.revision == objects.current
        if record.as_of and not record.is_given_up
    ]
    routes = objects.routes
    return Service(
        name=objects.service["metadata"]["name"],
        namespace=objects.service["metadata"]["namespace"],
        url=next((each.url for each in found.values() if each.url), None),
        revisions=found,
        as_of=max(dates, default=None),
        is_reachable=routes is None or routes.trouble is None,
        stable=objects.current,
        wanted=canary or objects.current,
        is_managed=objects.is_managed,
        is_settled=is_settled,
        # The canary's pods serve, and those that are to take their place may not yet.
        has_pods_to_come=not is_settled
        and revisions_of(objects, now=now)[canary or ""].state is ServiceState.STARTING,
    )


def _why_stopped(record: Record, objects: ServiceObjects, records: Mapping[str, Record]) -> str | None:
    """Why a revision of which nothing runs does not."""
    current = records.get(objects.current or "")
    if current is not None and record.asked_at > current.asked_at and not record.is_given_up:
        return "Somebody has taken it out of the service's specification."
    return f"Revision {objects.current} has replaced it." if objects.current else None


def with_answers(
    service: Service, objects: ServiceObjects, scrape: Callable[[Mapping[str, Any]], str]
) -> Service:
    """A service with what each revision that has pods has answered, as those say.

    :param service: the service
    :param objects: what carries it out
    :param scrape: reads what one pod exports
    """
    pods = [pod for pod in objects.all_pods if is_ready(pod) and is_live(pod)]
    by_name = {pod["metadata"]["name"]: pod for pod in pods}
    answered = {
        name: answered_by(
            lambda pod: scrape(by_name[pod]),
            [key for key, pod in by_name.items() if revision_in(pod) == name],
        )
        for name in service.revisions
    }
    revisions = {name: replace(each, answered=answered[name]) for name, each in service.revisions.items()}
    return replace(service, revisions=revisions)
