"""Plans and reports of backfills as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_provider_llmops.backfill.plan import Standing, seconds_of, together, unknown_of
from airflow_provider_llmops.spending import cost_of

if TYPE_CHECKING:
    from airflow_provider_llmops.backfill.plan import Plan, Spending
    from airflow_provider_llmops.backfill.report import Report

_MINUTE = 60
_HOUR = 60 * _MINUTE
_TIMES = {"cpu_seconds": "of CPU time", "step_seconds": "in steps"}


def told(seconds: float) -> str:
    """A duration as people say it.

    :param seconds: how long
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    minutes = round(seconds / _MINUTE)
    return f"{minutes // 60} h {minutes % 60:02} min"


def lines_of_plan(
    plan: Plan, spending: Mapping[str, Spending], parallel: int, price_per_hour: float | None = None
) -> list[str]:
    """A row for each partition, and what the runs that are missing take.

    :param plan: what is to be run
    :param spending: of each DAG
    :param parallel: how many partitions are worked on at a time
    :param price_per_hour: of a step; without it no cost is told
    """
    names = [link.dag_id for link in plan.chain]
    rows = [
        ["partition", *names],
        *([key, *(cell.standing.value for cell in plan.cells[key])] for key in plan.keys),
    ]
    cost = [f"They cost about {cost_of(together(spending), price_per_hour):.4g}."] if price_per_hour else []
    told_of_cost = cost if plan.to_run else []
    return [*_table(rows), "", *_estimate(plan, spending, parallel), *told_of_cost, *_notes(plan)]


def _estimate(plan: Plan, spending: Mapping[str, Spending], parallel: int) -> Iterator[str]:
    if not plan.to_run:
        yield "Nothing would be run."
        return
    rows = [["DAG", "runs", "each", "together", "by"]]
    for dag_id, each in spending.items():
        known = each.seconds is not None
        rows.append(
            [
                dag_id,
                str(each.runs),
                told(each.seconds) if each.seconds is not None else "unknown",
                told(each.runs * each.seconds) if each.seconds is not None else "unknown",
                f"the median of {_of(each.former, 'run')}" if known else "no run has succeeded so far",
            ]
        )
    yield from _table(rows)
    yield ""
    seconds = seconds_of(plan, spending, parallel)
    runs = _of(plan.to_run, "run")
    if seconds is None:
        yield f"{runs}. How long they take is unknown: none of these DAGs has succeeded so far."
        return
    unknown = unknown_of(spending)
    beside = f", and what {', '.join(unknown)} takes" if unknown else ""
    yield f"{runs} in about {told(seconds)}, {_of(parallel, 'partition')} at a time{beside}."
    spent = [_spent(name, value) for name, value in together(spending).items() if value]
    if spent:
        yield f"Their tasks take {', '.join(spent)}."
    else:
        yield "Only time is estimated: the tasks of former runs say nothing of what they took."


def _spent(name: str, value: float) -> str:
    if name in _TIMES:
        return f"{told(value)} {_TIMES[name]}"
    number = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.4g}"
    return f"{number} {name.replace('_', ' ')}"


def _of(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _notes(plan: Plan) -> Iterator[str]:
    if running := plan.count(Standing.RUNNING):
        yield f"{_of(running, 'run')} would be waited for."
    if plan.count(Standing.FAILED):
        yield "What has failed is not run again, and nothing after it: --reprocess failed does so."


def lines_of_report(report: Report) -> list[str]:
    """A row for each partition, then what has failed and why, and what to do.

    :param report: what became of a plan
    """
    chain = report.plan.chain
    rows = [["partition", *(link.dag_id for link in chain)]]
    for key in report.plan.keys:
        rows.append([key, *(each.outcome.value for each in report.done[key])])
    lines = _table(rows)
    failed, going_on = [], []
    for key in report.plan.keys:
        for link, each in zip(chain, report.done[key], strict=True):
            place = f"{key} {link.dag_id}" + (f", run {each.run_id}" if each.run_id else "")
            if each.reason is not None:
                failed.append(f"  {place}: {each.reason}")
            elif each.outcome.value == "running":
                going_on.append(f"  {place}")
    if failed:
        lines += ["", "Failed:", *failed]
    if going_on:
        lines += ["", "Going on in Airflow:", *going_on]
    if report.cost is not None:
        lines += ["", f"What has ended has cost {report.cost:.4g}."]
    if report.is_interrupted or report.error:
        lines += ["", "Nothing more is started. Call it again to go on."]
    return lines


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "   ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
