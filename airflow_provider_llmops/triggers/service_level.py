"""Watch a service's level without occupying a worker."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from airflow_provider_llmops.backends.serving.base import ServingBackend
from airflow_provider_llmops.backends.serving.prometheus import PrometheusServer
from airflow_provider_llmops.decision import Decision, Outcome
from airflow_provider_llmops.delivery.level import ServiceLevel
from airflow_provider_llmops.delivery.window import (
    AnswersInWindow,
    CountedByPrometheus,
    CountedByService,
    NotKnownError,
    NotYetError,
)
from airflow_provider_llmops.exceptions import RunFailedError, shortened
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.hooks.prometheus import PrometheusHook
from airflow_provider_llmops.remote.trigger import WatchTrigger
from airflow_provider_llmops.remote.watch import SharedWatch

__all__ = ["ServiceLevelTrigger"]

MAX_FINDING = 500


class ServiceLevelWatch(SharedWatch):
    """Looks at what a service has answered in the window that ends now, until that is decided.

    :param source: says what was answered
    :param named: what is watched, for messages
    :param level: what it has to keep to
    :param logger: of the task
    :param window: its seconds
    :param waits_for_level: whether it goes on while a limit is broken
    :param no_data_until: Unix time from which on too little data ends it; never when ``None``
    """

    def __init__(
        self,
        source: AnswersInWindow,
        named: str,
        level: ServiceLevel,
        logger: Any,
        *,
        window: float,
        waits_for_level: bool,
        no_data_until: float | None,
    ) -> None:
        super().__init__(named, None)
        self.source = source
        self.decision = Decision(Outcome.UNDECIDED, ("Nothing was seen of the service.",))
        self.lost: str | None = None
        """Why nothing will be seen of it any more."""
        self._level = level
        self._log = logger
        self._window = window
        self._known_at: float | None = None
        self._waits_for_level = waits_for_level
        self._no_data_until = no_data_until
        self._said: Outcome | None = None

    @property
    def lags(self) -> bool:
        """Whether others look at the service with it."""
        return self.source.lags

    def look_at(self, *, may_lag: bool) -> bool:
        """Look once; whether it is decided."""
        self.lost = None
        now = time.time()
        waits_until = self._no_data_until
        try:
            self.decision = self._level.judge(self.source.look(now, may_lag=may_lag))
            self._known_at = now
        except NotKnownError as why:
            if isinstance(why, NotYetError):
                waits_until = None
            elif waits_until is not None and self._known_at is not None:
                # A server that fails to answer one look has left no window without data.
                waits_until = max(waits_until, self._known_at + self._window)
            self.decision = Decision(Outcome.UNDECIDED, (shortened(str(why), MAX_FINDING),))
        except RunFailedError as error:
            self.lost = str(error)
            return True
        outcome = self.decision.outcome
        if outcome is not self._said:
            self._log.info("%s: %s %s", outcome, self.decision.findings[0], dict(self.decision.evidence))
        self._said = outcome
        if outcome is Outcome.UNDECIDED:
            return waits_until is not None and now >= waits_until
        return outcome is Outcome.PASS or not self._waits_for_level

    def event(self, *, timed_out: bool = False, error: str | None = None) -> dict[str, Any]:
        """See :class:`ServiceLevelTrigger`; its time is the sensor's."""
        return {"decision": self.decision.to_json(), "lost": self.lost, "error": error}


class ServiceLevelTrigger(WatchTrigger[AnswersInWindow]):
    """Fires once, when it is decided whether a service keeps to its level.

    The event's payload is ``{"decision": dict, "lost": str | None, "error": str | None}``: ``lost`` says why its revision will answer nothing
    any more, ``error`` why it cannot be watched.

    :param namespace: namespace of the service
    :param name: its name
    :param revision: the revision; all of them together when ``None``
    :param kserve_conn_id: connection of type ``kserve``, whose backend counts
    :param prometheus_conn_id: connection of type ``prometheus``, which is asked instead
    :param prometheus_labels: labels of the series there
    :param level: of :class:`~airflow_provider_llmops.delivery.level.ServiceLevel`
    :param window: seconds
    :param waits_for_level: whether it goes on while a limit is broken
    :param no_data_until: Unix time from which on too little data ends it; never when ``None``
    :param first: what the worker has seen before, see :class:`~airflow_provider_llmops.delivery.window.AnswersInWindow`
    :param poll_interval: seconds between two looks
    """

    arguments = (
        "namespace",
        "name",
        "revision",
        "kserve_conn_id",
        "prometheus_conn_id",
        "prometheus_labels",
        "level",
        "window",
        "waits_for_level",
        "no_data_until",
        "first",
        "poll_interval",
    )

    def __init__(
        self,
        *,
        namespace: str,
        name: str,
        revision: str | None,
        kserve_conn_id: str,
        prometheus_conn_id: str | None,
        prometheus_labels: str | None,
        level: Mapping[str, Any],
        window: float,
        waits_for_level: bool,
        no_data_until: float | None,
        first: Mapping[str, Any] | None,
        poll_interval: float,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.namespace = namespace
        self.name = name
        self.revision = revision
        self.kserve_conn_id = kserve_conn_id
        self.prometheus_conn_id = prometheus_conn_id
        self.prometheus_labels = prometheus_labels
        self.level = level
        self.window = window
        self.waits_for_level = waits_for_level
        self.no_data_until = no_data_until
        self.first = first
        self.poll_interval = poll_interval

    @property
    def named(self) -> str:
        """What is watched."""
        return f"service {self.namespace}/{self.name}"

    @property
    def cancels_on_kill(self) -> bool:
        """No: it is only watched."""
        return False

    async def connect(self) -> AnswersInWindow:
        """What says what was answered, from the triggerer."""
        if self.prometheus_conn_id is not None:
            return self._by_prometheus(await PrometheusHook(self.prometheus_conn_id).aget_server())
        return self._by_service(await KServeHook(self.kserve_conn_id).aget_backend())

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[AnswersInWindow]:
        """The same for the looks; what is seen of a cluster is shared with all who wait in the namespace."""
        if self.prometheus_conn_id is not None:
            yield await self.connect()
            return
        async with KServeHook(self.kserve_conn_id).ashared_backend(self.namespace) as backend:
            yield self._by_service(backend)

    def connect_here(self) -> AnswersInWindow:
        """The same from a worker."""
        if self.prometheus_conn_id is not None:
            return self._by_prometheus(PrometheusHook(self.prometheus_conn_id).server)
        return self._by_service(KServeHook(self.kserve_conn_id).backend)

    def _by_prometheus(self, server: PrometheusServer) -> AnswersInWindow:
        return CountedByPrometheus(server, self.prometheus_labels or "", self.window)

    def _by_service(self, backend: ServingBackend) -> AnswersInWindow:
        return CountedByService(backend, self.namespace, self.name, self.revision, self.window, self.first)

    def watch(self, backend: AnswersInWindow, logger: Any) -> ServiceLevelWatch:
        """What looks at it."""
        return ServiceLevelWatch(
            backend,
            self.named,
            ServiceLevel.read(self.level),
            logger,
            window=self.window,
            waits_for_level=self.waits_for_level,
            no_data_until=self.no_data_until,
        )

    def cancel(self, backend: AnswersInWindow) -> None:
        """Nothing: the service is only watched."""
