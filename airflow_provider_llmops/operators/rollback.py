"""Operator that goes back to a former revision of a service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.arguments import names_of
from airflow_provider_llmops.backends.serving.base import Revision
from airflow_provider_llmops.delivery.rollout import SMOKE_PROMPT, facts_of
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.kinds.rollback import Rollbacks
from airflow_provider_llmops.operators.serving import READY_TIMEOUT, RevisionOperator
from airflow_provider_llmops.remote.intent import Intent

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["RollbackOperator"]


class RollbackOperator(RevisionOperator):
    """Bring the last good revision of a service back: start it, wait until it is ready, ask it a question, give it the traffic.

    Rolled back is the revision that was asked for last, whether it serves or is on its way to; it is given up, and no later rollback goes back to
    it. The last good one is that which served last among the others and was not given up. Where the revision does not become ready, or does not
    answer, what was to be rolled back serves on. What comes back is decided once: a retry never goes back twice.

    An alias in MLflow is not moved.

    XCom: ``url`` (the service's stable address), ``openai_url`` (base URL for OpenAI clients), and all facts together as
    ``return_value``: ``revision`` serves now, ``replaced`` was rolled back (``None`` where it served already).

    Further arguments are those of :class:`~airflow_provider_llmops.remote.operator.RemoteRunOperator`, but for ``run_timeout``,
    whose place ``ready_timeout`` takes. To cancel is to stop what is coming back.

    :param service_name: name of the service
    :param namespace: Kubernetes namespace
    :param to_revision: revision to go back to, whatever became of it; the last good one when left out
    :param smoke_prompt: question that the revision has to answer before it counts
    :param ready_timeout: how long the revision may take to become ready, however many attempts wait for it
    :param kserve_conn_id: connection of type ``kserve``
    """

    def __init__(
        self,
        *,
        service_name: str,
        namespace: str = "default",
        to_revision: str | None = None,
        smoke_prompt: str = SMOKE_PROMPT,
        ready_timeout: timedelta = READY_TIMEOUT,
        kserve_conn_id: str = KServeHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(run_timeout=ready_timeout, **kwargs)
        self.service_name = service_name
        self.namespace = namespace
        self.to_revision = to_revision
        self.smoke_prompt = smoke_prompt
        self.ready_timeout = ready_timeout
        self.kserve_conn_id = kserve_conn_id

    template_fields: Sequence[str] = tuple(name for name in names_of(__init__) if name != "ready_timeout")

    @cached_property
    def kind(self) -> Rollbacks:
        """Former revisions of the service."""
        return Rollbacks(
            self.hook,
            self.log,
            namespace=self.namespace,
            service_name=self.service_name,
            to_revision=self.to_revision or None,
            cancel_on_kill=self.cancel_on_kill,
            stored_intent=self._stored_intent,
        )

    def prepare(self, context: Context, intent: Intent) -> Callable[[], str]:
        """What starts the revision that comes back."""
        return self.kind.return_of(intent)

    def outcome(self, context: Context, seen: Revision) -> dict[str, Any]:
        """Ask the revision that is ready, give it the traffic, and give up the one that it replaces."""
        attempt, kind = self._begin(context), self.kind
        attempt.key = seen.revision  # until it has the traffic, whoever ends the task stops it
        answer = kind.rollout.ask(seen.revision, self.smoke_prompt)
        found = kind.backend.get(self.namespace, self.service_name).revisions[seen.revision]
        service = kind.rollout.give_back(seen.revision, found.as_of)
        attempt.key = None
        facts = {
            **facts_of(service, seen.revision, self.smoke_prompt, answer),
            "replaced": kind.back_to,
        }
        self._tell_of(facts, context)
        if kind.back_to is not None:
            self.log.info("Revision %s was rolled back, and is given up", kind.back_to)
        return facts
