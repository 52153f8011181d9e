"""Wait for a revision of a service without occupying a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from airflow_provider_llmops.backends.serving.base import Revision, Service, ServingBackend
from airflow_provider_llmops.delivery.rollout import Rollout
from airflow_provider_llmops.delivery.wanted import WantedService
from airflow_provider_llmops.exceptions import ApiUnavailableError, RunNotFoundError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.remote.trigger import WatchTrigger
from airflow_provider_llmops.remote.watch import SharedWatch, Watch
from airflow_provider_llmops.states import ServiceState

__all__ = ["RevisionReadyTrigger", "ServiceGoneTrigger", "ServiceTrigger"]


class ServingTrigger(WatchTrigger[ServingBackend]):
    """Base of the triggers for a service, which is only watched, unless a subclass says how it is cancelled.

    :param kserve_conn_id: connection of type ``kserve``
    :param namespace: namespace of the service
    :param name: its name
    :param poll_interval: seconds between two looks
    """

    def __init__(self, *, kserve_conn_id: str, namespace: str, name: str, poll_interval: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kserve_conn_id = kserve_conn_id
        self.namespace = namespace
        self.name = name
        self.poll_interval = poll_interval

    @property
    def named(self) -> str:
        """What is waited for."""
        return f"service {self.namespace}/{self.name}"

    @property
    def cancels_on_kill(self) -> bool:
        """No: it belongs to others, or is deleted and does not come back."""
        return False

    async def connect(self) -> ServingBackend:
        """Where the service runs."""
        return await KServeHook(self.kserve_conn_id).aget_backend()

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[ServingBackend]:
        """Where the service runs; what is seen of a cluster is shared with all who wait in the namespace."""
        async with KServeHook(self.kserve_conn_id).ashared_backend(self.namespace) as backend:
            yield backend

    def cancel(self, backend: ServingBackend) -> None:
        """Nothing: the service is only watched."""


class RevisionTrigger(ServingTrigger):
    """Base of the triggers for one revision, which is given up when a person marks or clears the waiting task, unless told otherwise.

    :param kserve_conn_id: connection of type ``kserve``
    :param namespace: namespace of the service
    :param name: its name
    :param revision: the revision
    :param poll_interval: seconds between two looks
    :param cancel_on_kill: whether it is given up then
    """

    def __init__(self, *, revision: str, cancel_on_kill: bool, **place: Any) -> None:
        super().__init__(**place)
        self.revision = revision
        self.cancel_on_kill = cancel_on_kill

    @property
    def named(self) -> str:
        """What is waited for."""
        return f"revision {self.revision}"

    @property
    def cancels_on_kill(self) -> bool:
        """Whether it is given up when a person marks or clears the waiting task."""
        return self.cancel_on_kill


class ServingWatch(SharedWatch):
    """Looks at one revision of a service.

    :param backend: where the service runs
    :param namespace: its namespace
    :param name: its name
    :param revision: the revision
    :param logger: of the task
    :param deadline: Unix time after which it has taken too long
    """

    def __init__(
        self,
        backend: ServingBackend,
        namespace: str,
        name: str,
        revision: str,
        logger: Any,
        *,
        deadline: float | None,
    ) -> None:
        super().__init__(f"revision {revision}", deadline)
        self._backend = backend
        self._place = (namespace, name)
        self._log = logger
        self.unanswered: ApiUnavailableError | None = None
        """Why the service could not be read at the last look."""

    @property
    def lags(self) -> bool:
        """Whether others look at the service with it."""
        return self._backend.lags

    def read(self, *, may_lag: bool) -> Service | None:
        """The service; ``None`` where it could not be read, which is said once, until it can be again.

        :param may_lag: whether what others look at, too, is good enough
        """
        try:
            service = self._backend.get(*self._place, patience=0.0, may_lag=may_lag)
        except ApiUnavailableError as error:
            if self.unanswered is None:
                self._log.warning("%s Waiting on.", error)
            self.unanswered = error
            return None
        self.unanswered = None
        return service


class RevisionWatch(ServingWatch):
    """Looks at a revision until it is ready, or never will be.

    :param backend: where the service runs
    :param namespace: its namespace
    :param name: its name
    :param revision: the revision
    :param logger: of the task
    :param deadline: Unix time after which it has taken too long
    """

    def __init__(
        self,
        backend: ServingBackend,
        namespace: str,
        name: str,
        revision: str,
        logger: Any,
        *,
        deadline: float | None,
    ) -> None:
        super().__init__(backend, namespace, name, revision, logger, deadline=deadline)
        self._seen = Revision(revision=revision, state=ServiceState.STARTING)

    def look_at(self, *, may_lag: bool) -> bool:
        """Look once; whether it is settled."""
        service = self.read(may_lag=may_lag)
        if service is None:
            return False
        name = self._seen.revision
        seen = service.revisions.get(name) or Revision(
            revision=name, state=ServiceState.FAILED, error="it was deleted by somebody else"
        )
        if not (may_lag and seen.state.is_terminal):
            self._seen = seen
        return seen.state.is_terminal

    def event(self, *, timed_out: bool = False, error: str | None = None) -> dict[str, Any]:
        """See :class:`RevisionReadyTrigger`."""
        return {
            "revision": self._seen.revision,
            "state": str(self._seen.state),
            "error": error or self._seen.error,
            "timed_out": timed_out,
        }


class RevisionReadyTrigger(RevisionTrigger):
    """Fires once, when a revision is ready, has failed, or its deadline has passed.

    The event's payload is ``{"revision": str, "state": str, "error": str | None, "timed_out": bool}``.

    :param kserve_conn_id: connection of type ``kserve``
    :param namespace: namespace of the service
    :param name: name of the service
    :param revision: revision to wait for
    :param poll_interval: seconds between two looks
    :param deadline: Unix time after which it has taken too long
    :param cancel_on_kill: whether it is stopped when a person marks or clears the waiting task
    :param is_ours: whether the task has started it; one of another task is never stopped
    :param back_to: what serves again when it is stopped; what served before it when ``None``
    """

    arguments = (
        "kserve_conn_id",
        "namespace",
        "name",
        "revision",
        "poll_interval",
        "deadline",
        "cancel_on_kill",
        "is_ours",
        "back_to",
    )

    def __init__(
        self,
        *,
        kserve_conn_id: str,
        namespace: str,
        name: str,
        revision: str,
        poll_interval: float,
        deadline: float | None,
        cancel_on_kill: bool = True,
        is_ours: bool = True,
        back_to: str | None = None,
    ) -> None:
        super().__init__(
            kserve_conn_id=kserve_conn_id,
            namespace=namespace,
            name=name,
            revision=revision,
            poll_interval=poll_interval,
            cancel_on_kill=cancel_on_kill,
        )
        self.deadline = deadline
        self.is_ours = is_ours
        self.back_to = back_to

    @property
    def cancels_on_kill(self) -> bool:
        """Whether it is stopped when a person marks or clears the waiting task."""
        return self.cancel_on_kill and self.is_ours

    def watch(self, backend: ServingBackend, logger: Any) -> RevisionWatch:
        """What looks at the revision."""
        return RevisionWatch(
            backend, self.namespace, self.name, self.revision, logger, deadline=self.deadline
        )

    def cancel(self, backend: ServingBackend) -> None:
        """Stop the revision, unless requests go to it."""
        rollout = Rollout(
            backend, self.namespace, self.name, self.log, is_ours=self.is_ours, back_to=self.back_to
        )
        rollout.cancel(self.revision)


class ServiceWatch(SharedWatch):
    """Looks at a service until it is as it is wanted, or a revision that is waited for never will be.

    :param backend: where the service runs
    :param wanted: what is waited for
    :param logger: of the task
    """

    def __init__(self, backend: ServingBackend, wanted: WantedService, logger: Any) -> None:
        super().__init__(f"service {wanted.namespace}/{wanted.name}", None)
        self._backend = backend
        self._wanted = wanted
        self._log = logger
        self._said = ""

    @property
    def lags(self) -> bool:
        """Whether others look at the service with it."""
        return self._backend.lags

    def look_at(self, *, may_lag: bool) -> bool:
        """Look once, and say what has changed. What is not there, or does not answer, is waited for."""
        wanted = self._wanted
        try:
            service = self._backend.get(wanted.namespace, wanted.name, patience=0.0, may_lag=may_lag)
        except RunNotFoundError:
            service = None
        except ApiUnavailableError as error:
            self._say(f"{error} Waiting on.")
            return False
        self._say(wanted.described(service))
        revision = wanted.revision_in(service)
        return wanted.is_met_by(service) or (revision is not None and revision.state.is_lost)

    def event(self, *, timed_out: bool = False, error: str | None = None) -> dict[str, Any]:
        """See :class:`ServiceTrigger`."""
        return {"error": error}

    def _say(self, text: str) -> None:
        if text != self._said:
            self._log.info(text)
        self._said = text


class ServiceTrigger(ServingTrigger):
    """Fires once, when a service is as it is wanted, or the revision that is waited for has failed or is stopped.

    The event's payload is ``{"error": str | None}``, why the service cannot be watched any more. The service is only watched.

    :param kserve_conn_id: connection of type ``kserve``
    :param namespace: namespace of the service
    :param name: its name
    :param poll_interval: seconds between two looks
    :param revision: revision that is waited for; any when ``None``
    :param percent: percent of the requests that the revision is to have; to be ready is enough when ``None``
    """

    arguments = ("kserve_conn_id", "namespace", "name", "poll_interval", "revision", "percent")

    def __init__(
        self,
        *,
        kserve_conn_id: str,
        namespace: str,
        name: str,
        poll_interval: float,
        revision: str | None = None,
        percent: int | None = None,
    ) -> None:
        super().__init__(
            kserve_conn_id=kserve_conn_id, namespace=namespace, name=name, poll_interval=poll_interval
        )
        self.revision = revision
        self.percent = percent

    def watch(self, backend: ServingBackend, logger: Any) -> ServiceWatch:
        """What looks at the service."""
        wanted = WantedService(self.namespace, self.name, revision=self.revision, percent=self.percent)
        return ServiceWatch(backend, wanted, logger)


class ServiceGoneWatch(Watch):
    """Looks at a service that was deleted until nothing of it is left.

    :param backend: where it ran
    :param namespace: its namespace
    :param name: its name
    :param logger: of the task
    :param deadline: Unix time after which it has taken too long
    :param deleted: whether there was one
    """

    def __init__(
        self,
        backend: ServingBackend,
        namespace: str,
        name: str,
        logger: Any,
        *,
        deadline: float | None,
        deleted: bool,
    ) -> None:
        super().__init__(f"service {namespace}/{name}", deadline)
        self._backend = backend
        self._place = (namespace, name)
        self._log = logger
        self._deleted = deleted
        self._left: list[str] = []

    def look(self) -> bool:
        """Look once; what does not answer is asked again."""
        try:
            left = self._backend.left_of(*self._place)
        except ApiUnavailableError as error:
            self._log.warning("%s Waiting on.", error)
            return False
        if left and left != self._left:
            self._log.info("Still there: %s", ", ".join(left))
        self._left = left
        return not left

    def event(self, *, timed_out: bool = False, error: str | None = None) -> dict[str, Any]:
        """See :class:`ServiceGoneTrigger`."""
        return {"left": self._left, "deleted": self._deleted, "timed_out": timed_out, "error": error}


class ServiceGoneTrigger(ServingTrigger):
    """Fires once, when nothing is left of a service that was deleted, or its deadline has passed.

    The event's payload is ``{"left": list[str], "deleted": bool, "timed_out": bool, "error": str | None}``.

    :param kserve_conn_id: connection of type ``kserve``
    :param namespace: namespace of the service
    :param name: its name
    :param poll_interval: seconds between two looks
    :param deadline: Unix time after which it has taken too long
    :param deleted: whether there was one, for the event
    """

    arguments = ("kserve_conn_id", "namespace", "name", "poll_interval", "deadline", "deleted")

    def __init__(
        self,
        *,
        kserve_conn_id: str,
        namespace: str,
        name: str,
        poll_interval: float,
        deadline: float | None,
        deleted: bool,
    ) -> None:
        super().__init__(
            kserve_conn_id=kserve_conn_id, namespace=namespace, name=name, poll_interval=poll_interval
        )
        self.deadline = deadline
        self.deleted = deleted

    def watch(self, backend: ServingBackend, logger: Any) -> ServiceGoneWatch:
        """What looks at what is left."""
        return ServiceGoneWatch(
            backend, self.namespace, self.name, logger, deadline=self.deadline, deleted=self.deleted
        )
