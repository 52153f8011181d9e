"""What two versions of a data set differ in: rows, columns, lengths."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmops_components.data.files import no_rows, numbered_rows, write_output
from llmops_components.data.texts import ROW_ID, texts_of
from llmops_components.data.versions.changes import Change, render_changes
from llmops_components.data.versions.digest import Content, ContentDigest, canonical
from llmops_components.errors import check_whole_number
from llmops_components.results import StepReport

MAX_EXAMPLES = 200
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_DIGEST_BYTES = 16  # of rows that somebody has, not of rows that somebody makes up to collide
_SHOWN_CHARACTERS = 300


@dataclass
class _Version:
    """A version that was read: the digests of its rows, by id or by how often each is there."""

    content: Content
    by_id: dict[str, bytes] | None
    counts: Counter[bytes]
    lengths: dict[str, np.ndarray]


def diff_datasets(
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    difference: str | os.PathLike[str],
    *,
    difference_json: str | os.PathLike[str] | None = None,
    examples: int = 20,
) -> StepReport:
    """Compare two versions of a data set.

    Rows are matched by the column ``row_id`` where every row of both has one and none has it twice, else by their content.

    Args:
        before: File of rows.
        after: File of rows.
        difference: Where the differences are written as Markdown.
        difference_json: The same as JSON.
        examples: How many rows of each kind are shown, 0 to 200.

    Returns:
        Counts as metrics, digests and how rows were matched as details.

    Raises:
        DataError: A file cannot be read, has no rows, or has a line that is no row.
        SettingError: ``examples`` is no such number.
    """
    found = compare_versions(before, after, examples=examples)
    write_output(difference, render_changes(found))
    if difference_json is not None:
        write_output(difference_json, json.dumps(found, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    return StepReport(
        metrics={f"rows_{name}": count for name, count in found["rows"].items()},
        details={name: found[name] for name in ("matched_by", "same_rows", "digests")},
        findings=found["findings"],
    )


def compare_versions(
    before: str | os.PathLike[str], after: str | os.PathLike[str], *, examples: int = 20
) -> dict[str, Any]:
    """The differences as JSON; see :func:`diff_datasets`."""
    check_whole_number("examples", examples, 0, MAX_EXAMPLES)
    old, new = _read(before), _read(after)
    findings = []
    ids = (old.by_id, new.by_id)
    if ids[0] is None or ids[1] is None:
        if ids != (None, None) or any(ROW_ID in each.content.columns for each in (old, new)):
            findings.append(
                f"Rows are matched by content: {ROW_ID} is not in every row of both, as text, or one is there twice."
            )
        matched, rows = "content", _by_content(old.counts, new.counts)
    else:
        matched, rows = ROW_ID, _by_id(ids[0], ids[1])
        if moved := (old.counts & new.counts).total() - rows["unchanged"]:
            findings.append(
                f"Rows were given other ids: {moved:,} that count as changed, added or removed are in both, under another {ROW_ID}, as where a line "
                "was added to their source."
            )
    rows = {"before": old.content.rows, "after": new.content.rows, **rows}
    return {
        "matched_by": matched,
        "same_rows": old.content.digest == new.content.digest,
        "digests": {"before": old.content.digest, "after": new.content.digest},
        "rows": rows,
        "columns": _columns(old.content, new.content),
        "lengths": _lengths(old.lengths, new.lengths),
        "examples": [asdict(each) for each in _examples(before, after, old, new, matched, examples)],
        "findings": findings,
    }


def _read(path: str | os.PathLike[str]) -> _Version:
    digest, counts, lengths = ContentDigest(), Counter[bytes](), dict[str, list[int]]()
    by_id: dict[str, bytes] | None = {}
    for row in _rows(path):
        digest.add(row)
        key = _key(row)
        counts[key] += 1
        for name, text in texts_of(row).items():
            lengths.setdefault(name, []).append(len(text))
        name = row.get(ROW_ID)
        if by_id is not None:
            if not isinstance(name, str) or name in by_id:
                by_id = None
            else:
                by_id[name] = key
    if not digest.rows:
        raise no_rows(path)
    return _Version(
        digest.content(), by_id, counts, {name: np.array(found) for name, found in lengths.items()}
    )


def _rows(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    return (row for _, row in numbered_rows(path, "Rows cannot be compared:"))


def _key(row: Mapping[str, Any]) -> bytes:
    """Digest of a row without its id, which two versions may count anew."""
    bare = {name: value for name, value in row.items() if name != ROW_ID}
    return hashlib.blake2b(canonical(bare).encode(), digest_size=_DIGEST_BYTES).digest()


def _by_content(old: Counter[bytes], new: Counter[bytes]) -> dict[str, int]:
    unchanged = (old & new).total()
    return {"added": new.total() - unchanged, "removed": old.total() - unchanged, "changed": 0, "unchanged": unchanged}  # fmt: skip


def _by_id(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> dict[str, int]:
    both = [name for name in old if name in new]
    changed = sum(old[name] != new[name] for name in both)
    return {
        "added": len(new) - len(both),
        "removed": len(old) - len(both),
        "changed": changed,
        "unchanged": len(both) - changed,
    }


def _columns(old: Content, new: Content) -> dict[str, dict[str, dict[str, int]]]:
    """Columns that differ in how many rows have a value of which type."""
    names = sorted({*old.columns, *new.columns})
    return {
        name: {"before": dict(old.columns.get(name, {})), "after": dict(new.columns.get(name, {}))}
        for name in names
        if old.columns.get(name) != new.columns.get(name)
    }


def _lengths(old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Characters of each column with text."""
    return {
        name: {"before": _summary(old.get(name)), "after": _summary(new.get(name))}
        for name in sorted({*old, *new})
    }


def _summary(lengths: np.ndarray | None) -> dict[str, float | int] | None:
    if lengths is None:
        return None
    quantiles = np.quantile(lengths, _QUANTILES, method="inverted_cdf")
    named = {f"p{round(100 * share)}": int(value) for share, value in zip(_QUANTILES, quantiles, strict=True)}
    return {
        "rows": len(lengths),
        "mean": round(float(lengths.mean()), 3),
        "least": int(lengths.min()),
        **named,
        "most": int(lengths.max()),
    }


def _examples(
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    old: _Version,
    new: _Version,
    matched: str,
    limit: int,
) -> Iterator[Change]:
    """The first rows of each kind, in the order of the files."""
    if old.content.digest == new.content.digest or not limit:
        return
    if matched == ROW_ID:
        assert old.by_id is not None and new.by_id is not None
        changed = [name for name, key in old.by_id.items() if new.by_id.get(name, key) != key][:limit]
        removed = [name for name in old.by_id if name not in new.by_id][:limit]
        added = [name for name in new.by_id if name not in old.by_id][:limit]
        olds, news = _named(before, {*changed, *removed}), _named(after, {*changed, *added})
        for name in changed:
            yield Change("changed", name, *_unlike(olds[name], news[name]))
        for name in removed:
            yield Change("removed", name, _shown(olds[name]), None)
        for name in added:
            yield Change("added", name, None, _shown(news[name]))
        return
    for row in _surplus(before, old.counts - new.counts, limit):
        yield Change("removed", None, _shown(row), None)
    for row in _surplus(after, new.counts - old.counts, limit):
        yield Change("added", None, None, _shown(row))


def _named(path: str | os.PathLike[str], names: set[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in _rows(path) if names else ():
        if row.get(ROW_ID) in names:
            found[row[ROW_ID]] = row
            if len(found) == len(names):
                break
    return found


def _surplus(path: str | os.PathLike[str], left: Counter[bytes], limit: int) -> Iterator[dict[str, Any]]:
    """The first rows of a file that it has more of than the other one."""
    limit = min(limit, left.total())
    for row in _rows(path) if limit else ():
        key = _key(row)
        if left[key] > 0:
            left[key] -= 1
            limit -= 1
            yield row
            if not limit:
                return


def _unlike(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """The columns in which two rows differ."""
    names = [
        name
        for name in dict.fromkeys([*old, *new])
        if canonical({"": old.get(name)}) != canonical({"": new.get(name)})
    ]
    return _shown({name: old.get(name) for name in names}), _shown({name: new.get(name) for name in names})


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in row.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found[name] = text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
    return found
