"""Further models beside the one that is evaluated and its baseline: the report shows them, and they decide nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from llmops_components.comparison import MetricComparison
from llmops_components.data.files import read_rows
from llmops_components.errors import DataError, SettingError, named
from llmops_components.evaluation.statistics import PairedComparison, Scores, compare, record
from llmops_components.results import digest_of

MAX_FURTHER = 4
LONGEST_NAME = 60  # characters
LACKING = "the scores of that model do not have this row"
_TAKEN = ("model", "baseline", "reference")  # what the page calls others

FurtherScores = Mapping[str, str | os.PathLike[str]]


def named_scores(places: Sequence[str | None], names: Sequence[str] | None) -> dict[str, str]:
    """Scores files by the names of their models.

    Args:
        places: The files; None where there is none.
        names: A name for each that there is, in their order.

    Raises:
        SettingError: There are more or fewer names than files, or two models have the same name.
    """
    given, names = [place for place in places if place is not None], list(names or ())
    if len(names) != len(given):
        raise SettingError(
            f"further_names has {len(names)} names for the scores of {len(given)} further models. Give one for each."
        )
    _check_names(names)
    return dict(zip(names, given, strict=True))


def check_further(further_scores: FurtherScores | None) -> None:
    """Raise :class:`SettingError` for names that a page cannot tell apart, or for more models than it has columns for.

    Args:
        further_scores: Scores files by the names of their models.
    """
    if not isinstance(further_scores, Mapping | None):
        raise SettingError(
            f"further_scores is {further_scores!r:.60}. Give scores by the name of their model."
        )
    _check_names(list(further_scores or ()))


def _check_names(names: Sequence[Any]) -> None:
    if len(names) > MAX_FURTHER:
        raise SettingError(
            f"further_scores has {len(names)} models, and a report has room for {MAX_FURTHER}. Leave some out."
        )
    seen: set[str] = set()
    for name in names:
        if (
            not isinstance(name, str)
            or not name.strip()
            or len(name) > LONGEST_NAME
            or not name.isprintable()
        ):
            raise SettingError(
                f"further_scores: {name!r:.80} is no name of a model. Give a text of one line, of {LONGEST_NAME} characters at most."
            )
        key = name.strip().casefold()
        if key in _TAKEN:
            raise SettingError(
                f"further_scores: {name!r} is what the report calls another one. Give the model another name."
            )
        if key in seen:
            raise SettingError(
                f"further_scores: two models are called {name!r}, which nobody could tell apart. Give them different names."
            )
        seen.add(key)


@dataclass(frozen=True)
class GivenModel:
    """A further model as its scores file tells of it.

    Args:
        name: Its name.
        digest: Digest of the file.
        lines: Its line of each row of the dataset; None for a row that it does not have.
    """

    name: str
    digest: str
    lines: Sequence[dict[str, Any] | None]

    @classmethod
    def read(cls, name: str, path: str | os.PathLike[str], count: int, again: str) -> GivenModel:
        """A model's lines in the order of the rows.

        Args:
            name: Its name.
            path: Its scores file.
            count: How many rows there are.
            again: What to do about a file that cannot be used.

        Raises:
            DataError: It is no such file, or has another row than there are, or one twice.
        """
        lines: list[dict[str, Any] | None] = [None] * count
        for line in read_rows(path):
            number = line.get("row")
            if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= count:
                raise DataError(
                    f"further_scores of {name!r} have a row {number!r:.30}, and there are rows 1 to {count}. {again} File: {os.fspath(path)}."
                )
            if lines[number - 1] is not None:
                raise DataError(
                    f"further_scores of {name!r} have row {number} twice. {again} File: {os.fspath(path)}."
                )
            lines[number - 1] = line
        return cls(name, digest_of(path)[0], lines)

    @cached_property
    def lacking(self) -> list[int]:
        """Numbers of the rows that it does not have."""
        return [number for number, line in enumerate(self.lines, start=1) if line is None]

    @cached_property
    def answers(self) -> list[dict[str, Any]]:
        """Its ``answer`` to each row, and where it has none the ``reason``."""
        return [line or {"answer": None, "reason": LACKING} for line in self.lines]

    def findings(self) -> list[str]:
        """A sentence on rows that it does not have."""
        if not self.lacking:
            return []
        return [
            f"The scores of the further model {self.name!r} have {len(self.lines) - len(self.lacking)} of {len(self.lines)} rows; "
            f"the others have no score there: row {named(self.lacking)}."
        ]

    def told(self) -> dict[str, Any]:
        """What the step's result says of it."""
        return {"digest": self.digest, "rows": len(self.lines) - len(self.lacking)}


def read_models(
    further_scores: FurtherScores | None,
    rows: Sequence[Mapping[str, Any]],
    again: str,
    check: Callable[[str, dict[str, Any], Mapping[str, Any]], None],
) -> list[GivenModel]:
    """The scores of further models on the same rows, of which some may be missing.

    Args:
        further_scores: The files, by the names of their models.
        rows: The rows.
        again: What to do about a file that cannot be used.
        check: Is called with what a line is called, the line, and its row; raises where they do not belong together.

    Raises:
        SettingError: The names cannot be told apart, or are too many.
        DataError: As for :meth:`GivenModel.read`.
    """
    check_further(further_scores)
    found = [GivenModel.read(name, path, len(rows), again) for name, path in (further_scores or {}).items()]
    for each in found:
        for number, (theirs, row) in enumerate(zip(each.lines, rows, strict=True), start=1):
            if theirs is not None:
                check(f"further_scores of {each.name!r}, row {number}", theirs, row)
    return found


@dataclass(frozen=True)
class FurtherModel:
    """A further model beside the one that is evaluated.

    Args:
        given: What is known of it.
        scores: Its scores by metric.
        compared: How the evaluated model differs from it, by metric, on the rows that both have a score for.
        parts: Of a metric that not all rows have, those that do.
    """

    given: GivenModel
    scores: Mapping[str, Scores]
    compared: Mapping[str, PairedComparison]
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        given: GivenModel,
        scores: Mapping[str, Scores],
        ours: Mapping[str, Scores],
        parts: Mapping[str, np.ndarray] | None = None,
    ) -> FurtherModel:
        """Compare the evaluated model with a further one.

        Args:
            given: The further one.
            scores: Its scores.
            ours: Scores of the evaluated model.
            parts: Of a metric that not all rows have, those that do.
        """
        compared = {name: compare(ours[name], each) for name, each in scores.items()}
        return cls(given, scores, compared, parts or {})

    @property
    def name(self) -> str:
        """Its name."""
        return self.given.name

    @cached_property
    def reached(self) -> dict[str, MetricComparison]:
        """What it reaches by each metric, by itself."""
        parts = {name: self.parts.get(name) for name in self.scores}
        return {
            name: record(each if (part := parts[name]) is None else each[part])
            for name, each in self.scores.items()
        }

    def as_json(self) -> dict[str, Any]:
        """Its figures, for the report as JSON."""
        metrics = {}
        for name, each in self.reached.items():
            compared, own = self.compared[name], each.candidate
            metrics[name] = {
                "value": own and own.value,
                "low": own and own.low,
                "high": own and own.high,
                "rows_scored": each.rows_scored,
                "rows_unscored": each.rows_unscored,
                "worst_case": each.worst_case,
                "difference": compared.difference
                and compared.difference.record().model_dump(include={"value", "low", "high"}),
                "pairs_scored": compared.scored,
            }
        return {**self.given.told(), "metrics": metrics}
