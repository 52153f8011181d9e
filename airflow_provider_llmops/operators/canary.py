"""Operators that bring a new revision in step by step, and make it the only one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_llmops.arguments import names_of
from airflow_provider_llmops.delivery.analysis import CanaryLimits
from airflow_provider_llmops.delivery.as_of import as_of
from airflow_provider_llmops.delivery.canary import CanaryPlan
from airflow_provider_llmops.exceptions import ConfigurationError, check_is_flag
from airflow_provider_llmops.kinds.canary import Canary
from airflow_provider_llmops.kinds.probes import ProbeRuns
from airflow_provider_llmops.kinds.revision import name_in
from airflow_provider_llmops.links import ReportLink
from airflow_provider_llmops.operators.serving import DeployModelOperator
from airflow_provider_llmops.remote.intent import Intent, concluding
from airflow_provider_llmops.remote.watch import watch_here

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_provider_llmops.triggers.canary import CanaryStepTrigger, PromotionTrigger

__all__ = ["CanaryOperator"]

_DEFAULT_LIMITS = CanaryLimits()


class CanaryOperator(DeployModelOperator):
    """Serve a model, with a few of the requests first, and with more in each step that it keeps to its limits in.

    A new revision is started, waited for and asked as by :class:`~airflow_provider_llmops.operators.serving.DeployModelOperator`. Then it
    gets the first of ``steps`` percent of the requests, while the stable revision answers the rest. After ``step_duration`` what both
    have answered in that time is compared: the next step follows, or the stable revision has all of the requests again and the canary is
    stopped. Errors that are no accident end a step at once. Where nothing serves yet there is nothing to compare with, and the new revision
    gets everything. With empty ``steps`` it gets everything in any case, as by ``DeployModelOperator``.

    No data is no success: a step with fewer than ``min_requests`` waits up to ``undecided_timeout`` longer, and then ``on_undecided``
    decides. With ``probes``, both revisions are also asked the questions of a dataset in each step, and the canary is given up when it answers
    them worse; these count as requests, so that a service without users can have a canary.

    A retry, and a worker or triggerer that was killed, go on with the step that the service is at; its time begins anew in a retry. When
    the task is marked or cleared while it runs or waits, or fails without a retry left, the stable revision has all of the requests again.
    ``execution_timeout`` counts for the work between the steps, not for the steps, unless ``deferrable`` is off.

    XCom: as for ``DeployModelOperator``, and ``decisions``, one for each step of the attempt, with the figures; of a canary that was given
    up, too.

    Requires requests that are shared out: on this machine, or on a cluster where KServe uses the Gateway API; on another one it is refused
    before anything is applied, and so are ``logger`` and ``lora_adapters``, which KServe leaves out of a canary. There the canary that has
    kept to its limits gets all of the requests, and then its specification is rolled out as the stable one, which is waited for, up to
    ``ready_timeout``. From the beginning of that on it is the one that serves, and is not taken back; an attempt that follows goes on with
    it.

    :param steps: percent of the requests, rising, each below 100; 100 follows by itself. Empty to deploy at once, where requests cannot be
        split for example: then nothing is compared
    :param step_duration: how long a step takes; a template gives seconds, as for ``undecided_timeout``
    :param min_requests: of the canary in each step, and of the stable revision where it is compared
    :param max_error_rate: share of the canary's requests that may fail, from 0 to 1; ``None`` not to look at it, as for the others
    :param max_error_rate_increase: how much higher that may be than the stable revision's
    :param max_latency_seconds: within which 95 percent of the canary's answers have to come
    :param max_latency_ratio: how many times the stable revision's that may be
    :param probes: questions that both revisions are asked in each step, and how good the canary's answers have to be: a dict with the fields of
        :class:`~airflow_provider_llmops.delivery.probes.CanaryProbes`, of which ``dataset`` and ``min_difference`` are needed
    :param undecided_timeout: how much longer a step waits for enough requests
    :param on_undecided: ``roll_back``, or ``go_on`` to take the next step all the same
    :param promote: whether the canary has all of the requests after the last step; ``False`` leaves it with the share of that, for
        :class:`~airflow_provider_llmops.operators.promote.PromoteOperator` or
        :class:`~airflow_provider_llmops.operators.rollback.RollbackOperator`. The first revision of a service has all of them in any case
    """

    def __init__(
        self,
        *,
        steps: Sequence[int] = (5, 25, 50),
        step_duration: timedelta | float | str = timedelta(minutes=10),
        min_requests: int = _DEFAULT_LIMITS.min_requests,
        max_error_rate: float | None = _DEFAULT_LIMITS.max_error_rate,
        max_error_rate_increase: float | None = _DEFAULT_LIMITS.max_error_rate_increase,
        max_latency_seconds: float | None = _DEFAULT_LIMITS.max_latency_seconds,
        max_latency_ratio: float | None = _DEFAULT_LIMITS.max_latency_ratio,
        probes: Mapping[str, Any] | None = None,
        undecided_timeout: timedelta | float | str = timedelta(minutes=30),
        on_undecided: Literal["roll_back", "go_on"] = "roll_back",
        promote: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.steps = steps
        self.step_duration = step_duration
        self.min_requests = min_requests
        self.max_error_rate = max_error_rate
        self.max_error_rate_increase = max_error_rate_increase
        self.max_latency_seconds = max_latency_seconds
        self.max_latency_ratio = max_latency_ratio
        self.probes = probes
        self.undecided_timeout = undecided_timeout
        self.on_undecided = on_undecided
        self.promote = promote

    operator_extra_links: Collection[BaseOperatorLink] = (
        *DeployModelOperator.operator_extra_links,
        ReportLink(),
    )
    template_fields_renderers = {"probes": "json"}
    template_fields: Sequence[str] = (
        *DeployModelOperator.template_fields,
        *names_of(__init__),
    )

    @property
    def starts_beside(self) -> bool:  # type: ignore[override]
        """Whether the new revision waits for its first step."""
        return bool(self.plan().shares)

    def plan(self) -> CanaryPlan:
        """The steps.

        :raises ConfigurationError: an argument is no part of a plan
        """
        return CanaryPlan.of(
            steps=self.steps,
            step_duration=self.step_duration,
            undecided_timeout=self.undecided_timeout,
            on_undecided=self.on_undecided,
            probes=self.probes,
            limits={each.name: getattr(self, each.name) for each in fields(CanaryLimits)},
        )

    def prepare(self, context: Context, intent: Intent) -> Callable[[], str]:
        """Look whether the service may be changed, and step by step; give what starts the revision."""
        plan = self.plan()
        check_is_flag("promote", self.promote)
        if not plan.shares:
            if not self.promote:
                raise ConfigurationError(
                    "promote=False leaves a canary with the share of its last step, and steps is empty. Give steps."
                )
            return super().prepare(context, intent)
        if reason := self.backend.reason_not_to_split(self.namespace):
            raise ConfigurationError(
                f"A canary would get none of the requests on connection {self.kserve_conn_id!r}: {reason} Or deploy with DeployModelOperator."
            )
        if plan.probes is not None:
            ProbeRuns(plan.probes, self.hook, self.service_name, self.log).check()
        return super().prepare(context, intent)

    def bring_in(self, context: Context, revision: str, answer: str) -> dict[str, Any]:
        """Give a revision that has answered its share of the requests, and more with each step."""
        if not self.starts_beside:
            return super().bring_in(context, revision, answer)
        canary = self._canary(context, revision)
        with canary.or_back():
            return self._take_step(context, canary, {"revision": revision, "answer": answer, "decisions": []})

    def step_complete(
        self, context: Context, event: dict[str, Any], progress: dict[str, Any]
    ) -> dict[str, Any]:
        """Take the decision on a step: the next one, or back.

        :param event: of the trigger
        :param progress: what was done before
        """
        with self._going_on(context, progress) as canary:
            return self._take_step(context, canary, canary.end_step(event, progress))

    def promotion_complete(
        self, context: Context, event: dict[str, Any], progress: dict[str, Any]
    ) -> dict[str, Any]:
        """Say what serves, when the canary is the stable revision.

        :param event: of the trigger
        :param progress: what was done before
        """
        with self._going_on(context, progress) as canary:
            canary.end_promotion(event)
            return super().bring_in(context, canary.revision, progress["answer"])

    def left_unwatched(self, context: Context, key: str) -> None:
        """Give the canary up."""
        self._canary(context, name_in(key)).take_back()

    @contextmanager
    def _going_on(self, context: Context, progress: Mapping[str, Any]) -> Iterator[Canary]:
        """The canary of an attempt that has waited."""
        attempt, canary = self._begin(context), self._canary(context, progress["revision"])
        attempt.key = canary.revision
        with concluding(context), attempt.while_it_goes_on(canary.revision), canary.or_back():
            yield canary

    def _canary(self, context: Context, revision: str) -> Canary:
        return Canary(self.kind, context, revision, self.plan())

    def _take_step(self, context: Context, canary: Canary, progress: dict[str, Any]) -> dict[str, Any]:
        interval = float(self.backend.poll_interval if self.poll_interval is None else self.poll_interval)
        if (step := canary.begin_step(progress, poll_interval=interval)) is not None:
            return self._wait_for(step[0], self.step_complete, context, step[1])
        if not self.promote and (kept := canary.kept(progress)) is not None:
            self._begin(context).key = None
            return self.facts(context, kept, canary.revision, progress["answer"])
        service, reason = self.kind.rollout.give_traffic(canary.revision, as_of(context))
        if reason or service.is_settled:
            return super().bring_in(context, canary.revision, progress["answer"])
        promotion = canary.promotion(poll_interval=interval, timeout=self.ready_timeout)
        return self._wait_for(promotion, self.promotion_complete, context, progress)

    def _wait_for(
        self,
        trigger: CanaryStepTrigger | PromotionTrigger,
        then: Callable[..., dict[str, Any]],
        context: Context,
        progress: dict[str, Any],
    ) -> dict[str, Any]:
        """Go on when the trigger fires, in the triggerer or here."""
        if self.deferrable:
            self.defer(trigger=trigger, method_name=then.__name__, kwargs={"progress": progress})
        watch = trigger.watch(self.backend, self.log)
        return then(context, watch_here(watch, trigger.poll_interval), progress)
