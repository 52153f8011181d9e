"""What a step of a preparation is.

A step is a dataclass whose fields are its settings: ``{"step": "filter_length", "min_characters": 10}`` becomes
``FilterLength(min_characters=10)``. Types are checked strictly, limits stand in the annotations (``Annotated[int, Ge(0)]``), and
what has to fit together is checked in ``__post_init__``. There are two kinds:

- A :class:`RowStep` judges each row by itself, in a worker process.
- A :class:`WholeStep` gives each row a key there, and decides in the main process with all keys before it. Such a step is a
  barrier: all rows are on disk before it decides.

Steps stand in the table :data:`~llmops_components.data.preparation.table.STEPS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from llmops_components.data.preparation.row import SIDES, Row
from llmops_components.data.preparation.spool import Keys, Rows

__all__ = [
    "KEPT",
    "SIDES",
    "Changed",
    "Dropped",
    "Inputs",
    "Kept",
    "Keys",
    "Outcome",
    "Repeated",
    "Row",
    "RowStep",
    "Rows",
    "Sent",
    "Several",
    "Step",
    "Verdict",
    "WholeStep",
]
# What came with the call beside the rows, by name: ``tokenizer``, a function that loads it, and ``evaluation``, a file.
Inputs = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kept:
    """The row goes on as it is."""


@dataclass(frozen=True, slots=True)
class Changed:
    """The row goes on with another value.

    Args:
        value: The new row.
        reason: What was changed, for the ledger; never what stood there before.
        score: A number that belongs to it.
    """

    value: dict[str, Any]
    reason: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """The row is rejected.

    Args:
        reason: Why, the same words for the same reason: rows are counted by it.
        score: The number that decided.
        kept: Of a duplicate: the index of the row that was kept in its place. For whole steps alone.
        similarity: Of a duplicate: how similar the two were found to be, verified.
        withheld: Whether the row must not stand in the ledger, as where it was rejected for a secret.
        evaluation_row_id: Of a row that has words of an evaluation row: that one's id.
    """

    reason: str
    score: float | None = None
    kept: int | None = None
    similarity: float | None = None
    withheld: bool = False
    evaluation_row_id: str | None = None


@dataclass(frozen=True, slots=True)
class Several:
    """Several rows in place of one: the first counts as the row itself, the others as added.

    Args:
        values: The rows, at least one.
        reason: Where they come from, for the ledger.
    """

    values: tuple[dict[str, Any], ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Sent:
    """The row goes on, and to another output.

    Args:
        side: One of :data:`SIDES`.
    """

    side: str


@dataclass(frozen=True, slots=True)
class Repeated:
    """The row goes on more than once; all but the first count as added.

    Args:
        times: How often, 2 or more.
        reason: Why, for the ledger.
    """

    times: int
    reason: str


KEPT = Kept()
Outcome = Kept | Changed | Dropped | Several
Verdict = Dropped | Sent | Repeated


@dataclass(kw_only=True)
class Step(ABC):
    """A declared step: a name, a version and settings."""

    step: ClassVar[str]
    libraries: ClassVar[tuple[str, ...]] = ()  # distributions whose versions change what it decides
    # Goes up when the same settings decide otherwise than before; it stands in the manifest.
    version: ClassVar[int] = 1

    @property
    def named_fields(self) -> tuple[str, ...]:
        """The fields that its setting ``fields`` names; none where it has no such setting, or looks at those of TRL's formats."""
        return tuple(getattr(self, "fields", ()))

    def check(self, inputs: Inputs) -> None:  # noqa: B027  # most steps need nothing
        """Refuse what cannot work, before any row is read.

        Args:
            inputs: What came with the call.

        Raises:
            SettingError: An input is missing, or what a setting names is.
        """


class RowStep(Step):
    """A step that judges each row by itself."""

    @abstractmethod
    def start(self, inputs: Inputs) -> Callable[[Row], Outcome]:
        """Load what the step needs, once in each process.

        Args:
            inputs: What came with the call.

        Returns:
            What judges one row. It depends on the row and the settings alone.
        """


class WholeStep(Step):
    """A step that decides with all rows before it."""

    @abstractmethod
    def start(self, inputs: Inputs) -> Callable[[Row], bytes]:
        """Load what the keys need, once in each process.

        Args:
            inputs: What came with the call.

        Returns:
            What makes the key of one row: all that :meth:`decide` needs of most rows, in few bytes.
        """

    @abstractmethod
    def decide(self, keys: Keys, rows: Rows) -> Mapping[int, Verdict]:
        """Decide on every row, in the main process.

        Args:
            keys: The keys, in the order of the rows.
            rows: The rows themselves, read from disk one by one where a decision has to look.

        Returns:
            Verdicts by index of the row; a row without one goes on as it is.
        """
