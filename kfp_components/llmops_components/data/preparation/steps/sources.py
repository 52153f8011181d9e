"""Rows of allowed sources alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import MinLen

from llmops_components.data.preparation.step import KEPT, Dropped, Inputs, Outcome, Row, RowStep


@dataclass(kw_only=True)
class AllowSources(RowStep):
    """Drop rows that come from elsewhere.

    Args:
        sources: What is allowed.
        column: The column that says where a row comes from; None for the name of its data set.
    """

    step: ClassVar[str] = "allow_sources"
    sources: Annotated[tuple[str, ...], MinLen(1)]
    column: str | None = None

    def start(self, inputs: Inputs) -> Callable[[Row], Outcome]:
        allowed = frozenset(self.sources)

        def judge(row: Row) -> Outcome:
            source = row.source if self.column is None else row.value.get(self.column)
            if isinstance(source, str) and source in allowed:
                return KEPT
            return Dropped("its source is not allowed" if isinstance(source, str) else "it names no source")

        return judge
