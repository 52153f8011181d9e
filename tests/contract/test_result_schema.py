"""Both planes declare the same of what crosses the wall, and one reads what the other writes."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from planes import DATA_PYTHON

from airflow_provider_llmops.comparison import Comparison, Difference, MetricComparison, read_comparison
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
from llmops_components.evaluation.statistics import Scores, compare
from llmops_components.result_schema import ResultRecord
from llmops_components.results import StepReport
from llmops_components.step import carry_out

print(json.dumps({"result": ResultRecord.model_json_schema(), "comparison": Comparison.model_json_schema()}))
generator = np.random.default_rng(0)
metrics = {}
for name in [name for name, metric in METRICS.items() if metric.by_default]:
    model, baseline = generator.normal(size=(2, 48))
    if name == "reward":
        model[3], baseline[7] = np.nan, np.inf
    if name == "bleu":
        model[:] = np.nan
    metrics[name] = compare(Scores.mean_of(model), Scores.mean_of(baseline)).record()
comparison = Comparison(schema_version=1, confidence=0.95, metrics=metrics)
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

SAME = {"value": 0.1, "low": 0.05, "high": 0.2}
ONE = {"candidate": 0.5, "baseline": 0.4, "difference": SAME, "rows_scored": 47, "rows_unscored": 1}
NOTHING = {"candidate": None, "baseline": None, "difference": None, "rows_scored": 0, "rows_unscored": 48}


def comparison(**change: Any) -> dict[str, Any]:
    return {"schema_version": 1, "confidence": 0.95, "metrics": {"rougeL": {**ONE, **change}}}


GOOD = [
    {"schema_version": 1, "confidence": 0.95, "metrics": {}},
    comparison(),
    comparison(candidate=1, baseline=0, difference={"value": 1, "low": 1, "high": 1}),
    comparison(**NOTHING),
]
BAD: dict[str, Any] = {
    "it has schema version 2; version 1 is read here": {**comparison(), "schema_version": 2},
    "it has schema version '1'": {**comparison(), "schema_version": "1"},
    "it has schema version True": {**comparison(), "schema_version": True},
    "it has schema version 1.0": {**comparison(), "schema_version": 1.0},
    "it has schema version None": {"confidence": 0.95, "metrics": {}},
    "Input should be a valid dictionary": None,
    "Input should be a valid dictionary or instance of Comparison": "{{ ti.xcom_pull('evaluate') }}",
    "valid dictionary or instance": [comparison()],
    "confidence: Input should be less than 1": {**comparison(), "confidence": 1.0},
    "confidence: Field required": {"schema_version": 1, "metrics": {}},
    "metrics: Input should be a valid dictionary": {**comparison(), "metrics": [ONE]},
    "metrics.rougeL: Input should be": {**comparison(), "metrics": {"rougeL": 0.5}},
    "metrics: Dictionary should have at most 50 items": {
        **comparison(),
        "metrics": {str(number): ONE for number in range(51)},
    },
    "metrics.rougeL.candidate: Input should be a valid number": comparison(candidate="0.5"),
    "metrics.rougeL.baseline: Input should be a valid number": comparison(baseline=True),
    "metrics.rougeL.difference.value: Input should be a finite number": comparison(
        difference={**SAME, "value": float("nan")}
    ),
    "metrics.rougeL.difference.high: Input should be a finite number": comparison(
        difference={**SAME, "high": float("inf")}
    ),
    "metrics.rougeL.difference.high: Field required": comparison(difference={"value": 0.1, "low": 0.1}),
    "metrics.rougeL.difference: the interval ends before it begins": comparison(
        difference={"value": 0.1, "low": 0.2, "high": 0.05}
    ),
    "metrics.rougeL: its difference is not that of candidate and baseline": comparison(candidate=0.3),
    "metrics.rougeL: some of its numbers are missing": comparison(difference=None),
    "rougeL: some of its numbers are missing": comparison(**{**NOTHING, "rows_scored": 3}),
    "metrics.rougeL: it has numbers, and no row that has a score": comparison(rows_scored=0),
    "metrics.rougeL.rows_unscored: Input should be greater than": comparison(rows_unscored=-1),
    "metrics.rougeL.rows_scored: Input should be a valid integer": comparison(rows_scored=47.0),
    "metrics.rougeL.rows_scored: Field required": {
        **comparison(),
        "metrics": {"rougeL": {name: value for name, value in ONE.items() if name != "rows_scored"}},
    },
    "metrics.rougeL.p_value: Extra inputs are not permitted": comparison(p_value=0.01),
    "its metrics are of different numbers of rows": {
        **comparison(),
        "metrics": {"rougeL": ONE, "bleu": {**ONE, "rows_unscored": 0}},
    },
}


@pytest.fixture(scope="module")
def said() -> list[Any]:
    """What the data plane writes, and what it says of each comparison."""
    lines = "".join(f"{json.dumps(value)}\n" for value in [*GOOD, *BAD.values()])
    answer = subprocess.run(
        [DATA_PYTHON, "-c", SCRIPT], input=lines, check=True, capture_output=True, text=True
    )
    return [json.loads(line) for line in answer.stdout.splitlines() if line[:1] in '{"n']


def test_what_the_data_plane_writes_is_what_the_provider_reads(said):
    assert said[0] == {
        "result": ResultRecord.model_json_schema(),
        "comparison": Comparison.model_json_schema(),
    }


def test_comparison_of_an_evaluation_is_read_as_it_was_written_and_small(said):
    read = StageResult.parse(said[1], run_id="r", component_digest="", where="/x")
    written = json.loads(said[1])["comparison"]
    assert read.comparison is not None
    assert read.comparison.model_dump() == written
    counts = {name: (each.rows_scored, each.rows_unscored) for name, each in read.comparison.metrics.items()}
    assert counts == {**dict.fromkeys(counts, (48, 0)), "reward": (46, 2), "bleu": (0, 48)}
    assert len(counts) == 10
    assert read.comparison.metrics["bleu"] == MetricComparison.model_validate(NOTHING)
    reward = read.comparison.metrics["reward"]
    assert isinstance(reward.difference, Difference)
    xcom = read.to_xcom()
    assert read_comparison(json.loads(json.dumps(xcom))["comparison"]) == read.comparison
    assert len(json.dumps(xcom)) < MAX_XCOM_BYTES / 5


def test_good_comparisons_are_read_alike_on_both_sides(said):
    assert said[2 : 2 + len(GOOD)] == GOOD == [read_comparison(value).model_dump() for value in GOOD]


@pytest.mark.parametrize("why", BAD)
def test_what_is_no_comparison_is_refused_alike_on_both_sides(said, why):
    theirs = said[2 + len(GOOD) + list(BAD).index(why)]
    assert theirs.startswith("comparison is not one of evaluate_model (")
    assert why in theirs
    with pytest.raises(ConfigurationError, match=r"^The comparison is not one of an evaluation \(") as raised:
        read_comparison(BAD[why])
    assert why in str(raised.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema_version": 2}, r"comparison: it has schema version 2; version 1 is read here"),
        ({"metrics": {"rougeL": {**ONE, "candidate": 0.9}}}, r"comparison\.metrics\.rougeL: its difference"),
    ],
)
def test_result_with_a_comparison_that_cannot_be_read_is_not_believed(said, change, why):
    result = json.loads(said[1])
    result["comparison"] = {**comparison(), **change}
    with pytest.raises(ResultError, match=rf"^The result lacks or garbles a field \({why}"):
        StageResult.parse(json.dumps(result), run_id="r", component_digest="", where="/x")
