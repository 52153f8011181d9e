"""Review sheets: blind, complete, filled in by a real browser, and read back to the last line."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import in_browser, needs_browser
from llmops_components.data.validation import validate_dataset
from llmops_components.errors import DataError, SettingError
from llmops_components.evaluation.agreement import agreement, cohens_kappa, mean_pairwise_kappa
from llmops_components.evaluation.human.labels import collect_human_labels
from llmops_components.evaluation.human.sheet import write_review_sheet

OUTPUTS = ("judgements", "preferences", "rejected")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def scored(model: str, count: int, **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "row": n,
            "prompt": f"Question {n}?",
            "reference": f"Right {n}",
            "answer": f"{model} says {n}",
            **changes,
        }
        for n in range(1, count + 1)
    ]


class Review:
    """A sheet and what comes of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sheet, self.key = directory / "sheet.html", directory / "key.json"
        self.outputs = [directory / f"{name}.jsonl" for name in OUTPUTS]

    def write(self, ours: list[dict], theirs: list[dict] | None = None, **more: Any):
        scores = write(self.directory / "ours.jsonl", ours)
        if theirs is not None:
            more["baseline_scores"] = write(self.directory / "theirs.jsonl", theirs)
        return write_review_sheet(scores, self.sheet, self.key, **more)

    @property
    def items(self) -> dict[str, dict[str, Any]]:
        return json.loads(self.key.read_text())["items"]

    def label(self, item: str, preferred: str, rater: str = "Ada", **more: Any) -> dict[str, Any]:
        """A line as the sheet saves it."""
        left = self.items[item]["left"]
        choice = preferred if preferred in ("tie", "skip") else ("left" if preferred == left else "right")
        sheet = json.loads(self.key.read_text())["sheet"]
        return {
            "sheet": sheet,
            "item": item,
            "rater": rater,
            "choice": choice,
            "comment": "",
            "at": "2026-01-01",
            **more,
        }

    def collect(self, labels: list[dict] | Path, **more: Any):
        path = labels if isinstance(labels, Path) else write(self.directory / "labels.jsonl", labels)
        return collect_human_labels(path, self.key, *self.outputs, **more)

    def made(self) -> dict[str, list[dict[str, Any]]]:
        return {name: lines(path) for name, path in zip(OUTPUTS, self.outputs, strict=True)}


@pytest.fixture
def review(tmp_path: Path) -> Review:
    return Review(tmp_path)


def test_pairs_are_drawn_blind_in_random_order_and_told_where_they_are_left_out(review):
    ours, theirs = scored("tuned", 200), scored("base", 200)
    theirs[3]["answer"] = f" {ours[3]['answer']}\n"
    ours[7]["answer"] = None
    report = review.write(ours, theirs, pairs=100)
    assert report.metrics == {"rows": 200, "pairs": 100, "same_answers": 1, "unanswered": 1}
    assert len(report.findings) == 2
    items = list(review.items.values())
    rows = [item["row"] for item in items]
    assert len(set(rows)) == 100 and not {4, 8} & set(rows) and rows != sorted(rows)
    assert 30 <= sum(item["left"] == "candidate" for item in items) <= 70
    data = json.loads(review.sheet.read_text().partition('id="data">')[2].partition("</script>")[0])
    for shown, item in zip(data["items"], items, strict=True):
        other = "baseline" if item["left"] == "candidate" else "candidate"
        assert (shown["left"], shown["right"]) == (item[item["left"]], item[other])
        assert set(shown) == {"item", "prompt", "left", "right", "reference"}
    page = review.sheet.read_text()
    assert "candidate" not in page and "baseline" not in page
    assert "http" not in page.replace("http-equiv", "")
    key, before = review.key.read_text(), page
    review.write(ours, theirs, pairs=100)
    assert (review.key.read_text(), review.sheet.read_text()) == (key, before)
    review.write(ours, theirs, pairs=100, seed=1)
    assert json.loads(review.key.read_text())["sheet"] not in key


def test_a_comparison_of_revisions_has_both_answers_in_one_file(review):
    rows = [{**row, "baseline_answer": f"base says {row['row']}"} for row in scored("tuned", 3)]
    review.write(rows, show_reference=False)
    assert {(item["candidate"], item["baseline"]) for item in review.items.values()} == {
        (f"tuned says {n}", f"base says {n}") for n in (1, 2, 3)
    }
    assert "Right 1" not in review.sheet.read_text()


@pytest.mark.parametrize(
    ("ours", "theirs", "more", "error", "message"),
    [
        (scored("a", 3), scored("b", 2), {}, DataError, "have 3 rows, those of the baseline 2"),
        (
            scored("a", 3),
            scored("b", 3, prompt="Other?"),
            {},
            DataError,
            "Row 1: prompt of both scores differ",
        ),
        (
            scored("a", 3),
            scored("a", 3),
            {},
            DataError,
            "nothing to judge: of 3 rows 3 were answered by both",
        ),
        (scored("a", 3, answer=None), scored("b", 3), {}, DataError, "nothing to judge: of 3 rows 0"),
        (
            scored("a", 3),
            None,
            {},
            DataError,
            "Row 1 of the baseline's scores has no text as baseline_answer",
        ),
        (scored("a", 3, prompt=7), scored("b", 3), {}, DataError, "Row 1 of the scores has no prompt"),
        (
            scored("a", 3),
            scored("b", 3),
            {"pairs": 0},
            SettingError,
            "pairs must be a whole number from 1 to 1000",
        ),
        (scored("a", 3), scored("b", 3), {"seed": True}, SettingError, "seed must be a whole number"),
        (scored("a", 3), scored("b", 3), {"question": " "}, SettingError, "question must be text"),
    ],
)
def test_what_makes_no_sheet_is_refused_by_name(review, ours, theirs, more, error, message):
    with pytest.raises(error, match=message):
        review.write(ours, theirs, **more)
    assert not review.sheet.exists()


def test_judgements_become_a_comparison_and_preferences_to_train_with(review, tmp_path):
    review.write(scored("tuned", 6), scored("base", 6))
    said = ["candidate", "candidate", "candidate", "baseline", "tie", "skip"]
    names = list(review.items)
    report = review.collect([review.label(*each) for each in zip(names, said, strict=True)], min_judged=0.8)
    assert report.passed
    assert report.metrics == {
        "pairs": 6,
        "judged": 5,
        "raters": 1,
        "ties": 1,
        "rejected_lines": 0,
        "human_preference": 0.7,
    }
    compared = report.comparison.metrics["human_preference"]
    assert (compared.rows_scored, compared.rows_unscored) == (5, 1)
    assert math.isclose(compared.difference.value, 0.4)
    made = review.made()
    for line, name, preferred in zip(made["judgements"], names, said, strict=True):
        assert (line["row"], line["preferred"]) == (review.items[name]["row"], preferred)
    assert len(made["preferences"]) == 4
    for row, name, preferred in zip(made["preferences"], names, said, strict=False):
        item = review.items[name]
        worse = "baseline" if preferred == "candidate" else "candidate"
        assert row == {"prompt": item["prompt"], "chosen": item[preferred], "rejected": item[worse]}
    checked = validate_dataset(
        review.outputs[1],
        *(tmp_path / name for name in ("ok", "bad", "result", "docs")),
        dataset_format="preference",
    )
    assert checked.passed and checked.metrics["accepted_rows"] == 4


def test_share_that_is_judged_is_compared_without_errors_of_rounding(review):
    review.write(scored("tuned", 100), scored("base", 100), pairs=100)
    labels = [review.label(item, "tie") for item in list(review.items)[:55]]
    assert review.collect(labels, min_judged=0.55).passed
    assert not review.collect(labels, min_judged=0.56).passed


def test_conversations_become_preferences_of_conversations(review):
    prompt = [
        {"role": "system", "content": "Kurz."},
        {"role": "user", "content": "Warum ist der Himmel blau?"},
    ]
    review.write(scored("tuned", 1, prompt=prompt), scored("base", 1, prompt=prompt))
    review.collect([review.label(next(iter(review.items)), "baseline")])
    assert review.made()["preferences"] == [
        {
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": "base says 1"}],
            "rejected": [{"role": "assistant", "content": "tuned says 1"}],
        }
    ]


def test_several_people_are_averaged_and_each_ones_last_word_counts(review, tmp_path):
    review.write(scored("tuned", 4), scored("base", 4))
    names = list(review.items)
    directory = tmp_path / "labels"
    directory.mkdir()
    ada = [review.label(name, "candidate", at="2026-01-02") for name in names]
    before = [review.label(names[0], "baseline", at="2026-01-01")]
    bob = [
        review.label(*each, rater="Bob")
        for each in zip(names, ["candidate", "baseline", "tie", "skip"], strict=True)
    ]
    write(directory / "ada.jsonl", ada)
    write(directory / "bob.jsonl", [*bob, *before])
    report = review.collect(directory)
    assert report.metrics["raters"] == 2
    assert report.metrics["human_preference"] == np.mean([1, 0.5, 0.75, 1])
    assert [(each["file"], each["reasons"]) for each in review.made()["rejected"]] == [
        ("bob.jsonl", ["Ada has judged this pair again later"])
    ]
    assert len(review.made()["judgements"]) == 8


def test_what_people_prefer_enters_a_composite_pair_by_pair(review):
    """The sums, and how they differ, are those that NumPy makes of the same numbers; a pair without a judgement has none."""
    ours = [{**row, "rougeL": n / 10, "perplexity": 2.0 + n} for n, row in enumerate(scored("tuned", 8))]
    theirs = [{**row, "rougeL": 0.3, "perplexity": 4.0} for row in scored("base", 8)]
    review.write(ours, theirs)
    names = list(review.items)
    said = ["candidate", "baseline", "tie", "candidate", "candidate", "candidate", "baseline"]
    labels = [review.label(item, each) for item, each in zip(names, said, strict=False)]
    files = {name: review.directory / f"{name}.jsonl" for name in ("ours", "theirs")}
    report = review.collect(
        labels,
        min_judged=0.5,
        composites={"quality": {"human_preference": 0.7, "rougeL": 0.3, "perplexity": -0.01}},
        scores=files["ours"],
        baseline_scores=files["theirs"],
    )
    rows = [review.items[item]["row"] - 1 for item in names[:7]]
    preferred = np.array([{"candidate": 1.0, "baseline": 0.0, "tie": 0.5}[each] for each in said])
    mine = 0.7 * preferred + 0.3 * np.array([ours[n]["rougeL"] for n in rows])
    mine -= 0.01 * np.array([ours[n]["perplexity"] for n in rows])
    other = 0.7 * (1 - preferred) + 0.3 * 0.3 - 0.04
    quality = report.comparison.metrics["quality"]
    assert report.metrics["quality"] == pytest.approx(mine.mean(), abs=1e-6)
    assert quality.candidate.value == pytest.approx(mine.mean())
    assert quality.difference.value == pytest.approx((mine - other).mean())
    assert (quality.rows_scored, quality.rows_unscored) == (7, 1)
    assert list(report.comparison.metrics) == ["human_preference", "quality"]


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"composites": {"q": {"human_preference": 1}}}, SettingError, "composites need the scores of both models"),
        ({"scores": "ours"}, SettingError, "scores are given, and only composites need them"),
        ({"composites": {"q": {"rougeL": 1}}, "scores": "ours", "baseline_scores": "theirs"}, SettingError, r"composites\['q'\] has no human_preference"),
        ({"composites": {"q": {"human_preference": -1}}, "scores": "ours", "baseline_scores": "theirs"}, SettingError, "A worse model would gain"),
        ({"composites": {"q": {"human_preference": 1, "chrf": 0.1}}, "scores": "ours", "baseline_scores": "theirs"}, DataError, "The metric chrf is not in the scores"),
        ({"composites": {"q": {"human_preference": 1, "rougeL": 1}}, "scores": "theirs", "baseline_scores": "ours"}, DataError, "of the scores is not what stands on the sheet"),
    ],
)  # fmt: skip
def test_composite_that_cannot_be_meant_is_refused(review, more, error, message):
    review.write(scored("tuned", 4, rougeL=0.5), scored("base", 4, rougeL="high"))
    labels = [review.label(item, "tie") for item in review.items]
    given = {
        name: review.directory / f"{each}.jsonl" if name != "composites" else each
        for name, each in more.items()
    }
    with pytest.raises(error, match=message):
        review.collect(labels, **given)


def test_lines_that_cannot_be_used_are_kept_with_their_reasons(review):
    review.write(scored("tuned", 4), scored("base", 4))
    name = next(iter(review.items))
    good = review.label(name, "candidate")
    bad = {
        "is of another sheet": {**good, "sheet": "0" * 16},
        "is of a pair that is not on the sheet": {**good, "item": "nothing"},
        "has no name of the person": {**good, "rater": " "},
        "has a choice that is none of": {**good, "choice": "candidate"},
        "has a comment that is no text": {**good, "comment": 1},
    }
    report = review.collect([good, *bad.values()])
    assert not report.passed  # one of four pairs
    assert "1 of 4 pairs are judged, and 1 of them must be" in report.findings[0]
    rejected = review.made()["rejected"]
    assert [each["line"] for each in rejected] == [2, 3, 4, 5, 6]
    for each, reason in zip(rejected, bad, strict=True):
        assert each["reasons"][0].startswith(reason)
        assert json.loads(each["raw"]) == bad[reason]
    with pytest.raises(DataError, match=r"no judgement of sheet .* The first line: is of another sheet"):
        review.collect([bad["is of another sheet"]])
    with pytest.raises(SettingError, match="min_judged must be a number from 0 to 1"):
        review.collect([good], min_judged=2)
    review.key.write_text('{"schema_version": 2}')
    with pytest.raises(DataError, match="key of the review sheet cannot be read"):
        collect_human_labels(review.directory / "labels.jsonl", review.key, *review.outputs)


def test_kappa_is_scikit_learns_and_its_interval_covers():
    metrics = pytest.importorskip("sklearn.metrics")
    chance = np.random.default_rng(0)
    for labels in (2, 3, 5):
        first = chance.integers(0, labels, 60)
        second = np.where(chance.random(60) < 0.6, first, chance.integers(0, labels, 60))
        found = cohens_kappa(first.tolist(), second.tolist())
        assert math.isclose(found, metrics.cohen_kappa_score(first, second), rel_tol=1e-12)
    assert cohens_kappa("aaa", "aaa") is None
    assert cohens_kappa("abab", "baba") == -1.0
    # Cohen's own table (1960, p. 45): kappa 0.492 of 200 patients by two psychiatrists.
    table = np.array([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
    first, second = np.repeat(np.indices((3, 3)).reshape(2, -1), table.ravel(), axis=1).tolist()
    found = agreement(first, second)
    assert round(found.kappa, 3) == 0.492
    assert (round(found.agreed, 2), found.items) == (0.70, 200)
    assert found.low < 0.492 < found.high
    true, covered = 0.6, 0
    for _ in range(300):
        first = chance.integers(0, 2, 100)
        second = np.where(chance.random(100) < true, first, chance.integers(0, 2, 100))
        interval = agreement(first.tolist(), second.tolist())
        covered += interval.low <= true <= interval.high
    assert 0.92 <= covered / 300 <= 0.98
    assert mean_pairwise_kappa([{"Ada": 1}, {"Ada": 2, "Bob": 2}, {"Ada": 1, "Bob": 1}]) == 1.0
    with pytest.raises(DataError, match="got 1 and 2"):
        agreement([1], [1, 2])


@needs_browser
def test_a_person_fills_the_sheet_in_and_the_file_is_read(review, tmp_path):
    hostile = "</script><script>document.title='broken'</script><!-- \u2028 &amp; 中文"
    ours, theirs = scored("tuned", 5), scored("base", 5)
    ours[2]["answer"], ours[3]["answer"] = hostile, ""
    review.write(ours, theirs, question="Which answer <b>helps</b>?")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    names = list(review.items)

    async def fill_in(page):
        shown = []
        for key in "1230":
            shown.append(await page.run("[at('left').textContent, at('right').textContent]"))
            await page.press(key)
        assert await page.run("document.title") == "Which answer <b>helps</b>?"
        assert await page.run("at('place').textContent") == "5 of 5, 4 judged"
        await page.run("at('save').click()")
        assert "name first" in await page.run("at('told').textContent")
        await page.run(
            "at('rater').value = 'Ada L.'; at('comment').value = 'Both are fine.'; document.activeElement.blur()"
        )
        await page.run("document.querySelector('[data-choice=tie]').click()")
        await page.press("ArrowLeft")
        await page.press("3")  # another opinion of the fourth pair
        await page.run("at('save').click()")
        until = time.monotonic() + 30
        while not (files := list(downloads.glob("*.jsonl"))):
            assert time.monotonic() < until, page.said
            await page.run("new Promise(done => setTimeout(done, 50))")
        # A reload, or another day, goes on where it was.
        await page.reload()
        await page.wait_for(
            "document.readyState === 'complete' && at('place').textContent.endsWith('5 judged')"
        )
        assert page.said == []
        return shown, files[0]

    shown, saved = in_browser(review.sheet.as_uri(), fill_in, downloads)
    for (left, right), item in zip(shown, review.items.values(), strict=False):
        other = "baseline" if item["left"] == "candidate" else "candidate"
        assert [left, right] == [item[item["left"]], item[other]]
    assert saved.name == f"labels-{json.loads(review.key.read_text())['sheet']}-Ada-L.jsonl"
    assert [line["choice"] for line in lines(saved)] == ["left", "tie", "right", "right", "tie"]
    report = review.collect(saved)
    assert (report.metrics["judged"], report.metrics["rejected_lines"]) == (5, 0)
    made = review.made()["judgements"]
    assert [line["row"] for line in made] == [review.items[name]["row"] for name in names]
    assert made[-1]["comment"] == "Both are fine." and {line["rater"] for line in made} == {"Ada L."}
