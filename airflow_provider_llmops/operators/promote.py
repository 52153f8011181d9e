"""Operator that gives a canary all of the requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_provider_llmops.arguments import names_of
from airflow_provider_llmops.backends.serving.base import Revision
from airflow_provider_llmops.delivery.as_of import as_of, is_backfill
from airflow_provider_llmops.delivery.promotion import has_everything
from airflow_provider_llmops.delivery.rollout import addresses_of
from airflow_provider_llmops.exceptions import LLMOpsError, RunFailedError, check_is_flag
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.kinds.promotion import Promotions
from airflow_provider_llmops.operators.serving import READY_TIMEOUT, RevisionOperator
from airflow_provider_llmops.remote.ending import describe_limits, has_retry
from airflow_provider_llmops.remote.intent import Intent

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["PromoteOperator"]


class PromoteOperator(RevisionOperator):
    """Give a canary all of the requests, and make it the stable revision, without looking at what it has answered.

    For those who decide themselves: behind a :class:`~airflow_provider_llmops.operators.canary.CanaryOperator` with ``promote=False``, and a
    task in which a person, or an analysis of your own, says yes. To say no there is
    :class:`~airflow_provider_llmops.operators.rollback.RollbackOperator`.

    The revision has to be ready. One that has all of the requests already is left as it is, the log says so, and the task succeeds. Which
    one is promoted is decided once: a retry, and a worker or triggerer that was killed, go on with the same. The task succeeds only when
    the revision has all of the requests, as is read where they are shared out.

    On a cluster the revision gets them at once, and then its specification is rolled out as the stable one, which takes minutes and is
    waited for, up to ``ready_timeout``. Until that begins, whatever ends the task gives the revision the share that it had; from then on it is
    the one that serves, and an attempt that follows, or the task when it is cleared, goes on with it.

    An alias in MLflow is not moved.

    XCom: ``url`` (the service's stable address), ``openai_url`` (base URL for OpenAI clients), and all facts together as
    ``return_value``: ``revision`` serves now, with ``shares``, and ``replaced`` was the stable one before (``None`` where it was that
    already).

    Further arguments are those of :class:`~airflow_provider_llmops.remote.operator.RemoteRunOperator`, but for ``run_timeout``,
    whose place ``ready_timeout`` takes.

    :param service_name: name of the service
    :param namespace: Kubernetes namespace
    :param revision: the revision, such as ``{{ ti.xcom_pull('canary')['revision'] }}``; the only canary when left out. A name makes sure that
        nothing else is promoted than what was decided on
    :param ready_timeout: how long that may take, however many attempts wait for it
    :param only_if_newer: leave a service alone that serves a model of a newer date or partition, and in a backfill any that serves; the task is
        skipped then
    :param kserve_conn_id: connection of type ``kserve``
    """

    def __init__(
        self,
        *,
        service_name: str,
        namespace: str = "default",
        revision: str | None = None,
        ready_timeout: timedelta = READY_TIMEOUT,
        only_if_newer: bool = True,
        kserve_conn_id: str = KServeHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(run_timeout=ready_timeout, **kwargs)
        self.service_name = service_name
        self.namespace = namespace
        self.revision = revision
        self.ready_timeout = ready_timeout
        self.only_if_newer = only_if_newer
        self.kserve_conn_id = kserve_conn_id

    template_fields: Sequence[str] = tuple(name for name in names_of(__init__) if name != "ready_timeout")

    @cached_property
    def kind(self) -> Promotions:
        """The revision that gets the requests."""
        return Promotions(
            self.hook,
            self.log,
            namespace=self.namespace,
            service_name=self.service_name,
            revision=None if self.revision in (None, "") else str(self.revision),
            only_if_newer=self.only_if_newer is True,
            cancel_on_kill=self.cancel_on_kill,
            stored_intent=self._stored_intent,
        )

    def prepare(self, context: Context, intent: Intent) -> Callable[[], str]:
        """Look whether the service may be changed, and whether the revision can have its requests."""
        check_is_flag("only_if_newer", self.only_if_newer)
        self._leave_to_a_newer_model(context, self.kind.date_of(intent, as_of(context)))
        return self.kind.start_promotion()

    def outcome(self, context: Context, seen: Revision) -> dict[str, Any]:
        """Say what serves, when the revision has all of the requests."""
        self._begin(context)
        kind, name = self.kind, seen.revision
        service = kind.backend.get(self.namespace, self.service_name)
        found, promotion = service.revisions.get(name), kind.decided
        if not has_everything(service, name):
            self._leave_to_a_newer_model(context, (found.as_of if found else None) or as_of(context))
            has = f"has {found.traffic}% of the requests" if found else "is gone"
            raise RunFailedError(
                f"Revision {name} {has}, and was to have all of them: somebody else has changed the service since.",
                f"Service: {self.namespace}/{self.service_name}",
            )
        replaced = promotion.replaced if promotion is not None else name
        facts = {**addresses_of(service, name), "replaced": replaced if replaced != name else None}
        self._tell_of(facts, context)
        self.log.info("Revision %s is the stable one, and has all of the requests", name)
        return facts

    def failure(self, key: str, seen: Revision | None, event: dict[str, Any]) -> Exception:
        """Why the revision has not all of the requests: it has what it had, unless it is the stable one by now."""
        error = self.kind.failure(key, event, limits=describe_limits(self))
        context = self._context
        if context is None:
            return error
        if isinstance(error, AirflowFailException) or not has_retry(context):
            self._share_again(key)
        elif intent := Intent.load(context):  # a retry has the time anew
            replace(intent, at=time.time()).store(context)
        return error

    def left_unwatched(self, context: Context, key: str) -> None:
        """Give the revision what it had."""
        self._begin(context)
        self._share_again(key)

    def _share_again(self, key: str) -> None:
        try:
            self.kind.cancel(key)
        except LLMOpsError as reason:  # it must not hide the failure
            self.log.error("The requests stay as they are shared out: %s", reason)

    def _leave_to_a_newer_model(self, context: Context, date: str | None) -> None:
        rollout = self.kind.rollout
        if reason := rollout.reason_to_leave(rollout.find_service(), date, is_backfill=is_backfill(context)):
            raise AirflowSkipException(reason)
