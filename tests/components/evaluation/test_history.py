"""Evaluations by partition: records that no order changes, the comparison with the partition before, and the trend."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hostile_service import Does, answer_to, hostile_service
from llmops_components.errors import DataError, SettingError, UnavailableError
from llmops_components.evaluation.history.record import record_evaluation
from llmops_components.evaluation.history.records import History
from llmops_components.evaluation.history.series import find_run, step_of
from llmops_components.evaluation.service import evaluate_service
from tiny_model import write_rows

THINGS = [f"thing {number}" for number in range(24)]
ROWS = [
    {"prompt": f"Where is {thing}?", "reference": f"In box {n} of room one"} for n, thing in enumerate(THINGS)
]
METRICS = ["rougeL", "bleu", "exact_match"]
DAYS = ["2026-11-23", "2026-11-24", "2026-11-25"]
WRONG = dict(zip(DAYS, (3, 9, 0), strict=True))  # one question in so many is answered wrongly


class Evaluated:
    """An evaluation of a service, done once, to be recorded as often as somebody likes."""

    def __init__(
        self, directory: Path, day: str, rows=ROWS, baseline: Evaluated | None = None, **settings: Any
    ) -> None:
        self.day, self.scores = day, directory / f"{day}.jsonl"

        def answers(prompt: str, nth: int) -> Does:
            number = int(re.findall(r"\d+", prompt)[-1])
            if number == settings.get("silent"):
                return Does(400, {"error": {"message": "no"}})
            room = "two" if WRONG.get(day) and number % WRONG[day] == 0 else "one"
            return Does(body=answer_to(prompt, f"In box {number} of room {room}"))

        with hostile_service(answers) as server:
            report = evaluate_service(
                write_rows(directory / f"{day}.rows", rows),
                self.scores,
                directory / f"{day}.html",
                url=server.url,
                model_name="m",
                metric_names=settings.get("metric_names", METRICS),
                composites={"quality": {"rougeL": 0.5, "bleu": 0.005}}
                if "metric_names" not in settings
                else None,
                baseline_scores=baseline.scores if baseline else None,
            )
        self.comparison = report.comparison.model_dump()

    def record(self, history: Path, **more: Any):
        return record_evaluation(
            self.scores,
            history.parent / f"{history.name}-{self.day}.html",
            **{"history": history, "partition": self.day, "comparison": self.comparison, **more},
        )


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Evaluated]:
    directory = tmp_path_factory.mktemp("evaluations")
    return {day: Evaluated(directory, day) for day in DAYS}


def content_of(history: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in history.iterdir()}


def test_partition_is_compared_with_the_one_before_as_an_evaluation_with_its_scores_does(days, tmp_path):
    first = days[DAYS[0]].record(tmp_path / "h")
    assert not first.comparison.has_baseline and first.details["compared_with"] is None
    assert first.findings == [
        "No partition before 2026-11-23 has a record: there is nothing to compare with."
    ]
    assert first.comparison.model_dump()["metrics"] == days[DAYS[0]].comparison["metrics"]

    again = Evaluated(tmp_path, DAYS[1], baseline=days[DAYS[0]])
    done = again.record(tmp_path / "h")
    assert (done.details["compared_with"], done.metrics["partitions"], done.metrics["samples"]) == (
        DAYS[0],
        2,
        24,
    )
    assert done.findings == ["Compared with 2026-11-23, the partition before."]
    found = done.comparison.model_dump()
    assert found["has_baseline"]
    assert list(found["metrics"]) == [*METRICS, "quality"]
    weighed, expected = found["metrics"].pop("quality"), again.comparison["metrics"]
    for name, metric in found["metrics"].items():
        for part in ("candidate", "baseline", "difference"):
            assert metric.pop(part) == {
                key: pytest.approx(value, abs=2e-4) for key, value in expected[name].pop(part).items()
            }, (name, part)
        assert metric == expected[name]
    # Nobody knows the limits of a sum here: where few rows differ, it has no bounds, and a rule on them stays undecided.
    assert weighed["difference"]["value"] == pytest.approx(
        expected["quality"]["difference"]["value"], abs=1e-6
    )
    assert (weighed["difference"]["lower"], weighed["candidate"]) == ([], expected["quality"]["candidate"])


@pytest.mark.parametrize("order", list(itertools.permutations(DAYS)), ids="-".join)
def test_history_is_the_same_whatever_the_order(days, tmp_path, order):
    for day in DAYS:
        days[day].record(tmp_path / "expected")
    for day in order:
        days[day].record(tmp_path / "found")
    assert content_of(tmp_path / "found") == content_of(tmp_path / "expected")
    assert sorted(content_of(tmp_path / "found")) == [*(f"{day}.jsonl" for day in DAYS), "trend.html"]


def test_history_is_the_same_where_all_are_recorded_at_once_and_again(days, tmp_path):
    for day in DAYS:
        days[day].record(tmp_path / "expected")
    for turn in range(4):
        with ThreadPoolExecutor(6) as pool:
            done = [pool.submit(days[day].record, tmp_path / f"found-{turn}") for day in DAYS * 2]
        assert [each.result().passed for each in done] == [True] * 6
        assert content_of(tmp_path / f"found-{turn}") == content_of(tmp_path / "expected")


def test_partition_again_replaces_its_own_record_and_no_other(days, tmp_path):
    history = tmp_path / "h"
    for day in DAYS:
        days[day].record(history)
    before = content_of(history)
    worse = Evaluated(tmp_path, DAYS[1], silent=5)
    worse.record(history)
    after = content_of(history)
    assert {name for name in after if after[name] != before[name]} == {"2026-11-24.jsonl", "trend.html"}
    (record,) = [each for each in History(history).records() if each.partition == DAYS[1]]
    assert (record.metrics["rougeL"].rows_unscored, record.metrics["rougeL"].rows_scored) == (1, 23)
    assert (
        b'class="point missing"' in after["trend.html"]
        and b'class="point missing"' not in before["trend.html"]
    )
    days[DAYS[1]].record(history)
    assert content_of(history) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": ROWS[1:]}, "rows are others"),
        ({"metric_names": ["rougeL"]}, "metrics are others"),
        ({"settings": {"judge": "a newer one"}}, "settings are others"),
    ],
)
def test_what_is_not_comparable_is_not_compared_and_told(days, tmp_path, change, said):
    history = tmp_path / "h"
    days[DAYS[0]].record(history, settings={"judge": "one"})
    settings = change.pop("settings", {"judge": "one"})
    done = Evaluated(tmp_path, DAYS[1], **change).record(history, settings=settings)
    assert not done.comparison.has_baseline and done.details["compared_with"] is None
    assert done.findings == [f"2026-11-24 is not compared with 2026-11-23, the partition before: its {said}."]
    is_marked = 'class="break"' in (history / "trend.html").read_text()
    assert is_marked == (settings != {"judge": "one"})


def test_metric_that_is_no_mean_of_its_rows_is_not_compared_as_if_it_were(days, tmp_path):
    for day in DAYS[:2]:
        told = json.loads(json.dumps(days[day].comparison))
        for end in ("value", "low", "high"):
            told["metrics"]["rougeL"]["candidate"][end] += 1
        done = days[day].record(tmp_path / "h", comparison=told)
    assert done.findings[1].startswith("rougeL is no mean of its rows' scores, and is not compared")
    compared = done.comparison.metrics
    assert (compared["rougeL"].pairs_scored, compared["exact_match"].pairs_scored) == (0, 24)


def test_scores_of_another_evaluation_are_refused(days, tmp_path):
    first, second = days[DAYS[0]], Evaluated(tmp_path, DAYS[1], rows=ROWS[1:])
    with pytest.raises(
        DataError, match="The scores have 23 rows with rougeL and 0 without, the comparison 24 and 0"
    ):
        second.record(tmp_path / "h", comparison=first.comparison)
    other = Evaluated(tmp_path, DAYS[2], metric_names=["chrf"])
    with pytest.raises(DataError, match="The scores have no rougeL, and the comparison does"):
        other.record(tmp_path / "h", comparison=first.comparison)
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize("partition", ["", "..", "-a", "a\nb", "x" * 201, "ü" * 34, 3, None])
def test_what_is_no_partition_is_refused(days, tmp_path, partition):
    with pytest.raises(SettingError, match=r"^partition is "):
        days[DAYS[0]].record(tmp_path / "h", partition=partition)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (b"", "its first line is no JSON"),
        (b'{"schema_version": 2}\n', "schema_version: Input should be 1"),
        (b"\xff{}\n", "its first line is no JSON"),
    ],
)
def test_record_that_cannot_be_read_is_named(days, tmp_path, broken, why):
    history = tmp_path / "h"
    days[DAYS[0]].record(history)
    (history / "2026-11-22.jsonl").write_bytes(broken)
    with pytest.raises(DataError, match=rf"A record of the history cannot be read: .*{why}.*Take it away"):
        days[DAYS[1]].record(history)


def test_questions_in_the_directory_of_the_history_are_left_alone(days, tmp_path):
    questions = write_rows(tmp_path / f"{DAYS[1]}.jsonl", ROWS)
    before = questions.read_bytes()
    for day in DAYS[:2]:
        with pytest.raises(DataError, match="give history a directory of its own"):
            days[day].record(tmp_path)
    assert questions.read_bytes() == before and not (tmp_path / f"{DAYS[0]}.jsonl").exists()


def test_page_works_alone_and_takes_no_text_for_html(days, tmp_path):
    history = tmp_path / "h"
    for name in ("a/b <script>alert(1)</script>", "region é"):
        days[DAYS[0]].record(history, partition=name, title="Trend & <b>more</b>")
    page = (history / "trend.html").read_text()
    assert page == (tmp_path / f"h-{DAYS[0]}.html").read_text()
    assert "<script" not in page and "<b>" not in page and "http" not in re.sub("http-equiv", "", page)
    assert page.count("<svg ") == 4 and page.count("<polyline ") == 4
    assert "a/b &lt;script&gt;" in page and "region é" in page
    assert len(History(history).records()) == 2


@pytest.fixture
def mlflow_url(mlflow_port: int) -> str:
    return f"http://127.0.0.1:{mlflow_port}"


def test_mlflow_has_a_point_for_each_partition_at_its_date_whatever_the_order(days, tmp_path, mlflow_url):
    import mlflow

    client, history = mlflow.MlflowClient(mlflow_url), tmp_path / "h"

    def record(day: str, evaluated: Evaluated | None = None) -> dict[str, Any]:
        done = (evaluated or days[day]).record(
            history, tracking_uri=mlflow_url, experiment="history", title="chat"
        )
        return done.details["mlflow"]

    logged = [record(day) for day in (DAYS[2], DAYS[0], DAYS[1])]
    (run,) = client.search_runs([logged[0]["experiment_id"]])
    assert {each["run_id"] for each in logged} == {run.info.run_id}
    assert logged[0]["links"] == {
        "run": f"{mlflow_url}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    }
    assert (run.info.run_name, run.info.status, run.data.params) == (
        "chat",
        "FINISHED",
        {"history": str(history)},
    )
    assert run.data.metrics.keys() == {*METRICS, "quality"}

    def points() -> list[tuple[int, float]]:
        found = client.get_metric_history(run.info.run_id, "exact_match")
        return [
            (each.step, round(each.value, 6))
            for each in sorted(found, key=lambda each: (each.step, each.timestamp))
        ]

    first = 20780  # 2026-11-23, in days since 1970
    expected = [(first, 0.666667), (first + 1, 0.875), (first + 2, 1.0)]
    assert points() == expected
    record(DAYS[0])  # the same again
    assert points() == expected
    record(DAYS[1], Evaluated(tmp_path, DAYS[1], silent=5))
    record(DAYS[1], Evaluated(tmp_path, DAYS[1], silent=5))
    assert points() == [expected[0], expected[1], (first + 1, 0.869565), expected[2]]


def test_metric_whose_name_mlflow_does_not_take_is_logged_under_one_that_it_does(days, tmp_path, mlflow_url):
    import mlflow

    told, scores = json.loads(json.dumps(days[DAYS[0]].comparison)), tmp_path / "scores.jsonl"
    told["metrics"] = {"quality (all)": told["metrics"]["quality"]}
    lines = [json.loads(line) for line in days[DAYS[0]].scores.read_text().split("\n") if line]
    write_rows(scores, [{**line, "quality (all)": line["quality"]} for line in lines])
    done = record_evaluation(
        scores,
        tmp_path / "t.html",
        history=tmp_path / "h",
        partition=DAYS[0],
        comparison=told,
        tracking_uri=mlflow_url,
    )
    run = mlflow.MlflowClient(mlflow_url).get_run(done.details["mlflow"]["run_id"])
    assert run.data.metrics.keys() == {"quality _all_"}


def test_histories_that_begin_at_the_same_time_share_one_run(mlflow_url):
    import mlflow

    client = mlflow.MlflowClient(mlflow_url)
    experiment = client.create_experiment("history-race")
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(find_run, client, experiment, "/h", "chat") for _ in range(4)]
    found = {each.result() for each in asked}
    (run,) = client.search_runs([experiment])
    assert find_run(client, experiment, "/h", "chat") == run.info.run_id and run.info.run_id in found
    assert find_run(client, experiment, "/other", "chat") != run.info.run_id


@pytest.mark.parametrize(
    ("partition", "step"),
    [("1970-01-02", 1), ("2026-11-25T06:00:00", 1795586400), ("2026-11-25T08:00:00+02:00", 1795586400)],
)
def test_step_is_the_date_of_the_partition(partition, step):
    assert step_of(partition) == step


def test_partition_without_a_date_is_refused_before_anything_is_kept_where_mlflow_needs_a_number(
    days, tmp_path
):
    with pytest.raises(SettingError, match="partition is 'north', which is no date"):
        days[DAYS[0]].record(tmp_path / "h", partition="north", tracking_uri="http://127.0.0.1:1")
    assert not (tmp_path / "h").exists()
    with pytest.raises(UnavailableError):
        days[DAYS[0]].record(tmp_path / "h", tracking_uri="http://127.0.0.1:1")
    assert [each.partition for each in History(tmp_path / "h").records()] == [DAYS[0]]
