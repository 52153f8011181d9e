"""Wait until a service keeps to its level."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_llmops.backends.serving.prometheus import check_labels
from airflow_provider_llmops.decision import Decision, Outcome
from airflow_provider_llmops.delivery.level import ServiceLevel
from airflow_provider_llmops.exceptions import (
    ConfigurationError,
    QualityGateFailed,
    RunFailedError,
    shown_value,
)
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.remote.sensor import RemoteSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.triggers.service_level import ServiceLevelTrigger, ServiceLevelWatch

__all__ = ["ServiceLevelSensor"]

_ON_BREACH = ("wait", "fail")
_ON_NO_DATA = ("wait", "fail", "go_on")


class ServiceLevelSensor(RemoteSensor):
    """Succeeds when what a service has answered in a window keeps to every limit.

    It is counted where the service runs, from the first look on, so that the first window is over that much later; with
    ``prometheus_conn_id`` Prometheus is asked for the window that ends now. Fails when a revision that it watches has failed or is stopped.
    XCom has the ``decision``: outcome, findings, rules and figures. The service is only watched.

    :param service_name: name of the service
    :param namespace: its namespace
    :param revision: the revision; all of the service's together when left out
    :param max_error_rate: share of the requests that may fail, from 0 to below 1; not looked at when left out
    :param max_latency_seconds: within which 95 percent of the answers have to come; not looked at when left out
    :param window: time whose requests are judged together
    :param min_requests: in a window: with fewer nothing is decided
    :param on_breach: ``wait`` until a window keeps to the limits, or ``fail`` for good with the first that does not
    :param on_no_data: what follows when a window is over and there were fewer requests, or they could not be read all the while: ``wait`` on until the
        sensor's time-out, ``fail`` for good, or ``go_on`` as if the limits were kept
    :param prometheus_conn_id: connection of type ``prometheus`` to ask instead of the service's own counts
    :param prometheus_labels: labels of its series there as PromQL has them between braces, ``namespace="team", pod=~"chat-predictor-.*"``
    :param kserve_conn_id: connection of type ``kserve``; not used with ``prometheus_conn_id``
    :param deferrable: wait in the triggerer instead of in a worker
    """

    template_fields: Sequence[str] = (
        "service_name",
        "namespace",
        "revision",
        "max_error_rate",
        "max_latency_seconds",
        "min_requests",
        "on_breach",
        "on_no_data",
        "prometheus_conn_id",
        "prometheus_labels",
        "kserve_conn_id",
    )
    ui_color = "#e6f4ea"

    def __init__(
        self,
        *,
        service_name: str,
        on_no_data: Literal["wait", "fail", "go_on"],
        namespace: str = "default",
        revision: str | None = None,
        max_error_rate: float | None = None,
        max_latency_seconds: float | None = None,
        window: timedelta = timedelta(minutes=10),
        min_requests: int = 50,
        on_breach: Literal["wait", "fail"] = "wait",
        prometheus_conn_id: str | None = None,
        prometheus_labels: str | None = None,
        kserve_conn_id: str = KServeHook.default_conn_name,
        deferrable: bool = True,
        poke_interval: float = 15.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(deferrable=deferrable, poke_interval=poke_interval, **kwargs)
        self.service_name = service_name
        self.namespace = namespace
        self.revision = revision
        self.max_error_rate = max_error_rate
        self.max_latency_seconds = max_latency_seconds
        self.window = window
        self.min_requests = min_requests
        self.on_breach = on_breach
        self.on_no_data = on_no_data
        self.prometheus_conn_id = prometheus_conn_id
        self.prometheus_labels = prometheus_labels
        self.kserve_conn_id = kserve_conn_id

    def execute(self, context: Context) -> Any:
        """Look once, then wait where it was asked for."""
        if not self.deferrable and self.mode == "reschedule":
            raise ConfigurationError(
                "mode='reschedule' forgets between two looks what was counted before. Leave it out: deferred, no worker is occupied."
            )
        return super().execute(context)

    def poke(self, context: Context) -> bool:
        """Whether the level is kept; raises when it is decided that it is not."""
        return self._watch.look() and self._has_ended(self._watch.event(), context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        """Go on with what the trigger has seen."""
        if event["error"]:
            raise ConfigurationError(event["error"])
        self._has_ended(event, context)

    @cached_property
    def _watch(self) -> ServiceLevelWatch:
        trigger = self._made(first=None)
        return trigger.watch(trigger.connect_here(), self.log)

    def _trigger(self) -> ServiceLevelTrigger:
        """What waits in the triggerer: it goes on from the worker's look."""
        return self._made(first=self._watch.source.first)

    @cached_property
    def _no_data_until(self) -> float | None:
        return None if self.on_no_data == "wait" else time.time() + self.window.total_seconds()

    def _made(self, first: dict[str, Any] | None) -> ServiceLevelTrigger:
        from airflow_provider_llmops.triggers.service_level import ServiceLevelTrigger

        _check_choice("on_breach", self.on_breach, _ON_BREACH)
        _check_choice("on_no_data", self.on_no_data, _ON_NO_DATA)
        window = self.window.total_seconds()
        if window < 1 or not 0 < self.poke_interval <= window:
            raise ConfigurationError(
                f"A window of {window:g} s and a look every {self.poke_interval:g} s: a window is at least a second, and looked at at least "
                "once. Raise window, or lower poke_interval."
            )
        return ServiceLevelTrigger(
            namespace=self.namespace,
            name=self.service_name,
            revision=self.revision or None,
            kserve_conn_id=self.kserve_conn_id,
            prometheus_conn_id=self.prometheus_conn_id or None,
            prometheus_labels=self._labels(),
            level=ServiceLevel(
                max_error_rate=_number("max_error_rate", self.max_error_rate),
                max_latency_seconds=_number("max_latency_seconds", self.max_latency_seconds),
                min_requests=_whole("min_requests", self.min_requests),
            ).to_json(),
            window=window,
            waits_for_level=self.on_breach == "wait",
            no_data_until=self._no_data_until,
            first=first,
            poll_interval=self.poke_interval,
        )

    def _labels(self) -> str | None:
        if not self.prometheus_conn_id:
            if self.prometheus_labels:
                raise ConfigurationError("prometheus_labels without prometheus_conn_id: name the connection.")
            return None
        if self.revision:
            raise ConfigurationError(
                "With prometheus_conn_id the labels say which revision is meant: put it into prometheus_labels, and leave revision out."
            )
        return check_labels(self.prometheus_labels)

    def _has_ended(self, event: dict[str, Any], context: Context) -> bool:
        where = f"Service: {self.namespace}/{self.service_name}"
        if event["lost"]:
            raise RunFailedError(event["lost"])
        decision = Decision.read(event["decision"])
        context["ti"].xcom_push(key="decision", value=decision.to_json())
        said = " ".join(decision.findings)
        if decision.outcome is Outcome.FAIL:
            raise QualityGateFailed(f"The service does not keep to its level: {said}", where)
        if decision.outcome is Outcome.UNDECIDED:
            if self.on_no_data != "go_on":
                raise QualityGateFailed(
                    f"There is no data to decide on, which is no level that is kept: {said}", where
                )
            self.log.warning("Going on without data, as on_no_data says: %s", said)
        return True


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigurationError(f"{name} is one of {', '.join(choices)}, got {shown_value(value)}.")


def _number(name: str, value: object) -> float | None:
    """A number, or nothing; a template gives text."""
    if value is None or value in ("", "None"):
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(str(value))
    except ValueError:
        raise ConfigurationError(f"{name} must be a number, got {shown_value(value)}.") from None


def _whole(name: str, value: object) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit()):
        raise ConfigurationError(f"{name} must be a whole number from 1 on, got {shown_value(value)}.")
    return int(text)
