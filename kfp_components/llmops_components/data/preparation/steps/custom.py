"""Steps of users: a function of an installed package."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from llmops_components.data.preparation.records import json_of
from llmops_components.data.preparation.step import (
    KEPT,
    Changed,
    Dropped,
    Inputs,
    Outcome,
    Row,
    RowStep,
    Several,
)
from llmops_components.errors import SettingError
from llmops_components.passthrough.functions import named_function


@dataclass(kw_only=True)
class Custom(RowStep):
    """Have a function of yours judge each row.

    It gets a copy of the row, and gives the row that goes on, a list of rows in its place, a text with the reason to drop it, or
    None to drop it without one. It has to depend on the row alone. Its module has to be allowed by whoever runs the component,
    in the environment variable ``LLMOPS_ALLOWED_CODE``.

    Args:
        function: ``module:function``.
        arguments: Further arguments of the function, by name.
    """

    step: ClassVar[str] = "custom"
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def check(self, inputs: Inputs) -> None:
        named_function(self.function, "function")

    def start(self, inputs: Inputs) -> Callable[[Row], Outcome]:
        function = named_function(self.function, "function")

        def judge(row: Row) -> Outcome:
            try:
                given = function(copy.deepcopy(row.value), **self.arguments)
            except (Exception, SystemExit) as error:  # one that exits with 0 would pass for success
                raise SettingError(
                    f"The function {self.function} failed at row {row.row_id}: {type(error).__name__}: {error}. Correct it, or "
                    "leave the step out."
                ) from error
            return self._outcome(row, given)

        return judge

    def _outcome(self, row: Row, given: Any) -> Outcome:
        if given is None or isinstance(given, str):
            return Dropped(given or f"rejected by {self.function}")
        rows = given if isinstance(given, list) else [given]
        if not rows or not all(isinstance(each, dict) for each in rows):
            raise SettingError(
                f"The function {self.function} gave {given!r:.60} for row {row.row_id}. It has to give a row, a list of rows, the "
                "reason to drop it as text, or None."
            )
        try:
            for each in rows:
                json_of(each)
        except (TypeError, ValueError, RecursionError) as error:
            raise SettingError(
                f"The function {self.function} gave what is no JSON for row {row.row_id}: {error}."
            ) from error
        if isinstance(given, list) and len(rows) > 1:
            return Several(tuple(rows), f"made by {self.function}")
        return KEPT if rows[0] == row.value else Changed(rows[0], f"changed by {self.function}")
