"""What is found in a text, and which of what overlaps counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Finding:
    """A place in a text. What stands there is in no field, so that it gets into no record.

    Args:
        start: Its first character.
        end: Behind its last one.
        kind: Name of the kind.
        score: From 0 to 1, as Presidio gives it: 1 where a checksum holds.
    """

    start: int
    end: int
    kind: str
    score: float


def without_overlaps(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of which no two overlap: together they cover all that those given cover.

    Args:
        findings: In any order. Of those that overlap the one with the highest score names the kind, then the longest one.
    """
    found: list[Finding] = []
    cluster: list[Finding] = []
    for finding in sorted(set(findings)):
        if cluster and finding.start >= max(each.end for each in cluster):
            found.append(_one(cluster))
            cluster = []
        cluster.append(finding)
    return [*found, _one(cluster)] if cluster else found


def _one(cluster: list[Finding]) -> Finding:
    best = max(cluster, key=lambda each: (each.score, each.end - each.start, each.kind))
    return Finding(cluster[0].start, max(each.end for each in cluster), best.kind, best.score)
