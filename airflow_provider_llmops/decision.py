"""What was decided, by which rules, on what evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["Decision", "Outcome"]


class Outcome(StrEnum):
    """How something was decided."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    UNDECIDED = "undecided"
    """There is not enough evidence, which is never a success."""


@dataclass(frozen=True)
class Decision:
    """A decision, as plain JSON of a few hundred bytes.

    :param outcome: how it was decided
    :param findings: sentences that say why, the one that decided first
    :param rules: the limits that counted
    :param evidence: the figures that were held against them
    """

    outcome: Outcome
    findings: tuple[str, ...] = ()
    rules: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it goes to XCom."""
        return {
            "outcome": str(self.outcome),
            "findings": list(self.findings),
            "rules": dict(self.rules),
            "evidence": dict(self.evidence),
        }

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Decision:
        """Read one.

        :param value: of :meth:`to_json`
        """
        return cls(Outcome(value["outcome"]), tuple(value["findings"]), value["rules"], value["evidence"])
