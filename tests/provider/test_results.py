"""What of a result goes to XCom."""

from __future__ import annotations

import json

import pytest

from airflow_provider_llmops.exceptions import ResultError
from airflow_provider_llmops.results import MAX_XCOM_BYTES, ArtifactRef, StageResult


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


def test_long_findings_then_details_are_left_out_to_stay_under_the_limit():
    long_findings = result(findings=["x" * MAX_XCOM_BYTES], details={"kept": 1}).to_xcom()
    assert (long_findings["findings"], long_findings["details"]) == (["1 findings, left out"], {"kept": 1})
    long_details = result(details={"text": "x" * MAX_XCOM_BYTES}).to_xcom()
    assert long_details["details"] == {}
    assert len(json.dumps(long_details)) <= MAX_XCOM_BYTES


def test_result_that_is_too_large_without_them_is_refused():
    with pytest.raises(ResultError, match="larger than 16384 bytes"):
        result(metrics={f"metric {n}": 0.1 for n in range(2000)}).to_xcom()
