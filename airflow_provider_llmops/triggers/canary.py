"""Watch a canary through one step without occupying a worker."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from airflow_provider_llmops.backends.pipelines.base import PipelineBackend
from airflow_provider_llmops.backends.serving.base import Answers, Service, ServingBackend
from airflow_provider_llmops.decision import Decision, Outcome
from airflow_provider_llmops.delivery.analysis import CanaryLimits, judge
from airflow_provider_llmops.delivery.probes import together
from airflow_provider_llmops.delivery.probes_watch import ProbesWatch
from airflow_provider_llmops.delivery.promotion import share_again
from airflow_provider_llmops.delivery.rollout import Rollout
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    LLMOpsError,
    RunNotFoundError,
    shortened,
)
from airflow_provider_llmops.hooks.kubeflow import KubeflowPipelinesHook
from airflow_provider_llmops.triggers.service import RevisionTrigger, ServingWatch

__all__ = ["CanaryStepTrigger", "PromotionTrigger"]

Counts = Mapping[str, Mapping[str, Any]]
MAX_FINDING = 500


class CanaryStepWatch(ServingWatch):
    """Looks at a canary until its step is decided: at once where it breaks a limit, else when the step is over.

    :param backend: where the service runs
    :param step: what is watched
    :param logger: of the task
    :param probes: what watches the comparison of answers
    """

    def __init__(
        self,
        backend: ServingBackend,
        step: CanaryStepTrigger,
        logger: Any,
        probes: ProbesWatch | None = None,
    ) -> None:
        # It ends by itself, decided or not.
        super().__init__(backend, step.namespace, step.name, step.revision, logger, deadline=None)
        self._step = step
        self._probes = probes
        self._rollout = Rollout(backend, step.namespace, step.name, logger)
        self._limits = CanaryLimits.read(step.limits)
        self._decision = Decision(Outcome.UNDECIDED, ("Nothing was seen of the service.",))
        self._why_not: str | None = None
        self._was_shared_otherwise = False

    def look(self) -> bool:
        """Look once; whether the step is decided. What does not answer is asked again.

        A canary that fails loses its requests here: the task may have to wait for a worker.
        """
        is_over = True  # also where it cannot be watched any more
        try:
            is_over = super().look()
        finally:
            if is_over and self._probes is not None:
                self._probes.cancel()
        return is_over

    def look_at(self, *, may_lag: bool) -> bool:
        """Look once; whether the step is decided."""
        step = self._step
        self._why_not = None
        try:
            service = self.read(may_lag=may_lag)
        except RunNotFoundError:
            self._why_not = "was deleted by somebody else, with its service"
            return True
        if service is None:
            finding = shortened(f"The service could not be read: {self.unanswered}", MAX_FINDING)
            self._decision = Decision(Outcome.UNDECIDED, (finding,))
            return time.time() >= step.until + step.patience
        if why := self._lost(service):
            self._why_not = why
            self._decision = Decision(Outcome.UNDECIDED, (f"The canary {why}.",))
            return True
        now, patience, answers = time.time(), step.patience, None
        if self._probes is not None:
            answers = self._probes.look()
            # Nothing more will be known of answers whose comparison has failed.
            if self._probes.cannot_decide:
                patience = 0.0
        is_last = now >= step.until + patience
        self._decision = self._judged(service, is_over=now >= step.until, is_last=is_last)
        if answers is not None:
            self._decision = together(self._decision, answers)
        if self._decision.outcome is Outcome.FAIL:
            if not may_lag:
                self._log.error("%s%%: %s", step.share, self._decision.findings[0])
                self._take_back()
            return True
        if self._was_shared_otherwise:  # the next look says whether that lasts
            return False
        return self._decision.outcome is Outcome.PASS or is_last

    def _judged(self, service: Service, *, is_over: bool, is_last: bool) -> Decision:
        step = self._step
        if not service.revisions[step.stable].state.is_ready:
            return Decision(
                Outcome.UNDECIDED,
                (f"The stable revision, {step.stable}, is {service.revisions[step.stable].state}.",),
            )
        canary, stable = (answers_since(service, name, step.since) for name in (step.revision, step.stable))
        if canary is None or stable is None:
            return Decision(Outcome.UNDECIDED, ("What the revisions have answered could not be read.",))
        return judge(self._limits, canary, stable, is_over=is_over, is_last=is_last)

    def _take_back(self) -> None:
        try:
            self._rollout.discard(self._step.revision)
        except LLMOpsError as error:  # the task tries again, and says what came of it
            self._log.warning("The canary was not given up yet: %s", error)

    def _lost(self, service: Service) -> str | None:
        """Why the step cannot be judged any more: a revision is gone, or somebody else shares the requests out."""
        if self._step.stable not in service.revisions:
            return f"cannot be compared any more: revision {self._step.stable} was deleted by somebody else"
        canary = service.revisions.get(self._step.revision)
        if canary is None:
            return "was deleted by somebody else"
        if canary.state.is_lost:
            return f"failed: {canary.error or canary.state}"
        # Where pods that are not ready get no requests, and for a moment after they are, that is nobody's doing.
        is_otherwise = canary.traffic != self._step.share and canary.state.is_ready
        was_otherwise, self._was_shared_otherwise = self._was_shared_otherwise, is_otherwise
        if is_otherwise and was_otherwise:
            return f"has {canary.traffic}% of the requests by now, not {self._step.share}%: somebody else has shared them out"
        return None

    def event(self, *, timed_out: bool = False, error: str | None = None) -> dict[str, Any]:
        """See :class:`CanaryStepTrigger`; its time is never up before it is settled."""
        return {
            "revision": self._step.revision,
            "decision": self._decision.to_json(),
            "error": error or self._why_not,
        }


class CanaryStepTrigger(RevisionTrigger):
    """Fires once, when a canary breaks a limit, when its step is over, or when it is not decided by the end of the patience.

    The event's payload is ``{"revision": str, "decision": dict, "error": str | None}``; the error says why the step could not be
    judged.

    :param kserve_conn_id: connection of type ``kserve``
    :param namespace: namespace of the service
    :param name: name of the service
    :param revision: the canary
    :param stable: the revision that it is compared with
    :param share: percent of the requests that the canary has
    :param since: what each of the two had answered when the step began, see :func:`counts_of`
    :param limits: of :class:`~airflow_provider_llmops.delivery.analysis.CanaryLimits`
    :param until: Unix time at which the step is over
    :param patience: seconds that are waited after it for enough requests
    :param poll_interval: seconds between two looks
    :param cancel_on_kill: whether the canary is given up when a person marks or clears the waiting task
    :param probe: the comparison of the answers, see :class:`~airflow_provider_llmops.delivery.probes_watch.ProbesWatch`
    """

    arguments = (
        "kserve_conn_id",
        "namespace",
        "name",
        "revision",
        "stable",
        "share",
        "since",
        "limits",
        "until",
        "patience",
        "poll_interval",
        "cancel_on_kill",
        "probe",
    )

    def __init__(
        self,
        *,
        kserve_conn_id: str,
        namespace: str,
        name: str,
        revision: str,
        stable: str,
        share: int,
        since: Counts,
        limits: Mapping[str, Any],
        until: float,
        patience: float,
        poll_interval: float,
        cancel_on_kill: bool = True,
        probe: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            kserve_conn_id=kserve_conn_id,
            namespace=namespace,
            name=name,
            revision=revision,
            poll_interval=poll_interval,
            cancel_on_kill=cancel_on_kill,
        )
        self.stable = stable
        self.share = share
        self.since = since
        self.limits = limits
        self.until = until
        self.patience = patience
        self.probe = probe
        self._pipelines: PipelineBackend | None = None

    async def connect(self) -> ServingBackend:
        """Where the service runs; and where its answers are compared, if they are. The canary can be given up without that."""
        try:
            await self._connect_comparison()
        except Exception as error:
            self.log.warning("The comparison of the answers cannot be reached: %s", error)
        return await super().connect()

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[ServingBackend]:
        """The same for the looks."""
        await self._connect_comparison()
        async with super().looking() as backend:
            yield backend

    async def _connect_comparison(self) -> None:
        if self.probe is not None:
            self._pipelines = await KubeflowPipelinesHook(self.probe["kubeflow_conn_id"]).aget_backend()

    def watch(self, backend: ServingBackend, logger: Any) -> CanaryStepWatch:
        """What looks at the canary."""
        return CanaryStepWatch(backend, self, logger, self._comparison(logger))

    def _comparison(self, logger: Any) -> ProbesWatch | None:
        """What looks at the comparison of the answers. A worker, which has not connected, reads the connection itself."""
        if self.probe is None:
            return None
        pipelines = self._pipelines or KubeflowPipelinesHook(self.probe["kubeflow_conn_id"]).backend
        return ProbesWatch(pipelines, self.probe, logger)

    def cancel(self, backend: ServingBackend) -> None:
        """Give the canary up: what served before has all of the requests again."""
        try:
            Rollout(backend, self.namespace, self.name, self.log).discard(self.revision)
        finally:
            if (comparison := self._comparison(self.log)) is not None:
                comparison.cancel()


class PromotionWatch(ServingWatch):
    """Takes the steps by which a canary becomes the stable revision.

    :param backend: where the service runs
    :param promotion: what is watched
    :param logger: of the task
    """

    def __init__(self, backend: ServingBackend, promotion: PromotionTrigger, logger: Any) -> None:
        super().__init__(
            backend,
            promotion.namespace,
            promotion.name,
            promotion.revision,
            logger,
            deadline=promotion.deadline,
        )
        self._revision = promotion.revision
        self._as_of = promotion.as_of
        self._only_if_newer = promotion.only_if_newer
        self._why_not: str | None = None
        self._is_final = False

    def look_at(self, *, may_lag: bool) -> bool:
        """Take the next step; whether there is none left. What is shared only says whether there is one to take yet."""
        if may_lag:
            seen = self.read(may_lag=True)
            return seen is not None and not seen.has_pods_to_come
        try:
            service = self._backend.set_traffic(
                *self._place, {self._revision: 100}, as_of=self._as_of, only_if_newer=self._only_if_newer
            )
        except ApiUnavailableError as error:
            self._log.warning("%s Waiting on.", error)
            return False
        except LLMOpsError as error:
            self._why_not, self._is_final = str(error), isinstance(error, ConfigurationError)
            return True
        return service.is_settled

    def event(self, *, timed_out: bool = False, error: str | None = None) -> dict[str, Any]:
        """See :class:`PromotionTrigger`."""
        return {
            "revision": self._revision,
            "error": error or self._why_not,
            "is_final": self._is_final,
            "timed_out": timed_out,
        }


class PromotionTrigger(RevisionTrigger):
    """Fires once, when a canary has become the stable revision, when it cannot, or when its deadline has passed.

    The event's payload is ``{"revision": str, "error": str | None, "is_final": bool, "timed_out": bool}``; an error is final that will be
    the same next time.

    :param kserve_conn_id: connection of type ``kserve``
    :param namespace: namespace of the service
    :param name: name of the service
    :param revision: the canary
    :param as_of: date or partition of its model
    :param poll_interval: seconds between two looks
    :param deadline: Unix time after which it has taken too long
    :param cancel_on_kill: whether the canary is given up, while that is possible, when a person marks or clears the waiting task
    :param only_if_newer: whether a model of a newer date that serves is left alone; it ends the waiting
    :param former_share: percent of the requests that the canary has again then, in place of being given up
    """

    arguments = (
        "kserve_conn_id",
        "namespace",
        "name",
        "revision",
        "as_of",
        "poll_interval",
        "deadline",
        "cancel_on_kill",
        "only_if_newer",
        "former_share",
    )

    def __init__(
        self,
        *,
        kserve_conn_id: str,
        namespace: str,
        name: str,
        revision: str,
        as_of: str | None,
        poll_interval: float,
        deadline: float | None,
        cancel_on_kill: bool = True,
        only_if_newer: bool = False,
        former_share: int | None = None,
    ) -> None:
        super().__init__(
            kserve_conn_id=kserve_conn_id,
            namespace=namespace,
            name=name,
            revision=revision,
            poll_interval=poll_interval,
            cancel_on_kill=cancel_on_kill,
        )
        self.as_of = as_of
        self.deadline = deadline
        self.only_if_newer = only_if_newer
        self.former_share = former_share

    def watch(self, backend: ServingBackend, logger: Any) -> PromotionWatch:
        """What takes the steps."""
        return PromotionWatch(backend, self, logger)

    def cancel(self, backend: ServingBackend) -> None:
        """Give the canary up, or the share back that it had, unless it is the one that serves by now."""
        if self.former_share is None:
            Rollout(backend, self.namespace, self.name, self.log).discard(self.revision)
        else:
            share_again(backend, self.namespace, self.name, self.revision, self.former_share)


def counts_of(service: Service, *revisions: str) -> dict[str, dict[str, Any]]:
    """What revisions have answered so far, as plain JSON.

    :param service: the service
    :param revisions: their names
    :raises ApiUnavailableError: that could not be read
    """
    found = {}
    for name in revisions:
        answered = service.revisions[name].answered
        if answered is None:
            raise ApiUnavailableError(
                f"What revision {name} has answered could not be read, which a canary is judged by.",
                f"Service: {service.namespace}/{service.name}",
            )
        found[name] = answered.to_json()
    return found


def answers_since(service: Service, revision: str, since: Counts) -> Answers | None:
    """What a revision has answered since it was counted; ``None`` where that could not be read.

    :param service: the service as it is now
    :param revision: the revision
    :param since: of :func:`counts_of`
    """
    answered = service.revisions[revision].answered
    return None if answered is None else answered.since(Answers.read(since[revision]))
