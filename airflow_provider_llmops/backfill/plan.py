"""What a backfill would do: which partitions a DAG has, which it lacks, and what running those takes by former runs."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from itertools import takewhile
from statistics import median
from typing import Any, Literal

from airflow_provider_llmops.backfill.api import AirflowApi, Run
from airflow_provider_llmops.backfill.chain import Link
from airflow_provider_llmops.delivery.as_of import BACKFILL_RUN_PREFIX
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.spending import spent_by

Reprocess = Literal["none", "failed", "all"]
FORMER_RUNS = 5  # that an estimate is made of
_MEASURED_RUNS = 3  # of them, whose tasks' results are read one by one
_PLAIN_KEY = re.compile(
    r"[A-Za-z0-9_.+:-]{1,100}"
)  # as Airflow takes ids of runs, without what a digest is marked by
_KEPT_OF_KEY = 40
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_.+:-]+")


class Standing(Enum):
    """How a DAG stands to a partition."""

    THERE = "there"
    RUNNING = "running"
    FAILED = "failed"
    MISSING = "would run"
    AGAIN = "would run again"
    BLOCKED = "blocked"

    @property
    def is_to_run(self) -> bool:
        """Whether a run is to be started."""
        return self in (Standing.MISSING, Standing.AGAIN)

    @property
    def is_to_end(self) -> bool:
        """Whether a run of it ends while the backfill goes on."""
        return self.is_to_run or self is Standing.RUNNING


@dataclass(frozen=True)
class Cell:
    """A DAG and a partition.

    :param standing: how it stands
    :param run_id: of the run that says so
    :param known: ids of the runs that had ended when this was read
    """

    standing: Standing
    run_id: str | None = None
    known: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Spending:
    """What the runs of a DAG take, by former ones.

    :param runs: how many are to be started
    :param former: how many former ones this is of
    :param seconds: the median of what one took; ``None`` where none has succeeded
    :param each: the median of what the tasks of one say that they took, by its name
    """

    runs: int
    former: int
    seconds: float | None
    each: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a backfill finds.

    :param chain: the DAGs, in order
    :param keys: of the partitions, in order
    :param cells: by key, those of the chain
    :param reprocess: whose partitions are run again
    """

    chain: Sequence[Link]
    keys: Sequence[str]
    cells: Mapping[str, Sequence[Cell]]
    reprocess: Reprocess

    def count(self, standing: Standing) -> int:
        """How often a DAG stands so to a partition.

        :param standing: the standing
        """
        return sum(cell.standing is standing for cells in self.cells.values() for cell in cells)

    @property
    def to_run(self) -> int:
        """How many runs are to be started."""
        return sum(cell.standing.is_to_run for cells in self.cells.values() for cell in cells)

    def to_json(self) -> list[dict[str, Any]]:
        """The partitions as plain JSON."""
        return [
            {
                "partition": key,
                "dags": {
                    link.dag_id: {"standing": cell.standing.value, "run_id": cell.run_id}
                    for link, cell in zip(self.chain, self.cells[key], strict=True)
                },
            }
            for key in self.keys
        ]


def make_plan(api: AirflowApi, chain: Sequence[Link], keys: Sequence[str], reprocess: Reprocess) -> Plan:
    """Look at what there is, by one list of runs for each DAG.

    :param api: Airflow
    :param chain: the DAGs
    :param keys: of the partitions
    :param reprocess: whose partitions are run again: nobody's, those that have failed, or all
    """
    prefix = _common_prefix(keys)
    runs: list[dict[str, list[Run]]] = []
    for link in chain:
        by_key = defaultdict(list)
        for run in api.runs(link.dag_id, prefix):
            if run.key is not None:
                by_key[run.key].append(run)
        runs.append(by_key)
    cells = {key: cells_of(chain, [found.get(key, []) for found in runs], reprocess) for key in keys}
    return Plan(chain, keys, cells, reprocess)


def _common_prefix(keys: Sequence[str]) -> str:
    first, last = min(keys), max(keys)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(one for one, _ in same)


def cells_of(chain: Sequence[Link], runs: Sequence[Sequence[Run]], reprocess: Reprocess) -> tuple[Cell, ...]:
    """How each DAG stands to a partition.

    :param chain: the DAGs
    :param runs: of each for the partition, in the order in which they were made
    :param reprocess: whose partitions are run again
    """
    cells: list[Cell] = []
    for position, (link, own) in enumerate(zip(chain, runs, strict=True)):
        cell = standing_of(own, reprocess)
        before = cells[:position]
        if any(each.standing in (Standing.FAILED, Standing.BLOCKED) for each in before):
            if cell.standing.is_to_run:
                cell = Cell(Standing.BLOCKED, cell.run_id, cell.known)
        elif cell.standing in (Standing.THERE, Standing.FAILED) and any(
            each.standing.is_to_end and link.follows(other)
            for each, other in zip(before, chain, strict=False)
        ):
            cell = Cell(Standing.AGAIN, cell.run_id, cell.known)
        cells.append(cell)
    return tuple(cells)


def standing_of(runs: Sequence[Run], reprocess: Reprocess) -> Cell:
    """How a DAG stands to a partition by itself. One success is enough, whatever came after it.

    :param runs: of the DAG for the partition, in the order in which they were made
    :param reprocess: whether it is run again
    """
    known = frozenset(run.run_id for run in runs if not run.is_active)
    for run in reversed(runs):
        if run.is_active:
            return Cell(Standing.RUNNING, run.run_id, known)
    if not runs:
        return Cell(Standing.MISSING)
    succeeded = [run for run in runs if run.state == "success"]
    if reprocess == "all" or (reprocess == "failed" and not succeeded):
        return Cell(Standing.AGAIN, runs[-1].run_id, known)
    if succeeded:
        return Cell(Standing.THERE, succeeded[-1].run_id, known)
    return Cell(Standing.FAILED, runs[-1].run_id, known)


def obstacles_to(plan: Plan) -> list[str]:
    """What keeps a plan from being carried out, in sentences.

    :param plan: what is to be run
    """
    found = []
    for position, link in enumerate(plan.chain):
        waited = [cell for cells in plan.cells.values() if (cell := cells[position]).standing.is_to_end]
        if waited and link.is_paused:
            found.append(
                f"The DAG {link.dag_id!r} is paused, and {len(waited)} of its runs would wait. Unpause it "
                f"(airflow dags unpause {link.dag_id}), which may start runs of its schedule, or leave it out."
            )
        if link.conf and any(_is_started_by_airflow(plan, cells, position) for cells in plan.cells.values()):
            found.append(
                f"The conf for {link.dag_id!r} would not reach its runs: Airflow starts them itself, when a DAG before has "
                "announced the asset that it is scheduled on. Set defaults in the DAG, and leave the conf out."
            )
    return found


def _is_started_by_airflow(plan: Plan, cells: Sequence[Cell], position: int) -> bool:
    return cells[position].standing.is_to_run and any(
        cell.standing.is_to_end and plan.chain[position].follows(other)
        for cell, other in zip(cells[:position], plan.chain, strict=False)
    )


def next_run_id(key: str, taken: Iterable[str]) -> str:
    """Id of the next run that a backfill starts for a partition. Whoever else starts one at the same time gets the same.

    :param key: of the partition
    :param taken: ids of the runs that the DAG has for it
    """
    name = key
    if not _PLAIN_KEY.fullmatch(key) or ".." in key:
        digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:16]
        name = f"{_NOT_PLAIN.sub('-', key).replace('..', '-')[:_KEPT_OF_KEY].rstrip('.')}~{digest}"
    own = re.compile(rf"{BACKFILL_RUN_PREFIX}(\d+)__{re.escape(name)}")
    numbers = [int(match[1]) for each in taken if (match := own.fullmatch(each))]
    return f"{BACKFILL_RUN_PREFIX}{max(numbers, default=0) + 1}__{name}"


def estimate(api: AirflowApi, plan: Plan) -> dict[str, Spending]:
    """What each DAG's runs take, by the newest that have succeeded.

    :param api: Airflow
    :param plan: what is to be run
    """
    found = {}
    for position, link in enumerate(plan.chain):
        count = sum(cells[position].standing.is_to_run for cells in plan.cells.values())
        former = [run for run in api.last_successes(link.dag_id, FORMER_RUNS) if run.duration is not None]
        each: dict[str, float] = {}
        if count and former:
            each = _each(api, link.dag_id, former[:_MEASURED_RUNS])
        seconds = median(run.duration or 0.0 for run in former) if former else None
        found[link.dag_id] = Spending(count, len(former), seconds, each)
    return found


def _each(api: AirflowApi, dag_id: str, former: Sequence[Run]) -> dict[str, float]:
    """The median of what the tasks of former runs say that they took; nothing where they may not be asked."""
    try:
        spent = [spent_by(api.results_of(dag_id, run.run_id)) for run in former]
    except ConfigurationError:  # whoever may start runs need not be allowed to read what tasks have returned
        return {}
    return {name: median(one.get(name, 0.0) for one in spent) for name in sorted(set().union(*spent))}


def seconds_of(plan: Plan, spending: Mapping[str, Spending], parallel: int) -> float | None:
    """How long it takes by the medians, so many partitions at a time; ``None`` where nothing is known of it.

    :param plan: what is to be run
    :param spending: of each DAG
    :param parallel: how many partitions are worked on at a time
    """
    if not any(each.seconds is not None for each in spending.values() if each.runs):
        return None
    free = [0.0] * parallel
    for key in plan.keys:
        took = sum(
            spending[link.dag_id].seconds or 0.0
            for link, cell in zip(plan.chain, plan.cells[key], strict=True)
            if cell.standing.is_to_end
        )
        heapq.heapreplace(free, free[0] + took)
    by_dag = [
        each.runs * (each.seconds or 0.0) / link.max_active_runs
        for link in plan.chain
        if link.max_active_runs and (each := spending[link.dag_id])
    ]
    return max(*free, *by_dag, 0.0)


def estimate_to_json(plan: Plan, spending: Mapping[str, Spending], parallel: int) -> dict[str, Any]:
    """An estimate as plain JSON.

    :param plan: what is to be run
    :param spending: of each DAG
    :param parallel: how many partitions are worked on at a time
    """
    return {
        "runs": plan.to_run,
        "seconds": seconds_of(plan, spending, parallel),
        "parallel": parallel,
        "unknown": unknown_of(spending),
        "together": together(spending),
        "dags": {dag_id: asdict(each) for dag_id, each in spending.items()},
    }


def unknown_of(spending: Mapping[str, Spending]) -> list[str]:
    """DAGs that would run and of which nothing is known.

    :param spending: of each DAG
    """
    return [dag_id for dag_id, each in spending.items() if each.runs and each.seconds is None]


def together(spending: Mapping[str, Spending]) -> dict[str, float]:
    """What all runs take, as their tasks say.

    :param spending: of each DAG
    """
    found: defaultdict[str, float] = defaultdict(float)
    for each in spending.values():
        for name, value in each.each.items():
            found[name] += each.runs * value
    return dict(found)
