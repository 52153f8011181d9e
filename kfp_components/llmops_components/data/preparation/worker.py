"""What happens to a batch of rows between two barriers, in whatever process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from llmops_components.data.preparation.ledger import Ledger, StepCounts
from llmops_components.data.preparation.records import (
    Broken,
    body_of,
    json_of,
    output_line,
    record_of,
    row_of,
    without_id,
)
from llmops_components.data.preparation.row import Row
from llmops_components.data.preparation.step import (
    Changed,
    Dropped,
    Inputs,
    Outcome,
    RowStep,
    Several,
    WholeStep,
)
from llmops_components.data.texts import ROW_ID
from llmops_components.data.versions.digest import ContentDigest
from llmops_components.errors import ComponentError, SettingError


@dataclass(frozen=True)
class Segment:
    """The steps from one barrier to the next.

    Args:
        first: Position of the first of them, from 1.
        steps: Steps that judge rows.
        whole: The step at the barrier that ends the segment; None where the rows are written instead.
    """

    first: int
    steps: tuple[RowStep, ...]
    whole: WholeStep | None = None


@dataclass
class Result:
    """What has become of a batch.

    Args:
        records: Where a barrier follows: the rows that go on.
        keys: Their keys.
        written: Else the lines of each output.
        rows: How many lines of them are source rows, and how many were added.
        contents: Digests of what was written to each output.
        ledger: Lines of the ledger.
        counts: What each step did.
    """

    records: list[bytes] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    written: dict[str, list[bytes]] = field(default_factory=dict)
    rows: list[int] = field(default_factory=lambda: [0, 0])
    contents: dict[str, ContentDigest] = field(default_factory=dict)
    ledger: list[bytes] = field(default_factory=list)
    counts: list[StepCounts] = field(default_factory=list)


class Worker:
    """Carries out segments. What their steps need is loaded when a segment has its first batch.

    Args:
        names: Names of all steps.
        segments: The segments.
        inputs: What came with the call.
    """

    def __init__(self, names: Sequence[str], segments: Sequence[Segment], inputs: Inputs) -> None:
        self._names, self._segments, self._inputs = list(names), segments, inputs
        self._judges: dict[int, list[Callable[[Row], Outcome]]] = {}
        self._keys: dict[int, Callable[[Row], bytes]] = {}

    def carry_out(self, number: int, batch: Sequence[bytes]) -> Result:
        """Carry out a segment for a batch.

        Args:
            number: Of the segment, from 0.
            batch: Records.

        Returns:
            What has become of them, which depends on the rows alone.
        """
        segment = self._segments[number]
        if number not in self._judges:
            self._judges[number] = [step.start(self._inputs) for step in segment.steps]
            if segment.whole is not None:
                self._keys[number] = segment.whole.start(self._inputs)
        ledger, result = Ledger(self._names), Result()
        for record in batch:
            row = row_of(record)
            if isinstance(row, Broken):
                ledger.broken(row)
                continue
            if number == 0:
                row, body = without_id(row), None
            else:
                body = body_of(record)
            self._follow(number, 0, row, body, ledger, result)
        result.ledger, result.counts = ledger.lines, ledger.counts
        return result

    def _follow(
        self, number: int, start: int, row: Row, body: bytes | None, ledger: Ledger, result: Result
    ) -> None:
        """Take a row through the steps of a segment from one of them on, and those that are added, each after the other."""
        segment = self._segments[number]
        for index, judge in enumerate(self._judges[number][start:], start=start):
            position = segment.first + index
            ledger.seen(position, row, segment.steps[index].named_fields)
            outcome, bodies = self._judged(position, judge, row)
            match outcome:
                case Dropped():
                    ledger.dropped(position, row, outcome)
                    return
                case Changed():
                    ledger.changed(position, row, outcome)
                    row, body = replace(row, value=outcome.value), bodies[0]
                case Several():
                    for each, (value, its_body) in enumerate(
                        zip(outcome.values[1:], bodies[1:], strict=True), start=2
                    ):
                        new = ledger.added(position, row, each, outcome.reason)
                        self._follow(number, index + 1, replace(new, value=value), its_body, ledger, result)
                    row, body = replace(row, value=outcome.values[0]), bodies[0]
        self._finish(number, row, body, ledger, result)

    def _judged(
        self, position: int, judge: Callable[[Row], Outcome], row: Row
    ) -> tuple[Outcome, list[bytes]]:
        """What a step says of a row, and the new rows as JSON."""
        bodies = []
        with self._naming(position, row):
            outcome = judge(row)
            if isinstance(outcome, Changed | Several):  # refused here, where the step is known
                for value in [outcome.value] if isinstance(outcome, Changed) else outcome.values:
                    bodies.append(json_of(value))
                    self._refuse_id(position, value, row)
            if isinstance(outcome, Several) and not outcome.values:
                raise ValueError("no row was given in place of one")
        return outcome, bodies

    @contextmanager
    def _naming(self, position: int, row: Row) -> Iterator[None]:
        """Have what a step raises name it and its row."""
        try:
            yield
        except ComponentError:
            raise
        except Exception as error:
            name = self._names[position - 1]
            raise RuntimeError(
                f"Step {position} ({name}) failed at row {row.row_id}: {type(error).__name__}: {error}"
            ) from error

    def _refuse_id(self, position: int, value: dict[str, Any], row: Row) -> None:
        if ROW_ID in value:
            raise SettingError(
                f"Step {position} ({self._names[position - 1]}) made a field {ROW_ID} of row {row.row_id}: in what is written it "
                "names the row that each comes from. Give the field another name."
            )

    def _finish(self, number: int, row: Row, body: bytes | None, ledger: Ledger, result: Result) -> None:
        segment = self._segments[number]
        body = json_of(row.value) if body is None else body
        if segment.whole is None:
            result.written.setdefault(row.side, []).append(output_line(row.row_id, body))
            content = result.contents.setdefault(row.side, ContentDigest())
            content.add({ROW_ID: row.row_id, **row.value})
            result.rows[row.added] += 1
            return
        position = segment.first + len(segment.steps)
        ledger.seen(position, row, segment.whole.named_fields)
        with self._naming(position, row):
            key = self._keys[number](row)
        result.records.append(record_of(row, body))
        result.keys.append(bytes(key))
