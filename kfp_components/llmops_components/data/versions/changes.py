"""Differences between two versions of a data set as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmops_components.data.markdown import code, on_one_line, table

_KINDS = ("added", "removed", "changed")


@dataclass(frozen=True)
class Change:
    """A row that differs.

    Args:
        kind: ``added``, ``removed`` or ``changed``.
        row_id: Its id, where rows are matched by it.
        before: What it was, by column; of a changed row the columns that differ.
        after: What it is.
    """

    kind: str
    row_id: str | None
    before: dict[str, str] | None
    after: dict[str, str] | None


def render_changes(difference: Mapping[str, Any]) -> str:
    """Differences as a page of Markdown; what stands in rows is shown as it is and not as markup.

    Args:
        difference: Of :func:`~llmops_components.data.versions.diff.compare_versions`.
    """
    return "\n".join(_lines(difference)) + "\n"


def _lines(difference: Mapping[str, Any]) -> Iterator[str]:
    rows, digests = difference["rows"], difference["digests"]
    yield "# Differences between two versions of a data set"
    yield ""
    if difference["same_rows"]:
        yield f"Both have the same rows: `{digests['before']}`."
    else:
        yield f"Before `{digests['before']}`, after `{digests['after']}`; rows are matched by {difference['matched_by']}."
    yield ""
    for finding in difference["findings"]:
        yield from (finding, "")
    yield from table(["rows", *rows], [["", *(f"{count:,}" for count in rows.values())]])
    if columns := difference["columns"]:
        yield from ("", "## Columns", "")
        yield from table(
            ["column", "before", "after"],
            [[code(name), _types(each["before"]), _types(each["after"])] for name, each in columns.items()],
        )
    if lengths := difference["lengths"]:
        yield from ("", "## Characters", "")
        names = list(next(each for both in lengths.values() for each in both.values() if each))
        yield from table(
            ["column", "", *names],
            [
                [code(name), when, *(f"{each[key]:,}" if each else "-" for key in names)]
                for name, both in lengths.items()
                for when, each in both.items()
            ],
        )
    for kind in _KINDS:
        found = [each for each in difference["examples"] if each["kind"] == kind]
        if found:
            yield from ("", f"## {kind.capitalize()}: {len(found)} of {rows[kind]:,} rows")
        for each in found:
            yield ""
            yield from _example(each)


def _example(each: Mapping[str, Any]) -> Iterator[str]:
    if each["row_id"] is not None:
        yield from (f"Row {code(each['row_id'])}", "")
    before, after = each["before"] or {}, each["after"] or {}
    for name in dict.fromkeys([*before, *after]):
        for sign, row in (("-", before), ("+", after)):
            if name in row:
                yield f"    {sign} {on_one_line(name)}: {on_one_line(row[name])}"


def _types(types: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in types.items()) or "-"
