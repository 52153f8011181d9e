"""What a backfill finds and expects, from plain data."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_llmops.backfill.api import RefusedError, Run
from airflow_provider_llmops.backfill.chain import Link
from airflow_provider_llmops.backfill.plan import (
    Cell,
    Plan,
    Spending,
    Standing,
    cells_of,
    estimate,
    next_run_id,
    obstacles_to,
    seconds_of,
    standing_of,
    together,
    unknown_of,
)
from airflow_provider_llmops.backfill.text import lines_of_plan, told

DATA = Link("data", announces=frozenset({"rows"}), max_active_runs=16)
TRAIN = Link("train", listens=frozenset({"rows"}), max_active_runs=16)
RATE = Link("rate", max_active_runs=1)


def runs(*states: str) -> list[Run]:
    return [Run(f"run-{at}", "k", state) for at, state in enumerate(states)]


@pytest.mark.parametrize(
    ("states", "none", "failed", "again"),
    [
        ((), Standing.MISSING, Standing.MISSING, Standing.MISSING),
        (("success",), Standing.THERE, Standing.THERE, Standing.AGAIN),
        (("failed",), Standing.FAILED, Standing.AGAIN, Standing.AGAIN),
        (("failed", "success"), Standing.THERE, Standing.THERE, Standing.AGAIN),
        (("success", "failed"), Standing.THERE, Standing.THERE, Standing.AGAIN),
        (("success", "queued"), Standing.RUNNING, Standing.RUNNING, Standing.RUNNING),
        (("running", "failed"), Standing.RUNNING, Standing.RUNNING, Standing.RUNNING),
    ],
)
def test_standing_is_by_the_runs_of_the_partition(states, none, failed, again):
    found = [standing_of(runs(*states), mode).standing for mode in ("none", "failed", "all")]
    assert found == [none, failed, again]


def test_the_run_that_says_so_is_named_and_what_has_ended_is_known():
    cell = standing_of(runs("success", "failed", "running"), "none")
    assert cell == Cell(Standing.RUNNING, "run-2", frozenset({"run-0", "run-1"}))
    assert standing_of(runs("success", "failed"), "none").run_id == "run-0"


def standings(
    *of: list[Run], reprocess: str = "none", chain: tuple[Link, ...] = (DATA, TRAIN, RATE)
) -> list[str]:
    return [cell.standing.value for cell in cells_of(chain, of, reprocess)]


def test_nothing_is_run_after_what_has_failed():
    assert standings(runs("success"), runs("failed"), []) == ["there", "failed", "blocked"]
    assert standings(runs("failed"), [], []) == ["failed", "blocked", "blocked"]
    assert standings(runs("failed"), runs("success"), []) == ["failed", "there", "blocked"]
    assert standings(runs("failed"), [], [], reprocess="failed") == [
        "would run again",
        "would run",
        "would run",
    ]
    assert standings(runs("running"), [], []) == ["running", "would run", "would run"]


def test_what_airflow_starts_itself_after_a_run_is_run_again_though_it_is_there():
    assert standings([], runs("success"), runs("success")) == ["would run", "would run again", "there"]
    assert standings(runs("running"), runs("failed"), []) == ["running", "would run again", "would run"]
    paused = Link("train", is_paused=True, listens=frozenset({"rows"}))
    assert standings([], runs("success"), [], chain=(DATA, paused, RATE)) == [
        "would run",
        "there",
        "would run",
    ]


def plan_of(cells: dict[str, list[Standing]], chain: tuple[Link, ...] = (DATA, TRAIN, RATE)) -> Plan:
    return Plan(chain, list(cells), {key: [Cell(each) for each in row] for key, row in cells.items()}, "none")


def test_paused_dags_and_a_conf_that_would_not_arrive_are_named():
    new = {"a": [Standing.MISSING] * 3, "b": [Standing.THERE] * 3}
    assert obstacles_to(plan_of(new)) == []
    paused = Link("data", is_paused=True)
    (told_of,) = obstacles_to(plan_of(new, (paused, TRAIN, RATE)))
    assert told_of.startswith("The DAG 'data' is paused, and 1 of its runs would wait.")
    assert obstacles_to(plan_of({"b": new["b"]}, (paused, TRAIN, RATE))) == []
    with_conf = Link("train", listens=frozenset({"rows"}), conf={"steps": 3})
    (told_of,) = obstacles_to(plan_of(new, (DATA, with_conf, RATE)))
    assert told_of.startswith("The conf for 'train' would not reach its runs")
    data_is_there = {"a": [Standing.THERE, Standing.MISSING, Standing.MISSING]}
    assert obstacles_to(plan_of(data_is_there, (DATA, with_conf, RATE))) == []


def test_time_is_that_of_the_longest_lane_or_of_the_dag_that_runs_one_at_a_time():
    plan = plan_of({key: [Standing.THERE, Standing.MISSING, Standing.MISSING] for key in "abcd"})
    spending = {
        "data": Spending(0, 5, 100.0),
        "train": Spending(4, 5, 30.0, {"cpu_seconds": 50.0}),
        "rate": Spending(4, 5, 10.0, {"cpu_seconds": 5.0, "judge_cost": 0.25}),
    }
    assert [seconds_of(plan, spending, parallel) for parallel in (1, 2, 4, 9)] == [160, 80, 40, 40]
    slow = spending | {"rate": Spending(4, 5, 25.0)}
    assert seconds_of(plan, slow, 4) == 100  # rate runs one after the other
    assert together(spending) == {"cpu_seconds": 220.0, "judge_cost": 1.0}


def test_what_nothing_is_known_of_is_named_and_not_taken_for_nothing():
    plan = plan_of({"a": [Standing.MISSING] * 3})
    unknown = {name: Spending(1, 0, None) for name in ("data", "train", "rate")}
    assert seconds_of(plan, unknown, 2) is None
    assert "How long they take is unknown" in lines_of_plan(plan, unknown, 2)[-1]
    partly = unknown | {"data": Spending(1, 3, 90.0)}
    assert unknown_of(partly) == ["train", "rate"]
    assert lines_of_plan(plan, partly, 2) == [
        "partition   data        train       rate",
        "a           would run   would run   would run",
        "",
        "DAG     runs   each         together     by",
        "data    1      1 min 30 s   1 min 30 s   the median of 3 runs",
        "train   1      unknown      unknown      no run has succeeded so far",
        "rate    1      unknown      unknown      no run has succeeded so far",
        "",
        "3 runs in about 1 min 30 s, 2 partitions at a time, and what train, rate takes.",
        "Only time is estimated: the tasks of former runs say nothing of what they took.",
    ]


def test_time_is_estimated_for_whoever_may_not_read_what_tasks_have_returned():
    class Api:
        def last_successes(self, dag_id, count):
            return [Run("run", "k", "success", duration=60.0)]

        def results_of(self, dag_id, run_id):
            raise RefusedError(403, "Forbidden", "GET /xcomEntries")

    found = estimate(Api(), plan_of({"k": [Standing.MISSING]}, (DATA,)))
    assert found == {"data": Spending(1, 1, 60.0, {})}


def test_ids_of_runs_are_made_of_partition_and_number():
    assert next_run_id("2026-11-01", []) == "llmops_backfill_1__2026-11-01"
    taken = ["llmops_backfill_1__2026-11-01", "llmops_backfill_9__2026-11-02", "manual__x"]
    assert next_run_id("2026-11-01", taken) == "llmops_backfill_2__2026-11-01"
    assert next_run_id("a/b c", [next_run_id("a/b c", [])]).startswith("llmops_backfill_2__a-b-c~")


@given(st.text(min_size=1, max_size=250), st.text(min_size=1, max_size=250))
@example("a..b", "a.b")
@example("a b", "a-b")
@example("x~0123456789abcdef", "x")
def test_airflow_takes_every_id_and_no_two_partitions_share_one(one, other):
    ids = [next_run_id(key, []) for key in (one, other)]
    for each in ids:
        assert re.fullmatch(r"[A-Za-z0-9_.~:+-]{1,250}", each) and ".." not in each
    assert (ids[0] == ids[1]) == (one == other)


def test_texts_of_a_conf_get_the_key():
    link = Link("data", conf={"a": "s3://x/{partition}/y", "b": [1, {"c": "{partition}"}], "d": None})
    assert link.conf_of("k") == {"a": "s3://x/k/y", "b": [1, {"c": "k"}], "d": None}


def test_durations_are_said_as_people_do():
    found = [told(seconds) for seconds in (0.44, 59.6, 61, 3599, 7260, 100_000)]
    assert found == ["0.4 s", "1 min 00 s", "1 min 01 s", "59 min 59 s", "2 h 01 min", "27 h 47 min"]
