"""Whether new rows have drifted: what was changed is found and named, what was not is not."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from llmops_components.data.drift import monitor_data
from llmops_components.data.drift.checks import category_check, embedding_check
from llmops_components.data.drift.classifier import _area
from llmops_components.errors import DataError, SettingError
from scipy.stats import bootstrap, ks_2samp
from sklearn.metrics import roc_auc_score

WORDS = [f"word{number}" for number in range(300)]


def rows_of(seed, count=300, **change):
    """Rows of which each says a few words, with a label; ``change`` makes some of them others."""
    choose = random.Random(seed)  # noqa: S311 - no secret
    rows = []
    for _ in range(count):
        words = choose.choices(WORDS, weights=range(1, 301), k=choose.randint(10, 30))
        rows.append({"text": " ".join(words), "label": choose.choices("abc", [60, 30, 10])[0]})
    for row in rows[:: change.pop("every", 3)]:
        row.update({name: make(row) for name, make in change.items()})
    return [{name: value for name, value in row.items() if value is not ...} for row in rows]


@pytest.fixture
def monitor(tmp_path):
    def run(new, old=None, **settings):
        for name, rows in (("new", new), ("old", rows_of(1) if old is None else old)):
            (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = {"categories": ["label"], **settings}
        report = monitor_data(tmp_path / "new", tmp_path / "old", tmp_path / "page", drift_json=tmp_path / "json", **settings)  # fmt: skip
        return report, json.loads((tmp_path / "json").read_text())

    return run


def test_more_of_the_same_passes_and_its_numbers_are_those_of_scipy(monitor):
    old, new = rows_of(1), rows_of(2)
    report, told = monitor(new, old)
    assert (told["outcome"], report.passed, report.findings) == ("pass", True, [])
    assert list(report.details["checks"]) == ["length_text", "category_label", "vocabulary", "classifier"]
    by_name = {each["name"]: each for each in told["checks"]}
    length = ks_2samp(*([len(row["text"]) for row in rows] for rows in (old, new)), method="asymp")
    assert by_name["length_text"]["effect"] == pytest.approx(length.statistic, abs=1e-6)
    assert by_name["length_text"]["p_value"] == pytest.approx(length.pvalue, rel=1e-5)
    assert min(each["adjusted_p_value"] - each["p_value"] for each in told["checks"]) >= 0


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"text": lambda row: row["text"][: len(row["text"]) // 3]}, "length_text"),
        ({"label": lambda row: "c"}, "category_label"),
        ({"label": lambda row: "new"}, "category_label"),
        ({"text": lambda row: row["text"].replace("word", "wort")}, "vocabulary"),
        ({"text": lambda row: row["text"].replace("word", "wort"), "every": 2}, "classifier"),
        ({"text": lambda row: ...}, "columns_text"),
    ],
)
def test_planted_shift_fails_by_the_check_that_is_about_it(monitor, change, check):
    report, told = monitor(rows_of(2, **change))
    assert (told["outcome"], report.passed) == ("fail", False)
    assert report.details["checks"][check] == "fail"
    kind, _, column = check.partition("_")
    what = f"{kind} of {column!r}" if column else kind
    assert any(each.startswith(f"The {what} has the effect ") for each in report.findings)
    reported, _ = monitor(rows_of(2, **change), on_drift="report")
    assert (reported.passed, reported.details["outcome"]) == (True, "fail")


def test_effect_between_the_thresholds_warns_and_passes(monitor):
    shift = {"label": lambda row: "c", "every": 6}
    effect = {each["name"]: each["effect"] for each in monitor(rows_of(2, **shift))[1]["checks"]}["category_label"]  # fmt: skip
    for warn, fail, outcome in ((effect, effect + 0.1, "warn"), (effect - 0.05, effect, "fail"), (effect + 0.01, 1, "pass")):  # fmt: skip
        report, told = monitor(rows_of(2, **shift), thresholds={"category": {"warn": warn, "fail": fail}})
        assert (told["outcome"], report.passed) == (outcome, outcome != "fail")


def test_large_difference_of_few_rows_that_may_be_chance_is_undecided(monitor):
    few = {"min_rows": 50, "thresholds": {"length": {"warn": 0.01, "fail": 0.02}}}
    report, told = monitor(rows_of(2, 60), rows_of(1, 60), **few)
    assert (told["outcome"], report.passed) == ("undecided", False)


@pytest.mark.parametrize(("new", "old"), [(199, 300), (300, 199), (1, 1)])
def test_too_few_rows_are_undecided_and_never_passed(monitor, new, old):
    report, told = monitor(rows_of(2, new), rows_of(1, old))
    assert (told["outcome"], report.passed) == ("undecided", False)
    assert {each["outcome"] for each in told["checks"]} == {"undecided"}
    assert f"Too few rows to compare length of 'text': {old} rows of the reference and {new} new ones." in report.findings  # fmt: skip


def test_embeddings_tell_what_rows_are_about(monitor):
    """Vectors that say nothing of lengths, words or labels: only the new rows have the third number."""
    place = np.random.default_rng(0)

    def embed(texts):
        vectors = place.normal(size=(len(texts), 8))
        vectors[:, 2] += [3.0 * ("wort" in text) for text in texts]
        return vectors

    same = monitor(rows_of(2), embed=embed)[1]["checks"][-1]
    other = monitor(rows_of(2, text=lambda row: f"{row['text']} wort", every=1), embed=embed)[1]["checks"][-1]
    assert (same["kind"], same["outcome"], other["outcome"]) == ("embedding", "pass", "fail")
    assert other["details"]["low"] > 0.9


def test_effect_of_embeddings_is_about_the_share_of_rows_that_are_others():
    """Of hundreds of numbers, as models give them, most say nothing of what is different."""
    old, new = [f"o{number}" for number in range(300)], [f"n{number}" for number in range(300)]
    effects = []
    for seed in range(4):
        vectors = np.random.default_rng(seed).normal(size=(600, 400))
        vectors[300:400, :40] += 1
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        effects.append(embedding_check(old, new, 200, seed, lambda texts, made=vectors: made).effect)
    assert np.mean(effects) == pytest.approx(1 / 3, abs=0.05)


def test_files_that_are_sorted_do_not_drift_from_themselves(monitor):
    halves = [
        *rows_of(1, 200),
        *rows_of(2, 200, text=lambda row: row["text"].replace("word", "wort"), every=1),
    ]
    alternating = [row for pair in zip(halves[:200], halves[200:], strict=True) for row in pair]
    assert monitor(halves, alternating)[0].details["outcome"] == "pass"


def test_where_rows_are_from_is_no_drift_and_another_new_column_is(monitor):
    old, new = rows_of(1), rows_of(2)
    for number, row in enumerate(new):
        row |= {"row_id": f"new:{number}", "provenance": {"requests": f"log:{number}"}}
    assert monitor(new, old)[1]["outcome"] == "pass"
    for row in new:
        row["source"] = {"requests": "log"}
    report, _ = monitor(new, old)
    assert (report.passed, report.details["checks"]["columns_source"]) == (False, "fail")


def test_area_and_its_error_are_those_of_others():
    choose = np.random.default_rng(3)
    old, new = choose.normal(size=120).round(1), (choose.normal(size=80) + 0.5).round(1)
    area, variance = _area(old, new)
    truth = np.repeat([0, 1], [120, 80])
    assert area == pytest.approx(roc_auc_score(truth, np.concatenate([old, new])))
    drawn = bootstrap((old, new), lambda a, b: _area(a, b)[0], vectorized=False, n_resamples=500, method="basic", rng=choose)  # fmt: skip
    assert variance**0.5 == pytest.approx(drawn.standard_error, rel=0.15)


def test_rare_values_are_put_together_so_that_the_test_holds():
    old = {"a": 300, **{f"rare{number}": 1 for number in range(30)}}
    new = {"a": 300, **{f"other{number}": 1 for number in range(30)}}
    check = category_check("category", "c", old, new, 100)
    assert check.p_value == pytest.approx(1.0)
    assert check.effect == 0.0
    one = category_check("category", "c", {"a": 200}, {"a": 200}, 100)
    assert (one.effect, one.p_value) == (0.0, 1.0)


def test_what_rows_say_is_no_markup(monitor, tmp_path):
    monitor(rows_of(2, label=lambda row: "| `x`\n# head"))
    page = (tmp_path / "page").read_text()
    assert page.startswith("# Drift: fail\n")
    assert "\\| 'x'\\n# head" in page and "\n# head" not in page


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"categories": "label"}, "categories must be a list of names"),
        ({"categories": ["labels"]}, "categories: no row has a column 'labels'. Columns are label, text."),
        ({"thresholds": {"lengths": {}}}, "check in thresholds"),
        ({"thresholds": {"length": {"failing": 1}}}, "threshold of length"),
        ({"thresholds": {"length": {"fail": 0}}}, "thresholds: length has 0, which"),
        ({"thresholds": {"length": {"fail": float("nan")}}}, "thresholds: length has nan, which"),
        ({"thresholds": {"length": {"warn": 0.5, "fail": 0.4}}}, "thresholds: length warns from 0.5 on and fails"),
        ({"min_rows": 49}, "min_rows"),
        ({"sample_rows": 100}, "sample_rows"),
        ({"on_drift": "ignore"}, "on_drift is 'ignore'; it is one of fail, report."),
    ],
)  # fmt: skip
def test_setting_that_is_none_is_refused(monitor, settings, why):
    with pytest.raises(SettingError) as raised:
        monitor(rows_of(2, 60), rows_of(1, 60), **settings)
    assert why in str(raised.value)


def test_file_without_rows_or_with_a_broken_line_is_refused(monitor, tmp_path):
    with pytest.raises(DataError, match=r"^The dataset has no rows: .*new\. "):
        monitor([])
    with pytest.raises(SettingError, match="has lists or objects, which are no categories"):
        monitor([{"label": ["a"], "text": "b"}])
    (tmp_path / "new").write_text("{\n")
    with pytest.raises(DataError, match=r"^Rows cannot be compared: line 1 is not valid JSON"):
        monitor_data(tmp_path / "new", tmp_path / "old", tmp_path / "page")
