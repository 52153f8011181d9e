"""Both planes declare the same of what crosses the wall, and one reads what the other writes."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from comparisons import bounded, metric
from comparisons import comparison as of_metrics
from planes import DATA_PYTHON

from airflow_provider_llmops.comparison import Comparison, read_comparison
from airflow_provider_llmops.exceptions import ConfigurationError, ResultError
from airflow_provider_llmops.results import ResultRecord, StageResult
from airflow_provider_llmops.xcom import MAX_XCOM_BYTES

# Writes the schemas, then a result whose comparison comes from scores, then what its own reader says of each line of input.
SCRIPT = """
import json, sys, tempfile
import numpy as np
from llmops_components.comparison import Comparison, read_comparison
from llmops_components.errors import SettingError
from llmops_components.evaluation.metrics.registry import METRICS
from llmops_components.evaluation.comparing import comparison_of
from llmops_components.evaluation.slices import slices_of
from llmops_components.evaluation.statistics import Scores, compare
from llmops_components.result_schema import ResultRecord
from llmops_components.results import StepReport
from llmops_components.step import carry_out

print(json.dumps({"result": ResultRecord.model_json_schema(), "comparison": Comparison.model_json_schema()}))
generator = np.random.default_rng(0)
ours, theirs = {}, {}
for name, metric in METRICS.items():
    if not metric.by_default:
        continue
    limits = None if metric.best is None else (metric.worst, metric.best)
    for scores in (ours, theirs):
        scores[name] = Scores.mean_of((metric.best or 1) * generator.random(320), limits)
for number in (3, 7):
    ours["reward"].values[number] = np.nan
    theirs["reward"].values[number + number // 7] = np.inf
ours["bleu"].values[:] = np.nan
rows = [{"language": f"language {number % 20:>2}"} for number in range(320)]
compared = {name: compare(ours[name], theirs[name]) for name in ours}
slices, findings = slices_of(rows, ["language"], ["rougeL"], ours, theirs)
comparison = comparison_of(ours, theirs, compared, slices)
print(json.dumps(findings))
with tempfile.TemporaryDirectory() as place:
    result = f"{place}/result.json"
    carry_out("evaluate_model", lambda: StepReport(comparison=comparison), outputs={}, result=result)
    print(json.dumps(open(result).read()))
for line in sys.stdin:
    try:
        print(json.dumps(read_comparison(json.loads(line)).model_dump()))
    except SettingError as error:
        print(json.dumps(str(error)))
"""

ONE = metric(0.5, 0.4, rows=48, unscored=1)
NOTHING = metric(None, rows=48)


def comparison(**change: Any) -> dict[str, Any]:
    return of_metrics(rougeL={**ONE, **change})


def bounds(**change: Any) -> dict[str, Any]:
    return {**bounded(0.1, 0.04), **change}


SLICED = of_metrics(slices={"language": {"de": {"rougeL": ONE}}}, rougeL=ONE)
GOOD = [
    of_metrics(),
    comparison(),
    of_metrics(rougeL=metric(0.5, None)),
    comparison(candidate=bounds(lower=[], upper=[])),
    comparison(difference=bounds(value=1, low=1, high=1)),
    of_metrics(rougeL=NOTHING),
    comparison(worst_case=0.4),
    SLICED,
]
BAD: dict[str, Any] = {
    "it has schema version 1; version 2 is read here": {**comparison(), "schema_version": 1},
    "it has schema version '2'": {**comparison(), "schema_version": "2"},
    "it has schema version True": {**comparison(), "schema_version": True},
    "it has schema version 2.0": {**comparison(), "schema_version": 2.0},
    "it has schema version None": {"confidence": 0.95, "metrics": {}},
    "Input should be a valid dictionary": None,
    "Input should be a valid dictionary or instance of Comparison": "{{ ti.xcom_pull('evaluate') }}",
    "valid dictionary or instance": [comparison()],
    "confidence: Input should be less than 1": {**comparison(), "confidence": 1.0},
    "confidence: Field required": {
        name: value for name, value in comparison().items() if name != "confidence"
    },
    "levels.0: Input should be greater than 0": {**comparison(), "levels": [0]},
    "has_baseline: Input should be a valid boolean": {**comparison(), "has_baseline": 1},
    "metrics: Input should be a valid dictionary": {**comparison(), "metrics": [ONE]},
    "metrics.rougeL: Input should be": {**comparison(), "metrics": {"rougeL": 0.5}},
    "metrics: Dictionary should have at most 50 items": {
        **comparison(),
        "metrics": {str(number): ONE for number in range(51)},
    },
    "slices: Field required": {name: value for name, value in comparison().items() if name != "slices"},
    "slices.language: Dictionary should have at most 100 items": {
        **comparison(),
        "slices": {"language": {str(number): {"rougeL": ONE} for number in range(101)}},
    },
    "slices.language.de.rougeL.rows_scored: Input should be a valid integer": {
        **SLICED,
        "slices": {"language": {"de": {"rougeL": {**ONE, "rows_scored": 47.0}}}},
    },
    "metrics.rougeL.candidate.value: Input should be a valid number": comparison(
        candidate=bounds(value="0.5")
    ),
    "metrics.rougeL.baseline.low: Input should be a valid number": comparison(
        baseline={"value": 0.4, "low": True, "high": 1}
    ),
    "metrics.rougeL.difference.value: Input should be a finite number": comparison(
        difference=bounds(value=float("nan"))
    ),
    "metrics.rougeL.difference.high: Input should be a finite number": comparison(
        difference=bounds(high=float("inf"))
    ),
    "metrics.rougeL.difference.lower: Field required": comparison(
        difference={"value": 0.1, "low": 0.1, "high": 0.1, "upper": []}
    ),
    "metrics.rougeL.difference: the interval ends before it begins": comparison(
        difference=bounds(low=0.2, high=0.05)
    ),
    "rougeL has not one bound for each level": comparison(candidate=bounds(lower=[0.1])),
    "rougeL has a baseline, and there is none": {**SLICED, "has_baseline": False},
    "metrics.rougeL: its numbers are not those of as many rows": comparison(difference=None),
    "rougeL: its numbers are not those of as many rows": comparison(**{**NOTHING, "rows_scored": 3}),
    "metrics.rougeL: some of its numbers are missing": comparison(baseline=None),
    "rougeL: some of its numbers are missing": comparison(pairs_scored=48),
    "metrics.rougeL: it has a worst case, and no row without a score": comparison(
        worst_case=0.1, rows_scored=48, rows_unscored=0
    ),
    "metrics.rougeL.rows_unscored: Input should be greater than": comparison(rows_unscored=-1),
    "metrics.rougeL.rows_scored: Input should be a valid integer": comparison(rows_scored=47.0),
    "metrics.rougeL.p_value: Extra inputs are not permitted": comparison(p_value=0.01),
}


@pytest.fixture(scope="module")
def said() -> list[Any]:
    """What the data plane writes, and what it says of each comparison."""
    lines = "".join(f"{json.dumps(value)}\n" for value in [*GOOD, *BAD.values()])
    answer = subprocess.run(
        [DATA_PYTHON, "-c", SCRIPT], input=lines, check=True, capture_output=True, text=True
    )
    return [json.loads(line) for line in answer.stdout.splitlines() if line[:1] in '{"[n']


def test_what_the_data_plane_writes_is_what_the_provider_reads(said):
    assert said[0] == {
        "result": ResultRecord.model_json_schema(),
        "comparison": Comparison.model_json_schema(),
    }


def test_comparison_of_an_evaluation_is_read_as_it_was_written(said):
    read = StageResult.parse(said[2], run_id="r", component_digest="", where="/x")
    written = json.loads(said[2])["comparison"]
    assert read.comparison is not None
    assert read.comparison.model_dump() == written
    counts = {name: (each.rows_scored, each.rows_unscored) for name, each in read.comparison.metrics.items()}
    assert counts == {**dict.fromkeys(counts, (320, 0)), "reward": (318, 2), "bleu": (0, 320)}
    assert (len(counts), read.comparison.metrics["reward"].pairs_scored) == (10, 317)
    xcom = read.to_xcom()
    assert read_comparison(json.loads(json.dumps(xcom))["comparison"]) == read.comparison


def test_ten_metrics_and_twenty_languages_have_room_in_xcom_and_no_language_is_lost(said):
    comparison = read_comparison(json.loads(said[2])["comparison"])
    assert sum(each["rougeL"].rows_scored for each in comparison.slices["language"].values()) == 320
    (finding,) = said[1]
    assert finding.startswith(
        "language has 20 values, and the result has room for 14: 7 of them, with 112 rows"
    )
    assert list(comparison.slices["language"])[-1] == "(7 others)"
    xcom = StageResult.parse(said[2], run_id="r", component_digest="", where="/x").to_xcom()
    assert len(json.dumps(xcom)) < 0.8 * MAX_XCOM_BYTES


def test_good_comparisons_are_read_alike_on_both_sides(said):
    assert said[3 : 3 + len(GOOD)] == GOOD == [read_comparison(value).model_dump() for value in GOOD]


@pytest.mark.parametrize("why", BAD)
def test_what_is_no_comparison_is_refused_alike_on_both_sides(said, why):
    theirs = said[3 + len(GOOD) + list(BAD).index(why)]
    assert theirs.startswith("comparison is not one of evaluate_model (")
    assert why in theirs
    with pytest.raises(ConfigurationError, match=r"^The comparison is not one of an evaluation \(") as raised:
        read_comparison(BAD[why])
    assert why in str(raised.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema_version": 1}, r"comparison: it has schema version 1; version 2 is read here"),
        ({"metrics": {"rougeL": {**ONE, "candidate": None}}}, r"comparison\.metrics\.rougeL: its numbers"),
    ],
)
def test_result_with_a_comparison_that_cannot_be_read_is_not_believed(said, change, why):
    result = json.loads(said[2])
    result["comparison"] = {**comparison(), **change}
    with pytest.raises(ResultError, match=rf"^The result lacks or garbles a field \({why}"):
        StageResult.parse(json.dumps(result), run_id="r", component_digest="", where="/x")
