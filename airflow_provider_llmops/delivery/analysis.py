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
_ACCIDENT = 0.001


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


def judge(limits: CanaryLimits, canary: Answers, stable: Answers, *, is_over: bool = True) -> Decision:
    """Decide on what both have answered in the same time.

    Before the step is over nothing but errors decides, and those only where so many would be an accident in one of a thousand
    canaries that keep to ``max_error_rate``: a limit that is looked at again and again is broken by chance. A comparison needs as many
    requests of the stable revision as of the canary.

    :param limits: what the canary has to keep to
    :param canary: what it has answered
    :param stable: what the stable revision has answered
    :param is_over: whether the step has lasted as long as it was to
    """
    evidence = {"canary": figures_of(canary), "stable": figures_of(stable)}
    rules = {name: value for name, value in limits.to_json().items() if value is not None}
    needed = limits.min_requests
    compares = limits.max_error_rate_increase is not None or limits.max_latency_ratio is not None
    if _fails_for_certain(limits, canary):
        outcome, finding = Outcome.FAIL, _too_many_errors(limits, canary)
    elif canary.requests < needed:
        outcome = Outcome.UNDECIDED
        finding = f"The canary has answered {canary.requests} of the {needed} requests that a decision takes."
    elif compares and stable.requests < needed:
        outcome = Outcome.UNDECIDED
        finding = f"The stable revision, with which it is compared, has answered {stable.requests} of {needed} requests."
    elif not is_over:
        outcome, finding = Outcome.UNDECIDED, "The step is not over."
    elif breach := _breach(limits, canary, stable):
        outcome, finding = Outcome.FAIL, breach
    else:
        outcome, finding = Outcome.PASS, f"The canary kept to every limit with {canary.requests} requests."
    return Decision(outcome, (finding,), rules, evidence)


def _fails_for_certain(limits: CanaryLimits, canary: Answers) -> bool:
    """Whether so many errors, or more, are an accident in less than one of a thousand canaries whose rate is the limit."""
    rate, errors, requests = limits.max_error_rate, canary.errors, canary.requests
    if rate is None or errors <= rate * requests:
        return False
    if rate == 0:
        return True
    # P(X >= errors), X binomial: the first term by logarithms, each further one from the one before.
    term = math.exp(
        math.lgamma(requests + 1)
        - math.lgamma(errors + 1)
        - math.lgamma(requests - errors + 1)
        + errors * math.log(rate)
        + (requests - errors) * math.log1p(-rate)
    )
    chance = 0.0
    for count in range(errors, requests + 1):
        chance += term
        if chance >= _ACCIDENT:
            return False
        if term < _ACCIDENT * 1e-6:
            break
        term *= (requests - count) / (count + 1) * rate / (1 - rate)
    return True


def _breach(limits: CanaryLimits, canary: Answers, stable: Answers) -> str | None:
    rate, usual = canary.error_rate or 0.0, stable.error_rate or 0.0
    if limits.max_error_rate is not None and rate > limits.max_error_rate:
        return _too_many_errors(limits, canary)
    if limits.max_error_rate_increase is not None and rate > usual + limits.max_error_rate_increase:
        return (
            f"{_percent(rate)} of the canary's requests failed, against {_percent(usual)} of the stable revision's; at most "
            f"{_percent(limits.max_error_rate_increase)} more may."
        )
    slowest, usually = canary.percentile(LATENCY_SHARE), stable.percentile(LATENCY_SHARE)
    if slowest is None:
        return f"Not one of the canary's {canary.requests} requests was answered without an error."
    took = f"95 percent of the canary's answers took up to {slowest:.3g} s"
    if limits.max_latency_seconds is not None and slowest > limits.max_latency_seconds:
        return f"{took}, at most {limits.max_latency_seconds:g} s are allowed."
    if limits.max_latency_ratio is not None and usually and slowest > usually * limits.max_latency_ratio:
        return (
            f"{took}, {slowest / usually:.2g} times the stable revision's {usually:.3g} s; at most {limits.max_latency_ratio:g} "
            "times is allowed."
        )
    return None


def _too_many_errors(limits: CanaryLimits, canary: Answers) -> str:
    return (
        f"{canary.errors} of the canary's {canary.requests} requests failed ({_percent(canary.error_rate)}), at most "
        f"{_percent(limits.max_error_rate)} may."
    )


def figures_of(answers: Answers) -> dict[str, float | int | None]:
    """What was answered in a few numbers, as evidence of a decision.

    :param answers: what was answered
    """
    return {
        "requests": answers.requests,
        "errors": answers.errors,
        "p50_seconds": _finite(answers.percentile(0.5)),
        "p95_seconds": _finite(answers.percentile(LATENCY_SHARE)),
    }


def _finite(seconds: float | None) -> float | None:
    """What JSON can hold: a server may count no further than to its longest bucket."""
    return None if seconds is None or math.isinf(seconds) else seconds


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0.0):.3g}%"
