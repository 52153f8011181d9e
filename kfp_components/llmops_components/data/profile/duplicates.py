"""Rows that are there more than once, and rows of the sample that nearly are."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmops_components.data.dedup.near import NearSettings, find_near_duplicates
from llmops_components.data.profile.rows import DIGEST_BYTES, Counted, Sampled
from llmops_components.data.profile.shown import shortened

_EXAMPLES = 5


def _digests(counted: Counted) -> np.ndarray[Any, np.dtype[Any]]:
    return np.frombuffer(bytes(counted.digests), f"S{DIGEST_BYTES}")


def exact(counted: Counted) -> dict[str, Any]:
    """Rows with the content of an earlier one.

    Args:
        counted: All rows.
    """
    _, copies = np.unique(_digests(counted), return_counts=True)
    repeated = copies[copies > 1]
    by_digest: dict[bytes, list[Sampled]] = {}
    for row in counted.sample:
        by_digest.setdefault(row.digest, []).append(row)
    groups = sorted((rows for rows in by_digest.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows[0].line))  # fmt: skip
    return {
        "rows": int(repeated.sum() - len(repeated)),
        "contents": len(repeated),
        "most_copies": int(repeated.max()) if len(repeated) else 1,
        "examples": [
            {"lines": sorted(row.line for row in rows)[:_EXAMPLES], "text": shortened(rows[0].texts)}
            for rows in groups[:_EXAMPLES]
        ],
    }


def near(sample: Sequence[Sampled], seed: int) -> dict[str, Any]:
    """Rows of the sample that are nearly like an earlier one; copies are looked at once.

    Args:
        sample: The sample.
        seed: Of the hashes.
    """
    different = {row.digest: row for row in sorted(sample, key=lambda row: row.line, reverse=True)}
    rows = sorted(different.values(), key=lambda row: row.line)
    settings = NearSettings(seed=seed)
    documents = [tuple(row.texts.items()) for row in rows]
    found = find_near_duplicates(documents, tempfile.gettempdir(), settings)
    return {
        "threshold": settings.threshold,
        "rows_compared": len(rows),
        "rows": len(found.duplicates),
        "pairs_not_compared": found.pairs_not_compared,
        "examples": [
            {
                "lines": [rows[each.row].line, rows[each.kept].line],
                "similarity": each.similarity,
                "texts": [shortened(rows[each.row].texts), shortened(rows[each.kept].texts)],
            }
            for each in found.duplicates[:_EXAMPLES]
        ],
    }


def shared(counted: Counted, other: Counted) -> int:
    """Rows whose content is in another data set, too.

    Args:
        counted: The data set.
        other: The other one.
    """
    return int(np.isin(_digests(counted), _digests(other)).sum())
