"""``llmops backfill`` against a server that speaks Airflow's API."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator

import airflow_api
import pytest
from airflow_api import Dag, FakeAirflow

from airflow_provider_llmops.backfill import api as apis
from airflow_provider_llmops.backfill import walk
from airflow_provider_llmops.cli import main
from airflow_provider_llmops.exceptions import ConfigurationError

DAYS = ["2026-11-01", "2026-11-02", "2026-11-03"]
RANGE = ["--from", DAYS[0], "--to", DAYS[-1]]
CHAIN = ["--dag", "data", "--dag", "train", "--dag", "rate"]
ID = "llmops_backfill_1__"


@pytest.fixture
def airflow(monkeypatch) -> Iterator[FakeAirflow]:
    """A chain whose second DAG is scheduled on what the first announces, and its third on nothing."""
    dags = {
        "data": Dag("cron", outlets=("rows",)),
        "train": Dag("asset", listens=("rows",)),
        "rate": Dag("runtime"),
        "plain": Dag("none"),
    }
    with FakeAirflow(dags) as fake:
        monkeypatch.setenv("LLMOPS_AIRFLOW_URL", fake.url)
        for name in ("TOKEN", "USERNAME", "PASSWORD"):
            monkeypatch.delenv(f"LLMOPS_AIRFLOW_{name}", raising=False)
        monkeypatch.setattr(apis, "_PAUSE_SECONDS", 0.01)
        yield fake


def backfill(*arguments: str) -> int:
    return main(["backfill", *arguments, "--poll", "0.01"])


def rows(text: str) -> list[list[str]]:
    """The columns of each line."""
    return [re.split(r" {3,}", line) for line in text.splitlines()]


def posted(fake: FakeAirflow) -> list[str]:
    return [
        request for request in fake.requests if request.startswith("POST") and request.endswith("dagRuns")
    ]


def test_each_partition_goes_through_the_chain_and_again_nothing_is_started(airflow, capsys):
    assert backfill(*CHAIN, *RANGE, "--yes") == 0
    succeeded = [(day, "success") for day in DAYS]
    assert [sorted(airflow.states(dag)) for dag in ("data", "train", "rate")] == [succeeded] * 3
    ids = {run["dag_run_id"] for run in airflow.runs if run["dag_id"] in ("data", "rate")}
    assert ids == {f"{ID}{day}" for day in DAYS}
    # Airflow itself has started the DAG that an asset starts, and nobody else has.
    ids = {run["dag_run_id"] for run in airflow.runs if run["dag_id"] == "train"}
    assert all(each.startswith("asset_triggered__") for each in ids)
    said = capsys.readouterr().out
    assert f"2026-11-01 data: started as {ID}2026-11-01\n" in said
    assert "2026-11-01 data: succeeded in 1 min 00 s\n" in said
    assert [DAYS[0], "succeeded", "succeeded", "succeeded"] in rows(said)

    airflow.requests.clear()
    assert backfill(*CHAIN, *RANGE) == 0
    assert posted(airflow) == []
    # What is there is seen by one list of each DAG's runs, whatever there are of partitions.
    assert sum(request.endswith("dagRuns") for request in airflow.requests) == 1 + 3
    assert [DAYS[2], "there", "there", "there"] in rows(capsys.readouterr().out)


def test_missing_ones_only_with_a_conf_for_each_partition(airflow):
    for dag_id, day in (("data", DAYS[0]), ("train", DAYS[0]), ("rate", DAYS[0]), ("data", DAYS[1])):
        airflow.add_run(dag_id, day)
    conf = 'train={"rows": "/data/{partition}.jsonl"}'
    assert backfill(*CHAIN, "--partitions", *DAYS[:2], "--conf", conf, "--yes") == 0
    assert posted(airflow) == [f"POST /api/v2/dags/{dag_id}/dagRuns" for dag_id in ("train", "rate")]
    assert airflow.states("train") == [(DAYS[0], "success"), (DAYS[1], "success")]
    assert airflow.runs[-2]["conf"] == {"rows": f"/data/{DAYS[1]}.jsonl"}


def test_a_failure_ends_its_own_partition_and_says_why(airflow, capsys):
    airflow.dags["train"].fails.add(DAYS[1])
    assert backfill(*CHAIN, *RANGE, "--yes") == 1
    assert airflow.states("rate") == [(DAYS[0], "success"), (DAYS[2], "success")]
    said = capsys.readouterr().out
    assert [DAYS[1], "succeeded", "failed", "not started"] in rows(said)
    assert "task train (so has later): ValueError: no rows" in said.partition("Failed:\n")[2]

    # Not again by itself, and again when it is asked for.
    count = len(airflow.runs)
    assert backfill(*CHAIN, *RANGE, "--yes") == 1
    assert len(airflow.runs) == count
    assert [DAYS[1], "there", "failed formerly", "not started"] in rows(capsys.readouterr().out)
    airflow.dags["train"].fails.clear()
    assert backfill(*CHAIN, *RANGE, "--reprocess", "failed", "--yes") == 0
    assert [run["dag_run_id"] for run in airflow.runs[count:]] == [f"{ID}2026-11-02"] * 2
    assert airflow.states("train")[-1] == (DAYS[1], "success")


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ([], "its log has no error, as where its process was killed"),
        (
            [{"event": "::group::Pre Execute"}, {"event": "Begins"}, {"event": "::endgroup::"}],
            "its log has no error, as where its process was killed, and ends: Begins",
        ),
        (["a\n", "pkg.SomeError: key=AKIAIOSFODNN7EXAMPLE\nmore"], "pkg.SomeError: key="),
    ],
)
def test_a_reason_is_the_last_error_or_that_there_is_none(airflow, capsys, monkeypatch, log, reason):
    monkeypatch.setattr(airflow_api, "LOG", log)
    airflow.dags["data"].fails.add(DAYS[0])
    assert backfill("--dag", "data", "--partitions", DAYS[0], "--yes") == 1
    said = capsys.readouterr().out.partition("Failed:\n")[2]
    assert f"task train (so has later): {reason}" in said
    assert "AKIA" not in said


def test_all_is_run_again_once_by_runs_of_their_own(airflow):
    assert backfill(*CHAIN, "--partitions", DAYS[0], "--yes") == 0
    assert backfill(*CHAIN, "--partitions", DAYS[0], "--reprocess", "all", "--yes") == 0
    assert [airflow.states(dag) for dag in ("data", "train", "rate")] == [[(DAYS[0], "success")] * 2] * 3
    assert [run["dag_run_id"] for run in airflow.runs if run["dag_id"] == "rate"] == [
        f"llmops_backfill_{number}__{DAYS[0]}" for number in (1, 2)
    ]


def test_a_run_that_goes_on_is_waited_for_and_no_second_one_started(airflow):
    running = airflow.add_run("data", DAYS[0], "running")
    assert backfill("--dag", "data", *RANGE, "--yes") == 0
    ids = [f"{ID}{day}" for day in DAYS[1:]]
    assert [run["dag_run_id"] for run in airflow.runs if run["dag_id"] == "data"] == [running, *ids]
    assert airflow.states("data") == [(day, "success") for day in DAYS]


def test_a_run_that_another_call_starts_at_the_same_time_is_taken_for_its_own(airflow):
    airflow.conflicts.add(f"{ID}{DAYS[0]}")
    assert backfill("--dag", "data", "--partitions", DAYS[0], "--yes") == 0
    assert [run["dag_run_id"] for run in airflow.runs if run["dag_id"] == "data"] == [f"{ID}{DAYS[0]}"]


def test_an_id_that_a_run_of_another_partition_has_is_an_error(airflow, capsys):
    airflow.add_run("data", "other", "success", f"{ID}{DAYS[0]}")
    assert backfill("--dag", "data", "--partitions", DAYS[0], "--yes") == 1
    assert "data: failed: see the log" in capsys.readouterr().out


def test_no_more_partitions_at_a_time_than_asked_for(airflow):
    assert backfill("--dag", "rate", "--partitions", *"abcdefg", "--parallel", "2", "--yes") == 0
    assert (airflow.most_active, len(airflow.runs)) == (2, 7)


def test_what_is_announced_and_not_started_by_airflow_is_started_after_a_while(airflow, monkeypatch):
    monkeypatch.setattr(walk, "HANDOVER_SECONDS", 0.2)
    airflow.schedules = False
    assert backfill("--dag", "data", "--dag", "train", "--partitions", DAYS[0], "--yes") == 0
    assert [run["dag_run_id"] for run in airflow.runs] == [f"{ID}{DAYS[0]}"] * 2


def test_what_airflow_is_about_to_start_since_an_interrupted_call_is_left_to_it(airflow, monkeypatch):
    airflow.schedules = False
    data, train = ["--dag", "data"], ["--dag", "train"]
    assert backfill(*data, "--partitions", DAYS[0], "--yes") == 0
    lists, later = airflow._list, iter(range(9))

    def list_and_schedule(dag_id: str, query: dict) -> dict:
        if dag_id == "train" and next(later) == 5:
            airflow.add_run("train", DAYS[0], "queued", "asset_triggered__late")
        return lists(dag_id, query)

    monkeypatch.setattr(airflow, "_list", list_and_schedule)
    assert backfill(*data, *train, "--partitions", DAYS[0], "--yes") == 0
    assert [run["dag_run_id"] for run in airflow.runs] == [f"{ID}{DAYS[0]}", "asset_triggered__late"]


def test_interrupted_it_says_what_goes_on_and_the_next_call_goes_on(airflow, capsys, monkeypatch):
    look = airflow._look
    main_thread = threading.get_ident()

    def interrupt(run: dict) -> dict:
        if run["dag_id"] == "rate":
            signal.pthread_kill(main_thread, signal.SIGINT)
        return look(run)

    monkeypatch.setattr(airflow, "_look", interrupt)
    assert backfill(*CHAIN, *RANGE, "--parallel", "1", "--yes") == 130
    said = capsys.readouterr().out
    assert [DAYS[0], "succeeded", "succeeded", "running"] in rows(said)
    assert f"Going on in Airflow:\n  2026-11-01 rate, run {ID}2026-11-01\n" in said
    assert "Call it again to go on." in said
    assert len(airflow.runs) == 3
    monkeypatch.setattr(airflow, "_look", look)
    assert backfill(*CHAIN, *RANGE, "--yes") == 0
    assert len(airflow.runs) == 9


def test_an_outage_is_waited_out_and_nothing_is_started_twice(airflow, capsys):
    assert backfill("--dag", "data", "--partitions", DAYS[0], "--yes", "--url", "http://127.0.0.1:9") == 1
    assert "No connection" in capsys.readouterr().err
    look = airflow._look

    def look_and_fail(run: dict) -> dict:
        airflow.outages = 2
        airflow._look = look
        return look(run)

    airflow._look = look_and_fail
    assert backfill("--dag", "data", "--partitions", DAYS[0], "--yes") == 0
    assert "Airflow does not answer, which is asked again: HTTP 503" in capsys.readouterr().out
    assert len(airflow.states("data")) == 1


def test_dry_run_says_what_there_is_and_what_the_rest_takes(airflow, capsys):
    airflow.add_run("data", DAYS[0])
    airflow.add_run("train", DAYS[0], "failed")
    airflow.add_run("data", DAYS[1], "running")
    airflow.add_run("data", DAYS[2], "failed")
    airflow.dags["data"].results = [{"resources": {"cpu_seconds": 40.0, "seconds": 20.0}}]
    assert backfill(*CHAIN, *RANGE, "--reprocess", "failed", "--dry-run") == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "partition    data              train             rate",
        "2026-11-01   there             would run again   would run",
        "2026-11-02   running           would run         would run",
        "2026-11-03   would run again   would run         would run",
        "",
        "DAG     runs   each         together     by",
        "data    1      1 min 00 s   1 min 00 s   the median of 1 run",
        "train   3      unknown      unknown      no run has succeeded so far",
        "rate    3      unknown      unknown      no run has succeeded so far",
        "",
        "7 runs in about 1 min 00 s, 4 partitions at a time, and what train, rate takes.",
        "Their tasks take 40 s of CPU time, 20 s in steps.",
        "1 run would be waited for.",
    ]
    assert posted(airflow) == []

    assert backfill(*CHAIN, *RANGE, "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["partitions"][2] == {
        "partition": DAYS[2],
        "dags": {
            "data": {"standing": "failed", "run_id": "run-3"},
            "train": {"standing": "blocked", "run_id": None},
            "rate": {"standing": "blocked", "run_id": None},
        },
    }
    assert (told["estimate"]["runs"], told["estimate"]["unknown"]) == (2, ["train", "rate"])


def test_result_as_json_and_progress_beside_it(airflow, capsys):
    airflow.dags["data"].fails.add(DAYS[1])
    assert backfill("--dag", "data", "--partitions", *DAYS[:2], "--yes", "--json") == 1
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert f"{DAYS[0]} data: succeeded" in printed.err
    assert (told["is_complete"], told["is_interrupted"], told["error"]) == (False, False, None)
    assert told["partitions"] == [
        {
            "partition": DAYS[0],
            "dags": {
                "data": {
                    "outcome": "succeeded",
                    "run_id": f"{ID}{DAYS[0]}",
                    "seconds": 60.0,
                    "reason": None,
                }
            },
        },
        {
            "partition": DAYS[1],
            "dags": {
                "data": {
                    "outcome": "failed",
                    "run_id": f"{ID}{DAYS[1]}",
                    "seconds": 60.0,
                    "reason": "task train (so has later): ValueError: no rows",
                }
            },
        },
    ]


def test_a_login_makes_a_token_which_is_made_anew_when_it_is_too_old(airflow, monkeypatch, capsys):
    airflow.password = "t0p-secret"  # noqa: S105
    data = ["--dag", "data", "--partitions", DAYS[0]]
    assert backfill(*data, "--yes") == 1
    assert "Airflow wants a login" in capsys.readouterr().err
    monkeypatch.setenv("LLMOPS_AIRFLOW_USERNAME", "ann")
    assert backfill(*data, "--yes") == 1
    assert "go together" in capsys.readouterr().err
    monkeypatch.setenv("LLMOPS_AIRFLOW_PASSWORD", "wr0ng-secret")
    assert backfill(*data, "--yes") == 1
    said = capsys.readouterr()
    assert "Airflow does not take the login (401)" in said.err
    assert "wr0ng-secret" not in said.err + said.out
    monkeypatch.setenv("LLMOPS_AIRFLOW_PASSWORD", "t0p-secret")
    look = airflow._look

    def look_and_forget(run: dict) -> dict:
        airflow.tokens.clear()
        airflow._look = look
        return look(run)

    airflow._look = look_and_forget
    assert backfill(*data, "--yes") == 0
    assert airflow.requests.count("POST /auth/token") == 3
    monkeypatch.setenv("LLMOPS_AIRFLOW_TOKEN", max(airflow.tokens))
    assert backfill(*data, "--yes") == 0
    assert airflow.requests.count("POST /auth/token") == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dag", "plain", *RANGE], "The DAG 'plain' takes no partitions: its schedule is none."),
        (["--dag", "nowhere", *RANGE], "There is no DAG 'nowhere' in this Airflow"),
        (["--dag", "data", "--dag", "data", *RANGE], "--dag names data more than once."),
        (["--dag", "train", *RANGE], "--from and --to need a DAG whose timetable"),
        (["--dag", "data"], "which partitions is not said."),
        (["--dag", "data", "--from", "2026-11-01"], "which partitions is not said."),
        (["--dag", "data", *RANGE, "--partitions", "a"], "--partitions names the partitions, and so do"),
        (["--dag", "data", "--from", "1.11.", "--to", "2026-11-02"], "--from is no day: '1.11.'."),
        (
            ["--dag", "data", "--from", "2026-11-02", "--to", "2026-11-01"],
            "--from (2026-11-02) is after --to",
        ),
        (
            ["--dag", "data", "--from", "2999-01-01", "--to", "2999-01-02"],
            "There are no partitions of data from",
        ),
        (["--dag", "data", "--partitions", " "], "--partitions has ' ', and a key"),
        (["--dag", "data", *RANGE, "--conf", "{}"], "--conf is DAG={...} or DAG=@FILE"),
        (["--dag", "data", *RANGE, "--conf", "data=[]"], "--conf for data is no JSON object"),
        (["--dag", "data", *RANGE, "--conf", "data={"], "--conf for data is no JSON: "),
        (["--dag", "data", *RANGE, "--conf", "data=@/none"], "--conf for data (/none) cannot be read: "),
        (["--dag", "data", *RANGE, "--conf", "dta={}"], "--conf is for dta, which --dag does not name."),
        (
            ["--dag", "data", *RANGE, "--conf", "data={}", "--conf", "data={}"],
            "--conf for data is given twice.",
        ),
        (["--dag", "data", *RANGE], "3 runs would be started, and there is nobody to ask."),
        (
            ["--dag", "data", *RANGE, "--url", "ftp://x"],
            "The address of Airflow is not one of http or https.",
        ),
        (["--dag", "data", *RANGE, "--url", "http://ann:pw@x"], ""),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_started(airflow, capsys, arguments, said):
    assert main(["backfill", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"llmops: {said}"), error
    assert "pw" not in error
    assert airflow.runs == []


def test_paused_dags_and_those_that_nobody_may_start_are_refused_by_name(airflow, capsys):
    airflow.dags["rate"].is_paused = True
    assert backfill(*CHAIN, *RANGE, "--yes") == 1
    assert "The DAG 'rate' is paused, and 3 of its runs would wait." in capsys.readouterr().err
    assert backfill(*CHAIN, *RANGE, "--dry-run") == 0
    assert "The DAG 'rate' is paused" in capsys.readouterr().out
    airflow.dags["rate"].allowed_run_types = ["scheduled"]
    assert backfill(*CHAIN, *RANGE, "--yes") == 1
    assert "The DAG 'rate' does not let anybody start it" in capsys.readouterr().err
    assert airflow.runs == []


def test_a_conf_that_airflow_refuses_is_told_in_its_words(airflow, capsys, tmp_path):
    (tmp_path / "conf.json").write_text('{"refused": true}')
    assert (
        backfill("--dag", "data", "--partitions", "a", "--conf", f"data=@{tmp_path}/conf.json", "--yes") == 1
    )
    assert "a data: failed: Invalid input for param refused\n" in capsys.readouterr().out


HOUR = [{"resources": {"seconds": 3600.0}, "metrics": {"judge_cost": 0.5}}]


def test_nothing_is_started_that_the_budget_does_not_hold(airflow, capsys):
    airflow.dags["data"].results = HOUR
    airflow.add_run("data", "2026-10-31")  # by which the next ones are expected to cost 2.5
    costs = ["--price-per-hour", "2", "--max-cost", "6"]
    assert backfill("--dag", "data", *RANGE, *costs, "--parallel", "3", "--dry-run") == 0
    assert "They cost about 7.5." in capsys.readouterr().out
    assert backfill("--dag", "data", *RANGE, *costs, "--parallel", "3", "--yes") == 1
    said = capsys.readouterr().out
    assert len(posted(airflow)) == 2
    assert [DAYS[2], "over budget"] in rows(said)
    refusal = "0 of 6 is spent, what goes on is expected to cost 5, and a run of it is expected to cost 2.5"
    assert f"{DAYS[2]} data: it was not started: {refusal}. Raise --max-cost." in said
    assert "What has ended has cost 5." in said
    # Again, with as much once more.
    assert backfill("--dag", "data", *RANGE, *costs, "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out)["cost"] == 2.5


def test_what_is_spent_counts_where_nothing_is_known_of_former_runs(airflow, capsys):
    airflow.dags["data"].results = HOUR
    assert backfill("--dag", "data", *RANGE, "--max-cost", "1", "--parallel", "1", "--yes", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    # Without a price it is what judges cost: two runs reach the limit.
    assert told["cost"] == 1.0
    outcomes = [each["dags"]["data"]["outcome"] for each in told["partitions"]]
    assert outcomes == ["succeeded", "succeeded", "over budget"]


def test_steps_that_a_task_has_joined_in_one_run_cost_what_they_would_alone(airflow, capsys):
    (judged,) = HOUR
    paths = ("judge", "import-judge-dataset", "judge-passed", "judge-passed/again", "judge-passed/import-x")
    airflow.dags["data"].results = [{"steps": dict.fromkeys(paths, "SUCCEEDED")}]
    airflow.dags["data"].joined = {"judge": judged, "again": judged, "code": {"dag": "data"}}
    assert backfill("--dag", "data", *RANGE, "--max-cost", "1", "--parallel", "1", "--yes", "--json") == 1
    assert json.loads(capsys.readouterr().out)["cost"] == 1.0


def test_budget_that_cannot_be_kept_ends_the_backfill(airflow, capsys, monkeypatch):
    def forbidden(self, dag_id, run_id, *, most=300):
        raise ConfigurationError("Airflow refuses with 403: Forbidden.")

    monkeypatch.setattr(apis.AirflowApi, "results_of", forbidden)
    assert backfill("--dag", "data", *RANGE, "--max-cost", "1", "--parallel", "1", "--yes") == 1
    assert "no budget can be kept: Airflow refuses with 403" in capsys.readouterr().err
    assert len(posted(airflow)) == 1


def test_without_a_price_nothing_is_said_of_cost(airflow, capsys):
    assert backfill("--dag", "data", *RANGE, "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out)["cost"] is None
    with pytest.raises(SystemExit):
        backfill("--dag", "data", *RANGE, "--max-cost", "0")
