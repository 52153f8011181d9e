"""What the page of an evaluation says besides scores: who answered, and who judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class _Scoring:
    """How answers were scored.

    Args:
        skipped: Metrics that were left out, and why.
        tokenizers: What counts as a word in each metric that compares words.
        judge: What the judge was asked with, and what that took.
        prompts: The judge's questions, by metric.
    """

    skipped: Mapping[str, str] = field(default_factory=dict)
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    judge: Mapping[str, Any] | None = None
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts(_Scoring):
    """What the page says besides scores.

    Args:
        architecture: Name of the model's class.
        parameters: Number of its parameters.
        tokens: Tokens generated.
        tokens_per_second: Tokens generated per second.
        cut_off: Answers that ended at ``max_new_tokens``.
    """

    architecture: str
    parameters: int
    tokens: int
    tokens_per_second: float
    cut_off: int = 0

    def told_of(self, samples: int) -> str:
        """The line below the title.

        Args:
            samples: How many samples there are.
        """
        parts = [
            size_of(self.architecture, self.parameters),
            f"{samples} samples",
            f"{self.tokens:,} tokens generated, {self.tokens_per_second:,.0f} a second",
        ]
        if self.cut_off:
            parts.append(f"{self.cut_off} answer{'s' if self.cut_off > 1 else ''} cut off at the token limit")
        return " · ".join(parts)


@dataclass(frozen=True)
class ServiceFacts(_Scoring):
    """What the page says besides scores of a service.

    Args:
        model_name: Name of the model.
        url: Address of the service.
        unanswered: Rows that it has not answered.
        seconds: Within which 95 percent of the answers came; None without any.
    """

    model_name: str
    url: str
    unanswered: int
    seconds: float | None

    def told_of(self, samples: int) -> str:
        """The line below the title.

        Args:
            samples: How many samples there are.
        """
        parts = [f"{self.model_name} at {self.url}", f"{samples} samples"]
        if self.unanswered:
            parts.append(f"{self.unanswered} not answered")
        if self.seconds is not None:
            parts.append(f"95 % of the answers within {self.seconds:.3g} s")
        return " · ".join(parts)


@dataclass(frozen=True)
class RevisionFacts(_Scoring):
    """What the page says besides scores of two revisions of a service.

    Args:
        unanswered: Rows that the revision has not answered.
        baseline_unanswered: Rows that the baseline has not answered.
        seconds: Within which 95 percent of the revision's answers came; None without any.
        baseline_seconds: The same of the baseline's.
        against: ``reference``, or ``baseline`` where answers are scored against the baseline's.
    """

    unanswered: int
    baseline_unanswered: int
    seconds: float | None
    baseline_seconds: float | None
    against: str

    def told_of(self, samples: int) -> str:
        """The line below the title.

        Args:
            samples: How many samples there are.
        """
        parts = [f"Two revisions of a service · {samples} samples"]
        for whose, missing, seconds in (
            ("model", self.unanswered, self.seconds),
            ("baseline", self.baseline_unanswered, self.baseline_seconds),
        ):
            took = "" if seconds is None else f", 95 % of the others within {seconds:.3g} s"
            parts.append(f"{whose}: {missing} not answered{took}")
        if self.against == "baseline":
            parts.append("scored against the baseline's answers")
        return " · ".join(parts)


@dataclass(frozen=True, kw_only=True)
class BenchmarkFacts(_Scoring):
    """What the page says besides scores of benchmark tasks.

    Args:
        architecture: Name of the model's class.
        parameters: Number of its parameters.
        tasks: How many tasks were asked.
    """

    architecture: str
    parameters: int
    tasks: int

    def told_of(self, samples: int) -> str:
        """The line below the title.

        Args:
            samples: How many samples there are.
        """
        return f"{size_of(self.architecture, self.parameters)} · {self.tasks} benchmark task{'s' if self.tasks > 1 else ''} · {samples} samples"


def size_of(architecture: str, parameters: int) -> str:
    """A model by its class and size.

    Args:
        architecture: Name of the class.
        parameters: Number of its parameters.
    """
    millions = parameters / 1e6
    return f"{architecture}, {millions:,.{0 if millions >= 10 else 1}f} M parameters"
