"""Whether a canary may have more of the requests: what it answered, held against limits and against the stable revision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from airflow_provider_llmops.backends.serving.base import Answers
from airflow_provider_llmops.decision import Decision, Outcome
from airflow_provider_llmops.exceptions import ConfigurationError, shown_value

__all__ = ["CanaryLimits", "judge"]

LATENCY_SHARE = 0.95


@dataclass(frozen=True)
class CanaryLimits:
    """What a canary has to keep to. A limit that is ``None`` is not looked at; there has to be one.

    :param min_requests: of the canary in each step: with fewer nothing is decided
    :param max_error_rate: share of its requests that may fail, from 0 to 1
    :param max_error_rate_increase: how much higher that may be than the stable revision's in the same time
    :param max_latency_seconds: within which 95 percent of its answers have to come
    :param max_latency_ratio: how many times the stable revision's that may be, in the same time
    """

    min_requests: int = 50
    max_error_rate: float | None = 0.01
    max_error_rate_increase: float | None = None
    max_latency_seconds: float | None = None
    max_latency_ratio: float | None = 1.5

    def __post_init__(self) -> None:
        count = self.min_requests
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigurationError(f"min_requests must be a number from 1 on, got {shown_value(count)}.")
        names = [each.name for each in fields(self) if each.name != "min_requests"]
        for name in names:
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"{name} must be a number from 0 on, got {shown_value(value)}.")
            if value is not None and name.startswith("max_error_rate") and value >= 1:
                raise ConfigurationError(f"{name} is a share below 1, got {shown_value(value)}.")
            if value == 0 and name.startswith("max_latency"):
                raise ConfigurationError(f"{name} must be above 0: no answer takes no time.")
        if all(getattr(self, name) is None for name in names):
            raise ConfigurationError(
                f"A canary needs a limit to be judged by. Give one of {', '.join(names)}, or deploy with DeployModelOperator."
            )

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> CanaryLimits:
        """Limits by name.

        :param value: of :meth:`to_json`
        """
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """Limits by name."""
        return asdict(self)


def judge(limits: CanaryLimits, canary: Answers, stable: Answers) -> Decision:
    """Decide on what both have answered in the same time.

    Errors that are too many however the rest of the requests ends decide at once; everything else, and that it passes, takes
    ``min_requests``. A comparison needs as many of the stable revision's.

    :param limits: what the canary has to keep to
    :param canary: what it has answered
    :param stable: what the stable revision has answered
    """
    evidence = {"canary": _figures(canary), "stable": _figures(stable)}
    rules = {name: value for name, value in limits.to_json().items() if value is not None}
    if breach := _breach(limits, canary, stable):
        return Decision(Outcome.FAIL, (breach,), rules, evidence)
    needed = limits.min_requests
    lacking = f"The canary has answered {canary.requests} of the {needed} requests that a decision takes."
    compares = limits.max_error_rate_increase is not None or limits.max_latency_ratio is not None
    if canary.requests < needed:
        return Decision(Outcome.UNDECIDED, (lacking,), rules, evidence)
    if compares and stable.requests < needed:
        lacking = f"The stable revision, with which it is compared, has answered {stable.requests} of {needed} requests."
        return Decision(Outcome.UNDECIDED, (lacking,), rules, evidence)
    return Decision(
        Outcome.PASS, (f"The canary kept to every limit with {canary.requests} requests.",), rules, evidence
    )


def _breach(limits: CanaryLimits, canary: Answers, stable: Answers) -> str | None:
    needed = limits.min_requests
    if limits.max_error_rate is not None and canary.errors > limits.max_error_rate * max(
        canary.requests, needed
    ):
        return (
            f"{canary.errors} of the canary's {canary.requests} requests failed ({_percent(canary.error_rate)}), at most "
            f"{_percent(limits.max_error_rate)} may."
        )
    if canary.requests < needed:
        return None
    slowest = canary.percentile(LATENCY_SHARE)
    if limits.max_latency_seconds is not None and (slowest or 0.0) > limits.max_latency_seconds:
        return f"95 percent of the canary's answers took up to {slowest:.3g} s, at most {limits.max_latency_seconds:g} s are allowed."
    if stable.requests < needed:
        return None
    rate, usual = canary.error_rate or 0.0, stable.error_rate or 0.0
    if limits.max_error_rate_increase is not None and rate > usual + limits.max_error_rate_increase:
        return (
            f"{_percent(rate)} of the canary's requests failed, against {_percent(usual)} of the stable revision's; at most "
            f"{_percent(limits.max_error_rate_increase)} more may."
        )
    usually = stable.percentile(LATENCY_SHARE)
    if (
        limits.max_latency_ratio is not None
        and slowest
        and usually
        and slowest > usually * limits.max_latency_ratio
    ):
        return (
            f"95 percent of the canary's answers took up to {slowest:.3g} s, {slowest / usually:.2g} times the stable revision's "
            f"{usually:.3g} s; at most {limits.max_latency_ratio:g} times is allowed."
        )
    return None


def _figures(answers: Answers) -> dict[str, float | int | None]:
    return {
        "requests": answers.requests,
        "errors": answers.errors,
        "p50_seconds": answers.percentile(0.5),
        "p95_seconds": answers.percentile(LATENCY_SHARE),
    }


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0.0):.3g}%"
