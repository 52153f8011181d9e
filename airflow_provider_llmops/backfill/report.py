"""What has become of a plan: by partition and DAG."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from airflow_provider_llmops.backfill.plan import Plan


class Outcome(Enum):
    """What became of a DAG for a partition."""

    THERE = "there"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    FAILED_FORMERLY = "failed formerly"
    RUNNING = "running"
    NOT_STARTED = "not started"
    TOO_DEAR = "over budget"


HERE = (Outcome.THERE, Outcome.SUCCEEDED)
FAILED = (Outcome.FAILED, Outcome.FAILED_FORMERLY, Outcome.TOO_DEAR)


@dataclass
class Done:
    """A DAG and a partition.

    :param outcome: what became of it
    :param run_id: of the run that says so
    :param seconds: that it took
    :param reason: why it failed
    """

    outcome: Outcome = Outcome.NOT_STARTED
    run_id: str | None = None
    seconds: float | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "outcome": self.outcome.value,
            "run_id": self.run_id,
            "seconds": self.seconds,
            "reason": self.reason,
        }


@dataclass
class Report:
    """What became of a plan.

    :param plan: the plan
    :param done: by key, the DAGs of the chain
    :param is_interrupted: whether somebody has ended it before its end
    :param error: what has ended it before its end
    :param cost: of the runs that have ended; ``None`` where nobody has asked
    """

    plan: Plan
    done: dict[str, list[Done]]
    is_interrupted: bool = False
    error: str | None = None
    cost: float | None = None

    def count(self, *outcomes: Outcome) -> int:
        """How often it came to that.

        :param outcomes: any of them
        """
        return sum(each.outcome in outcomes for found in self.done.values() for each in found)

    @property
    def is_complete(self) -> bool:
        """Whether every DAG has every partition."""
        return all(each.outcome in HERE for found in self.done.values() for each in found)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "is_complete": self.is_complete,
            "is_interrupted": self.is_interrupted,
            "error": self.error,
            "cost": self.cost,
            "partitions": [
                {
                    "partition": key,
                    "dags": {
                        link.dag_id: each.to_json()
                        for link, each in zip(self.plan.chain, self.done[key], strict=True)
                    },
                }
                for key in self.plan.keys
            ],
        }
