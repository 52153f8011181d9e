"""Metrics of a package, as evaluations call them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import getcwd as getcwd  # what a module imports is not what it defines
from typing import Any


def brevity(rows: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> list[float | None]:
    """Words of the answer for each that the row allows; lower is better."""
    return [
        len(text.split()) / row["allowed"] if row["allowed"] else None
        for row, text in zip(rows, answers, strict=True)
    ]


brevity.columns = ("allowed",)  # type: ignore[attr-defined]
brevity.bounds = (0, None)  # type: ignore[attr-defined]
brevity.higher_is_better = False  # type: ignore[attr-defined]


def plain(rows: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> list[float]:
    return [1.0 for _ in answers]


def short(rows: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> list[float]:
    return [1.0]


def worded(rows: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> list[Any]:
    return ["good" for _ in answers]


def failing(rows: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> list[float]:
    raise RuntimeError("no luck")


def bleu(rows: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> list[float]:
    return [0.0 for _ in answers]


def outside(rows: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> list[float]:
    return [2.0 for _ in answers]


outside.bounds = (0, 1)  # type: ignore[attr-defined]


def samples(rows: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> list[float]:
    return [0.0 for _ in answers]
