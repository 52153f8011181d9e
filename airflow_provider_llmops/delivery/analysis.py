"""Whether a canary may have more of the requests: what it answered, held against limits and against the stable revision."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from airflow_provider_llmops.backends.serving.base import Answers
from airflow_provider_llmops.decision import Decision, Outcome
from airflow_provider_llmops.exceptions import ConfigurationError, shown_value

__all__ = ["CanaryLimits", "judge"]

LATENCY_SHARE = 0.95
_ACCIDENT = 0.001
_CHANCE = 0.01


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


@dataclass(frozen=True)
class _Breach:
    """A limit that is exceeded.

    :param finding: by what
    :param chance: that so many requests, or more, are beyond the limit in a canary that just keeps to it
    """

    finding: str
    chance: float


def judge(
    limits: CanaryLimits, canary: Answers, stable: Answers, *, is_over: bool = True, is_last: bool = False
) -> Decision:
    """Decide on what both have answered in the same time.

    A limit is broken where so many requests beyond it are an accident in less than one of a hundred canaries that keep to it; one that
    is exceeded by less waits for more requests, and when nothing more is waited for it is broken, too. Before the step is over nothing
    but errors decides, and those only with one accident in a thousand, for they are looked at again and again. A comparison needs as
    many requests of the stable revision as of the canary.

    :param limits: what the canary has to keep to
    :param canary: what it has answered
    :param stable: what the stable revision has answered
    :param is_over: whether the step has lasted as long as it was to
    :param is_last: whether nothing more is waited for
    """
    evidence = {"canary": figures_of(canary), "stable": figures_of(stable)}
    rules = {name: value for name, value in limits.to_json().items() if value is not None}
    needed = limits.min_requests
    compares = limits.max_error_rate_increase is not None or limits.max_latency_ratio is not None
    errors = _too_many_errors(limits, canary)
    if errors and errors.chance < _ACCIDENT:
        outcome, finding = Outcome.FAIL, errors.finding
    elif canary.requests < needed:
        outcome = Outcome.UNDECIDED
        finding = f"The canary has answered {canary.requests} of the {needed} requests that a decision takes."
    elif compares and stable.requests < needed:
        outcome = Outcome.UNDECIDED
        finding = f"The stable revision, with which it is compared, has answered {stable.requests} of {needed} requests."
    elif not is_over:
        outcome, finding = Outcome.UNDECIDED, "The step is not over."
    elif breaches := _breaches(limits, canary, stable):
        worst = min(breaches, key=lambda breach: breach.chance)
        outcome, finding = Outcome.FAIL, worst.finding
        if worst.chance >= _CHANCE and not is_last:
            outcome = Outcome.UNDECIDED
            finding += f" That may be chance with {canary.requests} requests, so more are waited for."
    else:
        outcome, finding = Outcome.PASS, f"The canary kept to every limit with {canary.requests} requests."
    return Decision(outcome, (finding,), rules, evidence)


def _chance(beyond: int, requests: int, share: float) -> float:
    """That so many of the requests, or more, are beyond a limit where a share of all may be: the tail of a binomial distribution.

    :param beyond: more than the share of the requests
    """
    if share == 0:
        return 0.0
    # P(X >= beyond): the first term by logarithms, each further one from the one before, and smaller.
    term = math.exp(
        math.lgamma(requests + 1)
        - math.lgamma(beyond + 1)
        - math.lgamma(requests - beyond + 1)
        + beyond * math.log(share)
        + (requests - beyond) * math.log1p(-share)
    )
    chance = 0.0
    for count in range(beyond, requests + 1):
        chance += term
        if term < _ACCIDENT * 1e-6:
            break
        term *= (requests - count) / (count + 1) * share / (1 - share)
    return chance


def _breaches(limits: CanaryLimits, canary: Answers, stable: Answers) -> list[_Breach]:
    if canary.percentile(LATENCY_SHARE) is None:
        return [
            _Breach(f"Not one of the canary's {canary.requests} requests was answered without an error.", 0.0)
        ]
    found = [
        _too_many_errors(limits, canary),
        _too_many_more_errors(limits, canary, stable),
        *_too_slow(limits, canary, stable),
    ]
    return [each for each in found if each]


def _too_many_errors(limits: CanaryLimits, canary: Answers) -> _Breach | None:
    allowed, rate = limits.max_error_rate, canary.error_rate
    if allowed is None or rate is None or rate <= allowed:
        return None
    return _Breach(
        f"{canary.errors} of the canary's {canary.requests} requests failed ({_percent(rate)}), at most {_percent(allowed)} may.",
        _chance(canary.errors, canary.requests, allowed),
    )


def _too_many_more_errors(limits: CanaryLimits, canary: Answers, stable: Answers) -> _Breach | None:
    increase, rate, usual = limits.max_error_rate_increase, canary.error_rate or 0.0, stable.error_rate or 0.0
    if increase is None or rate <= usual + increase:
        return None
    return _Breach(
        f"{_percent(rate)} of the canary's requests failed, against {_percent(usual)} of the stable revision's; at most "
        f"{_percent(increase)} more may.",
        _chance(canary.errors, canary.requests, usual + increase),
    )


def _too_slow(limits: CanaryLimits, canary: Answers, stable: Answers) -> Iterator[_Breach]:
    slowest, usually = canary.percentile(LATENCY_SHARE) or 0.0, stable.percentile(LATENCY_SHARE)
    took = f"95 percent of the canary's answers took up to {slowest:.3g} s"
    longest, ratio = limits.max_latency_seconds, limits.max_latency_ratio
    if longest is not None and slowest > longest:
        yield _Breach(f"{took}, at most {longest:g} s are allowed.", _chance_of_slower(canary, longest))
    if ratio is not None and usually and slowest > usually * ratio:
        yield _Breach(
            f"{took}, {slowest / usually:.2g} times the stable revision's {usually:.3g} s; at most {ratio:g} times is allowed.",
            _chance_of_slower(canary, usually * ratio),
        )


def _chance_of_slower(canary: Answers, allowed: float) -> float:
    slower = sum(count for bound, count in canary.seconds.items() if bound > allowed)
    return _chance(slower, sum(canary.seconds.values()), 1 - LATENCY_SHARE)


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
