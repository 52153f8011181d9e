"""Whether a canary's answers are good enough: what a comparison on a probe set has found, held against limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.decision import Decision, Outcome
from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value
from airflow_provider_llmops.specs.declared import Kinds, converted
from airflow_provider_llmops.xcom import cut_to_fit

if TYPE_CHECKING:
    from airflow_provider_llmops.comparison import MetricComparison
    from airflow_provider_llmops.results import StageResult

__all__ = ["COMPARISON", "CanaryProbes", "judge_answers", "together"]

COMPARISON = "compare_revisions"
MAX_WORST_BYTES = 2000  # of answers side by side, in a decision
_WORSE = (Outcome.FAIL, Outcome.UNDECIDED, Outcome.PASS)
_KINDS: dict[str, Kinds] = {
    "min_difference": ["int", "float"],
    "max_unscored": ["int", "float"],
    "arguments": [{"dict": ["any"]}],
    "step_settings": [{"dict": ["any"]}],
}
# With checkpoints a later step would find the answers of an earlier one, and ask nothing.
_OWN = ("checkpoints", "dataset", "url", "model_name", "revision", "baseline_url", "baseline_revision")


@dataclass(frozen=True)
class CanaryProbes:
    """Questions that a canary and the stable revision are asked in each step, and what comes of it that is good enough.

    :param dataset: URI of rows with a ``prompt`` or ``messages``, and a ``reference`` to score answers against
    :param min_difference: smallest difference to the stable revision that passes, in the metric's own unit: -0.02 lets the canary be
        worse by so much
    :param metric: metric to decide by; higher is better
    :param max_unscored: share of the rows, from 0 to 1, that may be without a score
    :param arguments: further ones of ``CompareRevisionsOperator``, such as ``request``
    :param kubeflow_conn_id: connection of type ``kubeflow``, which says where the comparison runs
    :param step_settings: Kubernetes settings of its step, as for every operator that runs one
    """

    dataset: str
    min_difference: float
    metric: str = "rougeL"
    max_unscored: float = 0.0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    kubeflow_conn_id: str = "kubeflow_default"
    step_settings: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("dataset", "metric", "kubeflow_conn_id"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ConfigurationError(f"probes: {name} must be a text, got {shown_value(value)}.")
        for name in ("min_difference", "max_unscored"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value):
                raise ConfigurationError(f"probes: {name} must be a number, got {shown_value(value)}.")
        if not 0 <= self.max_unscored < 1:
            raise ConfigurationError(
                f"probes: max_unscored is a share from 0 to below 1, got {shown_value(self.max_unscored)}."
            )
        if not isinstance(self.arguments, Mapping):
            raise ConfigurationError(
                f"probes: arguments must be those of CompareRevisionsOperator by name, got {shown_value(self.arguments)}."
            )
        if self.step_settings is not None and not isinstance(self.step_settings, Mapping):
            raise ConfigurationError(
                f"probes: step_settings must be a dict with the fields of StepSettings, got {shown_value(self.step_settings)}."
            )
        if taken := sorted(set(_OWN) & set(self.arguments)):
            raise ConfigurationError(
                f"probes: arguments has {taken[0]}, which the canary sees to itself. Leave it out."
            )

    @classmethod
    def of(cls, given: Any) -> CanaryProbes | None:
        """What a DAG's author gives, by name; ``None`` for no probes. Texts that a template has made of values are read.

        :param given: as ``probes`` of :class:`~airflow_provider_llmops.operators.canary.CanaryOperator`
        :raises ConfigurationError: that is no probe set
        """
        if given is None:
            return None
        known = [each.name for each in fields(cls)]
        if not isinstance(given, Mapping):
            raise ConfigurationError(
                f"probes must be a dict with {', '.join(known)}, got {shown_value(given)}."
            )
        if unknown := describe_unknown(given, known):
            raise ConfigurationError(f"probes: unknown {unknown}. Known: {', '.join(known)}.")
        if missing := [name for name in ("dataset", "min_difference") if given.get(name) is None]:
            raise ConfigurationError(
                f"probes lacks {missing[0]}. Give the questions as dataset, and how much worse answers may be as min_difference, such "
                "as -0.02."
            )
        read = {
            name: converted(value, _KINDS[name], f"probes: {name}", {}, strict=False)
            if name in _KINDS and isinstance(value, str)
            else value
            for name, value in given.items()
            if value is not None
        }
        return cls(**read)

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> CanaryProbes:
        """Read what :meth:`to_json` has written.

        :param value: the probes by name
        """
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """By name, as plain JSON."""
        return {**asdict(self), "arguments": dict(self.arguments)}


def judge_answers(probes: CanaryProbes, result: StageResult) -> Decision:
    """Decide on answers of a canary.

    A question that the canary leaves open counts against it; one that cannot be scored for another reason leaves the step undecided. More
    of either than ``max_unscored`` is never a success.

    :param probes: what the canary has to keep to
    :param result: of the comparison
    """
    found = result.comparison.metrics.get(probes.metric) if result.comparison else None
    rules = {
        "metric": probes.metric,
        "min_difference": probes.min_difference,
        "max_unscored": probes.max_unscored,
    }
    if found is None:
        finding = f"The answers were not compared by {probes.metric}."
        return Decision(Outcome.UNDECIDED, (finding,), rules)
    rows, unscored = found.rows_scored + found.rows_unscored, _unscored(found)
    missed = int(result.metrics.get("candidate_unanswered", 0))
    difference = found.difference
    figures = {
        "candidate": found.candidate and found.candidate.value,
        "baseline": found.baseline and found.baseline.value,
        "difference": difference and difference.value,
        "interval": difference and [difference.low, difference.high],
        "rows": rows,
        "rows_unscored": unscored,
        "candidate_unanswered": missed,
        "report": result.outputs().get("report"),
    }
    outcome = Outcome.FAIL
    if missed > probes.max_unscored * rows:
        finding = f"The canary left {missed} of {rows} questions unanswered; at most {probes.max_unscored:.3g} of them may be."
    elif difference is None or unscored > probes.max_unscored * rows:
        outcome = Outcome.UNDECIDED
        finding = f"{unscored} of {rows} questions have no {probes.metric}; at most {probes.max_unscored:.3g} of them may."
    elif difference.value < probes.min_difference:
        finding = f"The canary's answers are worse: {_compared(probes, figures)}."
    else:
        outcome, finding = (
            Outcome.PASS,
            f"The canary's answers are good enough: {_compared(probes, figures)}.",
        )
    if outcome is not Outcome.PASS:
        figures["worst"] = _side_by_side(result)
    return Decision(outcome, (finding, *result.findings[:2]), rules, {"answers": figures})


def _unscored(found: MetricComparison) -> int:
    """Questions that one of both has no score for."""
    return found.rows_scored + found.rows_unscored - found.pairs_scored


def together(requests: Decision, answers: Decision) -> Decision:
    """One decision of two: the worse counts, and is told first.

    :param requests: on how requests were answered
    :param answers: on what was answered
    """
    first, second = sorted((requests, answers), key=lambda each: _WORSE.index(each.outcome))
    return Decision(
        first.outcome,
        (*first.findings, *second.findings),
        {**requests.rules, **answers.rules},
        {**requests.evidence, **answers.evidence},
    )


def _compared(probes: CanaryProbes, figures: Mapping[str, Any]) -> str:
    return (
        f"{probes.metric} {figures['candidate']:.4g} against {figures['baseline']:.4g} of the stable revision on {figures['rows']} "
        f"questions, {figures['difference']:+.4g}; at least {probes.min_difference:+.4g} is asked for"
    )


def _side_by_side(result: StageResult) -> list[Any]:
    """The worst answers, as many as there is room for."""
    worst = result.details.get("worst")
    if not isinstance(worst, list) or not worst:
        return []
    fitting: list[Any] = cut_to_fit(worst, MAX_WORST_BYTES)
    return fitting
