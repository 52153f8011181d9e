"""A row on its way through the steps, and the outputs that it may go to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PREPARED = "prepared"
HELD_OUT = "held_out"
SIDES = (PREPARED, HELD_OUT)


@dataclass(frozen=True, slots=True)
class Row:
    """A row on its way through the steps.

    Args:
        row_id: ``FILE:LINE`` of the row that it comes from; one that a step has added has ``#STEP.NUMBER`` behind it.
        source: Name of the file.
        value: The row. It belongs to the runner: a step makes a new one, and never changes it.
        added: Whether a step has added it.
        side: The output that it goes to, one of :data:`SIDES`.
    """

    row_id: str
    source: str
    value: dict[str, Any]
    added: bool = False
    side: str = PREPARED
