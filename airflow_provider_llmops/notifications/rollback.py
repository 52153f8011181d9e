"""Notifier that goes back to the last good revision of a service when a task fails."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow.sdk import BaseNotifier
from airflow.sdk.configuration import conf

from airflow_provider_llmops.arguments import names_of
from airflow_provider_llmops.delivery.as_of import is_of_run
from airflow_provider_llmops.delivery.rollback import StepBack, step_back
from airflow_provider_llmops.delivery.rollout import SMOKE_PROMPT, Rollout
from airflow_provider_llmops.exceptions import LLMOpsError
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.redaction import redact
from airflow_provider_llmops.remote.watch import watch_here
from airflow_provider_llmops.states import ServiceState

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.backends.serving.base import Service

__all__ = ["RollbackNotifier", "roll_back_on_failure"]

MARGIN_SECONDS = 5.0  # of the time that Airflow leaves


class RollbackNotifier(BaseNotifier):
    """Bring the last good revision of a service back because a task has failed: ``on_failure_callback=roll_back_on_failure(...)``.

    For tasks behind a deployment in the same DAG run, such as an evaluation of what serves. Rolled back is only what this DAG run has
    deployed: a service that serves the model of another one is left as it is, so that a deployment that has failed, and has given its revision
    up itself, costs no good revision.

    What it does stands in the log of the task. Where it cannot, it says so there, and the task's own failure stays what it was. Airflow leaves
    a callback the seconds of ``[core] task_success_overtime``, and the notifier waits no longer. A revision that is not ready by then goes on
    starting: KServe gives it the requests by itself; on this machine what serves goes on until the DAG ``rollback``, or a task with
    :class:`~airflow_provider_llmops.operators.rollback.RollbackOperator`, brings it to its end. Where that may take longer, such a task with
    ``trigger_rule="one_failed"`` is the better choice.

    :param service_name: name of the service
    :param namespace: Kubernetes namespace
    :param to_revision: revision to go back to; the last good one when left out
    :param smoke_prompt: question that the revision has to answer before it counts
    :param kserve_conn_id: connection of type ``kserve``
    """

    def __init__(
        self,
        *,
        service_name: str,
        namespace: str = "default",
        to_revision: str | None = None,
        smoke_prompt: str = SMOKE_PROMPT,
        kserve_conn_id: str = KServeHook.default_conn_name,
    ) -> None:
        super().__init__()
        self.service_name = service_name
        self.namespace = namespace
        self.to_revision = to_revision
        self.smoke_prompt = smoke_prompt
        self.kserve_conn_id = kserve_conn_id

    template_fields: Sequence[str] = names_of(__init__)

    def notify(self, context: Context) -> None:
        """Roll back, and say what was done; never raises, since the task has failed for another reason."""
        try:
            self._roll_back(context)
        except Exception as error:
            self.log.error(
                "Service %s/%s was not rolled back: %s",
                self.namespace,
                self.service_name,
                redact(str(error)) or type(error).__name__,
                exc_info=not isinstance(error, LLMOpsError),
            )

    def _roll_back(self, context: Context) -> None:
        hook = KServeHook(self.kserve_conn_id)
        service = hook.get_service(self.service_name, self.namespace)
        asked_for = service.revisions.get(service.wanted or "")
        if asked_for is None or not is_of_run(asked_for.as_of, context):
            self.log.info(
                "Service %s/%s is left as it is: revision %s was not deployed by this DAG run",
                self.namespace,
                self.service_name,
                service.wanted,
            )
            return
        step = step_back(service, self.to_revision or None)
        if not step.changes:
            self.log.info(
                "Service %s/%s serves revision %s already", self.namespace, self.service_name, step.revision
            )
            return
        self._carry_out(hook, service, step)

    def _carry_out(self, hook: KServeHook, service: Service, step: StepBack) -> None:
        from airflow_provider_llmops.triggers.service import RevisionWatch

        backend, place = hook.backend, (self.namespace, self.service_name)
        self.log.info(
            "The task has failed: revision %s of service %s comes back for %s",
            step.revision,
            service.name,
            step.replaced,
        )
        _, is_new = backend.bring_back(*place, step.revision, replacing=step.replaced)
        rollout = Rollout(backend, *place, self.log, is_ours=is_new, back_to=step.replaced)
        seconds = max(0.0, conf.getfloat("core", "task_success_overtime") - MARGIN_SECONDS)
        watch = RevisionWatch(backend, *place, step.revision, self.log, deadline=time.time() + seconds)
        event = watch_here(watch, backend.poll_interval)
        if event["timed_out"]:
            self._leave(hook, service, step, seconds)
            return
        if event["state"] != ServiceState.READY:
            raise rollout.give_up(step.revision, f"failed: {event['error']}")
        rollout.ask(step.revision, self.smoke_prompt)
        former = service.revisions[step.revision]
        rollout.give_back(step.revision, former.as_of)
        self.log.info(
            "Service %s serves revision %s again; %s was rolled back, and is given up",
            service.name,
            step.revision,
            step.replaced,
        )

    def _leave(self, hook: KServeHook, service: Service, step: StepBack, seconds: float) -> None:
        """Leave a revision that takes longer than a callback may."""
        backend = hook.backend
        if not (backend.rolls_out and service.is_settled):
            self.log.error(
                "Revision %s is not ready within the %.0f s that a callback may wait ([core] task_success_overtime), and %s serves on. It goes on "
                "starting: trigger the DAG rollback, which gives it the requests.",
                step.revision,
                seconds,
                step.replaced,
            )
            return
        backend.give_up(self.namespace, self.service_name, step.replaced)
        self.log.info(
            "Revision %s is not ready yet, and KServe gives it the requests when it is; %s is given up",
            step.revision,
            step.replaced,
        )


roll_back_on_failure = RollbackNotifier
