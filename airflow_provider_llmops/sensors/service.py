"""Wait for a service that something else deploys."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.delivery.wanted import WantedService
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    RunFailedError,
    RunNotFoundError,
    shown_value,
)
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.remote.sensor import RemoteSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.backends.serving.base import Service
    from airflow_provider_llmops.triggers.service import ServiceTrigger

__all__ = ["ServiceReadySensor", "ServiceTrafficSensor"]


class ServiceReadySensor(RemoteSensor):
    """Succeeds when a service answers, fails when the revision that is waited for has failed or is stopped.

    A revision is ready by the evidence of its own pods or process, never because the one before it still serves. A service that
    is not there yet is waited for. It is only watched.

    :param service_name: name of the service
    :param namespace: its namespace
    :param revision: revision that has to be ready; when left out, any that answers the service's requests
    :param kserve_conn_id: connection of type ``kserve``
    :param deferrable: wait in the triggerer instead of in a worker
    """

    template_fields: Sequence[str] = ("service_name", "namespace", "revision", "kserve_conn_id")
    ui_color = "#e6f4ea"

    def __init__(
        self,
        *,
        service_name: str,
        namespace: str = "default",
        revision: str | None = None,
        kserve_conn_id: str = KServeHook.default_conn_name,
        deferrable: bool = True,
        poke_interval: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(deferrable=deferrable, poke_interval=poke_interval, **kwargs)
        self.service_name = service_name
        self.namespace = namespace
        self.revision = revision
        self.kserve_conn_id = kserve_conn_id

    @cached_property
    def hook(self) -> KServeHook:
        """The hook of the connection."""
        return KServeHook(self.kserve_conn_id)

    @property
    def wanted(self) -> WantedService:
        """What is waited for."""
        return WantedService(self.namespace, self.service_name, revision=self.revision or None)

    def poke(self, context: Context) -> bool:
        """Whether it is as it is waited for; raises when it no longer can be. What does not answer is asked again."""
        wanted = self.wanted
        try:
            service: Service | None = self.hook.backend.get(wanted.namespace, wanted.name, patience=0.0)
        except RunNotFoundError:
            service = None
        except ApiUnavailableError as error:
            self.log.warning("%s Waiting on.", error)
            return False
        self.log.info(wanted.described(service))
        revision = wanted.revision_in(service)
        if revision is not None and revision.state.is_lost:
            why = f": {revision.error}" if revision.error else ""
            raise RunFailedError(
                f"Revision {revision.revision} of service {wanted.name} is {revision.state}{why}",
                f"Service: {wanted.namespace}/{wanted.name}",
            )
        return wanted.is_met_by(service)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        """Look at what the trigger has seen."""
        if event["error"]:
            raise ConfigurationError(event["error"])
        if not self.poke(context):
            self._wait()  # it has changed since

    def _trigger(self) -> ServiceTrigger:
        """What waits in the triggerer."""
        from airflow_provider_llmops.triggers.service import ServiceTrigger

        wanted = self.wanted
        return ServiceTrigger(
            kserve_conn_id=self.kserve_conn_id,
            namespace=wanted.namespace,
            name=wanted.name,
            poll_interval=self.poke_interval,
            revision=wanted.revision,
            percent=wanted.percent,
        )


class ServiceTrafficSensor(ServiceReadySensor):
    """Succeeds when a revision is ready and has at least so many percent of the service's requests.

    The share is read where the requests are shared out, not from what somebody asked for. Fails when the revision has failed or is
    stopped. It is only watched.

    :param revision: the revision
    :param percent: percent of the requests, from 1 to 100
    """

    template_fields: Sequence[str] = (*ServiceReadySensor.template_fields, "percent")

    def __init__(self, *, revision: str, percent: int = 100, **kwargs: Any) -> None:
        super().__init__(revision=revision, **kwargs)
        self.percent = percent

    @property
    def wanted(self) -> WantedService:
        """What is waited for."""
        return WantedService(
            self.namespace, self.service_name, revision=self._revision(), percent=_percent(self.percent)
        )

    def _revision(self) -> str:
        if not self.revision:
            raise ConfigurationError(
                f"revision of {type(self).__name__} is empty: name the revision whose share is waited for. 'revision' in the result of "
                "DeployModelOperator is one."
            )
        return self.revision


def _percent(value: object) -> int:
    """A share that a revision can have; a template gives text."""
    text = str(value)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 100):
        raise ConfigurationError(f"percent must be a whole number from 1 to 100, got {shown_value(value)}.")
    return int(text)
