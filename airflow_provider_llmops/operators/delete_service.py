"""Operator that deletes a service."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.arguments import names_of
from airflow_provider_llmops.exceptions import (
    ConfigurationError,
    RunFailedError,
    RunNotFoundError,
    check_is_flag,
)
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.openlineage.lineage import TaskLineage
from airflow_provider_llmops.remote.traced import TracedOperator
from airflow_provider_llmops.remote.watch import watch_here

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["DeleteServiceOperator"]

DELETE_TIMEOUT = timedelta(minutes=10)


class DeleteServiceOperator(TracedOperator):
    """Delete a service with all its revisions, and wait until nothing of it is left.

    Nothing means: on a cluster no ``InferenceService``, whose finalizers may take a while, no pod, no autoscaler, no kept specification; on this
    machine no process, port or directory. A service that is not there is said to be so, and the task succeeds.

    XCom: ``{"name", "namespace", "deleted"}``; ``deleted`` is false where there was none.

    :param service_name: name of the service
    :param namespace: Kubernetes namespace
    :param force: delete it although this provider has not deployed it
    :param delete_timeout: how long an attempt waits
    :param kserve_conn_id: connection of type ``kserve``
    :param deferrable: wait in the triggerer instead of in a worker
    :param poll_interval: seconds between two looks; 1 on this machine and 5 on a cluster, unless given
    """

    ui_color = "#e6f4ea"

    def __init__(
        self,
        *,
        service_name: str,
        namespace: str = "default",
        force: bool = False,
        delete_timeout: timedelta = DELETE_TIMEOUT,
        kserve_conn_id: str = KServeHook.default_conn_name,
        deferrable: bool = True,
        poll_interval: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.service_name = service_name
        self.namespace = namespace
        self.force = force
        self.delete_timeout = delete_timeout
        self.kserve_conn_id = kserve_conn_id
        self.deferrable = deferrable
        self.poll_interval = poll_interval

    template_fields: Sequence[str] = tuple(
        name for name in names_of(__init__) if name not in ("delete_timeout", "deferrable", "poll_interval")
    )

    @cached_property
    def hook(self) -> KServeHook:
        """The hook of the connection."""
        return KServeHook(self.kserve_conn_id)

    def lineage(self) -> TaskLineage:
        """Which service it is, whose address nobody knows any more."""
        return TaskLineage(run={"details": {"name": self.service_name, "namespace": self.namespace}})

    def execute(self, context: Context) -> dict[str, Any]:
        """Delete it, then wait where it was asked for."""
        from airflow_provider_llmops.triggers.service import ServiceGoneTrigger

        check_is_flag("force", self.force)
        is_there = self._check()
        backend = self.hook.backend
        if is_there:
            self.log.info("Deleting service %s/%s", self.namespace, self.service_name)
        backend.delete(self.namespace, self.service_name)  # what an interrupted attempt has left, too
        interval = float(backend.poll_interval if self.poll_interval is None else self.poll_interval)
        trigger = ServiceGoneTrigger(
            kserve_conn_id=self.kserve_conn_id,
            namespace=self.namespace,
            name=self.service_name,
            poll_interval=interval,
            deadline=time.time() + self.delete_timeout.total_seconds(),
            deleted=is_there,
        )
        watch = trigger.watch(backend, self.log)
        if self.deferrable and not watch.look():
            self.defer(trigger=trigger, method_name="execute_complete")
        return self.execute_complete(context, watch_here(watch, interval))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Say what became of it."""
        where = f"Service: {self.namespace}/{self.service_name}"
        if event["error"]:
            raise ConfigurationError(event["error"])
        if event["timed_out"]:
            raise RunFailedError(
                f"The service was not gone within its delete_timeout of {self.delete_timeout}. Left of it: {', '.join(event['left'])}. Look at "
                "what holds these back; a retry waits on.",
                where,
            )
        if event["deleted"]:
            self.log.info(
                "Service %s/%s is deleted, and nothing of it is left", self.namespace, self.service_name
            )
        else:
            self.log.info("There was no service %s/%s to delete", self.namespace, self.service_name)
        return {"name": self.service_name, "namespace": self.namespace, "deleted": event["deleted"]}

    def _check(self) -> bool:
        """Whether it is there; raises where it is somebody else's."""
        try:
            service = self.hook.get_service(self.service_name, self.namespace)
        except RunNotFoundError:
            return False
        if not service.is_managed and not self.force:
            raise ConfigurationError(
                f"Service {self.service_name!r} was not deployed by this provider, and is not deleted. force=True deletes it in any case.",
                f"Service: {self.namespace}/{self.service_name}",
            )
        return True
