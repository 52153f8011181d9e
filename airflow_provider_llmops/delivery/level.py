"""Whether a service keeps to its level: what it answered in a window, held against limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from airflow_provider_llmops.backends.serving.base import Answers
from airflow_provider_llmops.decision import Decision, Outcome
from airflow_provider_llmops.delivery.analysis import LATENCY_SHARE, figures_of
from airflow_provider_llmops.exceptions import ConfigurationError, shown_value

__all__ = ["ServiceLevel"]


@dataclass(frozen=True)
class ServiceLevel:
    """What a service has to keep to. A limit that is ``None`` is not looked at; there has to be one.

    :param max_error_rate: share of the requests in a window that may fail, from 0 to below 1
    :param max_latency_seconds: within which 95 percent of the answers in a window have to come
    :param min_requests: in a window: with fewer nothing is decided
    """

    max_error_rate: float | None = None
    max_latency_seconds: float | None = None
    min_requests: int = 50

    def __post_init__(self) -> None:
        if self.min_requests < 1:
            raise ConfigurationError(
                f"min_requests must be from 1 on, got {shown_value(self.min_requests)}: no data is no level."
            )
        if self.max_error_rate is None and self.max_latency_seconds is None:
            raise ConfigurationError(
                "A service level has a limit: give max_error_rate, max_latency_seconds or both."
            )
        if self.max_error_rate is not None and not 0 <= self.max_error_rate < 1:
            raise ConfigurationError(
                f"max_error_rate is a share from 0 to below 1, got {shown_value(self.max_error_rate)}."
            )
        if self.max_latency_seconds is not None and not 0 < self.max_latency_seconds < math.inf:
            raise ConfigurationError(
                f"max_latency_seconds must be above 0, got {shown_value(self.max_latency_seconds)}."
            )

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> ServiceLevel:
        """Read one.

        :param value: of :meth:`to_json`
        """
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """Limits by name."""
        return asdict(self)

    def judge(self, answers: Answers) -> Decision:
        """Hold what was answered in a window against the limits.

        :param answers: what was answered
        """
        rules = {name: value for name, value in self.to_json().items() if value is not None}
        evidence = figures_of(answers)
        if answers.requests < self.min_requests:
            finding = (
                f"{answers.requests} requests in the window, of {self.min_requests} that a decision takes."
            )
            return Decision(Outcome.UNDECIDED, (finding,), rules, evidence)
        if breaches := self._breaches(answers):
            return Decision(Outcome.FAIL, breaches, rules, evidence)
        return Decision(
            Outcome.PASS, (f"Every limit was kept with {answers.requests} requests.",), rules, evidence
        )

    def _breaches(self, answers: Answers) -> tuple[str, ...]:
        found = []
        rate, slowest = answers.error_rate or 0.0, answers.percentile(LATENCY_SHARE)
        if self.max_error_rate is not None and rate > self.max_error_rate:
            found.append(
                f"{answers.errors} of {answers.requests} requests failed ({100 * rate:.3g}%), at most "
                f"{100 * self.max_error_rate:.3g}% may."
            )
        if self.max_latency_seconds is None:
            return tuple(found)
        if slowest is None:
            found.append(f"Not one of {answers.requests} requests was answered without an error.")
        elif slowest > self.max_latency_seconds:
            found.append(
                f"95 percent of the answers took up to {slowest:.3g} s, at most {self.max_latency_seconds:g} s are allowed."
            )
        return tuple(found)
