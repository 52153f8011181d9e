"""The DAG that makes versions of data sets, in a real Airflow: a backfill makes one for each day, and the same days again change nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow_stack import RealAirflow

DAG_ID = "data_quality"
DAYS = [f"2026-11-{day:02}" for day in range(14, 16)]
BROKEN = "2026-11-15"


@pytest.fixture(scope="module")
def airflow(real_airflow: RealAirflow) -> RealAirflow:
    return real_airflow.add_example(DAG_ID)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for each day, one row of it twice; one day has a line that is broken."""
    directory = tmp_path_factory.mktemp("raw")
    for day in DAYS:
        rows = [
            {"prompt": f"Where is thing {n} on {day}?", "completion": f"It is in box {n}."} for n in range(20)
        ]
        lines = [json.dumps(row) for row in [*rows, rows[0]]]
        broken = ["{not json"] if day == BROKEN else []
        (directory / f"{day}.jsonl").write_text("\n".join([*lines, *broken]) + "\n")
    return directory


def backfill(airflow: RealAirflow, conf: dict[str, Any], reprocess: str) -> dict[str, str]:
    """Prepare the days; the newest run of each partition."""
    # The scheduler looks now and then which backfills are done, and Airflow takes no other one of the DAG before.
    airflow.wait_until(lambda: not unfinished(airflow), "the end of the former backfill", 300)
    before = {each["dag_run_id"] for each in runs_of(airflow)}
    body = {
        "dag_id": DAG_ID,
        "from_date": f"{DAYS[0]}T00:00:00Z",
        "to_date": f"{DAYS[-1]}T00:00:00Z",
        "max_active_runs": 2,
        "dag_run_conf": conf,
        "reprocess_behavior": reprocess,
    }
    airflow.api.call("POST", "/backfills", json=body)
    runs: dict[str, str] = {}

    def are_there() -> bool:
        new = [each for each in runs_of(airflow) if each["dag_run_id"] not in before]
        new = [each for each in new if each["run_type"] == "backfill"]  # the schedule has made one, too
        runs.update({each["partition_key"]: each["dag_run_id"] for each in new})
        return set(runs) >= set(DAYS)

    airflow.wait_until(are_there, "the backfill's runs", 300, lambda: runs)
    assert sorted(runs) == DAYS
    for day in DAYS:
        assert airflow.wait(DAG_ID, runs[day], 900) == "success", airflow.tasks(DAG_ID, runs[day])
    return runs


def unfinished(airflow: RealAirflow) -> list[dict[str, Any]]:
    found = airflow.api.call("GET", "/backfills", params={"dag_id": DAG_ID})["backfills"]
    return [each for each in found if not each["completed_at"]]


def runs_of(airflow: RealAirflow) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = airflow.api.call("GET", f"/dags/{DAG_ID}/dagRuns", params={"limit": 90})[
        "dag_runs"
    ]
    return found


def everything(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(file.relative_to(directory)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in directory.rglob("*")
        if file.is_file()
    }


def test_each_day_is_a_version_and_again_nothing_changes(airflow, raw, tmp_path):
    catalog = tmp_path / "catalog"
    steps = [{"step": "normalise"}, {"step": "drop_duplicates"}, {"step": "split", "share": 0.3}]
    conf = {"source": f"{raw}/{{partition}}.jsonl", "catalog": str(catalog), "steps": steps}
    runs = backfill(airflow, conf, "none")
    published = {day: airflow.xcom(DAG_ID, runs[day], "publish")["details"] for day in DAYS}
    assert len({each["version"] for each in published.values()}) == len(DAYS)
    for day, each in published.items():
        assert (each["partition"], each["is_new"], each["before"]) == (day, True, None)
        manifest = json.loads((Path(each["directory"]) / "manifest.json").read_text())
        counts = manifest["counts"]
        assert counts["rows_in"] == counts["used"] + counts["rejected"]
        rows = [
            json.loads(line)
            for file in each["files"].values()
            for line in Path(file).read_text().splitlines()
        ]
        assert len(rows) == manifest["rows"] == 20
        assert {row["prompt"] for row in rows} == {f"Where is thing {n} on {day}?" for n in range(20)}
        assert all(row["row_id"] for row in rows)

    links = airflow.links(DAG_ID, runs[BROKEN], "validate_raw")
    assert "is not valid JSON" in airflow.api.page(links["Data docs"]).text
    profile = airflow.xcom(DAG_ID, runs[BROKEN], "profile")
    assert (profile["metrics"]["exact_duplicates"], profile["metrics"]["bad_lines"]) == (1, 1)
    page = airflow.api.page(airflow.links(DAG_ID, runs[BROKEN], "profile")["Profile"]).text
    assert "is not valid JSON" in page and f"Where is thing 0 on {BROKEN}?" in page
    events = airflow.api.call("GET", "/assets/events", params={"limit": 50})["asset_events"]
    told = {
        each["partition_key"]: each["extra"]["version"] for each in events if each["source_dag_id"] == DAG_ID
    }
    assert told == {day: each["version"] for day, each in published.items()}

    before = everything(catalog)
    again = backfill(airflow, conf, "completed")
    assert {day: airflow.xcom(DAG_ID, again[day], "publish")["details"]["version"] for day in DAYS} == told
    assert everything(catalog) == before


def test_form_has_type_range_and_help_for_every_parameter(airflow):
    params = airflow.api.call("GET", f"/dags/{DAG_ID}/details")["params"]
    for name, param in params.items():
        assert param["description"], name
        assert {"type", "title"} <= param["schema"].keys(), name
