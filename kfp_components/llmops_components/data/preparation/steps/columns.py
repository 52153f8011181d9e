"""Columns under the names that a format has."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from llmops_components.data.formats import FormatName
from llmops_components.data.preparation.step import KEPT, Changed, Dropped, Inputs, Outcome, Row, RowStep
from llmops_components.errors import SettingError

_PLACE = re.compile(r"\{(\w+)\}")
_FIELDS: dict[str, tuple[str, ...]] = {
    "evaluation": ("prompt", "reference"),
    "preference": ("chosen", "rejected"),
    "unpaired_preference": ("prompt", "completion", "label"),
    "prompt_completion": ("prompt", "completion"),
    "prompt_only": ("prompt",),
}


@dataclass(kw_only=True)
class MapColumns(RowStep):
    """Give columns the names of one of TRL's formats.

    Args:
        columns: The old name by the new one: ``{"prompt": "question", "completion": "answer"}``.
        templates: New columns of text, written from old ones: ``{"prompt": "{instruction}\\n\\n{input}"}``.
        values: By column, what is written in place of a value: ``{"label": {"good": true, "bad": false}}``. The columns have their
            new names, the values are text. A row with another value is dropped.
        dataset_format: The format that each row has afterwards; one that lacks a field of it is dropped.
        keep_others: Whether columns that are not named stay. Those that are renamed or written into a template never do.
    """

    step: ClassVar[str] = "map_columns"
    columns: dict[str, str] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    dataset_format: FormatName | None = None
    keep_others: bool = True

    def __post_init__(self) -> None:
        if not (self.columns or self.templates or self.values):
            raise SettingError("nothing is mapped: give columns, templates or values.")
        if twice := sorted(set(self.columns) & set(self.templates)):
            raise SettingError(f"columns and templates both make {', '.join(twice)}.")
        for name, template in self.templates.items():
            if not _PLACE.search(template):
                raise SettingError(
                    f"the template of {name} has no column in it; write its name in braces, as {{instruction}}."
                )

    def start(self, inputs: Inputs) -> Callable[[Row], Outcome]:
        needed = {name: _PLACE.findall(template) for name, template in self.templates.items()}
        taken = {*self.columns.values(), *(column for columns in needed.values() for column in columns)}

        def judge(row: Row) -> Outcome:
            old = row.value
            if absent := [column for column in sorted(taken) if old.get(column) is None]:
                return Dropped(f"has no {absent[0]}")
            new = {new: old[column] for new, column in self.columns.items()}
            for name, template in self.templates.items():
                new[name] = _PLACE.sub(lambda match: _as_text(old[match[1]]), template)
            others = (
                {name: each for name, each in old.items() if name not in taken} if self.keep_others else {}
            )
            value = {**others, **new}
            for name, replacements in self.values.items():
                text = _as_text(value.get(name))
                if text not in replacements:
                    return Dropped(f"has a value of {name} that is not in the table")
                value[name] = replacements[text]
            if lacking := _lacking(value, self.dataset_format):
                return Dropped(f"has no {lacking}")
            return KEPT if value == old else Changed(value, "columns were mapped")

        return judge


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _lacking(value: dict[str, Any], name: FormatName | None) -> str | None:
    if name == "language_modeling":
        is_there = value.get("messages") is not None or value.get("text") is not None
        return None if is_there else "messages and no text"
    return next((each for each in _FIELDS.get(name or "", ()) if value.get(each) is None), None)
