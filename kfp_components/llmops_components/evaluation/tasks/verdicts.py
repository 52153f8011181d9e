"""What tasks have in common: a verdict on an answer, and problems of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right.

    Args:
        is_right: Whether it is; None where that cannot be said.
        reason: Why that cannot be said.
    """

    is_right: bool | None
    reason: str = ""


@dataclass(frozen=True)
class Task:
    """A way to tell right answers from wrong ones.

    Args:
        settings: Class of its settings, which raises :class:`SettingError` for values that cannot be meant.
        check: From rows and settings to problems of rows, each with the row's place and what is wrong.
        judge: From rows, their answers and settings to a verdict on each.
        given_for_all: Setting that stands for the column of the same name where rows have none.
    """

    settings: Callable[..., Any]
    check: Callable[[Sequence[Row], Any], list[tuple[int, str]]]
    judge: Callable[[Sequence[Row], Sequence[str], Any], list[Verdict]]
    given_for_all: str | None = None
