"""What of a result goes to XCom."""

from __future__ import annotations

import json

import pytest

from airflow_provider_llmops.exceptions import ResultError
from airflow_provider_llmops.results import ArtifactRef, StageResult
from airflow_provider_llmops.xcom import MAX_XCOM_BYTES


def result(**changes):
    return StageResult(**{"component": "toy", "run_id": "r", "component_digest": "sha256:0", **changes})


def test_result_round_trips_through_its_file():
    text = json.dumps(
        {
            "schema_version": 1,
            "component": "toy",
            "passed": False,
            "findings": ["line 2"],
            "artifacts": {"model": {"uri": "/m", "digest": "sha256:1", "bytes": 7}},
            "metrics": {"loss": 0.5},
            "details": {"version": 3},
            "resources": {"seconds": 1.0},
        }
    )
    parsed = StageResult.parse(text, run_id="r", component_digest="sha256:0", where="/x")
    assert parsed == result(
        passed=False,
        findings=["line 2"],
        artifacts={"model": ArtifactRef(uri="/m", digest="sha256:1", bytes=7)},
        metrics={"loss": 0.5},
        details={"version": 3},
        resources={"seconds": 1.0},
    )
    assert parsed.outputs() == {"model": "/m"}


def test_findings_beyond_twenty_are_counted():
    twenty, more = [f"line {n}" for n in range(20)], [f"line {n}" for n in range(21)]
    assert result(findings=twenty).to_xcom()["findings"] == twenty
    assert result(findings=more).to_xcom()["findings"] == [*twenty, "... and 1 more"]


def test_columns_and_expectations_are_left_out_of_xcom_before_any_finding():
    columns = {f"column {number}": "x" * 60 for number in range(300)}
    value = result(findings=["kept"], details={"columns": columns, "expectations": [], "kept": 1}).to_xcom()
    assert (value["findings"], value["details"]) == (["kept"], {"kept": 1})
    short = result(details={"columns": {"text": "string"}}).to_xcom()
    assert short["details"] == {"columns": {"text": "string"}}


def test_long_findings_then_details_are_left_out_to_stay_under_the_limit():
    long_findings = result(findings=["x" * MAX_XCOM_BYTES], details={"kept": 1}).to_xcom()
    assert (long_findings["findings"], long_findings["details"]) == (["1 findings, left out"], {"kept": 1})
    long_details = result(details={"text": "x" * MAX_XCOM_BYTES}).to_xcom()
    assert long_details["details"] == {}
    assert len(json.dumps(long_details)) <= MAX_XCOM_BYTES


def test_result_that_is_too_large_without_them_is_refused():
    with pytest.raises(ResultError, match="larger than 16384 bytes"):
        result(metrics={f"metric {n}": 0.1 for n in range(2000)}).to_xcom()


GOOD = {
    "schema_version": 1,
    "component": "toy",
    "passed": True,
    "findings": [],
    "artifacts": {"model": {"uri": "/m", "digest": "sha256:1", "bytes": 7}},
    "metrics": {"loss": 0.5},
    "details": {},
    "resources": {"seconds": 1.0},
}


def parse(text):
    return StageResult.parse(text, run_id="r", component_digest="sha256:0", where="/x")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"passed": "false"}, "passed"),
        ({"passed": 1}, "passed"),
        ({"findings": "all is well"}, "findings"),
        ({"findings": [{"a": 1}]}, "findings.0"),
        ({"metrics": {"loss": "low"}}, "metrics.loss"),
        ({"metrics": {"loss": None}}, "metrics.loss"),
        ({"metrics": {"loss": True}}, "metrics.loss"),
        ({"metrics": {"n": 10**400}}, "metrics.n"),
        ({"metrics": [["loss", 1]]}, "metrics"),
        ({"artifacts": {"model": "/m"}}, "artifacts.model"),
        ({"artifacts": {"model": {"uri": "/m", "digest": "1", "bytes": 7}}}, "artifacts.model.digest"),
        ({"artifacts": {"model": {"uri": "/m", "digest": "sha256:1", "bytes": -7}}}, "artifacts.model.bytes"),
        ({"artifacts": {"model": {"uri": ["/m"], "digest": "sha256:1", "bytes": 7}}}, "artifacts.model.uri"),
        ({"component": None}, "component"),
        ({"details": []}, "details"),
    ],
)
def test_result_of_wrong_types_is_not_believed(change, field):
    with pytest.raises(ResultError, match=rf"^The result lacks or garbles a field \({field}"):
        parse(json.dumps(GOOD | change))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("\0" * 100, "it holds NUL bytes alone"),
        (json.dumps(GOOD)[:-9], "it is cut off"),
        (
            json.dumps(GOOD | {"metrics": {"loss": float("nan")}}),
            "metrics.loss is nan, which is no finite number",
        ),
        (json.dumps(GOOD).replace("0.5", "1e999"), " is inf, which is no finite number"),
        (json.dumps(GOOD).replace('"/m"', '"\\ud800"'), "it has text that is no Unicode"),
        ("[" * 100_000, "it is nested too deeply"),
        (
            json.dumps(GOOD | {"details": {"a": json.loads("[" * 100 + "]" * 100)}}),
            "nested more than 64 deep",
        ),
        (" " * (5 << 20), "characters, 4194304 at most are read"),
    ],
)
def test_text_that_is_no_result_is_not_believed(text, why):
    with pytest.raises(ResultError, match=r"^The result cannot be read: ") as error:
        parse(text)
    assert why in str(error.value)


def test_keys_that_a_later_release_adds_are_left_out():
    more = json.loads(json.dumps(GOOD)) | {"later": 1}
    more["artifacts"]["model"]["later"] = 1
    assert parse(json.dumps(more)) == parse(json.dumps(GOOD))
