"""What a step says of itself when it has finished.

A library function returns a :class:`StepReport`. :mod:`llmops_components.step` adds digests and resources and writes
``result.json``, the only thing besides URIs that goes back to the control plane.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmops_components.comparison import Comparison

RESULT_SCHEMA_VERSION = 1
_CHUNK_BYTES = 1 << 20


@dataclass
class StepReport:
    """Outcome of one step.

    Args:
        metrics: Numbers worth charting, by name; finite floats or ints.
        details: Short facts that are not metrics (a registered version, an endpoint's address).
        passed: False when a quality gate inside the step was not met. The step itself still succeeded and its
            artifacts are complete; the caller decides what follows.
        findings: Sentences that explain a gate's decision, most important first.
        comparison: Of an evaluation: the model and its baseline, metric by metric.
    """

    metrics: dict[str, float | int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    passed: bool = True
    findings: list[str] = field(default_factory=list)
    comparison: Comparison | None = None


def digest_of(path: str | os.PathLike[str]) -> tuple[str, int]:
    """Content digest and size of a file or of a directory tree.

    A directory's digest covers the relative name and content of each file, so it does not depend on where the
    directory lies, on time stamps or on the order of the listing.

    Args:
        path: File or directory.

    Returns:
        ``("sha256:<hex>", bytes)``.
    """
    root = Path(path)
    if root.is_file():
        return f"sha256:{_hash_file(root)}", root.stat().st_size
    total, tree = 0, hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        total += file.stat().st_size
        tree.update(
            f"{file.relative_to(root).as_posix()}\0{_hash_file(file)}\n".encode(errors="surrogateescape")
        )
    return f"sha256:{tree.hexdigest()}", total


def _hash_file(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()
