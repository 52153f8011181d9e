"""Operators that bring a new revision in step by step, and make it the only one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_provider_llmops.arguments import names_of
from airflow_provider_llmops.backends.serving.base import Revision, Service
from airflow_provider_llmops.decision import Decision, Outcome
from airflow_provider_llmops.delivery.analysis import CanaryLimits
from airflow_provider_llmops.delivery.as_of import as_of
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    LLMOpsError,
    QualityGateFailed,
    shown_value,
)
from airflow_provider_llmops.json_text import parse_json
from airflow_provider_llmops.operators.serving import DeployModelOperator
from airflow_provider_llmops.remote.ending import has_retry
from airflow_provider_llmops.remote.intent import Intent, concluding
from airflow_provider_llmops.remote.watch import watch_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

__all__ = ["CanaryOperator"]

_DEFAULT_LIMITS = CanaryLimits()
UNDECIDED = ("roll_back", "go_on")
MAX_STEPS = 20  # whose decisions XCom takes


class CanaryOperator(DeployModelOperator):
    """Serve a model, with a few of the requests first, and with more in each step that it keeps to its limits in.

    A new revision is started, waited for and asked as by :class:`~airflow_provider_llmops.operators.serving.DeployModelOperator`. Then it
    gets the first of ``steps`` percent of the requests, while the stable revision answers the rest. After ``step_duration`` what both
    have answered in that time is compared: the next step follows, or the stable revision has all of the requests again and the canary is
    stopped. Errors that are no accident end a step at once. Where nothing serves yet there is nothing to compare with, and the new revision
    gets everything.

    No data is no success: a step with fewer than ``min_requests`` waits up to ``undecided_timeout`` longer, and then ``on_undecided``
    decides. Answers are judged by errors and time; whether they are good is for an evaluation before.

    A retry, and a worker or triggerer that was killed, go on with the step that the service is at; its time begins anew in a retry. When
    the task is marked or cleared while it runs or waits, or fails without a retry left, the stable revision has all of the requests again.
    ``execution_timeout`` counts for the work between the steps, not for the steps, unless ``deferrable`` is off.

    XCom: as for ``DeployModelOperator``, and ``decisions``, one for each step of the attempt, with the figures; of a canary that was given
    up, too.

    Requires a backend that shares requests out: this machine. On a cluster it is refused before anything is applied.

    :param steps: percent of the requests, rising, each below 100; 100 follows by itself
    :param step_duration: how long a step takes
    :param min_requests: of the canary in each step, and of the stable revision where it is compared
    :param max_error_rate: share of the canary's requests that may fail, from 0 to 1; ``None`` not to look at it, as for the others
    :param max_error_rate_increase: how much higher that may be than the stable revision's
    :param max_latency_seconds: within which 95 percent of the canary's answers have to come
    :param max_latency_ratio: how many times the stable revision's that may be
    :param undecided_timeout: how much longer a step waits for enough requests
    :param on_undecided: ``roll_back``, or ``go_on`` to take the next step all the same
    """

    def __init__(
        self,
        *,
        steps: Sequence[int] = (5, 25, 50),
        step_duration: timedelta = timedelta(minutes=10),
        min_requests: int = _DEFAULT_LIMITS.min_requests,
        max_error_rate: float | None = _DEFAULT_LIMITS.max_error_rate,
        max_error_rate_increase: float | None = _DEFAULT_LIMITS.max_error_rate_increase,
        max_latency_seconds: float | None = _DEFAULT_LIMITS.max_latency_seconds,
        max_latency_ratio: float | None = _DEFAULT_LIMITS.max_latency_ratio,
        undecided_timeout: timedelta = timedelta(minutes=30),
        on_undecided: Literal["roll_back", "go_on"] = "roll_back",
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
        self.undecided_timeout = undecided_timeout
        self.on_undecided = on_undecided

    template_fields: Sequence[str] = (
        *DeployModelOperator.template_fields,
        *(name for name in names_of(__init__) if not name.endswith(("_duration", "_timeout"))),
    )

    def limits(self) -> CanaryLimits:
        """What the canary has to keep to.

        :raises ConfigurationError: a limit is none
        """
        return CanaryLimits(
            **{each.name: _value_of(getattr(self, each.name)) for each in fields(CanaryLimits)}
        )

    @property
    def shares(self) -> list[int]:
        """Percent of the requests in each step.

        :raises ConfigurationError: they are no rising percentages
        """
        given = _value_of(self.steps)
        is_list = isinstance(given, Sequence) and not isinstance(given, str) and len(given) > 0
        if not is_list or any(isinstance(share, bool) or not isinstance(share, int) for share in given):
            raise ConfigurationError(
                f"steps must be a list of percentages such as [5, 25, 50], got {shown_value(self.steps)}."
            )
        if len(given) > MAX_STEPS:
            raise ConfigurationError(f"At most {MAX_STEPS} steps are taken, got {len(given)}.")
        if not all(0 < share < 100 for share in given) or list(given) != sorted(set(given)):
            raise ConfigurationError(
                f"steps must rise from above 0 to below 100, got {shown_value(list(given))}; 100 follows by itself."
            )
        return list(given)

    def prepare(self, context: Context, intent: Intent) -> Callable[[], str]:
        """Look whether the service may be changed, and step by step; give what starts the revision."""
        self._check()
        return super().prepare(context, intent)

    def outcome(self, context: Context, seen: Revision) -> dict[str, Any]:
        """Ask the revision that is ready, then bring it in."""
        attempt = self._begin(context)
        attempt.key = seen.revision  # until it is in, whoever ends the task stops it
        answer = self.kind.rollout.ask(seen.revision, self.smoke_prompt)
        with self._or_back(context, seen.revision):
            return self._next(context, {"revision": seen.revision, "answer": answer, "decisions": []})

    def step_complete(
        self, context: Context, event: dict[str, Any], progress: dict[str, Any]
    ) -> dict[str, Any]:
        """Take the decision on a step: the next one, or back.

        :param event: of the trigger
        :param progress: what was done before
        """
        attempt = self._begin(context)
        revision = attempt.key = progress["revision"]
        self.kind.takes_charge = True
        with concluding(context), attempt.while_it_goes_on(revision), self._or_back(context, revision):
            decision = Decision.read(event["decision"])
            progress = {**progress, "decisions": [*progress["decisions"], decision.to_json()]}
            context["ti"].xcom_push(key="decisions", value=progress["decisions"])
            self.log.info("%s: %s\n%s", decision.outcome, decision.findings[0], dict(decision.evidence))
            if event["error"]:
                self._leave_to_a_newer_model(context, revision)
                raise self._given_up(context, revision, event["error"])
            is_enough = decision.outcome is Outcome.PASS or (
                decision.outcome is Outcome.UNDECIDED and self.on_undecided == "go_on"
            )
            if not is_enough:
                raise self._given_up(context, revision, f"was given up: {decision.findings[0]}")
            return self._next(context, {**progress, "done": progress["share"]})

    def _next(self, context: Context, progress: dict[str, Any]) -> dict[str, Any]:
        """Take the step that follows, and wait for its end."""
        from airflow_provider_llmops.triggers.canary import counts_of  # whoever reads DAGs runs nothing

        revision, rollout = progress["revision"], self.kind.rollout
        service = self.backend.get(self.namespace, self.service_name)
        self._leave_to_a_newer_model(context, revision, service)
        share = self._share_that_follows(service, revision, progress.get("done", 0))
        if share is None:
            return self.bring_in(context, revision, progress["answer"])
        stable = service.stable or ""
        counts_of(service, revision, stable)  # or nothing is shared out
        self.kind.takes_charge = True
        service = rollout.split(revision, share, stable)
        return self._watch(context, service, {**progress, "share": share}, stable)

    def _leave_to_a_newer_model(
        self, context: Context, revision: str, service: Service | None = None
    ) -> None:
        """Give the canary up where a model of a newer date serves by now; the task is skipped then."""
        rollout = self.kind.rollout
        reason = rollout.reason_to_leave(service or rollout.find_service(), as_of(context), is_backfill=False)
        if reason:
            rollout.discard(revision)
            raise AirflowSkipException(reason)

    def _watch(
        self, context: Context, service: Service, progress: dict[str, Any], stable: str
    ) -> dict[str, Any]:
        from airflow_provider_llmops.triggers.canary import CanaryStepTrigger, counts_of

        revision, backend = progress["revision"], self.backend
        trigger = CanaryStepTrigger(
            kserve_conn_id=self.kserve_conn_id,
            namespace=self.namespace,
            name=self.service_name,
            revision=revision,
            stable=stable,
            share=progress["share"],
            since=counts_of(service, revision, stable),
            limits=self.limits().to_json(),
            until=time.time() + self.step_duration.total_seconds(),
            patience=self.undecided_timeout.total_seconds(),
            poll_interval=float(backend.poll_interval if self.poll_interval is None else self.poll_interval),
            cancel_on_kill=self.cancel_on_kill,
        )
        if intent := Intent.load(context):  # the time to become ready is over; a retry has it anew
            replace(intent, at=time.time()).store(context)
        self.log.info(
            "Revision %s of service %s has %s%% of the requests for %s",
            revision,
            self.service_name,
            progress["share"],
            self.step_duration,
        )
        if self.deferrable:
            self.defer(trigger=trigger, method_name="step_complete", kwargs={"progress": progress})
        event = watch_here(trigger.watch(backend, self.log), trigger.poll_interval)
        return self.step_complete(context, event, progress)

    def _share_that_follows(self, service: Service, revision: str, done: int) -> int | None:
        """Percent of the requests that the revision is to have next; ``None`` when it is to have all of them.

        An attempt that follows another goes on with the share that the service gives the revision.
        """
        now = service.revisions[revision].traffic if revision in service.revisions else 0
        stable = service.revisions.get(service.stable or "")
        others = [name for name, each in service.revisions.items() if each.traffic and name != revision]
        if not others or stable is None or stable.revision == revision:
            self.log.info("Nothing else serves, with which revision %s could be compared", revision)
            return None
        if others != [stable.revision]:
            raise ConfigurationError(
                f"Service {self.service_name!r} has another canary: {', '.join(others)} share its requests. Wait until one of them has "
                "all of them."
            )
        if not stable.state.is_ready:
            raise ApiUnavailableError(
                f"Revision {stable.revision}, which serves, is {stable.state}: there is nothing to compare a canary with. Deploy with "
                "DeployModelOperator to replace it."
            )
        if not done and now:
            return next((share for share in self.shares if share >= now), now)
        return next((share for share in self.shares if share > done), None)

    @contextmanager
    def _or_back(self, context: Context, revision: str) -> Iterator[None]:
        """Give the canary up where no attempt follows one that fails: nobody would watch it."""
        try:
            yield
        except QualityGateFailed:
            raise
        except Exception as error:
            is_over = isinstance(error, AirflowFailException) or not has_retry(context)
            if is_over and not isinstance(error, AirflowSkipException):
                try:
                    self.kind.rollout.discard(revision)
                except LLMOpsError as reason:  # it must not hide the failure
                    self.log.error("Revision %s keeps its share of the requests: %s", revision, reason)
            raise

    def _given_up(self, context: Context, revision: str, why: str) -> Exception:
        """What ends the task for good when the canary is given up."""
        service = self.kind.rollout.find_service()
        if service is not None and service.stable == revision:  # somebody has given it everything
            return QualityGateFailed(f"The new revision {why}. It serves.", f"Revision: {revision}")
        error = self.kind.rollout.give_up(revision, why)
        Intent.drop(context)
        return QualityGateFailed(str(error))

    def _check(self) -> None:
        for name in ("step_duration", "undecided_timeout"):
            value = getattr(self, name)
            if not isinstance(value, timedelta) or value < timedelta(0):
                raise ConfigurationError(f"{name} must be a timedelta from 0 on, got {shown_value(value)}.")
        if self.shares and self.on_undecided not in UNDECIDED:
            raise ConfigurationError(
                f"on_undecided must be {' or '.join(UNDECIDED)}, got {shown_value(self.on_undecided)}."
            )
        self.limits()
        if not self.backend.splits_traffic:
            raise ConfigurationError(
                f"Requests are not shared out on connection {self.kserve_conn_id!r}: canaries are built for services on this machine, not "
                "yet for a cluster. Deploy with DeployModelOperator there."
            )


def _value_of(given: Any) -> Any:
    """A value whose template was rendered to a text, as ``"[5, 25]"`` for ``[5, 25]``; others as they are."""
    if not isinstance(given, str):
        return given
    try:
        return None if given in ("", "None") else parse_json(given)
    except ValueError:
        return given  # which is refused by name
