"""What is looked at of a file of rows: lengths and categories of all of them, the texts of a sample."""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops_components.data.files import numbered_rows
from llmops_components.data.texts import ROW_ID, texts_of
from llmops_components.errors import SettingError

ABSENT = "(none)"
_OURS = (ROW_ID, "provenance")  # where a row is from: it is new of every new row
MAX_CATEGORIES = 10_000  # a column with more of them is an id, or a text
_SHOWN_CATEGORY = 200


@dataclass
class Rows:
    """What is looked at.

    Args:
        rows: How many there are.
        present: Rows that have a value, by column.
        lengths: Characters of each row that has one, by column with text.
        categories: Rows by value, by column that was asked for.
        texts: The texts of a sample of rows in no order, those of one row together.
    """

    rows: int = 0
    present: Counter[str] = field(default_factory=Counter)
    lengths: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    categories: dict[str, Counter[str]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)


def read(path: str | os.PathLike[str], columns: Sequence[str], sample: int, seed: int) -> Rows:
    """Read a file.

    Args:
        path: The file.
        columns: Columns whose values are categories.
        sample: How many rows the texts are of; the same file and seed give the same rows.
        seed: Chooses them.

    Raises:
        DataError: The file cannot be read, or has a line that is no row.
        SettingError: A column has values that are no categories.
    """
    found = Rows(categories={name: Counter() for name in columns})
    choose = random.Random(seed)  # noqa: S311 - no secret
    for _, row in numbered_rows(path, "Rows cannot be compared:"):
        texts = texts_of({name: value for name, value in row.items() if name not in found.categories})
        found.rows += 1
        found.present.update(name for name, value in row.items() if value is not None and name not in _OURS)
        for name, text in texts.items():
            found.lengths[name].append(len(text))
        for name, counts in found.categories.items():
            counts[_category(row, name)] += 1
            if len(counts) > MAX_CATEGORIES:
                raise SettingError(
                    f"categories: the column {name!r} has more than {MAX_CATEGORIES} values, so it is no category. Leave it out."
                )
        _keep("\n".join(texts.values()), found, sample, choose)
    choose.shuffle(found.texts)  # files are often sorted, or alternate, and parts of the sample are compared
    return found


def _keep(text: str, found: Rows, sample: int, choose: random.Random) -> None:
    """Reservoir sampling (Vitter's algorithm R): each row is as likely to be in the sample."""
    if len(found.texts) < sample:
        found.texts.append(text)
    elif (place := choose.randrange(found.rows)) < sample:
        found.texts[place] = text


def _category(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ABSENT
    if isinstance(value, str):
        return value[:_SHOWN_CATEGORY]
    if isinstance(value, bool | int | float):
        return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)
    raise SettingError(
        f"categories: the column {name!r} has lists or objects, which are no categories. Name a column with text, numbers or "
        "truth values."
    )
