"""How a canary is brought in: which shares of the requests it gets, for how long, and what it has to keep to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow_provider_llmops.backends.serving.base import Service
from airflow_provider_llmops.decision import Decision, Outcome
from airflow_provider_llmops.delivery.analysis import CanaryLimits
from airflow_provider_llmops.delivery.probes import CanaryProbes
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, shown_value
from airflow_provider_llmops.specs.declared import Kinds, converted

__all__ = ["CanaryPlan"]

UNDECIDED = ("roll_back", "go_on")
MAX_STEPS = 20  # whose decisions XCom takes
MAX_STEPS_WITH_PROBES = 10


@dataclass(frozen=True)
class CanaryPlan:
    """The steps of a canary.

    :param shares: percent of the requests in each step, rising; none to give everything at once
    :param seconds: how long a step takes
    :param patience: seconds that a step waits longer for enough requests
    :param limits: what the canary has to keep to
    :param goes_on_undecided: whether the next step is taken when there are not enough
    :param probes: questions that it is asked in each step, and how good its answers have to be
    """

    shares: tuple[int, ...]
    seconds: float
    patience: float
    limits: CanaryLimits
    goes_on_undecided: bool = False
    probes: CanaryProbes | None = None

    @classmethod
    def of(
        cls,
        *,
        steps: Any,
        step_duration: Any,
        undecided_timeout: Any,
        on_undecided: Any,
        limits: Mapping[str, Any],
        probes: Any = None,
    ) -> CanaryPlan:
        """A plan from what a DAG's author gives; of values that a template has made texts of, those are read.

        :raises ConfigurationError: that is no plan
        """
        if on_undecided not in UNDECIDED:
            raise ConfigurationError(
                f"on_undecided must be {' or '.join(UNDECIDED)}, got {shown_value(on_undecided)}."
            )
        asked = CanaryProbes.of(probes)
        shares = _shares(steps, MAX_STEPS if asked is None else MAX_STEPS_WITH_PROBES)
        if asked and not shares:
            raise ConfigurationError(
                "probes are asked in a step, and steps is empty. Leave probes out, or give steps."
            )
        return cls(
            shares,
            _seconds(step_duration, "step_duration"),
            _seconds(undecided_timeout, "undecided_timeout"),
            CanaryLimits(
                **{name: _read(value, ["int", "float", "null"], name) for name, value in limits.items()}
            ),
            on_undecided == "go_on",
            asked,
        )

    def goes_on_after(self, decision: Decision) -> bool:
        """Whether the next step is taken.

        :param decision: on the step before
        """
        is_undecided = decision.outcome is Outcome.UNDECIDED
        return decision.outcome is Outcome.PASS or (is_undecided and self.goes_on_undecided)

    def share_after(self, service: Service, revision: str, done: int) -> int | None:
        """Percent of the requests that a revision is to have next; ``None`` when it is to have all of them.

        An attempt that follows another goes on with the share that the service gives the revision.

        :param service: the service as it is
        :param revision: the revision
        :param done: the share that it has been judged with in this attempt; 0 before the first step
        :raises ConfigurationError: the service has another canary
        :raises ApiUnavailableError: the revision that serves does not run
        """
        now = service.revisions[revision].traffic if revision in service.revisions else 0
        stable = service.revisions.get(service.stable or "")
        others = [name for name, each in service.revisions.items() if each.traffic and name != revision]
        if not others or stable is None or stable.revision == revision:
            return None
        if others != [stable.revision]:
            raise ConfigurationError(
                f"Service {service.name!r} has another canary: {', '.join(others)} share its requests. Wait until one of them has all "
                "of them; a canary whose task has ended waits for PromoteOperator or RollbackOperator."
            )
        if not stable.state.is_ready:
            raise ApiUnavailableError(
                f"Revision {stable.revision}, which serves, is {stable.state}: there is nothing to compare a canary with. Deploy with "
                "DeployModelOperator to replace it."
            )
        if not done and now:
            return next((share for share in self.shares if share >= now), now)
        return next((share for share in self.shares if share > done), None)


def _seconds(given: Any, name: str) -> float:
    """A duration in seconds; a template, which cannot give a timedelta, gives their number."""
    value = given.total_seconds() if isinstance(given, timedelta) else _read(given, ["int", "float"], name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise ConfigurationError(
            f"{name} must be a timedelta from 0 on, or a number of seconds, got {shown_value(given)}."
        )
    return float(value)


def _shares(steps: Any, most: int) -> tuple[int, ...]:
    given = _read(steps, [{"list": ["int"]}], "steps")
    is_list = isinstance(given, Sequence) and not isinstance(given, str)
    if not is_list or any(isinstance(share, bool) or not isinstance(share, int) for share in given):
        raise ConfigurationError(
            f"steps must be a list of percentages such as [5, 25, 50], got {shown_value(steps)}."
        )
    if len(given) > most:
        raise ConfigurationError(f"At most {most} steps are taken, got {len(given)}.")
    if not all(0 < share < 100 for share in given) or list(given) != sorted(set(given)):
        raise ConfigurationError(
            f"steps must rise from above 0 to below 100, got {shown_value(list(given))}; 100 follows by itself."
        )
    return tuple(given)


def _read(given: Any, kinds: Kinds, name: str) -> Any:
    """A value whose template was rendered to a text; others, and what is not declared, as they are."""
    return converted(given, kinds, name, {}, strict=False) if isinstance(given, str) else given
