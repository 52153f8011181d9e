"""The ledger: one line of JSON for each row that was dropped, changed or added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops_components.data.preparation.records import Broken, json_of
from llmops_components.data.preparation.row import Row
from llmops_components.data.preparation.step import Changed, Dropped

READING = "read"  # the step that broken lines are dropped by


@dataclass
class StepCounts:
    """What a step did. Rows that steps have added are not among the others.

    Args:
        name: Its name.
        rows: Source rows that it got.
        with_fields: Rows that have one of the fields that it names, added ones among them.
        changed: Rows that it changed, added ones among them.
        dropped: Source rows that it dropped.
        repeated: Further copies that it made of rows.
        added: Other rows that it made.
        dropped_added: Rows that other steps had added, and that it dropped.
        reasons: How often it dropped for which reason.
    """

    name: str
    rows: int = 0
    with_fields: int = 0
    changed: int = 0
    dropped: int = 0
    repeated: int = 0
    added: int = 0
    dropped_added: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, other: StepCounts) -> None:
        """Add what the step did elsewhere."""
        for name in ("rows", "with_fields", "changed", "dropped", "repeated", "added", "dropped_added"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.reasons += other.reasons


class Ledger:
    """Entries as lines, in the order in which they are made, and what they come to.

    Args:
        names: The steps, in their order.
    """

    def __init__(self, names: list[str]) -> None:
        self.counts = [StepCounts(name) for name in (READING, *names)]
        self.lines: list[bytes] = []

    def _write(self, position: int, action: str, row_id: str, reason: str, **further: Any) -> None:
        entry = {
            "step": self.counts[position].name,
            "position": position,
            "action": action,
            "reason": reason,
            "row_id": row_id,
            "score": None,
            "kept_row_id": None,
            "similarity": None,
            **further,
        }
        self.lines.append(json_of(entry) + b"\n")

    def broken(self, line: Broken) -> None:
        """A line could not be read."""
        self.counts[0].dropped += 1
        self.counts[0].reasons["cannot be read"] += 1
        self._write(0, "dropped", line.row_id, line.problem, raw=line.raw)

    def seen(self, position: int, row: Row, fields: Sequence[str] = ()) -> None:
        """A step gets a row.

        Args:
            position: Of the step, from 1.
            row: The row.
            fields: The fields that the step names.
        """
        self.counts[position].rows += not row.added
        self.counts[position].with_fields += any(name in row.value for name in fields)

    def dropped(self, position: int, row: Row, outcome: Dropped, kept_row_id: str | None = None) -> None:
        """A step drops a row.

        Args:
            position: Of the step.
            row: The row as the step got it.
            outcome: Why.
            kept_row_id: Of a duplicate: the row that is kept.
        """
        count = self.counts[position]
        if row.added:
            count.dropped_added += 1
        else:
            count.dropped += 1
        count.reasons[outcome.reason] += 1
        further: dict[str, Any] = {} if outcome.withheld else {"row": row.value}
        if outcome.evaluation_row_id is not None:
            further["evaluation_row_id"] = outcome.evaluation_row_id
        self._write(
            position,
            "dropped",
            row.row_id,
            outcome.reason,
            score=outcome.score,
            kept_row_id=kept_row_id,
            similarity=outcome.similarity,
            **further,
        )

    def changed(self, position: int, row: Row, outcome: Changed) -> None:
        """A step changes a row."""
        self.counts[position].changed += 1
        self._write(position, "changed", row.row_id, outcome.reason, score=outcome.score)

    def added(self, position: int, row: Row, number: int, reason: str, *, is_copy: bool = False) -> Row:
        """A step adds a row.

        Args:
            position: Of the step.
            row: The row that it was made from.
            number: Of the new row among those that were made from it, from 2.
            reason: Why.
            is_copy: Whether it is the same row again.

        Returns:
            The new row with the value of the old.
        """
        new = Row(f"{row.row_id}#{position}.{number}", row.source, row.value, True, row.side)
        self.counts[position].repeated += is_copy
        self.counts[position].added += not is_copy
        self._write(position, "added", new.row_id, reason)
        return new
