"""Parts of a dataset by what its rows have in a column, compared each for itself: a model may gain on the whole and lose in one language."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmops_components.comparison import MetricComparison
from llmops_components.errors import DataError, SettingError, check_known, named, shortened
from llmops_components.evaluation.statistics import Scores, record

PROMPT_LENGTH = "prompt_length"
NO_VALUE = "(none)"
# Results are small: a comparison of one metric in one slice takes 400 bytes of them.
MAX_SLICES = 16
MAX_COMPARED = 24
_MAX_KINDS_OF_NUMBERS = 8
_GREATEST = 1e300
_QUARTERS = (0.25, 0.5, 0.75)
_LONGEST_NAME = 60
_DIGEST = 8  # characters


def check_slices(
    slices: Sequence[str] | None, slice_metrics: Sequence[str] | None, names: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Check which slices somebody asks for.

    Args:
        slices: Names of columns.
        slice_metrics: Metrics to compare in them.
        names: The metrics and composites that are computed, the first by default.

    Returns:
        Columns and metrics.

    Raises:
        SettingError: A metric is unknown, or there are more than a result has room for.
    """
    for what, given in (("slices", slices), ("slice_metrics", slice_metrics)):
        if given is not None and (
            isinstance(given, str) or not all(isinstance(each, str) and each for each in given)
        ):
            raise SettingError(f"{what} is {given!r:.60}. Give a list of names.")
    if len(names) > MAX_COMPARED:
        raise SettingError(
            f"{len(names)} metrics and composites are more than the {MAX_COMPARED} that a result has room for. Name fewer as metric_names."
        )
    columns = list(dict.fromkeys(slices or ()))
    if slice_metrics is not None and not columns:
        raise SettingError(
            "slice_metrics is given, and no slices. Give the columns as slices, or leave both out."
        )
    metrics = list(dict.fromkeys(slice_metrics or names[:1]))
    check_known(metrics, names, "slice_metrics")
    if columns and _room(columns, metrics, names) < 2:
        raise SettingError(
            f"{len(names)} metrics, and {len(metrics)} of them in the slices of {len(columns)} columns, are more than a result has room for. "
            "Name fewer as metric_names, slice_metrics or slices."
        )
    return columns, metrics


def _room(columns: Sequence[str], metrics: Sequence[str], names: Sequence[str]) -> int:
    """How many values of each column there is room for."""
    return min(MAX_SLICES, max(0, MAX_COMPARED - len(names))) // max(1, len(metrics) * len(columns))


def check_columns(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Check that rows can be cut by some columns.

    Args:
        rows: The dataset.
        columns: What it is to be cut by.

    Raises:
        DataError: No row has such a column, or its values are no text and no numbers.
    """
    for column in columns:
        _values(rows, column)


def slices_of(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    metrics: Sequence[str],
    ours: Mapping[str, Scores],
    theirs: Mapping[str, Scores],
) -> tuple[dict[str, dict[str, dict[str, MetricComparison]]], list[str]]:
    """Compare both models in each slice.

    Args:
        rows: The dataset.
        columns: What it is cut by.
        metrics: What is compared.
        ours: Scores of the model.
        theirs: Scores of the baseline; empty without one.

    Returns:
        By column, value and metric; and a sentence for each column of which small slices were put together.
    """
    found: dict[str, dict[str, dict[str, MetricComparison]]] = {}
    findings = []
    room = _room(columns, metrics, list(ours))
    for column in columns:
        value_of = _values(rows, column)
        counts = Counter(value_of)
        by_size = sorted(counts, key=lambda value: (-counts[value], value))
        if len(by_size) > room:
            together = by_size[room - 1 :]
            name = f"({len(together)} others)"
            count = sum(counts[value] for value in together)
            findings.append(
                f"{column} has {len(by_size)} values, and the result has room for {room}: {len(together)} of them, with {count} rows, are compared "
                f"together as {name!r}: {named(together)}."
            )
            few = set(together)
            value_of = [name if value in few else value for value in value_of]
            by_size = [*by_size[: room - 1], name]
        each_value = np.array(value_of)
        found[column] = {
            value: {
                metric: record(ours[metric][part], theirs[metric][part] if theirs else None)
                for metric in metrics
            }
            for value in by_size
            for part in [each_value == value]
        }
    return found, findings


def labels_of(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], also: Sequence[str] = ()
) -> dict[str, list[str]]:
    """The slice of each row, by column, before small ones are put together.

    Args:
        rows: The dataset.
        columns: What it is cut by.
        also: Further columns, of which those count that have a text in every row.
    """
    there = [name for name in also if all(isinstance(row.get(name), str) for row in rows)]
    return {column: _values(rows, column) for column in dict.fromkeys([*columns, *there])}


def _values(rows: Sequence[Mapping[str, Any]], column: str) -> list[str]:
    """What each row has in a column, as text; numbers of many kinds by the quarter that they are in."""
    if column == PROMPT_LENGTH and not any(column in row for row in rows):
        values: list[Any] = [_length(row["prompt"]) for row in rows]
    else:
        values = [row.get(column) for row in rows]
    if all(value is None for value in values):
        known = sorted({name for row in rows for name in row} | {PROMPT_LENGTH})
        raise DataError(f"slices: no row has {column!r}. The rows have: {', '.join(known[:20])}.")
    for number, value in enumerate(values, start=1):
        if not isinstance(value, str | int | float | None) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise DataError(
                f"slices: {column!r} of row {number} is {value!r:.60}. A slice is of texts, numbers, or true and false."
            )
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if (
        len(numbers) == sum(value is not None for value in values)
        and len(set(numbers)) > _MAX_KINDS_OF_NUMBERS
    ):
        if max(map(abs, numbers)) > _GREATEST:
            raise DataError(
                f"slices: {column!r} has numbers above {_GREATEST:g}. Leave it out, or make texts of them."
            )
        return _quarters(values, np.array(numbers, dtype=float))
    return [NO_VALUE if value is None else _name(str(value) or NO_VALUE) for value in values]


def _name(text: str) -> str:
    """A value as the name of its slice; of a long one the middle is left out, and a digest tells it from others."""
    longest = _LONGEST_NAME if text.isascii() else _LONGEST_NAME // 4  # in JSON, six bytes each
    if len(text) <= longest:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]
    return (
        f"{shortened(text, longest - _DIGEST - 1)} {digest}"
        if text.isascii()
        else f"{text[: longest - _DIGEST + 1]}... {digest}"
    )


def _length(prompt: str | Sequence[Mapping[str, Any]]) -> int:
    """Characters of a prompt, or of all messages of one."""
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(message.get("content") or "") for message in prompt)


def _quarters(values: Sequence[float | None], numbers: np.ndarray) -> list[str]:
    """The quarter that each number is in, named by the least and the greatest number in it."""
    edges = np.unique(np.quantile(numbers, _QUARTERS))
    quarter_of = np.searchsorted(edges, numbers, side="left")
    ends = {
        int(quarter): (numbers[quarter_of == quarter].min(), numbers[quarter_of == quarter].max())
        for quarter in set(quarter_of.tolist())
    }
    # As few digits as tell all ends apart.
    distinct = sorted({float(end) for pair in ends.values() for end in pair})
    digits = next((n for n in range(6, 17) if len({f"{end:.{n}g}" for end in distinct}) == len(distinct)), 17)
    names = {quarter: f"{low:.{digits}g} to {high:.{digits}g}" for quarter, (low, high) in ends.items()}
    return [
        NO_VALUE if value is None else names[int(np.searchsorted(edges, value, side="left"))]
        for value in values
    ]
