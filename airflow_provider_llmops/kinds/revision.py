"""Revisions of a service, as a task deals with one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.backends.serving.base import Revision, Service, ServingBackend
from airflow_provider_llmops.backends.serving.manifest import manifest_digest
from airflow_provider_llmops.delivery.revision_keys import key_of, parts_of
from airflow_provider_llmops.delivery.rollout import Rollout
from airflow_provider_llmops.exceptions import RunNotFoundError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.remote.intent import Intent
from airflow_provider_llmops.remote.kind import RemoteKind
from airflow_provider_llmops.states import ServiceState

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.triggers.service import RevisionTrigger

__all__ = ["Revisions"]


class Revisions(RemoteKind[Revision]):
    """Revisions of one service. A revision carries no token, or each attempt's would be a change of the service.

    The key is the revision's name and the digest of its manifest: a name comes again when a service is made anew.

    :param hook: of the connection
    :param logger: of the task
    :param namespace: of the service
    :param service_name: its name
    :param only_if_newer: whether a service is left alone that serves a newer model
    :param cancel_on_kill: whether the triggerer stops the revision when the waiting task is marked or cleared
    :param stored_intent: gives the intent that the task has stored
    """

    noun = "revision"
    is_taken_over = False

    def __init__(
        self,
        hook: KServeHook,
        logger: Any,
        *,
        namespace: str,
        service_name: str,
        only_if_newer: bool,
        cancel_on_kill: bool,
        stored_intent: Callable[[], Intent | None],
    ) -> None:
        super().__init__(logger)
        self.hook = hook
        self.namespace = namespace
        self.service_name = service_name
        self.only_if_newer = only_if_newer
        self.cancel_on_kill = cancel_on_kill
        self._stored_intent = stored_intent
        self.is_given_up = False
        self.takes_charge = False
        """Whether the task has shared requests out, and so takes them back, whichever task has started the revision."""
        self._is_new = False
        self._asked_for: str | None = None
        self._digest: str | None = None
        self._former_revisions: frozenset[str] = frozenset()

    @property
    def backend(self) -> ServingBackend:
        """What runs the service."""
        return self.hook.backend

    @property
    def rollout(self) -> Rollout:
        """The service on its way to the new revision."""
        return Rollout(
            self.backend,
            self.namespace,
            self.service_name,
            self.log,
            only_if_newer=self.only_if_newer,
            is_ours=self._is_ours,
            back_to=self.back_to,
        )

    @property
    def back_to(self) -> str | None:
        """What serves again when the revision is given up; what served before it when ``None``."""
        return None

    @property
    def _is_ours(self) -> bool:
        """Whether this task has started the revision: another one may have applied the same manifest before."""
        if self._is_new or self.takes_charge:
            return True
        intent = self._stored_intent()
        return intent is None or not intent.reused

    def new_name(self, context: Context) -> str:
        """The service, and a token of the attempt's."""
        return f"{self.namespace}/{self.service_name} {uuid.uuid4().hex}"

    def key_of(self, seen: Revision) -> str:
        """The revision's name, and the digest of its manifest."""
        return key_of(seen.revision, seen.digest)

    def key_in(self, event: dict[str, Any]) -> str:
        """Name of the revision that was waited for."""
        return str(event["revision"])

    def named(self, key: str) -> str:
        """What it is called in messages."""
        return f"revision {name_in(key)} of service {self.service_name}"

    def start_of(
        self,
        intent: Intent,
        manifest: Mapping[str, Any],
        service: Service | None,
        as_of: str | None,
        *,
        beside: bool = False,
    ) -> Callable[[], str]:
        """What starts a revision, or finds the one that runs the manifest already, and returns its key.

        :param intent: this attempt's
        :param manifest: of the service
        :param service: the service as it was before
        :param as_of: date or partition of its model
        :param beside: whether it gets no requests by itself, also where new revisions usually do
        """
        self._asked_for = intent.name
        self._digest = manifest_digest(manifest)
        self._former_revisions = frozenset(service.revisions if service else ())
        return lambda: self._apply(manifest, as_of, beside)

    def _apply(self, manifest: Mapping[str, Any], as_of: str | None, beside: bool) -> str:
        revision, is_new = self.backend.apply(manifest, as_of=as_of, beside=beside)
        self._is_new = is_new
        how = "is starting" if is_new else f"runs this manifest already, and is {revision.state}"
        self.log.info("Revision %s of service %s %s", revision.revision, self.service_name, how)
        if revision.ignored:
            self.log.warning("Without meaning on one machine, and ignored: %s", ", ".join(revision.ignored))
        return self.key_of(revision)

    def made(self, intent: Intent, former: Intent | None, key: str) -> Intent:
        """The time began when the revision was asked for, by whichever attempt; one of another task is not ours."""
        if self._is_new:
            return intent
        if former is not None and former.run_id in (None, key):
            self.log.info("Reconnected to %s", self.named(key))
            return replace(intent, at=former.at, reused=former.reused)
        return replace(intent, reused=True)

    def find(self, intent: Intent) -> Revision | None:
        """The revision that an attempt has started, if it still is that: a service that was made anew counts anew."""
        is_being_made = intent.name == self._asked_for
        if intent.reused or intent.finished or (intent.run_id is None and not is_being_made):
            return None
        try:
            service = self.backend.get(*service_of(intent))
        except RunNotFoundError:
            return None
        if intent.run_id is None:
            return self._started_meanwhile(service)
        found = service.revisions.get(name_in(intent.run_id))
        return found if found is not None and self.key_of(found) == intent.run_id else None

    def _started_meanwhile(self, service: Service) -> Revision | None:
        """The revision that this attempt has started, whose answer has not come: it was not there before."""
        started = (each for name, each in service.revisions.items() if name not in self._former_revisions)
        return next((each for each in started if each.digest == self._digest), None)

    def may_be_on_its_way(self, *, is_retry: bool) -> bool:
        """No: what an earlier attempt has applied is answered when it is applied again."""
        return False

    def stop_former(self, intent: Intent, seen: Revision | None) -> None:
        """Stop the former revision, unless requests go to it."""
        if seen is not None and not seen.state.is_lost:
            Rollout(self.backend, *service_of(intent), self.log).discard(seen.revision)

    def read(self, key: str, event: dict[str, Any]) -> Revision:
        """The revision as it was seen last: whether it still serves is asked of itself."""
        state = ServiceState(event["state"])
        return Revision(revision=name_in(key), state=state, error=event["error"])

    def cancel(self, key: str, *, patience: float | None = None) -> None:
        """Stop the revision, unless requests go to it."""
        self.rollout.cancel(name_in(key))

    def failure(self, key: str, event: dict[str, Any], *, limits: str) -> Exception:
        """Why a revision is not ready; it is stopped.

        :param key: its key
        :param event: of the trigger
        :param limits: the limits that it may have reached
        """
        is_late = event["timed_out"]
        why = f"was not ready within {limits}" if is_late else f"failed: {event['error']}"
        rollout = self.rollout
        error = rollout.give_up(name_in(key), why)
        self.is_given_up = rollout.is_given_up
        return error

    def trigger(self, key: str, *, poll_interval: float, deadline: float | None) -> RevisionTrigger:
        """What waits for the revision."""
        from airflow_provider_llmops.triggers.service import RevisionReadyTrigger

        return RevisionReadyTrigger(
            kserve_conn_id=self.hook.kserve_conn_id,
            namespace=self.namespace,
            name=self.service_name,
            revision=name_in(key),
            poll_interval=poll_interval,
            deadline=deadline,
            cancel_on_kill=self.cancel_on_kill,
            is_ours=self._is_ours,
            back_to=self.back_to,
        )


def name_in(key: str) -> str:
    """The revision's name in a key."""
    return parts_of(key)[0]


def service_of(intent: Intent) -> tuple[str, str]:
    """Namespace and name of the service that an intent is about, whatever the task's are by now."""
    namespace, _, name = intent.name.partition(" ")[0].partition("/")
    return namespace, name
