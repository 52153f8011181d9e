"""Carrying a plan out: the DAGs of each partition one after the other, some partitions at a time.

Nothing is kept here. What there is, is read from Airflow before each start, so that a call that was interrupted is gone on
with by calling again, and ids of runs are made of the partition, so that two calls at once start each run once.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from airflow_provider_llmops.backfill.api import AirflowApi, RefusedError, Run
from airflow_provider_llmops.backfill.budget import Budget
from airflow_provider_llmops.backfill.chain import Link
from airflow_provider_llmops.backfill.plan import Plan, Standing, next_run_id
from airflow_provider_llmops.backfill.reasons import why_failed
from airflow_provider_llmops.backfill.report import FAILED, HERE, Done, Outcome, Report
from airflow_provider_llmops.backfill.text import told
from airflow_provider_llmops.exceptions import LLMOpsError

HANDOVER_SECONDS = (
    60.0  # that Airflow has to start a DAG itself whose asset was announced; it takes it one or two
)
_SUMMARY_SECONDS = 60.0


@dataclass
class _Partition:
    """How far a partition has come.

    :param key: its key
    :param done: the DAGs of the chain
    :param position: of the DAG that is its turn
    :param run: that is waited for
    :param handover: until when Airflow may start the run itself, by the monotonic clock; ``None`` before that is known
    :param renewed: positions of the DAGs that have a run newer than the plan
    """

    key: str
    done: list[Done]
    position: int = 0
    run: Run | None = None
    handover: float | None = None
    renewed: set[int] = field(default_factory=set)


def carry_out(
    api: AirflowApi,
    plan: Plan,
    *,
    parallel: int,
    poll_seconds: float,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    budget: Budget | None = None,
) -> Report:
    """Run what a plan says and wait for its end.

    :param api: Airflow
    :param plan: what is to be run
    :param parallel: how many partitions are worked on at a time
    :param poll_seconds: how often runs are looked at
    :param say: told of each step
    :param sleep: waits for so many seconds
    :param budget: what the runs may cost; nothing is counted without one
    :return: what became of it, also where somebody has interrupted it
    """
    report = Report(plan, {key: [Done() for _ in plan.chain] for key in plan.keys})
    walker = _Walker(api, plan, say, budget)
    waiting = deque(_Partition(key, report.done[key]) for key in plan.keys)
    active: list[_Partition] = []
    told_at = time.monotonic()
    try:
        while waiting or active:
            # One that has nothing to do is through at its first step, and makes room for the next one.
            while waiting and len(active) < parallel:
                if walker.advance(each := waiting.popleft()):
                    active.append(each)
            if active:
                sleep(poll_seconds)
            active = [each for each in active if walker.advance(each)]
            if active and time.monotonic() - told_at > _SUMMARY_SECONDS:
                told_at = time.monotonic()
                say(_summary(active, len(waiting)))
    except KeyboardInterrupt:
        report.is_interrupted = True
    except LLMOpsError as error:
        report.error = str(error)
    report.cost = budget.spent if budget else None
    return report


def _summary(active: Sequence[_Partition], waiting: int) -> str:
    states = Counter(each.run.state if each.run else "to be started" for each in active)
    now = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"... {now}; {waiting} partitions have not begun"


class _Walker:
    """Takes partitions one step further."""

    def __init__(
        self, api: AirflowApi, plan: Plan, say: Callable[[str], None], budget: Budget | None
    ) -> None:
        self._api = api
        self._plan = plan
        self._say = say
        self._budget = budget

    def advance(self, partition: _Partition) -> bool:
        """Go on as far as nothing has to be waited for; whether there is something left to do."""
        while partition.position < len(self._plan.chain):
            link = self._plan.chain[partition.position]
            try:
                if partition.run is None:
                    self._begin(partition, link)
                else:
                    run = self._look_at(partition.run, link)
                    partition.run = run
                    if run.is_active:
                        return True
                    self._end(partition, link, run)
            except RefusedError as error:
                self._fail(partition, link, error.said)
            outcome = partition.done[partition.position].outcome
            if outcome in HERE:
                partition.position += 1
                partition.handover = None
            elif outcome in FAILED:
                return False
            elif partition.run is None:
                return True  # Airflow is about to start it
        return False

    def _begin(self, partition: _Partition, link: Link) -> None:
        """Find the run of the partition, leave it to Airflow, start one, or see that there is nothing to do."""
        cell = self._plan.cells[partition.key][partition.position]
        done = partition.done[partition.position]
        if cell.standing is Standing.THERE and not partition.renewed:
            done.outcome, done.run_id = Outcome.THERE, cell.run_id
            return
        runs = self._api.runs_of(link.dag_id, partition.key)
        new = [run for run in runs if run.is_active or run.run_id not in cell.known]
        if new:
            partition.run = next((run for run in reversed(new) if run.is_active), new[-1])
            done.outcome, done.run_id = Outcome.RUNNING, partition.run.run_id
            if self._budget:
                self._budget.begin(link.dag_id, partition.run.run_id)
            self._tell(partition, link, f"{partition.run.state} already, as {partition.run.run_id}")
            return
        if partition.handover is None:
            partition.handover = 0.0
            if self._is_airflows(partition, link, runs):
                partition.handover = time.monotonic() + HANDOVER_SECONDS
                self._tell(partition, link, "waits for Airflow to start it, since its asset was announced")
        if time.monotonic() < partition.handover:
            return
        succeeded = [run for run in runs if run.state == "success"]
        if succeeded and self._plan.reprocess != "all":
            done.outcome, done.run_id = Outcome.THERE, succeeded[-1].run_id
        elif runs and not succeeded and self._plan.reprocess == "none":
            done.outcome, done.run_id = Outcome.FAILED_FORMERLY, runs[-1].run_id
            done.reason = why_failed(self._api, link.dag_id, runs[-1].run_id)
            self._tell(partition, link, "has failed formerly, and is not run again (--reprocess failed)")
        else:
            self._start(partition, link, runs)

    def _start(self, partition: _Partition, link: Link, runs: Sequence[Run]) -> None:
        done = partition.done[partition.position]
        if self._budget and (refusal := self._budget.refusal(link.dag_id)):
            done.outcome, done.reason = Outcome.TOO_DEAR, refusal
            self._tell(partition, link, refusal)
            return
        run_id = next_run_id(partition.key, [run.run_id for run in runs])
        done.outcome, done.run_id = Outcome.RUNNING, run_id  # also where the answer is not waited for
        try:
            partition.run = self._api.start(link.dag_id, run_id, partition.key, link.conf_of(partition.key))
        except RefusedError as error:
            if error.status != 409:
                raise
            # It was started at the same time, or by a request whose answer was lost.
            partition.run = self._api.run(link.dag_id, run_id)
            if partition.run.key != partition.key:
                raise
        if self._budget:
            self._budget.begin(link.dag_id, run_id)
        self._tell(partition, link, f"started as {run_id}")

    def _look_at(self, run: Run, link: Link) -> Run:
        return self._api.run(link.dag_id, run.run_id) if run.is_active else run

    def _end(self, partition: _Partition, link: Link, run: Run) -> None:
        done = partition.done[partition.position]
        partition.run = None
        done.run_id, done.seconds = run.run_id, run.duration
        if self._budget:
            self._budget.end(self._api, link.dag_id, run.run_id)
        if run.state == "success":
            done.outcome = Outcome.SUCCEEDED
            partition.renewed.add(partition.position)
            took = f" in {told(run.duration)}" if run.duration is not None else ""
            self._tell(partition, link, f"succeeded{took}")
        else:
            self._fail(partition, link, why_failed(self._api, link.dag_id, run.run_id))

    def _fail(self, partition: _Partition, link: Link, reason: str) -> None:
        done = partition.done[partition.position]
        done.outcome, done.reason = Outcome.FAILED, reason
        partition.run = None
        self._tell(partition, link, f"failed: {reason}")

    def _is_airflows(self, partition: _Partition, link: Link, runs: Sequence[Run]) -> bool:
        """Whether Airflow starts a DAG itself for the partition, since one before it has just announced an asset of it."""
        for position, done in enumerate(partition.done[: partition.position]):
            other = self._plan.chain[position]
            if done.run_id is None or not link.follows(other):
                continue
            if position not in partition.renewed and (runs or not self._is_recent(other, done.run_id)):
                continue
            if link.listens & self._api.events_of(other.dag_id, done.run_id, partition.key):
                return True
        return False

    def _is_recent(self, link: Link, run_id: str) -> bool:
        """Whether a run has ended so shortly before this call that Airflow may not have gone on from it yet."""
        ended = self._api.run(link.dag_id, run_id).ended
        return ended is not None and (datetime.now(UTC) - ended).total_seconds() < HANDOVER_SECONDS

    def _tell(self, partition: _Partition, link: Link, what: str) -> None:
        self._say(f"{partition.key} {link.dag_id}: {what}")
