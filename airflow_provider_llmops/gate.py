"""Rules that a model is held to, and what becomes of them by a comparison: the worker decides, and computes no statistics.

All rules have to hold, each with the confidence that is asked for. A model that breaks one of them is passed with no more than the rest
of the probability, however many rules there are, so that this side needs no correction (Berger, "Multiparameter hypothesis testing and
acceptance sampling", 1982). Of many rules one is broken by chance: that one is broken for sure is said at the level that Holm's method
leaves it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_llmops.comparison import Bounded, Comparison, MetricComparison
from airflow_provider_llmops.decision import Decision, Outcome
from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value
from airflow_provider_llmops.xcom import cut_to_fit

ABSOLUTE = ("at_least", "at_most")
RELATIVE = ("not_worse_by", "better_by")
EACH_VALUE = "*"
MAX_RULES = 50
MAX_FINDINGS_IN_XCOM = 20
_BYTES_FOR_EVIDENCE = 6 * 1024
_BYTES_FOR_RULES = 4 * 1024
_FIELDS = ("metric", *ABSOLUTE, *RELATIVE, "slice", "min_rows")
_EXAMPLE = "such as {'metric': 'rougeL', 'not_worse_by': 0.02}"
_SAME_LEVEL = 1e-9


@dataclass(frozen=True)
class Rule:
    """One limit of one metric.

    :param metric: the metric, or a composite
    :param kind: one of ``ABSOLUTE`` and ``RELATIVE``
    :param limit: the limit, in the metric's own unit
    :param column: column of the slice that it is about; ``None`` for all rows
    :param value: value of that column; ``*`` for each
    :param min_rows: fewest rows that decide it
    """

    metric: str
    kind: str
    limit: float
    column: str | None = None
    value: str | None = None
    min_rows: int = 1

    @property
    def name(self) -> str:
        """What it is about, in a sentence."""
        return self.metric if self.column is None else f"{self.metric} of {self.column} {self.value}"

    def to_json(self) -> dict[str, Any]:
        """As its author writes it."""
        found: dict[str, Any] = {"metric": self.metric, self.kind: self.limit}
        if self.column is not None:
            found["slice"] = {self.column: self.value}
        return found if self.min_rows == 1 else {**found, "min_rows": self.min_rows}


def read_rules(given: Any) -> list[Rule]:
    """Rules as a DAG's author writes them; numbers may be text, as templates make them.

    :param given: a list of dicts
    :raises ConfigurationError: one is not a rule
    """
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise ConfigurationError(f"rules must be a list of dicts, {_EXAMPLE}, got {shown_value(given)}.")
    return [_read(f"rules[{number}]", each) for number, each in enumerate(given)]


def _read(what: str, given: Any) -> Rule:
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{what} must be a dict, {_EXAMPLE}, got {shown_value(given)}.")
    if unknown := describe_unknown(map(str, given), _FIELDS):
        raise ConfigurationError(f"{what}: unknown {unknown}. Known: {', '.join(_FIELDS)}.")
    metric = given.get("metric")
    if not isinstance(metric, str) or not metric:
        raise ConfigurationError(f"{what}: metric must be a name, got {shown_value(metric)}.")
    kinds = [kind for kind in (*ABSOLUTE, *RELATIVE) if kind in given]
    if len(kinds) != 1:
        raise ConfigurationError(
            f"{what} has {' and '.join(kinds) or 'no limit'}. Give one of {', '.join((*ABSOLUTE, *RELATIVE))}; two limits are two rules."
        )
    limit = _number(f"{what}: {kinds[0]}", given[kinds[0]])
    if kinds[0] == "not_worse_by" and limit < 0:
        raise ConfigurationError(f"{what}: not_worse_by is {limit:g}. Give 0 or more, or better_by.")
    column = value = None
    if (part := given.get("slice")) is not None:
        if not isinstance(part, Mapping) or len(part) != 1:
            raise ConfigurationError(
                f"{what}: slice must be one column with its value, such as {{'language': 'de'}}, or '*' for each value, got {shown_value(part)}."
            )
        ((column, value),) = ((str(name), str(each)) for name, each in part.items())
    min_rows = _number(f"{what}: min_rows", given.get("min_rows", 1))
    if min_rows < 1 or min_rows != int(min_rows):
        raise ConfigurationError(f"{what}: min_rows must be a whole number from 1 on, got {min_rows:g}.")
    return Rule(metric, kinds[0], limit, column, value, int(min_rows))


def read_confidence(given: Any) -> float:
    """How sure it has to be that a rule holds; a number, or text of one.

    :param given: what the DAG's author gives
    :raises ConfigurationError: it is no such number
    """
    confidence = _number("confidence", given)
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence must be between 0 and 1, such as 0.95, got {confidence:g}.")
    return confidence


def _number(what: str, given: Any) -> float:
    try:
        number = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigurationError(f"{what} must be a finite number, got {shown_value(given)}.")
    return number


@dataclass(frozen=True)
class Held:
    """A rule held against what was found.

    :param rule: the rule
    :param found: both models by its metric, on its rows; ``None`` where there is no such row
    """

    rule: Rule
    found: MetricComparison | None

    @property
    def is_relative(self) -> bool:
        """Whether the rule is about the difference to the baseline."""
        return self.rule.kind in RELATIVE

    @property
    def bounded(self) -> Bounded | None:
        """The number that the rule is about."""
        if self.found is None:
            return None
        return self.found.difference if self.is_relative else self.found.candidate

    @property
    def rows(self) -> int:
        """Rows that the number is of."""
        if self.found is None:
            return 0
        return self.found.pairs_scored if self.is_relative else self.found.rows_scored

    @property
    def unscored(self) -> int:
        """Rows without a score, of the candidate or, where both are compared, of one of them."""
        return 0 if self.found is None else self.found.rows_scored + self.found.rows_unscored - self.rows

    @property
    def sign(self) -> int:
        """1 where a higher number is the better one."""
        return 1 if self.found is None or self.found.higher_is_better else -1

    @property
    def limit(self) -> float:
        """The limit for the number times ``sign``."""
        if self.is_relative:
            return -self.rule.limit if self.rule.kind == "not_worse_by" else self.rule.limit
        return self.sign * self.rule.limit

    def worse_end(self, level: int) -> float:
        """How bad the number may be, times ``sign``.

        :param level: place of the level
        """
        assert self.bounded is not None
        return self.bounded.lower[level] if self.sign > 0 else -self.bounded.upper[level]

    def better_end(self, level: int) -> float:
        """How good it may be, times ``sign``.

        :param level: place of the level
        """
        assert self.bounded is not None
        return self.bounded.upper[level] if self.sign > 0 else -self.bounded.lower[level]

    def why_open(self) -> str | None:
        """Why nothing can be said for the rule, whatever the bounds are."""
        name, rows = self.rule.name, self.rows + self.unscored
        if self.found is None:
            return f"{name}: no row is of that slice by itself, so that nothing is known of it"
        if self.bounded is None:
            return f"{name} has no score for any of {rows} rows, so that nothing is known of it"
        if self.unscored and (self.is_relative or not self.bounded.lower):
            return f"{name} has no score for {self.unscored} of {rows} rows, any of which may be the one that the model answers worst"
        if self.rows < self.rule.min_rows:
            return f"{name} has a score for {self.rows} rows, and {self.rule.min_rows} are asked for"
        if not self.bounded.lower:
            return f"{name} is the same in nearly all of {rows} rows, from which no bound can be told"
        return None

    @property
    def value(self) -> float:
        """The number itself; rows without a score count as failed where that is a number."""
        assert self.bounded is not None and self.found is not None
        if self.is_relative or self.found.worst_case is None:
            return self.bounded.value
        return self.found.worst_case

    def told(self) -> str:
        """The numbers in a sentence."""
        assert self.found is not None and self.bounded is not None
        sign, asked, first = "", self.rule.limit, f"{self.rule.name} {self.value:.4g}"
        interval = f"interval {self.bounded.low:.4g} to {self.bounded.high:.4g}"
        if self.is_relative:
            assert self.found.candidate is not None and self.found.baseline is not None
            sign, asked = "+", self.sign * self.limit
            first = (
                f"{self.rule.name} {self.found.candidate.value:.4g} against {self.found.baseline.value:.4g}"
            )
        elif self.found.worst_case is not None:
            interval = (
                f"{self.unscored} rows without a score count as failed, {self.bounded.value:.4g} without them"
            )
        # As many digits as tell the two apart, should it be close.
        digits = next((n for n in range(4, 17) if f"{self.value:.{n}g}" != f"{asked:.{n}g}"), 4)
        return (
            f"{first}, at {'least' if self.sign > 0 else 'most'} {asked:{sign}.{digits}g} asked for and {self.value:{sign}.{digits}g} reached "
            f"({interval}, {self.rows} rows)"
        )

    def more_rows(self, level: int) -> str:
        """About how many more rows would decide, were the number to stay as it is: bounds come nearer with the root of the rows.

        :param level: place of the level
        """
        value = self.sign * self.value
        gap = abs(value - self.limit)
        width = abs(value - (self.worse_end(level) if value >= self.limit else self.better_end(level)))
        if gap * 100 < width:
            return "and it is so near to the limit that no number of samples may be enough"
        needed = max(1, math.ceil(self.rows * ((width / gap) ** 2 - 1)))
        digits = 10 ** max(0, len(str(needed)) - 2)
        return f"about {math.ceil(needed / digits) * digits} more samples would decide"


def decide(rules: Sequence[Rule], comparison: Comparison, confidence: float) -> Decision:
    """Hold a model to rules.

    :param rules: the rules, all of which have to hold
    :param comparison: what an evaluation has found
    :param confidence: how sure it has to be that a rule holds
    :raises ConfigurationError: a rule is about something that was not compared, or there are no bounds for that confidence
    """
    level = _place_of(confidence, comparison)
    held, without_baseline = [], []
    for rule in rules:
        if rule.kind in RELATIVE and not comparison.has_baseline:
            without_baseline.append(rule)
            _found(rule, comparison)
        else:
            held += _held(rule, comparison)
    if len(held) > MAX_RULES:
        raise ConfigurationError(
            f"The rules are {len(held)} with one for each value of a slice, and {MAX_RULES} at most. Give fewer."
        )
    broken = _broken(held, comparison.levels, 1 - confidence)
    results = []
    for each in held:
        if each in broken:
            results.append((each, Outcome.FAIL, f"{each.told()}: the model is not good enough"))
        elif why := each.why_open():
            results.append((each, Outcome.UNDECIDED, why))
        elif each.worse_end(level) >= each.limit:
            results.append((each, Outcome.PASS, each.told()))
        else:
            results.append(
                (each, Outcome.UNDECIDED, f"{each.told()}: not enough evidence, {each.more_rows(level)}")
            )
    return _decision(rules, results, without_baseline, confidence)


def _decision(
    rules: Sequence[Rule],
    results: Sequence[tuple[Held, Outcome, str]],
    without_baseline: Sequence[Rule],
    confidence: float,
) -> Decision:
    order = (Outcome.FAIL, Outcome.UNDECIDED, Outcome.PASS)
    by_outcome = sorted(results, key=lambda result: order.index(result[1]))
    outcome = by_outcome[0][1] if by_outcome else Outcome.UNDECIDED
    findings = [f"{sentence}." for _, found, sentence in by_outcome if found is not Outcome.PASS]
    if without_baseline:
        names = ", ".join(rule.name for rule in without_baseline)
        rest = (
            "absolute limits decide"
            if results
            else "no absolute limit decides: add a rule with at_least or at_most"
        )
        findings.append(f"There is no champion to compare {names} with; {rest}.")
    findings += [f"{sentence}." for _, found, sentence in by_outcome if found is Outcome.PASS]
    if len(findings) > MAX_FINDINGS_IN_XCOM:
        findings[MAX_FINDINGS_IN_XCOM:] = [f"... and {len(findings) - MAX_FINDINGS_IN_XCOM} more."]
    given: Any = [rule.to_json() for rule in rules]
    kept = cut_to_fit(given, _BYTES_FOR_RULES)
    told = {"confidence": confidence, "rules": kept}
    if left_out := len(given) - len(kept):
        told["left_out"] = left_out
    figures: Any = [_figures(each, found) for each, found, _ in by_outcome]
    fitting = cut_to_fit(figures, _BYTES_FOR_EVIDENCE) if figures else []
    evidence = {"rules": fitting}
    if left_out := len(figures) - len(fitting):
        evidence["left_out"] = left_out
    return Decision(outcome, tuple(findings), told, evidence)


def _figures(held: Held, outcome: Outcome) -> dict[str, Any]:
    found, bounded = held.found, held.bounded
    figures: dict[str, Any] = {"name": held.rule.name, "outcome": str(outcome), "rows": held.rows}
    if held.unscored:
        figures["unscored"] = held.unscored
    if bounded is not None:
        figures |= {"value": bounded.value, "interval": [bounded.low, bounded.high]}
    if found is not None and found.worst_case is not None and not held.is_relative:
        figures["worst_case"] = found.worst_case
    if held.is_relative and found is not None and found.candidate and found.baseline:
        figures |= {"candidate": found.candidate.value, "baseline": found.baseline.value}
    return figures


def _place_of(confidence: float, comparison: Comparison) -> int:
    for place, level in enumerate(comparison.levels):
        if abs(level - (1 - confidence)) < _SAME_LEVEL:
            return place
    known = ", ".join(f"{1 - level:g}" for level in comparison.levels)
    raise ConfigurationError(
        f"confidence is {confidence:g}, and the comparison has bounds for {known}. Give one of these."
    )


def _found(rule: Rule, comparison: Comparison) -> Mapping[str, Mapping[str, MetricComparison]]:
    """What was compared by value of the rule's slice, once it is known that it was."""
    if rule.column is None:
        values: Mapping[str, Mapping[str, MetricComparison]] = {"": comparison.metrics}
    elif unknown := describe_unknown([rule.column], comparison.slices):
        raise ConfigurationError(
            f"The evaluation has no slices by {unknown}. It has: {', '.join(comparison.slices) or 'none'}; give it the column as slices."
        )
    else:
        values = comparison.slices[rule.column]
    known = sorted({name for metrics in values.values() for name in metrics})
    if unknown := describe_unknown([rule.metric], known):
        where = "" if rule.column is None else f" by {rule.column}"
        raise ConfigurationError(
            f"The evaluation compared no metric {unknown}{where}. It compared: {', '.join(known) or 'nothing'}; choose one of these, or have "
            "it computed."
        )
    return values


def _held(rule: Rule, comparison: Comparison) -> list[Held]:
    values = _found(rule, comparison)
    sign = next(
        metrics[rule.metric].higher_is_better for metrics in values.values() if rule.metric in metrics
    )
    if rule.kind in ABSOLUTE and (rule.kind == "at_least") != sign:
        better, other = ("higher", "at_least") if sign else ("lower", "at_most")
        raise ConfigurationError(
            f"{rule.metric} is better the {better} it is, so that {rule.kind} is no limit of it. Give {other}."
        )
    if rule.column is None:
        return [Held(rule, comparison.metrics[rule.metric])]
    if rule.value != EACH_VALUE:
        return [Held(rule, values.get(str(rule.value), {}).get(rule.metric))]
    return [
        Held(
            Rule(rule.metric, rule.kind, rule.limit, rule.column, value, rule.min_rows),
            metrics[rule.metric],
        )
        for value, metrics in values.items()
        if rule.metric in metrics  # a benchmark task has metrics of its own
    ]


def _broken(held: Sequence[Held], levels: Sequence[float], level: float) -> list[Held]:
    """The rules that are broken for sure, by Holm's method."""
    least: list[tuple[float, Held]] = []
    for each in held:
        beyond = [
            chance
            for place, chance in enumerate(levels)
            if each.bounded is not None
            and each.bounded.lower
            and each.rows >= each.rule.min_rows
            and each.better_end(place) < each.limit
        ]
        least.append((min(beyond, default=1.0), each))
    least.sort(key=lambda pair: pair[0])
    broken = []
    for number, (chance, each) in enumerate(least):
        if chance > level / (len(least) - number) + _SAME_LEVEL:
            break
        broken.append(each)
    return broken
