"""Slices of the rows and weighted sums of metrics: which rows belong where, what each reaches, and what has no place."""

from __future__ import annotations

import numpy as np
import pytest
from llmops_components.errors import DataError, SettingError
from llmops_components.evaluation.composites import check_composites, with_composites
from llmops_components.evaluation.metrics.registry import METRICS
from llmops_components.evaluation.slices import check_columns, check_slices, slices_of
from llmops_components.evaluation.statistics import Scores, estimate, record

TO_ONE = (0.0, 1.0)


def scores(count: int, seed: int = 0) -> Scores:
    return Scores.mean_of(np.random.default_rng(seed).random(count), TO_ONE)


def sliced(rows: list[dict], column: str, **names: Scores):
    ours = names or {"rougeL": scores(len(rows))}
    return slices_of(rows, [column], ["rougeL"], ours, {})


def rows_of(found: dict) -> dict[str, int]:
    return {value: each["rougeL"].rows_scored for value, each in found.items()}


def test_each_slice_has_what_its_own_rows_have():
    rows = [{"language": "de" if number % 3 == 0 else "en"} for number in range(60)]
    ours, theirs = {"rougeL": scores(60)}, {"rougeL": scores(60, 1)}
    found, findings = slices_of(rows, ["language"], ["rougeL"], ours, theirs)
    assert findings == []
    assert list(found["language"]) == ["en", "de"]
    part = np.arange(60) % 3 == 0
    assert found["language"]["de"]["rougeL"] == record(ours["rougeL"][part], theirs["rougeL"][part])
    assert found["language"]["en"]["rougeL"].difference.value == pytest.approx(
        (ours["rougeL"].values - theirs["rougeL"].values)[~part].mean(), abs=1e-6
    )


def test_every_row_is_in_a_slice_also_without_a_value():
    rows = [{"source": "a"}, {"source": None}, {}, {"source": ""}, {"source": True}, {"source": 3}]
    found, _ = sliced(rows, "source")
    assert rows_of(found["source"]) == {"(none)": 3, "3": 1, "True": 1, "a": 1}


def test_small_slices_are_put_together_and_named():
    rows = [{"language": f"l{number:02}"} for number in range(30) for _ in range(30 - number)]
    found, (finding,) = sliced(rows, "language")
    sizes = rows_of(found["language"])
    assert (len(sizes), sum(sizes.values())) == (16, len(rows))
    assert list(sizes)[:2] == ["l00", "l01"]
    assert sizes["(15 others)"] == sum(30 - number for number in range(15, 30))
    assert finding == (
        "language has 30 values, and the result has room for 16: 15 of them, with 120 rows, are compared together as '(15 others)': l15, "
        "l16, l17, l18, l19 and others."
    )


def test_numbers_of_many_kinds_are_cut_in_quarters_and_those_of_few_are_not():
    rows = [{"length": number, "turns": number % 4} for number in range(1, 101)]
    assert rows_of(sliced(rows, "length")[0]["length"]) == {
        "1 to 25": 25,
        "26 to 50": 25,
        "51 to 75": 25,
        "76 to 100": 25,
    }
    assert rows_of(sliced(rows, "turns")[0]["turns"]) == dict.fromkeys("0123", 25)
    skewed = [{"length": 0 if number < 80 else number} for number in range(100)]
    sizes = rows_of(sliced(skewed, "length")[0]["length"])
    assert sum(sizes.values()) == 100
    assert sizes["0 to 0"] == 80


def test_length_of_the_prompt_needs_no_column_and_counts_all_messages():
    rows = [{"prompt": "x" * number} for number in range(1, 21)]
    rows += [{"prompt": [{"role": "system", "content": "y" * 30}, {"role": "user", "content": "x" * 30}]}] * 4
    sizes = rows_of(sliced(rows, "prompt_length")[0]["prompt_length"])
    assert sum(sizes.values()) == 24
    assert next(iter(sizes)).startswith("1 to ")
    assert any(name.endswith(" to 60") for name in sizes)
    # A column of that name is taken as it is.
    assert rows_of(
        sliced([{"prompt": "x", "prompt_length": "short"}], "prompt_length")[0]["prompt_length"]
    ) == {"short": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"langage": "de"}], r"^slices: no row has 'language'\. The rows have: langage, prompt_length"),
        ([{"language": ["de"]}], r"^slices: 'language' of row 1 is \['de'\]\. A slice is of texts"),
        ([{"language": "de"}, {"language": float("nan")}], r"'language' of row 2 is nan"),
    ],
)
def test_column_that_cuts_nothing_is_named(rows, message):
    with pytest.raises(DataError, match=message):
        check_columns(rows, ["language"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("language", None), r"^slices is 'language'\. Give a list of names"),
        (([1], None), r"^slices is \[1\]"),
        ((["language"], ["rouge"]), r"Unknown slice_metrics: 'rouge' \(did you mean 'rougeL'\?\)"),
        ((None, ["rougeL"]), "slice_metrics is given, and no slices"),
        (([f"c{number}" for number in range(9)], None), "are more than a result has room for"),
    ],
)
def test_slices_that_cannot_be_meant_are_refused(given, message):
    with pytest.raises(SettingError, match=message):
        check_slices(*given, ["rougeL", "bleu"])


def test_first_metric_is_the_one_of_slices_by_default():
    assert check_slices(["a", "a", "b"], None, ["chrf", "bleu"]) == (["a", "b"], ["chrf"])
    assert check_slices(None, None, ["chrf"]) == ([], ["chrf"])


PARTS = {name: METRICS[name] for name in ("rougeL", "chrf", "reward")}


def test_composite_is_the_weighted_sum_of_each_row_and_lacks_what_a_part_lacks():
    weights = {"quality": {"rougeL": 0.5, "chrf": 0.005}}
    metrics = PARTS | check_composites(weights, PARTS)
    assert (metrics["quality"].worst, metrics["quality"].best) == (0, 1)
    assert metrics["quality"].about == "0.5 rougeL + 0.005 chrf"
    rouge, chrf = np.array([0.2, 0.4, np.nan, 1.0]), np.array([20.0, np.inf, 50.0, 100.0])
    found = with_composites({"rougeL": Scores.mean_of(rouge), "chrf": Scores.mean_of(chrf)}, weights, metrics)
    assert found["quality"].are_there.tolist() == [True, False, False, True]
    assert found["quality"].values[[0, 3]] == pytest.approx([0.2, 1.0])
    assert estimate(found["quality"]).value == pytest.approx(0.6)
    assert [found[name].limits for name in ("rougeL", "chrf", "quality")] == [(0, 1), (0, 100), (0, 1)]


def test_composite_knows_its_limits_where_all_parts_have_some():
    found = check_composites(
        {"brief": {"rougeL": 1, "noise_sensitivity": -1}, "liked": {"rougeL": 1, "reward": 1}}, METRICS
    )
    assert (found["brief"].worst, found["brief"].best) == (-1, 1)
    assert (found["liked"].worst, found["liked"].best) == (None, None)


@pytest.mark.parametrize(
    ("composites", "message"),
    [
        (["quality"], r"^composites is \['quality'\]"),
        ({"chrf": {"rougeL": 1}}, r"^composites\['chrf'\]: that is no name, or one of a metric"),
        ({"answer": {"rougeL": 1}}, r"^composites\['answer'\]: that is no name"),
        ({"quality": {}}, r"^composites\['quality'\] is \{\}\. Give weights by metric"),
        ({"quality": {"rouge": 1}}, r"Unknown composites\['quality'\]: 'rouge' \(did you mean 'rougeL'\?\)"),
        ({"quality": {"rougeL": 0}}, r"^composites\['quality'\]\['rougeL'\] is 0\. Give a finite number"),
        ({"quality": {"rougeL": "1"}}, r"\['rougeL'\] is '1'"),
        ({"quality": {"rougeL": float("inf")}}, r"\['rougeL'\] is inf"),
        ({"quality": {"rougeL": True}}, r"\['rougeL'\] is True"),
    ],
)
def test_composites_that_cannot_be_meant_are_refused(composites, message):
    with pytest.raises(SettingError, match=message):
        check_composites(composites, PARTS)


def test_values_that_look_alike_are_slices_of_their_own():
    at = [{"at": 1764300000 + number} for number in range(40)]
    assert rows_of(sliced(at, "at")[0]["at"]) == {
        "1764300000 to 1764300009": 10,
        "1764300010 to 1764300019": 10,
        "1764300020 to 1764300029": 10,
        "1764300030 to 1764300039": 10,
    }
    places = [f"/data/{'x' * 40}/{middle}/{'y' * 40}" for middle in ("human", "legal")]
    rows = [{"source": place} for place in places for _ in range(5)]
    assert list(rows_of(sliced(rows, "source")[0]["source"]).values()) == [5, 5]
    names = rows_of(sliced([{"source": "数据" * 40 + end} for end in "ab"], "source")[0]["source"])
    assert len(names) == 2 and all(len(name) <= 30 for name in names)
    with pytest.raises(DataError, match="numbers above"):
        sliced([{"at": 10**310 + number} for number in range(9)], "at")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"noise_sensitivity": 0.5}, "noise_sensitivity is better the lower it is. Give -0.5"),
        ({"rougeL": -1}, "rougeL is better the higher it is. Give 1"),
    ],
)
def test_weight_by_which_a_worse_model_would_gain_is_refused(weights, message):
    with pytest.raises(SettingError, match=message):
        check_composites({"quality": weights}, METRICS)


@pytest.mark.parametrize("name", ["samples", "retrieved_contexts", "answer"])
def test_composite_has_no_name_that_results_use(name):
    with pytest.raises(SettingError, match="Give another one"):
        check_composites({name: {"rougeL": 1}}, METRICS)
