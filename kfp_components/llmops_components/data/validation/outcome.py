"""What came of a validation: the verdicts, the rows that they set aside, and what there is to say of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llmops_components.data.validation.reading import Lines
from llmops_components.data.validation.rows import LINE, PROBLEM, ROW, ROW_ID, SEPARATOR
from llmops_components.data.validation.suite import written
from llmops_components.data.validation.tables import Subject, Table, objects_of
from llmops_components.errors import SettingError

if TYPE_CHECKING:
    import polars as pl
    from great_expectations.expectations.expectation import Expectation

    from llmops_components.data.formats import DatasetFormat
    from llmops_components.data.validation.judging import Judge, Verdict

_MAX_ROWS_NAMED = 20
_NAMED = 5
_SHOWN_CHARACTERS = 80
_PLACE, _WHY = "place", "why"


@dataclass(frozen=True)
class Limits:
    """What a dataset has to keep to.

    Args:
        min_rows: How many rows have to be accepted.
        max_rejected_fraction: Share of the rows that may be rejected.
        max_prompt_characters: Longest prompt; None for no limit.
        max_answer_characters: Longest answer; None for no limit.
    """

    min_rows: int = 1
    max_rejected_fraction: float = 0.0
    max_prompt_characters: int | None = None
    max_answer_characters: int | None = None

    def check(self) -> None:
        """Refuse wrong values."""
        if isinstance(self.min_rows, bool) or not isinstance(self.min_rows, int) or self.min_rows < 1:
            raise SettingError(f"min_rows is {self.min_rows!r}; give a whole number of at least 1.")
        if not 0 <= self.max_rejected_fraction <= 1:
            raise SettingError(
                f"max_rejected_fraction is {self.max_rejected_fraction!r}; give a number from 0 to 1."
            )
        for name in ("max_prompt_characters", "max_answer_characters"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise SettingError(
                    f"{name} is {limit!r}; give a whole number of at least 1, or None for no limit."
                )


class Outcome:
    """What Great Expectations says of a dataset.

    Args:
        lines: The dataset.
        limits: What it has to keep to.
        found_format: Its format; None where no line is a row.
    """

    def __init__(self, lines: Lines, limits: Limits, found_format: DatasetFormat | None) -> None:
        self.verdicts: list[Verdict] = []
        self._frame, self._limits, self._format = lines.frame, limits, found_format
        self._table = lines.table
        self._ours: list[pl.DataFrame] = []
        self._theirs: list[pl.DataFrame] = []
        self._told: list[str] = []
        self._duplicates = 0

    def judge(
        self, judge: Judge, subject: Subject, theirs: Sequence[Expectation], columns: Sequence[str]
    ) -> None:
        """Have the lines, the rows by the suite of their format, and the rows by the caller's suite judged.

        Args:
            judge: Great Expectations.
            subject: What the rows are for.
            theirs: The caller's expectations.
            columns: Columns that those ask for and that some row has.
        """
        import polars as pl

        from llmops_components.data.validation import expectations as ours

        whole = Table(self._frame)
        lines = ours.ExpectLinesToBeRows(mostly=self._mostly, description="Each line is one JSON object.")
        self._take(
            judge.judge("lines", whole, [lines]), pl.int_range(self._frame.height, eager=True), self._ours
        )
        if self._format is None:
            return
        numbered = self._frame.with_row_index(_PLACE).filter(pl.col(PROBLEM).is_null())
        places, frame = numbered[_PLACE].cast(pl.Int64), numbered.drop(_PLACE)
        found = judge.judge("format", Table(frame, subject=subject), self._suite(subject))
        self._take(found, places, self._ours)
        self._duplicates = sum(
            int(each.unexpected.sum())
            for each in found
            if isinstance(each.expectation, ours.ExpectRowsToBeUnique) and each.unexpected is not None
        )
        if theirs:
            held = self._table.frame.select(columns)
            table = Table(frame.hstack(held), self._table.encoded, subject)
            self._take_theirs(judge.judge("suite", table, theirs), table, places)

    @property
    def _mostly(self) -> float:
        return round(1 - self._limits.max_rejected_fraction, 12)  # 1 - 0.58 is a little more than 0.42

    def _suite(self, subject: Subject) -> list[Expectation]:
        """The expectations that fit a format, each tolerated as far as the gate is."""
        from llmops_components.data.validation import expectations as ours

        found, mostly = self._format, self._mostly
        assert found is not None

        def expect(kind: Any, **arguments: Any) -> Any:
            return kind(mostly=mostly, description=_first_line(kind), **arguments)

        suite = [expect(ours.ExpectRowsToFitFormat), expect(ours.ExpectFieldsToNotBeEmpty)]
        if found.conversational:
            suite.append(expect(ours.ExpectTurnsToAlternate))
        if found.name == "preference":
            suite.append(expect(ours.ExpectChosenToDifferFromRejected))
        suite.append(expect(ours.ExpectRowsToBeUnique))
        if subject.tokenizer is not None and found.conversational:
            suite.append(expect(ours.ExpectChatTemplateToTakeRows))
        if subject.evaluation is not None:
            suite.append(expect(ours.ExpectRowsToNotBeInEvaluation))
        for part in ("prompt", "answer"):
            if (limit := getattr(self._limits, f"max_{part}_characters")) is not None:
                suite.append(
                    ours.ExpectRowCharactersToBeBetween(
                        part=part,
                        max_value=limit,
                        mostly=mostly,
                        description=f"No {part} has more than {limit} characters.",
                    )
                )
        return suite

    def _take(self, verdicts: list[Verdict], places: pl.Series, into: list[pl.DataFrame]) -> None:
        import polars as pl

        self.verdicts += verdicts
        for each in verdicts:
            if each.reasons is not None:
                into.append(pl.DataFrame({_PLACE: places, _WHY: each.reasons}).drop_nulls(_WHY))

    def _take_theirs(self, verdicts: list[Verdict], table: Table, places: pl.Series) -> None:
        import polars as pl

        self.verdicts += verdicts
        for each in verdicts:
            severity = str(getattr(each.expectation.severity, "value", each.expectation.severity))
            critical = severity == "critical"
            told = written(each.expectation)
            if critical and each.unexpected is not None:
                reasons = each.reasons if each.reasons is not None else _values_told(each, table, told)
                self._theirs.append(pl.DataFrame({_PLACE: places, _WHY: reasons}).drop_nulls(_WHY))
            if not each.result.success:
                self._told.append(f"{severity}: {told} is not met: {_what_was_found(each, table)}")

    def gate(self, judge: Judge) -> list[Verdict]:
        """Whether enough rows are accepted and not too many rejected.

        Args:
            judge: Great Expectations.
        """
        import great_expectations.expectations as gxe
        import polars as pl

        places = pl.int_range(self._frame.height, eager=True)
        frame = pl.DataFrame(
            {
                "accepted": (~places.is_in(self._places(self._ours + self._theirs))).cast(pl.Int64),
                "rejected_row": places.is_in(self._places(self._ours)).cast(pl.Int64),
            }
        )
        fewest, most = self._limits.min_rows, self._limits.max_rejected_fraction
        return judge.judge(
            "gate",
            Table(frame),
            [
                gxe.ExpectColumnSumToBeBetween(
                    column="accepted", min_value=fewest, description=f"At least {fewest} rows are accepted."
                ),
                gxe.ExpectColumnMeanToBeBetween(
                    column="rejected_row",
                    max_value=most,
                    description=f"At most {most:.1%} of the rows are rejected.",
                ),
            ],
        )

    @staticmethod
    def _places(found: list[pl.DataFrame]) -> list[int]:
        import polars as pl

        return pl.concat([each.select(_PLACE) for each in found])[_PLACE].unique().to_list() if found else []

    def accepted(self) -> pl.DataFrame:
        """The lines that are not rejected."""
        import polars as pl

        rejected = self._places(self._ours + self._theirs)
        return self._frame.with_row_index(_PLACE).filter(~pl.col(_PLACE).is_in(rejected)).drop(_PLACE)

    def duplicates(self) -> int:
        """How many rows say what an earlier one says."""
        return self._duplicates

    @cached_property
    def _rejected(self) -> pl.DataFrame:
        import polars as pl

        found = (
            pl.concat(self._ours + self._theirs).group_by(_PLACE, maintain_order=True).agg(_WHY).sort(_PLACE)
        )
        return (
            self._frame.with_row_index(_PLACE)
            .with_columns(pl.col(_PLACE).cast(pl.Int64))
            .join(found, on=_PLACE, maintain_order="right")
        )

    def rejected_rows(self) -> Iterator[dict[str, Any]]:
        """What is kept of each rejected line."""
        for each in self._rejected.iter_rows(named=True):
            original = {"row": json.loads(each[ROW])} if each[PROBLEM] is None else {"raw": each[ROW]}
            yield {"line": each[LINE], "row_id": each[ROW_ID], "reasons": _split(each[_WHY]), **original}

    def findings(self) -> list[str]:
        """Why the gate is closed, what the caller's suite says, and the first rejected rows."""
        rows, limits = self._frame.height, self._limits
        ours, rejected = len(self._places(self._ours)), self._rejected
        findings = []
        if ours / rows > limits.max_rejected_fraction:
            findings.append(
                f"{ours} of {rows} rows rejected, at most {limits.max_rejected_fraction:.1%} may be"
            )
        if rows - rejected.height < limits.min_rows:
            findings.append(f"{rows - rejected.height} rows accepted, at least {limits.min_rows} are needed")
        findings += self._told
        for line, why in rejected.head(_MAX_ROWS_NAMED).select(LINE, _WHY).iter_rows():
            findings.append(f"line {line}: {'; '.join(_split(why))}")
        if rejected.height > _MAX_ROWS_NAMED:
            more = rejected.height - _MAX_ROWS_NAMED
            findings.append(f"{more} more rejected rows are in the artifact `rejected`")
        return findings


def _first_line(kind: Any) -> str:
    return str(kind.__doc__).partition("\n")[0]


def _split(reasons: Sequence[str]) -> list[str]:
    return [each for joined in reasons for each in joined.split(SEPARATOR)]


def _values_told(verdict: Verdict, table: Table, told: str) -> pl.Series:
    """A reason for each row whose value an expectation does not take."""
    import polars as pl

    column, mask = verdict.expectation.column, verdict.unexpected
    assert mask is not None
    values = objects_of(table.frame[column].filter(mask), column in table.encoded)
    whys = iter([f"{column} is {_short(value)}, against {told}" for value in values])
    return pl.Series([next(whys) if each else None for each in mask], dtype=pl.String)


def _short(value: Any) -> str:
    shown = "null" if value is None else repr(value)
    return f"{shown[:_SHOWN_CHARACTERS]}\u2026" if len(shown) > _SHOWN_CHARACTERS else shown


def _what_was_found(verdict: Verdict, table: Table) -> str:
    found = verdict.result.result
    if verdict.unexpected is None:
        return f"found {_short(found['observed_value'])}" if "observed_value" in found else "it is not so"
    lines = table.frame[LINE].filter(verdict.unexpected)
    more = f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    return (
        f"{found['unexpected_count']} of {found['element_count']} values are unexpected (lines "
        f"{', '.join(map(str, lines.head(_NAMED)))}{more})"
    )
