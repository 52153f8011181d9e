"""Rows that repeat another one exactly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from llmops_components.data.preparation.records import SOURCE_ROW_ID
from llmops_components.data.preparation.spool import Keys, Rows
from llmops_components.data.preparation.step import Dropped, Inputs, Row, Verdict, WholeStep
from llmops_components.errors import SettingError

_KEY_BYTES = 16


@dataclass(kw_only=True)
class DropDuplicates(WholeStep):
    """Drop rows that repeat an earlier one exactly; the ledger names the one that was kept.

    Args:
        fields: The fields that have to be the same; none means the whole row.
        within: ``all`` compares across data sets, ``source`` within each of them alone.
    """

    step: ClassVar[str] = "drop_duplicates"
    fields: tuple[str, ...] = ()
    within: Literal["all", "source"] = "all"

    def __post_init__(self) -> None:
        if len(set(self.fields)) < len(self.fields):
            raise SettingError(f"a field is named twice: {', '.join(self.fields)}.")

    def _compared(self, row: Row) -> str:
        value = row.value
        if self.fields:
            value = {name: value[name] for name in self.fields if name in value}
        value = {name: each for name, each in value.items() if name != SOURCE_ROW_ID}
        source = row.source if self.within == "source" else ""
        return json.dumps([source, value], sort_keys=True)

    def start(self, inputs: Inputs) -> Callable[[Row], bytes]:
        def key(row: Row) -> bytes:
            if self.fields and not any(name in row.value for name in self.fields):
                return b""  # it has nothing to compare
            return hashlib.blake2b(self._compared(row).encode(), digest_size=_KEY_BYTES).digest()

        return key

    def decide(self, keys: Keys, rows: Rows) -> Mapping[int, Verdict]:
        first: dict[bytes, int] = {}
        verdicts: dict[int, Verdict] = {}
        for index, key in enumerate(keys):
            if key and (kept := first.setdefault(key, index)) != index:
                verdicts[index] = Dropped("repeats another row", kept=kept, similarity=1.0)
        return verdicts
