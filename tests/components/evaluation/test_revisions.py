"""Two revisions on the same questions, over real sockets, scored as the libraries score them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_service import Does, Server, answer_to, hostile_service
from llmops_components.data.files import write_rows
from llmops_components.errors import DataError, SettingError
from llmops_components.evaluation.revisions import compare_revisions
from llmops_components.inference import pool
from llmops_components.inference.pool import ServiceGoneError
from llmops_components.results import digest_of
from rapidfuzz.distance import Levenshtein
from rouge_score.rouge_scorer import RougeScorer

COLOURS = {
    "sky": "blue",
    "sun": "yellow",
    "coal": "black",
    "plum": "purple",
    "grass": "green",
    "snow": "white",
}
ROWS = [
    {"prompt": f"What colour is the {thing}?", "reference": f"The {thing} is {colour}."}
    for thing, colour in COLOURS.items()
]
GOOD = {row["prompt"]: row["reference"] for row in ROWS}
BAD = dict.fromkeys(GOOD, "mumble mumble is")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_FIRST_DELAY_SECONDS", 0.01)
    for name in ("LLMOPS_CHECKPOINTS", "LLMOPS_SERVICE_KEY", "LLMOPS_SERVICE_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


def saying(answers: dict[str, str | Does]) -> Any:
    """A server with an answer to each question."""

    def does(prompt: str, nth: int) -> Does:
        answer = answers[prompt]
        return answer if isinstance(answer, Does) else Does(body=answer_to(prompt, answer))

    return hostile_service(does)


class Compared:
    """A dataset of questions, and what comes of a comparison."""

    def __init__(self, directory: Path) -> None:
        self.dataset = directory / "rows.jsonl"
        self.scores, self.page, self.worst = (
            directory / name for name in ("scores.jsonl", "report.html", "worst.json")
        )

    def run(self, candidate: Server, baseline: Server, rows: list[dict] | None = None, **more: Any):
        write_rows(self.dataset, ROWS if rows is None else rows)
        settings = {"metric_names": ["rougeL", "string_similarity"], "model_name": "m"} | more
        return compare_revisions(
            *(self.dataset, self.scores, self.page, self.worst),
            **{"url": candidate.url, "baseline_url": baseline.url, **settings},
        )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.scores.read_text().splitlines()]


@pytest.fixture
def compared(tmp_path: Path) -> Compared:
    return Compared(tmp_path)


def test_an_answer_may_have_any_character_that_others_take_for_the_end_of_a_line(compared):
    odd = {question: f"{answer}\u2028\x85\x0b." for question, answer in GOOD.items()}
    with saying(odd) as one, saying(GOOD) as other:
        assert compared.run(one, other).metrics["candidate_unanswered"] == 0


def test_answers_are_scored_as_the_libraries_do_and_compared_row_by_row(compared):
    some = GOOD | {ROWS[1]["prompt"]: "The sun is green."}
    with saying(BAD) as bad, saying(some) as good:
        report = compared.run(bad, good)
    assert {sum(server.asked.values()) for server in (bad, good)} == {len(ROWS)}
    rouge = RougeScorer(["rougeL"])
    lines = compared.lines()
    for line, row in zip(lines, ROWS, strict=True):
        assert {name: line[name] for name in row} == row
        assert (line["answer"], line["baseline_answer"]) == (BAD[row["prompt"]], some[row["prompt"]])
        for answer, key in (("answer", "scores"), ("baseline_answer", "baseline_scores")):
            expected = {
                "rougeL": rouge.score(row["reference"], line[answer])["rougeL"].fmeasure,
                "string_similarity": 1 - Levenshtein.normalized_distance(row["reference"], line[answer]),
            }
            assert line[key] == pytest.approx(expected, abs=1e-6)
    each = report.comparison.metrics["rougeL"]
    means = [np.mean([line[key]["rougeL"] for line in lines]) for key in ("scores", "baseline_scores")]
    assert (each.candidate.value, each.baseline.value) == pytest.approx(means, abs=1e-6)
    assert each.difference.value == pytest.approx(means[0] - means[1], abs=1e-6)
    assert each.difference.low <= each.difference.value <= each.difference.high
    assert each.difference.upper[1] < 0  # at the level 0.05: six rows say no more
    assert (each.rows_scored, each.rows_unscored) == (len(ROWS), 0)
    assert report.passed and report.findings == []
    counts = {name: report.metrics[name] for name in ("rows", "candidate_unanswered", "baseline_unanswered")}
    assert counts == {"rows": 6, "candidate_unanswered": 0, "baseline_unanswered": 0}
    assert report.metrics["candidate_seconds_p95"] > 0 < report.metrics["baseline_seconds_p95"]
    worst = json.loads(compared.worst.read_text())
    assert (worst["metric"], worst["against"]) == ("rougeL", "reference")
    changes = [row["change"] for row in worst["rows"]]
    assert changes == sorted(changes) and len(changes) == len(ROWS)
    told = report.details["worst"]
    assert [row["row"] for row in told] == [row["row"] for row in worst["rows"][:3]]
    assert told[0]["answer"] == "mumble mumble is" and told[0]["baseline_answer"].endswith(".")
    page = compared.page.read_text()
    assert "No clear difference in rougeL, string_similarity" in page and "mumble mumble" in page
    assert f"<dt>Dataset digest<dd>{digest_of(compared.dataset)[0]}" in page
    assert sorted(file.name for file in compared.scores.parent.iterdir()) == [
        *("report.html", "rows.jsonl", "scores.jsonl", "worst.json")
    ]


def test_equal_answers_are_no_difference(compared):
    with saying(GOOD) as one, saying(GOOD) as other:
        report = compared.run(one, other)
    each = report.comparison.metrics["rougeL"]
    assert (each.candidate.value, each.baseline.value, each.difference.value) == (1, 1, 0)
    assert report.details["worst"] == [] and json.loads(compared.worst.read_text())["rows"] == []


def test_without_references_the_other_revisions_answer_is_the_measure(compared):
    rows = [{"prompt": row["prompt"]} for row in ROWS]
    answers = GOOD | {ROWS[0]["prompt"]: "The sky was blue."}
    with saying(answers) as one, saying(GOOD) as other:
        report = compared.run(one, other, rows)
        again = compared.run(one, other, against="baseline")
    expected = RougeScorer(["rougeL"]).score("The sky is blue.", "The sky was blue.")["rougeL"].fmeasure
    each = report.comparison.metrics["rougeL"]
    assert each.candidate.value == pytest.approx((5 + expected) / 6, abs=1e-6)
    assert (each.baseline.value, report.details["against"]) == (1, "baseline")
    assert again.comparison == report.comparison
    assert "reference" not in compared.lines()[0]
    assert "scored against the baseline" in compared.page.read_text()


def test_what_is_not_answered_is_not_scored_and_stands_first_among_the_worst(compared):
    first, second, third = (row["prompt"] for row in ROWS[:3])
    refusal = Does(400, {"error": {"message": "too long"}})
    candidate = GOOD | {first: "The sky is", second: refusal}
    with saying(candidate) as one, saying(GOOD | {third: Does(500, {"error": "oops"})}) as other:
        report = compared.run(one, other, limits={"attempts": 2})
    assert other.asked[third] == 2
    each = report.comparison.metrics["rougeL"]
    assert (each.rows_scored, each.rows_unscored) == (4, 2)
    assert (report.metrics["candidate_unanswered"], report.metrics["baseline_unanswered"]) == (1, 1)
    assert report.findings == [
        "The revision did not answer 1 of 6 rows, which have no score: row 2. The first: HTTP 400: too long",
        "The baseline did not answer 1 of 6 rows, which have no score: row 3. The first: HTTP 500: oops",
    ]
    assert [row["row"] for row in json.loads(compared.worst.read_text())["rows"]] == [2, 1]
    assert report.details["worst"][0]["answer"] == "[not answered: HTTP 400: too long]"
    line = compared.lines()[1]
    assert (line["answer"], line["reason"], line["scores"]["rougeL"]) == (None, "HTTP 400: too long", None)
    assert "[not answered: HTTP 500: oops]" in compared.page.read_text()


def test_nothing_answered_is_no_comparison(compared):
    gone = dict.fromkeys(GOOD, Does(400, {"error": "no"}))
    with saying(gone) as one, saying(GOOD) as other:
        report = compared.run(one, other)
    each = report.comparison.metrics["rougeL"]
    assert (each.candidate, each.difference, each.rows_unscored) == (None, None, 6)
    assert "No score for rougeL" in compared.page.read_text()


def test_a_revision_is_chosen_by_name_or_the_comparison_is_refused(compared):
    both = {"revision": "00002", "baseline_revision": "00001", "baseline_url": None}
    with (
        hostile_service() as plain,
        pytest.raises(SettingError, match=r"Revision 0000\d was asked, and one that"),
    ):
        compared.run(plain, plain, **both)
    assert {headers["x-llmops-revision"] for headers in plain.headers} <= {"00001", "00002"}


def test_a_service_that_shares_questions_out_is_refused(compared):
    names = iter(["00001", "00002"] * 100)
    both = {"revision": "00002", "baseline_revision": "00001", "baseline_url": None}
    with (
        hostile_service(lambda prompt, nth: Does(headers={"x-llmops-revision": next(names)})) as splits,
        pytest.raises(SettingError, match="does not let a client choose"),
    ):
        compared.run(splits, splits, **both)


def test_answers_of_several_revisions_are_not_compared_as_those_of_one(compared):
    names = iter(["00001", "00002"] * 100)
    with (
        hostile_service(lambda prompt, nth: Does(headers={"x-llmops-revision": next(names)})) as splits,
        saying(GOOD) as other,
        pytest.raises(
            SettingError, match=r"Several revisions have answered at .*0000\d, 0000\d\. Give the name"
        ),
    ):
        compared.run(splits, other)


def test_an_interrupted_comparison_asks_only_what_is_open(compared, tmp_path):
    open_ones = {row["prompt"] for row in ROWS[3:]}
    # Once the others are answered, it wants to be asked again after more time than a service may be gone.
    later = Does(503, {"error": "starting"}, headers={"Retry-After": "600"}, seconds=1)
    gone = GOOD | dict.fromkeys(open_ones, later)
    settings = {"checkpoints": tmp_path / "kept"}
    with saying(gone) as one, saying(GOOD) as other:
        with pytest.raises(ServiceGoneError):
            compared.run(one, other, **settings)
        one.behave = lambda prompt, nth: Does(body=answer_to(prompt, GOOD[prompt]))
        before = one.asked.copy()
        report = compared.run(one, other, **settings)
    assert set(one.asked - before) == open_ones
    assert set(other.asked.values()) == {1}
    assert report.comparison.metrics["rougeL"].rows_scored == len(ROWS)


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (ROWS, {"baseline_url": None}, "The revision would be compared with itself"),
        (ROWS, {"baseline_url": "the same"}, "The revision would be compared with itself"),
        (ROWS, {"baseline_url": None, "revision": "00002"}, "baseline_revision is not given, and both have"),
        (ROWS, {"baseline_url": None, "baseline_revision": "00001"}, "revision is not given, and both have"),
        (
            [*ROWS, {"prompt": "?"}],
            {},
            r"1 of 7 rows have no text as reference: row 7\. Give all of them one",
        ),
        ([{"prompt": "?"}], {"against": "reference"}, "1 of 1 rows have no text as reference"),
        (ROWS, {"against": "referense"}, "Did you mean 'reference'|reference"),
        ([*ROWS, {"prompt": "", "reference": ""}], {}, "line 7: prompt is empty"),
        (ROWS, {"metric_names": ["reward"]}, "metric_names has reward"),
        (ROWS, {"metric_names": ["rougeLL"]}, "rougeL"),
        (ROWS, {"revision": "a b"}, "is no name of a revision"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_asked(compared, rows, settings, message):
    if settings.get("baseline_url") == "the same":
        settings = {**settings, "url": "http://127.0.0.1:9", "baseline_url": "http://127.0.0.1:9/"}
    with hostile_service() as one, hostile_service() as other:
        with pytest.raises((SettingError, DataError), match=message):
            compared.run(one, other, rows, **settings)
        assert not one.asked and not other.asked


def test_only_the_first_rows_are_asked_where_so_many_are_wanted(compared, tmp_path):
    with saying(GOOD) as candidate, saying(BAD) as baseline:
        said = compared.run(candidate, baseline, max_rows=2)
    assert [line["prompt"] for line in compared.lines()] == [row["prompt"] for row in ROWS[:2]]
    assert (said.metrics["rows"], said.comparison.metrics["rougeL"].rows_scored) == (2, 2)
    assert [server.asked.total() for server in (candidate, baseline)] == [2, 2]
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize("count", [0, -1, True, 2.5, "2"])
def test_rows_to_ask_are_a_whole_number(compared, count):
    with (
        saying(GOOD) as server,
        pytest.raises(SettingError, match=r"max_rows is .* Give a whole number from 1"),
    ):
        compared.run(server, server, revision="a", baseline_revision="b", max_rows=count)
