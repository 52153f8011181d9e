"""A canary on a cluster on its way: started beside what serves, given its share, made the stable revision, or taken back.

KServe deletes the pods and the Service of a canary that is taken out before it changes the routes, so that a canary has none of the requests,
as the Gateway's routes say, before it is. The predictor that serves never changes its name, which is part of its address. Each step is known
from the state on the cluster, and goes on from there whoever takes it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from airflow_provider_llmops.backends.serving.kserve.canaries import (
    canary_entry,
    check_canary,
    with_canary,
)
from airflow_provider_llmops.backends.serving.kserve.cluster import KServeCluster
from airflow_provider_llmops.backends.serving.kserve.history import Record
from airflow_provider_llmops.backends.serving.kserve.reading import (
    STOP_ANNOTATION,
    ServiceObjects,
    revisions_of,
)
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, RunFailedError

SETTLE_SECONDS = 20.0
# How long a Gateway that has taken a route may need until the last of its proxies follows it.
DRAIN_SECONDS = 2.0
_LOOK_SECONDS = 0.5
Records = Mapping[str, Record]


class CanaryShifts:
    """Changes of one service that has, or is to have, a canary.

    :param cluster: where it is
    :param objects: the service as it is
    :param records: its specifications by revision
    """

    def __init__(self, cluster: KServeCluster, objects: ServiceObjects, records: Records) -> None:
        self._cluster = cluster
        self._objects = objects
        self._records = records
        metadata = objects.service["metadata"]
        self._namespace, self._name = metadata["namespace"], metadata["name"]
        self._where = f"Service: {self._namespace}/{self._name}"

    def check_start(self, manifest: Mapping[str, Any]) -> None:
        """Look whether a specification can be started beside the one that serves.

        :param manifest: of the new revision
        :raises ConfigurationError: it cannot
        """
        objects = self._objects
        self._stable_manifest()
        check_canary(objects.predictor, manifest)
        until = time.monotonic() + SETTLE_SECONDS
        routes = self._cluster.gateway.routes(self._namespace, self._name)
        while routes.weights and not (routes.is_seen or routes.trouble) and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)  # it may have been deployed just now
            routes = self._cluster.gateway.routes(self._namespace, self._name)
        if not routes.weights.get(objects.deployed_as):
            raise ConfigurationError(
                f"No route leads to service {self._name!r}, so that a canary would get none of its requests. Look at its HTTPRoute; KServe's "
                "controller has to be restarted after its configuration was changed.",
                self._where,
            )
        if routes.trouble:
            raise ConfigurationError(
                f"The Gateway does not take the route of service {self._name!r}: {routes.trouble}",
                self._where,
            )
        if not routes.is_seen:
            raise ConfigurationError(
                f"No Gateway has taken the routes of service {self._name!r}, so that a canary would get none of its requests. Look at the "
                "status of its HTTPRoutes, and at the listeners of the Gateway.",
                self._where,
            )

    def start(self, manifest: Mapping[str, Any]) -> None:
        """Start a specification beside the one that serves, with none of the requests."""
        self._write(self._stable_manifest(), canary_entry(manifest, 0))

    def share(self, percent: int) -> None:
        """Give the canary its share, and wait until the Gateway has taken the routes that say so.

        :param percent: of the requests
        """
        stable = self._stable_manifest()
        self._write(stable, self._entry(percent))
        self._wait({self._objects.deployed_as: 100 - percent, self._canary_service: percent})

    def take_back(self) -> None:
        """Give the stable predictor all of the requests, then take the canary out."""
        stable = self._stable_manifest()
        self._empty(stable)
        self._write(stable, None)

    def promote(self) -> bool:
        """Take the next step by which the canary becomes the stable revision; whether that was the last.

        The canary gets all of the requests, the stable predictor the canary's specification; when its own pods serve, it gets all of
        the requests, and the canary is taken out.

        :raises ConfigurationError: the canary has failed, or another revision was asked for since it was
        :raises RunFailedError: the stable predictor's pods fail; the canary has the requests
        """
        objects, manifest = self._objects, self._canary_record.manifest
        revision = self._canary_record.revision
        if objects.current != revision:
            self._check_promotion()
            self._write(self._stable_manifest(), self._entry(100))
            self._wait({self._canary_service: 100})
            self._write(manifest, self._entry(100))
            return False
        seen = revisions_of(objects, now=time.time())[revision]
        if seen.state.is_lost:
            raise RunFailedError(
                f"The stable pods of revision {revision} fail: {seen.error} Its canary has all of the requests. Mend that and retry, or "
                "roll back.",
                self._where,
            )
        if not seen.state.is_ready:
            return False
        self._empty(manifest)
        self._write(manifest, None)
        return True

    def _check_promotion(self) -> None:
        """Look whether the canary is to take the place of the revision that is stable now."""
        assert self._objects.canary is not None
        canary, stable = self._canary_record, self._record_of(self._objects.current)
        if stable.asked_at > canary.asked_at:  # rolled back while its own specification was the stable one
            raise ConfigurationError(
                f"Revision {stable.revision} was asked for since canary {canary.revision} was, which is not made the stable one.",
                self._where,
            )
        seen = revisions_of(self._objects.canary, now=time.time())[canary.revision]
        if seen.state.is_lost:
            raise ConfigurationError(
                f"Canary {canary.revision} is {seen.state}: {seen.error or 'no pod is ready'}", self._where
            )

    def _empty(self, stable: Mapping[str, Any]) -> None:
        """Have the canary get none of the requests."""
        routes = self._objects.routes
        if routes is not None and not routes.weights:  # nothing shares them out
            return
        self._write(stable, self._entry(0))
        had_some = routes is None or routes.weights.get(self._canary_service)
        self._wait({self._objects.deployed_as: 100})
        if had_some:
            time.sleep(DRAIN_SECONDS)

    @property
    def _canary_service(self) -> str:
        assert self._objects.canary is not None
        return self._objects.canary.deployed_as

    @property
    def _canary_record(self) -> Record:
        assert self._objects.canary is not None
        return self._record_of(self._objects.canary.current)

    def _entry(self, percent: int) -> dict[str, Any]:
        return canary_entry(self._canary_record.manifest, percent)

    def _stable_manifest(self) -> Mapping[str, Any]:
        return self._record_of(self._objects.current).manifest

    def _record_of(self, revision: str | None) -> Record:
        record = self._records.get(revision or "")
        if record is None:
            raise ConfigurationError(
                f"What runs as service {self._name!r} was not deployed from here, and cannot be applied again beside a canary. Deploy with "
                "DeployModelOperator first.",
                self._where,
            )
        return record

    def _write(self, manifest: Mapping[str, Any], canary: Mapping[str, Any] | None) -> None:
        apply_unless_stopped(self._cluster, with_canary(manifest, canary))

    def _wait(self, wanted: Mapping[str, int]) -> None:
        """Wait until the Gateway shares the requests out as they are to be."""
        until = time.monotonic() + SETTLE_SECONDS
        while True:
            routes = self._cluster.gateway.routes(self._namespace, self._name)
            if routes.are(wanted):
                return
            if time.monotonic() >= until:
                shares = ", ".join(f"{name} {share}%" for name, share in routes.weights.items()) or "no route"
                raise ApiUnavailableError(
                    f"The requests are not shared out as they were asked to be after {SETTLE_SECONDS:g} s: {routes.trouble or shares}. "
                    "Look at KServe's controller and at the Gateway.",
                    self._where,
                )
            time.sleep(_LOOK_SECONDS)


def apply_unless_stopped(cluster: KServeCluster, sent: Mapping[str, Any]) -> None:
    """Apply a service, which somebody may have stopped.

    :param cluster: where it is
    :param sent: the ``InferenceService``
    :raises ConfigurationError: somebody has
    """
    if ServiceObjects(cluster.apply(sent)).is_stopped:
        namespace, name = sent["metadata"]["namespace"], sent["metadata"]["name"]
        raise ConfigurationError(
            f"Somebody has stopped service {name!r}. Take the annotation {STOP_ANNOTATION} away to deploy to it.",
            f"Service: {namespace}/{name}",
        )
