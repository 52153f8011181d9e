"""Wait for a revision of a service without occupying a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_llmops.backends.serving.base import Revision, discard
from airflow_provider_llmops.exceptions import ApiUnavailableError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.remote.ending import seconds_to_wait
from airflow_provider_llmops.remote.settle import settle
from airflow_provider_llmops.states import ServiceState


class RevisionReadyTrigger(BaseTrigger):
    """Fires once, when a revision is ready, has failed, or its deadline has passed.

    The event's payload is ``{"revision": str, "state": str, "error": str | None, "timed_out": bool}``.

    :param kserve_conn_id: connection of type ``kserve``
    :param namespace: namespace of the service
    :param name: name of the service
    :param revision: revision to wait for
    :param poll_interval: seconds between two looks
    :param deadline: Unix time after which it has taken too long
    """

    def __init__(
        self,
        *,
        kserve_conn_id: str,
        namespace: str,
        name: str,
        revision: str,
        poll_interval: float,
        deadline: float,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kserve_conn_id = kserve_conn_id
        self.namespace = namespace
        self.name = name
        self.revision = revision
        self.poll_interval = poll_interval
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments to build this trigger again."""
        return (
            "airflow_provider_llmops.triggers.service.RevisionReadyTrigger",
            {
                "kserve_conn_id": self.kserve_conn_id,
                "namespace": self.namespace,
                "name": self.name,
                "revision": self.revision,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the revision until it is settled."""
        started = time.monotonic()
        backend = await KServeHook(self.kserve_conn_id).aget_backend()
        revision = Revision(revision=self.revision, state=ServiceState.STARTING)
        unanswered = False
        while True:
            try:
                service = await asyncio.to_thread(backend.get, self.namespace, self.name)
            except ApiUnavailableError as error:
                if not unanswered:
                    self.log.warning("%s Waiting on.", error)
                unanswered = True
            else:
                unanswered = False
                revision = service.revisions.get(self.revision) or Revision(
                    revision=self.revision, state=ServiceState.FAILED, error="it was deleted by somebody else"
                )
            timed_out = time.time() >= self.deadline
            if revision.state.is_ready or revision.state.is_over or timed_out:
                break
            await asyncio.sleep(seconds_to_wait(self.poll_interval, self.deadline))
        await settle(started)
        yield TriggerEvent(  # type: ignore[no-untyped-call]
            {
                "revision": self.revision,
                "state": str(revision.state),
                "error": revision.error,
                "timed_out": timed_out and not revision.state.is_ready,
            }
        )

    async def on_kill(self) -> None:
        """Stop the revision that was starting: a person marked or cleared the task."""
        backend = await KServeHook(self.kserve_conn_id).aget_backend()
        await asyncio.to_thread(discard, backend, self.namespace, self.name, self.revision)
