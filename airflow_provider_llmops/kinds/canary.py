"""A canary, as one attempt of a task deals with it: step by step in, or back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_provider_llmops.backends.serving.base import Service
from airflow_provider_llmops.decision import Decision
from airflow_provider_llmops.delivery.as_of import as_of
from airflow_provider_llmops.delivery.canary import CanaryPlan
from airflow_provider_llmops.exceptions import LLMOpsError, QualityGateFailed, RunFailedError
from airflow_provider_llmops.kinds.probes import ProbeRuns
from airflow_provider_llmops.kinds.revision import Revisions
from airflow_provider_llmops.remote.ending import has_retry
from airflow_provider_llmops.remote.intent import Intent

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_llmops.triggers.canary import CanaryStepTrigger, PromotionTrigger

__all__ = ["Canary"]


class Canary:
    """A revision that gets more of the requests step by step.

    :param kind: revisions of the service
    :param context: of the attempt
    :param revision: the revision
    :param plan: its steps
    """

    def __init__(self, kind: Revisions, context: Context, revision: str, plan: CanaryPlan) -> None:
        self._kind = kind
        self._context = context
        self._plan = plan
        self._log = kind.log
        self._probes = (
            None if plan.probes is None else ProbeRuns(plan.probes, kind.hook, kind.service_name, kind.log)
        )
        self.revision = revision

    def begin_step(
        self, progress: dict[str, Any], *, poll_interval: float
    ) -> tuple[CanaryStepTrigger, dict[str, Any]] | None:
        """Share the requests out for the step that follows: what watches it; ``None`` when the revision is to have all of them.

        :param progress: what was done before
        :param poll_interval: seconds between two looks
        """
        from airflow_provider_llmops.triggers.canary import CanaryStepTrigger, counts_of

        kind, plan = self._kind, self._plan
        service = kind.backend.get(kind.namespace, kind.service_name)
        self._leave_to_a_newer_model(service)
        seen = service.revisions.get(self.revision)
        if seen is not None and seen.is_given_up and not seen.state.is_ready:
            raise self._given_up("was given up by somebody else")
        share = plan.share_after(service, self.revision, progress.get("done", 0))
        if share is None:
            if not progress["decisions"]:
                self._log.info("Nothing else serves, with which revision %s could be compared", self.revision)
            return None
        stable = service.stable or ""
        counts_of(service, self.revision, stable)  # or nothing is shared out
        kind.takes_charge = True
        service = kind.rollout.split(self.revision, share, stable, as_of(self._context))
        if intent := Intent.load(self._context):  # the time to become ready is over; a retry has it anew
            replace(intent, at=time.time()).store(self._context)
        self._log.info(
            "Revision %s of service %s has %s%% of the requests for %g s",
            *(self.revision, kind.service_name, share, plan.seconds),
        )
        since = counts_of(service, self.revision, stable)
        probe = None
        if self._probes is not None:
            since = self._probes.since(self._context, share, since)
            way_to = partial(kind.backend.way_to, service)
            probe = self._probes.start(self._context, self.revision, stable, share, way_to)
        trigger = CanaryStepTrigger(
            kserve_conn_id=kind.hook.kserve_conn_id,
            namespace=kind.namespace,
            name=kind.service_name,
            revision=self.revision,
            stable=stable,
            share=share,
            since=since,
            limits=plan.limits.to_json(),
            until=time.time() + plan.seconds,
            patience=plan.patience,
            poll_interval=poll_interval,
            cancel_on_kill=kind.cancel_on_kill,
            probe=probe,
        )
        return trigger, {**progress, "share": share}

    def end_step(self, event: dict[str, Any], progress: dict[str, Any]) -> dict[str, Any]:
        """What was done by now, if the canary goes on.

        :param event: of the step's trigger
        :param progress: what was done before the step
        :raises QualityGateFailed: it was given up
        :raises AirflowSkipException: a newer model serves by now
        """
        self._kind.takes_charge = True
        decision = Decision.read(event["decision"])
        decisions = [*progress["decisions"], decision.to_json()]
        self._context["ti"].xcom_push(key="decisions", value=decisions)
        self._log.info("%s: %s\n%s", decision.outcome, decision.findings[0], dict(decision.evidence))
        answers = self._probes.tell(self._context, decision) if self._probes else ()
        if event["error"]:
            self._leave_to_a_newer_model(self._kind.rollout.find_service())
            raise self._given_up(event["error"])
        if not self._plan.goes_on_after(decision):
            raise self._given_up(f"was given up: {decision.findings[0]}", *answers)
        return {**progress, "decisions": decisions, "done": progress["share"]}

    def kept(self, progress: dict[str, Any]) -> Service | None:
        """The service, in which the canary keeps the share of its last step; ``None`` where it has nothing beside it.

        :param progress: what was done before
        :raises QualityGateFailed: somebody has shared the requests out otherwise
        """
        kind, done = self._kind, progress.get("done")
        service = kind.backend.get(kind.namespace, kind.service_name)
        if not done or service.stable == self.revision:
            return None
        seen = service.revisions.get(self.revision)
        has = seen.traffic if seen is not None else 0
        if has != done:
            raise self._given_up(
                f"has {has}% of the requests by now, not {done}%: somebody else has shared them out"
            )
        self._log.info(
            "Revision %s of service %s keeps %s%% of the requests: PromoteOperator gives it all of them, RollbackOperator takes it back",
            *(self.revision, kind.service_name, has),
        )
        return service

    def promotion(self, *, poll_interval: float, timeout: timedelta | None) -> PromotionTrigger:
        """What brings the canary, which is to have all of the requests, to be the stable revision.

        :param poll_interval: seconds between two looks
        :param timeout: how long that may take
        """
        from airflow_provider_llmops.triggers.canary import PromotionTrigger

        kind = self._kind
        self._log.info("Revision %s of service %s is made the stable one", self.revision, kind.service_name)
        return PromotionTrigger(
            kserve_conn_id=kind.hook.kserve_conn_id,
            namespace=kind.namespace,
            name=kind.service_name,
            revision=self.revision,
            as_of=as_of(self._context),
            poll_interval=poll_interval,
            deadline=None if timeout is None else time.time() + timeout.total_seconds(),
            cancel_on_kill=kind.cancel_on_kill,
        )

    def end_promotion(self, event: dict[str, Any]) -> None:
        """Make sure that the canary is the stable revision.

        :param event: of the trigger
        :raises RunFailedError: it is not; the next attempt goes on
        :raises QualityGateFailed: somebody else has taken it back or deleted it, and no attempt starts it again
        """
        why = event["error"] or ("It took too long." if event["timed_out"] else None)
        if why and event.get("is_final"):
            service = self._kind.rollout.find_service()
            if service is None or service.stable != self.revision:
                raise self._given_up(f"kept to its limits, and could not be made the stable one: {why}")
        if why:
            raise RunFailedError(
                f"The canary kept to its limits, and could not be made the stable revision: {why}",
                f"Revision: {self.revision}",
            )

    @contextmanager
    def or_back(self) -> Iterator[None]:
        """Give the canary up where no attempt follows one that fails: nobody would watch it."""
        try:
            yield
        except (QualityGateFailed, AirflowSkipException):
            raise
        except Exception as error:
            if isinstance(error, AirflowFailException) or not has_retry(self._context):
                self.take_back()
            raise

    def take_back(self) -> None:
        """Give the canary up; where that fails, which must not hide why, the log says so."""
        try:
            self._kind.rollout.discard(self.revision)
        except LLMOpsError as reason:
            self._log.error("Revision %s keeps its share of the requests: %s", self.revision, reason)

    def _leave_to_a_newer_model(self, service: Service | None) -> None:
        """Give the canary up where a model of a newer date serves by now; the task is skipped then."""
        rollout = self._kind.rollout
        if reason := rollout.reason_to_leave(service, as_of(self._context), is_backfill=False):
            rollout.discard(self.revision)
            raise AirflowSkipException(reason)

    def _given_up(self, why: str, *places: str) -> Exception:
        """What ends the task for good when the canary is given up."""
        rollout = self._kind.rollout
        service = rollout.find_service()
        if service is not None and service.stable == self.revision:  # somebody has given it everything
            return QualityGateFailed(f"The new revision {why}. It serves.", f"Revision: {self.revision}")
        error = rollout.give_up(self.revision, why)
        Intent.drop(self._context)
        return QualityGateFailed(str(error), *places)
